use std::sync::Arc;

use async_trait::async_trait;
use geminga_metastore::record::{
    Cluster, LedgerMeta, LedgerState, Manifest, QUARANTINE_MS, Restored, Tier,
};
use geminga_metastore::{
    LeaseId, LedgerIds, MemoryStore, Range, Txn, TxnOutcome, Versioned, WatchStream, cluster,
};
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteRequest};
use geminga_proto::ids::{EntryId, PartitionIndex, SealEpoch, TopicId};
use geminga_runtime::{ManualClock, SeededRandom};
use geminga_tier::faulty::{Call, Faulty};
use geminga_tier::{FoldedSegment, SegmentList};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::io::MemoryDisk;
use crate::ledger::Mutation;
use crate::scenario::holds_only_with;
use crate::testing::{self, member};

fn meta(id: u64, state: LedgerState) -> LedgerMeta {
    LedgerMeta { state, ..testing::open_ledger(LedgerId(id)) }
}

/// A store whose listings can be wrong, as those of real stores have been.
#[derive(Debug, Default)]
struct Listing {
    memory: MemoryStore,
    /// Ledgers that a listing leaves out.
    hides: Mutex<Vec<u64>>,
    /// How much earlier than it is it says it is.
    back: Mutex<i64>,
    /// Ledgers' keys that were read, each on its own.
    reads: Mutex<usize>,
}

#[async_trait]
impl MetaStore for Listing {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        *self.reads.lock() += usize::from(key.starts_with(keys::LEDGERS));
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
        let (tasks, shared) = (Tasks::new("test"), store.clone() as Arc<dyn MetaStore>);
        let handle = testing::bookie(&disk, &shared, cluster, mutations, &tasks);
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
        let recorder = PrometheusBuilder::new().build_recorder();
        let _counting = ::metrics::set_default_local_recorder(&recorder);
        let stopped =
            || recorder.handle().render().contains("geminga_bookie_gc_stopped{of=\"ledgers\"} 1");
        let bench = Bench::without(mutations, 5).await;
        assert_eq!((bench.gc.cycle().await.unwrap(), stopped()), (0, false));
        bench.store.hides.lock().extend(1..=5);
        assert_eq!((bench.gc.cycle().await.unwrap(), stopped()), (0, true), "a human is told");
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

const UPLOADED_MS: i64 = 1_000;
const NOW_MS: i64 = 5_000;

/// A bookie with twenty ledgers, and six more whose entries were dropped for an object, or given up, and that have no key: half of them were
/// folded. At [`NOW_MS`].
async fn with_pointers() -> (Bench, ManualClock, Faulty) {
    let mut bench = Bench::new(20).await;
    let clock = ManualClock::at(NOW_MS);
    bench.gc.clock = Arc::new(clock.clone());
    let (faulty, cluster) = (Faulty::default(), bench.gc.cluster);
    let objects = faulty.store();
    bench.gc.folded.objects_are_in(&objects);
    let mut segments = Vec::new();
    for seq in 1..=6 {
        let ledger = LedgerId(100 + u64::from(seq));
        bench.put(&meta(ledger.0, LedgerState::Open)).await;
        testing::add_entry(&bench.handle, ledger).await;
        let meta = testing::trimmed_ledger(&objects, cluster, ledger, UPLOADED_MS).await;
        let Tier::Trimmed(object) = &meta.tier else { panic!("it is trimmed") };
        let disk = &bench.handle.disks()[0];
        // One of each half was somebody else's by then.
        if seq % 3 == 0 {
            assert!(disk.begin_to_give_up(ledger).await.unwrap());
            assert!(disk.give_up(ledger).await.unwrap());
        } else {
            assert!(disk.trim_ledger(ledger, EntryId(0), object.attempt).await.unwrap());
        }
        // Half of them were folded, the others were and are given up, or were deleted.
        if seq <= 3 {
            let segment = testing::segment(seq, ledger);
            segments.push(FoldedSegment::new(seq, segment, &meta).unwrap());
        }
        bench.remove(ledger.0).await;
    }
    let of = (TopicId::from_random(9), PartitionIndex(0));
    let list = SegmentList::new(cluster, of, 77, segments).unwrap();
    let parts = vec![list.write(&objects).await.unwrap()];
    let manifest = Manifest { parts, ..Manifest::default() };
    let key = keys::manifest(of.0, of.1);
    bench.store.memory.put_if(&key, None, manifest.encode()).await.unwrap().unwrap();
    (bench, clock, faulty)
}

/// Which object a ledger was dropped for is remembered for a week from the upload, or from when its key was gone: metadata from a
/// backup of before may ask for it.
#[tokio::test]
async fn what_a_ledger_was_dropped_for_is_remembered_for_a_week() {
    let (bench, clock, faulty) = with_pointers().await;
    for ledger in 21..=40 {
        bench.put(&meta(ledger, LedgerState::Open)).await;
        assert_eq!(bench.ask(ledger, WriteOp::Seal).await, Code::Ok);
    }
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    let (gets, reads) = (faulty.calls(Call::Get), *bench.store.reads.lock());
    clock.set(UPLOADED_MS + QUARANTINE_MS - 1);
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    assert_eq!(*bench.store.reads.lock(), reads, "nor is any key read until then");
    clock.set(UPLOADED_MS + QUARANTINE_MS);
    assert_eq!(bench.gc.cycle().await.unwrap(), 3, "those that were folded");
    clock.set(NOW_MS + QUARANTINE_MS - 1);
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    clock.set(NOW_MS + QUARANTINE_MS);
    assert_eq!(bench.gc.cycle().await.unwrap(), 3, "three of 43 are no reason to stop");
    assert_eq!(faulty.calls(Call::Get), gets, "lists were read once");
    assert_eq!(bench.handle.local_ledgers().len(), 40);
}

/// G2: of those that no manifest lists nobody can say whether their keys were removed or lost, and a week makes them no less absent.
#[tokio::test]
async fn what_no_manifest_lists_counts_as_absent_after_a_week() {
    let (bench, clock, _) = with_pointers().await;
    assert_eq!(bench.gc.cycle().await.unwrap(), 0);
    clock.set(NOW_MS + QUARANTINE_MS);
    for _ in 0..2 {
        bench.gc.cycle().await.unwrap();
        let local = bench.handle.local_ledgers();
        let left: Vec<u64> = local.keys().map(|ledger| ledger.0).filter(|id| *id > 100).collect();
        assert_eq!(left, [104, 105, 106], "three of 23 are too many");
        assert_eq!(local.len(), 23);
    }
    // They hold up no other.
    bench.remove(4).await;
    assert_eq!(bench.gc.cycle().await.unwrap(), 1);
    assert!(bench.is_deleted(4).await);
}
