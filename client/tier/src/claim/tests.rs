//! Stores of one name, and clusters that find them. Each arm of the decision has a test that fails without it.

use std::sync::Arc;

use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier, TierObject,
};
use geminga_metastore::{MemoryStore, Txn};
use geminga_proto::ids::{BookieId, EntryId, Incarnation, LedgerId, Member, SealEpoch, TopicId};
use object_store::memory::InMemory;

use super::*;
use crate::faulty::{Call, Fault, Faulty};
use crate::testing::cluster;

/// A store that is told from one that is gone with its process.
fn store() -> Store {
    Store::of(Arc::new(InMemory::new()), "s3://bucket")
}

/// An upload of the cluster; its key.
async fn upload(store: &Store, ledger: u64) -> String {
    let custom = Custom { topic: TopicId::from_random(3), ..Custom::default() };
    let key = store.key(cluster(), &custom, LedgerId(ledger), 1);
    store.upload(&key).complete("entries".into()).await.unwrap();
    key
}

/// The metadata names that upload.
async fn name(metadata: &MemoryStore, store: &Store, ledger: u64, state: LedgerState) {
    let custom = Custom { topic: TopicId::from_random(3), ..Custom::default() };
    let bookie: BookieId = "b-1".parse().unwrap();
    let member = Member { bookie, incarnation: Incarnation(1) };
    let object = TierObject {
        attempt: 1,
        bucket: store.bucket().to_owned(),
        key: store.key(cluster(), &custom, LedgerId(ledger), 1),
        size: 7,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    };
    let meta = LedgerMeta {
        id: LedgerId(ledger),
        state,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member] }],
        last_entry: Some(EntryId(0)),
        length: 7,
        entries_crc: None,
        tier: Tier::Trimmed(object),
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 0,
        custom,
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    };
    let key = keys::ledger(meta.id);
    metadata.put_if(&key, None, meta.encode()).await.unwrap().unwrap();
}

async fn marked(store: &Store) -> Option<u128> {
    Marker::read(store).await.unwrap().map(|marker| marker.store)
}

/// The key of the store, whatever its name is.
async fn known(metadata: &MemoryStore) -> Option<UsedStore> {
    let found = metadata.range(keys::OBJECT_STORES, None, 9).await.unwrap().items;
    found.first().map(|item| UsedStore::decode(&item.value.value).unwrap())
}

const SETTLED: UsedStore = UsedStore { id: 1, pending: false };

async fn know(metadata: &MemoryStore, store: &Store, used: UsedStore) {
    let key = keys::object_store(&store.place());
    metadata.put_if(&key, None, used.encode()).await.unwrap().unwrap();
}

/// It is refused by whoever reads, begins to write, or goes on writing, and nothing is changed.
async fn refused(metadata: &MemoryStore, store: &Store) -> ClaimError {
    let before = (marked(store).await, known(metadata).await);
    check(metadata, store, cluster()).await.unwrap_err();
    hold(metadata, store, cluster(), 8, false).await.unwrap_err();
    let error = claim(metadata, store, cluster(), 9).await.unwrap_err();
    assert!(error.is_refusal(), "{error}");
    assert_eq!((marked(store).await, known(metadata).await), before);
    error
}

#[tokio::test]
async fn whoever_comes_first_marks_a_store() {
    let (metadata, objects) = (MemoryStore::new(), store());
    check(&metadata, &objects, cluster()).await.unwrap();
    assert_eq!(marked(&objects).await, None, "a look changes nothing");
    for fresh in [1, 2] {
        claim(&metadata, &objects, cluster(), fresh).await.unwrap();
        let marker = Marker { cluster: cluster(), store: 1 };
        assert_eq!(Marker::read(&objects).await.unwrap(), Some(marker));
    }
    check(&metadata, &objects, cluster()).await.unwrap();
    hold(&metadata, &objects, cluster(), 3, false).await.unwrap();
    let found = metadata.get("object-stores/s3://bucket/").await.unwrap().unwrap();
    assert_eq!(UsedStore::decode(&found.value), Ok(SETTLED));
}

