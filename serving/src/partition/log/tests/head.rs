//! The head of a log: the log start only rises, segments go with their ledgers, and whoever takes over finds the end.

use geminga_metastore::record::{LedgerMeta, LedgerState, LogStart};
use geminga_metastore::{MetaStore, Txn, TxnOutcome, keys};

use super::*;
use crate::partition::testing::{Fault, FaultyStore};

const P0: PartitionIndex = PartitionIndex(0);

/// Ten offsets in each of `ledgers` ledgers, and one more that is open and holds none.
async fn log_of(
    cluster: &TestCluster,
    parts: &LogParts,
    topic: &Arc<Topic>,
    ledgers: u32,
) -> Owner {
    cluster.assign(topic.id, 0, parts.me.0, 1).await;
    let roll = Roll { bytes: 40, ..Roll::default() };
    let mut owner = Owner::open_with(parts, OpenSpec { roll, ..spec(topic, 1) }).await;
    for _ in 0..ledgers {
        owner.append(10);
        owner.all_acked().await;
        owner.pass(Duration::from_millis(10)).await;
    }
    assert_eq!(cluster.segments(topic.id, 0).await, ledgers as usize + 1);
    owner
}

async fn stored_start(cluster: &TestCluster, topic: &Arc<Topic>) -> Option<i64> {
    let found = cluster.store.get(&keys::log_start(topic.id, P0)).await.unwrap()?;
    Some(LogStart::decode(&found.value).unwrap().offset.0)
}

/// How many ledgers there are, and how many of them are tombstones; each of these has its mark.
async fn ledgers(cluster: &TestCluster) -> (usize, usize) {
    let all = cluster.store.range(keys::LEDGERS, None, 1_000).await.unwrap().items;
    let mut dead = 0;
    for item in &all {
        let ledger = keys::parse_ledger(&item.key).unwrap();
        let meta = LedgerMeta::decode(ledger, &item.value.value).unwrap();
        let marked = cluster.store.get(&keys::deleting(ledger)).await.unwrap().is_some();
        assert_eq!(meta.state == LedgerState::Deleting, marked);
        dead += usize::from(marked);
    }
    (all.len(), dead)
}

async fn bases(cluster: &TestCluster, topic: &Arc<Topic>) -> Vec<i64> {
    let stored = cluster.stored_segments(topic.id, 0).await;
    stored.iter().map(|segment| segment.base_offset.0).collect()
}

/// The next owner finds the same end, the state, and everything from the log start on.
async fn taken_over(cluster: &TestCluster, topic: &Arc<Topic>, start: i64, end: i64, state: u64) {
    let mut next = Owner::open(cluster, topic, 7, 7).await;
    let ends = next.reader.ends();
    assert_eq!((ends.log_start, ends.high_watermark), (Offset(start), Offset(end)));
    assert_eq!(next.before, state);
    read_all(&next.reader).await;
    next.append(1);
    next.all_acked().await;
    assert_eq!(next.high_watermark, Offset(end + 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_before_the_log_start_is_gone() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let owner = log_of(&cluster, &cluster.log_parts(1), &topic, 5).await;
    assert_eq!(owner.head.remove_dead().await, Ok(0), "everything is wanted");
    assert_eq!(owner.head.raise(Offset(25)).await, Ok(Offset(25)));
    assert_eq!(stored_start(&cluster, &topic).await, Some(25));
    assert_eq!(bases(&cluster, &topic).await, [0, 10, 20, 30, 40, 50], "the log start first");
    let below = owner.reader.read(Offset(24), 10).await;
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })), "{below:?}");
    // Whole entries: whoever reads from the log start skips what is before it, as everywhere.
    assert_eq!(owner.reader.read(Offset(25), 1).await.unwrap()[0].first_offset, Offset(20));
    assert_eq!(owner.head.remove_dead().await, Ok(2));
    assert_eq!(bases(&cluster, &topic).await, [20, 30, 40, 50]);
    assert_eq!(ledgers(&cluster).await, (6, 2));
    assert_eq!(owner.head.raise(Offset(3)).await, Ok(Offset(25)), "it never falls");
    let beyond = owner.head.raise(Offset(51)).await;
    assert!(matches!(beyond, Err(HeadError::BeyondEnd { .. })), "{beyond:?}");
    assert_eq!(stored_start(&cluster, &topic).await, Some(25));
    let mut next = Owner::open(&cluster, &topic, 7, 7).await;
    assert_eq!((next.reader.ends().log_start, next.high_watermark), (Offset(25), Offset(50)));
    next.append(1);
    next.all_acked().await;
}

