//! Reads: what is returned, from memory and from the disk, and what is certain about absence (K1).

use super::*;

/// With and without a window, reads must agree.
fn configs() -> [Config; 2] {
    [small(), Config { window_bytes: 0, ..small() }]
}

#[tokio::test]
async fn reads_are_verbatim_and_bounded() {
    for config in configs() {
        let log = open_with(MemoryDisk::new(), config).unwrap().log;
        append(&log, LEDGER, entries(LEDGER, 0, 5, 100)).await;
        append(&log, LedgerId(2), entries(LedgerId(2), 0, 3, 100)).await;
        append_durably(&log, LEDGER, entries(LEDGER, 5, 5, 100)).await;
        for from in 0..10 {
            assert_reads(&log, LEDGER, from, 9, 100).await;
        }
        let read = async |from, to, max_bytes| {
            log.read(LEDGER, EntryId(from), EntryId(to), max_bytes).await.unwrap().len()
        };
        assert_eq!(read(1, 9, 0).await, 1, "one entry at least");
        assert_eq!(read(1, 9, 299).await, 2);
        assert_eq!(read(1, 9, 300).await, 3);
        assert_eq!(read(3, 9, 400).await, 4, "over two records");
        assert_eq!(read(3, 6, 4000).await, 4);
        assert_eq!(read(4, 4, 4000).await, 1);
    }
}

#[tokio::test]
async fn absence_is_certain() {
    for config in configs() {
        let log = open_with(MemoryDisk::new(), config).unwrap().log;
        append(&log, LEDGER, entries(LEDGER, 0, 2, 10)).await;
        append_durably(&log, LEDGER, entries(LEDGER, 4, 1, 10)).await;
        let absent = async |ledger, from| {
            let read = log.read(ledger, EntryId(from), EntryId(9), 1000).await;
            matches!(read, Err(ReadError::Absent))
        };
        assert_eq!(log.read(LEDGER, EntryId(0), EntryId(9), 1000).await.unwrap().len(), 2);
        assert!(absent(LEDGER, 2).await && absent(LEDGER, 5).await && absent(LedgerId(2), 0).await);
        assert!(!absent(LEDGER, 4).await);
        append_durably(&log, LEDGER, Record::Tombstone).await;
        assert!(absent(LEDGER, 0).await, "a deleted ledger's entries are gone");
    }
}

/// A record too large to be read whole, larger than a segment, and more than the window takes.
#[tokio::test]
async fn large_records() {
    let disk = MemoryDisk::new();
    let log = open_with(disk.clone(), Config { window_bytes: 0, ..small() }).unwrap().log;
    append(&log, LEDGER, entries(LEDGER, 0, 10, 100_000)).await;
    append_durably(&log, LEDGER, entries(LEDGER, 10, 1, 6_000_000)).await;
    assert_reads(&log, LEDGER, 3, 9, 100_000).await;
    let two = log.read(LEDGER, EntryId(7), EntryId(9), 200_000).await.unwrap();
    assert_eq!(two, [entry(LEDGER, 7, 100_000), entry(LEDGER, 8, 100_000)]);
    let opened = open(&disk.crash());
    let last = opened.log.read(LEDGER, EntryId(10), EntryId(10), 1).await.unwrap();
    assert_eq!(last, [entry(LEDGER, 10, 6_000_000)]);
}

/// K1: what cannot be read is not absent.
#[tokio::test]
async fn damage_is_not_absence() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_with(faulty.clone(), Config { window_bytes: 0, ..small() }).unwrap().log;
    append_durably(&log, LEDGER, entries(LEDGER, 0, 2, 100)).await;
    let read = async || log.read(LEDGER, EntryId(1), EntryId(1), 1000).await;
    faulty.fail(Op::Read, 0, io::ErrorKind::Other);
    assert!(matches!(read().await, Err(ReadError::Io { segment: 1, .. })));
    assert_eq!(read().await.unwrap(), [entry(LEDGER, 1, 100)]);
    let (_, offset, _) = frames(&disk, 1)[1];
    disk.damage(&segment::file_name(1), offset + format::FRAME_HEAD_BYTES + 44, 1);
    assert!(matches!(read().await, Err(ReadError::Corrupt { segment: 1, .. })));
    disk.open(&segment::file_name(1)).unwrap().set_len(4096).unwrap();
    assert!(matches!(read().await, Err(ReadError::Corrupt { segment: 1, .. })));
}

