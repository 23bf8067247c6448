//! A directory that is not mounted any more, at every moment of an upload: nothing is named that is in the empty one, nothing is believed to
//! be missing, nothing is trimmed; and when it is there again, all goes on.

use geminga_metastore::MemoryStore;
use geminga_metastore::record::{CloseKind, Custom, TierObject, Topic};
use geminga_proto::ids::EntryId;
use geminga_runtime::lines::Lines;

use super::*;

const LEDGER: LedgerId = LedgerId(7);
const BUCKET: &str = "file://";

struct World {
    store: Arc<MemoryStore>,
    faulty: Faulty,
    worker: Worker,
    now_ms: i64,
    _tasks: Tasks,
}

impl World {
    /// A bookie with a closed ledger of a topic that is tiered, whose store is marked.
    async fn new() -> Self {
        let (tasks, cluster) = (Tasks::new("test"), ClusterUuid::from_random(5));
        let store = Arc::new(MemoryStore::new());
        let shared: Arc<dyn MetaStore> = store.clone();
        let rules = crate::ledger::Mutations::default();
        let handle = testing::bookie(&MemoryDisk::new(), &shared, cluster, rules, &tasks);
        let open = testing::open_ledger(LEDGER);
        let key = keys::ledger(LEDGER);
        let version = store.put_if(&key, None, open.encode()).await.unwrap().unwrap();
        testing::add_entry(&handle, LEDGER).await;
        let topic = Topic {
            id: TopicId::from_random(9),
            partitions: 1,
            write_quorum: 1,
            ack_quorum: 1,
            replication_factor: None,
            configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
            created_ms: 0,
        };
        store.put_if(&keys::topic("default", "t"), None, topic.encode()).await.unwrap().unwrap();
        let (namespace, name) = ("default".to_owned(), "t".to_owned());
        let meta = LedgerMeta {
            state: LedgerState::Closed,
            last_entry: Some(EntryId(0)),
            length: 7,
            close_kind: Some(CloseKind::Writer),
            custom: Custom { topic: topic.id, namespace, name, ..Custom::default() },
            ..open
        };
        store.put_if(&key, Some(version), meta.encode()).await.unwrap().unwrap();
        let faulty = Faulty::default();
        let objects = faulty.store_of(BUCKET);
        let folded = Folded::new(cluster, Arc::clone(&shared));
        folded.objects_are_in(&objects);
        let worker = worker(handle, folded, shared, objects, &tasks).await;
        worker.mark.begin().await.unwrap();
        Self { store, faulty, worker, now_ms: 1_000, _tasks: tasks }
    }

    /// One cycle, so much later that all that is to be done is due.
    async fn cycle(&mut self) {
        self.now_ms += 7_200_000;
        self.worker.clock = Arc::new(ManualClock::at(self.now_ms));
        self.worker.cycle().await;
    }

    async fn tier(&self) -> Tier {
        let found = self.store.get(&keys::ledger(LEDGER)).await.unwrap().unwrap();
        LedgerMeta::decode(LEDGER, &found.value).unwrap().tier
    }

    fn is_held(&self) -> bool {
        self.worker.handle.holds_bytes(LEDGER)
    }

    /// It is named, and where it belongs.
    async fn object(&self) -> TierObject {
        let tier = self.tier().await;
        let object = tier.object().unwrap_or_else(|| panic!("{tier:?}")).clone();
        assert!(self.worker.objects.head(&object.key).await.unwrap().is_some());
        object
    }

    /// It is trimmed in the end.
    async fn goes_on(&mut self) {
        self.faulty.mount();
        for _ in 0..3 {
            self.cycle().await;
        }
        assert!(matches!(self.tier().await, Tier::Trimmed(_)) && !self.is_held());
        self.object().await;
    }
}

/// Calls of an upload until its object is named, and until it is trimmed.
async fn calls(kind: Call, cycles: usize) -> usize {
    let mut world = World::new().await;
    let before = world.faulty.calls(kind);
    for _ in 0..cycles {
        world.cycle().await;
    }
    world.faulty.calls(kind) - before
}

#[tokio::test]
async fn a_directory_that_goes_away_before_an_object_is_named() {
    assert_eq!(calls(Call::Put, 1).await, 1);
    // The object is put into the empty directory, or read there.
    let reads = calls(Call::Get, 1).await;
    let puts = [(Call::Put, 0)];
    for (call, at) in puts.into_iter().chain((0..reads).map(|at| (Call::Get, at))) {
        let mut world = World::new().await;
        world.faulty.fail_after(call, at, Fault::Unmount, 1);
        world.cycle().await;
        let tier = world.tier().await;
        assert!(tier.object().is_none() && world.is_held(), "{call:?} {at}: {tier:?}");
        let puts = world.faulty.calls(Call::Put);
        world.cycle().await;
        assert_eq!(world.faulty.calls(Call::Put), puts, "nothing is sent there");
        world.goes_on().await;
    }
}

