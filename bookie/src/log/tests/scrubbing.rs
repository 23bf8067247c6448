//! Rot that nobody read is found, is unknown from then on, and what is sound stays.

use super::upkeep::Long;
use super::*;

/// The content of these tests' entries is known.
fn sound(ledger: LedgerId, id: EntryId, content: &Bytes) -> bool {
    *content == entry(ledger, id.0, 700)
}

async fn full_round(log: &Log) -> Vec<(i64, i64)> {
    let mut bad = Vec::new();
    // A frame at a time.
    for _ in 0..40 {
        let scrubbed = log.scrub(1, sound).await.unwrap();
        bad.extend(scrubbed.bad.into_iter().map(|(_, from, to)| (from.0, to.0)));
    }
    bad.sort_unstable();
    bad
}

#[tokio::test]
async fn scenario_32_rot_in_a_sealed_segment_is_found_and_unknown() {
    let disk = MemoryDisk::new();
    let config = Config { window_bytes: 0, ..small() };
    let mut long = Long::on(disk.clone(), config.clone());
    for first in (0..60).step_by(3) {
        long.append(LEDGER, entries(LEDGER, first, 3, 700)).await;
    }
    long.log.write_footers().await.unwrap();
    assert_eq!(full_round(&long.log).await, []);
    let (_, offset, _) = frames(&disk, 1)[2];
    // Entries 3 to 5: rot in the middle one.
    let name = segment::file_name(1);
    disk.damage(&name, offset + 36 + 60 + 900, 2);
    assert_eq!(full_round(&long.log).await, [(4, 4)]);
    assert_eq!(full_round(&long.log).await, [], "once");
    assert_reads(&long.log, LEDGER, 3, 3, 700).await;
    assert_reads(&long.log, LEDGER, 5, 59, 700).await;
    let read = long.log.read(LEDGER, EntryId(4), EntryId(4), 1).await;
    assert!(
        matches!(read, Err(ReadError::Absent)),
        "whoever holds the ledger's state says unknown"
    );
    // The record's own head rots: none of its entries can be told any more. After a restart all of it is found again.
    disk.damage(&name, offset + 36 + 20, 1);
    assert_eq!(full_round(&long.log).await, [(3, 3), (5, 5)]);
    let opened = open_with(disk.crash(), config).unwrap();
    assert!(opened.ledgers[&LEDGER].held().contains(EntryId(4)), "the tail is not forgotten");
    assert_eq!(full_round(&opened.log).await, [(3, 5)]);
}

/// A sector that cannot be read any more is rot like any other, and keeps nothing behind it from being looked at.
#[tokio::test]
async fn what_the_disk_cannot_read_keeps_nothing_from_being_looked_at() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let config = Config { window_bytes: 0, ..small() };
    let log = open_faulty(&disk, config);
    for first in (0..60).step_by(3) {
        append_durably(&log, LEDGER, entries(LEDGER, first, 3, 700)).await;
    }
    log.write_footers().await.unwrap();
    // The head of a frame, and the rest of it. What is behind it can be read, record by record, and in the next segment.
    for good in [0, 1] {
        disk.fail(Op::Read, good, io::ErrorKind::UnexpectedEof);
        let scrubbed = log.scrub(1, sound).await.unwrap();
        assert!(scrubbed.damaged_frames);
        assert_eq!(scrubbed.bad, []);
        assert!(scrubbed.bytes > 5_000, "the records of the segment");
    }
    assert_eq!(full_round(&log).await, []);
}
