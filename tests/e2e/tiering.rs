//! Closed segments in an object store: everything is uploaded, bookies drop theirs, and what is read from the start is what was
//! written; deletion leaves no object behind.

use std::path::Path;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Bucket, Client, Cluster, http, wait};

use crate::topic;

/// Small segments, so that there are many of them.
const SEGMENT: &str = "segment.bytes=1048576";

pub(crate) fn start(url: &str, more: &[&str]) -> Cluster {
    let store = format!("--object-store={url}");
    start_with(&[&[store.as_str()][..], more].concat(), &[])
}

/// Three bookies and a broker that have this store; the broker with more arguments.
fn start_with(store: &[&str], broker: &[&str]) -> Cluster {
    let tier = [
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        // Those whose turn it is not look again after so long.
        "--tier-take-over=1s",
        "--gc-interval=300ms",
        // What an uploader published that was killed before it named it.
        "--tier-sweep-interval=1s",
        "--tier-sweep-age=1s",
    ];
    let bookies = [store, &tier].concat();
    Cluster::start_with(3, 1, &bookies, &[store, broker].concat())
}

/// States of the closed ledgers of a topic, as the metadata has them.
pub(crate) fn tiers(cluster: &Cluster, client: &Client, topic: &str) -> Vec<String> {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"]);
    let keys = dump["keys"].as_array().expect("keys").iter().map(|key| &key["value"]);
    let closed = keys.filter(|meta| {
        meta["name"] == topic && meta["state"] == "Closed" && meta["last_entry"] != -1
    });
    let state = |tier: &serde_json::Value| match tier.as_str() {
        Some(local) => local.to_owned(),
        None => tier["state"].as_str().expect("a state").to_owned(),
    };
    closed.map(|meta| state(&meta["tier"])).collect()
}

fn metric(address: &str, name: &str) -> f64 {
    http::metric(address, name).unwrap_or(0.0)
}

/// Writes the flights, waits until bookies have nothing of closed segments any more, and reads all from the start.
fn everything_goes_there_and_back(cluster: &mut Cluster) {
    let flights = Flights::load();
    let client = cluster.client(0);
    let create = ["topic", "create", "flights", "--partitions", "3", "--config", SEGMENT];
    client.run(&[&create[..], &["--config", "remote.storage.enable=true"]].concat()).ok();
    let (mut producer, _) = topic::produce(&client, "flights", cluster.dir());
    let lines = Flights::lines(flights.rows());
    producer.feed(&lines[..lines.len() / 2]);
    // An uploader that dies leaves nothing that another does not finish.
    cluster.bookies[0].crash_and_restart();
    producer.feed(&lines[lines.len() / 2..]);
    producer.finish().ok();

    let trimmed = wait::until("every closed segment to be in the object store only", || {
        let tiers = tiers(cluster, &client, "flights");
        let all = tiers.len() > 12 && tiers.iter().all(|tier| tier == "TRIMMED");
        all.then_some(tiers.len())
    });
    wait::until("bookies to drop what they have of them", || {
        let dropped: f64 =
            cluster.bookies.iter().map(|b| metric(&b.http, "geminga_tier_trimmed_total")).sum();
        // The first one has counted anew since it was killed.
        (dropped >= 2.0 * trimmed as f64).then_some(())
    });

    // Nothing of it is in a broker's memory.
    cluster.brokers[0].crash_and_restart();
    let args = ["consume", "flights", "--from-beginning", "--until-end", "--format", "json"];
    let records = Record::parse_all(&client.run(&args).ok());
    flights.judge(&topic::in_log_order(&[records])).exactly_once();
    let cold = metric(&cluster.brokers[0].http, "geminga_cold_read_bytes_total");
    assert!(cold > lines.len() as f64 / 2.0, "{cold} bytes came from the object store");
    let failed = metric(&cluster.brokers[0].http, "geminga_cold_failures_total");
    assert!(failed == 0.0, "{failed} reads failed");
}

/// Objects below a directory.
pub(crate) fn objects(dir: &Path) -> usize {
    files(dir, &|end| end == "seg" || end == "man")
}

/// Files of uploads that run, or that never ended: no listing of the store has them.
pub(crate) fn unfinished(dir: &Path) -> usize {
    files(dir, &|end| end.starts_with("seg#") || end.starts_with("man#"))
}

