//! Owners that follow each other.

use geminga_ledger::RecoverError;
use geminga_metastore::keys;
use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState};
use geminga_proto::ids::{EntryId, LedgerId};
use geminga_proto::payload::Payload;

use super::*;
use crate::partition::testing::Mode;

#[tokio::test(start_paused = true)]
async fn the_next_owner_continues_where_the_last_one_ended() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut offset = 0;
    for term in 1..=4 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        assert_eq!(owner.high_watermark, Offset(offset));
        assert_eq!(owner.before, offset as u64 / 2, "state of the replay");
        assert_eq!(read_all(&owner.reader).await.len(), offset as usize / 2);
        for _ in 0..10 {
            owner.append(2);
            offset += 2;
        }
        owner.all_acked().await;
        assert_eq!(read_all(&owner.reader).await.len(), offset as usize / 2);
        // Killed: the ledger stays open, and the next owner recovers it.
    }
    assert_eq!(cluster.segments(topic.id, 0).await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_log_closed_in_order_needs_no_recovery() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(5);
    owner.all_acked().await;
    owner.writer.close().await;
    // Without bookies nothing could be recovered; the end of the log is read from one.
    cluster.bookies.set(1, Mode::Stopped);
    cluster.bookies.set(2, Mode::Stopped);
    let owner = Owner::open(&cluster, &topic, 2, 2).await;
    assert_eq!(owner.high_watermark, Offset(5));
}

/// A broker that lost its lease, and with it the partition, goes on: nothing that it does takes effect, and what it had
/// acknowledged is in the ledger that its successor closed.
#[test]
fn scenario_62_a_deposed_owner_gets_nothing_acknowledged() {
    holds_only_with(Mutation::ForgetTerm, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let mut old = Owner::without(mutations, &cluster, &topic, 1, 1).await;
        old.append(1);
        old.all_acked().await;
        let mut new = Owner::open(&cluster, &topic, 2, 2).await;
        old.append(1);
        old.until("the end", |owner| owner.lost.is_some()).await;
        assert_eq!(old.lost, Some(Lost::Deposed));
        assert_eq!(old.acked, 1);
        new.append(1);
        new.all_acked().await;
        assert_eq!(read_all(&new.reader).await.len(), 2);
        assert_eq!(read_all(&old.reader).await.len(), 1, "readers keep what was committed then");
    });
}

/// The transaction that would create its first ledger names the term as well.
#[test]
fn scenario_62_a_deposed_owner_that_never_wrote_creates_no_ledger() {
    holds_only_with(Mutation::ForgetTerm, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let mut old = Owner::without(mutations, &cluster, &topic, 1, 1).await;
        let mut new = Owner::open(&cluster, &topic, 2, 2).await;
        old.append(1);
        old.until("the end", |owner| owner.lost == Some(Lost::Deposed)).await;
        assert_eq!(cluster.segments(topic.id, 0).await, 0);
        new.append(1);
        new.all_acked().await;
    });
}

#[tokio::test(start_paused = true)]
async fn opening_again_under_the_same_term_ends_the_first_opening() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let parts = cluster.log_parts(1);
    let mut first = Owner::open_with(&parts, spec(&topic, 1)).await;
    let mut second = Owner::open_with(&parts, spec(&topic, 1)).await;
    second.append(1);
    second.all_acked().await;
    first.append(1);
    first.until("the end", |owner| owner.lost == Some(Lost::Deposed)).await;
    assert_eq!(first.acked, 0);
    assert_eq!(read_all(&second.reader).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_owner_killed_before_its_first_record_leaves_a_log_that_opens() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(7);
    owner.all_acked().await;
    for term in 2..=5 {
        let mut killed = Owner::open(&cluster, &topic, term, term).await;
        killed.append(1);
        if term == 3 {
            // A head snapshot of which only the first part arrives.
            killed.until("the ledger", |owner| owner.snapshots == 1).await;
        } else {
            while cluster.segments(topic.id, 0).await < term as usize {
                let _ = tokio::time::timeout(Duration::ZERO, killed.writer.event()).await;
            }
        }
    }
    assert!(cluster.segments(topic.id, 0).await >= 4);
    let mut owner = Owner::open(&cluster, &topic, 9, 9).await;
    let next = owner.high_watermark;
    assert!(next >= Offset(7), "whatever else became durable");
    owner.append(1);
    owner.all_acked().await;
    let entries = read_all(&owner.reader).await;
    assert_eq!(entries[0].offset_count, 7);
}

