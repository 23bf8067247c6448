//! Values of the metadata store: the first byte chooses the key, the rest is the value. Anybody with rights on etcd can
//! write there, and a newer version may have.

use bytes::Bytes;
use geminga_metastore::dump;
use geminga_metastore::keys;
use geminga_metastore::record::{
    Assign, Assignment, Custom, Deleting, Digest, FormerManifest, Fragment, LedgerMeta,
    LedgerState, Manifest, ManifestPart, PartitionTerm, Tier,
};
use geminga_proto::ids::{
    BookieId, BrokerId, EntryId, Incarnation, LedgerId, Member, Offset, PartitionIndex, SealEpoch,
    Term, TopicId,
};

use crate::Target;

/// Every kind of record.
pub(crate) const METADATA: Target = Target { name: "metadata", run, seeds };

const LEDGER: LedgerId = LedgerId(7);

fn bookie() -> BookieId {
    "b-1".parse().expect("a name")
}

/// One key of each kind.
fn keys() -> Vec<String> {
    let topic = TopicId::from_random(1);
    vec![
        keys::CLUSTER.to_owned(),
        keys::COORDINATOR.to_owned(),
        keys::REVOKING.to_owned(),
        keys::topic("default", "t"),
        keys::deleted_topic(topic),
        keys::assign(topic, 0),
        keys::term(topic, PartitionIndex(0)),
        keys::log_start(topic, PartitionIndex(0)),
        keys::segment(topic, PartitionIndex(0), 1),
        keys::ledger(LEDGER),
        keys::deleting(LEDGER),
        keys::under(LEDGER),
        keys::broker(BrokerId(1)),
        keys::alloc(0),
        keys::bookie_cookie(&bookie()),
        keys::bookie_live(&bookie()),
        keys::bookie_watermark(&bookie()),
        keys::manifest(topic, PartitionIndex(0)),
    ]
}

fn manifest() -> Bytes {
    let part = |first_seq: u32| ManifestPart {
        attempt: 5,
        bucket: "memory://".to_owned(),
        key: "a/b.man".to_owned(),
        size: 100,
        crc: 7,
        first_seq,
        last_seq: first_seq + 9,
        segments: 10,
        base_offset: Offset(i64::from(first_seq)),
        end_offset: Offset(i64::from(first_seq) + 5),
        bytes: 9,
        lowest_ledger: LEDGER,
        highest_ledger: LEDGER,
    };
    let former = vec![FormerManifest { attempt: 3, since_ms: 9 }];
    Manifest { parts: vec![part(1), part(20)], dropped_before: 3, removed_before: 2, former }
        .encode()
}

fn seeds() -> Vec<Bytes> {
    let ledger = LedgerMeta {
        id: LEDGER,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(3),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: vec![Member { bookie: bookie(), incarnation: Incarnation(7) }],
        }],
        last_entry: Some(EntryId(41)),
        length: 4096,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 5,
        custom: Custom::default(),
        created_ms: 1,
        owner: "broker-1".to_owned(),
        degraded: false,
    };
    let values = [
        ledger.encode(),
        Deleting { since_ms: 1_700_000_000_000 }.encode(),
        PartitionTerm { term: Term(4), broker: Some(BrokerId(2)) }.encode(),
        Assign { partitions: vec![Assignment { broker: Some(BrokerId(2)), term: Term(4) }; 3] }
            .encode(),
        manifest(),
    ];
    let of_key = |value: &Bytes, key: u8| [&[key][..], value].concat().into();
    let each = |value: Bytes| (0..18).map(move |key| of_key(&value, key));
    values.into_iter().flat_map(each).collect()
}

fn run(bytes: &[u8]) {
    let Some((choice, value)) = bytes.split_first() else { return };
    let keys = keys();
    let key = &keys[usize::from(*choice) % keys.len()];
    let described = dump::describe(key, value);
    if key == &keys::ledger(LEDGER) && described.invalid.is_none() {
        let meta = LedgerMeta::decode(LEDGER, value).expect("a dump decodes by the same code");
        // Whoever decodes it relies on these.
        assert!(!meta.fragments.is_empty() && meta.fragments[0].first_entry == EntryId(0));
        assert_eq!(LedgerMeta::decode(LEDGER, &meta.encode()), Ok(meta));
    }
}
