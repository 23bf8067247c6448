use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_proto::checksum;
use geminga_proto::ids::TopicId;
use geminga_records::{Builder, Compression, Record};

use super::*;
use crate::topics::config::Settings;

const NOW: i64 = 1_700_000_000_000;
const HOUR: i64 = 3_600_000;
const UNLIMITED: &str = "9223372036854775807";

fn judge(configs: &[(&str, &str)]) -> Judge {
    let configs: BTreeMap<String, String> =
        configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let topic = Topic {
        id: TopicId::from_random(1),
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partitions: 1,
        quorum: None,
        replication_factor: None,
        settings: Settings::from_configs(&configs),
        configs,
        created_ms: 0,
        created: None,
        version: None,
    };
    Judge { topic: Arc::new(topic), strict: false, now_ms: NOW }
}

fn looks() -> Looks {
    Looks::new(0)
}

fn strict() -> Judge {
    Judge { strict: true, ..judge(&[]) }
}

fn dated(compression: Compression, times: &[i64]) -> Batch {
    let mut builder = Builder::new(compression);
    for &timestamp in times {
        let key = Some(Bytes::from_static(b"k"));
        builder.push(&Record { timestamp, key, ..Record::default() }).unwrap();
    }
    builder.finish().unwrap()
}

fn keyed(compression: Compression, keys: &[Option<&'static str>]) -> Batch {
    let mut builder = Builder::new(compression);
    for key in keys {
        let key = key.map(|key| Bytes::from_static(key.as_bytes()));
        builder.push(&Record { timestamp: -1, key, ..Record::default() }).unwrap();
    }
    builder.finish().unwrap()
}

/// What there is against a batch.
async fn objection(judge: &Judge, batch: &Batch) -> Option<ApiError> {
    match judge.judge(batch.clone(), &looks()).await {
        Ok((as_it_was, objection)) => {
            assert_eq!(as_it_was, *batch);
            objection
        }
        Err(refusal) => Some(refusal),
    }
}

async fn reason(judge: &Judge, batch: &Batch) -> Option<Reason> {
    objection(judge, batch).await.map(|error| error.reason)
}

async fn places(judge: &Judge, batch: &Batch) -> Option<(Reason, Vec<u32>)> {
    objection(judge, batch).await.map(|error| (error.reason, error.records.into()))
}

/// The same batch with other bytes, under a checksum that fits.
fn forged(batch: &Batch, forge: impl FnOnce(&mut Vec<u8>)) -> Batch {
    let mut bytes = batch.as_bytes().to_vec();
    forge(&mut bytes);
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = checksum::append(0, &bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::parse(Bytes::from(bytes)).unwrap()
}

#[tokio::test]
async fn a_batch_above_the_topics_limit_is_refused_and_one_at_it_is_not() {
    let batch = dated(Compression::None, &[NOW; 20]);
    let at = |bytes: usize| judge(&[("max.message.bytes", &bytes.to_string())]);
    assert_eq!(objection(&at(batch.len()), &batch).await, None);
    let error = objection(&at(batch.len() - 1), &batch).await.unwrap();
    assert_eq!(error.reason, Reason::MessageTooLarge);
    assert!(error.message.contains("flights"), "{}", error.message);
}

#[tokio::test]
async fn batches_that_only_brokers_make_are_refused() {
    let mut idempotent = Builder::new(Compression::None).producer(4, 0, 0);
    idempotent.push(&Record { timestamp: NOW, ..Record::default() }).unwrap();
    assert_eq!(objection(&judge(&[]), &idempotent.finish().unwrap()).await, None);
    let dated = dated(Compression::None, &[NOW]).with_log_append_time(5);
    // No objection that could be overruled.
    for configs in [&[][..], &[("message.timestamp.type", "LogAppendTime")]] {
        let error = judge(configs).judge(dated.clone(), &looks()).await.unwrap_err();
        assert_eq!(error.reason, Reason::InvalidTimestamp);
    }
}

/// As Kafka does; which records they are is said, so that a producer gives up these and no others.
#[tokio::test]
async fn a_compacted_topic_takes_no_record_without_a_key() {
    let (compact, delete) =
        (judge(&[("cleanup.policy", "compact")]), judge(&[("cleanup.policy", "delete")]));
    for (keys, errant) in [
        (&[Some("k"), Some("")][..], &[][..]),
        (&[None], &[0]),
        (&[Some("k"), None], &[1]),
        (&[None, Some("k"), None], &[0, 2]),
    ] {
        for compression in Compression::ALL {
            let batch = keyed(compression, keys);
            let expected = (!errant.is_empty()).then(|| (Reason::InvalidRecord, errant.to_vec()));
            assert_eq!(places(&compact, &batch).await, expected, "{keys:?} {compression:?}");
            assert_eq!(places(&delete, &batch).await, None, "{keys:?} {compression:?}");
        }
    }
    let many = keyed(Compression::None, &[None; 5_000]);
    let error = objection(&compact, &many).await.unwrap();
    assert_eq!(*error.records, Vec::from_iter(0..1_000)[..], "no more than are of use");
    assert!(
        error.message.contains("record 0 of the batch has no key, nor have 4999 others"),
        "{error}"
    );
}

/// One producer's clock must not decide what others find, nor how long anything is kept.
#[tokio::test]
async fn timestamps_far_from_the_brokers_clock_are_refused() {
    for compression in Compression::ALL {
        let at = async |times: &[i64], before: &str| {
            let judge = judge(&[("message.timestamp.before.max.ms", before)]);
            reason(&judge, &dated(compression, times)).await
        };
        let refused = Some(Reason::InvalidTimestamp);
        assert_eq!(at(&[NOW + HOUR], UNLIMITED).await, None);
        assert_eq!(at(&[NOW, NOW + HOUR + 1], UNLIMITED).await, refused);
        assert_eq!(at(&[i64::MAX], UNLIMITED).await, refused);
        assert_eq!(at(&[0, NOW], UNLIMITED).await, None);
        assert_eq!(at(&[i64::MIN], UNLIMITED).await, refused);
        assert_eq!(at(&[NOW - 10], "10").await, None);
        assert_eq!(at(&[NOW - 11, NOW], "10").await, refused);
        assert_eq!(at(&[-1], "10").await, None, "no time at all");
    }
}

/// The header tells of the first and the youngest record: of those between, only they themselves do.
#[tokio::test]
async fn the_time_of_every_record_counts_where_it_is_seen() {
    let early = [NOW, NOW - 50, NOW, NOW - 51, NOW];
    for compression in Compression::ALL {
        let batch = dated(compression, &early);
        let bounded = judge(&[("message.timestamp.before.max.ms", "49")]);
        let refused = Some((Reason::InvalidTimestamp, vec![1, 3]));
        assert_eq!(places(&bounded, &batch).await, refused, "{compression:?}");
        let dates = judge(&[
            ("message.timestamp.before.max.ms", "49"),
            ("message.timestamp.type", "LogAppendTime"),
        ]);
        assert_eq!(places(&dates, &batch).await, None, "{compression:?}");
        // A header that hides the youngest helps nobody whose records are looked at.
        let hidden = dated(compression, &[NOW, NOW + HOUR + 1]).with_max_timestamp(NOW);
        let late = judge(&[("message.timestamp.after.max.ms", "3599999")]);
        let refused = Some((Reason::InvalidTimestamp, vec![1]));
        assert_eq!(places(&late, &hidden).await, refused, "{compression:?}");
    }
    // Both wrong: as Kafka says it, and both are named.
    let mut builder = Builder::new(Compression::None);
    builder.push(&Record { timestamp: NOW, ..Record::default() }).unwrap();
    let key = Some(Bytes::from_static(b"k"));
    builder.push(&Record { timestamp: NOW + HOUR + 1, key, ..Record::default() }).unwrap();
    let refused = Some((Reason::InvalidTimestamp, vec![0, 1]));
    let compact = judge(&[("cleanup.policy", "compact")]);
    assert_eq!(places(&compact, &builder.finish().unwrap()).await, refused);
}

/// Look-ups by time and retention go by it.
#[tokio::test]
async fn a_largest_timestamp_that_is_wrong_is_mended_where_records_are_seen() {
    let true_one = |compression| dated(compression, &[NOW - 5, NOW, NOW - 7]);
    for said in [NOW - 1, NOW + 1, i64::MAX, -1] {
        let plain = true_one(Compression::None);
        let mended = judge(&[]).judge(plain.with_max_timestamp(said), &looks()).await;
        assert_eq!(mended, Ok((plain.clone(), None)), "{said}");
        // Every byte of it, with its checksum.
        assert_eq!(Batch::parse(mended.unwrap().0.into_bytes()), Ok(plain));
        let packed = true_one(Compression::Zstd);
        let lying = packed.with_max_timestamp(said);
        assert_eq!(strict().judge(lying.clone(), &looks()).await, Ok((packed, None)), "{said}");
        if (NOW - HOUR..=NOW + HOUR).contains(&said) || said == -1 {
            assert_eq!(
                judge(&[]).judge(lying.clone(), &looks()).await,
                Ok((lying, None)),
                "believed"
            );
        }
    }
    let right = true_one(Compression::None);
    let (same, _) = judge(&[]).judge(right.clone(), &looks()).await.unwrap();
    assert_eq!(same.as_bytes().as_ptr(), right.as_bytes().as_ptr(), "no copy of what is right");
}

/// What Kafka sees in every batch: that its records are what the header says, one after the other.
#[tokio::test]
async fn a_strict_broker_looks_into_what_is_compressed() {
    for compression in Compression::ALL {
        let good = dated(compression, &[NOW, NOW, NOW]);
        assert_eq!(objection(&strict(), &good).await, None, "{compression:?}");
        // One record is said to be more than there are.
        let counts = forged(&good, |bytes| (bytes[26], bytes[60]) = (3, 4));
        let plain = compression == Compression::None;
        let refused = Some(Reason::InvalidRecord);
        assert_eq!(reason(&strict(), &counts).await, refused, "{compression:?}");
        assert_eq!(
            reason(&judge(&[]), &counts).await,
            refused.filter(|_| plain),
            "{compression:?}"
        );
    }
    let noise = forged(&dated(Compression::Zstd, &[NOW]), |bytes| bytes[61..].fill(7));
    let error = objection(&strict(), &noise).await.unwrap();
    assert_eq!(error.reason, Reason::InvalidRecord, "it was sent so: {error}");
    assert_eq!(objection(&judge(&[]), &noise).await, None);
}

/// However small a batch is, what it may decompress to is bounded; and one that is large inside is judged all the same.
#[tokio::test]
async fn what_a_batch_decompresses_to_is_bounded() {
    let of = |bytes: usize| {
        let mut builder = Builder::new(Compression::Zstd);
        let value = Some(Bytes::from(vec![0; bytes]));
        builder.push(&Record { timestamp: NOW, value, ..Record::default() }).unwrap();
        builder.finish().unwrap()
    };
    let compact = judge(&[("cleanup.policy", "compact")]);
    let large = of(2 * SMALL_DECODED_BYTES);
    assert!(large.len() < SMALL_BYTES);
    assert_eq!(places(&compact, &large).await, Some((Reason::InvalidRecord, vec![0])));
    // Five times a MiB of zeros, in a few kilobytes.
    let part = of(1 << 20);
    let bomb = forged(&part, |bytes| {
        bytes.extend_from_slice(&part.as_bytes()[61..].repeat(4));
        (bytes[26], bytes[60]) = (4, 5);
    });
    assert!(bomb.len() < SMALL_BYTES);
    let error = objection(&compact, &bomb).await.expect("it is more than a batch may take");
    assert_eq!(error.reason, Reason::MessageTooLarge);
    assert!(
        error.message.contains("more than 2097152 bytes") && error.message.contains("--memory"),
        "{error}"
    );
    assert_eq!(reason(&judge(&[]), &bomb).await, None, "nobody looks into it");
}
