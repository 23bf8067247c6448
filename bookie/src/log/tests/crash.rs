//! Crashes: what was acknowledged is there afterwards (K3, K5), and what was lost is not overlooked (K8).

use std::collections::BTreeMap;

use geminga_runtime::{Random, SeededRandom, SystemRandom};

use super::*;
use crate::io::DiskFile;
use crate::log::format::FrameHead;

/// Appends over several segments, crashes, and opens what was synced: the first entry that was acknowledged and is
/// not there, if any.
async fn first_lost(config: Config) -> Option<i64> {
    const ENTRIES: i64 = 60;
    let disk = MemoryDisk::new();
    let log = open_with(disk.clone(), config.clone()).unwrap().log;
    for id in 0..ENTRIES {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    append_durably(&log, LEDGER, Record::Seal { epoch: SealEpoch(3) }).await;
    assert!(segments(&disk).len() > 3, "several segments");

    let opened = open_with(disk.crash(), Config { mutations: Mutations::default(), ..config });
    let Ok(opened) = opened else { return Some(0) };
    let state = opened.ledgers.get(&LEDGER);
    for id in 0..ENTRIES {
        let read = opened.log.read(LEDGER, EntryId(id), EntryId(id), 1).await;
        let held = state.is_some_and(|state| state.held().contains(EntryId(id)));
        match read {
            Ok(read) if held && read == [entry(LEDGER, id, 700)] => {}
            _ => return Some(id),
        }
    }
    // F2: the seal is acknowledged, too.
    (state.map(LedgerState::sealed_epoch) != Some(SealEpoch(3))).then_some(ENTRIES)
}

#[tokio::test]
async fn what_was_acknowledged_survives() {
    assert_eq!(first_lost(small()).await, None);
}

/// The test above can fail: without the sync, or without the directory's, acknowledged entries are lost.
#[tokio::test]
async fn without_a_sync_acknowledged_entries_are_lost() {
    for mutation in [Mutation::SkipSync, Mutation::SkipDirSync] {
        let config = Config { mutations: Mutations::only(mutation), ..small() };
        assert!(first_lost(config).await.is_some(), "{mutation:?} was not noticed");
    }
}

/// A log of one segment: entries 0 to 2 in a frame each; frame numbers 2 to 4, behind the opening mark.
async fn three_frames() -> (MemoryDisk, Log) {
    three_frames_without(Mutations::default()).await
}

/// The same, without a rule.
async fn three_frames_without(mutations: Mutations) -> (MemoryDisk, Log) {
    let disk = MemoryDisk::new();
    let log = open_with(disk.clone(), Config { mutations, ..small() }).unwrap().log;
    for id in 0..3 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 1000)).await;
    }
    (disk, log)
}

fn damage(disk: &MemoryDisk, frame: usize) -> MemoryDisk {
    let disk = disk.crash();
    let (_, offset, _) = frames(&disk, 1)[frame];
    disk.damage(&segment::file_name(1), offset + 40, 3);
    disk
}

/// K8: the last frame, which nothing vouches for, may have been in flight.
#[test]
fn scenario_31_torn_final_frame_is_truncated() {
    holds_only_with(Mutation::SkipSync, async |mutations| {
        let (disk, _log) = three_frames_without(mutations).await;
        assert_eq!(frames(&disk.crash(), 1).len(), 4, "what was acknowledged is there");
        let torn = damage(&disk, 3);
        let opened = open(&torn);
        assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(1));
        assert_reads(&opened.log, LEDGER, 0, 1, 1000).await;
        assert!(matches!(
            opened.log.read(LEDGER, EntryId(2), EntryId(2), 1).await,
            Err(ReadError::Absent)
        ));
        // The log goes on with another entry 2, and the cut one does not come back.
        append_durably(&opened.log, LEDGER, entries(LEDGER, 2, 1, 50)).await;
        let opened = open(&torn.crash());
        assert_reads(&opened.log, LEDGER, 2, 2, 50).await;
    });
}

/// K8: a frame that a later one vouches for was acknowledged.
#[test]
fn scenario_32_rot_in_the_open_segment_is_refused() {
    holds_only_with(Mutation::SkipLookAhead, async |mutations| {
        let (disk, _log) = three_frames().await;
        for frame in 0..3 {
            let rotten = damage(&disk, frame);
            let before = rotten.list().unwrap();
            let refusal = open_with(rotten.clone(), Config { mutations, ..small() }).unwrap_err();
            assert!(matches!(refusal, OpenError::Corrupt { segment: 1, .. }), "{refusal}");
            assert_eq!(rotten.list().unwrap(), before, "a refusal changes nothing");
            assert_eq!(frames(&rotten.crash(), 1).len(), frame);
        }
    });
}

