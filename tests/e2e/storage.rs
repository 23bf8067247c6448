//! Storage that heals and tiers itself, all of it in one life of one cluster: five bookies, two brokers, an etcd and an S3 server. While
//! somebody writes and a group reads, a disk is wiped, a bookie dies and another comes, everything goes to the object store and is read from
//! there, a bookie is taken out, and the topic that holds most of the data is deleted. What is read is compared with what was written, byte
//! for byte; each step says how long it took.

mod load;
mod look;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use geminga_harness::{Bucket, Cluster, Copies, Node, Running, http, limit, wait};
use tokio::time::Instant;

use self::load::Load;

/// The topic with most of the data.
const TOPIC: &str = "history";
const PARTITIONS: &str = "4";
const LIVE: &str = load::TOPIC;
/// Of everything that is written.
const COPIES: u64 = 3;
/// Bytes of a segment of a bookie's log.
const LOG_SEGMENT: u64 = 64 << 20;
/// Rows that are fed at once.
const CHUNK: u64 = 10_000;

/// Delays of seconds in the place of minutes and hours.
const BOOKIES: [&str; 9] = [
    "--auto-heal",
    "--lost-bookie-delay=2s",
    "--repair-grace=1s",
    "--audit-interval=5s",
    "--repair-rate=0",
    "--tier-interval=200ms",
    "--tier-local-retention=100ms",
    "--gc-interval=500ms",
    "--excess-grace=5s",
];

/// How much there is.
struct Size {
    /// Bytes of the flights that are written at first.
    first: u64,
    /// And more of them, before the topic is deleted.
    more: u64,
    /// Of a segment of the topic.
    segment: u64,
    /// Bookies whose turn it is not to upload a segment look at it again after so long.
    take_over: &'static str,
    /// Longer than a step takes on a busy machine.
    patience: Duration,
}

/// The cluster, what was written, and who writes and reads.
struct Show {
    // Clients end first.
    load: Load,
    cluster: Cluster,
    bucket: Bucket,
    copies: Arc<Copies>,
    /// Rows of the topic.
    written: u64,
    size: Size,
    _files: tempfile::TempDir,
}

/// Runs a step and says how long it took; the producer and the group go on behind it.
macro_rules! step {
    ($show:expr, $what:expr, $step:expr) => {{
        let begun = Instant::now();
        let result = $step;
        eprintln!("{}: {:.1} s", $what, begun.elapsed().as_secs_f64());
        $show.load.goes_on($what);
        result
    }};
}

#[test]
fn storage_heals_and_tiers_itself() {
    let megabyte = 1_000_000;
    let size = Size {
        // A bookie gives space back in files of 64 MiB: of less none would become full.
        first: 200 * megabyte,
        more: 200 * megabyte,
        segment: 4 << 20,
        take_over: "--tier-take-over=3s",
        patience: wait::PATIENCE,
    };
    show(size);
}

#[test]
#[ignore = "gigabytes: make long"]
fn storage_heals_and_tiers_three_gigabytes() {
    limit::set(Duration::from_secs(3 * 3600));
    let gigabyte = 1_000_000_000;
    let size = Size {
        first: 3 * gigabyte,
        more: gigabyte,
        segment: 32 << 20,
        take_over: "--tier-take-over=20s",
        patience: Duration::from_secs(900),
    };
    show(size);
}

fn show(size: Size) {
    let mut show = Show::start(size);
    step!(show, "(a) written, and all of it uploaded", show.write_and_upload(show.size.first));
    step!(show, "(b) a data directory is removed under its bookie", show.wipe(0));
    step!(show, "(c) a bookie is gone for good, and copies are on four", show.lose(1));
    step!(show, "(c) another joins", show.cluster.add_bookie().wait_ready());
    step!(show, "(a) bookies drop what is uploaded", show.trim());
    step!(show, "brokers are started again, one after the other", show.restart_brokers());
    step!(show, "(a) read from the start by two, and identical", show.read_cold());
    step!(show, "(d) a bookie is taken out", show.take_out(2));
    step!(show, "(h) more is written, and uploaded", show.write_and_upload(show.size.more));
    step!(show, "(h) the topic is deleted: space and objects are free", show.delete());
    show.end();
}

