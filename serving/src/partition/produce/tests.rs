use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_proto::ids::TopicId;
use geminga_records::{Builder, Compression, Record};

use super::*;
use crate::topics::config::Settings;

fn topic(max_message_bytes: usize) -> Topic {
    let configs = BTreeMap::from([("max.message.bytes".to_owned(), max_message_bytes.to_string())]);
    Topic {
        id: TopicId::from_random(1),
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partitions: 1,
        quorum: None,
        settings: Settings::from_configs(&configs),
        configs,
        created_ms: 0,
        created: None,
        version: None,
    }
}

fn builder(value_bytes: usize) -> Builder {
    let mut builder = Builder::new(Compression::None);
    let value = Some(Bytes::from(vec![7; value_bytes]));
    builder.push(&Record { value, ..Record::default() }).unwrap();
    builder
}

#[test]
fn a_batch_above_the_topics_limit_is_refused_and_one_at_it_is_not() {
    let batch = builder(1000).finish().unwrap();
    assert_eq!(check_for(&topic(batch.len()), &batch, 0), Ok(()));
    let error = check_for(&topic(batch.len() - 1), &batch, 0).unwrap_err();
    assert_eq!(error.reason, Reason::MessageTooLarge);
    assert!(error.message.contains("flights"), "{}", error.message);
}

#[test]
fn batches_that_only_brokers_make_are_refused() {
    let idempotent = builder(9).producer(4, 0, 0).finish().unwrap();
    assert_eq!(check(&idempotent), Ok(()));
    let dated = builder(9).finish().unwrap().with_log_append_time(5);
    assert_eq!(check(&dated).unwrap_err().reason, Reason::InvalidRecord);
}

/// As Kafka does, where it can be seen: what is compressed is not unpacked for it.
#[test]
fn a_compacted_topic_takes_no_record_without_a_key() {
    let batch = |keys: &[Option<&'static str>], compression| {
        let mut builder = Builder::new(compression);
        for key in keys {
            let key = key.map(|key| Bytes::from_static(key.as_bytes()));
            builder.push(&Record { timestamp: -1, key, ..Record::default() }).unwrap();
        }
        builder.finish().unwrap()
    };
    let of = |policy: &str, batch: &Batch| {
        let mut topic = topic(9_999);
        topic.configs.insert("cleanup.policy".to_owned(), policy.to_owned());
        topic.settings = Settings::from_configs(&topic.configs);
        check_for(&topic, batch, 0).err().map(|error| error.reason)
    };
    let refused = Some(Reason::InvalidRecord);
    for (keys, expected) in [
        (&[Some("k"), Some("")][..], None),
        (&[None], refused),
        (&[Some("k"), None], refused),
        (&[None, Some("k")], refused),
    ] {
        let plain = batch(keys, Compression::None);
        assert_eq!(of("compact", &plain), expected, "{keys:?}");
        assert_eq!(of("delete", &plain), None, "{keys:?}");
        assert_eq!(of("compact", &batch(keys, Compression::Lz4)), None, "{keys:?}");
    }
}

/// One producer's clock must not decide what others find, nor how long anything is kept.
#[test]
fn timestamps_far_from_the_brokers_clock_are_refused() {
    const NOW: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;
    let at = |times: &[i64], before: &str| {
        let mut topic = topic(9_999);
        topic.configs.insert("message.timestamp.before.max.ms".to_owned(), before.to_owned());
        topic.settings = Settings::from_configs(&topic.configs);
        let mut builder = Builder::new(Compression::Lz4);
        for &timestamp in times {
            builder.push(&Record { timestamp, ..Record::default() }).unwrap();
        }
        check_for(&topic, &builder.finish().unwrap(), NOW).err().map(|error| error.reason)
    };
    let (unlimited, refused) = ("9223372036854775807", Some(Reason::InvalidTimestamp));
    assert_eq!(at(&[NOW + HOUR], unlimited), None);
    assert_eq!(at(&[NOW, NOW + HOUR + 1], unlimited), refused);
    assert_eq!(at(&[i64::MAX], unlimited), refused);
    assert_eq!(at(&[0, NOW], unlimited), None);
    assert_eq!(at(&[i64::MIN], unlimited), refused);
    assert_eq!(at(&[NOW - 10], "10"), None);
    assert_eq!(at(&[NOW - 11, NOW], "10"), refused);
    assert_eq!(at(&[-1], "10"), None, "no time at all");
}

#[tokio::test]
async fn a_reply_that_is_lost_is_no_acknowledgement() {
    let (answer, pending) = oneshot::channel();
    drop(answer);
    assert_eq!(Answer(pending).await.unwrap_err().reason, Reason::Unknown);
}
