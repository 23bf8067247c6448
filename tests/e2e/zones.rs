//! Acknowledgements that are in two zones (protocol 6.7, `--min-ack-zones`).

use std::path::Path;

use geminga_harness::flights::Flights;
use geminga_harness::{Cluster, http, wait};

use crate::topic::{self, ROWS};

/// How many records the report says are acknowledged.
fn acknowledged(report: &Path) -> usize {
    let text = std::fs::read(report).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// What each bookie has taken for its log, bytes.
fn appended(cluster: &Cluster, bookie: usize) -> f64 {
    let of = &cluster.bookies[bookie].http;
    http::metric(of, "geminga_bookie_appended_bytes_total").expect("a bookie's metrics")
}

/// Two of zone a take it, and it is not acknowledged while the one of zone b takes nothing. When that is gone for good writes go on.
#[test]
fn acknowledgements_wait_for_the_second_zone_while_there_is_one() {
    let mut cluster = Cluster::unborn(&[], &["--min-ack-zones=2"]);
    for zone in ["a", "a", "b"] {
        cluster.add_bookie_with(&[&format!("--zone={zone}")]);
    }
    cluster.add_broker();
    cluster.wait_ready();
    let client = cluster.client(0);
    topic::create(&client, "zoned");
    let flights = Flights::load().first(3 * ROWS);
    let third = |n: usize| Flights::lines(&flights.rows()[n * ROWS..(n + 1) * ROWS]);
    let (mut producer, report) = topic::produce(&client, "zoned", cluster.dir());
    producer.feed(&third(0));
    topic::wait_acknowledged(&report, ROWS);

    cluster.bookies[2].process.pause();
    let before = [0, 1].map(|bookie| appended(&cluster, bookie));
    producer.feed(&third(1));
    wait::until("both of zone a to have it", || {
        let now = [0, 1].map(|bookie| appended(&cluster, bookie));
        now.iter().zip(before).all(|(now, before)| *now > before).then_some(())
    });
    assert_eq!(acknowledged(&report), ROWS, "two of one zone are no acknowledgement");
    cluster.bookies[2].process.resume();
    topic::wait_acknowledged(&report, 2 * ROWS);

    cluster.bookies[2].process.kill();
    producer.feed(&third(2));
    producer.finish().ok();
    wait::until("the broker to miss a zone", || {
        let missing = http::metric(&cluster.brokers[0].http, "geminga_ledger_zones_missing")?;
        (missing == 1.0).then_some(())
    });
    topic::check_topic(&cluster, "zoned", "after", &flights, &report);
}
