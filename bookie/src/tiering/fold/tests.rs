//! Folding over a store in memory that fails as told: after every step, a segment is in exactly one place, and its object is there for
//! as long as it is wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use geminga_metastore::record::{
    CloseKind, Custom, DeletedTopic, Digest, Fragment, LedgerState, Tier, TierObject,
};
use geminga_metastore::{Guard, LeaseId, MemoryStore, Range, Revision, Versioned, WatchStream};
use geminga_proto::ids::{EntryId, Incarnation, Member, SealEpoch, Term};
use geminga_runtime::{ManualClock, SeededRandom};
use geminga_tier::faulty::{Call, Fault, Faulty};
use parking_lot::Mutex;

use super::*;
use crate::folded::{Folded, Listing};

/// What becomes of one transaction.
#[derive(Debug, Clone)]
enum Trouble {
    /// It takes place, and nobody hears of it.
    LoseAnswer,
    /// It never takes place, and nobody knows.
    LoseRequest,
    /// Another one is quicker.
    Overtaken(Txn),
}

/// Transactions that fail as told.
#[derive(Debug, Default)]
struct Troubled {
    memory: MemoryStore,
    /// Which of the next ones, counted from 0.
    plan: Mutex<Option<(usize, Trouble)>>,
}

impl Troubled {
    fn next(&self) -> Option<Trouble> {
        let mut plan = self.plan.lock();
        match plan.take()? {
            (0, trouble) => Some(trouble),
            (later, trouble) => {
                *plan = Some((later - 1, trouble));
                None
            }
        }
    }
}

#[async_trait]
impl MetaStore for Troubled {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.memory.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        let lost = || Error::Unknown("told so by the test".to_owned());
        match self.next() {
            Some(Trouble::LoseAnswer) => self.memory.txn(txn).await.and(Err(lost())),
            Some(Trouble::LoseRequest) => Err(lost()),
            Some(Trouble::Overtaken(by)) => {
                self.memory.txn(by).await?;
                self.memory.txn(txn).await
            }
            None => self.memory.txn(txn).await,
        }
    }
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.memory.watch(prefix, from).await
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.memory.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.memory.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.memory.revoke_lease(lease).await
    }
}

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(5)
}

fn of() -> Of {
    (TopicId::from_random(9), PartitionIndex(2))
}

/// Records of one segment.
const EACH: i64 = 10;

struct World {
    store: Arc<Troubled>,
    faulty: Faulty,
    objects: Store,
    /// How many segments there ever were, from 1 on.
    made: u32,
}

impl World {
    async fn new(segments: u32) -> Self {
        let faulty = Faulty::default();
        let objects = faulty.store();
        let mut world = Self { store: Arc::default(), faulty, objects, made: 0 };
        world.grow(segments).await;
        world
    }

    /// More segments at the end, all of them in the object store.
    async fn grow(&mut self, segments: u32) {
        for seq in self.made + 1..=self.made + segments {
            let meta = self.meta(seq);
            let key = &meta.tier.object().unwrap().key;
            self.objects.upload(key).complete(Bytes::from_static(b"entries")).await.unwrap();
            let base = i64::from(seq - 1) * EACH;
            let segment = Segment {
                ledger: meta.id,
                base_offset: Offset(base),
                term: Term(1),
                end_offset: Some(Offset(base + EACH)),
                max_timestamp: Some(base),
                bytes: Some(100),
            };
            let txn = Txn::new()
                .put(keys::segment(of().0, of().1, seq), segment.encode())
                .put(keys::ledger(meta.id), meta.encode());
            self.store.memory.txn(txn).await.unwrap();
        }
        self.made += segments;
    }

