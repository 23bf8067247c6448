//! Bookies whose disk holds other bytes than it should: what was never acknowledged may be torn, and what was must not
//! be. The log's format is in `bookie/src/log/format.rs`; these tests know only how to find a frame in it.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, port, wait};

use crate::topic::{self, cluster_with_records, still_kept};

const HEADER_BYTES: usize = 4096;
const ALIGNMENT: usize = 512;
const FRAME_HEAD_BYTES: usize = 36;
const FRAME_MAGIC: &[u8] = b"GmgF";

/// The newest segment of a bookie's log that holds a frame, and where its frames begin and end.
struct Segment {
    path: PathBuf,
    bytes: Vec<u8>,
    frames: Vec<(usize, usize)>,
}

impl Segment {
    fn newest(data_dir: &Path) -> Self {
        let entries = std::fs::read_dir(data_dir.join("log")).expect("a log");
        let mut logs: Vec<PathBuf> = entries
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        let read = |path: PathBuf| {
            let bytes = std::fs::read(&path).expect("a segment");
            let frames = frames(&bytes);
            (!frames.is_empty()).then_some(Self { path, bytes, frames })
        };
        logs.into_iter().rev().find_map(read).expect("a segment with a frame")
    }

    fn end(&self) -> usize {
        self.frames.last().expect("a frame").1
    }

    /// Overwrites bytes of the file.
    fn write(&self, offset: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("a segment");
        file.write_all_at(bytes, offset as u64).expect("written");
    }

    fn cut(&self, end: usize) {
        let file = OpenOptions::new().write(true).open(&self.path).expect("a segment");
        file.set_len(end as u64).expect("cut");
    }
}

fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    while let Some(head) = bytes.get(at..at + FRAME_HEAD_BYTES)
        && head.starts_with(FRAME_MAGIC)
    {
        let length = u32::from_be_bytes(head[4..8].try_into().expect("four bytes"));
        let end = at + (FRAME_HEAD_BYTES + length as usize).next_multiple_of(ALIGNMENT);
        frames.push((at, end));
        at = end;
    }
    frames
}

fn data_dir(cluster: &Cluster, bookie: usize) -> PathBuf {
    cluster.bookies[bookie].data_dir.clone().expect("a bookie has data")
}

#[test]
fn a_torn_tail_loses_nothing_that_was_acknowledged() {
    let (mut cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    let dir = data_dir(&cluster, 0);
    // What a crash can leave behind the last frame: less, other bytes, a frame's beginning.
    let tears: [fn(&Segment); 4] = [
        |segment| segment.cut(segment.end()),
        |segment| segment.write(segment.end(), &[0xa5; 10_000]),
        |segment| {
            let (begin, end) = segment.frames[segment.frames.len() / 2];
            let half = (begin + end) / 2;
            segment.write(segment.end(), &segment.bytes[begin..half]);
        },
        |segment| {
            segment.write(segment.end(), FRAME_MAGIC);
            segment.write(segment.end() + 4, &[0xff; 200]);
            segment.cut(segment.end() + 204);
        },
    ];
    for (number, tear) in tears.into_iter().enumerate() {
        cluster.bookies[0].process.kill();
        tear(&Segment::newest(&dir));
        cluster.bookies[0].process.restart();
        cluster.wait_ready();
        // It takes part again.
        let topic = format!("after-{number}");
        topic::create(&client, &topic);
        client.run_with(&["produce", &topic], b"new\n").ok();
    }
    // From now on nobody else has all of it for a new owner, and then nobody else has any of it.
    cluster.bookies[2].process.kill();
    cluster.brokers[0].crash_and_restart();
    still_kept(&client, &flights);
    cluster.bookies[1].process.kill();
    still_kept(&client, &flights);
}

#[test]
fn a_damaged_frame_is_refused_and_the_others_serve_on() {
    let (mut cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    let dir = data_dir(&cluster, 0);
    cluster.bookies[0].process.kill();
    let segment = Segment::newest(&dir);
    let (begin, end) = segment.frames[segment.frames.len() / 2];
    // Inside the body: behind the last byte of a body are zeros that nothing covers.
    let damaged = begin + FRAME_HEAD_BYTES;
    assert!(damaged < end && segment.frames.len() > 2, "too few frames for this test");
    let byte = segment.bytes[damaged];
    segment.write(damaged, &[byte ^ 1]);

    let before = std::fs::read(&segment.path).expect("a segment");
    for _ in 0..2 {
        let line = start_bookie(&cluster, &dir).refused("DATA_DIR_CORRUPT");
        assert!(line.contains(dir.to_str().expect("a plain path")), "{line}");
        assert!(line.contains(&format!("byte {begin}")), "{line}");
    }
    let after = std::fs::read(&segment.path).expect("a segment");
    assert!(before == after, "a refused start has changed the disk");

    // The other two serve what there is and take what comes: a bookie that is known counts as a place for copies,
    // also when it is away for long.
    wait::until("the lease of the dead bookie to end", || {
        let status = client.json(&["cluster", "status"]);
        let bookies = status["bookies"].as_array().expect("bookies").clone();
        let live = bookies.iter().filter(|bookie| bookie["live"] == true).count();
        (bookies.len() == 3 && live == 2).then_some(())
    });
    still_kept(&client, &flights);
    topic::create(&client, "later");
    let later = Flights::load().first(1_000);
    let (mut producer, report) = topic::produce(&client, "later", cluster.dir());
    producer.feed(&Flights::lines(later.rows()));
    producer.finish().ok();
    topic::check_topic(&cluster, "later", "g", &later, &report);

    // The byte is put right: it starts, and nothing is missing.
    segment.write(damaged, &[byte]);
    cluster.bookies[0].process.restart();
    cluster.wait_ready();
    cluster.bookies[2].process.kill();
    cluster.brokers[0].crash_and_restart();
    still_kept(&client, &flights);
}

/// Starts the first bookie in the foreground; what it says about its progress is not of interest.
fn start_bookie(cluster: &Cluster, dir: &Path) -> geminga_harness::Finished {
    let (metastore, listen) = (cluster.metastore(), port::free_address());
    let dir = dir.to_str().expect("a plain path");
    let args = [
        "bookie",
        "--metastore",
        &metastore,
        "--data-dir",
        dir,
        "--listen",
        &listen,
        "--log-filter=error",
    ];
    Client::new("127.0.0.1:1", cluster.dir()).run(&args)
}
