//! Opening a log on a disk that refuses to read some of it (K5, K8): something else stands in for that, or opening fails, changes
//! nothing and may be tried again. Nothing is taken for lost, and nothing is lost.

use super::refusing::RefusingDisk;
use super::upkeep::{Long, rot_footer, snapshots};
use super::*;

/// Opens a copy of a disk that refuses some of it; whether it opens. Either way the log is whole when the disk reads again.
async fn opens(long: &Long, disk: &MemoryDisk, refuse: impl Fn(&RefusingDisk)) -> bool {
    let disk = disk.crash();
    let before = disk.list().unwrap();
    let refusing = RefusingDisk::new(disk.clone());
    refuse(&refusing);
    let opens = match open_with(refusing, small()) {
        Ok(opened) => {
            let mut expected = upkeep::image(&long.appended);
            expected.ledgers.sort_by_key(LedgerState::id);
            assert_eq!(opened.ledgers.into_values().collect::<Vec<_>>(), expected.ledgers);
            assert_eq!(opened.tombstones, expected.tombstones);
            true
        }
        Err(error) => {
            assert!(matches!(error, OpenError::Io { .. }) && !error.is_loss(), "{error}");
            assert_eq!(disk.list().unwrap(), before, "a refusal changes nothing");
            false
        }
    };
    long.assert_whole(disk.crash()).await;
    opens
}

/// 5.5: the snapshot before it stands in for one that cannot be read, which is no reason to remove it.
#[tokio::test]
async fn the_older_snapshot_stands_in_for_one_that_is_refused() {
    let long = Long::new().await;
    let names = snapshots(&long.disk);
    assert!(opens(&long, &long.disk, |disk| disk.refuse(&names[1], 0..1)).await);
    assert!(
        opens(&long, &long.disk, |disk| names.iter().for_each(|name| disk.refuse(name, 0..1)))
            .await
    );
    let disk = long.disk.crash();
    let refusing = RefusingDisk::new(disk.clone());
    refusing.refuse(&names[1], 0..1);
    drop(open_with(refusing, small()).unwrap());
    assert_eq!(snapshots(&disk), names);
}

