//! Space that is given back (K9), what is moved to give it back, and full disks (K10).

use super::refusing::RefusingDisk;
use super::upkeep::{Long, image};
use super::*;

/// The content of these tests' entries is known.
fn sound(ledger: LedgerId, id: EntryId, content: &Bytes) -> bool {
    *content == entry(ledger, id.0, 700)
}

/// A log whose ledgers `1..=count` have 20 entries of 700 bytes each, one behind the other; each is sealed in front of them.
async fn ledgers(disk: &MemoryDisk, config: Config, count: u64) -> Long {
    let mut long = Long::on(disk.clone(), config);
    for ledger in (1..=count).map(LedgerId) {
        long.append(ledger, Record::Seal { epoch: SealEpoch(5) }).await;
        for id in 0..20 {
            long.append(ledger, entries(ledger, id, 1, 700)).await;
        }
    }
    long
}

/// Segments that hold something.
fn used(disk: &MemoryDisk) -> usize {
    segments(disk).into_iter().filter(|seq| !frames(disk, *seq).is_empty()).count()
}

fn files(disk: &MemoryDisk, suffix: &str) -> usize {
    disk.list().unwrap().iter().filter(|name| name.ends_with(suffix)).count()
}

async fn assert_ledger(opened: &Opened, ledger: u64) {
    assert_eq!(opened.ledgers[&LedgerId(ledger)].sealed_epoch(), SealEpoch(5));
    assert_reads(&opened.log, LedgerId(ledger), 0, 19, 700).await;
}

/// K9: the first ledgers are deleted. Their segments go when two snapshots did without them, and nothing else.
#[tokio::test]
async fn dead_segments_go_once_snapshots_do_without_them() {
    let disk = MemoryDisk::new();
    let mut long = ledgers(&disk, small(), 6).await;
    let before = used(&disk);
    for ledger in 1..=4 {
        long.append(LedgerId(ledger), Record::Tombstone).await;
    }
    let reclaimed = long.log.reclaim().await.unwrap();
    assert!(reclaimed.removed == 0 && reclaimed.waiting > 2, "{reclaimed:?}");
    assert_eq!(used(&disk), before, "no snapshot holds their seals");
    long.snapshot().await;
    assert_eq!(long.log.reclaim().await.unwrap().removed, 0, "an older snapshot may be needed");
    long.snapshot().await;
    let removed = long.log.reclaim().await.unwrap().removed;
    assert_eq!(removed, reclaimed.waiting);
    assert_eq!(used(&disk), before - removed);
    for rotten in 0..3 {
        let disk = disk.crash();
        let snapshots = disk.list().unwrap().into_iter().filter(|name| name.ends_with("snapshot"));
        for name in snapshots.collect::<Vec<_>>().iter().rev().take(rotten) {
            disk.damage(name, 40, 1);
        }
        match open_with(disk, small()) {
            // Without any snapshot the missing segments are a loss, and are not passed over.
            Err(error) => assert!(rotten == 2 && matches!(error, OpenError::Corrupt { .. })),
            Ok(opened) => {
                assert!(rotten < 2);
                for ledger in 5..=6 {
                    assert_ledger(&opened, ledger).await;
                }
                assert_eq!(opened.tombstones, image(&long.appended).tombstones);
            }
        }
    }
}

