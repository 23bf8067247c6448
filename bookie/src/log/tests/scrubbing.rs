//! Rot that nobody read is found, is unknown from then on, and what is sound stays.

use super::refusing::RefusingDisk;
use super::upkeep::Long;
use super::*;
use crate::log::suspects::PATIENCE;

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

/// A log of several full segments on a disk that can refuse to read, and what was appended.
async fn on_refusing(mutations: Mutations) -> (MemoryDisk, RefusingDisk, Long) {
    let memory = MemoryDisk::new();
    let disk = RefusingDisk::new(memory.clone());
    let config = Config { window_bytes: 0, read_ahead_bytes: 0, mutations, ..small() };
    let mut long = Long::over(memory.clone(), disk.clone(), config);
    for first in (0..60).step_by(3) {
        long.append(LEDGER, entries(LEDGER, first, 3, 700)).await;
    }
    long.log.write_footers().await.unwrap();
    (memory, disk, long)
}

/// Gives back all that may be; how many segments that were.
async fn reclaim_all(long: &Long) -> usize {
    let mut removed = 0;
    for _ in 0..3 {
        removed += long.log.reclaim().await.unwrap().removed;
        long.snapshot().await;
    }
    removed
}

/// S1, K9: a disk that refuses everything for a while has lost nothing, and nothing of it is forgotten or given back.
#[test]
fn scenario_65_an_outage_of_reads_is_no_rot() {
    holds_only_with(Mutation::TakeRefusalForRot, an_outage_of_reads);
}

async fn an_outage_of_reads(mutations: Mutations) {
    tokio::time::pause();
    let (_, disk, long) = on_refusing(mutations).await;
    disk.refuse_frames();
    let mut refused = 0;
    for _ in 0..4 {
        for _ in 0..20 {
            match long.log.scrub(1 << 20, sound).await {
                Ok(scrubbed) => {
                    assert_eq!((scrubbed.bad, scrubbed.damaged_frames), (vec![], false));
                    refused += scrubbed.refused;
                }
                Err(UpkeepError::Io { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            assert!(matches!(
                long.log.read(LEDGER, EntryId(7), EntryId(7), 1).await,
                Err(ReadError::Io { .. })
            ));
        }
        tokio::time::advance(PATIENCE).await;
    }
    assert!(refused > 20, "somebody is told: {refused}");
    assert_eq!(reclaim_all(&long).await, 0);
    assert_eq!(long.log.take_damaged(), None);
    disk.recover();
    assert_reads(&long.log, LEDGER, 0, 59, 700).await;
    assert_eq!(full_round(&long.log).await, []);
}

/// A record that is refused for long while others are read is restored like one that has rotted, but it is not forgotten: its segment
/// stays, and when the disk gives it again it is as good as ever.
#[tokio::test(start_paused = true)]
async fn one_record_that_is_refused_for_long_is_to_be_restored() {
    for comes_back in [true, false] {
        let (memory, disk, mut long) = on_refusing(Mutations::default()).await;
        let (_, offset, _) = frames(&memory, 1)[2];
        // Entries 3 to 5.
        disk.refuse(&segment::file_name(1), offset as u64 + 512..offset as u64 + 1024);
        let read = async |log: &Log| log.read(LEDGER, EntryId(4), EntryId(4), 1).await;
        assert_eq!(full_round(&long.log).await, []);
        assert!(matches!(read(&long.log).await, Err(ReadError::Io { .. })));
        assert_eq!(long.log.take_damaged(), None, "it may be back at once");
        tokio::time::advance(PATIENCE).await;
        assert_eq!(full_round(&long.log).await, []);
        assert_eq!(long.log.take_damaged(), Some(LEDGER));
        let damaged = read(&long.log).await;
        assert!(matches!(damaged, Err(ReadError::Corrupt { segment: 1, .. })), "{damaged:?}");
        assert_reads(&long.log, LEDGER, 6, 59, 700).await;
        assert_eq!(reclaim_all(&long).await, 0);
        if comes_back {
            disk.recover();
            assert_reads(&long.log, LEDGER, 0, 59, 700).await;
            tokio::time::advance(PATIENCE).await;
            full_round(&long.log).await;
            disk.refuse(&segment::file_name(1), offset as u64..offset as u64 + 1024);
            let refused = read(&long.log).await;
            assert!(matches!(refused, Err(ReadError::Io { .. })), "its time begins anew");
        } else {
            long.append(LEDGER, entries(LEDGER, 3, 3, 700)).await;
            assert_reads(&long.log, LEDGER, 0, 59, 700).await;
        }
    }
}

/// What cannot be read keeps nothing behind it from being looked at, be it a frame's head or the rest of it, or more records than
/// are asked for in one round.
#[tokio::test]
async fn what_the_disk_cannot_read_keeps_nothing_from_being_looked_at() {
    let (memory, disk, long) = on_refusing(Mutations::default()).await;
    let all = frames(&memory, 2);
    let (_, last, _) = *all.last().unwrap();
    memory.damage(&segment::file_name(2), last + 36 + 60 + 900, 2);
    for (from, to) in
        [(all[0].1, all[0].1 + 10), (all[1].1 + 600, all[1].1 + 601), (all[0].1, last)]
    {
        disk.refuse(&segment::file_name(2), from as u64..to as u64);
        let (mut found, mut refusals) = (Vec::new(), 0);
        for _ in 0..60 {
            match long.log.scrub(1 << 20, sound).await {
                Ok(scrubbed) => {
                    refusals += scrubbed.refused;
                    found.extend(scrubbed.bad.into_iter().map(|(_, first, _)| first.0));
                }
                Err(_) => refusals += 1,
            }
        }
        assert!(refusals > 0);
        if from == all[0].1 && to < last {
            assert_eq!(found.len(), 1, "the rot behind it: {found:?}");
        } else {
            assert!(found.is_empty(), "once: {found:?}");
        }
        disk.recover();
    }
    assert_eq!(long.log.take_damaged(), Some(LEDGER));
}

/// A file that is shorter than what was stored in it has lost it: that is known.
#[tokio::test]
async fn what_a_file_is_too_short_for_is_rot() {
    let (memory, _, long) = on_refusing(Mutations::default()).await;
    let (_, last, _) = *frames(&memory, 2).last().unwrap();
    let name = segment::file_name(2);
    let file = memory.open(&name).unwrap();
    let size = file.size().unwrap();
    let mut rest = vec![0; 1024 * ((size as usize - last) / 1024)];
    file.read_exact_at(size - rest.len() as u64, &mut rest).unwrap();
    file.set_len(last as u64 + 512).unwrap();
    // No footer says what was there; a reader knows.
    full_round(&long.log).await;
    let (_, from, _) = frames(&memory, 2)[0];
    assert!(from < last);
    let mut corrupt = 0;
    for id in 0..60 {
        let read = long.log.read(LEDGER, EntryId(id), EntryId(id), 1).await;
        corrupt += usize::from(matches!(read, Err(ReadError::Corrupt { segment: 2, .. })));
    }
    assert_eq!(corrupt, 3, "the entries of the last record");
}
