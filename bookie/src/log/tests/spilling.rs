//! A log whose index does not fit in memory: the same log, but for reads that take the disk twice.

use super::upkeep::{Long, image};
use super::*;

/// As little memory for the index as may be set.
fn tight() -> Config {
    Config { window_bytes: 0, index_bytes: 1 << 10, ..small() }
}

fn sound(ledger: LedgerId, id: EntryId, content: &Bytes) -> bool {
    *content == entry(ledger, id.0, 700)
}

/// Two ledgers that alternate, and a third one between them that is deleted; all of the index is on the disk in the end.
async fn alternating(disk: &MemoryDisk, config: Config) -> Long {
    let mut long = Long::on(disk.clone(), config);
    for id in 0..120 {
        for ledger in (1..=3).map(LedgerId) {
            long.append(ledger, entries(ledger, id, 1, 700)).await;
        }
        if id % 7 == 0 {
            long.log.reclaim().await.unwrap();
        }
    }
    long.log.reclaim().await.unwrap();
    long
}

async fn assert_whole(log: &Log) {
    for ledger in (1..=2).map(LedgerId) {
        for from in (0..120).step_by(17) {
            assert_reads(log, ledger, from, 119, 700).await;
        }
        let beyond = log.read(ledger, EntryId(120), EntryId(120), 1).await;
        assert!(matches!(beyond, Err(ReadError::Absent)), "{beyond:?}");
    }
}

/// K1: what the index has on the disk is there.
#[test]
fn what_is_not_in_memory_is_not_absent() {
    holds_only_with(Mutation::ForgetSpilled, async |mutations| {
        let disk = MemoryDisk::new();
        let config = Config { mutations, ..tight() };
        let long = alternating(&disk, config.clone()).await;
        assert_whole(&long.log).await;
        assert_whole(&open_with(disk.crash(), config).unwrap().log).await;
    });
}

/// K9, 5.6: deletion, moves and the search for rot need runs that are on the disk.
#[tokio::test]
async fn space_is_given_back_all_the_same() {
    let disk = MemoryDisk::new();
    let mut long = alternating(&disk, tight()).await;
    let before = segments(&disk).len();
    for ledger in [LedgerId(2), LedgerId(3)] {
        long.append(ledger, Record::Tombstone).await;
    }
    for _ in 0..60 {
        while long.log.relocate(1 << 20, sound).await.unwrap() > 0 {}
        long.log.reclaim().await.unwrap();
        long.log.snapshot(|| Some(image(&long.appended))).await.unwrap();
        long.log.scrub(1 << 20, sound).await.unwrap();
    }
    assert_eq!(long.log.take_damaged(), None);
    for log in [&long.log, &open_with(disk.crash(), tight()).unwrap().log] {
        assert_reads(log, LEDGER, 0, 119, 700).await;
        let gone = log.read(LedgerId(2), EntryId(0), EntryId(0), 1).await;
        assert!(matches!(gone, Err(ReadError::Absent)));
    }
    let after = segments(&disk).len();
    assert!(after < before / 2, "{after} of {before}");
}

/// K1: where an entry is cannot be read, or is not what was set down. That says nothing about the entry.
#[tokio::test]
async fn an_index_that_cannot_be_read_is_not_absence() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_with(faulty.clone(), tight()).unwrap().log;
    for id in 0..200 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    log.reclaim().await.unwrap();
    for kind in [io::ErrorKind::Other, io::ErrorKind::UnexpectedEof, io::ErrorKind::NotFound] {
        faulty.fail(Op::Read, 0, kind);
        let read = log.read(LEDGER, EntryId(7), EntryId(7), 1).await;
        assert!(matches!(read, Err(ReadError::Index { .. })), "{read:?}");
    }
    assert_reads(&log, LEDGER, 0, 199, 700).await;
}

/// The file has no name, so that nothing is left of it; one whose name a killed process did not get to remove goes at the
/// next opening.
#[tokio::test]
async fn nothing_is_left_behind() {
    let disk = MemoryDisk::new();
    let long = alternating(&disk, tight()).await;
    let spilled = |disk: &MemoryDisk| {
        disk.list().unwrap().iter().filter(|name| index::is_left_over(name)).count()
    };
    assert_eq!(spilled(&disk), 0);
    drop(long);
    // Also where this opening needs the name for itself.
    for index_bytes in [1 << 20, 1 << 10] {
        let disk = disk.crash();
        disk.create("index.spill").unwrap();
        assert_eq!(spilled(&disk), 1);
        let opened = open_with(disk.clone(), Config { index_bytes, ..tight() }).unwrap();
        assert_eq!(spilled(&disk), 0);
        assert_whole(&opened.log).await;
    }
}

/// What the oldest of a lost life's index takes goes to the disk, too.
#[tokio::test]
async fn a_lost_life_is_read_as_well() {
    let disk = MemoryDisk::new();
    alternating(&disk, tight()).await;
    let opened = Log::open_salvaged(Arc::new(disk.crash()), &identity(), 1 << 10).unwrap();
    assert_whole(&opened.log).await;
}
