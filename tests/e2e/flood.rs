//! Clients that send more than a broker may hold, while no bookie answers, or one of three does not: its memory stays within
//! what it was given, and nothing that was sent is lost, or stands there twice.

use std::time::Duration;

use geminga_harness::{Client, Cluster, Running, http, wait};
use tokio::time::Instant;

/// What the broker is given, bytes.
const MEMORY: u64 = 256 << 20;
const PRODUCERS: usize = 8;
/// More than they need, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(300);
/// Of 4 KiB, each producer's: together twice the memory. They go to many partitions, since a client has but so much under way in each.
const RECORDS: usize = 16_000;

/// A cluster whose broker has little memory and has all partitions of a topic open, so that they take what comes.
fn cluster() -> (Cluster, Client) {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let client = cluster.client(0);
    client.run(&["topic", "create", "flood", "--partitions", "48"]).ok();
    let warm = ["perf", "produce", "flood", "--records", "4800", "--size", "100"];
    client.run(&warm).ok();
    (cluster, client)
}

/// Producers of twice the memory.
fn producers(client: &Client) -> Vec<Running> {
    let records = RECORDS.to_string();
    let args = ["perf", "produce", "flood", "--records", &records, "--size", "4096"];
    (0..PRODUCERS).map(|_| client.spawn(&args)).collect()
}

/// All that was acknowledged is there, once.
#[track_caller]
fn check_ends(client: &Client) {
    let offsets = client.json(&["topic", "offsets", "flood"]);
    let ends = offsets.as_array().expect("a line for each partition");
    let end: u64 = ends.iter().map(|p| p["offset"].as_u64().expect("an offset")).sum();
    assert_eq!(end, (PRODUCERS * RECORDS + 4800) as u64, "each record once");
}

/// What waits in the connection to a bookie that does not read is no other part's: its ledgers go on without it.
#[test]
fn a_broker_stays_within_its_memory_when_one_bookie_of_three_does_not_read() {
    let (cluster, client) = cluster();
    let (broker, http) = (&cluster.brokers[0].process, cluster.brokers[0].http.clone());
    cluster.bookies[2].process.pause();
    let mut producers = producers(&client);
    let (mut most, mut most_waiting) = (0, 0);
    let begun = Instant::now();
    while producers.iter_mut().any(Running::is_running) && begun.elapsed() < PATIENCE {
        most = most.max(broker.resident_bytes());
        let waiting = http::metric(&http, "geminga_memory_used_bytes{part=\"lanes\"}");
        most_waiting = most_waiting.max(waiting.unwrap_or_default() as u64);
        std::thread::sleep(Duration::from_millis(100));
    }
    for producer in producers {
        producer.finish().ok();
    }
    println!(
        "resident at most {} MiB of {} MiB, of which at most {} MiB waited for the bookie",
        most >> 20,
        MEMORY >> 20,
        most_waiting >> 20
    );
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);
    check_ends(&client);
    cluster.bookies[2].process.resume();
}

#[track_caller]
fn stays_within_its_memory(stopped: Duration) {
    let (cluster, client) = cluster();
    let (broker, http) = (&cluster.brokers[0].process, cluster.brokers[0].http.clone());
    let taken = || http::metric(&http, "geminga_produce_bytes_total");
    let before = taken().expect("the broker's metrics");

    cluster.bookies.iter().for_each(|bookie| bookie.process.pause());
    let mut producers = producers(&client);
    let used = || {
        let name = "geminga_memory_used_bytes{part=\"direct\"}";
        http::metric(&http, name).unwrap_or_default() as u64
    };
    wait::until("the broker to be full", || (used() >= MEMORY / 8 * 9 / 10).then_some(()));
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < stopped {
        most = most.max(broker.resident_bytes());
        assert!(
            producers.iter_mut().all(|producer| producer.is_running()),
            "only retriable errors"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    cluster.bookies.iter().for_each(|bookie| bookie.process.resume());
    wait::until("records to be acknowledged again", || {
        most = most.max(broker.resident_bytes());
        (taken()? > before).then_some(())
    });
    let again = begun.elapsed();
    for producer in producers {
        producer.finish().ok();
    }
    most = most.max(broker.resident_bytes());
    println!(
        "resident at most {} MiB of {} MiB; acknowledged again {again:.2?} after the bookies went on",
        most >> 20,
        MEMORY >> 20
    );
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);

    check_ends(&client);
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