/// Files below a directory whose names end so.
fn files(dir: &Path, ends: &dyn Fn(&str) -> bool) -> usize {
    let Ok(listing) = std::fs::read_dir(dir) else { return 0 };
    let count = |path: &Path| match path.is_dir() {
        true => files(path, ends),
        false => usize::from(path.extension().and_then(|end| end.to_str()).is_some_and(ends)),
    };
    listing.filter_map(Result::ok).map(|entry| count(&entry.path())).sum()
}

#[test]
fn a_directory_takes_all_closed_segments_and_gives_them_back() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let mut cluster = start(&format!("file://{}", dir.path().display()), &[]);
    everything_goes_there_and_back(&mut cluster);
    assert!(objects(dir.path()) > 12, "{} objects", objects(dir.path()));
    cluster.client(0).run(&["topic", "delete", "flights"]).ok();
    wait::until("deletion of the topic to remove its objects", || {
        (objects(dir.path()) + unfinished(dir.path()) == 0).then_some(())
    });
}

/// How many keys the metadata has below a prefix.
fn keys(cluster: &Cluster, client: &Client, prefix: &str) -> usize {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", prefix]);
    dump["keys"].as_array().expect("keys").len()
}

/// Protocol 7.9: many segments, few keys, and everything is read as before, whoever was restarted meanwhile.
#[test]
fn many_segments_are_folded_and_read_from_the_start() {
    const PARTITIONS: usize = 3;
    const KEEP: usize = 3;
    let dir = tempfile::tempdir().expect("a directory for objects");
    let store = format!("--object-store=file://{}", dir.path().display());
    let bookies = [
        store.as_str(),
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1s",
        // What an uploader leaves that is killed between publishing and naming.
        "--tier-sweep-interval=1s",
        "--tier-sweep-age=5s",
        "--gc-interval=300ms",
        "--tier-fold-interval=300ms",
        "--tier-fold-keep=3",
        "--tier-fold-at=4",
    ];
    let mut cluster = Cluster::start_with(3, 1, &bookies, &[store.as_str()]);
    let flights = Flights::load();
    let client = cluster.client(0);
    let create = ["topic", "create", "flights", "--partitions", "3", "--config"];
    let small = ["segment.bytes=262144", "--config", "remote.storage.enable=true"];
    client.run(&[&create[..], &small].concat()).ok();
    let (mut producer, _) = topic::produce(&client, "flights", cluster.dir());
    let lines = Flights::lines(flights.rows());
    producer.feed(&lines[..lines.len() / 2]);
    // Whoever is elected: folding goes on elsewhere, or again.
    for bookie in &mut cluster.bookies {
        bookie.crash_and_restart();
    }
    producer.feed(&lines[lines.len() / 2..]);
    producer.finish().ok();

    // The newest keep their keys, and so do fewer than are worth it.
    let most = PARTITIONS * (KEEP + 4);
    wait::until("old segments to leave the metadata", || {
        (keys(&cluster, &client, "segments/") <= most).then_some(())
    });
    assert!(keys(&cluster, &client, "ledgers/") <= most + 2 * PARTITIONS);
    assert_eq!(keys(&cluster, &client, "manifests/"), PARTITIONS);
    let described = client.json(&["topic", "describe", "flights"]);
    let partitions = described["partitions"].as_array().expect("partitions");
    let folded = partitions.iter().map(|p| p["folded_segments"].as_u64().expect("a number"));
    let folded: Vec<u64> = folded.collect();
    assert!(folded.iter().sum::<u64>() > 40, "{folded:?}");

    let args = ["consume", "flights", "--from-beginning", "--until-end", "--format", "json"];
    let judge = |client: &Client| {
        let records = Record::parse_all(&client.run(&args).ok());
        flights.judge(&topic::in_log_order(&[records])).exactly_once();
    };
    // By a broker that had them open, and by one that never saw them.
    judge(&client);
    cluster.brokers[0].crash_and_restart();
    judge(&client);
    let first = client.json(&["topic", "offsets", "flights", "--at", "2000-01-01T00:00:00Z"]);
    let offsets = first.as_array().expect("places").iter().map(|place| place["offset"].as_i64());
    assert_eq!(offsets.collect::<Vec<_>>(), [Some(0); PARTITIONS], "by time");

    client.run(&["topic", "delete", "flights"]).ok();
    wait::until("deletion of the topic to remove its objects and its keys", || {
        let left = keys(&cluster, &client, "manifests/") + keys(&cluster, &client, "segments/");
        let files = objects(dir.path()) + unfinished(dir.path());
        (left + files == 0).then_some(())
    });
}

