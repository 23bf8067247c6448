//! What the index takes: memory, room on the disk, time under its lock.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::*;
use crate::log::index::chunks::Settled;
use crate::log::index::table::Oldest;

/// One run for each of `entries`, in a ledger that has none of them.
fn insert(index: &Index, ledger: LedgerId, entries: impl Iterator<Item = i64>) {
    let mut table = index.write();
    for first in entries {
        let offset = u32::try_from(first).unwrap();
        let place = Place { segment: 1 + offset / 1000, offset, length: 106 };
        table.insert(ledger, EntryId(first), 1, place);
    }
}

/// As many changes as there may be are put off in no more time than they take: not that of each for each.
#[test]
fn changes_that_are_put_off_are_not_looked_through() {
    const CHANGES: i64 = 300_000;
    let (done, ended) = sync_channel(1);
    let _test = std::thread::spawn(move || {
        let index = index(MemoryDisk::new(), 64 << 10);
        // A chunk that spans the gap, on the disk.
        insert(&index, LEDGER, [0, CHANGES + 1].into_iter());
        insert(&index, LedgerId(2), 0..10_000);
        index.tidy();
        insert(&index, LEDGER, 1..=CHANGES);
        assert!(index.find_in_memory(LEDGER, wanted(5, 5, 1)).is_none(), "they are put off");
        index.tidy();
        assert_eq!(found(&index, CHANGES, CHANGES, 1).len(), 1);
        done.send(()).unwrap();
    });
    // Each for each takes minutes.
    ended.recv_timeout(Duration::from_secs(60)).expect("it takes a second");
}

/// Whoever else wants the table gets it in between, however much there is to do.
#[test]
fn the_table_is_held_for_moments() {
    let index = index(MemoryDisk::new(), 0);
    insert(&index, LEDGER, [0, 2000].into_iter());
    index.tidy();
    insert(&index, LEDGER, 1..2000);
    let settled = index.write().settle(LEDGER);
    let Settled::Needs(stored, false) = settled else { panic!("{settled:?}") };
    let runs = index.spill.read(stored).unwrap();
    assert!(index.write().restore(LEDGER, stored, runs));
    assert_eq!(index.write().settle(LEDGER), Settled::Some);
    index.settle(LEDGER, None).unwrap();
    assert_eq!(index.write().settle(LEDGER), Settled::All);

    let index = super::index(MemoryDisk::new(), 0);
    for ledger in (10..5010).map(LedgerId) {
        insert(&index, ledger, [0, 1].into_iter());
    }
    let mut left = 10_000;
    assert!(matches!(index.write().oldest(0, &mut left), Oldest::Passed), "all have grown");
    assert!(left > 8_000, "{left}");
}

/// Changes of many ledgers meet what is on the disk: it is not all read into memory at once.
#[test]
fn settling_keeps_to_the_memory_as_well() {
    const LEDGERS: u64 = 3000;
    let limit = 512 << 10;
    let index = index(MemoryDisk::new(), limit);
    for ledger in (1..=LEDGERS).map(LedgerId) {
        insert(&index, ledger, 0..100);
        index.make_room();
    }
    (1..=LEDGERS).for_each(|ledger| insert(&index, LedgerId(ledger), 5_000..5_001));
    index.tidy();
    let runs = LEDGERS as usize * 100 * 24;
    index.most.store(0, Ordering::Relaxed);
    for ledger in (1..=LEDGERS).map(LedgerId) {
        index.write().relocate(ledger, EntryId(5), 1, 1, place(80_000));
    }
    index.tidy();
    let most = index.most.load(Ordering::Relaxed);
    assert!(most < runs / 3, "{most} of {runs}");
    for ledger in [LedgerId(1), LedgerId(LEDGERS)] {
        let located = index.find(ledger, wanted(5, 5, 1)).unwrap();
        assert_eq!(located.pieces[0].place, place(80_000));
    }
}

/// More is stored than the memory for the index is made for: the newest runs are in memory all the same, and what grows is not written
/// down over and over.
#[test]
fn the_newest_runs_stay_in_memory_however_much_is_stored() {
    let limit = 64 << 10;
    let index = index(MemoryDisk::new(), limit);
    for round in 0..400 {
        insert(&index, LEDGER, round * 1000..(round + 1) * 1000);
        index.tidy();
    }
    let fixed = index.read().fixed();
    assert!(fixed > limit, "{fixed} bytes stay whatever is written down");
    assert!(index.memory() <= fixed + limit / 2);
    for round in 400..420 {
        insert(&index, LEDGER, round * 1000..round * 1000 + 40);
        index.tidy();
        let newest = index.find_in_memory(LEDGER, wanted(round * 1000 + 39, i64::MAX, 1));
        assert_eq!(newest.map(|located| located.pieces.len()), Some(1), "round {round}");
    }
}

/// A place on the disk is used again once its chunk is given up.
#[test]
fn the_file_does_not_grow_with_what_changes() {
    let index = index(MemoryDisk::new(), 0);
    insert(&index, LEDGER, 0..1000);
    index.tidy();
    let before = index.spill.end();
    for round in 0..100 {
        index.write().relocate(LEDGER, EntryId(round), 1, 1, place(90_000));
        index.tidy();
    }
    assert!(index.spill.end() <= 3 * before, "{} units of {before}", index.spill.end());
    index.write().remove(LEDGER);
    index.tidy();
    let before = index.spill.end();
    insert(&index, LedgerId(2), 0..1000);
    index.tidy();
    assert_eq!(index.spill.end(), before, "what a ledger had is used again");
}

/// What could not be written down is written at the next call.
#[test]
fn a_chunk_that_could_not_be_written_has_its_turn_again() {
    let limit = 16 << 10;
    let disk = FaultyDisk::new(MemoryDisk::new());
    let index = index(disk.clone(), limit);
    for round in 0..200 {
        insert(&index, LEDGER, round * 100..(round + 1) * 100);
        disk.fail(Op::Write, 0, io::ErrorKind::Other);
        index.tidy();
        index.tidy();
    }
    let memory = index.memory();
    assert!(memory <= limit, "{memory} bytes");
    assert_eq!(found(&index, 0, 20_000, usize::MAX).len(), 1024);
}
