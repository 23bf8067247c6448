//! A producer that speaks Kafka and numbers its batches. Its connections have partitions of their own each, and one request under way.

use std::thread::JoinHandle;

use bytes::Bytes;
use geminga_harness::{Cluster, Kafka, wait};
use geminga_records::{Batch, Compression, Record, Sequence, encode};
use kafka_wire::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_wire::{InitProducerIdRequest, ProduceRequest};

use super::PARTITIONS;
use super::contents::Content;

const CONNECTIONS: u32 = 8;
/// Of one batch.
const RECORDS: usize = 32;
/// What a client tries again after: there is no leader (3, 5, 6), it took too long (7), too few copies (19, 20), a group's or broker's
/// state that passes (14, 15, 16), an error on the way (56).
const PASSES: [i16; 10] = [3, 5, 6, 7, 14, 15, 16, 19, 20, 56];

/// Threads that write records `0..records` of a size, number `n` to partition `n % PARTITIONS`.
pub(super) fn produce(
    cluster: &Cluster,
    topic: &'static str,
    size: u32,
    records: u64,
) -> Vec<JoinHandle<()>> {
    let mut kafka = cluster.kafka(0);
    let id = wait::until("an id for a producer", || {
        let mut request = InitProducerIdRequest::default();
        (request.transactional_id, request.transaction_timeout_ms) = (None, 60_000);
        let answer = kafka.call(4, &request);
        (answer.error_code == 0).then_some((answer.producer_id, answer.producer_epoch))
    });
    let connection = |connection| {
        let kafka = cluster.kafka(0);
        let mut writer = Writer { kafka, topic, id, content: Content::new(1, size) };
        std::thread::spawn(move || writer.write(connection, records))
    };
    (0..CONNECTIONS).map(connection).collect()
}

struct Writer {
    kafka: Kafka,
    topic: &'static str,
    /// And epoch.
    id: (i64, i16),
    content: Content,
}

impl Writer {
    /// Writes what is of the partitions of one connection: a batch of each at a time.
    fn write(&mut self, connection: u32, records: u64) {
        let own = (0..PARTITIONS).filter(|partition| partition % CONNECTIONS == connection);
        let numbers = |partition: &u32| {
            let all = (u64::from(*partition)..records).step_by(PARTITIONS as usize);
            (*partition, all.collect::<Vec<_>>())
        };
        let own: Vec<_> = own.map(|partition| numbers(&partition)).collect();
        let batches = own.iter().map(|(_, all)| all.len().div_ceil(RECORDS)).max().unwrap_or(0);
        for at in 0..batches {
            let first = at * RECORDS;
            let part = |(partition, all): &(u32, Vec<u64>)| {
                let numbers = all.get(first..)?.iter().take(RECORDS).copied();
                let batch = self.batch(numbers, i32::try_from(first).expect("a few"))?;
                Some((i32::try_from(*partition).expect("a few"), batch.into_bytes()))
            };
            let parts = own.iter().filter_map(part).collect();
            self.send(parts);
        }
    }

    fn batch(&self, numbers: impl Iterator<Item = u64>, first: i32) -> Option<Batch> {
        let value = |number| Some(Bytes::from(self.content.value(number)));
        let record = |number| Record { value: value(number), ..Record::default() };
        let records: Vec<_> = numbers.map(record).collect();
        if records.is_empty() {
            return None;
        }
        let mut batch = encode(&records, Compression::None).expect("a batch");
        let (producer_id, epoch) = self.id;
        batch.set_sequence(Sequence { producer_id, epoch, first });
        Some(batch)
    }

    /// Sends until all of it is acknowledged.
    fn send(&mut self, mut parts: Vec<(i32, Bytes)>) {
        wait::until("batches to be acknowledged", || {
            let data = |(partition, batch): &(i32, Bytes)| {
                let mut data = PartitionProduceData::default();
                (data.index, data.records) = (*partition, Some(batch.clone()));
                data
            };
            let mut topic = TopicProduceData::default();
            (topic.name, topic.partition_data) =
                (self.topic.into(), parts.iter().map(data).collect());
            let mut request = ProduceRequest::default();
            (request.acks, request.timeout_ms) = (-1, 30_000);
            request.topic_data = vec![topic];
            let answer = self.kafka.call(9, &request);
            for part in &answer.responses[0].partition_responses {
                match part.error_code {
                    0 => parts.retain(|(partition, _)| *partition != part.index),
                    code => assert!(PASSES.contains(&code), "code {code}"),
                }
            }
            parts.is_empty().then_some(())
        });
    }
}
