//! Clients that ask for records of batches that are small as they are stored and large as they are read: what a broker takes apart for
//! them stays within its memory, and what cannot is refused.

use bytes::Bytes;
use geminga_harness::{Client, Cluster, wait};
use geminga_proto::v1;
use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event;
use geminga_proto::v1::partition_data::Data;
use geminga_proto::v1::produce_element;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_records::{Compression, Record, encode};
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;
use tonic::Streaming;
use tonic::transport::Channel;

/// What the broker is given, bytes.
const MEMORY: u64 = 256 << 20;
const PARTITIONS: u32 = 8;
/// In each partition; of as many records.
const BATCHES: i64 = 6;
const RECORDS: i64 = 64;
/// All of it zeros.
const RECORD_BYTES: usize = 64 << 10;
const CONNECTIONS: usize = 2;
const STREAMS: usize = 25;

/// A batch of so many records of zeros: of a few hundred bytes.
fn batch(records: i64) -> Bytes {
    let zeros = Bytes::from(vec![0; RECORD_BYTES]);
    let record = Record { value: Some(zeros), ..Record::default() };
    let records = vec![record; usize::try_from(records).expect("not many")];
    let batch = encode(&records, Compression::Zstd).expect("a batch").stamp(0, 0).concat();
    assert!(batch.len() < 8 << 10, "{} bytes", batch.len());
    batch.into()
}

async fn connect(server: &str) -> StreamClient<Channel> {
    StreamClient::connect(format!("http://{server}")).await.expect("a connection")
}

/// Writes a batch to a partition, so many times.
pub(crate) async fn write(server: &str, topic: &str, partition: u32, batches: i64, batch: Bytes) {
    let element = |id| v1::ProduceElement {
        id,
        topic: topic.to_owned(),
        partition: Some(partition),
        data: Some(produce_element::Data::Batch(batch.clone())),
        ..v1::ProduceElement::default()
    };
    let elements: Vec<_> = (1..=batches.unsigned_abs()).map(element).collect();
    let request = v1::ProduceRequest { elements, ..v1::ProduceRequest::default() };
    let sent = connect(server).await.produce(tokio_stream::iter([request])).await;
    let (mut results, mut left) = (sent.expect("a stream").into_inner(), batches);
    while let Some(response) = results.message().await.expect("results") {
        left -= i64::try_from(response.results.len()).expect("a few");
        assert!(response.results.iter().all(|result| result.error.is_none()), "{response:?}");
    }
    assert_eq!(left, 0, "each is acknowledged");
}

async fn fetch(
    client: &mut StreamClient<Channel>,
    topic: &str,
    partitions: u32,
    format: v1::Format,
) -> Streaming<v1::FetchResponse> {
    let from = |partition| v1::FetchPartition { partition, offset: 0 };
    let request = v1::FetchRequest {
        topic: topic.to_owned(),
        partitions: (0..partitions).map(from).collect(),
        // The larger a frame, the longer until its client is cut off.
        max_bytes: 256 << 10,
        format: format.into(),
        until_end: true,
        ..v1::FetchRequest::default()
    };
    client.fetch(request).await.expect("a stream").into_inner()
}

/// Each from the start, and nothing is read of any.
async fn ask(server: &str) -> Vec<Streaming<v1::FetchResponse>> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = connect(server).await;
        for _ in 0..STREAMS {
            streams.push(fetch(&mut client, "zeros", PARTITIONS, v1::Format::Records).await);
        }
    }
    streams
}

/// What was read of each partition, in order: the next offset.
#[derive(Default)]
struct ReadSoFar([i64; PARTITIONS as usize]);

impl ReadSoFar {
    /// Takes some, of which each comes once and in order.
    fn add(&mut self, data: v1::PartitionData) {
        assert_eq!(data.error, None);
        let Some(Data::Records(records)) = data.data else { return };
        let next = &mut self.0[data.partition as usize];
        for record in records.records {
            assert_eq!(record.offset, *next, "in partition {}", data.partition);
            assert_eq!(record.value.map(|value| value.len()), Some(RECORD_BYTES));
            *next += 1;
        }
    }