    fn meta(&self, seq: u32) -> LedgerMeta {
        let (topic, partition) = of();
        let ledger = LedgerId(u64::from(seq) * 3);
        let custom = Custom { topic, partition: partition.0, ..Custom::default() };
        let key = self.objects.key(cluster(), &custom, ledger, u128::from(seq));
        let member = Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(5) };
        LedgerMeta {
            id: ledger,
            state: LedgerState::Closed,
            seal_epoch: SealEpoch(0),
            qw: 1,
            qa: 1,
            digest: Digest::Crc32c,
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member] }],
            last_entry: Some(EntryId(4)),
            length: 100,
            entries_crc: None,
            tier: Tier::Trimmed(TierObject {
                attempt: u128::from(seq),
                bucket: "memory://".to_owned(),
                key,
                size: 7,
                entries: 5,
                object_crc: 9,
                etag: String::new(),
                index_place: 3,
                at_ms: 0,
            }),
            close_kind: Some(CloseKind::Writer),
            recoverer: String::new(),
            last_op: 6,
            custom,
            created_ms: 500,
            owner: String::new(),
            degraded: false,
        }
    }

    fn folder(&self, seed: u64) -> Folder {
        Folder {
            cluster: cluster(),
            store: self.store.clone(),
            objects: self.objects.clone(),
            random: Arc::new(SeededRandom::new(seed)),
            clock: Arc::new(ManualClock::at(1_000)),
            config: Config { fold_keep: 5, fold_at: 3, ..Config::default() },
        }
    }

    async fn round(&self, seed: u64) -> (usize, usize) {
        self.folder(seed).round(&mut Seen::new()).await.unwrap()
    }

    async fn manifest(&self) -> Manifest {
        let (topic, partition) = of();
        let found = self.store.get(&keys::manifest(topic, partition)).await.unwrap();
        found.map(|found| Manifest::decode(&found.value).unwrap()).unwrap_or_default()
    }

    async fn keys(&self, prefix: &str) -> usize {
        self.store.range(prefix, None, 10_000).await.unwrap().items.len()
    }

    async fn raise(&self, start: i64) {
        let value = LogStart { offset: Offset(start) }.encode();
        let txn = Txn::new().put(keys::log_start(of().0, of().1), value);
        self.store.memory.txn(txn).await.unwrap();
    }

    /// What manifests count, after each was read as whoever reads it does.
    async fn listed(&self) -> Vec<FoldedOne> {
        let manifest = self.manifest().await;
        let mut all = Vec::new();
        for part in &manifest.parts {
            let list = SegmentList::read(&self.objects, cluster(), of(), part).await.unwrap();
            let counted =
                list.of(part).iter().filter(|one| u64::from(one.seq) >= manifest.dropped_before);
            all.extend(counted.map(|one| (one.seq, one.ledger().unwrap())));
        }
        all
    }

    /// Every segment from `first` on is in one place and no more, in order, with its ledger and its object.
    async fn judge(&self, first: u32) {
        let mut seqs: Vec<u32> = Vec::new();
        for (seq, meta) in self.listed().await {
            assert_eq!(meta, self.meta(seq), "as it was");
            assert_eq!(self.store.get(&keys::ledger(meta.id)).await.unwrap(), None, "{seq}");
            seqs.push(seq);
        }
        let prefix = keys::segments_of(of().0, of().1);
        for item in self.store.range(&prefix, None, 10_000).await.unwrap().items {
            let seq = keys::parse_segment_seq(&item.key).unwrap();
            let ledger = keys::ledger(self.meta(seq).id);
            assert!(self.store.get(&ledger).await.unwrap().is_some(), "{seq}");
            seqs.push(seq);
        }
        assert_eq!(seqs, (first..=self.made).collect::<Vec<_>>());
        for seq in first..=self.made {
            let object = self.meta(seq).tier.object().unwrap().key.clone();
            assert!(self.objects.head(&object).await.unwrap().is_some(), "the object of {seq}");
        }
    }

    async fn objects(&self) -> BTreeSet<String> {
        let listed: Vec<_> = self.objects.list(cluster()).try_collect().await.unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }
}

