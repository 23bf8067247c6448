//! A running log: order, back-pressure, failure, marks, shutdown.

use super::*;

#[tokio::test]
async fn places_are_in_order_and_marks_cumulative() {
    let log = open(&MemoryDisk::new()).log;
    assert_eq!(log.tail(), Lsn(0));
    log.wait_durable(Lsn(0)).await.unwrap();
    let mut last = Lsn(0);
    for id in 0..100 {
        let lsn = append(&log, LEDGER, entries(LEDGER, id, 1, 10)).await;
        assert!(lsn > last);
        last = lsn;
    }
    assert_eq!(log.tail(), last);
    log.wait_durable(last).await.unwrap();
    assert_eq!(*log.durable().borrow(), Durable { lsn: last, failed: None });
    assert_reads(&log, LEDGER, 0, 99, 10).await;
}

/// What is appended during a flush is written by the next one: one frame, one sync.
#[tokio::test]
async fn appends_during_a_flush_share_the_next() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let log = open_faulty(&faulty, small());
    faulty.hold(Op::Sync);
    let first = append(&log, LEDGER, entries(LEDGER, 0, 1, 10)).await;
    faulty.wait_held(Op::Sync);
    for id in 1..10 {
        append(&log, LEDGER, entries(LEDGER, id, 1, 10)).await;
    }
    assert!(poll_once(pin!(log.wait_durable(first))).is_pending(), "K3: not before the sync");
    assert!(matches!(log.read(LEDGER, EntryId(0), EntryId(0), 1).await, Err(ReadError::Absent)));
    faulty.release(Op::Sync);
    log.wait_durable(log.tail()).await.unwrap();
    assert_eq!(frames(&disk, 1).len(), 3, "the mark of opening, the first, the rest");
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait() {
    let faulty = FaultyDisk::new(MemoryDisk::new());
    let config = Config { queue_bytes: 1000, ..small() };
    let log = open_faulty(&faulty, config);
    faulty.hold(Op::Sync);
    let permit = log.reserve(700).await.unwrap();
    let lsn = log.append(LEDGER, entries(LEDGER, 0, 1, 600), permit).unwrap();
    faulty.wait_held(Op::Sync);
    let unused = log.reserve(200).await.unwrap();
    let mut more = pin!(log.reserve(300));
    assert!(poll_once(more.as_mut()).is_pending());
    drop(unused);
    let mut permit = more.await.unwrap();
    // One reservation, two records.
    let seal = log.append(LEDGER, Record::Seal { epoch: SealEpoch(1) }, permit.split(20)).unwrap();
    let mut larger_than_the_queue = pin!(log.reserve(5000));
    assert!(poll_once(larger_than_the_queue.as_mut()).is_pending());
    drop(permit);
    assert!(poll_once(larger_than_the_queue.as_mut()).is_pending());
    faulty.release(Op::Sync);
    larger_than_the_queue.await.unwrap();
    assert!(seal > lsn);
    log.wait_durable(seal).await.unwrap();
}

/// K6: after any failed write or sync nothing is acknowledged, although the disk would take the next.
#[test]
fn scenario_35_a_failed_write_or_sync_poisons_the_log() {
    holds_only_with(Mutation::RetrySync, async |mutations| {
        for op in [Op::Write, Op::Sync] {
            let disk = MemoryDisk::new();
            let faulty = FaultyDisk::new(disk.clone());
            let config = Config { queue_bytes: 2000, mutations, ..small() };
            let log = open_faulty(&faulty, config);
            append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 100)).await;
            faulty.hold(op);
            let lost = append(&log, LEDGER, entries(LEDGER, 1, 1, 100)).await;
            faulty.wait_held(op);
            let behind = append(&log, LEDGER, entries(LEDGER, 2, 1, 100)).await;
            let waits = pin!(log.reserve(2000));
            faulty.fail(op, 0, io::ErrorKind::Other);
            faulty.release(op);
            let poisoned = |failed: LogFailed| matches!(failed, LogFailed::Poisoned(_));
            assert!(poisoned(log.wait_durable(lost).await.unwrap_err()));
            assert!(poisoned(log.wait_durable(behind).await.unwrap_err()));
            assert!(poisoned(waits.await.unwrap_err()));
            let permit = Permit(None);
            assert!(poisoned(log.append(LEDGER, Record::Tombstone, permit).unwrap_err()));
            log.wait_durable(Lsn(1)).await.expect("what was acknowledged stays so");
            assert_reads(&log, LEDGER, 0, 0, 100).await;
            let unknown = log.read(LEDGER, EntryId(1), EntryId(1), 1).await;
            assert!(matches!(unknown, Err(ReadError::Failed(_))), "K1: not absent");
            assert!(poisoned(log.shutdown().await.unwrap_err()));
            assert_reads(&open(&disk.crash()).log, LEDGER, 0, 0, 100).await;
        }
    });
}

