//! Sweeps of a store whose metadata changes between the listing and the removal.

use bytes::Bytes;
use geminga_metastore::record::{Cluster, Custom, Features, Holder, Restored};
use geminga_metastore::{MemoryStore, Version};
use geminga_proto::ids::{BrokerId, TopicId};
use geminga_runtime::{ManualClock, SeededRandom};
use geminga_tier::faulty::{Call, Fault, Faulty};

use super::*;
use crate::testing::{open_ledger, trimmed_ledger};

const NOW_MS: i64 = i64::MAX / 2;

struct World {
    store: Arc<MemoryStore>,
    faulty: Faulty,
    janitor: Janitor,
}

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(5)
}

fn record() -> Cluster {
    Cluster {
        uuid: cluster(),
        epoch: 0,
        group_shards: 8,
        next_broker: BrokerId(1),
        groups_topic: TopicId::from_random(1),
        created_ms: 0,
        restored: None,
        features: Features::NONE,
    }
}

impl World {
    /// With many ledgers whose objects are there, so that a few others are no sign of lost metadata.
    async fn new() -> Self {
        Self::in_store("memory://").await
    }

    async fn in_store(bucket: &str) -> Self {
        let faulty = Faulty::default();
        let objects = faulty.store_of(bucket);
        Self::over(faulty, objects).await
    }

    async fn over(faulty: Faulty, objects: Store) -> Self {
        let store = Arc::new(MemoryStore::new());
        store.put_if(keys::CLUSTER, None, record().encode()).await.unwrap().unwrap();
        let shared: Arc<dyn MetaStore> = store.clone();
        let random = Arc::new(SeededRandom::new(1));
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let config = Config { sweep_age: Duration::ZERO, ..Config::default() };
        let mark = Mark::new(cluster(), Arc::clone(&shared), objects.clone(), &*random);
        let folder = Folder {
            cluster: cluster(),
            store: Arc::clone(&shared),
            objects: objects.clone(),
            random,
            clock: clock.clone(),
            config,
            mark: mark.clone(),
            mutations: Mutations::default(),
        };
        let folded = Folded::new(cluster(), Arc::clone(&shared));
        folded.objects_are_in(&objects);
        let janitor = Janitor {
            bookie: "b-1".parse().unwrap(),
            cluster: cluster(),
            store: shared,
            objects,
            clock,
            config,
            folder,
            folded,
            mark,
            mutations: Mutations::default(),
        };
        let world = Self { store, faulty, janitor };
        // All of these ids were handed out.
        let ids = geminga_metastore::LedgerIds::new(world.store.clone(), 0);
        for _ in 0..40 {
            let ledger = ids.next().await.unwrap();
            world.name(ledger).await;
        }
        world
    }

    /// A ledger whose object is there, and what its key holds.
    async fn object(&self, ledger: LedgerId) -> LedgerMeta {
        trimmed_ledger(&self.janitor.objects, cluster(), ledger, 0).await
    }

    async fn name(&self, ledger: LedgerId) -> Version {
        let meta = self.object(ledger).await;
        let put = self.store.put_if(&keys::ledger(ledger), None, meta.encode()).await;
        put.unwrap().unwrap()
    }

    /// One that the metadata does not know; its object.
    async fn unknown(&self) -> (LedgerMeta, String) {
        let ids = geminga_metastore::LedgerIds::new(self.store.clone(), 0);
        let meta = self.object(ids.next().await.unwrap()).await;
        let key = meta.tier.object().unwrap().key.clone();
        (meta, key)
    }

    async fn is_there(&self, key: &str) -> bool {
        self.janitor.objects.head(key).await.unwrap().is_some()
    }
}

/// `geminga restore import` names an object again while a sweep is under way, which may take hours.
#[tokio::test]
async fn what_is_named_since_the_listing_stays() {
    let world = World::new().await;
    let ((named, kept), (_, gone)) = (world.unknown().await, world.unknown().await);
    let garbage = world.janitor.find_garbage().await.unwrap();
    assert_eq!(garbage.len(), 2);
    world.store.put_if(&keys::ledger(named.id), None, named.encode()).await.unwrap().unwrap();
    let keys = garbage.into_iter().map(|one| one.key).collect();
    assert_eq!(world.janitor.remove(keys).await.unwrap(), 1);
    assert!(world.is_there(&kept).await && !world.is_there(&gone).await);
}

/// 6.8: the metadata is restored while a sweep is under way.
#[tokio::test]
async fn what_is_quarantined_since_the_listing_stays() {
    let world = World::new().await;
    let (_, kept) = world.unknown().await;
    let garbage = world.janitor.find_garbage().await.unwrap();
    let found = world.store.get(keys::CLUSTER).await.unwrap().unwrap();
    let restored = Some(Restored { at_ms: NOW_MS, audited: true });
    let later = Cluster { epoch: 1, restored, ..record() };
    world.store.put_if(keys::CLUSTER, Some(found.version), later.encode()).await.unwrap().unwrap();
    let keys: Vec<String> = garbage.into_iter().map(|one| one.key).collect();
    assert_eq!(world.janitor.remove(keys).await.unwrap(), 0);
    assert!(world.is_there(&kept).await);
}

