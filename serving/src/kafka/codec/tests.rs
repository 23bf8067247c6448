//! Claims are not believed; headers are read as every version has them.

use super::messages::{MetadataRequest, ProduceRequest};
use super::*;

#[test]
fn a_header_is_read_with_and_without_tags() {
    let bytes = [&[0, 3, 0, 9, 0, 0, 0, 7, 0, 2][..], b"me", &[0], b"body"].concat();
    let mut frame = Bytes::from(bytes.clone());
    let mut header = Header::fixed(&mut frame).unwrap();
    header.rest(&mut frame, true).unwrap();
    assert_eq!((header.key, header.version, header.correlation), (3, 9, 7));
    assert_eq!((header.client_id.as_str(), &frame[..]), ("me", &b"body"[..]));
    let mut frame = Bytes::from(bytes);
    let mut header = Header::fixed(&mut frame).unwrap();
    header.rest(&mut frame, false).unwrap();
    assert_eq!(&frame[..], b"\0body");
    let mut nameless = Bytes::from_static(&[0, 3, 0, 1, 0, 0, 0, 7, 255, 255]);
    let mut header = Header::fixed(&mut nameless).unwrap();
    header.rest(&mut nameless, false).unwrap();
    assert!(header.client_id.is_empty());
}

#[test]
fn a_header_that_ends_early_is_none() {
    let whole = [&[0, 3, 0, 9, 0, 0, 0, 7, 0, 2][..], b"me", &[0]].concat();
    for end in 0..whole.len() {
        let mut frame = Bytes::copy_from_slice(&whole[..end]);
        let header = Header::fixed(&mut frame);
        assert!(header.and_then(|mut header| header.rest(&mut frame, true)).is_err(), "{end}");
    }
}

/// Twelve bytes that claim 16.7 million topics.
#[test]
fn a_claim_is_no_reason_to_allocate() {
    let body = Bytes::from_static(&[255, 255, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]);
    assert!(decode::<ProduceRequest>(body, 3).is_err());
    let body = Bytes::from_static(&[0x7f, 255, 255, 255]);
    assert!(decode::<MetadataRequest>(body, 1).is_err());
}

/// A request that names more partitions than it can have records for is not decoded, whatever its version looks like.
#[test]
fn records_for_too_many_partitions_are_refused() {
    use super::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_wire_core::KafkaEncode as _;

    for version in 3..=11 {
        for (topics, each, good) in [(1, 3, true), (100, 100, true), (101, 100, false)] {
            let mut request = ProduceRequest::default();
            let mut topic = TopicProduceData::default();
            topic.name = "t".into();
            topic.partition_data = vec![PartitionProduceData::default(); each];
            request.topic_data = vec![topic; topics];
            request.transactional_id = None;
            let body = request.encode_to_bytes(ApiVersion::new(version)).unwrap();
            assert_eq!(check_produce(body.clone(), version).is_ok(), good, "version {version}");
            assert_eq!(decode::<ProduceRequest>(body, version), Ok(request));
        }
    }
    assert!(
        check_produce(Bytes::from_static(&[255, 255, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]), 3).is_err()
    );
}