#[tokio::test(start_paused = true)]
async fn only_the_assigned_broker_under_its_term_opens() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let parts = cluster.log_parts(1);
    let refused = |opened: Result<Opened, OpenError>| opened.err() == Some(OpenError::NotOwner);
    assert!(refused(open(&parts, spec(&topic, 1)).await), "assigned to nobody");
    cluster.assign(topic.id, 0, 2, 1).await;
    assert!(refused(open(&parts, spec(&topic, 1)).await), "to another");
    cluster.assign(topic.id, 0, 1, 3).await;
    assert!(refused(open(&parts, spec(&topic, 2)).await), "under another term");
    assert!(open(&parts, spec(&topic, 3)).await.is_ok());
    cluster.assign(topic.id, 0, 1, 2).await;
    assert!(refused(open(&parts, spec(&topic, 2)).await), "terms only rise");
}

#[tokio::test(start_paused = true)]
async fn ends_of_closed_segments_are_remembered() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    for term in 1..=3 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        owner.append(4);
        owner.all_acked().await;
    }
    let _owner = Owner::open(&cluster, &topic, 4, 4).await;
    let stored = cluster.stored_segments(topic.id, 0).await;
    let ends: Vec<_> = stored.iter().map(|s| s.end_offset).collect();
    assert_eq!(ends, [Some(Offset(4)), Some(Offset(8)), Some(Offset(12))]);
}

/// P1: a deposed owner that does not know it yet gives out nothing that it could not be asked for next.
#[tokio::test(start_paused = true)]
async fn a_reader_never_passes_the_high_watermark_of_its_owner() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 0;
    let mut old = Owner::open_with(&parts, spec(&topic, 1)).await;
    old.append(2);
    old.all_acked().await;
    // Durable, while the answers are lost.
    cluster.bookies.set_all(Mode::Mute);
    old.append(1);
    old.append(1);
    old.pass(Duration::from_millis(500)).await;
    cluster.bookies.set_all(Mode::Up);
    let new = Owner::open(&cluster, &topic, 2, 2).await;
    assert_eq!((old.high_watermark, new.high_watermark), (Offset(2), Offset(4)));
    // The metadata is read again because nobody answers; it says where the new owner closed the ledger.
    cluster.bookies.set_all(Mode::Stopped);
    assert!(old.reader.read(Offset(0), 1_000).await.is_err());
    cluster.bookies.set_all(Mode::Up);
    let read = old.reader.read(Offset(0), 1_000).await.unwrap();
    assert_eq!(read.last().unwrap().end(), Offset(2));
    assert_eq!(old.reader.by_time(20).await.unwrap(), None);
}

