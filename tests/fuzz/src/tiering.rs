//! Objects that list folded segments, and the one that says whose a store is: whoever may write to the object store can put anything there.

use bytes::{BufMut, Bytes, BytesMut};
use geminga_metastore::record::{
    Custom, Digest, Fragment, LedgerMeta, LedgerState, Segment, Tier, TierObject,
};
use geminga_proto::ids::{
    ClusterUuid, EntryId, Incarnation, LedgerId, Member, Offset, PartitionIndex, SealEpoch, Term,
    TopicId,
};
use geminga_tier::{FoldedSegment, Marker, SegmentList};

use crate::Target;

/// A list, without its checksum: that is made to fit, or nothing behind it would be reached.
pub(crate) const MANIFEST: Target = Target { name: "manifest", run, seeds };

/// A marker, without its checksum.
pub(crate) const MARKER: Target = Target { name: "marker", run: run_marker, seeds: markers };

const CRC_BYTES: usize = 4;

fn run_marker(data: &[u8]) {
    let mut bytes = BytesMut::from(data);
    bytes.put_u32(crc32c::crc32c(data));
    let Ok(marker) = Marker::decode(&bytes) else { return };
    assert_eq!(Marker::decode(&marker.encode()), Ok(marker));
}

fn markers() -> Vec<Bytes> {
    let bytes = Marker { cluster: ClusterUuid::from_random(2), store: 7 }.encode();
    vec![bytes.slice(..bytes.len() - CRC_BYTES)]
}

fn run(data: &[u8]) {
    let mut bytes = BytesMut::from(data);
    bytes.put_u32(crc32c::crc32c(data));
    let bytes = bytes.freeze();
    let Ok(list) = SegmentList::decode(&bytes) else { return };
    assert!(list.bytes() <= 64 * bytes.len(), "memory that its length does not explain");
    for found in list.segments() {
        assert!(found.ledger().is_ok(), "what was accepted is whole");
    }
    let again = SegmentList::decode(&list.encode()).expect("what was accepted can be written");
    assert_eq!(again, list);
}

fn seeds() -> Vec<Bytes> {
    let one = |seq: u32| {
        let ledger = LedgerId(u64::from(seq));
        let object = TierObject {
            attempt: 5,
            bucket: "memory://".to_owned(),
            key: "a/b.seg".to_owned(),
            size: 100,
            entries: 3,
            object_crc: 7,
            etag: String::new(),
            index_place: 60,
            at_ms: 1,
        };
        let member = Member { bookie: "b-1".parse().expect("a name"), incarnation: Incarnation(7) };
        let meta = LedgerMeta {
            id: ledger,
            state: LedgerState::Closed,
            seal_epoch: SealEpoch(3),
            qw: 1,
            qa: 1,
            digest: Digest::Crc32c,
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member] }],
            last_entry: Some(EntryId(2)),
            length: 40,
            entries_crc: None,
            tier: Tier::Trimmed(object),
            close_kind: None,
            recoverer: String::new(),
            last_op: 5,
            custom: Custom::default(),
            created_ms: 9,
            owner: String::new(),
            degraded: false,
        };
        let (base, end) = (i64::from(seq) * 10, i64::from(seq) * 10 + 10);
        let segment = Segment {
            ledger,
            base_offset: Offset(base),
            term: Term(1),
            end_offset: Some(Offset(end)),
            max_timestamp: Some(5),
            bytes: Some(40),
        };
        FoldedSegment::new(seq, segment, &meta).expect("it can be folded")
    };
    let of = (TopicId::from_random(1), PartitionIndex(0));
    let list = SegmentList::new(ClusterUuid::from_random(2), of, 3, vec![one(1), one(2)]);
    let bytes = list.expect("two segments").encode();
    vec![bytes.slice(..bytes.len() - CRC_BYTES)]
}
