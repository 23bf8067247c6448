//! Footers and snapshots: the same log comes back with them and without, and nothing damaged is believed.

use super::*;

const OTHER: LedgerId = LedgerId(2);
const GONE: LedgerId = LedgerId(3);

/// What the ledgers of a log are, from what was appended.
pub(super) fn image(records: &[(LedgerId, Record)]) -> Image {
    let mut image = Image::default();
    for (ledger, record) in records {
        if !image.ledgers.iter().any(|state| state.id() == *ledger) {
            image.ledgers.push(LedgerState::unknown(*ledger));
        }
        let state = image.ledgers.iter_mut().find(|state| state.id() == *ledger).unwrap();
        state.apply(record);
        if *record == Record::Tombstone {
            image.ledgers.retain(|state| state.id() != *ledger);
            image.tombstones.insert(*ledger);
        }
    }
    image
}

/// A log of several segments with every kind of record, and what was appended to it.
pub(super) struct Long {
    pub(super) disk: MemoryDisk,
    pub(super) log: Log,
    pub(super) appended: Vec<(LedgerId, Record)>,
}

impl Long {
    pub(super) fn on(disk: MemoryDisk, config: Config) -> Self {
        Self::over(disk.clone(), disk, config)
    }

    /// One that has `disk` through another.
    pub(super) fn over(disk: MemoryDisk, through: impl Disk, config: Config) -> Self {
        let log = open_with(through, config).unwrap().log;
        Self { disk, log, appended: Vec::new() }
    }

    pub(super) async fn append(&mut self, ledger: LedgerId, record: Record) {
        append_durably(&self.log, ledger, record.clone()).await;
        self.appended.push((ledger, record));
    }

    /// Some thirty entries over two to three segments.
    async fn part(&mut self, from: i64) {
        for id in from..from + 30 {
            self.append(LEDGER, entries(LEDGER, id, 1, 700)).await;
            self.append(OTHER, entries(OTHER, id, 1, 100)).await;
        }
    }

    pub(super) async fn snapshot(&self) {
        self.log.snapshot(|| Some(image(&self.appended))).await.unwrap();
    }

    /// Two parts with a snapshot behind each, and a third.
    pub(super) async fn new() -> Self {
        let mut long = Self::on(MemoryDisk::new(), small());
        long.append(GONE, entries(GONE, 0, 2, 300)).await;
        long.append(OTHER, Record::RunStart { fragment_first: EntryId(0) }).await;
        long.part(0).await;
        long.append(LEDGER, Record::Seal { epoch: SealEpoch(3) }).await;
        long.append(GONE, Record::Tombstone).await;
        long.log.write_footers().await.unwrap();
        long.snapshot().await;
        long.part(30).await;
        long.snapshot().await;
        long.part(60).await;
        long.append(OTHER, Record::Closed { last: EntryId(89) }).await;
        long.log.write_footers().await.unwrap();
        long
    }

    /// Opens a disk, and finds all that was appended.
    pub(super) async fn assert_whole(&self, disk: MemoryDisk) -> Log {
        let opened = open(&disk);
        let mut expected = image(&self.appended);
        expected.ledgers.sort_by_key(LedgerState::id);
        assert_eq!(opened.ledgers.into_values().collect::<Vec<_>>(), expected.ledgers);
        assert_eq!(opened.tombstones, expected.tombstones);
        assert_reads(&opened.log, LEDGER, 0, 89, 700).await;
        assert_reads(&opened.log, OTHER, 0, 89, 100).await;
        let gone = opened.log.read(GONE, EntryId(0), EntryId(0), 1).await;
        assert!(matches!(gone, Err(ReadError::Absent)));
        opened.log
    }
}

pub(super) fn snapshots(disk: &MemoryDisk) -> Vec<String> {
    disk.list().unwrap().into_iter().filter(|name| snapshot::parse_name(name).is_some()).collect()
}