impl Show {
    fn start(size: Size) -> Self {
        let files = tempfile::tempdir().expect("a directory for the S3 server");
        let bucket = Bucket::start(files.path());
        let store = bucket.flags();
        let brokers: Vec<&str> = store.iter().map(String::as_str).collect();
        let cluster = Cluster::start_with(
            5,
            2,
            &[&brokers[..], &BOOKIES, &[size.take_over]].concat(),
            &brokers,
        );
        let segment = format!("segment.bytes={}", size.segment);
        let tiered =
            ["--config", "remote.storage.enable=true", "--config", "local.retention.ms=-1"];
        let create = ["topic", "create", TOPIC, "--partitions", PARTITIONS, "--config", &segment];
        cluster.client(0).run(&[&create[..], &tiered].concat()).ok();
        let copies = Arc::new(Copies::load());
        let load = Load::start(&cluster, &copies);
        eprintln!("objects are kept by {}", bucket.server());
        Self { load, cluster, bucket, copies, written: 0, size, _files: files }
    }

    fn wait<T>(&self, what: &str, ask: impl FnMut() -> Option<T>) -> T {
        wait::within(self.size.patience, what, ask)
    }

    fn alter(&self, config: &str) {
        self.cluster.client(0).run(&["topic", "alter", TOPIC, "--config", config]).ok();
    }

    /// Writes so many bytes more, closes all segments, and waits until each is in the object store; bookies keep their copies.
    fn write_and_upload(&mut self, bytes: u64) {
        self.alter("local.retention.ms=-1");
        self.alter("segment.ms=604800000");
        let begun = Instant::now();
        let client = self.cluster.client(0);
        let mut producer = client.spawn(&["produce", TOPIC, "--key-separator", "|"]);
        let end = self.written + self.copies.rows_of(bytes);
        while self.written < end {
            let to = end.min(self.written + CHUNK);
            producer.feed(&self.copies.lines(self.written..to));
            self.written = to;
        }
        assert_eq!(producer.end_within(self.size.patience), Some(0), "{}", producer.stderr());
        eprintln!("  {bytes} bytes were written in {:.1} s", begun.elapsed().as_secs_f64());
        self.alter("segment.ms=100");
        let segments = self.wait("all segments to be uploaded", || {
            look::all_are(&self.cluster, TOPIC, &["OFFLOADED", "TRIMMED"])
        });
        let (objects, held) = self.bucket.segments();
        assert!(objects >= segments, "{objects} objects for {segments} segments");
        assert!(held >= bytes, "{held} bytes in the object store");
    }

    /// Removes what a bookie has while it runs, starts it again when it has ended, as a supervisor does, and waits for all copies.
    fn wipe(&mut self, bookie: usize) {
        let name = self.cluster.bookies[bookie].process.name().to_owned();
        let before = look::life(&self.cluster, &name).expect("it lives");
        let had = look::log_bytes(&self.cluster.bookies[bookie]);
        let node = &mut self.cluster.bookies[bookie];
        remove(node.data_dir.as_deref().expect("a bookie has data"));
        let begun = Instant::now();
        let status = node.process.wait();
        assert!(!status.success(), "it ended well without its files");
        eprintln!("  the bookie ended {:.1} s later", begun.elapsed().as_secs_f64());
        let begun = Instant::now();
        node.process.restart();
        node.wait_ready();
        self.wait_whole("a wiped bookie", begun);
        let now = look::life(&self.cluster, &name).expect("it lives again");
        assert_ne!(now, before, "it lives on as if it had lost nothing");
        let members = look::members(&self.cluster, TOPIC);
        assert!(members.contains(&(name, now)), "it was not filled");
        let has = look::log_bytes(&self.cluster.bookies[bookie]);
        eprintln!("  its log has {has} bytes, and had {had}");
    }

