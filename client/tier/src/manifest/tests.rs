//! The bytes of manifests: what is written is read, nothing that changed is taken for it, and the format stays what it is.

use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Segment, Tier, TierObject,
};
use geminga_proto::ids::{EntryId, Incarnation, Member, SealEpoch, Term};

use super::*;
use crate::faulty::{Call, Fault, Faulty};
use crate::testing::{self, golden};

fn topic() -> TopicId {
    TopicId::from_slice(&[7; 16]).unwrap()
}

fn meta(seq: u32) -> LedgerMeta {
    let ledger = LedgerId(0x2a00 + u64::from(seq));
    let custom = Custom {
        topic: topic(),
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partition: 3,
        first_offset: i64::from(seq) * 10,
        term: 2,
    };
    let member = Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(5) };
    LedgerMeta {
        id: ledger,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member] }],
        last_entry: Some(EntryId(4)),
        length: 5000,
        entries_crc: Some(77),
        tier: Tier::Trimmed(TierObject {
            attempt: u128::from(seq) + 1,
            bucket: "memory://".to_owned(),
            key: format!("c/t/3/{ledger}/{seq}.seg"),
            size: 5500,
            entries: 5,
            object_crc: 9,
            etag: "e".to_owned(),
            index_place: 5300,
            at_ms: 1_000,
        }),
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 6,
        custom,
        created_ms: 500,
        owner: "broker-1".to_owned(),
        degraded: false,
    }
}

fn segment(seq: u32) -> Segment {
    Segment {
        ledger: meta(seq).id,
        base_offset: Offset(i64::from(seq) * 10),
        term: Term(2),
        end_offset: Some(Offset(i64::from(seq) * 10 + 10)),
        max_timestamp: Some(900),
        bytes: Some(5000),
    }
}

fn list(seqs: RangeInclusive<u32>) -> SegmentList {
    let folded = |seq| FoldedSegment::new(seq, segment(seq), &meta(seq)).unwrap();
    let of = (topic(), PartitionIndex(3));
    SegmentList::new(testing::cluster(), of, 0x0123_4567, seqs.map(folded).collect()).unwrap()
}

#[test]
fn a_list_is_read_back_and_stays_what_it_is() {
    let written = list(1..=3);
    let bytes = Bytes::from(golden("manifest-v1.hex", &written.encode()));
    let read = SegmentList::decode(&bytes).unwrap();
    assert_eq!(read, written);
    assert_eq!(read.segments()[2].ledger().unwrap(), meta(3));
}

/// Every bit counts, and every cut is noticed.
#[test]
fn nothing_that_changed_is_taken_for_it() {
    let bytes = list(1..=2).encode();
    for at in 0..bytes.len() {
        let mut changed = bytes.to_vec();
        changed[at] ^= 1 << (at % 8);
        assert!(SegmentList::decode(&changed.into()).is_err(), "byte {at}");
        assert!(SegmentList::decode(&bytes.slice(..at)).is_err(), "cut at {at}");
    }
}

/// With a checksum that fits, as somebody would who means it: an error, and no more memory than the bytes explain.
#[test]
fn forged_lists_are_refused() {
    let forge = |change: &dyn Fn(&mut Vec<u8>)| {
        let whole = list(1..=2).encode();
        let mut bytes = whole[..whole.len() - CRC_BYTES].to_vec();
        change(&mut bytes);
        let sum = crc32c::crc32c(&bytes);
        bytes.put_u32(sum);
        SegmentList::decode(&bytes.into())
    };
    assert!(forge(&|_| {}).is_ok());
    assert!(forge(&|bytes| bytes[12..16].fill(0xff)).is_err(), "four billion segments");
    let padded = forge(&|bytes| {
        bytes[12..16].copy_from_slice(&80_000_u32.to_be_bytes());
        bytes.resize(bytes.len() + 80_000 * ITEM_BYTES, 0);
    });
    assert_eq!(padded, Err(damaged("the number of its segments")), "as many as fit");
    assert!(forge(&|bytes| bytes[12..16].fill(0)).is_err(), "none");
    assert_eq!(forge(&|bytes| bytes[9] = 2), Err(FormatError::Version(2)));
    assert!(forge(&|bytes| bytes[HEAD_BYTES + 4..HEAD_BYTES + 8].fill(0xff)).is_err());
    assert!(forge(&|bytes| bytes[HEAD_BYTES + 3] = 9).is_err(), "not in order");
    assert!(forge(&|bytes| bytes.push(0)).is_err(), "something behind it");
}

