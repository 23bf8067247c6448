//! What is found of a store beside its listing.

use geminga_ledger::core::audit::Doubt;
use geminga_metastore::record::{
    CloseKind, Cluster, Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier, TierObject,
};
use geminga_metastore::{Horizon, MemoryStore, cluster};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{EntryId, Incarnation, Member, SealEpoch};
use geminga_runtime::{SystemClock, SystemRandom};
use geminga_tier::SegmentWriter;
use geminga_tier::format::Header;

use super::*;

fn memory() -> Store {
    Store::open("memory:///", &geminga_tier::Options::default(), []).unwrap()
}

fn custom(first_offset: i64) -> Custom {
    Custom {
        topic: TopicId::from_random(3),
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partition: 2,
        first_offset,
        term: 1,
    }
}

/// Stores the only upload of a ledger: one entry, with ten offsets.
async fn upload(store: &Store, cluster: ClusterUuid, ledger: u64, first_offset: i64) -> String {
    let (ledger, custom) = (LedgerId(ledger), custom(first_offset));
    let position = Position { ledger, entry: EntryId(0), lac: EntryId::NONE, cumulative_length: 3 };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset,
        offset_count: 10,
        max_timestamp: 1,
        running_max_timestamp: 1,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let mut payload = geminga_proto::payload::Payload::default();
    payload.push(bytes::Bytes::from_static(b"abc"));
    let key = store.key(cluster, &custom, ledger, 1);
    let header =
        Header { cluster, attempt: 1, ledger, qw: 3, qa: 2, last_entry: EntryId(0), custom };
    let mut writer = SegmentWriter::new(&header);
    writer.push(&entry::encode(cluster, position, attributes, &payload).unwrap()).unwrap();
    let (bytes, _) = writer.finish().unwrap();
    store.upload(&key).complete(bytes).await.unwrap();
    key
}

/// The metadata of a ledger whose only upload is in this store.
fn tiered(store: &Store, cluster: ClusterUuid, number: u64) -> LedgerMeta {
    let at = TierObject {
        attempt: 1,
        bucket: store.bucket().to_owned(),
        key: store.key(cluster, &custom(number as i64 * 10), LedgerId(number), 1),
        size: 1_000,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 900,
        at_ms: 5,
    };
    let member = Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(1) };
    LedgerMeta {
        id: LedgerId(number),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member] }],
        last_entry: Some(EntryId(0)),
        length: 3,
        entries_crc: Some(1),
        tier: Tier::Trimmed(at),
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: custom(number as i64 * 10),
        created_ms: 1,
        owner: String::new(),
        degraded: false,
    }
}

/// A backup that names ledgers 1 to 20 in this store, the first of them at offset 10.
fn backup(store: &Store, cluster: Cluster) -> View {
    let mut view = View::new(Horizon::new(cluster, 100));
    let uuid = view.horizon.cluster.uuid;
    view.ledgers.extend((1..=20).map(|number| (LedgerId(number), tiered(store, uuid, number))));
    view
}

/// All that an old backup names was deleted by retention: what is left of its log begins behind that, and says so itself.
#[tokio::test]
async fn a_log_that_begins_behind_the_backup_is_no_other_stores() {
    let metadata = MemoryStore::new();
    let cluster = cluster::init(&metadata, &SystemRandom, &SystemClock).await.unwrap();
    let uuid = cluster.uuid;
    let looked = |store: Store| {
        let mut view = backup(&store, cluster.clone());
        async move {
            let (objects, uploads) = Objects::list(store, uuid).await.unwrap();
            view.uploads = Some(uploads);
            let before = audit::doubt(&view);
            objects.find_begins(&mut view).await.unwrap();
            (before, audit::doubt(&view))
        }
    };
    let lacks = Some(Doubt::Lacks { named: 20, lacking: 20 });
    let store = memory();
    for (ledger, first_offset) in [(51, 300), (50, 310), (52, 320)] {
        upload(&store, uuid, ledger, first_offset).await;
    }
    // One that cannot be read says nothing.
    let broken = store.key(uuid, &custom(0), LedgerId(49), 1);
    store.upload(&broken).complete(bytes::Bytes::from_static(b"no segment")).await.unwrap();
    assert_eq!(looked(store.clone()).await, (lacks, None));
    // What lies before the backup, such as a folded segment, or one that nobody removed yet, shows that nothing was deleted there.
    upload(&store, uuid, 53, 0).await;
    let store = memory();
    upload(&store, uuid, 53, 0).await;
    assert_eq!(looked(store).await, (lacks, lacks));
}

fn at(dir: &std::path::Path) -> Store {
    let url = format!("file://{}", dir.display());
    Store::open(&url, &geminga_tier::Options::default(), []).unwrap()
}

/// A word of the operator does not make an unmounted directory the cluster's store.
#[tokio::test]
async fn an_empty_directory_is_not_trusted() {
    let metadata = MemoryStore::new();
    let cluster = cluster::init(&metadata, &SystemRandom, &SystemClock).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = at(dir.path());
    let believed = |store: Store, trust| {
        let (mut view, uuid) = (backup(&store, cluster.clone()), cluster.uuid);
        async move {
            let (objects, uploads) = Objects::list(store, uuid).await.unwrap();
            view.uploads = Some(uploads);
            super::super::believe(&objects, &mut view, trust).await.is_ok()
        }
    };
    assert!(!believed(store.clone(), false).await);
    assert!(!believed(store.clone(), true).await, "nothing says that it is the cluster's");
    // One that is the cluster's, and empty.
    geminga_tier::claim(&metadata, &store, cluster.uuid, 1).await.unwrap();
    assert!(!believed(store.clone(), false).await);
    assert!(believed(store.clone(), true).await);
    // One that lacks most.
    upload(&store, cluster.uuid, 1, 0).await;
    assert!(!believed(store.clone(), false).await);
    assert!(believed(store, true).await);
}

/// What is below another prefix of the bucket, or in another directory, was not deleted: it is asked for by its own key, or nobody looked.
#[tokio::test]
async fn another_prefix_of_the_bucket_is_elsewhere() {
    let metadata = MemoryStore::new();
    let cluster = cluster::init(&metadata, &SystemRandom, &SystemClock).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (at(&dir.path().join("old")), at(&dir.path().join("new")));
    for ledger in 1..=19 {
        upload(&old, cluster.uuid, ledger, ledger as i64 * 10).await;
    }
    upload(&new, cluster.uuid, 30, 300).await;
    let mut view = backup(&old, cluster.clone());
    let (objects, uploads) = Objects::list(new.clone(), cluster.uuid).await.unwrap();
    view.uploads = Some(uploads);
    assert!(objects.are_some_elsewhere(&metadata, &view).await.unwrap());
    objects.find_unlisted(&mut view).await.unwrap();
    let report = audit::compare(&view);
    assert_eq!((report.gone, report.unlooked), (vec![], 1), "the last was never uploaded");
    // Known to bookies only: the metadata says where else the cluster had objects.
    view.ledgers.clear();
    assert!(!objects.are_some_elsewhere(&metadata, &view).await.unwrap());
    for store in [&new, &old] {
        geminga_tier::claim(&metadata, store, cluster.uuid, 1).await.unwrap();
    }
    assert!(objects.are_some_elsewhere(&metadata, &view).await.unwrap());
}