/// Segments with a good footer.
fn with_footer(disk: &MemoryDisk) -> Vec<u64> {
    let seed = Seed::of(&identity());
    segments(disk).into_iter().filter(|seq| load::footer(disk, *seq, seed).is_some()).collect()
}

pub(super) fn rot_footer(disk: &MemoryDisk, seq: u64) {
    let name = segment::file_name(seq);
    let size = disk.open(&name).unwrap().size().unwrap() as usize;
    disk.damage(&name, size - 100, 1);
}

/// 5.6: what a ledger that was given up held is nobody's, what a repair brought back is there, and both stay so however the log is opened.
#[tokio::test]
async fn a_ledger_that_was_given_up_has_what_came_back() {
    const BACK: LedgerId = LedgerId(4);
    let mut long = Long::on(MemoryDisk::new(), small());
    for id in 0..20 {
        long.append(BACK, entries(BACK, id, 1, 700)).await;
        long.append(OTHER, entries(OTHER, id, 1, 700)).await;
    }
    let held = long.log.bytes_of(BACK);
    long.append(BACK, Record::GivenUp).await;
    assert_eq!((held > 14_000, long.log.bytes_of(BACK)), (true, 0));
    long.log.write_footers().await.unwrap();
    let empty = long.disk.crash();
    for id in 0..5 {
        long.append(BACK, entries(BACK, id, 1, 700)).await;
    }
    let back = long.log.bytes_of(BACK);
    let before = long.disk.crash();
    long.snapshot().await;
    for _ in 0..30 {
        long.append(OTHER, Record::RunStart { fragment_first: EntryId(0) }).await;
    }
    long.log.write_footers().await.unwrap();
    long.snapshot().await;
    for disk in [before, long.disk.crash()] {
        let log = open(&disk).log;
        assert_eq!(log.bytes_of(BACK), back);
        assert_reads(&log, BACK, 0, 4, 700).await;
        assert_reads(&log, OTHER, 0, 19, 700).await;
        let gone = log.read(BACK, EntryId(5), EntryId(5), 1).await;
        assert!(matches!(gone, Err(ReadError::Absent)));
    }
    let opened = open(&empty);
    assert_eq!(opened.log.bytes_of(BACK), 0);
    assert!(opened.ledgers[&BACK].is_given_up() && opened.ledgers[&BACK].held().runs().is_empty());
}

#[tokio::test]
async fn the_same_log_comes_back_with_and_without_them() {
    let long = Long::new().await;
    assert!(with_footer(&long.disk).len() > 5, "every segment but the last");
    assert_eq!(snapshots(&long.disk).len(), 2);
    long.assert_whole(long.disk.crash()).await;
    for keep in 0..2 {
        let disk = long.disk.crash();
        for name in &snapshots(&disk)[keep..] {
            disk.remove(name).unwrap();
        }
        for seq in with_footer(&disk).into_iter().skip(2 * keep) {
            rot_footer(&disk, seq);
        }
        let log = long.assert_whole(disk.clone()).await;
        // What was read from frames gets its footers now, as far as they are remembered.
        log.write_footers().await.unwrap();
        assert!(with_footer(&disk).len() > 5);
        drop(log);
        long.assert_whole(disk.crash()).await;
    }
}

/// 5.5: a damaged snapshot or footer is never trusted: the one before it stands in, or the frames.
#[tokio::test]
async fn damage_to_them_loses_nothing() {
    let long = Long::new().await;
    for damaged in 1..=2 {
        let disk = long.disk.crash();
        for name in snapshots(&disk).iter().rev().take(damaged) {
            disk.damage(name, 50, 1);
        }
        for seq in with_footer(&disk) {
            rot_footer(&disk, seq);
        }
        long.assert_whole(disk.clone()).await;
        assert_eq!(snapshots(&disk).len(), 2 - damaged, "what is damaged is removed");
    }
}

