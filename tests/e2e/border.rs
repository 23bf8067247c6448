//! The border between what bookies have and what only the object store has, while it moves: readers that are behind what is in memory cross it
//! again and again, and get each record once, in order.

use std::ops::Range;

use geminga_harness::flights::Flights;
use geminga_harness::{Bucket, Client, Cluster, Node, http, wait};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::runtime::Runtime;
use tonic::transport::Channel;

use crate::tiering::tiers;
use crate::topic;

const TOPIC: &str = "border";
/// Rows of many small segments.
const ROWS: usize = 60_000;
/// Most bytes of one answer: much less than a segment has.
const BITE: u32 = 40_000;

/// One who asks for the next records of the only partition, and for no more than these.
struct Reader {
    runtime: Runtime,
    client: StreamClient<Channel>,
    values: Vec<String>,
}

impl Reader {
    fn start(server: &str) -> Self {
        // Its own thread answers for the connection while the reader waits.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let address = format!("http://{server}");
        let client = runtime.block_on(StreamClient::connect(address)).expect("a connection");
        Self { runtime, client, values: Vec::new() }
    }

    /// Reads on from behind the last record; offsets have no gap.
    fn bite(&mut self) {
        let records = wait::until("the partition to be served", || self.ask());
        for record in records {
            let next = i64::try_from(self.values.len()).expect("an offset");
            assert_eq!(record.offset, next, "skipped, or read twice");
            let value = record.value.expect("a value");
            self.values.push(String::from_utf8(value.to_vec()).expect("text"));
        }
    }

    /// What is next; `None` where that is to be asked again, as of a broker that has not taken over yet.
    fn ask(&mut self) -> Option<Vec<v1::Record>> {
        let next = i64::try_from(self.values.len()).expect("an offset");
        let request = v1::FetchRequest {
            topic: TOPIC.to_owned(),
            partitions: vec![v1::FetchPartition { partition: 0, offset: next }],
            min_bytes: 1,
            max_bytes: BITE,
            max_wait_ms: 10_000,
            format: v1::Format::Records.into(),
            once: true,
            ..v1::FetchRequest::default()
        };
        let client = &mut self.client;
        let answer = self.runtime.block_on(async {
            let mut answers = client.fetch(request).await.expect("a stream").into_inner();
            answers.message().await.expect("an answer").expect("one before the end")
        });
        let [data] = &answer.partitions[..] else { panic!("{answer:?}") };
        if data.error.as_ref().is_some_and(|error| error.retriable) {
            return None;
        }
        assert_eq!(data.error, None, "at {next}");
        match &data.data {
            Some(v1::partition_data::Data::Records(records)) => Some(records.records.clone()),
            other => panic!("no records at {next}: {other:?}"),
        }
    }
}

/// How many segments are closed, and how many of them only the object store has.
fn closed_and_trimmed(cluster: &Cluster, client: &Client) -> (usize, usize) {
    let tiers = tiers(cluster, client, TOPIC);
    let trimmed = tiers.iter().filter(|tier| *tier == "TRIMMED").count();
    (tiers.len(), trimmed)
}

/// Whose uploads take seconds each, so that the border moves on for as long as readers read.
fn start(bucket: &Bucket) -> Cluster {
    let [store, endpoint] = bucket.flags();
    let store = [store.as_str(), endpoint.as_str()];
    let slowly = [
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1m",
        "--tier-upload-rate=100KiB",
        "--gc-interval=300ms",
    ];
    let broker = [&store[..], &["--memory=256MiB"]].concat();
    Cluster::start_with(3, 1, &[&store[..], &slowly].concat(), &broker)
}

fn values(flights: &Flights, rows: Range<usize>) -> Vec<String> {
    flights.rows()[rows].iter().map(|row| row.value.clone()).collect()
}

#[test]
fn who_reads_over_a_border_that_moves_gets_each_record_once() {
    let dir = tempfile::tempdir().expect("a directory for the server");
    let bucket = Bucket::start(dir.path());
    let mut cluster = start(&bucket);
    let client = cluster.client(0);
    let create = ["topic", "create", TOPIC, "--partitions", "1", "--config"];
    let small = ["segment.bytes=262144", "--config", "remote.storage.enable=true"];
    client.run(&[&create[..], &small].concat()).ok();
    let flights = Flights::load().first(ROWS);
    let (mut producer, _) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    // Nothing of it is in the memory of a new process, and all segments are closed.
    cluster.brokers[0].crash_and_restart();
    let (client, broker) = (cluster.client(0), cluster.brokers[0].http.clone());

    let mut reader = Reader::start(&cluster.brokers[0].address);
    let cold = || http::metric(&broker, "geminga_cold_read_bytes_total").unwrap_or(0.0);
    let sent = || {
        let of = |bookie: &Node| http::metric(&bookie.http, "geminga_bookie_read_bytes_total");
        cluster.bookies.iter().filter_map(of).sum::<f64>()
    };
    let (mut crossings, mut of_objects, mut of_bookies) = (0_usize, 0, 0);
    while reader.values.len() < ROWS {
        // No further than two segments beyond the border: what is read of a segment now is at bookies, and its rest in an object soon.
        let waits = wait::until("the border to move on", || {
            let (closed, trimmed) = closed_and_trimmed(&cluster, &client);
            let most = (trimmed + 2) * ROWS / closed.max(1);
            (most > reader.values.len() || trimmed == closed).then_some(closed - trimmed)
        });
        let before = (cold(), sent());
        reader.bite();
        if waits > 0 {
            crossings += 1;
            of_objects += usize::from(cold() > before.0);
            of_bookies += usize::from(sent() > before.1);
        }
        if waits > 0 && crossings.is_multiple_of(20) {
            // From the start, over all that is there of either kind now.
            let lines = topic::values(&client, TOPIC);
            assert!(lines.lines().eq(values(&flights, 0..ROWS)), "other rows than were written");
        }
    }
    assert!(reader.values == values(&flights, 0..ROWS), "other rows than were written");
    // However slowly the machine lets bookies drop what they uploaded.
    wait::until("what is read to come from objects", || {
        let lines = topic::values(&client, TOPIC);
        assert!(lines.lines().eq(values(&flights, 0..ROWS)), "other rows than were written");
        (cold() > 1e6).then_some(())
    });
    let read =
        |from: &str| http::metric(&broker, &format!("geminga_fetch_source_bytes_total{from}"));
    let memory = read("{source=\"memory\"}");
    println!(
        "{crossings} bites while it moved, for {of_objects} objects were read and for {of_bookies} bookies; {memory:?} bytes of memory, {} of \
         objects, {} of bookies in all",
        cold(),
        sent()
    );
    assert!(crossings > 20, "the border stood still");
    assert_eq!(memory.unwrap_or(0.0), 0.0, "it was in memory");
    assert!(of_objects > 5 && of_bookies > 5, "all of it was on one side of the border");
}