/// P4: the newest ledger with a complete snapshot is what takeover begins with, so it stays though nothing of it is wanted.
#[test]
fn the_state_is_kept_when_all_records_are_given_up() {
    holds_only_with(Mutation::DropUnanchored, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        log_of(&cluster, &cluster.log_parts(1), &topic, 3).await;
        // The next owner has made a ledger and not a single record.
        let mut owner = Owner::without(mutations, &cluster, &topic, 2, 2).await;
        cluster.bookies.set_all(crate::partition::testing::Mode::Held);
        owner.append(1);
        owner.pass(Duration::from_millis(100)).await;
        assert_eq!(cluster.segments(topic.id, 0).await, 5);
        assert_eq!(owner.head.raise(Offset(30)).await, Ok(Offset(30)));
        owner.head.remove_dead().await.unwrap();
        drop(owner);
        cluster.bookies.set_all(crate::partition::testing::Mode::Up);
        assert_eq!(bases(&cluster, &topic).await, [30, 30]);
        let next = Owner::open(&cluster, &topic, 3, 3).await;
        assert_eq!(next.before, 3, "the state of three appends");
        assert_eq!(next.high_watermark, Offset(30));
    });
}

/// A ledger that begins anew takes over the state, and then the last records' ledger can go too.
#[tokio::test(start_paused = true)]
async fn a_log_at_rest_begins_anew_to_get_rid_of_its_last_records() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = log_of(&cluster, &cluster.log_parts(1), &topic, 3).await;
    owner.writer.begin_anew();
    assert_eq!(cluster.segments(topic.id, 0).await, 4, "not while a ledger is open");
    owner.pass(Duration::from_secs(700)).await;
    assert_eq!(owner.head.raise(Offset(30)).await, Ok(Offset(30)));
    owner.head.remove_dead().await.unwrap();
    assert_eq!(bases(&cluster, &topic).await, [20, 30]);
    owner.writer.begin_anew();
    owner.waiting.insert(4, (Offset(30), 0));
    owner.all_acked().await;
    // The writer removes by itself what the new ledger has made superfluous.
    owner.pass(Duration::from_secs(1)).await;
    assert_eq!(bases(&cluster, &topic).await, [30]);
    assert_eq!(ledgers(&cluster).await, (5, 4));
    taken_over(&cluster, &topic, 30, 30, 3).await;
}

/// Ledgers that came to nothing hold nothing, and go when a later one holds the state (DESIGN 4).
#[tokio::test(start_paused = true)]
async fn empty_segments_go_once_a_later_ledger_holds_the_state() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    for term in 1..=5 {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        cluster.bookies.set_all(crate::partition::testing::Mode::Held);
        owner.append(1);
        owner.pass(Duration::from_millis(100)).await;
        drop(owner);
        cluster.bookies.set_all(crate::partition::testing::Mode::Up);
    }
    let mut owner = Owner::open(&cluster, &topic, 6, 6).await;
    assert_eq!(cluster.segments(topic.id, 0).await, 5, "five ledgers without a record");
    let end = owner.high_watermark.0;
    owner.append(1);
    owner.all_acked().await;
    owner.pass(Duration::from_secs(1)).await;
    let left = bases(&cluster, &topic).await;
    assert_eq!(left.last(), Some(&end));
    assert!(left.len() < 5, "{left:?}");
    assert!(left.windows(2).all(|pair| pair[0] < pair[1]), "only some hold records: {left:?}");
    taken_over(&cluster, &topic, 0, end + 1, u64::try_from(end + 1).unwrap()).await;
}

/// Every answer is lost once, of every transaction that trims; and every request.
#[tokio::test(start_paused = true)]
async fn answers_that_get_lost_change_nothing() {
    for fault in [Fault::LoseAnswer, Fault::LoseRequest] {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let store = FaultyStore::new(cluster.store.clone());
        let parts = cluster.log_parts_on(1, Arc::new(store.clone()));
        let owner = log_of(&cluster, &parts, &topic, 25).await;
        for to in [35, 36, 190, 250] {
            store.set(fault);
            assert_eq!(owner.head.raise(Offset(to)).await, Ok(Offset(to)));
            assert_eq!(stored_start(&cluster, &topic).await, Some(to));
            store.set(fault);
            owner.head.remove_dead().await.unwrap();
        }
        store.set(Fault::None);
        assert_eq!(bases(&cluster, &topic).await, [240, 250]);
        assert_eq!(ledgers(&cluster).await, (26, 24));
        taken_over(&cluster, &topic, 250, 250, 25).await;
    }
}

/// Whoever was deposed raises nothing and removes nothing, not even with what it sent before.
#[test]
fn a_deposed_owner_gives_up_nothing() {
    holds_only_with(Mutation::ForgetTerm, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let mut parts = cluster.log_parts(1);
        parts.config.mutations = mutations;
        let owner = log_of(&cluster, &parts, &topic, 3).await;
        let next = Owner::open(&cluster, &topic, 2, 2).await;
        assert_eq!(owner.head.raise(Offset(20)).await, Err(HeadError::Deposed));
        assert_eq!(stored_start(&cluster, &topic).await, None);
        assert_eq!(next.head.raise(Offset(10)).await, Ok(Offset(10)));
        let key = keys::log_start(topic.id, P0);
        let found = cluster.store.get(&key).await.unwrap().unwrap();
        assert_eq!(LogStart::decode(&found.value).unwrap().offset, Offset(10));
    });
}