/// A full segment is not read again: what rots in it is noticed by whoever reads it, and is not absent (K1).
#[tokio::test]
async fn scenario_32_rot_in_a_full_segment_makes_an_extent_unknown() {
    let long = Long::new().await;
    let disk = long.disk.crash();
    let first = segments(&disk)[0];
    // Frame 4 holds entry 0 of the ledger.
    let (_, offset, _) = frames(&disk, first)[3];
    disk.damage(&segment::file_name(first), offset + 60, 4);
    let opened = open(&disk);
    assert!(opened.ledgers[&LEDGER].held().contains(EntryId(0)), "the tail is known");
    let read = opened.log.read(LEDGER, EntryId(0), EntryId(0), 1).await;
    assert!(matches!(read, Err(ReadError::Corrupt { .. })), "{read:?}");
    assert_reads(&opened.log, LEDGER, 1, 89, 700).await;
}

/// K8: a segment that a snapshot lists, and the frame that it covers, had been durable.
#[tokio::test]
async fn loss_below_a_snapshot_is_refused() {
    let long = Long::new().await;
    let used: Vec<_> = segments(&long.disk)
        .into_iter()
        .filter(|seq| !frames(&long.disk, *seq).is_empty())
        .collect();
    for seq in &used {
        let disk = long.disk.crash();
        disk.remove(&segment::file_name(*seq)).unwrap();
        let opened = open_with(disk, small());
        if *seq == *used.last().unwrap() {
            // Nothing vouches for the last segment yet.
            assert!(opened.is_ok());
        } else {
            assert!(matches!(opened.unwrap_err(), OpenError::Corrupt { .. }), "{seq}");
        }
    }
    long.snapshot().await;
    let disk = long.disk.crash();
    let last = *used.last().unwrap();
    let (_, offset, _) = *frames(&disk, last).last().unwrap();
    disk.damage(&segment::file_name(last), offset + 40, 1);
    assert!(matches!(open_with(disk, small()).unwrap_err(), OpenError::Corrupt { .. }));
}

/// Appends a seal that does not become durable, and snapshots meanwhile; what a power cut leaves.
async fn snapshot_of_what_is_staged(mutations: Mutations) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_faulty(&faulty, Config { mutations, ..small() });
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 100)).await;
    faulty.hold(Op::Sync);
    let seal = Record::Seal { epoch: SealEpoch(1) };
    append(&log, LEDGER, seal.clone()).await;
    faulty.wait_held(Op::Sync);
    let appended = [(LEDGER, entries(LEDGER, 0, 1, 100)), (LEDGER, seal)];
    let early = mutations != Mutations::default();
    let mut snapshot = Box::pin(log.snapshot(|| Some(image(&appended))));
    if early {
        // Its own sync is held as well: the second call that waits.
        assert!(poll_once(snapshot.as_mut()).is_pending());
        faulty.release(Op::Sync);
        snapshot.await.unwrap();
        // The frame was never synced: this disk forgets it.
        let (_, offset, bytes) = *frames(&disk, 1).last().unwrap();
        disk.damage(&segment::file_name(1), offset, bytes);
        return disk.crash();
    }
    assert!(poll_once(snapshot.as_mut()).is_pending());
    assert!(snapshots(&disk).is_empty());
    let cut = disk.crash();
    faulty.release(Op::Sync);
    snapshot.await.unwrap();
    open(&disk.crash());
    cut
}

/// 5.5: a snapshot waits for what it holds: after a crash the log is never behind it.
#[tokio::test]
async fn a_snapshot_waits_for_what_it_names() {
    let opened = open(&snapshot_of_what_is_staged(Mutations::default()).await);
    assert_eq!(opened.ledgers[&LEDGER].sealed_epoch(), SealEpoch(0));
}

#[tokio::test]
async fn a_snapshot_that_does_not_wait_is_ahead_of_the_log() {
    let mutations = Mutations::only(Mutation::SnapshotBeforeDurable);
    let disk = snapshot_of_what_is_staged(mutations).await;
    assert!(open_with(disk, small()).is_err());
}

