//! Removals on a small cluster in memory, cut short after every single transaction, and raced by a stale coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use geminga_metastore::record::{Coordinator, DeletedTopic, LedgerMeta, LedgerState};
use geminga_metastore::{
    Error, LeaseId, MemoryStore, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream, keys,
};
use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};
use parking_lot::Mutex;

use super::core::Over;
use super::task::Worker;
use crate::ownership::topology::Topic;
use crate::partition::log::{self, Event, OpenSpec, Opened, Roll, What};
use crate::partition::testing::{Mode, TestCluster};
use crate::topics::quorum::Quorum;

/// More than one transaction of every kind has to be made for these.
const PARTITIONS: u32 = 60;
const LIMIT: Duration = Duration::from_secs(600);

/// What becomes of one transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It takes place, and nobody says so.
    LoseAnswer,
    /// It is lost.
    LoseRequest,
    /// It takes place, and the process ends.
    Crash,
    /// It is sent, and takes place when the test says so: late, after its sender gave up.
    Late,
    /// It takes place, after an owner that knows of nothing wanted to make a ledger.
    Intrude,
}

/// A store in memory that treats one transaction by its fate.
#[derive(Debug)]
struct Fateful {
    store: MemoryStore,
    fate: Fate,
    /// Transactions before it.
    before: usize,
    made: AtomicUsize,
    late: Mutex<Option<Txn>>,
    crashed: Mutex<bool>,
    intruder: tokio::sync::Mutex<Option<Opened>>,
}

impl Fateful {
    fn new(store: &MemoryStore, before: usize, fate: Fate) -> Arc<Self> {
        Arc::new(Self {
            store: store.clone(),
            fate,
            before,
            made: AtomicUsize::new(0),
            late: Mutex::new(None),
            crashed: Mutex::new(false),
            intruder: tokio::sync::Mutex::new(None),
        })
    }

    /// Whether its fate has come.
    fn has_struck(&self) -> bool {
        self.made.load(Ordering::SeqCst) > self.before
    }

    fn alive(&self) -> Result<(), Error> {
        if *self.crashed.lock() {
            return Err(Error::Unavailable("this process has ended".to_owned()));
        }
        Ok(())
    }
}

#[async_trait]
impl MetaStore for Fateful {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.alive()?;
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.alive()?;
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.alive()?;
        let unknown = Err(Error::Unknown("told so by the test".to_owned()));
        if self.made.fetch_add(1, Ordering::SeqCst) != self.before {
            return self.store.txn(txn).await;
        }
        match self.fate {
            Fate::LoseRequest => return unknown,
            Fate::Late => *self.late.lock() = Some(txn),
            Fate::Intrude => {
                let mut intruder = self.intruder.lock().await;
                append(intruder.as_mut().expect("a test that intrudes names one")).await;
                return self.store.txn(txn).await;
            }
            Fate::LoseAnswer | Fate::Crash => {
                self.store.txn(txn).await?;
            }
        }
        *self.crashed.lock() = self.fate != Fate::LoseAnswer;
        unknown
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }
}

struct World {
    cluster: TestCluster,
    topic: Arc<Topic>,
    other: Arc<Topic>,
    /// Owners that know nothing of the deletion.
    owners: Vec<Opened>,
}

async fn open(
    cluster: &TestCluster,
    topic: &Arc<Topic>,
    partition: u32,
) -> Result<Opened, log::OpenError> {
    let spec = OpenSpec {
        topic: Arc::clone(topic),
        partition: PartitionIndex(partition),
        term: Term(1),
        quorum: Quorum::CLUSTER,
        roll: Roll::default(),
    };
    log::open(&cluster.log_parts(1), spec).await
}

/// Appends one record; false when the opening is over.
async fn append(owner: &mut Opened) -> bool {
    let what = What::Batches { offset_count: 1, max_timestamp: 5 };
    if owner.writer.append(what, vec![Bytes::from_static(b"record")]).is_err() {
        return false;
    }
    let appended = async {
        loop {
            match owner.writer.event().await {
                Event::Acked { .. } => return true,
                Event::Snapshot(wanted) => wanted.answer(vec![Bytes::new()]),
                Event::Lost(_) => return false,
            }
        }
    };
    tokio::time::timeout(LIMIT, appended).await.expect("an end")
}