/// Reads of the tail wait for nobody: not for readers that are behind, be the disk busy with as many as it takes.
#[tokio::test]
async fn recent_entries_are_read_while_old_ones_wait_for_the_disk() {
    let faulty = FaultyDisk::new(MemoryDisk::new());
    let config = Config { window_bytes: 2_000, ..small() };
    let log = open_with(faulty.clone(), config).unwrap().log;
    append_durably(&log, LEDGER, entries(LEDGER, 0, 5, 1_000)).await;
    append_durably(&log, OTHER, entries(OTHER, 0, 1, 1_000)).await;
    faulty.hold(Op::Read);
    let mut behind: Vec<_> =
        (0..MAX_READS + 3).map(|_| Box::pin(read_one(&log, LEDGER, 0))).collect();
    for read in &mut behind {
        assert!(poll_once(read.as_mut()).is_pending());
    }
    faulty.wait_held(Op::Read);
    let recent = poll_once(Box::pin(read_one(&log, OTHER, 0)).as_mut());
    faulty.release(Op::Read);
    assert_eq!(recent, Poll::Ready(vec![entry(OTHER, 0, 1_000)]));
    for read in behind {
        assert_eq!(read.await, [entry(LEDGER, 0, 1_000)]);
    }
}

/// Who looks through a ledger whose entries are far from each other reads what it has, and not what is between.
#[tokio::test]
async fn a_scan_reads_nothing_of_other_ledgers() {
    let disk = FaultyDisk::new(MemoryDisk::new());
    let log = open_with(disk.clone(), Config { window_bytes: 0, ..small() }).unwrap().log;
    for id in 0..40 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 100)).await;
        append_durably(&log, OTHER, entries(OTHER, id, 1, 3_000)).await;
    }
    let (mut next, mut found) = (0, Vec::new());
    let before = disk.read_bytes();
    while next < 40 {
        let some = log.scan(LEDGER, EntryId(next), EntryId(39), 1_000).await.unwrap();
        next += i64::try_from(some.len()).unwrap();
        found.extend(some);
    }
    let read = disk.read_bytes() - before;
    assert!(found.iter().enumerate().all(|(id, one)| *one == entry(LEDGER, id as i64, 100)));
    assert!(read < 40 * 400, "{read} bytes");
    // By blocks it is all of it, for whoever wants the rest.
    assert_eq!(read_all(&log, LEDGER, 0, 39).await.unwrap(), found);
    assert!(disk.read_bytes() - before > read + 40 * 3_000);
}

/// A ledger that is not behind.
const OTHER: LedgerId = LedgerId(2);

async fn read_one(log: &Log, ledger: LedgerId, id: i64) -> Vec<Bytes> {
    log.read(ledger, EntryId(id), EntryId(id), 1_000).await.unwrap()
}

/// What readers that are behind are given never stands where recent entries are kept.
#[tokio::test]
async fn old_reads_put_nothing_into_the_window_and_push_nothing_out() {
    let faulty = FaultyDisk::new(MemoryDisk::new());
    let config = Config { window_bytes: 2_000, read_ahead_bytes: 0, ..small() };
    let log = open_with(faulty.clone(), config).unwrap().log;
    append_durably(&log, LEDGER, entries(LEDGER, 0, 20, 1_000)).await;
    append_durably(&log, OTHER, entries(OTHER, 0, 1, 1_000)).await;
    for id in 0..20 {
        read_one(&log, LEDGER, id).await;
    }
    faulty.fail(Op::Read, 0, io::ErrorKind::Other);
    assert_eq!(read_one(&log, OTHER, 0).await, [entry(OTHER, 0, 1_000)]);
    let old = log.read(LEDGER, EntryId(0), EntryId(0), 1).await;
    assert!(matches!(old, Err(ReadError::Io { .. })), "it comes from the disk again: {old:?}");
}

/// A ledger of which much is asked waits behind itself: through the log, too, each ledger has a line of its own.
#[tokio::test]
async fn each_ledger_that_is_behind_has_a_line_of_its_own() {
    let faulty = FaultyDisk::new(MemoryDisk::new());
    let log = open_with(faulty.clone(), Config { window_bytes: 0, ..small() }).unwrap().log;
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 10_000)).await;
    append_durably(&log, OTHER, entries(OTHER, 0, 1, 10_000)).await;
    let shared = &log.0.shared;
    let held = || Arc::strong_count(&shared.index.read().pin_of(2).unwrap()) - 2;
    faulty.hold(Op::Read);
    let mut behind: Vec<_> =
        (0..MAX_READS + 3).map(|_| Box::pin(read_one(&log, LEDGER, 0))).collect();
    let mut other = Box::pin(read_one(&log, OTHER, 0));
    for read in &mut behind {
        assert!(poll_once(read.as_mut()).is_pending());
    }
    faulty.wait_held(Op::Read);
    assert!(poll_once(other.as_mut()).is_pending());
    let (lines, held) = (shared.turns.lines(), held());
    faulty.release(Op::Read);
    assert_eq!(lines, 2);
    assert_eq!(held, 0, "who waits holds no segment, and no place in it");
    assert_eq!(other.await, [entry(OTHER, 0, 10_000)]);
    for read in behind {
        assert_eq!(read.await, [entry(LEDGER, 0, 10_000)]);
    }
}
