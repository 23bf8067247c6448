//! Disks that get full (protocol 5.8): one of three is worked around; all of them hold producers up, refuse nothing that was
//! acknowledged, and take records again by themselves when a topic is deleted. With an object store no disk is too small for a topic.

use std::collections::BTreeSet;
use std::path::Path;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, http, wait};

use crate::topic::{self, keep_records, still_kept};

const DISK: u64 = 512 << 20;

/// A cluster with three bookies on small disks, `roomy` others, and one broker.
fn cluster(roomy: usize, small: usize) -> Cluster {
    let mut cluster = Cluster::start_with(roomy, 0, &["--gc-interval=500ms"], &[]);
    for _ in 0..small {
        cluster.add_bookie_on_a_small_disk(DISK);
    }
    cluster.add_broker();
    cluster.wait_ready();
    cluster
}

/// Bookies that take no new data, by name.
fn read_only(cluster: &Cluster) -> Vec<String> {
    let client = Client::new("127.0.0.1:1", cluster.dir());
    let listed = client.json(&["bookie", "list", "--metastore", &cluster.metastore()]);
    let bookies = listed.as_array().expect("a list").iter();
    let full = bookies.filter(|bookie| bookie["live"] == true && bookie["writable"] == false);
    full.map(|bookie| bookie["bookie_id"].as_str().expect("an id").to_owned()).collect()
}

/// A topic whose ledgers are small, so that its space can be given back while the disk is full.
fn create(client: &Client, topic: &str) {
    let small = ["--config", "segment.bytes=4194304"];
    client.run(&[&["topic", "create", topic, "--partitions", "4"][..], &small].concat()).ok();
}

/// Writes or reads the records of a topic, so many MiB of them. What is read is compared with what was written.
fn load(client: &Client, what: &str, topic: &str, mebibytes: u64) {
    let records = (mebibytes << 20 >> 14).to_string();
    client.run(&["perf", what, topic, "--records", &records, "--size", "16384"]).ok();
}

#[test]
fn a_full_disk_of_three_is_worked_around() {
    let mut cluster = cluster(2, 1);
    let client = cluster.client(0);
    let flights = keep_records(&cluster);
    let mut topics = Vec::new();
    let mut load_more = |mebibytes| {
        let topic = format!("much-{}", topics.len());
        create(&client, &topic);
        load(&client, "produce", &topic, mebibytes);
        topics.push((topic, mebibytes));
    };
    wait::until("the small disk to be full", || {
        load_more(96);
        (read_only(&cluster) == ["bookie-3"]).then_some(())
    });
    // The other two take what follows, and a fourth what the full one does not.
    load_more(32);
    cluster.add_bookie();
    cluster.wait_ready();
    load_more(32);
    cluster.bookies[0].process.kill();
    load_more(32);
    // A new owner has nothing in memory: what it reads is on the disks, the full one's included.
    cluster.brokers[0].crash_and_restart();
    for (topic, mebibytes) in topics {
        load(&client, "consume", &topic, mebibytes);
    }
    still_kept(&client, &flights);
    assert_eq!(read_only(&cluster), ["bookie-3"]);
}