/// Writing them may fail or be cut short anywhere: the log is none the worse.
#[tokio::test]
async fn they_can_be_interrupted_anywhere() {
    for op in [Op::Names, Op::SyncDir, Op::Write, Op::Sync] {
        for good in 0..12 {
            let disk = MemoryDisk::new();
            let faulty = FaultyDisk::new(disk.clone());
            let log = open_faulty(&faulty, small());
            let mut appended = Vec::new();
            for id in 0..30 {
                let record = entries(LEDGER, id, 1, 700);
                append_durably(&log, LEDGER, record.clone()).await;
                appended.push((LEDGER, record));
            }
            log.snapshot(|| Some(image(&appended))).await.unwrap();
            faulty.fail(op, good, io::ErrorKind::Other);
            let footers = log.write_footers().await;
            let snapshot = log.snapshot(|| Some(image(&appended))).await;
            for disk in [disk.crash(), disk.crash_keeping(|| true)] {
                let opened = open(&disk);
                assert_reads(&opened.log, LEDGER, 0, 29, 700).await;
            }
            if footers.is_ok() && snapshot.is_ok() {
                break;
            }
            append_durably(&log, LEDGER, entries(LEDGER, 30, 1, 700)).await;
        }
    }
}

/// K5: a ledger's owner changes memory first. What the log refused then is in memory only, and in no snapshot.
#[tokio::test]
async fn what_was_refused_is_in_no_snapshot() {
    let disk = MemoryDisk::new();
    let log = open(&disk).log;
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 100)).await;
    let refused = entries(LEDGER, 1, 1, 100);
    let permit = log.reserve(Log::cost(&refused)).await.unwrap();
    log.0.shared.queue.close();
    assert_eq!(log.append(LEDGER, refused.clone(), permit), Err(LogFailed::Closed));
    let memory = [(LEDGER, entries(LEDGER, 0, 1, 100)), (LEDGER, refused)];
    log.snapshot(|| Some(image(&memory))).await.unwrap();
    let opened = open(&disk.crash());
    assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(0));
}

/// K9: a segment dies in the moment between the last frame in it and the first one of the next. Snapshots of that moment go on
/// behind it, too.
#[tokio::test]
async fn a_snapshot_between_two_segments_goes_on_behind_the_first() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_faulty(&faulty, small());
    let mut appended = Vec::new();
    // Two of these do not fit in a segment.
    for (ledger, record) in [
        (LEDGER, entries(LEDGER, 0, 1, 10_000)),
        (GONE, entries(GONE, 0, 1, 10_000)),
        (GONE, Record::Tombstone),
    ] {
        append_durably(&log, ledger, record.clone()).await;
        appended.push((ledger, record));
    }
    // Segment 3 is ready: two syncs for each segment, one for the mark and for each record.
    faulty.wait_calls(Op::Sync, 10);
    faulty.hold(Op::Sync);
    let record = entries(LEDGER, 1, 1, 10_000);
    append(&log, LEDGER, record.clone()).await;
    appended.push((LEDGER, record));
    while log.0.shared.catalogue.lock().full_below() < 3 {
        std::thread::yield_now();
    }
    log.reclaim().await.unwrap();
    let mut snapshot = Box::pin(log.snapshot(|| Some(image(&appended))));
    assert!(poll_once(snapshot.as_mut()).is_pending());
    faulty.release(Op::Sync);
    snapshot.await.unwrap();
    for _ in 0..2 {
        log.reclaim().await.unwrap();
        log.snapshot(|| Some(image(&appended))).await.unwrap();
    }
    log.reclaim().await.unwrap();
    let disk = disk.crash();
    for name in snapshots(&disk).iter().rev() {
        assert_reads(&open(&disk.crash()).log, LEDGER, 0, 1, 10_000).await;
        disk.damage(name, 50, 1);
        if *name == snapshots(&disk)[0] {
            break;
        }
    }
}