/// Appends until the log fails, or has taken `most`; how many were acknowledged.
async fn fill(log: &Log, most: i64) -> (i64, Option<LogFailed>) {
    for id in 0..most {
        let record = entries(LEDGER, id, 1, 1000);
        let Ok(permit) = log.reserve(Log::cost(&record)).await else { unreachable!() };
        let Ok(lsn) = log.append(LEDGER, record, permit) else { unreachable!() };
        if let Err(failed) = log.wait_durable(lsn).await {
            return (id, Some(failed));
        }
    }
    (most, None)
}

/// A segment that cannot be made stops the log where it is needed, and not before.
#[tokio::test]
async fn without_a_next_segment_the_log_fails() {
    let faulty = FaultyDisk::new(MemoryDisk::new());
    // The first segment gets its name with two calls; the second does not get a file,
    faulty.fail(Op::Names, 2, io::ErrorKind::Other);
    let log = open_with(faulty.clone(), small()).unwrap().log;
    faulty.wait_calls(Op::Names, 3);
    // and not when it is wanted, either.
    faulty.fail(Op::Names, 1, io::ErrorKind::Other);
    let (acknowledged, failed) = fill(&log, 100).await;
    let failed = failed.unwrap();
    assert!(matches!(&failed, LogFailed::Poisoned(why) if why.contains("injected")), "{failed}");
    assert!(acknowledged > 5);
    assert_reads(&log, LEDGER, 0, acknowledged - 1, 1000).await;
}

/// What fails while a segment is made ahead has touched nothing of the log: it is made when it is needed.
#[tokio::test]
async fn a_segment_that_could_not_be_made_ahead_is_made_when_it_is_needed() {
    // Of the second segment: what the log writes meanwhile goes to the first.
    let second = segment::unfinished_name(2);
    for (op, good) in [
        (Op::Names, 0),
        (Op::Names, 1),
        (Op::Write, 0),
        (Op::Write, 1),
        (Op::Write, 2),
        (Op::Sync, 0),
        (Op::Sync, 1),
        // The directory has no name, and the first segment syncs it once.
        (Op::SyncDir, 1),
    ] {
        let disk = MemoryDisk::new();
        let faulty = FaultyDisk::new(disk.clone());
        match op {
            Op::SyncDir => faulty.fail(op, good, io::ErrorKind::Other),
            _ => faulty.fail_on(&second, op, good, io::ErrorKind::Other),
        }
        let log = open_with(faulty.clone(), small()).unwrap().log;
        faulty.wait_failed(op);
        assert_eq!(fill(&log, 40).await, (40, None), "{op:?} {good}");
        let opened = open(&disk.crash());
        assert_reads(&opened.log, LEDGER, 0, 39, 1000).await;
    }
}

/// K8: an idle log vouches for its last frame, once.
#[tokio::test]
async fn an_idle_log_writes_one_mark() {
    let disk = MemoryDisk::new();
    let faulty = FaultyDisk::new(disk.clone());
    let config = Config { idle_mark: std::time::Duration::from_millis(1), ..small() };
    let log = open_faulty(&faulty, config);
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 100)).await;
    // Whether it was written already, or is held here, there is one.
    faulty.hold(Op::Sync);
    append(&log, LEDGER, entries(LEDGER, 1, 1, 100)).await;
    faulty.wait_held(Op::Sync);
    faulty.release(Op::Sync);
    log.wait_durable(log.tail()).await.unwrap();
    while frames(&disk, 1).last().unwrap().2 > 512 || frames(&disk, 1).len() < 4 {
        tokio::task::yield_now().await;
    }
    let marked = frames(&disk, 1).len();
    log.shutdown().await.unwrap();
    assert_eq!(frames(&disk, 1).len(), marked + 1, "only the final mark came after it");
}