/// K8: after a clean shutdown even rot in the last frame with records is noticed.
#[tokio::test]
async fn the_final_mark_vouches_for_the_last_frame() {
    let (disk, log) = three_frames().await;
    log.shutdown().await.unwrap();
    assert_eq!(frames(&disk, 1).len(), 5);
    assert!(matches!(open_with(damage(&disk, 3), small()).unwrap_err(), OpenError::Corrupt { .. }));
    let opened = open(&damage(&disk, 4));
    assert_reads(&opened.log, LEDGER, 0, 2, 1000).await;
}

/// K8: opening writes a mark, so that what an earlier process wrote is vouched for from then on.
#[tokio::test]
async fn the_opening_mark_vouches_for_what_was_found() {
    let (disk, _log) = three_frames().await;
    let disk = disk.crash();
    let _second = open(&disk);
    assert!(matches!(open_with(damage(&disk, 3), small()).unwrap_err(), OpenError::Corrupt { .. }));
}

/// Loss of a whole segment, first, middle or last of those that were written to.
#[tokio::test]
async fn a_missing_segment_is_refused() {
    let disk = MemoryDisk::new();
    let log = open(&disk).log;
    for id in 0..60 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 700)).await;
    }
    let used = segments(&disk).into_iter().filter(|seq| !frames(&disk, *seq).is_empty()).count();
    assert!(used >= 3);
    for seq in 1..used as u64 {
        let disk = disk.crash();
        disk.remove(&segment::file_name(seq)).unwrap();
        assert!(matches!(open_with(disk, small()).unwrap_err(), OpenError::Corrupt { .. }));
    }
}

/// Writes a segment by hand: frames of one entry of 600 bytes each, as `(frame_seq, durable_upto, whole)`.
fn craft(disk: &MemoryDisk, seq: u64, frames: &[(u64, u64, bool)]) {
    let file = disk.create(&segment::file_name(seq)).unwrap();
    let write = |file: &Arc<dyn DiskFile>, offset: u64, bytes: &[u8]| {
        file.write_all_at(offset, &[std::io::IoSlice::new(bytes)]).unwrap();
    };
    write(&file, 0, &format::encode_header(&identity(), seq));
    file.set_len(16 << 10).unwrap();
    let (seed, mut at) = (Seed::of(&identity()), HEADER_BYTES as u64);
    for &(number, durable_upto, whole) in frames {
        let record = entries(LEDGER, number as i64 - 1, 1, 600);
        let Record::Entries { entries, .. } = &record else { unreachable!() };
        let body = vec![format::encode_record(LEDGER, &record, seed), entries[0].clone()];
        let head = FrameHead { segment: seq, seq: number, durable_upto };
        let mut bytes = format::encode_frame(head, seed, body).concat();
        if !whole {
            bytes[550] ^= 1;
        }
        write(&file, at, &bytes);
        at += bytes.len() as u64;
    }
    file.sync_data().unwrap();
    disk.sync_dir().unwrap();
}

/// A log with several frames in flight (as io_uring would leave it): 4 is torn, 5 to 7 arrived, and were not vouched for.
fn in_flight() -> MemoryDisk {
    let disk = MemoryDisk::new();
    craft(&disk, 1, &[(1, 0, true), (2, 1, true), (3, 2, true), (4, 3, false), (5, 3, true)]);
    craft(&disk, 2, &[(6, 3, true), (7, 3, true)]);
    disk
}

/// Appends entry 3 anew on what `in_flight` left, and looks at it after a crash.
async fn goes_on_after_in_flight(mutations: Mutations) -> Result<(), String> {
    let disk = in_flight();
    let opened = open_with(disk.clone(), Config { mutations, ..small() }).unwrap();
    assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(2));
    append_durably(&opened.log, LEDGER, entries(LEDGER, 3, 1, 50)).await;
    for disk in [disk.crash(), disk.crash_keeping(|| true)] {
        let opened = open_with(disk, small()).map_err(|error| error.to_string())?;
        if opened.ledgers[&LEDGER].held().last() != EntryId(3) {
            return Err("a frame that was given up came back".to_owned());
        }
        let read = read_all(&opened.log, LEDGER, 3, 3).await.map_err(|error| error.to_string())?;
        if read != [entry(LEDGER, 3, 50)] {
            return Err("an entry that was given up came back".to_owned());
        }
    }
    Ok(())
}