#[test]
fn full_disks_hold_producers_up_until_a_topic_is_deleted() {
    let mut cluster = cluster(0, 3);
    let client = cluster.client(0);
    let kept = keep_records(&cluster);
    create(&client, "much");
    load(&client, "produce", "much", 96);
    // It is filled up by somebody who never stops.
    create(&client, "endless");
    create(&client, "late");
    let endless =
        client.spawn(&["perf", "produce", "endless", "--records", "1000000", "--size", "16384"]);
    wait::until("all disks to be full", || (read_only(&cluster).len() == 3).then_some(()));

    // Whoever wants more waits or is told, and what is there is served, also after crashes.
    let args = ["topic", "create", "never", "--partitions", "1"];
    client.run(&args).refused("NOT_ENOUGH_LIVE_BOOKIES");
    let flights = Flights::load().first(500);
    let (mut producer, report) = topic::produce(&client, "late", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    still_kept(&client, &kept);
    for bookie in &mut cluster.bookies {
        bookie.crash_and_restart();
    }
    cluster.brokers[0].crash_and_restart();
    still_kept(&client, &kept);

    // Both of these go, and with them most of what is on the disks.
    drop(endless);
    client.run(&["topic", "delete", "endless"]).ok();
    client.run(&["topic", "delete", "much"]).ok();
    wait::until("all disks to take records again", || read_only(&cluster).is_empty().then_some(()));
    producer.finish().ok();
    topic::check_topic(&cluster, "late", "after", &flights, &report);
    still_kept(&client, &kept);
    load(&client, "produce", "late", 16);
    for bookie in &cluster.bookies {
        let dropped = http::metric(&bookie.http, "geminga_bookie_dropped_ledgers_total");
        assert!(dropped.expect("a bookie's metrics") > 0.0);
    }
}

/// How many records a report says are acknowledged.
fn acknowledged(report: &Path) -> usize {
    let text = std::fs::read(report).unwrap_or_default();
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// The ids of ledgers of a topic that have no end yet.
fn unclosed(cluster: &Cluster, topic: &str) -> BTreeSet<String> {
    let client = Client::new("127.0.0.1:1", cluster.dir());
    let listed = client.json(&["ledger", "list", "--metastore", &cluster.metastore()]);
    let ledgers = listed.as_array().expect("a list").iter().filter(|one| one["topic"] == topic);
    let unclosed = ledgers.filter(|one| one["state"] != "closed" && one["state"] != "deleting");
    unclosed.map(|ledger| ledger["ledger_id"].as_str().expect("an id").to_owned()).collect()
}

/// How full the fullest disk of each bookie is; 3: at its hard limit.
fn fullness(cluster: &Cluster) -> Vec<f64> {
    let of = |address: &str| http::metric(address, "geminga_bookie_disk_fullness");
    cluster.bookies.iter().map(|bookie| of(&bookie.http).expect("a bookie's metrics")).collect()
}

/// 5.8, K10: somebody else fills all disks to their hard limit. Nothing is taken, and a new owner seals what was open and reads it; a topic is
/// deleted, and what it held is enough to go on.
#[test]
fn scenario_36_disks_at_their_hard_limit_still_seal_and_delete() {
    let mut cluster = cluster(0, 3);
    let client = cluster.client(0);
    let kept = keep_records(&cluster);
    create(&client, "much");
    load(&client, "produce", "much", 160);
    create(&client, "late");
    let flights = Flights::load().first(1_000);
    let (first, rest) = flights.rows().split_at(500);
    let (mut producer, report) = topic::produce(&client, "late", cluster.dir());
    producer.feed(&Flights::lines(first));
    topic::wait_acknowledged(&report, first.len());
    let open = unclosed(&cluster, "late");
    assert!(open.len() >= 4, "{open:?}");

    cluster.fill_small_disks(98);
    wait::until("all disks to be at their hard limit", || {
        fullness(&cluster).iter().all(|level| *level == 3.0).then_some(())
    });
    producer.feed(&Flights::lines(rest));
    let args = ["topic", "create", "never", "--partitions", "1"];
    client.run(&args).refused("NOT_ENOUGH_LIVE_BOOKIES");
    cluster.brokers[0].crash_and_restart();
    wait::until("what was open to be sealed and closed", || {
        unclosed(&cluster, "late").is_disjoint(&open).then_some(())
    });
    still_kept(&client, &kept);
    assert_eq!(acknowledged(&report), first.len(), "nothing was taken");
    assert_eq!(fullness(&cluster), [3.0; 3], "and no room was made meanwhile");

    client.run(&["topic", "delete", "much"]).ok();
    wait::until("all disks to take records again", || read_only(&cluster).is_empty().then_some(()));
    producer.finish().ok();
    topic::check_topic(&cluster, "late", "after", &flights, &report);
    still_kept(&client, &kept);
}

/// 5.8: what is in the object store is to be kept for an hour beside it, and goes at once where disks fill up.
#[test]
fn a_tiered_topic_is_larger_than_the_disks() {
    const MEBIBYTES: u64 = 2 * (DISK >> 20);
    let dir = tempfile::tempdir().expect("a directory for objects");
    let objects = format!("--object-store=file://{}", dir.path().display());
    let bookies = ["--gc-interval=500ms", "--tier-interval=500ms", &objects];
    let mut cluster = Cluster::start_with(0, 0, &bookies, &[&objects]);
    for _ in 0..3 {
        cluster.add_bookie_on_a_small_disk(DISK);
    }
    cluster.add_broker();
    cluster.wait_ready();
    let client = cluster.client(0);
    let kept = keep_records(&cluster);
    let configs = ["segment.bytes=4194304", "remote.storage.enable=true"];
    let configs = configs.map(|config| ["--config", config]).concat();
    client.run(&[&["topic", "create", "cold", "--partitions", "4"][..], &configs].concat()).ok();
    let records = (MEBIBYTES << 20 >> 14).to_string();
    let produce = ["perf", "produce", "cold", "--records", &records, "--size", "16384"];
    client.spawn(&produce).finish_within(4 * wait::PATIENCE).ok();
    for bookie in &cluster.bookies {
        let trimmed = http::metric(&bookie.http, "geminga_tier_trimmed_total");
        assert!(trimmed.expect("a bookie's metrics") > 0.0, "{bookie:?} dropped nothing");
    }
    wait::until("all disks to take records", || read_only(&cluster).is_empty().then_some(()));
    // Nothing of it is in a broker's memory.
    cluster.brokers[0].crash_and_restart();
    load(&client, "consume", "cold", MEBIBYTES);
    still_kept(&client, &kept);
}
