//! Creation and deletion against the store in memory, with answers that get lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use geminga_metastore::record::{Cookie, Features, LiveBookie, LiveDisk, Topic as Record};
use geminga_metastore::{
    Error, LeaseId, MemoryStore, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream, keys,
};
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::{ManualClock, SeededRandom, Tasks};

use super::quorum::Quorum;
use super::{Alteration, ListChange, NewTopic, TopicAdmin};
use crate::ownership::topology::Topology;

/// Loses answers of transactions: of the next `lost`, which are applied, and of the next `dropped`, which are not.
#[derive(Debug, Default)]
struct LossyStore {
    inner: MemoryStore,
    lost: AtomicUsize,
    dropped: AtomicUsize,
    /// Replaces this topic by one of that name, once, before the next transaction.
    replaced: parking_lot::Mutex<Option<String>>,
}

fn take(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[async_trait]
impl MetaStore for LossyStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.inner.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        let replaced = self.replaced.lock().take();
        if let Some(name) = replaced {
            let key = keys::topic("default", &name);
            let found = self.inner.get(&key).await?.expect("it is there");
            let next =
                Record { id: TopicId::from_random(99), ..Record::decode(&found.value).unwrap() };
            self.inner.txn(Txn::new().delete(&key)).await?;
            self.inner.put_if(&key, None, next.encode()).await?;
        }
        if take(&self.dropped) {
            return Err(Error::Unknown("dropped".to_owned()));
        }
        let outcome = self.inner.txn(txn).await;
        if take(&self.lost) { Err(Error::Unknown("lost".to_owned())) } else { outcome }
    }
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.inner.watch(prefix, from).await
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke_lease(lease).await
    }
}

struct World {
    store: Arc<LossyStore>,
    admin: TopicAdmin,
    tasks: Tasks,
}

impl World {
    /// `registered` bookies, the first `live` of which are.
    async fn new(registered: usize, live: usize) -> Self {
        Self::with(registered, &vec![""; live]).await
    }

    /// The same; those that live are in these zones.
    async fn with(registered: usize, zones: &[&str]) -> Self {
        let store = Arc::new(LossyStore::default());
        for n in 0..registered {
            let id: BookieId = format!("bookie-{n}").parse().unwrap();
            let cookie = Cookie {
                cluster: ClusterUuid::from_random(7),
                bookie: id.clone(),
                disks: Vec::new(),
            };
            store.put_if(&keys::bookie_cookie(&id), None, cookie.encode()).await.unwrap();
            if let Some(zone) = zones.get(n) {
                let record = LiveBookie {
                    id: id.clone(),
                    address: "127.0.0.1:1".to_owned(),
                    http_address: String::new(),
                    zone: (*zone).to_owned(),
                    rack: String::new(),
                    disks: vec![LiveDisk {
                        incarnation: Incarnation(1),
                        writable: true,
                        free_bytes: 1,
                        total_bytes: 2,
                    }],
                    lease: LeaseId(1),
                    started_ms: 0,
                    repair_rate: 0,
                    objects_missing: None,
                    features: Features::ALL,
                };
                store.put_if(&keys::bookie_live(&id), None, record.encode()).await.unwrap();
            }
        }
        let tasks = Tasks::new("test");
        let dynamic: Arc<dyn MetaStore> = store.clone();
        let groups = (TopicId::from_random(1), 8);
        let topology = Topology::start(Arc::clone(&dynamic), &tasks, groups).await.unwrap();
        let admin = TopicAdmin {
            store: dynamic,
            topology,
            random: Arc::new(SeededRandom::new(42)),
            clock: Arc::new(ManualClock::at(1_000)),
            default_quorum: Quorum::CLUSTER,
            single_copy_allowed: false,
            tiered: false,
        };
        Self { store, admin, tasks }
    }

