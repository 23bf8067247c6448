use std::sync::Arc;

use async_trait::async_trait;
use geminga_metastore::record::{
    Cluster, Custom, Digest, Fragment, LedgerMeta, LedgerState, QUARANTINE_MS, Restored, Tier,
};
use geminga_metastore::{
    LeaseId, LedgerIds, MemoryStore, Range, Txn, TxnOutcome, Versioned, WatchStream, cluster,
};
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteRequest};
use geminga_proto::ids::{DiskUuid, EntryId, Incarnation, Member, SealEpoch};
use geminga_runtime::{ManualClock, SeededRandom};
use tokio::sync::Semaphore;

use super::*;
use crate::io::MemoryDisk;
use crate::ledger::{Checker, DiskLedgers, DiskParts, Mutation};
use crate::log::{self, Log};
use crate::scenario::holds_only_with;

fn member() -> Member {
    Member { bookie: "b-1".parse().unwrap(), incarnation: Incarnation(7) }
}

fn meta(id: u64, state: LedgerState) -> LedgerMeta {
    LedgerMeta {
        id: LedgerId(id),
        state,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member()] }],
        last_entry: None,
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// A store whose listings can be wrong, as those of real stores have been.
#[derive(Debug, Default)]
struct Listing {
    memory: MemoryStore,
    /// Ledgers that a listing leaves out.
    hides: Mutex<Vec<u64>>,
    /// How much earlier than it is it says it is.
    back: Mutex<i64>,
}

#[async_trait]
impl MetaStore for Listing {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        let mut range = self.memory.range(prefix, after, limit).await?;
        let hidden: Vec<_> =
            self.hides.lock().iter().map(|id| keys::ledger(LedgerId(*id))).collect();
        range.items.retain(|item| !hidden.contains(&item.key));
        range.revision.0 -= *self.back.lock();
        Ok(range)
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.memory.txn(txn).await
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

struct Bench {
    store: Arc<Listing>,
    disk: MemoryDisk,
    handle: BookieHandle,
    gc: Gc,
    tasks: Tasks,
}

impl Bench {
    /// A bookie that has sealed ledgers `1..=count`, all of which the metadata knows.
    async fn new(count: u64) -> Self {
        Self::without(Mutations::default(), count).await
    }

    /// The same, without a rule.
    async fn without(mutations: Mutations, count: u64) -> Self {
        let store = Arc::new(Listing::default());
        let (random, clock) = (SeededRandom::new(1), ManualClock::at(0));
        let cluster = cluster::open_or_init(&store.memory, &random, &clock).await.unwrap().uuid;
        let ids = LedgerIds::new(Arc::new(store.memory.clone()), 0);
        ids.next().await.unwrap();
        let bench = Self::on(MemoryDisk::new(), store, cluster, mutations);
        for ledger in 1..=count {
            bench.put(&meta(ledger, LedgerState::Open)).await;
            assert_eq!(bench.ask(ledger, WriteOp::Seal).await, Code::Ok);
        }
        bench
    }

    fn on(
        disk: MemoryDisk,
        store: Arc<Listing>,
        cluster: ClusterUuid,
        mutations: Mutations,
    ) -> Self {
        let identity = log::Identity {
            cluster,
            bookie: member().bookie,
            incarnation: member().incarnation,
            disk: DiskUuid::from_random(3),
        };
        let config = log::Config {
            segment_bytes: 64 << 10,
            prefill_bytes: 64 << 10,
            reserve_segments: 0,
            ..log::Config::default()
        };
        let opened = Log::open(Arc::new(disk.clone()), identity, config).unwrap();
        let tasks = Tasks::new("test");
        let parts = DiskParts {
            cluster,
            member: member(),
            log: opened.log,
            ledgers: opened.ledgers,
            tombstones: opened.tombstones,
            owners: 2,
            reporter: crate::ledger::Reporter {
                store: store.clone(),
                member: member(),
                clock: Arc::new(geminga_runtime::ManualClock::at(0)),
            },
            checker: Checker::new(store.clone()),
            waiting: Arc::new(Semaphore::new(2)),
            mutations,
        };
        let ledgers = DiskLedgers::start(parts, &tasks);
        let handle = BookieHandle::new(cluster, member().bookie, vec![ledgers], vec![]);
        let gc = Gc::new(
            store.clone(),
            Folded::new(cluster, store.clone()),
            handle.clone(),
            Duration::from_secs(1),
            Arc::new(ManualClock::at(0)),
        );
        let gc = Gc { mutations, ..gc };
        Self { store, disk, handle, gc, tasks }
    }

    async fn put(&self, meta: &LedgerMeta) {
        let txn = Txn::new().put(keys::ledger(meta.id), meta.encode());
        self.store.memory.txn(txn).await.unwrap();
    }

    async fn remove(&self, ledger: u64) {
        let txn = Txn::new().delete(keys::ledger(LedgerId(ledger)));
        self.store.memory.txn(txn).await.unwrap();
    }

    async fn ask(&self, ledger: u64, op: WriteOp) -> Code {
        let scope = Scope {
            cluster: self.handle.cluster(),
            ledger: LedgerId(ledger),
            fragment_first: EntryId(0),
            epoch: SealEpoch(1),
            incarnation: member().incarnation,
        };
        self.handle.write(WriteRequest { scope, op }).await.code
    }