#[tokio::test]
async fn shutdown_writes_what_was_accepted() {
    let disk = MemoryDisk::new();
    let log = open(&disk).log;
    let lsn = append(&log, LEDGER, entries(LEDGER, 0, 20, 700)).await;
    let permit = log.reserve(1).await.unwrap();
    log.shutdown().await.unwrap();
    log.wait_durable(lsn).await.unwrap();
    assert_eq!(log.append(LEDGER, Record::Tombstone, permit).unwrap_err(), LogFailed::Closed);
    assert_eq!(log.reserve(1).await.unwrap_err(), LogFailed::Closed);
    assert_eq!(log.wait_durable(Lsn(lsn.0 + 1)).await.unwrap_err(), LogFailed::Closed);
    let opened = open(&disk.crash());
    assert_reads(&opened.log, LEDGER, 0, 19, 700).await;
}

/// Nobody has to call shutdown: what was appended is written when the last handle goes.
#[tokio::test]
async fn dropping_the_log_writes_what_was_accepted() {
    let disk = MemoryDisk::new();
    let log = open(&disk).log;
    append(&log, LEDGER, entries(LEDGER, 0, 3, 100)).await;
    let mut durable = log.durable();
    drop(log);
    durable.wait_for(|durable| durable.failed == Some(LogFailed::Closed)).await.unwrap();
    assert_reads(&open(&disk.crash()).log, LEDGER, 0, 2, 100).await;
}

#[tokio::test]
async fn a_record_above_the_limit_is_refused() {
    let log = open(&MemoryDisk::new()).log;
    let record = entries(LEDGER, 0, 1, Log::MAX_RECORD_BYTES);
    let permit = log.reserve(1).await.unwrap();
    let refusal = log.append(LEDGER, record, permit).unwrap_err();
    assert!(matches!(refusal, LogFailed::TooLarge { .. }));
    append_durably(&log, LEDGER, entries(LEDGER, 0, 1, 10)).await;
}

#[test]
fn sizes_out_of_range_are_refused() {
    for config in [
        Config { segment_bytes: 100, ..small() },
        Config { prefill_bytes: 2 << 30, ..small() },
        Config { queue_bytes: 0, ..small() },
    ] {
        assert!(matches!(open_with(MemoryDisk::new(), config), Err(OpenError::Config(_))));
    }
}

#[test]
fn a_log_exists_once_it_was_opened() {
    let disk = MemoryDisk::new();
    disk.create("cookie").unwrap();
    assert!(!Log::exists(&disk).unwrap());
    drop(open(&disk));
    assert!(Log::exists(&disk).unwrap());
}

/// Files without a name take all that is written to them: a log whose directory is gone fails, also one that nobody writes to.
#[tokio::test]
async fn a_log_whose_directory_is_gone_fails() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("log");
    std::fs::create_dir(&path).unwrap();
    let disk = crate::io::RealDisk::open(&path).unwrap();
    let log = Log::open(Arc::new(disk), identity(), small()).unwrap().log;
    let lsn = append(&log, LEDGER, entries(LEDGER, 0, 1, 10)).await;
    log.wait_durable(lsn).await.unwrap();
    log.look_for_directory().await.unwrap();
    assert_eq!(log.durable().borrow().failed, None);
    std::fs::rename(&path, root.path().join("elsewhere")).unwrap();
    log.look_for_directory().await.unwrap();
    let mut durable = log.durable();
    let failed = durable.wait_for(|durable| durable.failed.is_some()).await.unwrap().failed.clone();
    assert!(
        matches!(&failed, Some(LogFailed::Poisoned(why)) if why.contains("removed")),
        "{failed:?}"
    );
    assert_eq!(Some(log.shutdown().await.unwrap_err()), failed);
    // No mark says that it ended in good order.
    assert!(log.reserve(1).await.is_err());
}
