//! The metadata store away for longer than leases live, under load, with rolls due and a bookie killed meanwhile (DESIGN
//! 6, "etcd is down"): what is open goes on, groups commit, no term changes, and what waited is made up for afterwards.

use std::path::Path;
use std::time::Duration;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, Running, wait};
use serde_json::Value;

use crate::topic;

/// Rows fed at a time.
const ROWS: usize = 50;
/// Between them.
const PACE: Duration = Duration::from_millis(100);
/// Each ledger is old after this time, which is shorter than any outage here.
const ROLL: &str = "segment.ms=6000";

/// How the store goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// `kill -9`, and started again.
    Killed,
    /// SIGSTOP: it answers nobody, and ends all leases when it goes on.
    Paused,
}

/// Records that go in and come out all the time.
struct Load {
    flights: Flights,
    producer: Running,
    consumer: Running,
    report: std::path::PathBuf,
    fed: usize,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let client = cluster.client(0);
        let partitions = topic::PARTITIONS.to_string();
        client
            .run(&["topic", "create", "load", "--partitions", &partitions, "--config", ROLL])
            .ok();
        let (producer, report) = topic::produce(&client, "load", cluster.dir());
        let args = ["consume", "load", "--group", "g", "--from-beginning", "--format", "json"];
        let consumer = cluster.client(1).spawn(&args);
        Self { flights: Flights::load(), producer, consumer, report, fed: 0 }
    }

    /// Feeds rows for so long.
    fn feed(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / PACE.as_millis() {
            let rows = &self.flights.rows()[self.fed..self.fed + ROWS];
            self.producer.feed(&Flights::lines(rows));
            self.fed += ROWS;
            std::thread::sleep(PACE);
        }
    }

    /// Feeds rows until every partition goes on in another ledger.
    fn feed_until_rolled(&mut self, client: &Client) {
        let before = segments(client);
        wait::until("every partition to roll", || {
            self.feed(PACE);
            segments(client).iter().zip(&before).all(|(now, then)| now > then).then_some(())
        });
    }

    /// Waits until all that was fed is acknowledged, read, and committed.
    fn catches_up(&self, client: &Client) {
        topic::wait_acknowledged(&self.report, self.fed);
        wait::until("the consumer to have read all", || {
            let read = whole_lines(self.consumer.stdout());
            (read.iter().filter(|byte| **byte == b'\n').count() >= self.fed).then_some(())
        });
        wait::until("the group to have committed all", || {
            let described = client.run(&["group", "describe", "g", "--output", "json"]);
            let group: Value = serde_json::from_slice(&described.stdout).ok()?;
            let committed = group["offsets"].as_array()?.iter().map(|o| o["offset"].as_u64());
            (committed.sum::<Option<u64>>()? >= self.fed as u64).then_some(())
        });
    }
}

fn whole_lines(mut text: Vec<u8>) -> Vec<u8> {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    text.truncate(whole);
    text
}

fn partitions(client: &Client) -> Vec<Value> {
    topic::describe(client, "load")["partitions"].as_array().expect("partitions").clone()
}

fn terms(client: &Client) -> Vec<Value> {
    partitions(client).iter().map(|p| p["term"].clone()).collect()
}

/// How many segments each partition has.
fn segments(client: &Client) -> Vec<usize> {
    let count = |p: &Value| p["segments"].as_array().map_or(0, Vec::len);
    partitions(client).iter().map(count).collect()
}

/// Lines of brokers' logs that tell of a takeover.
fn takeovers(cluster: &Cluster) -> usize {
    cluster.brokers.iter().map(|b| b.process.log().matches("partitions assigned").count()).sum()
}

#[track_caller]
fn goes_on_without_metadata(away: Away, outage: Duration) {
    let mut cluster = Cluster::start(4, 2);
    let client = cluster.client(0);
    let mut load = Load::start(&cluster);
    load.feed(Duration::from_secs(1));
    load.catches_up(&client);
    // All have just rolled: a transaction that the outage catches in flight would have to wait for its end (DESIGN 6).
    load.feed_until_rolled(&client);
    load.catches_up(&client);
    let before = (terms(&client), takeovers(&cluster));

    match away {
        Away::Killed => cluster.etcd.kill(),
        Away::Paused => cluster.etcd.pause(),
    }
    load.feed(outage / 2);
    load.catches_up(&client);
    cluster.bookies[0].process.kill();
    load.feed(outage / 2);
    load.catches_up(&client);
    match away {
        Away::Killed => cluster.etcd.restart(),
        Away::Paused => cluster.etcd.resume(),
    }
    load.feed(Duration::from_secs(3));
    cluster.wait_ready();
    load.catches_up(&client);
    let after = (terms(&client), takeovers(&cluster));
    assert_eq!(after, before, "partitions changed their owners because etcd was {away:?}");
    // What was due while the store was away is made up for.
    load.feed_until_rolled(&client);
    load.catches_up(&client);
    finish(load, &cluster);
}

/// Everything that was acknowledged is where its acknowledgement says, and was read.
#[track_caller]
fn finish(load: Load, cluster: &Cluster) {
    let Load { flights, producer, mut consumer, report, fed } = load;
    producer.finish().ok();
    consumer.kill();
    let flights = flights.first(fed);
    let read = Record::parse_all(&whole_lines(consumer.stdout()));
    assert!(read.len() >= fed, "{} of {fed} were read", read.len());
    let check = |report: &Path| topic::check_topic(cluster, "load", "check", &flights, report);
    check(&report);
}

#[test]
fn a_killed_metastore_stops_nothing_that_is_open() {
    goes_on_without_metadata(Away::Killed, Duration::from_secs(8));
}

#[test]
fn a_paused_metastore_stops_nothing_that_is_open() {
    goes_on_without_metadata(Away::Paused, Duration::from_secs(8));
}

#[test]
#[ignore = "a minute of outage: make long"]
fn a_metastore_killed_for_a_minute_stops_nothing_that_is_open() {
    goes_on_without_metadata(Away::Killed, Duration::from_secs(60));
}

#[test]
#[ignore = "a minute of outage: make long"]
fn a_metastore_paused_for_a_minute_stops_nothing_that_is_open() {
    goes_on_without_metadata(Away::Paused, Duration::from_secs(60));
}