    fn is_all(&self) -> bool {
        self.0.iter().all(|next| *next == BATCHES * RECORDS)
    }
}

/// Reads all records.
async fn read_all(server: String) {
    let mut client = connect(&server).await;
    let mut stream = fetch(&mut client, "zeros", PARTITIONS, v1::Format::Records).await;
    let mut read = ReadSoFar::default();
    while let Some(answer) = stream.message().await.expect("the stream goes on") {
        answer.partitions.into_iter().for_each(|data| read.add(data));
    }
    assert!(read.is_all(), "{:?}", read.0);
}

/// The same, as the member of a group.
async fn consume_all(server: String) {
    let join = v1::ConsumeJoin {
        group: "g".to_owned(),
        topics: vec!["zeros".to_owned()],
        offset_reset: v1::OffsetReset::Earliest.into(),
        format: v1::Format::Records.into(),
        ..v1::ConsumeJoin::default()
    };
    let credit = v1::ConsumeCredit { bytes: 1 << 40 };
    let ops = [Op::Join(join), Op::Credit(credit)].map(|op| v1::ConsumeRequest { op: Some(op) });
    let requests = tokio_stream::iter(ops).chain(tokio_stream::pending());
    let mut client = connect(&server).await;
    let mut events = client.consume(requests).await.expect("a stream").into_inner();
    let mut read = ReadSoFar::default();
    while !read.is_all() {
        let event = events.message().await.expect("the stream goes on").expect("no end");
        match event.event {
            Some(Event::Data(data)) => read.add(data),
            Some(Event::Error(error)) => panic!("{error:?}"),
            _ => {}
        }
    }
}

fn start() -> (Cluster, Client, Runtime) {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let client = cluster.client(0);
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
    (cluster, client, runtime.expect("a runtime"))
}

#[test]
fn records_that_nobody_reads_are_taken_apart_within_the_memory() {
    let (cluster, client, runtime) = start();
    let server = cluster.brokers[0].address.clone();
    let partitions = PARTITIONS.to_string();
    client.run(&["topic", "create", "zeros", "--partitions", &partitions]).ok();
    for partition in 0..PARTITIONS {
        runtime.block_on(write(&server, "zeros", partition, BATCHES, batch(RECORDS)));
    }
    let _streams = runtime.block_on(ask(&server));
    // Of these not even the sockets are read, as of a process that is stopped: nothing runs once they have asked.
    let stopped = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _unread = stopped.block_on(ask(&server));

    let readers =
        [runtime.spawn(read_all(server.clone())), runtime.spawn(consume_all(server.clone()))];
    let mut most = 0;
    wait::until("two others to read everything", || {
        most = most.max(cluster.brokers[0].process.resident_bytes());
        readers.iter().all(|reader| reader.is_finished()).then_some(())
    });
    for reader in readers {
        runtime.block_on(reader).expect("all records");
    }
    println!("resident at most {} MiB of {} MiB", most >> 20, MEMORY >> 20);
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);
}

/// Its bytes are good for whoever takes them as they are.
#[test]
fn a_batch_that_can_never_be_taken_apart_is_refused() {
    let (cluster, client, runtime) = start();
    let server = cluster.brokers[0].address.clone();
    client.run(&["topic", "create", "large", "--partitions", "1"]).ok();
    runtime.block_on(write(&server, "large", 0, 1, batch(3 * RECORDS)));
    let first = |format| {
        runtime.block_on(async {
            let mut client = connect(&server).await;
            let mut stream = fetch(&mut client, "large", 1, format).await;
            let answer = stream.message().await.expect("an answer").expect("not the end");
            answer.partitions.into_iter().next().expect("of one partition")
        })
    };
    let refused = first(v1::Format::Records).error.expect("an error");
    assert_eq!(refused.reason, "LIMIT_EXCEEDED", "{refused:?}");
    assert!(refused.message.contains("--memory"), "{refused:?}");
    let whole = first(v1::Format::Batches);
    assert!(whole.error.is_none() && matches!(whole.data, Some(Data::Batches(_))));
}