/// H22: dates are written and never compared. The clock jumps by hours, in both directions, before each step of owners that
/// write, roll, are killed and follow each other.
#[tokio::test(start_paused = true)]
async fn scenario_61_a_clock_that_jumps_decides_nothing() {
    const HOUR_MS: i64 = 3_600_000;
    let cluster = TestCluster::new(4);
    let topic = cluster.create_topic("flights", 1).await;
    let mut written = 0;
    let jump = |step: i64| cluster.clock.set(1_700_000_000_000 + (step % 5 - 2) * HOUR_MS);
    for term in 1..=5 {
        jump(i64::from(term) * 3);
        cluster.assign(topic.id, 0, term, term).await;
        let parts = cluster.log_parts(term);
        let roll = Roll { bytes: 300, ..Roll::default() };
        let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, term) }).await;
        assert_eq!((owner.high_watermark, owner.before), (Offset(written), written.unsigned_abs()));
        for step in 0..12 {
            jump(step * 2);
            if step == 6 {
                // Replaced, while its registration stands.
                cluster.bookies.set(1 + term.unsigned_abs() as usize % 4, Mode::Stopped);
            }
            owner.append(1);
            owner.all_acked().await;
            written += 1;
        }
        cluster.bookies.set_all(Mode::Up);
        assert_eq!(read_all(&owner.reader).await.len() as i64, written);
    }
    assert!(cluster.segments(topic.id, 0).await > 5, "it rolled");
}

/// P4, with as many bytes in the open ledger; returns how many a takeover reads.
async fn read_by_a_takeover(megabytes: u32) -> usize {
    const ENTRY: usize = 256 * 1024;
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    let body = Bytes::from(vec![7; ENTRY]);
    for _ in 0..megabytes * 4 {
        let mut payload = Payload::with_index(Bytes::from(vec![9; 8 + 4 * 32]));
        payload.push(body.clone());
        let what = What::Batches { offset_count: 1, max_timestamp: 5 };
        let (appended, offset) = (owner.writer.append(what, payload), owner.writer.next_offset());
        owner.waiting.insert(appended.unwrap().number, (Offset(offset.0 - 1), 1));
        while owner.waiting.len() > 8 {
            owner.turn().await;
        }
    }
    owner.all_acked().await;
    assert_eq!(cluster.segments(topic.id, 0).await, 1, "one open ledger");
    cluster.assign(topic.id, 0, 2, 2).await;
    let before = cluster.bookies.read_bytes();
    let opened = open(&cluster.log_parts(2), spec(&topic, 2)).await.unwrap();
    let replay: Vec<Replay> = opened.replay.try_collect().await.unwrap();
    let indexes = replay.iter().filter(|step| match step {
        Replay::Batches { index, .. } => index.len() == 8 + 4 * 32,
        Replay::SnapshotPart(_) | Replay::Command(_) => false,
    });
    let replayed = indexes.count() * ENTRY;
    assert!((1..=32 * 1024 * 1024).contains(&replayed), "{replayed} bytes of batches");
    cluster.bookies.read_bytes() - before
}

#[tokio::test(start_paused = true)]
async fn a_takeover_reads_headers_since_the_newest_snapshot_only() {
    let read = read_by_a_takeover(100).await;
    println!("{read} bytes read");
    assert!(read < 1024 * 1024, "{read}");
}

/// The size that issue and design name; it needs as much memory.
#[tokio::test(start_paused = true)]
#[ignore = "holds 900 MB in memory"]
async fn a_takeover_of_900_mb_reads_headers_since_the_newest_snapshot_only() {
    let read = read_by_a_takeover(900).await;
    println!("{read} bytes read");
    assert!(read < 1024 * 1024, "{read}");
}