    async fn stored(&self, name: &str) -> Option<Record> {
        let found = self.store.get(&keys::topic("default", name)).await.unwrap()?;
        Some(Record::decode(&found.value).unwrap())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn topic(name: &str) -> NewTopic {
    NewTopic { name: name.to_owned(), partitions: 3, ..NewTopic::default() }
}

fn reason<T>(result: Result<T, ApiError>) -> Option<Reason> {
    result.err().map(|e| e.reason)
}

#[tokio::test(start_paused = true)]
async fn a_created_topic_is_seen_by_who_created_it() {
    let world = World::new(3, 3).await;
    let created = world.admin.create(topic("flights")).await.unwrap();
    assert_eq!(created.partitions, 3);
    assert_eq!(created.quorum, Some(Quorum::CLUSTER));
    assert_eq!(created.created_ms, 1_000);
    assert_eq!(world.admin.topology.topic("flights").unwrap().id, created.id);
    assert_eq!(world.stored("flights").await.unwrap().id, created.id);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_kept_is_refused_and_nothing_is_written() {
    let world = World::new(3, 3).await;
    let config = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let quorum = |write_quorum, ack_quorum| NewTopic { write_quorum, ack_quorum, ..topic("t") };
    let refused = [
        (topic("no spaces"), Reason::InvalidName),
        (topic("__groups"), Reason::InvalidName),
        (NewTopic { partitions: 0, ..topic("t") }, Reason::InvalidPartitions),
        (NewTopic { partitions: 10_001, ..topic("t") }, Reason::InvalidPartitions),
        (NewTopic { configs: config("segment.bites", "1"), ..topic("t") }, Reason::InvalidConfig),
        (NewTopic { configs: config("retention.ms", "x"), ..topic("t") }, Reason::InvalidConfig),
        (quorum(3, 1), Reason::InvalidQuorum),
        (quorum(2, 3), Reason::InvalidQuorum),
        (quorum(1, 1), Reason::InvalidQuorum),
        (quorum(4, 3), Reason::NotEnoughBookies),
    ];
    for (new, why) in refused {
        assert_eq!(reason(world.admin.create(new.clone()).await), Some(why), "{new:?}");
    }
    assert_eq!(world.stored("t").await, None);
    let single = NewTopic { allow_single_copy: true, ..quorum(1, 1) };
    assert_eq!(world.admin.create(single).await.unwrap().quorum.unwrap().write, 1);
    assert_eq!(reason(world.admin.create(topic("t")).await), Some(Reason::TopicExists));
}

#[tokio::test(start_paused = true)]
async fn live_bookies_must_reach_the_ack_quorum_and_registered_ones_the_write_quorum() {
    let few = World::new(3, 1).await;
    assert_eq!(reason(few.admin.create(topic("t")).await), Some(Reason::NotEnoughLiveBookies));
    let degraded = World::new(3, 2).await;
    assert!(degraded.admin.create(topic("t")).await.is_ok());
    // 6.7: nothing new is placed on those without a zone where others have one.
    let zoned = World::with(3, &["a", "", ""]).await;
    assert_eq!(reason(zoned.admin.create(topic("t")).await), Some(Reason::NotEnoughLiveBookies));
    let enough = World::with(3, &["a", "", "b"]).await;
    assert!(enough.admin.create(topic("t")).await.is_ok());
    let none = World::new(2, 2).await;
    assert_eq!(reason(none.admin.create(topic("t")).await), Some(Reason::NotEnoughBookies));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_got_lost_creates_one_topic_all_the_same() {
    let world = World::new(3, 3).await;
    world.store.lost.store(1, Ordering::SeqCst);
    let created = world.admin.create(topic("lost")).await.unwrap();
    assert_eq!(world.stored("lost").await.unwrap().id, created.id);
    // The request itself got lost: it is made again.
    world.store.dropped.store(2, Ordering::SeqCst);
    assert!(world.admin.create(topic("dropped")).await.is_ok());
    // Nothing is known, and that is what is said.
    world.store.dropped.store(3, Ordering::SeqCst);
    let unknown = world.admin.create(topic("unknown")).await;
    assert_eq!(reason(unknown), Some(Reason::MetadataUnavailable));
}

#[tokio::test(start_paused = true)]
async fn of_two_who_create_one_name_one_is_told_that_it_exists() {
    let world = World::new(3, 3).await;
    let (a, b) = tokio::join!(world.admin.create(topic("t")), world.admin.create(topic("t")));
    let outcomes = BTreeSet::from([a.is_ok(), b.is_ok()]);
    assert_eq!(outcomes, BTreeSet::from([true, false]));
    let loser = [reason(a), reason(b)].into_iter().flatten().next();
    assert_eq!(loser, Some(Reason::TopicExists));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_name_is_free_again_and_its_remains_are_listed() {
    let world = World::new(3, 3).await;
    assert_eq!(reason(world.admin.delete("t").await), Some(Reason::UnknownTopic));
    assert_eq!(reason(world.admin.delete("a/b").await), Some(Reason::UnknownTopic));
    let first = world.admin.create(topic("t")).await.unwrap();
    world.admin.delete("t").await.unwrap();
    assert!(world.admin.topology.topic("t").is_none());
    assert!(world.store.get(&keys::deleted_topic(first.id)).await.unwrap().is_some());
    let second = world.admin.create(topic("t")).await.unwrap();
    assert_ne!(first.id, second.id);
    // A lost answer is no reason to delete the next topic of that name.
    world.store.lost.store(1, Ordering::SeqCst);
    world.admin.delete("t").await.unwrap();
    assert_eq!(world.stored("t").await, None);
    assert!(world.store.get(&keys::deleted_topic(second.id)).await.unwrap().is_some());
}

fn set(configs: &[(&str, &str)]) -> Alteration {
    let set = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Alteration { set, ..Alteration::default() }
}

#[tokio::test(start_paused = true)]
async fn an_altered_topic_is_seen_by_who_altered_it() {
    let world = World::new(3, 3).await;
    let before = world.admin.create(topic("t")).await.unwrap();
    let both = set(&[("retention.ms", "1000"), ("segment.bytes", "100000")]);
    let altered = world.admin.alter("t", both).await.unwrap();
    assert_eq!(altered.settings.retention_ms, Some(1_000));
    assert_eq!((altered.id, altered.created), (before.id, before.created));
    let unset = Alteration {
        unset: vec!["retention.ms".to_owned(), "flush.ms".to_owned()],
        partitions: Some(5),
        ..Alteration::default()
    };
    let altered = world.admin.alter("t", unset.clone()).await.unwrap();
    assert_eq!((altered.settings.retention_ms, altered.partitions), (None, 5));
    assert_eq!(altered.settings.segment_bytes, 100_000, "the other one stays");
    // Again: nothing changes, nothing is written.
    let again = world.admin.alter("t", unset).await.unwrap();
    assert_eq!(again.version, altered.version);
}

#[tokio::test(start_paused = true)]
async fn an_alteration_that_cannot_be_is_refused_and_nothing_is_written() {
    let world = World::new(3, 3).await;
    world.admin.create(topic("t")).await.unwrap();
    let before = world.stored("t").await;
    let unset = |name: &str| Alteration { unset: vec![name.to_owned()], ..Alteration::default() };
    let partitions = |n| Alteration { partitions: Some(n), ..Alteration::default() };
    let refused = [
        (set(&[("retention.ms", "-2")]), Reason::InvalidConfig),
        (set(&[("retention.ms", "1"), ("no.such", "1")]), Reason::InvalidConfig),
        (unset("no.such"), Reason::InvalidConfig),
        (
            Alteration { set: set(&[("flush.ms", "1")]).set, ..unset("flush.ms") },
            Reason::InvalidRequest,
        ),
        (partitions(2), Reason::InvalidPartitions),
        (partitions(10_001), Reason::InvalidPartitions),
    ];
    for (alteration, why) in refused {
        let altered = world.admin.alter("t", alteration.clone()).await;
        assert_eq!(reason(altered), Some(why), "{alteration:?}");
    }
    assert_eq!(reason(world.admin.alter("u", partitions(9)).await), Some(Reason::UnknownTopic));
    assert_eq!(world.stored("t").await, before);
}

#[tokio::test(start_paused = true)]
async fn an_alteration_whose_answer_got_lost_is_made_once() {
    let world = World::new(3, 3).await;
    world.admin.create(topic("t")).await.unwrap();
    world.store.lost.store(1, Ordering::SeqCst);
    let altered = world.admin.alter("t", set(&[("retention.ms", "7")])).await.unwrap();
    assert_eq!(altered.settings.retention_ms, Some(7));
    world.store.dropped.store(2, Ordering::SeqCst);
    let altered = world.admin.alter("t", set(&[("retention.bytes", "7")])).await.unwrap();
    assert_eq!(
        (altered.settings.retention_ms, altered.settings.retention_bytes),
        (Some(7), Some(7))
    );
    world.store.dropped.store(3, Ordering::SeqCst);
    let unknown = world.admin.alter("t", set(&[("retention.ms", "8")])).await;
    assert_eq!(reason(unknown), Some(Reason::MetadataUnavailable));
}

/// Of two alterations at the same time none undoes the other (1.4).
#[tokio::test(start_paused = true)]
async fn alterations_at_the_same_time_both_count() {
    let world = World::new(3, 3).await;
    world.admin.create(topic("t")).await.unwrap();
    let (a, b) = tokio::join!(
        world.admin.alter("t", set(&[("retention.ms", "7")])),
        world.admin.alter("t", set(&[("segment.ms", "700")])),
    );
    a.unwrap();
    b.unwrap();
    let configs = world.stored("t").await.unwrap().configs;
    assert_eq!(configs.len(), 2, "{configs:?}");
}

/// An alteration is of the topic that was there when it was asked for, not of the next one of that name.
#[tokio::test(start_paused = true)]
async fn a_topic_that_takes_the_name_of_a_deleted_one_is_not_altered() {
    let world = World::new(3, 3).await;
    world.admin.create(topic("t")).await.unwrap();
    *world.store.replaced.lock() = Some("t".to_owned());
    let altered = world.admin.alter("t", set(&[("retention.ms", "7")])).await;
    assert_eq!(reason(altered), Some(Reason::UnknownTopic));
    assert_eq!(world.stored("t").await.unwrap().configs, BTreeMap::new());
}

/// By its id nobody deletes the topic that took the name since.
#[tokio::test(start_paused = true)]
async fn only_the_topic_of_that_id_is_deleted() {
    let world = World::new(3, 3).await;
    let first = world.admin.create(topic("t")).await.unwrap();
    let other = TopicId::from_random(99);
    assert_eq!(reason(world.admin.delete_only("t", other).await), Some(Reason::UnknownTopic));
    assert_eq!(world.stored("t").await.unwrap().id, first.id);
    world.admin.delete_only("t", first.id).await.unwrap();
    assert_eq!(world.stored("t").await, None);
}

#[tokio::test(start_paused = true)]
async fn what_is_only_checked_is_not_done() {
    let world = World::new(3, 3).await;
    assert_eq!(world.admin.check_create(&topic("t")).await, Ok(Quorum::CLUSTER));
    assert_eq!(world.stored("t").await, None);
    world.admin.create(topic("t")).await.unwrap();
    let exists = world.admin.check_create(&topic("t")).await;
    assert_eq!(reason(exists), Some(Reason::TopicExists));
    let before = world.stored("t").await;
    let good = set(&[("retention.ms", "7")]);
    assert_eq!(world.admin.check_alter("t", &good).await, Ok(()));
    assert_eq!(reason(world.admin.check_alter("u", &good).await), Some(Reason::UnknownTopic));
    let fewer = Alteration { partitions: Some(1), ..Alteration::default() };
    let checked = world.admin.check_alter("t", &fewer).await;
    assert_eq!(reason(checked), Some(Reason::InvalidPartitions));
    assert_eq!(world.stored("t").await, before);
}

/// Two clients that add to a list at the same time both have added (1.4).
#[tokio::test(start_paused = true)]
async fn lists_are_changed_as_they_are_then() {
    const LIST: &str = "leader.replication.throttled.replicas";
    let world = World::new(3, 3).await;
    world.admin.create(topic("t")).await.unwrap();
    let change = |words: &str, add| {
        let change = ListChange { name: LIST.to_owned(), words: words.to_owned(), add };
        Alteration { lists: vec![change], ..Alteration::default() }
    };
    let (a, b) = tokio::join!(
        world.admin.alter("t", change("0:1", true)),
        world.admin.alter("t", change("1:2, 0:1", true)),
    );
    a.unwrap();
    b.unwrap();
    let mut words: Vec<_> =
        world.stored("t").await.unwrap().configs[LIST].split(',').map(str::to_owned).collect();
    words.sort();
    assert_eq!(words, ["0:1", "1:2"]);
    let altered = world.admin.alter("t", change("0:1", false)).await.unwrap();
    assert_eq!(altered.configs[LIST], "1:2");
    let replaced = Alteration { replace: true, ..set(&[("retention.ms", "7")]) };
    let altered = world.admin.alter("t", replaced).await.unwrap();
    assert_eq!(altered.configs.keys().collect::<Vec<_>>(), ["retention.ms"]);
}