type FoldedOne = (u32, LedgerMeta);

#[tokio::test]
async fn old_segments_leave_the_metadata_and_are_all_listed() {
    let mut world = World::new(100).await;
    assert_eq!(world.round(1).await, (95, 0));
    world.judge(1).await;
    assert_eq!(world.keys("segments/").await, 5);
    assert_eq!(world.keys("ledgers/").await, 5);
    assert_eq!(world.keys("manifests/").await, 1);
    let manifest = world.manifest().await;
    assert_eq!(manifest.parts.len(), 1);
    assert_eq!((manifest.parts[0].segments, manifest.parts[0].bytes), (95, 9_500));
    assert_eq!(world.round(2).await, (0, 0), "few are not worth it");
    // Later ones join those that are there, in a new object; the old one is remembered for a while.
    world.grow(10).await;
    assert_eq!(world.round(3).await, (10, 0));
    world.judge(1).await;
    let grown = world.manifest().await;
    assert_eq!((grown.parts.len(), grown.parts[0].segments), (1, 105));
    assert_eq!(grown.former.len(), 1);
    assert_eq!(grown.former[0].attempt, manifest.parts[0].attempt);
}

/// Ten thousand segments: a handful of keys, and a few objects.
#[tokio::test]
async fn ten_thousand_segments_are_a_few_objects() {
    let world = World::new(10_000).await;
    let mut rounds = 0;
    while world.round(rounds).await.0 > 0 {
        rounds += 1;
    }
    world.judge(1).await;
    assert_eq!(world.keys("").await, 5 + 5 + 1);
    let manifest = world.manifest().await;
    assert!(manifest.parts.len() <= 3, "{} objects", manifest.parts.len());
    assert!(manifest.encode().len() < 20_000, "{} bytes", manifest.encode().len());
}

/// M9, at each transaction: what was done and not heard of is found, and what was not done is done again.
#[tokio::test]
async fn transactions_of_unknown_outcome_leave_one_place_each() {
    for trouble in [Trouble::LoseAnswer, Trouble::LoseRequest] {
        for at in 0..5 {
            let mut world = World::new(20).await;
            world.round(1).await;
            world.grow(80).await;
            *world.store.plan.lock() = Some((at, trouble.clone()));
            world.round(2).await;
            world.judge(1).await;
            world.round(3).await;
            world.judge(1).await;
            assert!(world.keys("segments/").await < 8, "{trouble:?} at {at}");
        }
    }
}

/// An object that cannot be written, or read back, is named by nothing.
#[tokio::test]
async fn a_store_in_trouble_delays_folding_and_no_more() {
    for (call, fault) in [
        (Call::Put, Fault::Refuse),
        (Call::Put, Fault::LoseReply),
        (Call::Get, Fault::Refuse),
        (Call::Get, Fault::Truncate),
    ] {
        let world = World::new(30).await;
        world.faulty.fail(call, fault, 1);
        assert_eq!(world.round(1).await.0, 0, "{call:?} {fault:?}");
        assert_eq!(world.manifest().await, Manifest::default());
        world.judge(1).await;
        assert_eq!(world.round(2).await.0, 25);
        world.judge(1).await;
    }
}

/// A list that is lost takes nothing else with it: what follows goes into another.
#[tokio::test]
async fn folding_goes_on_behind_a_list_that_is_lost() {
    let mut world = World::new(20).await;
    world.round(1).await;
    let lost = world.manifest().await.parts[0].clone();
    world.objects.delete(&lost.key).await.unwrap();
    world.grow(10).await;
    assert_eq!(world.round(2).await.0, 10);
    let manifest = world.manifest().await;
    assert_eq!(manifest.parts.len(), 2);
    assert_eq!(manifest.parts[0], lost, "it is as it was, for whoever brings the object back");
    assert_eq!(manifest.parts[1].first_seq, lost.last_seq + 1);
}