/// An index that is longer than what is read of it at first.
#[tokio::test(start_paused = true)]
async fn long_indexes_are_replayed_whole() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    let mut indexes = Vec::new();
    for size in [0, 10, 5_000, 10, 0, 70_000, 300] {
        let index = Bytes::from(vec![size as u8; size]);
        let mut payload = Payload::with_index(index.clone());
        payload.push(Bytes::from_static(b"batches"));
        let what = What::Batches { offset_count: 1, max_timestamp: 5 };
        let appended = owner.writer.append(what, payload).unwrap();
        owner.waiting.insert(appended.number, (appended.first_offset, 1));
        indexes.push(index);
    }
    owner.all_acked().await;
    let read = owner.reader.read(Offset(0), 1 << 20).await.unwrap();
    assert!(read.iter().all(|entry| entry.payload == "batches"), "readers see no index");
    cluster.assign(topic.id, 0, 2, 2).await;
    let opened = open(&cluster.log_parts(2), spec(&topic, 2)).await.unwrap();
    let replay: Vec<Replay> = opened.replay.try_collect().await.unwrap();
    let replayed: Vec<Bytes> = replay
        .into_iter()
        .filter_map(|step| match step {
            Replay::Batches { index, .. } => Some(index),
            Replay::SnapshotPart(_) | Replay::Command(_) => None,
        })
        .collect();
    assert_eq!(replayed, indexes);
    let read = opened.reader.read(Offset(0), 1 << 20).await.unwrap();
    assert!(!read.is_empty() && read.iter().all(|entry| entry.payload == "batches"));
}

/// 6.8: metadata from a backup names ledgers that were deleted since, in no order of ours: the log opens, behind all that is known, and
/// without a state.
#[tokio::test(start_paused = true)]
async fn a_log_whose_ledgers_were_deleted_since_the_backup_opens() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    for term in 1..=3 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        owner.append(5);
        owner.all_acked().await;
    }
    // Bookies come to it one after the other; one is away. The last ledger is open.
    let deleted = cluster.stored_segments(topic.id, 0).await;
    for segment in &deleted {
        cluster.bookies.delete(1, segment.ledger);
        cluster.bookies.delete(2, segment.ledger);
    }
    cluster.bookies.set(3, Mode::Stopped);
    let client = cluster.log_parts(9).ledgers;
    // What the audit does.
    let closed = client.close_deleted(deleted[2].ledger).await.unwrap().unwrap();
    assert_eq!((closed.last_entry, closed.length), (Some(EntryId::NONE), 0));
    assert!(matches!(closed.close_kind, Some(CloseKind::ForcedWithRisk { .. })));
    cluster.bookies.set(3, Mode::Up);
    cluster.bookies.delete(3, deleted[0].ledger);
    cluster.bookies.delete(3, deleted[1].ledger);

    let mut owner = Owner::open(&cluster, &topic, 4, 4).await;
    assert_eq!((owner.high_watermark, owner.before), (Offset(10), 0));
    owner.append(3);
    owner.all_acked().await;
    let mut owner = Owner::open(&cluster, &topic, 5, 5).await;
    assert_eq!(owner.high_watermark, Offset(13));
    owner.append(1);
    owner.all_acked().await;
}

/// The same where the end is there, and what was begun behind it is not: no offset that is known is given again, whatever bookies say of
/// it. One that had dropped it for an object has no tombstone.
#[tokio::test(start_paused = true)]
async fn no_offset_of_a_deleted_ledger_that_is_known_is_given_again() {
    for is_trimmed in [false, true] {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        for term in 1..=3 {
            let mut owner = Owner::open(&cluster, &topic, term, term).await;
            owner.append(5);
            owner.all_acked().await;
        }
        let stored = cluster.stored_segments(topic.id, 0).await;
        let client = cluster.log_parts(9).ledgers;
        for segment in &stored[1..] {
            match is_trimmed {
                true => cluster.bookies.trim(segment.ledger, EntryId(9), 7),
                false => {
                    (1..=3).for_each(|number| cluster.bookies.delete(number, segment.ledger));
                }
            }
        }
        // Both were open in the backup.
        reopen(&cluster, stored[1].ledger).await;
        for segment in &stored[1..] {
            let closed = client.close_deleted(segment.ledger).await.unwrap().unwrap();
            assert_eq!(closed.last_entry, Some(EntryId::NONE));
        }
        let owner = Owner::open(&cluster, &topic, 4, 4).await;
        assert_eq!((owner.high_watermark, owner.before), (Offset(10), 1), "{is_trimmed}");
    }
}