/// Seals ledger 9 in a segment that dies, and gives back what can be; whether the seal is there after a crash.
async fn keeps_its_seal(mutations: Mutations) -> bool {
    let disk = MemoryDisk::new();
    let mut long = Long::on(disk.clone(), Config { mutations, ..small() });
    long.append(LedgerId(9), Record::Seal { epoch: SealEpoch(7) }).await;
    for id in 0..60 {
        long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    long.append(LEDGER, Record::Tombstone).await;
    long.log.reclaim().await.unwrap();
    let opened = open_with(disk.crash(), small());
    opened.is_ok_and(|opened| {
        opened.ledgers.get(&LedgerId(9)).map(LedgerState::sealed_epoch) == Some(SealEpoch(7))
    })
}

#[tokio::test]
async fn a_seal_outlives_its_segment() {
    assert!(keeps_its_seal(Mutations::default()).await);
}

/// K9 (b), mutation: a fence is lost with the segment that it stood in.
#[tokio::test]
async fn without_a_snapshot_the_seal_is_lost_with_its_segment() {
    assert!(!keeps_its_seal(Mutations::only(Mutation::DropUncovered)).await);
}

/// Scenario 34: segments are made of old ones, and what those held never comes back, not even from behind the end.
#[test]
fn scenario_34_stale_frames_in_a_reused_file_are_rejected() {
    holds_only_with(Mutation::TakeStaleFrames, async |mutations| {
        let disk = MemoryDisk::new();
        let config = Config { reserve_segments: 1, ..small() };
        let mut long = ledgers(&disk, config.clone(), 4).await;
        for ledger in 1..=4 {
            long.append(LedgerId(ledger), Record::Tombstone).await;
        }
        let opened_with = used(&disk);
        for _ in 0..2 {
            long.log.reclaim().await.unwrap();
            long.snapshot().await;
        }
        assert!(long.log.reclaim().await.unwrap().removed > 3);
        assert_eq!(files(&disk, ".spare"), 5, "the reserve and four more");
        let reopened = |disk: MemoryDisk| open_with(disk, Config { mutations, ..config.clone() });
        for id in 0..60 {
            long.append(LedgerId(7), entries(LedgerId(7), id, 1, 650)).await;
            // Wherever the log ends, older frames are behind it: it goes on in their place.
            let disk = disk.crash();
            let opened = reopened(disk.clone()).unwrap();
            append_durably(&opened.log, LedgerId(7), entries(LedgerId(7), id + 1, 1, 650)).await;
            let opened = open_with(disk.crash(), config.clone()).unwrap();
            assert_eq!(opened.ledgers.keys().collect::<Vec<_>>(), [&LedgerId(7)], "{id}");
            assert_eq!(opened.ledgers[&LedgerId(7)].held().last(), EntryId(id + 1));
        }
        assert!(files(&disk, ".spare") < 5);
        assert!(used(&disk) < opened_with);
        long.log.write_footers().await.unwrap();
        for disk in [disk.crash(), disk.crash_keeping(|| true)] {
            let opened = reopened(disk).unwrap();
            assert_eq!(opened.ledgers.keys().collect::<Vec<_>>(), [&LedgerId(7)]);
            assert_reads(&opened.log, LedgerId(7), 0, 59, 650).await;
            let beyond = opened.log.read(LedgerId(7), EntryId(60), EntryId(60), 1).await;
            assert!(matches!(beyond, Err(ReadError::Absent)));
        }
    });
}

/// 5.6: what still lives in a sparse segment is moved, and readable all the time and after a crash at any step.
#[tokio::test]
async fn what_lives_in_a_sparse_segment_moves() {
    let disk = MemoryDisk::new();
    let config = Config { window_bytes: 0, ..small() };
    let mut long = Long::on(disk.clone(), config.clone());
    let rare = LedgerId(8);
    for id in 0..120 {
        long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
        if id % 10 == 0 {
            long.append(rare, entries(rare, id / 10, 1, 700)).await;
        }
    }
    assert_eq!(long.log.relocate(1 << 20, sound).await.unwrap(), 0, "no segment is sparse");
    long.append(LEDGER, Record::Tombstone).await;
    let before = used(&disk);
    let last = 11;
    let (mut moved, mut removed) = (0, 0);
    for step in 0..60 {
        let more = long.log.relocate(1, sound).await.unwrap();
        moved += more;
        assert_reads(&long.log, rare, 0, last, 700).await;
        removed += long.log.reclaim().await.unwrap().removed;
        if step % 2 == 0 {
            long.snapshot().await;
        }
        let opened = open_with(disk.crash(), config.clone()).unwrap();
        assert_eq!(opened.ledgers[&rare].held().last(), EntryId(last));
        assert_reads(&opened.log, rare, 0, last, 700).await;
        if more == 0 && long.log.reclaim().await.unwrap().waiting == 0 {
            break;
        }
    }
    assert!(moved >= 10 * 700, "{moved}");
    assert!(removed > 4 && used(&disk) < before, "{removed} of {before}");
}

/// A log with a record of ledger 8 in segment 1, and little else that lives in its full segments.
async fn sparse(disk: &MemoryDisk, record: Record) -> Long {
    let mut long = Long::on(disk.clone(), Config { window_bytes: 0, ..small() });
    long.append(LedgerId(8), record).await;
    for id in 0..60 {
        long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
        if id == 30 {
            long.append(LedgerId(9), entries(LedgerId(9), 0, 4, 700)).await;
        }
    }
    long.append(LEDGER, Record::Tombstone).await;
    long
}

/// D3, K5: entries that rotted and were sent again stay as they were sent, whatever was being moved meanwhile.
#[tokio::test]
async fn rot_is_not_moved_behind_what_took_its_place() {
    let (disk, rare) = (MemoryDisk::new(), LedgerId(8));
    let mut long = sparse(&disk, entries(rare, 0, 3, 700)).await;
    long.log.write_footers().await.unwrap();
    let (_, offset, _) = frames(&disk, 1)[1];
    // In entry 1.
    disk.damage(&segment::file_name(1), offset + 36 + 64 + 1000, 2);
    let load = long.log.0.shared.load_sparse(1 << 20, &sound).unwrap().unwrap();
    long.append(rare, entries(rare, 0, 3, 700)).await;
    long.log.carry(load).await.unwrap();
    assert_reads(&long.log, rare, 0, 2, 700).await;
    let opened = open_with(disk.crash(), Config { window_bytes: 0, ..small() }).unwrap();
    assert_reads(&opened.log, rare, 0, 2, 700).await;
    assert_eq!(long.log.take_damaged(), Some(rare));
}

/// Entries beside one that rotted are moved without it.
#[tokio::test]
async fn what_is_sound_beside_rot_moves() {
    let (disk, rare) = (MemoryDisk::new(), LedgerId(8));
    let long = sparse(&disk, entries(rare, 0, 3, 700)).await;
    long.log.write_footers().await.unwrap();
    let (_, offset, _) = frames(&disk, 1)[1];
    disk.damage(&segment::file_name(1), offset + 36 + 64 + 1000, 2);
    assert!(long.log.relocate(1, sound).await.unwrap() > 2 * 700);
    for log in [&long.log, &open_with(disk.crash(), small()).unwrap().log] {
        assert_reads(log, rare, 0, 0, 700).await;
        assert_reads(log, rare, 2, 2, 700).await;
    }
    let read = long.log.read(rare, EntryId(1), EntryId(1), 1).await;
    assert!(matches!(read, Err(ReadError::Absent)), "who holds the ledger's state says unknown");
}

/// K10: a segment that cannot be read does not keep others from being emptied.
#[tokio::test]
async fn a_segment_that_cannot_be_read_is_put_off() {
    let disk = MemoryDisk::new();
    let long = sparse(&disk, entries(LedgerId(8), 0, 1, 700)).await;
    // It has no footer, and a frame that is of no use any more is damaged.
    let (_, offset, _) = frames(&disk, 1)[4];
    disk.damage(&segment::file_name(1), offset + 40, 1);
    for moved in [4 * 700, 0] {
        assert!(long.log.relocate(1 << 20, sound).await.is_err());
        assert!(long.log.relocate(1 << 20, sound).await.unwrap() >= moved);
        assert_eq!(long.log.relocate(1 << 20, sound).await.ok(), (moved > 0).then_some(0));
        assert_reads(&long.log, LedgerId(9), 0, 3, 700).await;
    }
}

/// K9, K10: a file that could not be given back is given back later, and keeps neither others nor the reserve waiting.
#[tokio::test]
async fn what_could_not_be_given_back_is_tried_again() {
    for (op, good) in [(Op::Names, 0), (Op::Names, 1), (Op::SyncDir, 0), (Op::SyncDir, 2)] {
        // Where the log makes its next segment just then, that takes the failure.
        let mut met = false;
        for _ in 0..20 {
            met = gives_back_after(op, good).await;
            if met {
                break;
            }
        }
        assert!(met, "{op:?} {good}: it never failed");
    }
}

/// Whether the failure was one of giving back.
async fn gives_back_after(op: Op, good: u64) -> bool {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let config = Config { reserve_segments: 3, ..small() };
    let mut long = Long::over(disk.clone(), faulty.clone(), config);
    for id in 0..100 {
        long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    long.append(LEDGER, Record::Tombstone).await;
    let waiting = long.log.reclaim().await.unwrap().waiting;
    assert!(waiting > 3);
    long.snapshot().await;
    long.snapshot().await;
    assert!(long.log.0.shared.spares.release().unwrap());
    let before = used(&disk);
    faulty.fail(op, good, io::ErrorKind::Other);
    if long.log.reclaim().await.is_ok() {
        return false;
    }
    assert!(used(&disk) <= before - waiting + 1, "the others are given back");
    assert!(files(&disk, ".spare") >= 3, "the reserve is whole");
    let reclaimed = long.log.reclaim().await.unwrap();
    assert_eq!(reclaimed, Reclaimed { removed: 1, waiting: 0 }, "{op:?} {good}");
    assert_eq!(used(&disk), before - waiting);
    true
}

/// A segment's file that is not found is not read: what is in it may be there again with its directory.
#[tokio::test]
async fn what_is_in_a_file_that_is_away_is_not_given_up() {
    let (memory, rare) = (MemoryDisk::new(), LedgerId(8));
    let disk = RefusingDisk::new(memory.clone());
    let config = Config { window_bytes: 0, ..small() };
    let mut long = Long::over(memory.clone(), disk.clone(), config);
    long.append(rare, entries(rare, 0, 3, 700)).await;
    for id in 0..60 {
        long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    long.append(LEDGER, Record::Tombstone).await;
    long.log.write_footers().await.unwrap();
    // Its footer is still read.
    disk.go_away_after(1);
    assert!(long.log.relocate(1 << 20, sound).await.is_err());
    disk.recover();
    assert_eq!(long.log.take_damaged(), None);
    assert_reads(&long.log, rare, 0, 2, 700).await;
}

/// A reader that found an entry in a segment reads it to the end, however dead the segment is by then.
#[tokio::test]
async fn open_readers_finish_first() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_with(faulty.clone(), Config { window_bytes: 0, ..small() }).unwrap().log;
    for id in 0..40 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    faulty.hold(Op::Read);
    let mut read = Box::pin(log.read(LEDGER, EntryId(0), EntryId(0), 1));
    assert!(poll_once(read.as_mut()).is_pending());
    faulty.wait_held(Op::Read);
    append_durably(&log, LEDGER, Record::Tombstone).await;
    let tombstones = || Some(image(&[(LEDGER, Record::Tombstone)]));
    log.reclaim().await.unwrap();
    log.snapshot(tombstones).await.unwrap();
    log.snapshot(tombstones).await.unwrap();
    let reclaimed = log.reclaim().await.unwrap();
    assert_eq!((reclaimed.waiting, reclaimed.removed > 0), (1, true));
    faulty.release(Op::Read);
    assert_eq!(read.await.unwrap(), [entry(LEDGER, 0, 700)]);
    assert_eq!(log.reclaim().await.unwrap(), Reclaimed { removed: 1, waiting: 0 });
}

/// Scenario 36, K10: on a disk without any room seals go on, out of the reserve, and what is deleted gives room again.
#[tokio::test]
async fn scenario_36_a_full_disk_seals_and_frees_itself() {
    let config = Config { reserve_segments: 2, ..small() };
    let disk = MemoryDisk::with_capacity(12 * (16 << 10) + (8 << 10));
    let mut long = Long::on(disk.clone(), config.clone());
    long.log.reclaim().await.unwrap();
    assert_eq!(files(&disk, ".spare"), 2);
    let mut id = 0i64;
    while !long.log.is_scarce() {
        let ledger = LedgerId(1 + id.unsigned_abs() / 20);
        long.append(ledger, entries(ledger, id % 20, 1, 700)).await;
        id += 1;
    }
    // What was appended already is written; from here on the owners append only this.
    for ledger in 1..=15 {
        long.append(LedgerId(ledger), Record::Seal { epoch: SealEpoch(1) }).await;
    }
    let whole = u64::try_from(id / 20).unwrap();
    for ledger in 1..whole {
        long.append(LedgerId(ledger), Record::Tombstone).await;
    }
    for _ in 0..3 {
        long.log.reclaim().await.unwrap();
        long.snapshot().await;
    }
    assert!(!long.log.is_scarce(), "the reserve is whole again");
    long.append(LedgerId(90), entries(LedgerId(90), 0, 9, 700)).await;
    let opened = open_with(disk.crash(), config).unwrap();
    assert_eq!(opened.ledgers[&LedgerId(whole)].sealed_epoch(), SealEpoch(1));
    assert_reads(&opened.log, LedgerId(whole), 0, 19, 700).await;
}

/// K1: what has rotted in a sparse segment stays behind as unknown, and the rest moves.
#[test]
fn a_damaged_record_does_not_stop_the_move() {
    // Not the runtime of a test: it would wait for ever for a move that does not end.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (done, ended) = std::sync::mpsc::sync_channel(1);
    let _test = runtime.spawn(async move {
        let disk = MemoryDisk::new();
        let config = Config { window_bytes: 0, ..small() };
        let mut long = Long::on(disk.clone(), config);
        let rare = LedgerId(8);
        long.append(rare, entries(rare, 0, 1, 700)).await;
        let first = segments(&disk)[0];
        let (_, at, bytes) = frames(&disk, first).pop().unwrap();
        for id in 0..60 {
            long.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
        }
        long.append(LEDGER, Record::Tombstone).await;
        long.log.write_footers().await.unwrap();
        disk.damage(&segment::file_name(first), at, bytes);
        long.log.relocate(1 << 20, sound).await.unwrap();
        append_durably(&long.log, rare, entries(rare, 1, 1, 700)).await;
        assert_reads(&long.log, rare, 1, 1, 700).await;
        done.send(()).unwrap();
    });
    let moved = ended.recv_timeout(std::time::Duration::from_secs(20));
    runtime.shutdown_background();
    moved.expect("the log goes on");
}