    /// Kills a bookie with -9, takes its disk, and waits until others have its copies.
    fn lose(&mut self, bookie: usize) {
        let node = &mut self.cluster.bookies[bookie];
        node.process.kill();
        let begun = Instant::now();
        remove(node.data_dir.as_deref().expect("a bookie has data"));
        let name = node.process.name().to_owned();
        self.wait("its lease to end", || look::life(&self.cluster, &name).is_none().then_some(()));
        eprintln!("  its lease ended {:.1} s later", begun.elapsed().as_secs_f64());
        self.wait_whole("a bookie that is gone for good", begun);
    }

    fn wait_whole(&self, what: &str, since: Instant) {
        wait_whole(&self.cluster, self.size.patience, &[TOPIC, LIVE], what, since);
    }

    /// Has bookies drop their copies of what is uploaded, and waits until the space is free.
    fn trim(&self) {
        let before = look::logs(&self.cluster);
        self.alter("local.retention.ms=-2");
        let segments = self.wait("all segments to be in the object store only", || {
            look::all_are(&self.cluster, TOPIC, &["TRIMMED"])
        });
        self.wait("each bookie to drop what it has of them", || {
            let dropped = self.sum("geminga_tier_trimmed_total");
            (dropped >= (COPIES * segments as u64) as f64).then_some(())
        });
        self.wait_freed(&before, self.size.first);
    }

    /// What all bookies count.
    fn sum(&self, metric: &str) -> f64 {
        let bookies = self.cluster.bookies.iter();
        bookies.filter_map(|bookie| http::metric(&bookie.http, metric)).sum()
    }

    /// Waits until so many of these files of bookies' logs are gone that what they had of the topic, all copies of so much data, takes no room.
    /// Files are as large as segments of the log, full or not, and each bookie has two that it writes or is about to. Of the others one goes when
    /// less than 30 % of it is of use, and that much of other data is in a few of them at most.
    fn wait_freed(&self, before: &look::Logs, data: u64) {
        let bookies = before.bookies() as u64;
        let most = (COPIES * data).saturating_sub(2 * LOG_SEGMENT * bookies);
        let others = COPIES * look::payload_bytes(&self.cluster, LIVE) * 5 / 4;
        let mixed = others.div_ceil(LOG_SEGMENT * 3 / 10) * LOG_SEGMENT;
        let freed = most.max(before.full_bytes().saturating_sub(mixed));
        assert!(freed > 0, "too little was written for space to be given back: {before:?}");
        let gone = self.wait("bookies to give the space back", || {
            let gone = before.gone_bytes();
            (gone >= freed).then_some(gone)
        });
        let (had, has) = (before.bytes(), look::logs(&self.cluster).bytes());
        eprintln!(
            "  logs had {had} bytes; {gone} of them are gone, of {freed} at least; they have {has}"
        );
    }

    /// In good order, so that clients notice nothing; what they read then is in no memory.
    fn restart_brokers(&mut self) {
        for broker in &mut self.cluster.brokers {
            let status = broker.process.terminate();
            assert_eq!(status.code(), Some(0), "{}", broker.process.log());
            broker.process.restart();
            broker.wait_ready();
        }
    }

    fn read_from(&self, broker: usize) -> Running {
        let args = ["consume", TOPIC, "--from-beginning", "--until-end"];
        self.cluster.client(broker).spawn(&args)
    }

    /// Reads everything from the start, by two clients at once, while both brokers read for them.
    fn read_cold(&self) {
        let begun = Instant::now();
        let mut read = 0;
        for mut reader in [0, 1].map(|broker| self.read_from(broker)) {
            assert_eq!(reader.end_within(self.size.patience), Some(0), "{}", reader.stderr());
            eprintln!("  read in {:.1} s", begun.elapsed().as_secs_f64());
            let bytes = judge(&self.copies, &reader, self.written);
            eprintln!("  identical: {bytes} bytes");
            read = bytes;
        }
        let mut cold = 0.0;
        for broker in &self.cluster.brokers {
            let metric = |name| http::metric(&broker.http, name).unwrap_or(0.0);
            let name = broker.process.name();
            let of_it = metric("geminga_cold_read_bytes_total");
            assert!(of_it > 0.0, "{name} read nothing cold");
            cold += of_it;
            assert!(metric("geminga_cold_failures_total") == 0.0, "reads of {name} failed");
        }
        // One may have taken from a broker's memory what was read for the other.
        assert!(cold >= read as f64, "{cold} bytes are from the object store, of {read} read");
    }

