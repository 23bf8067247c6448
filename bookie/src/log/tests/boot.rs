//! How long a full disk takes to open, and what its index costs. The log is made up: sparse segments with a footer and no
//! frames, and a snapshot that covers them, in the temporary directory. Prints; asserts only that all came back.

use std::io::IoSlice;

use tokio::time::Instant;

use super::*;
use crate::io::RealDisk;
use crate::log::footer::{Extent, Footer, Item};
use crate::log::snapshot::{Listed, Snapshot};

const SEGMENT_BYTES: u64 = 64 << 20;

/// Ledgers that are written at a time: their entries alternate in the log.
const WRITERS: u64 = 100;

/// `GEMINGA_GIB` of log (default 256) whose frames have `GEMINGA_EXTENT_KIB` (default 512).
#[tokio::test]
#[ignore = "makes thousands of files"]
async fn opening_a_full_disk() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let extent_bytes = number("GEMINGA_EXTENT_KIB", 512) << 10;
    let segments = (number("GEMINGA_GIB", 256) << 30) / SEGMENT_BYTES;
    let per_segment = (SEGMENT_BYTES - HEADER_BYTES as u64) / extent_bytes;
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path()).unwrap();
    let mut made = Made::default();
    for seq in 1..=segments {
        made.segment(&disk, seq, per_segment, extent_bytes);
    }
    made.snapshot(&disk);
    let extents = segments * per_segment;
    drop(made);

    let started = Instant::now();
    let opened = open_with(disk, Config { reserve_segments: 0, ..Config::default() }).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let index = opened.log.index_bytes() as f64;
    let per_million = extents as f64 / 1e6;
    println!(
        "{segments} segments, {extents} extents, {} ledgers: opened in {seconds:.2} s ({:.2} s a million extents), index {:.1} MB ({:.1} MB a million)",
        opened.ledgers.len(),
        seconds / per_million,
        index / 1e6,
        index / 1e6 / per_million,
    );
    let held: i64 = opened.ledgers.values().map(|state| state.held().last().0 + 1).sum();
    assert_eq!(held.unsigned_abs(), extents);
}

#[derive(Default)]
struct Made {
    listed: Vec<Listed>,
    ledgers: BTreeMap<LedgerId, LedgerState>,
    extents: u64,
}

impl Made {
    fn segment(&mut self, disk: &RealDisk, seq: u64, count: u64, bytes: u64) {
        let first_frame = self.extents + 1;
        let mut items = Vec::new();
        for at in 0..count {
            // A ledger ends at about a GiB.
            let writer = self.extents % WRITERS;
            let round = self.extents / WRITERS * bytes / (1 << 30);
            let ledger = LedgerId(round * WRITERS + writer);
            let state = self.ledgers.entry(ledger).or_insert_with(|| LedgerState::unknown(ledger));
            let first = state.held().last().next();
            state.hold(first, 1, first.prev());
            items.push(Item::Extent(Extent {
                ledger,
                first,
                count: 1,
                lac: first.prev(),
                offset: u32::try_from(HEADER_BYTES as u64 + at * bytes).unwrap(),
                length: u32::try_from(bytes - 36).unwrap(),
            }));
            self.extents += 1;
        }
        let end = u32::try_from(HEADER_BYTES as u64 + count * bytes).unwrap();
        let footer = Footer { segment: seq, first_frame, last_frame: self.extents, end, items };
        let (at, footer) = footer.encode(Seed::of(&identity()), SEGMENT_BYTES);
        let file = disk.create(&segment::file_name(seq)).unwrap();
        file.write_all_at(0, &[IoSlice::new(&format::encode_header(&identity(), seq))]).unwrap();
        file.write_all_at(at, &[IoSlice::new(&footer)]).unwrap();
        self.listed.push(Listed { seq, first_frame, last_frame: self.extents });
    }

    fn snapshot(&self, disk: &RealDisk) {
        let image = Image { ledgers: self.ledgers.values().cloned().collect(), ..Image::default() };
        let segments = self.listed.clone();
        let snapshot = Snapshot { number: 1, covers: self.extents, segments, image };
        snapshot.write(disk, Seed::of(&identity())).unwrap();
    }
}
