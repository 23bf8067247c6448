//! What a cycle costs, and what becomes of ledgers whose keys are gone.

use geminga_ledger::BookieConnection;
use geminga_metastore::record::{Manifest, Topic};
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
        resume: None,
        let_go: filling::LetGo::default(),
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

    /// The next look is due.
    fn later(&mut self) {
        let later = self.worker.clock.now_ms() + millis(Config::default().interval);
        self.worker.clock = Arc::new(ManualClock::at(later));
    }

    /// The tiered topic of a ledger.
    async fn topic_of(&self, meta: &LedgerMeta, more: &[(&str, &str)]) {
        let configs = [("remote.storage.enable", "true")];
        let configs = configs.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let topic = Topic {
            id: meta.custom.topic,
            partitions: 1,
            write_quorum: 1,
            ack_quorum: 1,
            replication_factor: None,
            configs: configs.collect(),
            created_ms: 0,
        };
        let key = keys::topic(&meta.custom.namespace, &meta.custom.name);
        self.store.memory.put_if(&key, None, topic.encode()).await.unwrap().unwrap();
    }

    /// What metadata says of a ledger now.
    async fn meta(&self, ledger: LedgerId) -> LedgerMeta {
        let found = self.store.get(&keys::ledger(ledger)).await.unwrap().unwrap();
        LedgerMeta::decode(ledger, &found.value).unwrap()
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
    away.later();
    away.worker.cycle().await;
    assert_eq!(away.held(), 0);
}

/// A bookie with ledgers that were uploaded a moment ago, are to be kept for an hour, and were looked at already.
async fn uploaded_many(count: u64, more: &[(&str, &str)]) -> Away {
    let mut away = Away::new(count).await;
    let cluster = away.worker.handle.cluster();
    for ledger in away.ledgers.clone() {
        let trimmed = testing::trimmed_ledger(&away.worker.objects, cluster, ledger, 1_000).await;
        let Tier::Trimmed(object) = trimmed.tier.clone() else { panic!("it is trimmed") };
        let meta = LedgerMeta { tier: Tier::Offloaded(object), ..trimmed };
        if ledger == away.ledgers[0] {
            away.topic_of(&meta, more).await;
        }
        let key = keys::ledger(ledger);
        away.store.memory.put_if(&key, None, meta.encode()).await.unwrap().unwrap();
    }
    away.worker.cycle().await;
    assert_eq!(away.held(), away.ledgers.len(), "they are kept for a while");
    away
}

/// The same with one.
async fn uploaded(more: &[(&str, &str)]) -> Away {
    uploaded_many(1, more).await
}

/// 5.8: where a disk fills up, what is in the object store is not kept beside it for as long as otherwise.
#[tokio::test]
async fn a_disk_that_fills_up_ends_what_is_kept_for_a_while() {
    let mut away = uploaded(&[]).await;
    away.worker.cycle().await;
    assert_eq!(away.held(), 1, "there is room");
    // Its bookie is to leave: what is there is copied, not dropped.
    away.worker.handle.disks()[0].set_fullness(Fullness::High);
    away.worker.cycle().await;
    assert_eq!(away.held(), 1);
    away.worker.handle.disks()[0].set_used(Fullness::Warn);
    away.worker.cycle().await;
    assert_eq!(away.held(), 0, "the same moment, and the disk fills up");

    let mut kept = uploaded(&[("local.retention.ms", "-1")]).await;
    kept.worker.handle.disks()[0].set_used(Fullness::Hard);
    kept.worker.cycle().await;
    assert_eq!(kept.held(), 1, "somebody wants it here for ever");
}

/// T5: not even then without a look at the object.
#[tokio::test]
async fn a_full_disk_keeps_what_the_object_store_lost() {
    let mut away = uploaded(&[]).await;
    let lost = Faulty::default();
    away.worker.objects = lost.store();
    away.worker.handle.disks()[0].set_used(Fullness::Hard);
    lost.fail(Call::Put, Fault::Refuse, 1_000);
    away.worker.cycle().await;
    away.worker.cycle().await;
    assert_eq!((away.held(), lost.calls(Call::Put)), (1, 0), "a store that loses things has time");
    let later = away.worker.clock.now_ms() + 60_000;
    away.worker.clock = Arc::new(ManualClock::at(later));
    away.worker.cycle().await;
    assert_eq!((away.held(), lost.calls(Call::Put)), (1, 1), "it is sent once more first");
}

/// Of a trimmed ledger without its object the copy here may be the last: that is said until the object is back.
#[tokio::test]
async fn a_missing_object_is_told_until_it_is_back() {
    let mut away = Away::new(2).await;
    let (lost, there) = (Faulty::default(), away.worker.objects.clone());
    away.worker.objects = lost.store();
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (2, Some(2)));
    // A store that does not answer brings nothing back.
    lost.fail(Call::Get, Fault::Refuse, 2);
    away.later();
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (2, Some(2)));
    away.worker.objects = there;
    away.later();
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (0, None));
}