impl Worker {
    /// One attempt from the start.
    async fn remove(&self, topic: TopicId, office: Revision) -> Over {
        self.attempt(topic, office, None, LIMIT).await.0
    }
}

impl World {
    /// Two topics with records, one of which was deleted.
    async fn new() -> Self {
        let cluster = TestCluster::new(3);
        let topic = cluster.create_topic("deleted", PARTITIONS + 64).await;
        let other = cluster.create_topic("other", 1).await;
        cluster.assign(other.id, 0, 1, 1).await;
        let mut owners = vec![open(&cluster, &other, 0).await.unwrap()];
        for partition in (0..PARTITIONS).chain([PARTITIONS + 63]) {
            cluster.assign(topic.id, partition, 1, 1).await;
            owners.push(open(&cluster, &topic, partition).await.unwrap());
        }
        // Some have records, one of them none that is left open.
        for owner in owners.iter_mut().take(21) {
            assert!(append(owner).await);
        }
        owners.remove(1).writer.close().await;
        let world = Self { cluster, topic, other, owners };
        world.delete().await;
        world
    }

    async fn delete(&self) {
        let left = DeletedTopic {
            namespace: "default".to_owned(),
            name: "deleted".to_owned(),
            partitions: self.topic.partitions,
            deleted_ms: 0,
        };
        let txn = Txn::new()
            .delete(keys::topic("default", "deleted"))
            .put(keys::deleted_topic(self.topic.id), left.encode());
        self.cluster.store.txn(txn).await.unwrap();
    }

    /// Another coordinator takes office.
    async fn elect(&self, broker: i32) -> Revision {
        let store = &self.cluster.store;
        store.txn(Txn::new().delete(keys::COORDINATOR)).await.unwrap();
        let record = Coordinator { broker: BrokerId(broker) };
        let elected = store.txn(Txn::new().put(keys::COORDINATOR, record.encode())).await;
        let Ok(TxnOutcome::Committed(created)) = elected else { panic!("{elected:?}") };
        created
    }

    fn worker(&self, store: Arc<dyn MetaStore>) -> Worker {
        Worker { ledgers: self.cluster.log_parts_on(9, Arc::clone(&store)).ledgers, store }
    }

    fn plain(&self) -> Worker {
        self.worker(Arc::new(self.cluster.store.clone()))
    }

    /// Everything but the counters of ids.
    async fn keys(&self) -> BTreeMap<String, Bytes> {
        let all = self.cluster.store.range("", None, 100_000).await.unwrap();
        let items = all.items.into_iter().filter(|item| !item.key.starts_with("alloc/"));
        items.map(|item| (item.key, item.value.value)).collect()
    }

