//! An object store that goes away, as processes see it: an S3 server that stands still under load, a directory that is not mounted any more,
//! and an object that somebody deleted. Nobody who writes notices, nothing is lost, and what waited is made up for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Bucket, Client, Cluster, Running, http, wait};

use crate::tiering::{objects, tiers};
use crate::topic::{self, Follower};

/// Rows fed at a time, and between them.
const ROWS: usize = 50;
const PACE: Duration = Duration::from_millis(100);
/// What bookies and tests do not wait long for.
const SOON: [&str; 3] =
    ["--tier-interval=200ms", "--tier-local-retention=100ms", "--tier-take-over=1s"];

fn start(store: &[&str]) -> Cluster {
    let bookies = [store, &SOON[..]].concat();
    Cluster::start_with(3, 1, &bookies, store)
}

/// A topic of small segments, which go to the object store.
fn create(client: &Client, topic: &str, partitions: &str) {
    let created = ["topic", "create", topic, "--partitions", partitions];
    let configs = ["--config", "segment.bytes=262144", "--config", "remote.storage.enable=true"];
    client.run(&[&created[..], &configs].concat()).ok();
}

/// What all of them count, or say.
fn sum(cluster: &Cluster, metric: &str) -> f64 {
    cluster.bookies.iter().filter_map(|bookie| http::metric(&bookie.http, metric)).sum()
}

fn wait_trimmed(cluster: &Cluster, client: &Client, topic: &str, least: usize) -> usize {
    wait::until(&format!("every closed segment of {topic} to be in the object store only"), || {
        let tiers = tiers(cluster, client, topic);
        let all = tiers.len() >= least && tiers.iter().all(|tier| tier == "TRIMMED");
        all.then_some(tiers.len())
    })
}

/// Records that go in all the time.
struct Load {
    flights: Flights,
    producer: Running,
    report: PathBuf,
    fed: usize,
}

impl Load {
    fn start(cluster: &Cluster, client: &Client, topic: &str) -> Self {
        let (producer, report) = topic::produce(client, topic, cluster.dir());
        Self { flights: Flights::load(), producer, report, fed: 0 }
    }

    fn feed(&mut self, rows: usize) {
        let rows = &self.flights.rows()[self.fed..self.fed + rows];
        self.producer.feed(&Flights::lines(rows));
        self.fed += rows.len();
    }

    /// Feeds for so long; all of it is acknowledged.
    fn feed_for(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / PACE.as_millis() {
            self.feed(ROWS);
            std::thread::sleep(PACE);
        }
        topic::wait_acknowledged(&self.report, self.fed);
    }

    /// What was fed.
    fn so_far(&self) -> Flights {
        Flights::load().first(self.fed)
    }

    /// The producer saw no error, and what is there is what it was told, read from the object store.
    fn finish(self, cluster: &mut Cluster, client: &Client, topic: &str) {
        let Self { flights, producer, report, fed } = self;
        producer.finish().ok();
        wait_trimmed(cluster, client, topic, 4);
        // Nothing of it is in a broker's memory.
        cluster.brokers[0].crash_and_restart();
        topic::check_topic(cluster, topic, "after", &flights.first(fed), &report);
    }
}

/// Issue 6, show (f): the store stands still; its connections stay open, and nothing answers. A group that keeps up notices neither that nor that
/// segments go away behind it.
#[track_caller]
fn goes_on_without_the_store(outage: Duration) {
    let dir = tempfile::tempdir().expect("a directory");
    let bucket = Bucket::start(dir.path());
    let [store, endpoint] = bucket.flags();
    let mut cluster = start(&[&store, &endpoint]);
    let client = cluster.client(0);
    create(&client, "load", "3");
    let mut load = Load::start(&cluster, &client, "load");
    let mut consumer = Follower::start(&client, "load");
    load.feed(20_000);
    topic::wait_acknowledged(&load.report, load.fed / 2);
    wait_trimmed(&cluster, &client, "load", 1);
    load.feed_for(Duration::from_secs(1));
    consumer.wait_read(load.fed);

    bucket.pause();
    load.feed(20_000);
    topic::wait_acknowledged(&load.report, load.fed / 2);
    let trimmed = || tiers(&cluster, &client, "load").iter().filter(|t| *t == "TRIMMED").count();
    let then = trimmed();
    load.feed_for(outage);
    let (late, waits) = (trimmed(), tiers(&cluster, &client, "load"));
    assert_eq!(late, then, "nothing is dropped of which the store cannot be asked");
    assert!(waits.len() > then, "what was closed meanwhile waits: {waits:?}");
    consumer.wait_read(load.fed);
    bucket.resume();
    load.feed_for(Duration::from_secs(2));
    wait::until("segments to go away behind the group", || (trimmed() > then).then_some(()));
    load.feed_for(Duration::from_secs(1));
    consumer.finish(&load.so_far());
    load.finish(&mut cluster, &client, "load");
}

#[test]
fn a_store_that_stands_still_stops_no_producer() {
    goes_on_without_the_store(Duration::from_secs(10));
}

