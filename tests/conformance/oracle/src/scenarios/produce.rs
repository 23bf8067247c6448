//! Batches that are taken, and those that are not.

use bytes::{Bytes, BytesMut};
use geminga_records::{Compression, Record};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, TransactionalId};

use crate::batches::{
    self, ATTRIBUTES, BASE_OFFSET, BASE_TIMESTAMP, COUNT, CRC, LAST_DELTA, LENGTH, MAGIC,
    MAX_TIMESTAMP, TIME_MS, batch, compressed, sealed, with,
};
use crate::script::{Script, text, topic_name};

/// The first version that any of both serves.
const FIRST: i16 = 3;

pub(super) fn to(topic: &str, partition: i32, records: Option<Bytes>) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(records);
    let data =
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![data])
}

fn good() -> Option<Bytes> {
    Some(sealed(batch(2)))
}

pub(super) fn play(script: &mut Script) {
    script.topic("produce", 1, &[]);
    for version in FIRST..=11 {
        let name = format!("produce-{version}");
        script.topic(&name, 1, &[]);
        script.ask(&format!("two records, {version}"), version, &to(&name, 0, good()));
        script.ask(&format!("two more, {version}"), version, &to(&name, 0, good()));
        script.ask("an unknown topic", version, &to("produce-nothing", 0, good()));
        script.ask("a bad topic", version, &to("a b", 0, good()));
        script.ask("an unknown partition", version, &to("produce", 7, good()));
        script.ask("a negative partition", version, &to("produce", -1, good()));
        script.ask("bad acks", version, &to("produce", 0, good()).with_acks(2));
        for (what, records) in wrong() {
            let topic = format!("produce-{}", what.replace([' ', '\''], "-"));
            if version == FIRST {
                script.topic(&topic, 1, &[]);
            }
            script.ask(what, version, &to(&topic, 0, records));
        }
        let zstd = Some(sealed(compressed(2, Compression::Zstd)));
        script.topic(&format!("{name}-zstd"), 1, &[]);
        script.ask(&format!("zstd, {version}"), version, &to(&format!("{name}-zstd"), 0, zstd));
    }
    topics(script);
    requests(script);
}

/// Batches that no topic takes.
fn wrong() -> Vec<(&'static str, Option<Bytes>)> {
    let plain = || sealed(batch(2));
    let cut = |n: usize| Some(plain().slice(..n));
    let mut bad_crc = batch(2);
    batches::set(&mut bad_crc, CRC, &[1, 2, 3, 4]);
    let magic = |magic: u8| {
        let mut old = batch(2);
        old[MAGIC] = magic;
        Some(sealed(old))
    };
    let two = [plain(), plain()].concat();
    let mut tail = BytesMut::from(&plain()[..]);
    tail.extend_from_slice(&[0; 5]);
    let timed = |at: i64| {
        let mut batch = batch(1);
        batches::set(&mut batch, BASE_TIMESTAMP, &at.to_be_bytes());
        batches::set(&mut batch, MAX_TIMESTAMP, &at.to_be_bytes());
        Some(sealed(batch))
    };
    vec![
        ("no records", None),
        ("no bytes of records", Some(Bytes::new())),
        ("a wrong checksum", Some(bad_crc.freeze())),
        ("magic 0", magic(0)),
        ("magic 1", magic(1)),
        ("magic 3", magic(3)),
        ("two batches", Some(two.into())),
        ("a batch and some more bytes", Some(tail.freeze())),
        ("half a header", cut(30)),
        ("half a batch", cut(70)),
        ("a length below that of a header", Some(with(LENGTH, &20i32.to_be_bytes()))),
        ("a base offset", Some(with(BASE_OFFSET, &5i64.to_be_bytes()))),
        ("a last offset too small", Some(with(LAST_DELTA, &0i32.to_be_bytes()))),
        ("a last offset too large", Some(with(LAST_DELTA, &9i32.to_be_bytes()))),
        ("a count too small", Some(with(COUNT, &1i32.to_be_bytes()))),
        ("a count too large", Some(with(COUNT, &9i32.to_be_bytes()))),
        ("a count of none", Some(with(COUNT, &0i32.to_be_bytes()))),
        ("a control batch", Some(with(ATTRIBUTES, &0x20i16.to_be_bytes()))),
        ("a transactional batch without producer", Some(with(ATTRIBUTES, &0x10i16.to_be_bytes()))),
        ("the log's time from a client", Some(with(ATTRIBUTES, &0x08i16.to_be_bytes()))),
        ("an unknown codec", Some(with(ATTRIBUTES, &0x07i16.to_be_bytes()))),
        ("a codec that it is not", Some(with(ATTRIBUTES, &0x01i16.to_be_bytes()))),
        ("records from far ahead", timed(4_000_000_000_000)),
    ]
}

/// Where what a topic says decides.
fn topics(script: &mut Script) {
    script.topic("produce-small", 1, &[("max.message.bytes", "100")]);
    script.ask("too large", 9, &to("produce-small", 0, good()));
    script.topic("produce-compacted", 1, &[("cleanup.policy", "compact")]);
    let keyless = |n| Record {
        timestamp: TIME_MS,
        key: (n == 0).then(|| "k".into()),
        value: Some("v".into()),
        ..Record::default()
    };
    let records: Vec<Record> = (0..2).map(keyless).collect();
    let keyless = || Some(sealed(batches::of(&records, Compression::None)));
    for version in 7..=9 {
        let request = to("produce-compacted", 0, keyless());
        script.ask("a record without key where it is compacted", version, &request);
    }
    script.topic("produce-keyed", 1, &[("cleanup.policy", "compact")]);
    script.ask("records with keys where it is compacted", 9, &to("produce-keyed", 0, good()));
    script.topic("produce-log-time", 1, &[("message.timestamp.type", "LogAppendTime")]);
    script.ask("the time of the log", 9, &to("produce-log-time", 0, good()));
    script.topic("produce-dated", 1, &[("message.timestamp.before.max.ms", "1000")]);
    script.ask("records from long ago", 9, &to("produce-dated", 0, good()));
}

fn requests(script: &mut Script) {
    let transactional = |id: &str| {
        to("produce-transactional", 0, good())
            .with_transactional_id(Some(TransactionalId(text(id))))
    };
    script.topic("produce-transactional", 1, &[]);
    script.ask("a transactional id for a plain batch", 9, &transactional("t"));
    script.ask("acknowledged by the leader", 9, &to("produce", 0, good()).with_acks(1));
    script.send(0, 9, &to("produce", 0, good()).with_acks(0));
    script.ask("after one without acknowledgement", 9, &to("produce", 0, good()));
    script.send(1, 9, &to("produce-nothing", 0, good()).with_acks(0));
    script.receive::<ProduceRequest>(1, "nobody acknowledges an error", 9);
    let nothing = ProduceRequest::default().with_acks(-1).with_timeout_ms(1_000);
    script.ask("nothing", 9, &nothing);
    script.ask("no time", 9, &to("produce", 0, good()).with_timeout_ms(-1));
    let twice = to("produce", 0, good());
    let mut topic = twice.topic_data[0].clone();
    topic.partition_data.push(topic.partition_data[0].clone());
    script.ask("one partition twice", 9, &twice.with_topic_data(vec![topic]));
}
