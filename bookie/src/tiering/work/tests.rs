//! What a cycle costs, and what becomes of ledgers whose keys are gone.

use geminga_ledger::BookieConnection;
use geminga_metastore::record::Manifest;
use geminga_proto::ids::{ClusterUuid, PartitionIndex};
use geminga_runtime::{ManualClock, SeededRandom};
use geminga_tier::faulty::{Call, Fault, Faulty};
use geminga_tier::{FoldedSegment, SegmentList};
use geminga_tls::Dial;

use super::*;
use crate::io::MemoryDisk;
use crate::testing::{self, Counting};

mod unmounted;

/// The worker of a bookie, at a given time.
async fn worker(
    handle: BookieHandle,
    folded: Folded,
    store: Arc<dyn MetaStore>,
    objects: Store,
    tasks: &Tasks,
) -> Worker {
    let local: Arc<dyn BookieConnection> = Arc::new(handle.clone());
    let own = std::collections::HashMap::from([(handle.id().clone(), local)]);
    let peers = tasks.child("peers");
    let bookies = BookieDirectory::start(&*store, peers, own, 1 << 20, Dial::Plain).await.unwrap();
    let random = Arc::new(SeededRandom::new(1));
    let mark = Mark::new(handle.cluster(), Arc::clone(&store), objects.clone(), &*random);
    Worker {
        handle,
        folded,
        store,
        bookies,
        objects,
        random,
        clock: Arc::new(ManualClock::at(1_000)),
        config: Config::default(),
        mark,
        usable: false,
        mutations: Mutations::default(),
        offloads: BTreeMap::new(),
    }
}

/// A bookie that was away while all that it holds was folded.
struct Away {
    store: Arc<Counting>,
    faulty: Faulty,
    worker: Worker,
    ledgers: Vec<LedgerId>,
    _tasks: Tasks,
}

impl Away {
    async fn new(count: u64) -> Self {
        Self::in_store("memory://", count).await
    }

    async fn in_store(bucket: &str, count: u64) -> Self {
        let (tasks, cluster) = (Tasks::new("test"), ClusterUuid::from_random(5));
        let store = Arc::new(Counting::default());
        let shared: Arc<dyn MetaStore> = store.clone();
        let rules = crate::ledger::Mutations::default();
        let handle = testing::bookie(&MemoryDisk::new(), &shared, cluster, rules, &tasks);
        let faulty = Faulty::default();
        let objects = faulty.store_of(bucket);
        let of = (TopicId::from_random(9), PartitionIndex(0));
        let (mut segments, mut ledgers) = (Vec::new(), Vec::new());
        for ledger in (1..=count).map(LedgerId) {
            let key = keys::ledger(ledger);
            let open = testing::open_ledger(ledger).encode();
            store.memory.put_if(&key, None, open).await.unwrap().unwrap();
            testing::add_entry(&handle, ledger).await;
            store.memory.txn(Txn::new().delete(key)).await.unwrap();
            let meta = testing::trimmed_ledger(&objects, cluster, ledger, 0).await;
            let seq = u32::try_from(ledger.0).unwrap();
            let segment = testing::segment(seq, ledger);
            segments.push(FoldedSegment::new(seq, segment, &meta).unwrap());
            ledgers.push(ledger);
        }
        let list = SegmentList::new(cluster, of, 77, segments).unwrap();
        let parts = vec![list.write(&objects).await.unwrap()];
        let manifest = Manifest { parts, ..Manifest::default() };
        let key = keys::manifest(of.0, of.1);
        store.memory.put_if(&key, None, manifest.encode()).await.unwrap().unwrap();
        let folded = Folded::new(cluster, shared.clone());
        folded.objects_are_in(&objects);
        let worker = worker(handle, folded, shared, objects, &tasks).await;
        Self { store, faulty, worker, ledgers, _tasks: tasks }
    }

    fn held(&self) -> usize {
        let handle = &self.worker.handle;
        self.ledgers.iter().filter(|ledger| handle.holds_bytes(**ledger)).count()
    }
}

/// However many ledgers a bookie holds that have no key, a cycle reads the manifests once, and each list.
#[tokio::test]
async fn manifests_are_read_once_a_cycle() {
    let mut away = Away::new(9).await;
    assert_eq!(away.held(), 9);
    away.worker.cycle().await;
    assert_eq!(away.held(), 0, "each went after a look at its object");
    assert_eq!(away.store.listings(keys::MANIFESTS), 1);
    away.worker.cycle().await;
    assert_eq!(away.store.listings(keys::MANIFESTS), 1, "nothing is left to ask for");
}

/// What a list that cannot be read may name is kept, and looked at again.
#[tokio::test]
async fn what_an_unreadable_list_may_name_stays() {
    let mut away = Away::new(3).await;
    away.faulty.fail(Call::Get, Fault::Refuse, 1);
    away.worker.cycle().await;
    assert_eq!(away.held(), 3);
    let later = away.worker.clock.now_ms() + millis(Config::default().interval);
    away.worker.clock = Arc::new(ManualClock::at(later));
    away.worker.cycle().await;
    assert_eq!(away.held(), 0);
}

/// What is listed in the cluster's store is neither there nor lost in another.
#[tokio::test]
async fn no_list_is_asked_for_in_another_store() {
    let mut away = Away::in_store("file://", 3).await;
    away.worker.mark.begin().await.unwrap();
    let before = away.store.listings(keys::MANIFESTS);
    away.faulty.fail(Call::Get, Fault::Unmount, 1);
    away.worker.cycle().await;
    assert_eq!((away.held(), away.store.listings(keys::MANIFESTS)), (3, before));
    away.faulty.mount();
    let later = away.worker.clock.now_ms() + millis(Config::default().interval);
    away.worker.clock = Arc::new(ManualClock::at(later));
    away.worker.cycle().await;
    assert_eq!(away.held(), 0);
}

/// The pace is for those who read and write meanwhile, and a full disk serves nobody.
#[test]
fn a_disk_that_fills_up_is_uploaded_as_fast_as_it_goes() {
    let paced = [Fullness::Normal, Fullness::Warn, Fullness::High, Fullness::Hard];
    assert_eq!(paced.map(|fullest| rate(Some(7), fullest)), [Some(7), None, None, None]);
    assert_eq!(rate(None, Fullness::Normal), None);
}
