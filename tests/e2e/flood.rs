//! Clients that send more than a broker may hold, while no bookie answers, or one of three does not: its memory stays within
//! what it was given, and nothing that was sent is lost, or stands there twice.

mod contents;
mod kafka;

use std::thread::JoinHandle;
use std::time::Duration;

use geminga_harness::{Client, Cluster, Running, http, wait};
use tokio::time::Instant;

use self::contents::Written;

/// What the broker is given, bytes.
const MEMORY: u64 = 256 << 20;
/// Six that speak gRPC, each a process, and two that speak Kafka.
const GRPC_PRODUCERS: u32 = 6;
const KAFKA_PRODUCERS: u32 = 2;
const PARTITIONS: u32 = 48;
/// More than they need, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(300);
/// Of 4 KiB, each producer's: together twice the memory. They go to many partitions, since a client has but so much under way in each.
const RECORDS: u64 = 16_000;
/// What is written before, of so many bytes each.
const WARM_RECORDS: u64 = 4_800;
const WARM_BYTES: u32 = 100;

/// A cluster whose broker has little memory and has all partitions of a topic open, so that they take what comes.
fn cluster() -> (Cluster, Client) {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let client = cluster.client(0);
    let partitions = PARTITIONS.to_string();
    client.run(&["topic", "create", "flood", "--partitions", &partitions]).ok();
    let (records, size) = (WARM_RECORDS.to_string(), WARM_BYTES.to_string());
    client.run(&["perf", "produce", "flood", "--records", &records, "--size", &size]).ok();
    (cluster, client)
}

/// About 4 KiB: each producer has a size of its own.
fn size(producer: u32) -> u32 {
    4096 - 16 * producer
}

/// Producers of twice the memory.
struct Producers {
    grpc: Vec<Running>,
    kafka: Vec<JoinHandle<()>>,
}

impl Producers {
    fn start(cluster: &Cluster, client: &Client) -> Self {
        let records = RECORDS.to_string();
        let grpc = |producer| {
            let size = size(producer).to_string();
            client.spawn(&["perf", "produce", "flood", "--records", &records, "--size", &size])
        };
        let kafka = |producer| {
            let size = size(GRPC_PRODUCERS + producer);
            kafka::produce(cluster, "flood", size, RECORDS)
        };
        Self {
            grpc: (0..GRPC_PRODUCERS).map(grpc).collect(),
            kafka: (0..KAFKA_PRODUCERS).flat_map(kafka).collect(),
        }
    }

    fn are_all_running(&mut self) -> bool {
        self.grpc.iter_mut().all(Running::is_running)
            && self.kafka.iter().all(|thread| !thread.is_finished())
    }

    fn is_any_running(&mut self) -> bool {
        self.grpc.iter_mut().any(Running::is_running)
            || self.kafka.iter().any(|thread| !thread.is_finished())
    }

    /// Waits until all of them are through, without an error.
    fn finish(self) {
        for producer in self.grpc {
            producer.finish().ok();
        }
        for thread in self.kafka {
            thread.join().expect("all batches are acknowledged");
        }
    }
}

/// All that was acknowledged is there, once and in order.
#[track_caller]
fn check_contents(cluster: &Cluster) {
    let mut written = vec![Written::new(WARM_BYTES, WARM_RECORDS)];
    let producers = 0..GRPC_PRODUCERS + KAFKA_PRODUCERS;
    written.extend(producers.map(|producer| Written::new(size(producer), RECORDS)));
    contents::check(cluster, "flood", written);
}

/// What waits in the connection to a bookie that does not read is no other part's: its ledgers go on without it.
#[test]
fn a_broker_stays_within_its_memory_when_one_bookie_of_three_does_not_read() {
    let (cluster, client) = cluster();
    let (broker, http) = (&cluster.brokers[0].process, cluster.brokers[0].http.clone());
    cluster.bookies[2].process.pause();
    let mut producers = Producers::start(&cluster, &client);
    let (mut most, mut most_waiting) = (0, 0);
    let begun = Instant::now();
    while producers.is_any_running() && begun.elapsed() < PATIENCE {
        most = most.max(broker.resident_bytes());
        let waiting = http::metric(&http, "geminga_memory_used_bytes{part=\"lanes\"}");
        most_waiting = most_waiting.max(waiting.unwrap_or_default() as u64);
        std::thread::sleep(Duration::from_millis(100));
    }
    producers.finish();
    println!(
        "resident at most {} MiB of {} MiB, of which at most {} MiB waited for the bookie",
        most >> 20,
        MEMORY >> 20,
        most_waiting >> 20
    );
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);
    check_contents(&cluster);
    cluster.bookies[2].process.resume();
}

#[track_caller]
fn stays_within_its_memory(stopped: Duration) {
    let (cluster, client) = cluster();
    let (broker, http) = (&cluster.brokers[0].process, cluster.brokers[0].http.clone());
    let taken = || http::metric(&http, "geminga_produce_bytes_total");
    let before = taken().expect("the broker's metrics");

    cluster.bookies.iter().for_each(|bookie| bookie.process.pause());
    let mut producers = Producers::start(&cluster, &client);
    let used = || {
        let name = "geminga_memory_used_bytes{part=\"direct\"}";
        http::metric(&http, name).unwrap_or_default() as u64
    };
    wait::until("the broker to be full", || (used() >= MEMORY / 8 * 9 / 10).then_some(()));
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < stopped {
        most = most.max(broker.resident_bytes());
        assert!(producers.are_all_running(), "only retriable errors");
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    cluster.bookies.iter().for_each(|bookie| bookie.process.resume());
    wait::until("records to be acknowledged again", || {
        most = most.max(broker.resident_bytes());
        (taken()? > before).then_some(())
    });
    let again = begun.elapsed();
    producers.finish();
    most = most.max(broker.resident_bytes());
    println!(
        "resident at most {} MiB of {} MiB; acknowledged again {again:.2?} after the bookies went on",
        most >> 20,
        MEMORY >> 20
    );
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);

    check_contents(&cluster);
}

#[test]
fn a_broker_stays_within_its_memory_when_no_bookie_answers() {
    stays_within_its_memory(Duration::from_secs(5));
}

#[test]
#[ignore = "half a minute: make long"]
fn a_broker_stays_within_its_memory_for_half_a_minute() {
    stays_within_its_memory(Duration::from_secs(30));
}
