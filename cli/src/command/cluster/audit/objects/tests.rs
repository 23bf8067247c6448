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
fn tiered(store: &Store, number: u64) -> LedgerMeta {
    let at = TierObject {
        attempt: 1,
        bucket: store.bucket().to_owned(),
        key: String::new(),
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
    view.ledgers.extend((1..=20).map(|number| (LedgerId(number), tiered(store, number))));
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
