//! Clients that ask for records and do not read them: what a broker read for them stays within its memory, and is in nobody's way.

use std::time::Duration;

use geminga_harness::{Client, Cluster, wait};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_records::{Compression, Record, encode};
use tonic::Streaming;

use crate::inflated::write;

/// What the broker is given, bytes.
const MEMORY: u64 = 256 << 20;
const PARTITIONS: u32 = 8;
/// Of 4 KiB each: more than the memory.
const RECORDS: usize = 80_000;
const CONNECTIONS: usize = 4;
const STREAMS: usize = 25;

async fn fetch(
    client: &mut StreamClient<tonic::transport::Channel>,
) -> Streaming<v1::FetchResponse> {
    let from = |partition| v1::FetchPartition { partition, offset: 0 };
    let request = v1::FetchRequest {
        topic: "old".to_owned(),
        partitions: (0..PARTITIONS).map(from).collect(),
        max_bytes: 1 << 20,
        format: v1::Format::Batches.into(),
        ..v1::FetchRequest::default()
    };
    client.fetch(request).await.expect("a stream").into_inner()
}

/// Each from the start, and nothing is read of any.
async fn ask(server: &str) -> Vec<Streaming<v1::FetchResponse>> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let address = format!("http://{server}");
        let mut client = StreamClient::connect(address).await.expect("a connection");
        for _ in 0..STREAMS {
            streams.push(fetch(&mut client).await);
        }
    }
    streams
}

#[test]
fn streams_that_nobody_reads_take_bounded_memory_and_hold_up_nobody() {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let client: Client = cluster.client(0);
    let partitions = PARTITIONS.to_string();
    client.run(&["topic", "create", "old", "--partitions", &partitions]).ok();
    let records = RECORDS.to_string();
    client.run(&["perf", "produce", "old", "--records", &records, "--size", "4096"]).ok();

    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut streams = runtime.block_on(ask(&cluster.brokers[0].address));
    // Of these not even the sockets are read, as of a process that is stopped: nothing runs once they have asked.
    let stopped = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let stopped = stopped.expect("a runtime");
    let _unread = stopped.block_on(ask(&cluster.brokers[0].address));
    let read = ["perf", "consume", "old", "--records", &records, "--size", "4096"];
    let mut readers = [client.spawn(&read), client.spawn(&read)];
    let mut most = 0;
    wait::until("two others to read everything", || {
        most = most.max(cluster.brokers[0].process.resident_bytes());
        (!readers.iter_mut().any(|reader| reader.is_running())).then_some(())
    });
    for reader in readers {
        reader.finish().ok();
    }
    println!("resident at most {} MiB of {} MiB", most >> 20, MEMORY >> 20);
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);
    // Those who were in the way learn it when they read at last.
    let cut = runtime.block_on(async {
        let mut cut = 0;
        for stream in &mut streams {
            let read = async { while let Ok(Some(_)) = stream.message().await {} };
            cut += usize::from(tokio::time::timeout(Duration::from_millis(50), read).await.is_ok());
        }
        cut
    });
    assert!(cut > 0, "none of {} streams was cut off", streams.len());
}

/// However large the last answer was that a stream was given, and however long it has nothing more.
#[test]
fn streams_that_have_read_everything_take_no_memory() {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let (client, server) = (cluster.client(0), &cluster.brokers[0].address);
    client.run(&["topic", "create", "large", "--partitions", "1"]).ok();
    let value = Some(vec![0; 1000 << 10].into());
    let record = Record { value, ..Record::default() };
    let batch = encode(&[record], Compression::None).expect("a batch").stamp(0, 0).concat();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let streams = runtime.block_on(async {
        write(server, "large", 0, 1, batch.into()).await;
        let mut streams = Vec::new();
        for _ in 0..CONNECTIONS {
            let address = format!("http://{server}");
            let mut client = StreamClient::connect(address).await.expect("a connection");
            for _ in 0..4 * STREAMS {
                let request = v1::FetchRequest {
                    topic: "large".to_owned(),
                    partitions: vec![v1::FetchPartition { partition: 0, offset: 0 }],
                    format: v1::Format::Batches.into(),
                    ..v1::FetchRequest::default()
                };
                let mut stream = client.fetch(request).await.expect("a stream").into_inner();
                let answer = stream.message().await.expect("an answer").expect("not the end");
                assert!(answer.partitions[0].data.is_some());
                streams.push(stream);
            }
        }
        streams
    });
    let resident = cluster.brokers[0].process.resident_bytes();
    println!("{} streams, resident {} MiB", streams.len(), resident >> 20);
    assert!(resident <= MEMORY / 5 * 6, "{} MiB", resident >> 20);
}