/// Makes a ledger that was closed since the backup an open one.
async fn reopen(cluster: &TestCluster, ledger: LedgerId) {
    let client = cluster.log_parts(9).ledgers;
    let (meta, version) = client.metadata(ledger).await.unwrap().unwrap();
    let open = LedgerMeta {
        state: LedgerState::Open,
        last_entry: None,
        length: 0,
        close_kind: None,
        ..meta
    };
    cluster.store.put_if(&keys::ledger(ledger), Some(version), open.encode()).await.unwrap();
}

/// What was given up lay before a segment that holds nothing: the log goes on where that one begins, not before it.
#[tokio::test(start_paused = true)]
async fn a_log_goes_on_where_its_newest_segment_begins() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    for term in 1..=2 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        for _ in 0..6 {
            owner.append(5);
            owner.all_acked().await;
        }
    }
    let stored = cluster.stored_segments(topic.id, 0).await;
    let client = cluster.log_parts(9).ledgers;
    reopen(&cluster, stored[0].ledger).await;
    cluster.bookies.lose_last(stored[0].ledger, 3);
    let closed = client.force_close(stored[0].ledger).await.unwrap();
    assert!(closed.last_entry > Some(EntryId::NONE), "{closed:?}");
    let (newest, version) = client.metadata(stored[1].ledger).await.unwrap().unwrap();
    let empty = LedgerMeta {
        state: LedgerState::Closed,
        last_entry: Some(EntryId::NONE),
        length: 0,
        close_kind: Some(CloseKind::Recovered),
        ..newest
    };
    cluster.store.put_if(&keys::ledger(empty.id), Some(version), empty.encode()).await.unwrap();
    let owner = Owner::open(&cluster, &topic, 3, 3).await;
    assert_eq!(owner.high_watermark, Offset(30));
}

/// An operator gave up what nobody delivers (4.8): the log opens, and goes on behind what is left.
#[tokio::test(start_paused = true)]
async fn a_log_whose_end_was_given_up_opens() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    for _ in 0..6 {
        owner.append(5);
    }
    owner.all_acked().await;
    let ledger = cluster.stored_segments(topic.id, 0).await[0].ledger;
    let last = cluster.bookies.lose_last(ledger, 3);
    let client = cluster.log_parts(9).ledgers;
    let closed = client.force_close(ledger).await.unwrap();
    assert_eq!(closed.last_entry, Some(EntryId(last.0 - 3)));
    assert!(matches!(closed.close_kind, Some(CloseKind::ForcedWithRisk { .. })));
    let mut owner = Owner::open(&cluster, &topic, 2, 2).await;
    assert!(owner.high_watermark < Offset(30), "{:?}", owner.high_watermark);
    owner.append(1);
    owner.all_acked().await;
}

/// What is in an object is not given up by what bookies know.
#[tokio::test(start_paused = true)]
async fn a_ledger_in_an_object_is_not_closed_by_force() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(5);
    owner.all_acked().await;
    let ledger = cluster.stored_segments(topic.id, 0).await[0].ledger;
    cluster.bookies.trim(ledger, EntryId(9), 7);
    let client = cluster.log_parts(9).ledgers;
    let refused = client.force_close(ledger).await.unwrap_err();
    assert_eq!(refused, RecoverError::InObject(ledger));
    assert_eq!(client.metadata(ledger).await.unwrap().unwrap().0.last_entry, None);
}

/// The same without a tombstone is a loss that a human must see.
#[tokio::test(start_paused = true)]
async fn a_log_whose_end_is_away_does_not_open_without_it() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(5);
    owner.all_acked().await;
    owner.writer.close().await;
    cluster.bookies.set_all(Mode::Stopped);
    cluster.assign(topic.id, 0, 2, 2).await;
    let refused = open(&cluster.log_parts(2), spec(&topic, 2)).await.unwrap_err();
    assert!(matches!(refused, OpenError::Unavailable(_)), "{refused:?}");
}