#[test]
fn scenario_37_frames_that_arrived_out_of_order_never_come_back() {
    holds_only_with(Mutation::KeepStaleTail, async |mutations| {
        assert_eq!(goes_on_after_in_flight(mutations).await, Ok(()));
    });
}

/// The same log, but a later frame says that 4 had been durable.
#[test]
fn one_frame_that_vouches_is_enough() {
    let disk = in_flight();
    craft(&disk, 3, &[(8, 4, true)]);
    assert!(matches!(open_with(disk, small()).unwrap_err(), OpenError::Corrupt { segment: 1, .. }));
}

/// No crash makes a segment that repeats another: neither is dropped.
#[test]
fn overlapping_segments_are_refused() {
    let disk = MemoryDisk::new();
    craft(&disk, 1, &[(1, 0, true), (2, 1, true)]);
    craft(&disk, 2, &[(1, 0, true)]);
    assert!(matches!(open_with(disk, small()).unwrap_err(), OpenError::Corrupt { segment: 2, .. }));
}

/// K5: a killed process leaves frames in the page cache. What the next process reports of them must survive a power
/// cut, too.
async fn survives_a_kill_and_a_power_cut(mutations: Mutations) -> bool {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_faulty(&faulty, small());
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 100)).await;
    faulty.hold(Op::Sync);
    append(&log, LEDGER, entries(LEDGER, 1, 1, 100)).await;
    faulty.wait_held(Op::Sync);
    // Killed here: the page cache is what the next process sees.
    let disk = disk.clone();
    let opened = open_with(disk.clone(), Config { mutations, ..small() }).unwrap();
    assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(1));
    let cut = disk.crash();
    faulty.fail(Op::Sync, 0, io::ErrorKind::Other);
    faulty.release(Op::Sync);
    let again = open_with(cut, small());
    again.is_ok_and(|again| {
        again.ledgers.get(&LEDGER).is_some_and(|state| state.held().last() == EntryId(1))
    })
}

#[tokio::test]
async fn what_was_found_is_made_durable() {
    assert!(survives_a_kill_and_a_power_cut(Mutations::default()).await);
}

#[tokio::test]
async fn trusting_the_page_cache_loses_what_was_reported() {
    assert!(!survives_a_kill_and_a_power_cut(Mutations::only(Mutation::TrustFoundTail)).await);
}

/// Opening may itself be cut short anywhere: the next attempt finds the same log.
#[tokio::test]
async fn opening_can_be_interrupted_anywhere() {
    for op in [Op::Names, Op::SyncDir, Op::Write, Op::Sync, Op::Read] {
        for good in 0..40 {
            let disk = in_flight();
            let faulty = FaultyDisk::new(disk.clone());
            faulty.fail(op, good, io::ErrorKind::Other);
            let interrupted = open_with(faulty, small());
            for disk in [disk.crash(), disk.crash_keeping(|| true)] {
                let opened = open_with(disk, small()).unwrap();
                assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(2), "{op:?} {good}");
                assert_reads(&opened.log, LEDGER, 0, 2, 600).await;
            }
            if interrupted.is_ok() {
                break;
            }
        }
    }
}

#[tokio::test]
async fn another_identity_is_refused() {
    let disk = MemoryDisk::new();
    drop(open(&disk));
    let others = [
        Identity { cluster: ClusterUuid::from_random(9), ..identity() },
        Identity { incarnation: Incarnation(8), ..identity() },
        Identity { disk: DiskUuid::from_random(9), ..identity() },
        Identity { bookie: "bookie-2".parse().unwrap(), ..identity() },
    ];
    for other in others {
        let refusal = Log::open(Arc::new(disk.crash()), other, small()).unwrap_err();
        assert!(matches!(refusal, OpenError::Foreign { segment: 1, .. }), "{refusal}");
    }
}

/// What the log must hold: the records of each process in order, as far as they were known durable.
#[derive(Default)]
struct Model {
    appended: Vec<(LedgerId, Record)>,
    next: BTreeMap<LedgerId, i64>,
}

impl Model {
    fn random_record(&mut self, random: &dyn Random) -> (LedgerId, Record) {
        // A tombstone is the last record of its ledger.
        let deleted = Self::image(&self.appended).tombstones;
        let alive: Vec<_> = (0..40).map(LedgerId).filter(|id| !deleted.contains(*id)).collect();
        let ledger = alive[random.below(4) as usize];
        let record = match random.below(12) {
            0 => Record::RunStart { fragment_first: EntryId(0) },
            1 => Record::Seal { epoch: SealEpoch(random.below(9) as u32) },
            2 => Record::Closed { last: EntryId(random.below(100) as i64) },
            3 if random.below(4) == 0 => Record::Tombstone,
            _ => {
                let first = self.next.get(&ledger).copied().unwrap_or(0);
                let count = 1 + random.below(4) as i64;
                self.next.insert(ledger, first + count);
                entries(ledger, first, count, random.below(3000) as usize)
            }
        };
        self.appended.push((ledger, record.clone()));
        (ledger, record)
    }

