//! Clients that send more than a broker may hold, while no bookie answers: its memory stays within what it was given, and
//! nothing that was sent is lost, or stands there twice, when the bookies go on.

use std::time::Duration;

use geminga_harness::{Cluster, http, wait};
use tokio::time::Instant;

/// What the broker is given, bytes.
const MEMORY: u64 = 256 << 20;
const PRODUCERS: usize = 8;
/// Of 4 KiB, each producer's: together twice the memory. They go to many partitions, since a client has but so much under way in each.
const RECORDS: usize = 16_000;

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}

#[track_caller]
fn stays_within_its_memory(stopped: Duration) {
    let memory = format!("--memory={}MiB", MEMORY >> 20);
    let cluster = Cluster::start_with(3, 1, &[], &[&memory]);
    let client = cluster.client(0);
    client.run(&["topic", "create", "flood", "--partitions", "48"]).ok();
    let (broker, http) = (cluster.brokers[0].process.id(), cluster.brokers[0].http.clone());

    // All partitions are open, so that they take what comes.
    let warm = ["perf", "produce", "flood", "--records", "4800", "--size", "100"];
    client.run(&warm).ok();
    let taken = || http::metric(&http, "geminga_produce_bytes_total");
    let before = taken().expect("the broker's metrics");

    cluster.bookies.iter().for_each(|bookie| bookie.process.pause());
    let records = RECORDS.to_string();
    let args = ["perf", "produce", "flood", "--records", &records, "--size", "4096"];
    let mut producers: Vec<_> = (0..PRODUCERS).map(|_| client.spawn(&args)).collect();
    let used = || {
        let name = "geminga_memory_used_bytes{part=\"direct\"}";
        http::metric(&http, name).unwrap_or_default() as u64
    };
    wait::until("the broker to be full", || (used() >= MEMORY / 8 * 9 / 10).then_some(()));
    let (begun, mut most) = (Instant::now(), 0);
    while begun.elapsed() < stopped {
        most = most.max(resident(broker));
        assert!(
            producers.iter_mut().all(|producer| producer.is_running()),
            "only retriable errors"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    cluster.bookies.iter().for_each(|bookie| bookie.process.resume());
    wait::until("records to be acknowledged again", || {
        most = most.max(resident(broker));
        (taken()? > before).then_some(())
    });
    let again = begun.elapsed();
    for producer in producers {
        producer.finish().ok();
    }
    most = most.max(resident(broker));
    println!(
        "resident at most {} MiB of {} MiB; acknowledged again {again:.2?} after the bookies went on",
        most >> 20,
        MEMORY >> 20
    );
    assert!(most <= MEMORY / 5 * 6, "{} MiB", most >> 20);

    let offsets = client.json(&["topic", "offsets", "flood"]);
    let ends = offsets.as_array().expect("a line for each partition");
    let end: u64 = ends.iter().map(|p| p["offset"].as_u64().expect("an offset")).sum();
    assert_eq!(end, (PRODUCERS * RECORDS + 4800) as u64, "each record once");
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