#[test]
fn an_s3_server_takes_all_closed_segments_and_gives_them_back() {
    let dir = tempfile::tempdir().expect("a directory for the server");
    let bucket = Bucket::start(dir.path());
    let [store, endpoint] = bucket.flags();
    let url = store.strip_prefix("--object-store=").expect("a flag");
    let mut cluster = start(url, &[&endpoint]);
    everything_goes_there_and_back(&mut cluster);
    assert!(bucket.segments().0 > 12, "{:?}", bucket.segments());
}

#[test]
fn a_topic_is_tiered_only_where_its_broker_can_read_it_back() {
    let cluster = Cluster::start(3, 1);
    let client = cluster.client(0);
    let on = "remote.storage.enable=true";
    let create = ["topic", "create", "cold", "--partitions", "1", "--config", on];
    let said = client.run(&create).refused("INVALID_CONFIG");
    assert!(said.contains("--object-store"), "{said}");
}

/// Waits until a topic's segments begin at this offset or behind it, and its objects are those of the segments that it has still.
fn wait_removed(cluster: &Cluster, client: &Client, dir: &Path, least: i64, before: usize) -> i64 {
    let start = wait::until("the log to begin later", || {
        let places = client.json(&["topic", "offsets", "flights", "--at", "earliest"]);
        places[0]["offset"].as_i64().filter(|start| *start >= least)
    });
    wait::until("objects of what is before to be removed", || {
        let left = objects(dir);
        (left < before && left == tiers(cluster, client, "flights").len()).then_some(())
    });
    assert_eq!(unfinished(dir), 0);
    start
}

/// 7.8: what was deleted on command or by its size is in no bookie any more, and its objects go; the rest is read from its own.
#[test]
fn retention_removes_objects_and_leaves_the_rest_readable() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let store = format!("--object-store=file://{}", dir.path().display());
    let mut cluster = start_with(&[&store], &["--retention-interval=200ms"]);
    let client = cluster.client(0);
    let create = ["topic", "create", "flights", "--partitions", "1", "--config"];
    let small = ["segment.bytes=262144", "--config", "remote.storage.enable=true"];
    client.run(&[&create[..], &small].concat()).ok();
    let flights = Flights::load().first(60_000);
    let (mut producer, _) = topic::produce(&client, "flights", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    let trimmed = wait::until("every closed segment to be in the object store only", || {
        let tiers = tiers(&cluster, &client, "flights");
        let all = tiers.len() > 5 && tiers.iter().all(|tier| tier == "TRIMMED");
        all.then_some(tiers.len())
    });
    wait::until("an object for each", || (objects(dir.path()) == trimmed).then_some(()));
    // Nothing of it is in the broker's memory.
    cluster.brokers[0].crash_and_restart();
    let client = cluster.client(0);

    let delete = ["topic", "delete-records", "flights", "--partition", "0", "--before", "30000"];
    client.run(&delete).ok();
    let start = wait_removed(&cluster, &client, dir.path(), 30_000, trimmed);
    assert_eq!(start, 30_000);
    let from = |start: i64| {
        let rows = &flights.rows()[usize::try_from(start).expect("an offset")..];
        rows.iter().map(|row| row.value.clone() + "\n").collect::<String>()
    };
    assert!(topic::values(&client, "flights") == from(start), "other rows than were left");
    let cold = metric(&cluster.brokers[0].http, "geminga_cold_read_bytes_total");
    assert!(cold > 0.0, "nothing was read from the object store");

    let left = objects(dir.path());
    client.run(&["topic", "alter", "flights", "--config", "retention.bytes=600000"]).ok();
    let start = wait_removed(&cluster, &client, dir.path(), 30_001, left);
    assert!(objects(dir.path()) > 0, "the newest 600 kB stay");
    cluster.brokers[0].crash_and_restart();
    let client = cluster.client(0);
    assert!(topic::values(&client, "flights") == from(start), "other rows than were left");
}