/// One that cannot go holds up no other; neither a removal of which nobody hears nor a listing that breaks off removes what is needed.
#[tokio::test]
async fn a_store_in_trouble_keeps_more_and_not_less() {
    let world = World::new().await;
    let (_, first) = world.unknown().await;
    let (_, second) = world.unknown().await;
    world.faulty.fail(Call::List, Fault::Refuse, 1);
    world.janitor.sweep().await.unwrap_err();
    assert!(world.is_there(&first).await && world.is_there(&second).await);
    for fault in [Fault::Refuse, Fault::LoseReply] {
        world.faulty.fail(Call::Delete, fault, 1);
        world.janitor.sweep().await.unwrap_err();
    }
    assert_eq!(world.janitor.sweep().await.unwrap(), 0);
    assert!(!world.is_there(&first).await && !world.is_there(&second).await);
    let mut listing = world.janitor.objects.list(cluster());
    let mut left = 0;
    while let Some(object) = listing.next().await {
        object.unwrap();
        left += 1;
    }
    assert_eq!(left, 40, "those that are named");
}

/// 7.4, step 3: a directory has no lifecycle rules. What runs is not taken away from it, whatever age objects go at, and what stops a sweep
/// stops nothing else.
#[tokio::test]
async fn what_unfinished_uploads_left_in_a_directory_goes() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let objects = Store::open(&url, &geminga_tier::Options::default(), []).unwrap();
    let mut world = World::over(Faulty::default(), objects).await;
    let (_, key) = world.unknown().await;
    let object = std::path::Path::new("/").join(&key);
    let left = object.with_extension("seg#1");
    std::fs::write(&left, "some of it").unwrap();
    let written = std::fs::metadata(&left).unwrap().modified().unwrap();
    let written = written.duration_since(std::time::UNIX_EPOCH).unwrap();
    let written_ms = i64::try_from(written.as_millis()).unwrap();
    let running = world.janitor.config.take_over;
    let after = |time: Duration| {
        let ms = i64::try_from(time.as_millis()).unwrap();
        Arc::new(ManualClock::at(written_ms + ms))
    };
    world.janitor.clock = after(running);
    assert_eq!(world.janitor.sweep().await.unwrap(), 1, "the object of no ledger");
    assert!(left.exists(), "its upload may run");
    world.janitor.clock = after(running * 2);
    world.store.txn(Txn::new().delete(keys::CLUSTER.to_owned())).await.unwrap();
    world.janitor.sweep().await.unwrap_err();
    assert!(!left.exists(), "it stays for ever");
    // Slow ones rest for longer.
    let slow = Config { upload_rate: Some(1 << 10), ..world.janitor.config };
    assert!(slow.unfinished_age() > Duration::from_secs(16 << 10));
    assert_eq!(Config::default().unfinished_age(), Config::default().sweep_age);
}

/// An object of a ledger that names another one, or none any more, and one of a custom that is open.
#[tokio::test]
async fn what_a_ledger_supersedes_goes_and_the_rest_stays() {
    let world = World::new().await;
    let custom = Custom { topic: TopicId::from_random(9), ..Custom::default() };
    let ids = geminga_metastore::LedgerIds::new(world.store.clone(), 0);
    let (named, open) = (ids.next().await.unwrap(), ids.next().await.unwrap());
    world.name(named).await;
    let meta = open_ledger(open).encode();
    world.store.put_if(&keys::ledger(open), None, meta).await.unwrap().unwrap();
    for ledger in [named, open] {
        let key = world.janitor.objects.key(cluster(), &custom, ledger, 77);
        world.janitor.objects.upload(&key).complete(Bytes::from_static(b"x")).await.unwrap();
    }
    assert_eq!(world.janitor.sweep().await.unwrap(), 1);
    let key = |ledger| world.janitor.objects.key(cluster(), &custom, ledger, 77);
    assert!(!world.is_there(&key(named)).await && world.is_there(&key(open)).await);
}

impl World {
    /// Who is the janitor.
    async fn holder(&self) -> Option<BookieId> {
        let found = self.store.get(keys::JANITOR).await.unwrap()?;
        Some(Holder::decode(&found.value).unwrap().bookie)
    }

    /// Stands for the office for so long, as a bookie that goes on after; whether it gave it up.
    async fn stands(&self, lease: LeaseId, time: Duration) -> bool {
        tokio::time::timeout(time, self.janitor.campaign(lease)).await.is_ok()
    }
}

/// A bookie that was given another directory than all others cleans up nothing, and keeps nobody from it.
#[tokio::test(start_paused = true)]
async fn whoever_has_another_store_leaves_the_office_to_others() {
    let world = World::in_store("file://").await;
    world.janitor.mark.begin().await.unwrap();
    let own = Some(world.janitor.bookie.clone());
    let lease = world.store.grant_lease(Duration::from_secs(3_600)).await.unwrap();
    let a_few = world.janitor.config.interval * 4;
    // It is not given up because the store does not say.
    world.faulty.fail_after(Call::Get, 1, Fault::Refuse, 2);
    assert!(!world.stands(lease, a_few).await);
    assert_eq!(world.holder().await, own);
    world.store.revoke_lease(lease).await.unwrap();
    // Found out in office.
    let lease = world.store.grant_lease(Duration::from_secs(3_600)).await.unwrap();
    world.faulty.fail_after(Call::Get, 3, Fault::Unmount, 1);
    assert!(world.stands(lease, a_few * 2).await, "it keeps the office");
    world.store.revoke_lease(lease).await.unwrap();
    // And before.
    let lease = world.store.grant_lease(Duration::from_secs(3_600)).await.unwrap();
    assert!(!world.stands(lease, a_few).await);
    assert_eq!(world.holder().await, None);
    world.faulty.mount();
    assert!(!world.stands(lease, a_few).await);
    assert_eq!(world.holder().await, own);
}