#[tokio::test]
async fn a_directory_that_goes_away_before_copies_go() {
    let lines = Lines::capture();
    let reads = calls(Call::Get, 3).await - calls(Call::Get, 1).await;
    assert!(reads >= 4, "{reads}");
    for at in 0..reads {
        let mut world = World::new().await;
        world.cycle().await;
        let named = world.object().await;
        let before = world.faulty.calls(Call::Get);
        world.faulty.fail_after(Call::Get, at, Fault::Unmount, 1);
        // Until it is away.
        while world.faulty.calls(Call::Get) - before <= at {
            assert!(world.is_held() || at == reads - 1, "{at}: copies went without a look");
            world.cycle().await;
        }
        let (then, held) = (world.tier().await, world.is_held());
        assert_eq!(then.object(), Some(&named), "{at}: it is never believed to be missing");
        for _ in 0..2 {
            world.cycle().await;
            let now = (world.tier().await, world.is_held());
            assert_eq!(now, (then.clone(), held), "{at}: nothing is trimmed, and no copy goes");
        }
        world.goes_on().await;
        assert_eq!(world.object().await, named);
    }
    assert_eq!(lines.with(&["ledger is not there"]), [""; 0], "nor told to be");
}

/// The looks before a ledger is trimmed and before an object counts as missing, each on its own: the cycle began before.
#[tokio::test]
async fn each_look_alone_keeps_what_is_there() {
    let mut world = World::new().await;
    world.cycle().await;
    let named = world.object().await;
    let found = world.store.get(&keys::ledger(LEDGER)).await.unwrap().unwrap();
    let meta = LedgerMeta::decode(LEDGER, &found.value).unwrap();
    world.faulty.fail(Call::Get, Fault::Unmount, 1);
    let trimmed = LedgerMeta { tier: Tier::Trimmed(named.clone()), ..meta };
    let swap = Effect::Cas { expected: found.version, meta: Box::new(trimmed) };
    let event = world.worker.perform(LEDGER, swap, &mut Hand::default()).await;
    assert!(matches!(event, Event::Failed), "{event:?}");
    assert!(matches!(world.tier().await, Tier::Offloaded(_)));
    let event = world.worker.perform(LEDGER, Effect::Head(named), &mut Hand::default()).await;
    assert!(matches!(event, Event::Head(Head::Unknown)), "{event:?}");
    assert!(world.is_held());
    world.goes_on().await;
}

/// One look that nobody answers throws no finished upload away.
#[tokio::test(start_paused = true)]
async fn a_look_that_fails_once_costs_no_upload() {
    let reads = calls(Call::Get, 1).await;
    let mut world = World::new().await;
    // The last one is before the object is named.
    world.faulty.fail_after(Call::Get, reads - 1, Fault::Refuse, 1);
    let before = world.faulty.calls(Call::Put);
    world.cycle().await;
    world.object().await;
    assert_eq!(world.faulty.calls(Call::Put) - before, 1);
    // Nor does one that another task has.
    let other = world.worker.mark.clone();
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    assert!(!other.holds().await && world.worker.mark.held());
}

/// What a bookie with nothing to do says of the store.
#[tokio::test]
async fn a_refusal_is_over_when_the_store_is_back() {
    let mut world = World::new().await;
    world.faulty.fail(Call::Get, Fault::Unmount, 1);
    world.store.txn(Txn::new().delete(keys::topic("default", "t"))).await.unwrap();
    world.cycle().await;
    assert!(!world.worker.may_go_on());
    world.faulty.mount();
    world.cycle().await;
    assert!(world.worker.may_go_on());
}

/// A store that does not answer is asked once a cycle, and what waits for it is told.
#[tokio::test]
async fn a_store_that_is_away_is_asked_once_a_cycle() {
    let mut world = World::new().await;
    let before = world.faulty.calls(Call::Get);
    world.faulty.fail(Call::Get, Fault::Refuse, 100);
    for cycle in 1..=3 {
        world.cycle().await;
        assert_eq!(world.faulty.calls(Call::Get) - before, cycle);
    }
    assert_eq!(world.tier().await, Tier::Local);
    let followed = world.worker.offloads.values().next().unwrap();
    assert!(followed.last.waiting.is_some());
    world.faulty.fail(Call::Get, Fault::Refuse, 0);
    world.goes_on().await;
}