/// 6.6: a bookie that is to leave says that it may once each of its copies was looked at, whatever was to be waited for; what the store
/// does not answer is not known, nor what begins after a decommission was taken back.
#[tokio::test]
async fn that_nothing_is_missing_is_said_after_a_look_at_all() {
    let mut away = Away::new(2).await;
    let (silent, there) = (Faulty::default(), away.worker.objects.clone());
    silent.fail(Call::Get, Fault::Refuse, 2);
    away.worker.objects = silent.store();
    away.worker.handle.set_leaving(true);
    assert_eq!(away.worker.handle.objects_missing(), None, "it did not look");
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (2, None));
    away.worker.objects = there;
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (0, Some(0)));
    away.worker.handle.set_leaving(false);
    assert_eq!(away.worker.handle.objects_missing(), None);
    away.worker.cycle().await;
    assert_eq!(away.worker.handle.objects_missing(), None, "it takes new data");
}

/// Another bookie trimmed it, and its object was lost, while this one waited for the time to drop its copy.
#[tokio::test]
async fn a_bookie_that_is_to_leave_does_not_wait_for_what_it_keeps_for_a_while() {
    let mut away = uploaded(&[]).await;
    let (ledger, key) = (away.ledgers[0], keys::ledger(away.ledgers[0]));
    let found = away.store.memory.get(&key).await.unwrap().unwrap();
    let meta = LedgerMeta::decode(ledger, &found.value).unwrap();
    away.worker.handle.set_leaving(true);
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (1, None), "it is named");
    let Tier::Offloaded(object) = meta.tier.clone() else { panic!("it is uploaded") };
    let trimmed = LedgerMeta { tier: Tier::Trimmed(object), ..meta }.encode();
    away.store.memory.put_if(&key, Some(found.version), trimmed).await.unwrap().unwrap();
    away.worker.objects = Faulty::default().store();
    away.worker.cycle().await;
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (1, Some(1)));
}

/// 6.6, T7: it has the only copy of a ledger whose object is gone, and is the only one to find that out: who waits for it to leave is told
/// by the metadata.
#[tokio::test]
async fn a_bookie_that_is_to_leave_finds_out_that_no_object_has_its_only_copy() {
    let configs = [("local.retention.ms", "-1"), ("remote.log.copy.disable", "true")];
    let mut away = uploaded(&configs).await;
    let there = std::mem::replace(&mut away.worker.objects, Faulty::default().store());
    away.worker.cycle().await;
    let before = away.meta(away.ledgers[0]).await;
    assert!(matches!(before.tier, Tier::Offloaded(_)), "nobody asks as long as it stays");
    away.worker.handle.set_leaving(true);
    let lost = std::mem::replace(&mut away.worker.objects, there);
    away.worker.cycle().await;
    assert_eq!(away.meta(away.ledgers[0]).await, before, "it is there");
    away.worker.objects = lost;
    away.worker.cycle().await;
    assert_eq!(away.meta(away.ledgers[0]).await.tier, Tier::Local);
    assert_eq!((away.held(), away.worker.handle.objects_missing()), (1, None), "it is named");
}

/// An upload that fails again and again keeps no other from its turn where a disk fills up, and is not begun before its time.
#[tokio::test]
async fn what_cannot_be_uploaded_stops_no_other_where_a_disk_fills_up() {
    let mut away = Away::new(2).await;
    away.worker.handle.disks()[0].set_used(Fullness::Warn);
    // Each cycle ends after one ledger.
    away.worker.config.interval = std::time::Duration::ZERO;
    let cluster = away.worker.handle.cluster();
    for (ledger, length) in [(away.ledgers[0], 8), (away.ledgers[1], 7)] {
        let like = testing::trimmed_ledger(&away.worker.objects, cluster, ledger, 0).await;
        let meta = LedgerMeta { tier: Tier::Local, length, ..like };
        if length == 8 {
            away.topic_of(&meta, &[]).await;
        }
        let key = keys::ledger(ledger);
        away.store.memory.put_if(&key, None, meta.encode()).await.unwrap().unwrap();
    }
    away.worker.cycle().await;
    let poison = away.meta(away.ledgers[0]).await;
    assert!(
        matches!(poison.tier, Tier::Uploading { .. }),
        "its bytes are not those that are described"
    );
    away.worker.cycle().await;
    let other = away.meta(away.ledgers[1]).await.tier;
    assert!(other != Tier::Local, "it is that one's turn");
    away.worker.offloads.get_mut(&away.ledgers[0]).unwrap().look_at = 1_001;
    away.worker.cycle().await;
    assert_eq!(away.meta(away.ledgers[0]).await, poison, "it was not tried before its time");
}

/// What goes in a hurry goes at every bookie: no more than the disk needs, the oldest first, and others once that gave nothing back.
#[tokio::test]
async fn no_more_goes_in_a_hurry_than_a_disk_needs() {
    let mut away = uploaded_many(3, &[]).await;
    let disk = &away.worker.handle.disks()[0];
    disk.set_used(Fullness::Warn);
    disk.set_surplus(1);
    for _ in 0..2 {
        away.worker.cycle().await;
        assert_eq!(away.held(), 2, "one was enough, and the log gives its space back later");
        assert!(!away.worker.handle.holds_bytes(away.ledgers[0]), "the oldest");
    }
    away.worker.let_go = filling::LetGo::default();
    away.worker.cycle().await;
    assert_eq!(away.held(), 1, "what went is given back, and was not enough");
    away.worker.handle.disks()[0].set_used(Fullness::High);
    away.worker.cycle().await;
    assert_eq!(away.held(), 0, "it takes no data any more");
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