    async fn is_deleted(&self, ledger: u64) -> bool {
        self.ask(ledger, WriteOp::Seal).await == Code::Deleted
    }
}

/// G1 to G3, scenario 27: what metadata says is deleted is dropped, answers so, and still does after a power cut.
#[test]
fn scenario_27_a_deleted_ledger_leaves_a_durable_tombstone() {
    holds_only_with(Mutation::IgnoreTombstone, async |mutations| {
        let bench = Bench::without(mutations, 20).await;
        bench.put(&meta(3, LedgerState::Deleting)).await;
        bench.remove(4).await;
        assert_eq!(bench.gc.cycle().await.unwrap(), 2);
        let disk = bench.disk.crash();
        let again = Bench::on(disk, bench.store.clone(), bench.gc.cluster, mutations);
        for bench in [&bench, &again] {
            for ledger in 1..=20 {
                assert_eq!(bench.is_deleted(ledger).await, ledger == 3 || ledger == 4, "{ledger}");
            }
            assert_eq!(bench.ask(3, WriteOp::Hello).await, Code::Deleted);
            assert_eq!(bench.handle.local_ledgers().len(), 18);
        }
        assert_eq!(bench.gc.cycle().await.unwrap(), 0);
        assert!(bench.tasks.finish(Duration::from_secs(30)).await);
    });
}

/// G2, scenario 44: metadata that is gone as a whole deletes nothing, and neither does another cluster's.
#[test]
fn scenario_44_an_empty_listing_deletes_nothing() {
    holds_only_with(Mutation::IgnoreBreakers, async |mutations| {
        let bench = Bench::without(mutations, 5).await;
        bench.store.hides.lock().extend(1..=5);
        assert_eq!(bench.gc.cycle().await.unwrap(), 0);
        for ledger in 1..=5 {
            bench.remove(ledger).await;
        }
        assert_eq!(bench.gc.cycle().await.unwrap(), 0);
        let mut bench = Bench::without(mutations, 20).await;
        bench.put(&meta(3, LedgerState::Deleting)).await;
        bench.gc.cluster = ClusterUuid::from_random(99);
        assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    });
}

/// Scenario 43: metadata from a backup does not know what is newer, and for a week that is no reason to drop it.
#[test]
fn scenario_43_what_restored_metadata_does_not_know_is_kept_for_a_week() {
    holds_only_with(Mutation::ForgetQuarantine, async |mutations| {
        let mut bench = Bench::without(mutations, 20).await;
        let clock = ManualClock::at(1_000);
        bench.gc.clock = Arc::new(clock.clone());
        let store = bench.store.clone();
        let (found, version) = cluster::read(&store.memory).await.unwrap().unwrap();
        let restored = Some(Restored { at_ms: 1_000, audited: true });
        let raised = Cluster { epoch: found.epoch + 1, restored, ..found };
        store.memory.put_if(keys::CLUSTER, Some(version), raised.encode()).await.unwrap();
        bench.remove(4).await;
        bench.put(&meta(3, LedgerState::Deleting)).await;
        assert_eq!(bench.gc.cycle().await.unwrap(), 1, "what is known to be deleted goes");
        clock.set(999 + QUARANTINE_MS);
        assert_eq!(bench.gc.cycle().await.unwrap(), 0);
        clock.set(1_000 + QUARANTINE_MS);
        assert_eq!(bench.gc.cycle().await.unwrap(), 1);
        assert!(bench.is_deleted(4).await);
    });
}

/// M1: metadata that never handed a ledger's id out is older than the ledger, and says nothing of any other either.
#[test]
fn scenario_43_metadata_that_is_older_than_a_ledger_deletes_nothing() {
    holds_only_with(Mutation::ForgetHorizon, async |mutations| {
        let bench = Bench::without(mutations, 20).await;
        // Far beyond the block of ids that was taken.
        bench.put(&meta(5_000, LedgerState::Open)).await;
        assert_eq!(bench.ask(5_000, WriteOp::Seal).await, Code::Ok);
        bench.remove(5_000).await;
        bench.remove(4).await;
        bench.put(&meta(3, LedgerState::Deleting)).await;
        assert_eq!(bench.gc.cycle().await.unwrap(), 1, "what is known to be deleted goes");
        assert!(!bench.is_deleted(5_000).await && !bench.is_deleted(4).await);
    });
}

/// A store that showed a later state before was restored, even where nobody raised its epoch.
#[tokio::test]
async fn scenario_43_a_store_that_went_back_deletes_nothing() {
    let bench = Bench::new(20).await;
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    *bench.store.back.lock() = 3;
    bench.remove(4).await;
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    // However far it comes again.
    *bench.store.back.lock() = 0;
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    let (found, version) = cluster::read(&bench.store.memory).await.unwrap().unwrap();
    let raised = Cluster { epoch: found.epoch + 1, ..found };
    bench.store.memory.put_if(keys::CLUSTER, Some(version), raised.encode()).await.unwrap();
    assert_eq!(bench.gc.cycle().await.unwrap(), 1, "the epoch says it, and for how long");
}

/// G1: a ledger that a listing does not show is read on its own; one that was created since is there.
#[test]
fn scenario_45_a_listing_decides_nothing() {
    holds_only_with(Mutation::DropUnannounced, async |mutations| {
        let mut bench = Bench::new(20).await;
        bench.gc.mutations = mutations;
        bench.store.hides.lock().push(7);
        bench.gc.cycle().await.unwrap();
        assert!(!bench.is_deleted(7).await);
    });
}
