//! What is read back of a flood: every record of every producer is there once, as it was written and in order.

use geminga_harness::Cluster;
use geminga_proto::v1;
use geminga_proto::v1::partition_data::Data;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_records::{decode, split};

// What `geminga perf` writes, which is compared with every byte.
#[path = "../../../cli/src/command/perf/content.rs"]
mod content;

pub(super) use self::content::Content;
use self::content::Tally;
use super::PARTITIONS;

/// Most that a batch of these decompresses to, which is not compressed.
const BATCH_BYTES: usize = 16 << 20;

/// What one producer wrote, which is known by the length of its values.
pub(super) struct Written {
    content: Content,
    size: u32,
    tally: Tally,
    /// In each partition: the number after the one that was read last.
    next: Vec<u64>,
}

impl Written {
    /// So many records of a size that no other producer has.
    pub(super) fn new(size: u32, records: u64) -> Self {
        let next = vec![0; PARTITIONS as usize];
        Self { content: Content::new(1, size), size, tally: Tally::new(records), next }
    }

    fn read(&mut self, partition: u32, value: &[u8]) {
        let number = self.content.number(value);
        self.tally.count(number);
        let next = &mut self.next[partition as usize];
        if let Some(number) = number {
            assert!(number >= *next, "record {number} of {partition} comes behind {next}");
            *next = number + 1;
        }
    }

    #[track_caller]
    fn check(&self) {
        let Tally { duplicates, wrong, .. } = self.tally;
        let found = (self.tally.missing(), duplicates, wrong);
        assert_eq!(found, (0, 0, 0), "missing, twice, and wrong of {} bytes each", self.size);
    }
}

/// Reads all of a topic, and judges it.
#[track_caller]
pub(super) fn check(cluster: &Cluster, topic: &str, mut written: Vec<Written>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let server = format!("http://{}", cluster.brokers[0].address);
    runtime.block_on(read(server, topic, |partition, value| {
        let of = written.iter_mut().find(|of| of.size as usize == value.len());
        of.unwrap_or_else(|| panic!("nobody wrote {} bytes", value.len())).read(partition, value);
    }));
    written.iter().for_each(Written::check);
}

async fn read(server: String, topic: &str, mut found: impl FnMut(u32, &[u8])) {
    let from = |partition| v1::FetchPartition { partition, offset: 0 };
    let request = v1::FetchRequest {
        topic: topic.to_owned(),
        partitions: (0..PARTITIONS).map(from).collect(),
        format: v1::Format::Batches.into(),
        until_end: true,
        ..v1::FetchRequest::default()
    };
    let mut client = StreamClient::connect(server).await.expect("a connection");
    let mut stream = client.fetch(request).await.expect("a stream").into_inner();
    let mut next = vec![0; PARTITIONS as usize];
    while let Some(answer) = stream.message().await.expect("the stream goes on") {
        for data in answer.partitions {
            assert_eq!(data.error, None);
            let Some(Data::Batches(batches)) = data.data else { continue };
            for batch in split(batches) {
                let records = decode(&batch.expect("a batch"), BATCH_BYTES).expect("records");
                for record in records {
                    let next = &mut next[data.partition as usize];
                    assert_eq!(record.offset, *next, "of partition {}", data.partition);
                    *next += 1;
                    found(data.partition, &record.value.expect("a value"));
                }
            }
        }
    }
}