/// The key has a version of its own: an owner that does not look lowers what it does not know.
#[test]
fn a_log_start_never_falls() {
    holds_only_with(Mutation::LowerLogStart, async |mutations| {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("flights", 1).await;
        let mut parts = cluster.log_parts(1);
        parts.config.mutations = mutations;
        let owner = log_of(&cluster, &parts, &topic, 3).await;
        owner.head.raise(Offset(20)).await.unwrap();
        owner.head.raise(Offset(10)).await.unwrap();
        assert_eq!(stored_start(&cluster, &topic).await, Some(20));
    });
}

/// What was sent before a takeover and takes place after it fails its guard.
#[tokio::test(start_paused = true)]
async fn a_late_removal_fails_its_guard() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let owner = log_of(&cluster, &cluster.log_parts(1), &topic, 3).await;
    let term = cluster.store.get(&keys::term(topic.id, P0)).await.unwrap().unwrap();
    let late = Txn::new()
        .guard(geminga_metastore::Guard::Version(keys::term(topic.id, P0), term.version))
        .put(keys::log_start(topic.id, P0), LogStart { offset: Offset(30) }.encode());
    let _next = Owner::open(&cluster, &topic, 2, 2).await;
    assert_eq!(cluster.store.txn(late).await, Ok(TxnOutcome::GuardFailed));
    assert_eq!(owner.head.remove_dead().await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn lookups_by_time_know_nothing_of_what_is_gone() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 1;
    let roll = Roll { bytes: 40, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    // The second is far ahead of its time, and the fourth is the youngest of the rest.
    for time in [10, 9_000, 30, 50, 40] {
        let offset = owner.writer.next_offset();
        let what = What::Batches { offset_count: 10, max_timestamp: time };
        let appended = owner.writer.append(what, payload(offset, 10)).unwrap();
        owner.waiting.insert(appended.number, (offset, 10));
        owner.all_acked().await;
        owner.pass(Duration::from_millis(10)).await;
    }
    let youngest = async |reader: &LogReader| {
        reader.by_max_timestamp().await.unwrap().map(|entry| entry.first_offset.0)
    };
    let since = async |reader: &LogReader, time| {
        reader.by_time(time).await.unwrap().map(|entry| entry.first_offset.0)
    };
    assert_eq!(youngest(&owner.reader).await, Some(10));
    assert_eq!(since(&owner.reader, 31).await, Some(10));
    owner.head.raise(Offset(20)).await.unwrap();
    owner.head.remove_dead().await.unwrap();
    let next = Owner::open(&cluster, &topic, 2, 2).await;
    for reader in [&owner.reader, &next.reader] {
        assert_eq!(youngest(reader).await, Some(30));
        for (time, found) in [(0, Some(20)), (31, Some(30)), (50, Some(30)), (51, None)] {
            assert_eq!(since(reader, time).await, found, "{time}");
        }
    }
    next.head.raise(Offset(50)).await.unwrap();
    assert_eq!(youngest(&next.reader).await, None);
}

/// Kafka's `OffsetForLeaderEpoch`.
#[tokio::test(start_paused = true)]
async fn a_terms_end_is_where_the_next_one_begins() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    // Term 4 has no record.
    for (term, records) in [(2, 3), (3, 1), (4, 0), (6, 2)] {
        let mut owner = Owner::open(&cluster, &topic, term, term).await;
        for _ in 0..records {
            owner.append(10);
        }
        owner.all_acked().await;
    }
    let mut owner = Owner::open(&cluster, &topic, 8, 8).await;
    let ends = async |owner: &Owner, terms: &[i32]| -> Vec<Option<(i32, i64)>> {
        let mut ends = Vec::new();
        for term in terms {
            let end = owner.reader.end_of_term(Term(*term)).await.unwrap();
            ends.push(end.map(|(term, offset)| (term.0, offset.0)));
        }
        ends
    };
    let all = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let expected = [
        Some((1, 0)),
        Some((2, 30)),
        Some((3, 40)),
        Some((3, 40)),
        Some((3, 40)),
        Some((6, 60)),
        Some((6, 60)),
        Some((8, 60)),
        None,
    ];
    assert_eq!(ends(&owner, &all).await, expected);
    owner.append(5);
    owner.all_acked().await;
    assert_eq!(ends(&owner, &[7, 8]).await, [Some((6, 60)), Some((8, 65))]);
    let written = [(0, 2), (29, 2), (30, 3), (39, 3), (40, 6), (59, 6), (60, 8), (64, 8)];
    for (offset, term) in written {
        assert_eq!(
            owner.reader.term_of(Offset(offset)).await.unwrap(),
            Some(Term(term)),
            "{offset}"
        );
    }
    assert_eq!(owner.reader.term_of(Offset(65)).await.unwrap(), None, "nothing is there yet");
    owner.head.raise(Offset(45)).await.unwrap();
    owner.head.remove_dead().await.unwrap();
    assert_eq!(ends(&owner, &[2, 3, 6]).await, [Some((2, 45)), Some((3, 45)), Some((6, 60))]);
}