/// Bookies that start at the same moment all go by the same marker, also where the store puts one over another.
#[test]
fn several_at_once_agree() {
    let block_on = |work: &dyn Fn(&tokio::runtime::Runtime)| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        work(&runtime.enable_time().build().unwrap());
    };
    for round in 0..50 {
        let faulty = Faulty::default();
        if round % 2 == 1 {
            faulty.overwrite();
        }
        let (metadata, objects) = (MemoryStore::new(), faulty.store_of("s3://bucket"));
        std::thread::scope(|scope| {
            for fresh in 1..=4 {
                let (metadata, objects) = (&metadata, &objects);
                scope.spawn(move || {
                    block_on(&|runtime| {
                        runtime.block_on(claim(metadata, objects, cluster(), fresh)).unwrap();
                    });
                });
            }
        });
        block_on(&|runtime| {
            let marker = runtime.block_on(Marker::read(&objects)).unwrap().unwrap();
            assert!((1..=4).contains(&marker.store));
            runtime.block_on(claim(&metadata, &objects, cluster(), 99)).unwrap();
            assert_eq!(faulty.calls(Call::Put), 1, "one of them wrote it");
        });
    }
}

#[tokio::test]
async fn a_store_of_another_cluster_is_refused() {
    let (objects, other) = (store(), ClusterUuid::from_random(77));
    claim(&MemoryStore::new(), &objects, other, 1).await.unwrap();
    let metadata = MemoryStore::new();
    let error = refused(&metadata, &objects).await;
    let told = matches!(&error, ClaimError::OtherCluster { found, .. } if *found == other);
    assert!(told, "{error}");
    assert!(error.to_string().contains("--object-store"), "{error}");
    assert_eq!(metadata.range("", None, 9).await.unwrap().items, [], "and leaves no trace");
}

/// Another endpoint, or a directory that is not shared.
#[tokio::test]
async fn another_store_of_the_same_name_is_refused() {
    let (metadata, used) = (MemoryStore::new(), store());
    claim(&metadata, &used, cluster(), 1).await.unwrap();
    let empty = store();
    let error = refused(&metadata, &empty).await;
    assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
    // One that was used with metadata of its own.
    claim(&MemoryStore::new(), &empty, cluster(), 2).await.unwrap();
    let error = refused(&metadata, &empty).await;
    assert!(matches!(error, ClaimError::OtherStore { .. }), "{error}");
    claim(&metadata, &used, cluster(), 3).await.unwrap();
}

/// Two bookies that were given two directories of one path: one of them is refused, whoever was first where.
#[tokio::test]
async fn of_two_stores_that_are_marked_at_once_one_is_used() {
    let (metadata, one, two) = (MemoryStore::new(), store(), store());
    // Both found no key, and marked what they have.
    Marker { cluster: cluster(), store: 1 }.write(&one).await.unwrap();
    Marker { cluster: cluster(), store: 2 }.write(&two).await.unwrap();
    claim(&metadata, &two, cluster(), 3).await.unwrap();
    let error = claim(&metadata, &one, cluster(), 4).await.unwrap_err();
    assert!(matches!(error, ClaimError::OtherStore { .. }), "{error}");
    // Both at the same moment.
    let (metadata, one, two) = (MemoryStore::new(), store(), store());
    let both =
        tokio::join!(claim(&metadata, &one, cluster(), 1), claim(&metadata, &two, cluster(), 2));
    assert!(both.0.is_ok() != both.1.is_ok(), "{both:?}");
}

/// Neither marker nor key, as after an upgrade or an import: where the metadata names objects, one of them must be there.
#[tokio::test]
async fn a_store_that_lacks_what_the_metadata_names_is_not_marked() {
    let (metadata, own) = (MemoryStore::new(), store());
    for ledger in 1..=3 {
        upload(&own, ledger).await;
        name(&metadata, &own, ledger, LedgerState::Closed).await;
    }
    // A mount point whose directory is missing. With what somebody wrote there that the metadata does not name.
    let missing = store();
    for written in [false, true] {
        if written {
            upload(&missing, 9).await;
        }
        let error = refused(&metadata, &missing).await;
        assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
        assert_eq!(known(&metadata).await, None);
    }
    check(&metadata, &own, cluster()).await.unwrap();
    claim(&metadata, &own, cluster(), 1).await.unwrap();
    assert_eq!((marked(&own).await, known(&metadata).await), (Some(1), Some(SETTLED)));
    refused(&metadata, &missing).await;
}