    /// Nothing names the topic any more but its tombstones, and the other topic is as it was.
    async fn check_removed(&mut self) {
        let keys = self.keys().await;
        let id = self.topic.id.to_string();
        let left: Vec<_> = keys.keys().filter(|key| key.contains(&id)).collect();
        assert!(left.is_empty(), "{left:?}");
        let (mut dead, mut alive) = (0, 0);
        for (key, value) in &keys {
            let Some(ledger) = keys::parse_ledger(key) else { continue };
            let meta = LedgerMeta::decode(ledger, value).unwrap();
            let deleting = meta.state == LedgerState::Deleting;
            assert_eq!(deleting, meta.custom.topic == self.topic.id, "{meta:?}");
            assert_eq!(deleting, keys.contains_key(&keys::deleting(ledger)));
            dead += usize::from(deleting);
            alive += usize::from(!deleting);
        }
        assert!((20..=21).contains(&dead) && alive == 1, "{dead} dead, {alive} alive");
        assert!(append(&mut self.owners[0]).await, "the other topic goes on");
        assert!(keys.contains_key(&keys::term(self.other.id, PartitionIndex(0))));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_deleted_topic() {
    let mut world = World::new().await;
    let office = world.elect(9).await;
    assert_eq!(world.plain().remove(world.topic.id, office).await, Over::Done);
    world.check_removed().await;
    // Whoever owned it, and does not know, has nothing acknowledged and makes nothing.
    let before = world.keys().await;
    for owner in world.owners.iter_mut().skip(1) {
        assert!(!append(owner).await, "acknowledged in a topic that is gone");
    }
    assert!(open(&world.cluster, &world.topic, 70).await.is_err(), "opened though it is gone");
    assert_eq!(world.keys().await, before);
    assert_eq!(world.plain().remove(world.topic.id, office).await, Over::Done, "again");
}

/// Every transaction's answer is lost once, every one is lost once, and the process ends after every one.
#[tokio::test(start_paused = true)]
async fn a_removal_goes_on_from_wherever_it_was_cut() {
    for fate in [Fate::LoseAnswer, Fate::LoseRequest, Fate::Crash] {
        for before in 0.. {
            let mut world = World::new().await;
            let store = Fateful::new(&world.cluster.store, before, fate);
            let office = world.elect(8).await;
            let over = world.worker(store.clone()).remove(world.topic.id, office).await;
            if !store.has_struck() {
                assert!(before > 8, "{before} transactions are fewer than there are kinds");
                break;
            }
            if fate == Fate::Crash {
                let ended = matches!(over, Over::Later(_));
                assert!(ended, "{over:?} after {before} transactions");
                let office = world.elect(9).await;
                assert_eq!(world.plain().remove(world.topic.id, office).await, Over::Done);
            } else {
                assert_eq!(over, Over::Done, "{fate:?} after {before} transactions");
            }
            world.check_removed().await;
        }
    }
}

/// An owner that knows of nothing makes a ledger wherever it still can; nobody forgets that one.
#[tokio::test(start_paused = true)]
async fn no_ledger_is_made_behind_the_removals_back() {
    for before in 0.. {
        let mut world = World::new().await;
        let store = Fateful::new(&world.cluster.store, before, Fate::Intrude);
        *store.intruder.lock().await = world.owners.pop();
        let office = world.elect(9).await;
        let over = world.worker(store.clone()).remove(world.topic.id, office).await;
        assert_eq!(over, Over::Done, "after {before} transactions");
        world.check_removed().await;
        if !store.has_struck() {
            break;
        }
    }
}

/// A transaction that takes place after its sender was deposed changes nothing, wherever the next coordinator is then.
#[tokio::test(start_paused = true)]
async fn what_a_stale_coordinator_still_has_on_its_way_changes_nothing() {
    for before in 0.. {
        let mut world = World::new().await;
        let store = Fateful::new(&world.cluster.store, before, Fate::Late);
        let stale = world.elect(8).await;
        world.worker(store.clone()).remove(world.topic.id, stale).await;
        if !store.has_struck() {
            break;
        }
        let office = world.elect(9).await;
        let late = store.late.lock().take().expect("it is on its way");
        let keys = world.keys().await;
        let of_office = late.guards.iter().any(|guard| {
            let named = geminga_metastore::Guard::Created(keys::COORDINATOR.to_owned(), stale);
            *guard == named
        });
        let outcome = world.cluster.store.txn(late).await.unwrap();
        if of_office {
            assert_eq!(outcome, TxnOutcome::GuardFailed, "after {before} transactions");
            assert_eq!(world.keys().await, keys);
        }
        // Its other transactions close ledgers, as anybody may.
        assert_eq!(world.plain().remove(world.topic.id, stale).await, Over::Deposed);
        assert_eq!(world.plain().remove(world.topic.id, office).await, Over::Done);
        world.check_removed().await;
    }
}

/// Ledgers that cannot be closed keep their segments and the mark, and no others.
#[tokio::test(start_paused = true)]
async fn ledgers_whose_bookies_are_away_are_removed_when_these_are_back() {
    let mut world = World::new().await;
    let office = world.elect(9).await;
    for bookie in 1..=2 {
        world.cluster.bookies.set(bookie, Mode::Stopped);
    }
    let over = world.plain().remove(world.topic.id, office).await;
    assert!(matches!(over, Over::Later(_)), "{over:?}");
    let id = world.topic.id;
    let left: usize = {
        let prefix = keys::all_segments_of(id);
        world.cluster.store.range(&prefix, None, 1_000).await.unwrap().items.len()
    };
    assert_eq!(left, 19, "all but the one that was closed");
    assert!(world.keys().await.contains_key(&keys::deleted_topic(id)));
    for bookie in 1..=2 {
        world.cluster.bookies.set(bookie, Mode::Up);
    }
    assert_eq!(world.plain().remove(id, office).await, Over::Done);
    world.check_removed().await;
}

/// The mark of a topic that never had a record, nor an owner.
#[tokio::test]
async fn an_unused_topic_leaves_nothing_either() {
    let world = World { owners: Vec::new(), ..World::new().await };
    let id = TopicId::from_random(99);
    let left = DeletedTopic {
        namespace: "default".to_owned(),
        name: "unused".to_owned(),
        partitions: 10_000,
        deleted_ms: 0,
    };
    world.cluster.store.put_if(&keys::deleted_topic(id), None, left.encode()).await.unwrap();
    let office = world.elect(9).await;
    assert_eq!(world.plain().remove(id, office).await, Over::Done);
    assert!(!world.keys().await.contains_key(&keys::deleted_topic(id)));
}

/// Tombstones stand for a week, by their own word and the clock's; the rest stays, and a stale coordinator removes nothing.
#[tokio::test(start_paused = true)]
async fn tombstones_go_after_a_week() {
    const WEEK: i64 = 7 * 24 * 3_600_000;
    let world = World::new().await;
    let stale = world.elect(8).await;
    assert_eq!(world.plain().remove(world.topic.id, stale).await, Over::Done);
    let office = world.elect(9).await;
    let since = geminga_runtime::WallClock::now_ms(&world.cluster.clock);
    let before = world.keys().await;
    let seen = world.plain().revision().await.unwrap();
    for (office, now) in [(office, since), (office, since + WEEK - 1), (stale, since + WEEK)] {
        assert_eq!(world.plain().bury(office, seen, now).await, Ok(0));
        assert_eq!(world.keys().await, before);
    }
    // Whatever clocks say: not what nobody saw for long.
    assert_eq!(world.plain().bury(office, geminga_metastore::Revision(1), i64::MAX).await, Ok(0));
    assert_eq!(world.keys().await, before);
    // The first answer gets lost; the next round takes up the rest.
    let store = Fateful::new(&world.cluster.store, 0, Fate::LoseAnswer);
    assert_eq!(world.worker(store).bury(office, seen, since + WEEK).await, Ok(0));
    world.plain().bury(office, seen, since + WEEK).await.unwrap();
    let keys = world.keys().await;
    let ledgers = keys.keys().filter(|key| key.starts_with("ledgers/")).count();
    assert_eq!(ledgers, 1, "that of the other topic");
    assert!(!keys.keys().any(|key| key.starts_with("deleting/")));
}

/// Of ledgers that are gone; whoever is marked and lives, or still has its tombstone, keeps its mark.
#[tokio::test(start_paused = true)]
async fn marks_of_ledgers_that_are_gone_go() {
    let world = World::new().await;
    let stale = world.elect(8).await;
    let office = world.elect(9).await;
    let keys = world.keys().await;
    let ledgers: Vec<_> = keys.keys().filter_map(|key| keys::parse_ledger(key)).collect();
    let gone = geminga_proto::ids::LedgerId(1 << 40);
    let store: &dyn MetaStore = &world.cluster.store;
    for ledger in
        ledgers.iter().copied().chain((0..60).map(|n| geminga_proto::ids::LedgerId(gone.0 + n)))
    {
        let reason = geminga_metastore::record::UnderReason::Replaced;
        geminga_ledger::mark_under(store, ledger, &[member()], reason, 5).await.unwrap();
    }
    assert_eq!(world.plain().unmark(stale).await, Ok(0));
    assert_eq!(world.plain().unmark(office).await, Ok(60));
    let keys = world.keys().await;
    let left: Vec<_> = keys.keys().filter_map(|key| keys::parse_under(key)).collect();
    assert_eq!(left, ledgers);
}

fn member() -> geminga_proto::ids::Member {
    geminga_proto::ids::Member {
        bookie: "bookie-1".parse().unwrap(),
        incarnation: geminga_proto::ids::Incarnation(1),
    }
}

/// Bookies that say nothing keep a topic's ledgers from their ends for long, and others from their turn for no longer than this.
#[tokio::test(start_paused = true)]
async fn an_attempt_ends_though_bookies_say_nothing() {
    let world = World::new().await;
    let office = world.elect(9).await;
    world.cluster.bookies.set_all(Mode::Held);
    let begun = tokio::time::Instant::now();
    let most = Duration::from_secs(1);
    let (attempt, _) = world.plain().attempt(world.topic.id, office, None, most).await;
    assert_eq!(attempt, Over::Later("it took too long".to_owned()));
    assert_eq!(begun.elapsed(), most);
    world.cluster.bookies.set_all(Mode::Up);
    assert_eq!(world.plain().remove(world.topic.id, office).await, Over::Done, "it goes on");
}
