//! Folding over a store in memory that fails as told: after every step, a segment is in exactly one place, and its object is there for
//! as long as it is wanted.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use geminga_metastore::record::{
    Broker, CloseKind, Cluster, Custom, DeletedTopic, Digest, Features, Fragment, LedgerState,
    LogStart, MAX_PARTS, Segment, Tier, TierObject,
};
use geminga_metastore::{Guard, LeaseId, MemoryStore, Range, Revision, Versioned, WatchStream};
use geminga_proto::ids::{BrokerId, EntryId, Incarnation, Member, Offset, SealEpoch, Term};
use geminga_runtime::{ManualClock, SeededRandom};
use geminga_tier::faulty::{Byte, Call, Fault, Faulty};
use parking_lot::Mutex;

use super::*;

mod folding;
mod random;
mod retiring;
mod rounds;

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

/// Transactions that fail as told. Whoever asks may have to wait, so that others come first.
#[derive(Debug)]
struct Troubled {
    memory: MemoryStore,
    dice: SeededRandom,
    /// Which of the next ones, counted from 0.
    plan: Mutex<Option<(usize, Trouble)>>,
}

impl Troubled {
    fn new(seed: u64) -> Self {
        let (memory, plan) = (MemoryStore::default(), Mutex::default());
        Self { memory, dice: SeededRandom::new(seed), plan }
    }

    /// Lets others come first, up to so many times, now and then.
    async fn wait(&self, most: u64) {
        if self.dice.below(2) == 0 {
            for _ in 0..self.dice.below(most) {
                tokio::task::yield_now().await;
            }
        }
    }

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
        self.wait(3).await;
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.memory.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        // For as long as another needs to read much and to be done.
        self.wait(100).await;
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
    mutations: Mutations,
    at: PartitionIndex,
}

impl World {
    async fn new(segments: u32) -> Self {
        Self::without(Mutations::default(), segments).await
    }

    /// The same, without a rule.
    async fn without(mutations: Mutations, segments: u32) -> Self {
        Self::seeded(1, mutations, segments).await
    }

    async fn seeded(seed: u64, mutations: Mutations, segments: u32) -> Self {
        let (store, faulty) = (Arc::new(Troubled::new(seed)), Faulty::default());
        let objects = faulty.store();
        let mut world = Self { store, faulty, objects, made: 0, mutations, at: of().1 };
        world.found(true).await;
        world.grow(segments).await;
        world
    }

    /// Another partition of the same topic.
    async fn beside(&self, at: u32, segments: u32) -> Self {
        let (store, faulty) = (Arc::clone(&self.store), self.faulty.clone());
        let (objects, mutations) = (self.objects.clone(), self.mutations);
        let mut world = Self { store, faulty, objects, made: 0, mutations, at: PartitionIndex(at) };
        world.grow(segments).await;
        world
    }

    fn of(&self) -> Of {
        (of().0, self.at)
    }

    /// A cluster that has folded, or not yet.
    async fn found(&self, folds: bool) {
        let none = Features::NONE;
        let record = Cluster {
            uuid: cluster(),
            epoch: 0,
            group_shards: 8,
            next_broker: BrokerId(1),
            groups_topic: TopicId::from_random(1),
            created_ms: 0,
            restored: None,
            features: if folds { none.with(Feature::Manifests) } else { none },
        };
        let txn = Txn::new().put(keys::CLUSTER, record.encode());
        self.store.memory.txn(txn).await.unwrap();
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
                .put(keys::segment(of().0, self.at, seq), segment.encode())
                .put(keys::ledger(meta.id), meta.encode());
            self.store.memory.txn(txn).await.unwrap();
        }
        self.made += segments;
    }

    fn meta(&self, seq: u32) -> LedgerMeta {
        let (topic, partition) = self.of();
        let ledger = LedgerId(u64::from(seq) * 3 + u64::from(partition.0 - of().1.0) * 1_000_000);
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
                bucket: self.objects.bucket().to_owned(),
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
        let (store, objects) = (self.store.clone(), self.objects.clone());
        let random = Arc::new(SeededRandom::new(seed));
        Folder {
            cluster: cluster(),
            mark: Mark::new(cluster(), store.clone(), objects.clone(), &SeededRandom::new(1)),
            store,
            objects,
            random,
            clock: Arc::new(ManualClock::at(1_000)),
            config: Config { fold_keep: 5, fold_at: 3, ..Config::default() },
            mutations: self.mutations,
        }
    }

    /// As one who was just elected: how many segments were folded, and how many given up.
    async fn round(&self, seed: u64) -> (usize, usize) {
        let folder = self.folder(seed);
        let removed = folder.retire(&mut Memory::default()).await.unwrap();
        (folder.fold(&mut Cursor::default()).await.unwrap(), removed)
    }

    async fn fold_all(&self) {
        // Attempts are never named twice.
        let mut seed = 1_000_000 + self.faulty.calls(Call::Put) as u64;
        while self.round(seed).await.0 > 0 {
            seed += 1;
        }
    }

    /// The object of a segment.
    fn object(&self, seq: u32) -> String {
        self.meta(seq).tier.object().unwrap().key.clone()
    }

    async fn delete_topic(&self) {
        let (namespace, name) = ("default".to_owned(), "flights".to_owned());
        let mark = DeletedTopic { namespace, name, partitions: 3, deleted_ms: 5 }.encode();
        let txn = Txn::new().put(keys::deleted_topic(of().0), mark);
        self.store.memory.txn(txn).await.unwrap();
    }

    async fn manifest(&self) -> Manifest {
        let (topic, partition) = self.of();
        let found = self.store.get(&keys::manifest(topic, partition)).await.unwrap();
        found.map(|found| Manifest::decode(&found.value).unwrap()).unwrap_or_default()
    }

    async fn keys(&self, prefix: &str) -> usize {
        self.store.range(prefix, None, 10_000).await.unwrap().items.len()
    }

    async fn raise(&self, start: i64) {
        let value = LogStart { offset: Offset(start) }.encode();
        let txn = Txn::new().put(keys::log_start(of().0, self.at), value);
        self.store.memory.txn(txn).await.unwrap();
    }

    /// What manifests count, after each was read as whoever reads it does.
    async fn listed(&self) -> Vec<FoldedOne> {
        let manifest = self.manifest().await;
        let mut all = Vec::new();
        for part in &manifest.parts {
            let list = SegmentList::read(&self.objects, cluster(), self.of(), part).await.unwrap();
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
        let prefix = keys::segments_of(of().0, self.at);
        for item in self.store.range(&prefix, None, 10_000).await.unwrap().items {
            let seq = keys::parse_segment_seq(&item.key).unwrap();
            let ledger = keys::ledger(self.meta(seq).id);
            assert!(self.store.get(&ledger).await.unwrap().is_some(), "{seq}");
            seqs.push(seq);
        }
        assert_eq!(seqs, (first..=self.made).collect::<Vec<_>>());
        for seq in first..=self.made {
            let object = self.object(seq);
            assert!(self.objects.head(&object).await.unwrap().is_some(), "the object of {seq}");
        }
    }

    async fn objects(&self) -> BTreeSet<String> {
        let listed: Vec<_> = self.objects.list(cluster()).try_collect().await.unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }
}

type FoldedOne = (u32, LedgerMeta);