#[test]
#[ignore = "two minutes of outage: make long"]
fn a_store_that_stands_still_for_two_minutes_stops_no_producer() {
    goes_on_without_the_store(Duration::from_secs(120));
}

/// A directory that is unmounted under running bookies: nothing of what the empty one has, or lacks, is believed.
#[test]
fn a_directory_that_is_not_mounted_any_more_gets_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (at, away) = (dir.path().join("objects"), dir.path().join("unmounted"));
    let store = format!("--object-store=file://{}", at.display());
    let mut cluster = start(&[&store]);
    let client = cluster.client(0);
    create(&client, "load", "3");
    let mut load = Load::start(&cluster, &client, "load");
    load.feed(20_000);
    topic::wait_acknowledged(&load.report, load.fed / 2);
    let before = wait_trimmed(&cluster, &client, "load", 1);

    // While bookies upload.
    load.feed(20_000);
    std::fs::rename(&at, &away).expect("a directory");
    // An upload may have made it already.
    std::fs::create_dir_all(&at).expect("a mount point");
    load.feed(20_000);
    topic::wait_acknowledged(&load.report, load.fed / 2);
    wait::until("all bookies to find that it is not there", || {
        (sum(&cluster, "geminga_tier_store_refused") == 3.0).then_some(())
    });
    let stranded = objects(&at);
    let trimmed = || tiers(&cluster, &client, "load").iter().filter(|t| *t == "TRIMMED").count();
    let then = trimmed();
    let known = names(&cluster);
    load.feed_for(Duration::from_secs(3));
    assert_eq!((objects(&at), trimmed()), (stranded, then), "nothing is sent there, or dropped");
    let kept = names(&cluster);
    assert!(known.is_subset(&kept) && known.len() >= before, "nothing is believed to be missing");
    assert!(!at.join("geminga.store").exists(), "it is not marked");
    assert_eq!(sum(&cluster, "geminga_tier_objects_missing_total"), 0.0);

    std::fs::remove_dir_all(&at).expect("the mount point");
    std::fs::rename(&away, &at).expect("a directory");
    load.feed_for(Duration::from_secs(2));
    wait::until("all bookies to go on", || {
        (sum(&cluster, "geminga_tier_store_refused") == 0.0).then_some(())
    });
    load.finish(&mut cluster, &client, "load");
}

/// The objects that the metadata names.
fn names(cluster: &Cluster) -> BTreeSet<String> {
    let metastore = cluster.metastore();
    let dump = ["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"];
    let dump = cluster.client(0).json(&dump);
    let keys = dump["keys"].as_array().expect("keys").iter();
    keys.filter_map(|key| key["value"]["tier"]["key"].as_str().map(str::to_owned)).collect()
}

/// Where the oldest object of a topic is, below the root of the file system.
fn an_object(cluster: &Cluster, client: &Client, topic: &str) -> PathBuf {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"]);
    let keys = dump["keys"].as_array().expect("keys").iter().map(|key| &key["value"]);
    let key =
        keys.filter(|meta| meta["name"] == topic).find_map(|meta| meta["tier"]["key"].as_str());
    Path::new("/").join(key.expect("an object"))
}

/// The object of a trimmed segment is deleted by hand: its readers are told, others read on, and all do once it is back.
#[test]
fn scenario_56_readers_of_a_deleted_object_are_told() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let store = format!("--object-store=file://{}", dir.path().display());
    let mut cluster = start(&[&store]);
    let client = cluster.client(0);
    let flights = Flights::load().first(20_000);
    for topic in ["lost", "other"] {
        create(&client, topic, "1");
        let (mut producer, _) = topic::produce(&client, topic, cluster.dir());
        producer.feed(&Flights::lines(flights.rows()));
        producer.finish().ok();
        wait_trimmed(&cluster, &client, topic, 2);
    }
    cluster.brokers[0].crash_and_restart();
    let client = cluster.client(0);
    let object = an_object(&cluster, &client, "lost");
    let kept = dir.path().join("kept");
    std::fs::rename(&object, &kept).expect("an object");

    let read = |topic: &str| {
        client.run(&["consume", topic, "--from-beginning", "--until-end", "--format", "json"])
    };
    let told = read("lost").refused("DATA_LOSS");
    let name = object.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(told.contains(name), "the object by its name: {told}");
    let broker = &cluster.brokers[0];
    assert!(http::metric(&broker.http, "geminga_cold_lost_objects_total") > Some(0.0));
    let log = broker.process.log();
    let line = log.lines().find(|line| line.contains("the object of a trimmed ledger is gone"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    let names = ["lost", "partition", name];
    assert!(names.iter().all(|word| line.contains(word)), "{line}");
    let judge = |topic: &str| {
        let records = Record::parse_all(&read(topic).ok());
        flights.judge(&topic::in_log_order(&[records])).exactly_once();
    };
    judge("other");

    std::fs::rename(&kept, &object).expect("an object");
    judge("lost");
}