/// A bookie whose directory was unmounted left what it had on its way below the mount point, and it was named: that is not the store.
#[tokio::test]
async fn a_store_with_a_part_of_what_is_named_is_not_believed() {
    let (metadata, own, other) = (MemoryStore::new(), store(), store());
    for ledger in 1..=30 {
        upload(if ledger % 2 == 0 { &own } else { &other }, ledger).await;
        name(&metadata, &own, ledger, LedgerState::Closed).await;
    }
    for half in [&own, &other] {
        let error = refused(&metadata, half).await;
        assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
    }
    // The fuller one, with 23 of 30.
    for ledger in (1..=15).step_by(2) {
        upload(&own, ledger).await;
    }
    refused(&metadata, &other).await;
    claim(&metadata, &own, cluster(), 1).await.unwrap();
    assert_eq!(marked(&own).await, Some(1));
    // Of one that was marked nearly all must be there.
    let copied = store();
    for ledger in 1..=26 {
        upload(&copied, ledger).await;
    }
    let error = refused(&metadata, &copied).await;
    assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
    upload(&copied, 27).await;
    claim(&metadata, &copied, cluster(), 2).await.unwrap();
    assert_eq!(marked(&copied).await, Some(1));
}

/// Uploads that took turns between two directories of one path, and more than are asked for.
#[tokio::test]
async fn no_half_of_many_is_believed() {
    let (metadata, own, other) = (MemoryStore::new(), store(), store());
    for ledger in 1..=600 {
        upload(if ledger % 2 == 0 { &own } else { &other }, ledger).await;
        name(&metadata, &own, ledger, LedgerState::Closed).await;
    }
    refused(&metadata, &own).await;
    refused(&metadata, &other).await;
}

/// An empty directory is asked for a few objects only; and for none by whoever did so just now.
#[tokio::test]
async fn an_empty_store_costs_little() {
    let (metadata, faulty) = (MemoryStore::new(), Faulty::default());
    let objects = faulty.store_of("s3://bucket");
    for ledger in 1..=40 {
        name(&metadata, &objects, ledger, LedgerState::Closed).await;
    }
    know(&metadata, &objects, SETTLED).await;
    let before = faulty.calls(Call::Get);
    check(&metadata, &objects, cluster()).await.unwrap_err();
    assert!(faulty.calls(Call::Get) - before <= 10, "{}", faulty.calls(Call::Get) - before);
    let key = keys::object_store(&objects.place());
    metadata.txn(Txn::new().delete(key)).await.unwrap();
    let before = faulty.calls(Call::Get);
    let error = hold(&metadata, &objects, cluster(), 1, true).await.unwrap_err();
    assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
    assert_eq!(faulty.calls(Call::Get) - before, 1, "the marker");
}

/// What is below another prefix, in another bucket, or on its way out says nothing of this store.
#[tokio::test]
async fn what_is_named_elsewhere_says_nothing() {
    let metadata = MemoryStore::new();
    let (new, old) = (store(), Store::of(Arc::new(InMemory::new()), "s3://old"));
    name(&metadata, &old, 1, LedgerState::Closed).await;
    name(&metadata, &new, 2, LedgerState::Deleting).await;
    claim(&metadata, &new, cluster(), 1).await.unwrap();
    assert_eq!(marked(&new).await, Some(1));
}

/// While nobody knows whether they are there, nothing is decided.
#[tokio::test]
async fn a_store_that_does_not_say_is_asked_again() {
    let (metadata, faulty) = (MemoryStore::new(), Faulty::default());
    let objects = faulty.store_of("s3://bucket");
    upload(&objects, 1).await;
    name(&metadata, &objects, 1, LedgerState::Closed).await;
    // The marker is asked for first, and then an object.
    for answered in [0, 1] {
        faulty.fail_after(Call::Get, answered, Fault::Refuse, 1);
        let error = claim(&metadata, &objects, cluster(), 1).await.unwrap_err();
        assert!(!error.is_refusal(), "{error}");
        assert_eq!((marked(&objects).await, known(&metadata).await), (None, None));
    }
    claim(&metadata, &objects, cluster(), 1).await.unwrap();
}

