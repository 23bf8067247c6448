//! Bookies that go away for less than `--lost-bookie-delay`, or too many at once (scenarios 46 and 47): writers go on elsewhere, each once,
//! nobody's place in what was written before is given away, and what is copied is what they missed.

use std::ops::Range;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, http, wait};
use serde_json::Value;

use crate::topic::{self, ROWS};

const TOPIC: &str = "restarts";
const BOOKIES: usize = 4;
/// Rows that are there before anybody goes away.
const BEFORE: usize = 60_000;
/// Payload bytes that come in in some seconds.
const MORE: f64 = 500_000.0;

/// What bookies have counted, also in lives that are over.
#[derive(Debug, Default)]
struct Repairs {
    places: f64,
    copied: f64,
}

impl Repairs {
    /// Adds what a bookie has counted in the life that is about to end.
    fn add(&mut self, cluster: &Cluster, bookie: usize) {
        let metric = |name| http::metric(&cluster.bookies[bookie].http, name).unwrap_or(0.0);
        self.places += metric("geminga_repair_places_total");
        self.copied += metric("geminga_repair_copied_bytes_total");
    }
}

/// Whether all bookies are registered and nothing lacks a copy.
fn is_well(client: &Client) -> bool {
    let status = client.json(&["cluster", "status"]);
    let mut bookies = status["bookies"].as_array().expect("bookies").iter();
    bookies.all(|bookie| bookie["live"] == true) && status["repair"]["ledgers"] == 0
}

fn is_live(client: &Client, bookie: &str) -> bool {
    let status = client.json(&["cluster", "status"]);
    let bookies = status["bookies"].as_array().expect("bookies");
    let is = |one: &Value| one["bookie_id"] == bookie && one["live"] == true;
    bookies.iter().any(is)
}

/// Payload bytes that went into ledgers.
fn appended(cluster: &Cluster) -> f64 {
    let of = |name| http::metric(&cluster.brokers[0].http, name).expect("a broker's metrics");
    of("geminga_ledger_appended_bytes_total")
}

/// Bookies go away while records come in, `absences` in all, and come back. What was repaired in all.
fn under_load(
    mut cluster: Cluster,
    absences: usize,
    meanwhile: impl FnOnce(&mut Cluster, &Client, &mut Repairs),
) -> Repairs {
    let client = cluster.client(0);
    let create = ["topic", "create", TOPIC, "--partitions", "12"];
    client.run(&[&create[..], &["--config", "segment.bytes=1048576"]].concat()).ok();
    let flights = Flights::load();
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..BEFORE]));
    topic::wait_acknowledged(&report, BEFORE);
    let before = appended(&cluster);
    let mut repairs = Repairs::default();

    let ((), fed) = topic::feed_while(&mut [&mut producer], &flights, BEFORE, ROWS, || {
        meanwhile(&mut cluster, &client, &mut repairs);
    });
    let produced = producer.finish();
    assert_eq!(produced.stderr, "", "the producer was told of something");
    produced.ok();
    (0..cluster.bookies.len()).for_each(|bookie| repairs.add(&cluster, bookie));

    let changes = http::metric(&cluster.brokers[0].http, "geminga_ledger_ensemble_changes_total");
    let changes = changes.expect("a broker's metrics");
    println!("{repairs:?}, {changes} changes of ensembles, {before} bytes before");
    // What is copied is what was written while a bookie was away, which is more where it is noticed late, and not what it has.
    assert!(repairs.copied < before / 2.0, "{repairs:?}, of {before} bytes");
    // Each open ledger leaves a bookie once.
    assert!(changes <= f64::from(topic::PARTITIONS) * absences as f64, "{changes} changes");
    let flights = flights.first(fed);
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
    repairs
}

fn wait_well(client: &Client) {
    wait::until("all servers and copies", || is_well(client).then_some(()));
}

#[test]
fn scenario_46_bookies_that_are_restarted_cost_no_mass_copying() {
    let repairs = under_load(Cluster::start(BOOKIES, 1), BOOKIES, |cluster, client, repairs| {
        for bookie in 0..BOOKIES {
            repairs.add(cluster, bookie);
            let process = &mut cluster.bookies[bookie].process;
            let status = process.terminate();
            assert_eq!(status.code(), Some(0), "{}", process.log());
            process.restart();
            cluster.bookies[bookie].wait_ready();
            wait_well(client);
        }
    });
    assert_eq!(repairs.places, 0.0, "places were given away");
}

#[test]
fn scenario_47_a_bookie_that_nobody_reaches_for_a_while_costs_no_mass_copying() {
    let repairs = under_load(Cluster::start(BOOKIES, 1), 1, |cluster, client, _| {
        cluster.bookies[1].process.pause();
        wait::until("one that stands still to be missed", || {
            (!is_live(client, "bookie-2")).then_some(())
        });
        cluster.bookies[1].process.resume();
        wait_well(client);
    });
    assert_eq!(repairs.places, 0.0, "places were given away");
}

/// The sum of what these bookies say.
fn sum(cluster: &Cluster, bookies: Range<usize>, metric: &str) -> f64 {
    bookies.filter_map(|bookie| http::metric(&cluster.bookies[bookie].http, metric)).sum()
}

/// A1: a zone that loses its network, for longer than a bookie may be away.
#[test]
fn scenario_47_a_zone_that_vanishes_is_waited_for() {
    const ALL: usize = 6;
    // Longer than from the end of one registration to that of the next, of two that ended together.
    let mut cluster = Cluster::unborn(&["--lost-bookie-delay=10s", "--audit-interval=2s"], &[]);
    for zone in ["a", "a", "b", "b", "c", "c"] {
        cluster.add_bookie_with(&[&format!("--zone={zone}")]);
    }
    cluster.add_broker();
    cluster.wait_ready();
    // A segment that begins before both are missed may name one of them once more.
    let repairs = under_load(cluster, 4, |cluster, client, _| {
        (0..2).for_each(|bookie| cluster.bookies[bookie].process.pause());
        wait::until("the storm brake", || {
            (sum(cluster, 2..ALL, "geminga_repair_storm_brake") == 1.0).then_some(())
        });
        let then = appended(cluster);
        wait::until("records to go on coming in while passes are made", || {
            (appended(cluster) > then + MORE).then_some(())
        });
        let of = |metric| sum(cluster, 2..ALL, metric);
        assert_eq!(of("geminga_repair_places_total"), 0.0, "places were given away");
        // Another auditor comes to the same where the first one lost its turn meanwhile.
        wait::until("the brake to be held still", || {
            (of("geminga_repair_storm_brake") == 1.0).then_some(())
        });
        assert_eq!(of("geminga_repair_places_total"), 0.0, "places were given away");
        (0..2).for_each(|bookie| cluster.bookies[bookie].process.resume());
        wait_well(client);
        wait::until("the brake to be let go", || {
            (sum(cluster, 0..ALL, "geminga_repair_storm_brake") == 0.0).then_some(())
        });
    });
    // What was written meanwhile is in two zones, and some of it may move to the third now.
    println!("{} places moved", repairs.places);
}