/// K8: segments that the snapshots did without are missing when no snapshot can be read. That is no loss, and no other life begins.
#[tokio::test]
async fn what_only_a_refused_snapshot_explains_is_no_loss() {
    let mut long = Long::on(MemoryDisk::new(), small());
    for id in 0..40 {
        long.append(LedgerId(9), entries(LedgerId(9), id, 1, 700)).await;
    }
    long.append(LedgerId(9), Record::Tombstone).await;
    for _ in 0..3 {
        long.log.reclaim().await.unwrap();
        long.snapshot().await;
    }
    assert!(!segments(&long.disk).contains(&1), "a segment went");
    let refusing = RefusingDisk::new(long.disk.crash());
    snapshots(&long.disk.crash()).iter().for_each(|name| refusing.refuse(name, 0..1));
    let error = open_with(refusing.clone(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    refusing.recover();
    let opened = open_with(refusing, small()).unwrap();
    assert_eq!(opened.tombstones, upkeep::image(&long.appended).tombstones);
}

/// A bad sector anywhere: in a footer the frames stand in for it, in a frame the footer does; where neither does, opening waits.
#[tokio::test]
async fn one_bad_sector_anywhere_loses_nothing() {
    let long = Long::new().await;
    let (mut opened, mut refused) = (0, 0);
    for footers in [true, false] {
        let disk = long.disk.crash();
        if !footers {
            segments(&disk).into_iter().for_each(|seq| rot_footer(&disk, seq));
        }
        for seq in segments(&disk) {
            let name = segment::file_name(seq);
            let sectors = disk.open(&name).unwrap().size().unwrap().div_ceil(512);
            for sector in (0..sectors).step_by(3) {
                let opens =
                    opens(&long, &disk, |disk| disk.refuse(&name, sector * 512..sector * 512 + 1));
                *(if opens.await { &mut opened } else { &mut refused }) += 1;
            }
        }
    }
    assert!(opened > 100 && refused > 100, "{opened} {refused}");
    // Only the footer.
    for seq in &segments(&long.disk)[..3] {
        let (name, end) = (segment::file_name(*seq), frames(&long.disk, *seq).pop().unwrap());
        let behind = (end.1 + end.2) as u64;
        assert!(opens(&long, &long.disk, |disk| disk.refuse(&name, behind..1 << 20)).await);
        let frames = HEADER_BYTES as u64..behind;
        assert!(opens(&long, &long.disk, |disk| disk.refuse(&name, frames.clone())).await);
    }
}

/// K8: frames that would vouch for one that is missing cannot be read: it is not cut off as torn.
#[tokio::test]
async fn nothing_is_cut_while_what_is_behind_it_is_unknown() {
    let disk = MemoryDisk::new();
    let large = Config { segment_bytes: 64 << 10, prefill_bytes: 64 << 10, ..small() };
    let log = open_with(disk.clone(), large).unwrap().log;
    for id in 0..4 {
        append_durably(&log, LEDGER, entries(LEDGER, id, 1, 5000)).await;
    }
    let disk = disk.crash();
    let all = frames(&disk, 1);
    for frame in &all[1..3] {
        disk.damage(&segment::file_name(1), frame.1 + 40, 3);
    }
    let refusing = RefusingDisk::new(disk.clone());
    refusing.refuse(&segment::file_name(1), all[3].1 as u64..(all[4].1 + all[4].2) as u64);
    let error = open_with(refusing.clone(), small()).unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    refusing.recover();
    assert!(matches!(open_with(refusing, small()).unwrap_err(), OpenError::Corrupt { .. }));
}

/// A log of many small records, and how many runs it has: over several segments, of one ledger after the other.
async fn many_runs(config: &Config) -> (Long, usize) {
    const LEDGERS: u64 = 20;
    let mut long = Long::on(MemoryDisk::new(), config.clone());
    for ledger in (1..=LEDGERS).map(LedgerId) {
        let mut last;
        for id in 0..1000 {
            let record = entries(ledger, id, 1, 1);
            last = append(&long.log, ledger, record.clone()).await;
            long.appended.push((ledger, record));
            if id % 50 == 49 {
                // A frame is no larger than some of a segment.
                long.log.wait_durable(last).await.unwrap();
                long.log.write_footers().await.unwrap();
            }
        }
    }
    (long, 1000 * LEDGERS as usize)
}

/// The index keeps to its memory while a log is opened, with a snapshot and without. What is above it is one segment's runs.
#[tokio::test]
async fn the_index_is_bounded_while_a_log_is_opened() {
    let config = Config { segment_bytes: 64 << 10, index_bytes: 64 << 10, ..small() };
    let (long, runs) = many_runs(&config).await;
    assert!(segments(&long.disk).len() > 20);
    for snapshot in [false, true] {
        if snapshot {
            // As of now: the next segment is the last that it lists.
            long.snapshot().await;
        }
        let opened = open_with(long.disk.crash(), config.clone()).unwrap();
        let most = opened.log.0.shared.index.most.load(std::sync::atomic::Ordering::Relaxed);
        assert!(most < 2 * config.index_bytes && most < runs * 24 / 3, "{most} bytes");
        assert!(opened.log.index_bytes() <= config.index_bytes);
        for ledger in [LedgerId(1), LedgerId(20)] {
            assert_reads(&opened.log, ledger, 900, 999, 1).await;
        }
    }
}

/// Few footers are in memory at a time, however many there are.
#[tokio::test]
async fn footers_are_read_as_they_are_taken() {
    let config = Config { segment_bytes: 16 << 10, ..small() };
    let (long, _) = many_runs(&config).await;
    let (disk, seqs) = (RefusingDisk::new(long.disk.crash()), segments(&long.disk));
    assert!(seqs.len() > 60);
    let mut found = Vec::new();
    load::footers(&disk, &seqs, Seed::of(&identity()), |number, footer| {
        assert!(disk.opened() <= number + 10, "{} were read for {number}", disk.opened());
        found.extend(footer.map(|footer| footer.segment));
        Ok::<_, ()>(())
    })
    .unwrap();
    assert!(found.len() > 60 && found.is_sorted());
    let stops = load::footers(&disk, &seqs, Seed::of(&identity()), |number, _| {
        if number == 7 { Err(number) } else { Ok(()) }
    });
    assert_eq!(stops, Err(7));
}