/// 6.8: metadata from a backup of before follows the marker; objects that were copied without it are marked as they were.
#[tokio::test]
async fn what_is_lost_on_one_side_is_taken_from_the_other() {
    let (metadata, objects) = (MemoryStore::new(), store());
    claim(&metadata, &objects, cluster(), 1).await.unwrap();
    let restored = MemoryStore::new();
    claim(&restored, &objects, cluster(), 2).await.unwrap();
    let copied = store();
    upload(&copied, 7).await;
    for metadata in [&metadata, &restored] {
        let error = refused(metadata, &copied).await;
        assert!(matches!(error, ClaimError::Nothing { .. }), "nothing names it: {error}");
        name(metadata, &copied, 7, LedgerState::Closed).await;
        check(metadata, &copied, cluster()).await.unwrap();
    }
    // Not by one that runs.
    let error = hold(&metadata, &copied, cluster(), 3, false).await.unwrap_err();
    assert!(matches!(error, ClaimError::Nothing { .. }), "{error}");
    for metadata in [&metadata, &restored] {
        claim(metadata, &copied, cluster(), 3).await.unwrap();
        assert_eq!(marked(&copied).await, Some(1));
    }
}

/// Whoever was to write the marker does so when it is started anew; another does when nothing comes of it.
#[tokio::test(start_paused = true)]
async fn a_marker_that_was_not_written_is_written_by_another() {
    for fresh in [1, 2] {
        let (metadata, objects) = (MemoryStore::new(), store());
        know(&metadata, &objects, UsedStore { id: 1, pending: true }).await;
        check(&metadata, &objects, cluster()).await.unwrap();
        claim(&metadata, &objects, cluster(), fresh).await.unwrap();
        let settled = UsedStore { id: fresh, pending: false };
        assert_eq!((marked(&objects).await, known(&metadata).await), (Some(fresh), Some(settled)));
    }
    // It was written, and its number was not said to be settled; or another came late.
    for id in [1, 2] {
        let (metadata, objects) = (MemoryStore::new(), store());
        know(&metadata, &objects, UsedStore { id, pending: true }).await;
        Marker { cluster: cluster(), store: 1 }.write(&objects).await.unwrap();
        claim(&metadata, &objects, cluster(), 5).await.unwrap();
        assert_eq!((marked(&objects).await, known(&metadata).await), (Some(1), Some(SETTLED)));
    }
    // Not where objects are named that are not there.
    let (metadata, objects) = (MemoryStore::new(), store());
    know(&metadata, &objects, UsedStore { id: 1, pending: true }).await;
    name(&metadata, &objects, 1, LedgerState::Closed).await;
    refused(&metadata, &objects).await;
}

/// One that writes the marker is waited for, and no longer than it takes.
#[tokio::test(start_paused = true)]
async fn another_that_writes_the_marker_is_waited_for() {
    let (metadata, objects) = (MemoryStore::new(), store());
    know(&metadata, &objects, UsedStore { id: 1, pending: true }).await;
    let mut waiting = std::pin::pin!(claim(&metadata, &objects, cluster(), 2));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    claim(&metadata, &objects, cluster(), 1).await.unwrap();
    let began = tokio::time::Instant::now();
    waiting.await.unwrap();
    assert!(began.elapsed() < WAIT);
    assert_eq!((marked(&objects).await, known(&metadata).await), (Some(1), Some(SETTLED)));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_who_is_away_is_not() {
    let (metadata, objects) = (MemoryStore::new(), store());
    objects.upload(&objects.marker_key()).complete("what?".into()).await.unwrap();
    let error = claim(&metadata, &objects, cluster(), 1).await.unwrap_err();
    assert!(matches!(error, ClaimError::Objects(_)) && error.is_refusal(), "{error}");
    let away = ClaimError::Objects(ObjectError::Store("503".to_owned()));
    assert!(!away.is_refusal());
    let objects = store();
    let key = keys::object_store(&objects.place());
    metadata.txn(Txn::new().put(key, "what?")).await.unwrap();
    let error = claim(&metadata, &objects, cluster(), 1).await.unwrap_err();
    assert!(matches!(error, ClaimError::Metadata(_)) && error.is_refusal(), "{error}");
    // One in memory begins empty each time.
    let memory = Store::of(Arc::new(InMemory::new()), "memory://");
    name(&metadata, &memory, 1, LedgerState::Closed).await;
    claim(&metadata, &memory, cluster(), 1).await.unwrap();
    check(&metadata, &memory, cluster()).await.unwrap();
    hold(&metadata, &memory, cluster(), 1, false).await.unwrap();
    assert_eq!(marked(&memory).await, None);
}