    /// Decommissions a bookie and waits until it has left.
    fn take_out(&mut self, bookie: usize) {
        let name = self.cluster.bookies[bookie].process.name().to_owned();
        let metastore = self.cluster.metastore();
        let args = ["bookie", "decommission", &name, "--wait", "--metastore", &metastore];
        let left = self.cluster.client(0).spawn(&args).finish_within(self.size.patience);
        assert!(left.stderr.contains(&format!("{name}: has left")), "{}", left.stderr);
        left.ok();
        assert!(!look::bookies(&self.cluster).contains(&name), "it is still known");
        // Segments that are in the object store only may name it still: nobody reads them from bookies.
        let named = look::members(&self.cluster, LIVE).iter().any(|(id, _)| *id == name);
        assert!(!named, "ledgers of {LIVE} name it");
        let process = &mut self.cluster.bookies[bookie].process;
        wait::until("its process to stop by itself", || (!process.is_running()).then_some(()));
        process.kill();
        let mut reader = self.read_from(0);
        assert_eq!(reader.end_within(self.size.patience), Some(0), "{}", reader.stderr());
        judge(&self.copies, &reader, self.written);
    }

    /// Deletes the topic, and waits until neither disks nor the object store have anything of it.
    fn delete(&self) {
        let (before, held) = (look::logs(&self.cluster), self.bucket.segments());
        self.cluster.client(0).run(&["topic", "delete", TOPIC]).ok();
        let begun = Instant::now();
        self.wait("no object to be left", || (self.bucket.segments().0 == 0).then_some(()));
        eprintln!("  objects were gone {:.1} s later", begun.elapsed().as_secs_f64());
        self.wait("all its segments to be given up", || {
            look::are_given_up(&self.cluster, TOPIC).then_some(())
        });
        self.wait_freed(&before, self.size.more);
        let (objects, bytes) = held;
        eprintln!("  {objects} objects of {bytes} bytes");
    }

    /// Ends the load and judges it; then two more bookies are killed, and the two that are left, the wiped one and the newest, have every
    /// row between them.
    fn end(self) {
        let Self { load, mut cluster, copies, size, .. } = self;
        let rows = load.end();
        eprintln!(
            "{rows} rows were written all the while, are where they were acknowledged, and a group read each once"
        );
        wait_whole(&cluster, size.patience, &[LIVE], "in the end", Instant::now());
        cluster.bookies[3].process.kill();
        // The new owners have nothing in memory, and find out where the log ends before the next one dies.
        cluster.brokers.iter_mut().for_each(Node::crash_and_restart);
        let client = cluster.client(0);
        client.run(&["topic", "offsets", LIVE]).ok();
        cluster.bookies[4].process.kill();
        let mut reader = client.spawn(&["consume", LIVE, "--from-beginning", "--until-end"]);
        assert_eq!(reader.end_within(size.patience), Some(0), "{}", reader.stderr());
        judge(&copies, &reader, rows);
    }
}

/// Waits until every copy of these topics is where it belongs.
fn wait_whole(cluster: &Cluster, patience: Duration, topics: &[&str], what: &str, since: Instant) {
    wait::within(patience, &format!("{what}: all copies to be there"), || {
        look::is_whole(cluster, topics).then_some(())
    });
    eprintln!("  {what}: every copy is there {:.1} s later", since.elapsed().as_secs_f64());
}

/// Compares what a reader that has ended printed with the first so many rows, byte for byte; its bytes.
#[track_caller]
fn judge(copies: &Copies, reader: &Running, rows: u64) -> u64 {
    let mut judge = copies.judge(rows);
    judge.read(BufReader::new(File::open(reader.stdout_file()).expect("its output")));
    std::fs::remove_file(reader.stdout_file()).expect("its output is there");
    judge.all()
}

/// Removes a directory, whoever still makes files in it.
fn remove(dir: &Path) {
    wait::until("a directory to be removed", || {
        let gone = std::fs::remove_dir_all(dir);
        (gone.is_ok() || !dir.exists()).then_some(())
    });
}