/// Whatever changes one of the keys first stops the transaction: retention, a repair, another that folds.
#[tokio::test]
async fn whoever_is_quicker_wins() {
    let (topic, partition) = of();
    for at in 0..3 {
        let world = World::new(80).await;
        let third = world.meta(3);
        let repaired = LedgerMeta { last_op: 77, ..third.clone() };
        let by = Txn::new().put(keys::ledger(third.id), repaired.encode());
        *world.store.plan.lock() = Some((0, Trouble::Overtaken(by)));
        assert_eq!(world.round(1).await.0, 0, "its repair is not undone");
        let found = world.store.get(&keys::ledger(third.id)).await.unwrap().unwrap();
        assert_eq!(LedgerMeta::decode(third.id, &found.value).unwrap().last_op, 77);

        // The owner gives up the first one, whenever it is.
        let world = World::new(80).await;
        let first = keys::segment(topic, partition, 1 + 24 * at);
        let by = Txn::new().delete(first);
        *world.store.plan.lock() = Some((at as usize, Trouble::Overtaken(by)));
        world.round(1).await;
        let moved = world.manifest().await.last_seq().unwrap_or(0);
        assert_eq!(moved, 24 * at, "those before it");
    }
}

/// Two that were both elected: one's object is named, the other's is not.
#[tokio::test]
async fn two_that_fold_at_once_do_it_once() {
    let world = World::new(100).await;
    let (one, two) = (world.folder(1), world.folder(2));
    let (mut a, mut b) = (Seen::new(), Seen::new());
    let (first, second) = tokio::join!(one.round(&mut a), two.round(&mut b));
    let folded = first.unwrap().0 + second.unwrap().0;
    assert!(folded <= 95, "{folded} segments");
    world.judge(1).await;
    world.round(3).await;
    world.judge(1).await;
    assert_eq!(world.keys("segments/").await, 5);
}

/// I16: nothing brings a key back that was folded, however late it is.
#[tokio::test]
async fn a_late_change_of_a_folded_ledger_does_not_bring_it_back() {
    let world = World::new(30).await;
    let key = keys::ledger(world.meta(1).id);
    let before = world.store.get(&key).await.unwrap().unwrap();
    world.round(1).await;
    let late = Txn::new()
        .guard(Guard::Version(key.clone(), before.version))
        .put(key.clone(), before.value.clone());
    assert_eq!(world.store.txn(late).await.unwrap(), TxnOutcome::GuardFailed);
    assert_eq!(world.store.get(&key).await.unwrap(), None);
}

/// What is not in the object store only, or in another, ends the run.
#[tokio::test]
async fn a_run_ends_at_what_bookies_still_have() {
    let world = World::new(30).await;
    let mut fourth = world.meta(4);
    let Tier::Trimmed(object) = fourth.tier.clone() else { panic!("it is trimmed") };
    fourth.tier = Tier::Offloaded(object.clone());
    let key = keys::ledger(fourth.id);
    world.store.memory.txn(Txn::new().put(key.clone(), fourth.encode())).await.unwrap();
    assert_eq!(world.round(1).await.0, 3);
    fourth.tier = Tier::Trimmed(TierObject { bucket: "s3://other".to_owned(), ..object });
    world.store.memory.txn(Txn::new().put(key, fourth.encode())).await.unwrap();
    assert_eq!(world.round(2).await.0, 0);
}