#[test]
fn only_what_bookies_dropped_is_folded() {
    let local = LedgerMeta { tier: Tier::Local, ..meta(1) };
    assert!(FoldedSegment::new(1, segment(1), &local).is_err());
    let open = Segment { end_offset: None, ..segment(1) };
    assert!(FoldedSegment::new(1, open, &meta(1)).is_err());
    assert!(FoldedSegment::new(1, segment(2), &meta(1)).is_err(), "another ledger");
}

#[test]
fn a_part_counts_some_of_them() {
    let list = list(5..=9);
    let part = list.counted(6..=7).unwrap();
    assert_eq!((part.first_seq, part.last_seq, part.segments, part.bytes), (6, 7, 2, 10_000));
    assert_eq!((part.base_offset, part.end_offset), (Offset(60), Offset(80)));
    assert_eq!(list.of(&part).iter().map(|found| found.seq).collect::<Vec<_>>(), [6, 7]);
    assert!(list.counted(1..=4).is_none());
}

#[tokio::test]
async fn only_the_object_that_metadata_names_is_read() {
    let faulty = Faulty::default();
    let store = faulty.store();
    let (written, of) = (list(1..=4), (topic(), PartitionIndex(3)));
    let part = written.write(&store).await.unwrap();
    let name = store.parse_manifest_key(testing::cluster(), &part.key).unwrap();
    assert_eq!((name.topic, name.partition, name.attempt), (of.0, of.1, 0x0123_4567));
    assert_eq!(store.parse_key(testing::cluster(), &part.key), None, "no ledger's object");
    let cluster = testing::cluster();
    let read = async |of, part| SegmentList::read(&store, cluster, of, &part).await;
    assert_eq!(read(of, part.clone()).await.unwrap(), written);
    assert!(read((of.0, PartitionIndex(4)), part.clone()).await.is_err());
    assert!(read(of, ManifestPart { crc: part.crc ^ 1, ..part.clone() }).await.is_err());
    assert!(read(of, ManifestPart { segments: 5, ..part.clone() }).await.is_err());
    assert!(read(of, ManifestPart { size: part.size - 1, ..part.clone() }).await.is_err());
    assert!(read(of, ManifestPart { size: u64::MAX, ..part.clone() }).await.is_err());
    let many = MAX_SEGMENTS as u32 + 1;
    assert!(read(of, ManifestPart { segments: many, ..part.clone() }).await.is_err());
    faulty.fail(Call::Get, Fault::Truncate, 1);
    assert!(read(of, part).await.is_err());
    // What was only said to be written is not there when it is read back.
    faulty.fail(Call::Put, Fault::Pretend, 1);
    let other = SegmentList { attempt: 8, ..written };
    let part = other.write(&store).await.unwrap();
    assert!(read(of, part).await.is_err());
}

/// What a list may take is known before it is fetched, whatever metadata says of it.
#[test]
fn what_a_list_takes_is_known_before() {
    let list = list(1..=4);
    let part = ManifestPart { size: list.encode().len() as u64, ..list.counted(0..=9).unwrap() };
    assert!(SegmentList::most_bytes(&part) >= list.bytes());
    let forged = ManifestPart { size: u64::MAX, segments: u32::MAX, ..part };
    assert!(SegmentList::most_bytes(&forged) < 2 * MAX_MANIFEST_BYTES);
}
