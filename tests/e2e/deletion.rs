//! Topics that are deleted leave nothing: no metadata, and no data on the bookies.

use geminga_harness::{Client, Cluster, http, wait};
use serde_json::Value;

use crate::topic::{self, keep_records, still_kept};

const SOON: &[&str] = &["--gc-interval=300ms"];

/// Keys of the metadata store that begin with `prefix` and name this topic.
pub(crate) fn keys_of(cluster: &Cluster, client: &Client, prefix: &str, id: &str) -> Vec<String> {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", prefix]);
    let keys = dump["keys"].as_array().expect("keys").iter();
    let keys = keys.filter_map(|key| key["key"].as_str()).filter(|key| key.contains(id));
    keys.map(str::to_owned).collect()
}

/// Waits until the metadata store holds nothing of a topic.
pub(crate) fn wait_forgotten(cluster: &Cluster, client: &Client, id: &str) {
    wait::until("nothing of the topic in the metadata", || {
        let left = ["deleted-topics/", "assign/", "segments/", "partitions/"]
            .iter()
            .map(|prefix| keys_of(cluster, client, prefix, id).len());
        (left.sum::<usize>() == 0).then_some(())
    });
}

fn id_of(client: &Client, topic: &str) -> String {
    let described = topic::describe(client, topic);
    described["topic"]["topic_id"].as_str().expect("an id").to_owned()
}

fn metric(cluster: &Cluster, bookie: usize, name: &str) -> f64 {
    http::metric(&cluster.bookies[bookie].http, name).expect("a bookie's metrics")
}

/// A topic that fills several segments of every bookie's log.
fn fill(client: &Client, topic: &str, partitions: &str) {
    let small = ["--config", "segment.bytes=1048576"];
    let create = ["topic", "create", topic, "--partitions", partitions];
    client.run(&[&create[..], &small].concat()).ok();
    let load = ["perf", "produce", topic, "--records", "60000", "--size", "2000"];
    client.run(&load).ok();
}

#[test]
fn a_deleted_topic_gives_the_space_on_the_bookies_back() {
    let mut cluster = Cluster::start_with(3, 1, SOON, &[]);
    let client = cluster.client(0);
    fill(&client, "gone", "6");
    let flights = keep_records(&cluster);
    let id = id_of(&client, "gone");
    let segments =
        |cluster: &Cluster| [0, 1, 2].map(|b| metric(cluster, b, "geminga_bookie_segments"));
    let before = segments(&cluster);
    let ledgers = keys_of(&cluster, &client, "segments/", &id).len();
    assert!(ledgers > 60, "{ledgers} ledgers for 120 MB in ledgers of 1 MiB");

    client.run(&["topic", "delete", "gone"]).ok();
    wait_forgotten(&cluster, &client, &id);
    wait::until("fewer segments in every bookie's log", || {
        let now = segments(&cluster);
        now.iter().zip(&before).all(|(now, before)| now < before).then_some(())
    });
    let dropped = metric(&cluster, 0, "geminga_bookie_dropped_ledgers_total");
    assert!(dropped >= 60.0, "{dropped} ledgers were dropped");
    still_kept(&client, &flights);
    cluster.crash_everything();
    still_kept(&client, &flights);
}

#[test]
fn a_coordinator_that_is_killed_midway_leaves_nothing_behind() {
    let mut cluster = Cluster::start_with(3, 2, SOON, &[]);
    let client = cluster.client(0);
    fill(&client, "gone", "70");
    let flights = keep_records(&cluster);
    let id = id_of(&client, "gone");
    let coordinator = coordinator(&cluster);

    let client = cluster.client(1 - coordinator);
    client.run(&["topic", "delete", "gone"]).ok();
    cluster.brokers[coordinator].process.kill();
    wait_forgotten(&cluster, &client, &id);
    wait::until("all ledgers to be dropped", || {
        let dropped = metric(&cluster, 0, "geminga_bookie_dropped_ledgers_total");
        (dropped >= 70.0).then_some(())
    });
    still_kept(&client, &flights);
}

/// The index of the broker that is the coordinator.
fn coordinator(cluster: &Cluster) -> usize {
    let status = cluster.client(0).json(&["cluster", "status"]);
    let brokers = status["brokers"].as_array().expect("brokers");
    let elected = brokers.iter().find(|broker| broker["broker_id"] == status["coordinator_broker"]);
    let address = elected.map_or(&Value::Null, |broker| &broker["address"]);
    let found = cluster.brokers.iter().position(|broker| *address == broker.address.as_str());
    found.unwrap_or_else(|| panic!("no coordinator in {status}"))
}

#[test]
fn what_a_topic_left_is_removed_when_its_bookies_are_back() {
    let mut cluster = Cluster::start_with(3, 1, SOON, &[]);
    let client = cluster.client(0);
    topic::create(&client, "gone");
    client.run_with(&["produce", "gone"], b"one\ntwo\n").ok();
    let id = id_of(&client, "gone");
    // Its ledgers are open, and nobody can say where they end.
    cluster.bookies[0].process.kill();
    cluster.bookies[1].process.kill();
    cluster.brokers[0].process.kill();
    cluster.brokers[0].process.restart();
    cluster.brokers[0].wait_ready();
    client.run(&["topic", "delete", "gone"]).ok();
    assert_eq!(keys_of(&cluster, &client, "deleted-topics/", &id).len(), 1);
    for bookie in &mut cluster.bookies[..2] {
        bookie.process.restart();
    }
    cluster.wait_ready();
    wait_forgotten(&cluster, &client, &id);
}