/// Retention: objects go, the manifest shrinks, at every step again after a crash.
#[tokio::test]
async fn what_is_given_up_leaves_no_object() {
    for trouble in [None, Some(Trouble::LoseAnswer), Some(Trouble::LoseRequest)] {
        for at in 0..3 {
            let mut world = World::new(50).await;
            world.round(1).await;
            assert_eq!(world.manifest().await.last_seq(), Some(45));
            // In the middle of the tenth: that one stays.
            world.raise(9 * EACH + 5).await;
            *world.store.plan.lock() = trouble.clone().map(|trouble| (at, trouble));
            world.round(2).await;
            *world.store.plan.lock() = None;
            world.round(3).await;
            world.judge(10).await;
            let manifest = world.manifest().await;
            assert_eq!((manifest.dropped_before, manifest.removed_before), (10, 10));
            for seq in 1..10 {
                let object = world.meta(seq).tier.object().unwrap().key.clone();
                assert_eq!(world.objects.head(&object).await.unwrap(), None, "{seq}");
            }
            // A new list does not name them any more; and when all is given up no list is left.
            world.grow(10).await;
            world.round(4).await;
            world.judge(10).await;
            assert_eq!(world.manifest().await.parts[0].first_seq, 10);
            world.raise(i64::from(world.made) * EACH).await;
            world.round(5).await;
            assert_eq!(world.manifest().await.parts, []);
        }
    }
}

/// What cannot be read now is given up later, and not forgotten.
#[tokio::test]
async fn a_list_that_cannot_be_read_is_given_up_later() {
    let world = World::new(50).await;
    world.round(1).await;
    world.raise(9 * EACH).await;
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    world.round(2).await;
    let manifest = world.manifest().await;
    assert!(manifest.removed_before < 10);
    world.round(3).await;
    assert_eq!(world.manifest().await.removed_before, 10);
    world.judge(10).await;
}

/// The deletion of a topic: no object of what was folded is left, nor of the lists, nor a key.
#[tokio::test]
async fn a_deleted_topic_leaves_nothing() {
    for trouble in [None, Some(Trouble::LoseAnswer), Some(Trouble::LoseRequest)] {
        for at in 0..3 {
            let mut world = World::new(50).await;
            world.round(1).await;
            world.grow(20).await;
            world.round(2).await;
            let last = world.manifest().await.last_seq().unwrap();
            let (namespace, name) = ("default".to_owned(), "flights".to_owned());
            let mark = DeletedTopic { namespace, name, partitions: 3, deleted_ms: 5 }.encode();
            let txn = Txn::new().put(keys::deleted_topic(of().0), mark);
            world.store.memory.txn(txn).await.unwrap();
            *world.store.plan.lock() = trouble.clone().map(|trouble| (at, trouble));
            world.round(3).await;
            *world.store.plan.lock() = None;
            world.round(4).await;
            assert_eq!(world.keys("manifests/").await, 0);
            let left: BTreeSet<String> = (last + 1..=world.made)
                .map(|seq| world.meta(seq).tier.object().unwrap().key.clone())
                .collect();
            assert_eq!(world.objects().await, left, "those of segments that have keys, only");
        }
    }
}

/// Who asks for a ledger without a key hears that it was folded; and nothing certain while the list cannot be read.
#[tokio::test]
async fn a_folded_ledger_counts_as_existing() {
    let world = World::new(30).await;
    world.round(1).await;
    let folded = Folded::new(cluster(), world.store.clone());
    let (known, never) = (world.meta(7).id, LedgerId(world.meta(7).id.0 + 1));
    let asked = [known, never, LedgerId(999_999)].into();
    let blind = folded.find(&asked).await.unwrap();
    assert_eq!(blind.get(&known), Some(&Listing::Unknown), "no store was named yet");
    assert_eq!(blind.get(&LedgerId(999_999)), None, "no list can name it");
    folded.objects_are_in(&world.objects);
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    assert_eq!(folded.find(&asked).await.unwrap().get(&known), Some(&Listing::Unknown));
    let found = folded.find(&asked).await.unwrap();
    assert_eq!(found.get(&known), Some(&Listing::Folded(Box::new(world.meta(7)))));
    assert_eq!(found.len(), 1);
    let (topic, partition) = of();
    assert_eq!(folded.find_in(topic, partition, never).await.unwrap(), None);
    assert_eq!(folded.find_in(topic, PartitionIndex(9), known).await.unwrap(), None);
}