    fn image(records: &[(LedgerId, Record)]) -> Image {
        let (mut ledgers, mut tombstones) = (BTreeMap::new(), Tombstones::default());
        for (ledger, record) in records {
            ledgers.entry(*ledger).or_insert_with(|| LedgerState::unknown(*ledger)).apply(record);
            if *record == Record::Tombstone {
                ledgers.remove(ledger);
                tombstones.insert(*ledger);
            }
        }
        Image { ledgers: ledgers.into_values().collect(), tombstones }
    }

    /// The log must have come back as a prefix of what was appended, not shorter than what was acknowledged.
    async fn check(&mut self, opened: &Opened, acknowledged: usize) {
        let ledgers = opened.ledgers.values().cloned().collect();
        let image = Image { ledgers, tombstones: opened.tombstones.clone() };
        let kept = (acknowledged..=self.appended.len())
            .find(|kept| Self::image(&self.appended[..*kept]) == image);
        let kept = kept.expect("the log holds what was acknowledged, and nothing out of order");
        self.appended.truncate(kept);
        // A record that changes no state can hide how many came back: the index decides about entries.
        let mut contents: BTreeMap<LedgerId, BTreeMap<i64, Bytes>> = BTreeMap::new();
        for (ledger, record) in &self.appended {
            match record {
                Record::Entries { first, entries, .. } => {
                    let held = contents.entry(*ledger).or_default();
                    held.extend((first.0..).zip(entries.iter().cloned()));
                }
                Record::Tombstone => {
                    contents.remove(ledger);
                }
                _ => {}
            }
        }
        self.next = contents
            .iter()
            .filter_map(|(ledger, held)| Some((*ledger, held.last_key_value()?.0 + 1)))
            .collect();
        for ledger in (0..40).map(LedgerId) {
            let held = contents.remove(&ledger).unwrap_or_default();
            let end = held.last_key_value().map_or(0, |(id, _)| id + 1);
            for (id, content) in &held {
                let read = opened.log.read(ledger, EntryId(*id), EntryId(*id), 1).await.unwrap();
                assert_eq!(read, [content], "{ledger} {id}");
            }
            let beyond = opened.log.read(ledger, EntryId(end), EntryId(end), 1).await;
            assert!(matches!(beyond, Err(ReadError::Absent)), "{ledger} {end}");
        }
    }
}

/// Random records, random crashes that keep random sectors, processes that are killed, openings that are interrupted.
#[tokio::test]
async fn random_crashes() {
    let seed = std::env::var("GEMINGA_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemRandom.next_u64());
    println!("GEMINGA_SEED={seed}");
    let random = SeededRandom::new(seed);
    for _ in 0..12 {
        let mut disk = MemoryDisk::new();
        let mut model = Model::default();
        for _ in 0..6 {
            let opened = open(&disk);
            let already = model.appended.len();
            model.check(&opened, already).await;
            let mut appended_here = 0;
            for _ in 0..random.below(30) {
                let (ledger, record) = model.random_record(&random);
                let lsn = append(&opened.log, ledger, record).await;
                appended_here += 1;
                if random.below(4) == 0 {
                    opened.log.wait_durable(lsn).await.unwrap();
                }
                match random.below(12) {
                    0 => opened.log.write_footers().await.unwrap(),
                    1 => opened.log.snapshot(|| Some(Model::image(&model.appended))).await.unwrap(),
                    _ => {}
                }
            }
            if random.below(4) == 0 {
                opened.log.shutdown().await.unwrap();
            }
            let durable = opened.log.durable().borrow().lsn.0 as usize;
            disk = match random.below(3) {
                0 => disk.crash(),
                1 => disk.crash_torn(&random),
                _ => disk.crash_keeping(|| true),
            };
            // Once more, by a process that dies while it opens.
            let faulty = FaultyDisk::new(disk.clone());
            let op = [Op::Names, Op::SyncDir, Op::Write, Op::Sync][random.below(4) as usize];
            faulty.fail(op, random.below(10), io::ErrorKind::Other);
            drop(open_with(faulty, small()));
            disk = disk.crash_torn(&random);

            let opened = open(&disk);
            let acknowledged = model.appended.len() - appended_here + durable;
            model.check(&opened, acknowledged).await;
            disk = disk.crash();
        }
    }
}
