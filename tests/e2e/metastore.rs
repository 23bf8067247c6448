//! A metadata store that is full or away: what needs it is refused and says why, records go on.

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, Etcd};
use serde_json::Value;

use crate::deletion::wait_forgotten;
use crate::topic::{self, keep_records, still_kept};

/// Writes lines to a topic and holds that a group reads them, and only them.
#[track_caller]
fn records_go_on(client: &Client, topic: &str, group: &str, lines: &str) {
    client.run_with(&["produce", topic], lines.as_bytes()).ok();
    let read = client.run(&["consume", topic, "--group", group, "--until-end"]).ok();
    let mut read: Vec<&str> = std::str::from_utf8(&read).expect("text").lines().collect();
    read.sort_unstable();
    assert_eq!(read, lines.lines().collect::<Vec<_>>());
}

/// Term and owner of each partition.
fn owners(client: &Client, topic: &str) -> Vec<(Value, Value)> {
    let topic = topic::describe(client, topic);
    let partitions = topic["partitions"].as_array().expect("partitions");
    partitions.iter().map(|p| (p["term"].clone(), p["owner_broker"].clone())).collect()
}

/// A topic that is open, with a group whose offsets are where its records end.
fn open_topic(client: &Client, topic: &str, group: &str) {
    topic::create(client, topic);
    // A record in each partition.
    let lines: String = (0..200).map(|n| format!("{n}|x\n")).collect();
    client.run_with(&["produce", topic, "--key-separator", "|"], lines.as_bytes()).ok();
    let args = ["consume", topic, "--group", group, "--from-beginning", "--until-end"];
    client.run(&args).ok();
}

#[test]
fn a_full_metastore_refuses_topics_and_takes_records() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=4000000"]);
    let cluster = Cluster::start_on(etcd, 3, 1);
    let flights = keep_records(&cluster);
    let client = cluster.client(0);
    open_topic(&client, "open", "g");
    cluster.etcd.fill();

    let create = ["topic", "create", "late", "--partitions", "1"];
    for _ in 0..2 {
        let refused = client.run(&create);
        assert_eq!(refused.code, Some(1), "{}", refused.stderr);
        refused.refused("METADATA_NO_SPACE");
    }
    client.run(&["topic", "delete", "open"]).refused("METADATA_NO_SPACE");
    records_go_on(&client, "open", "g", "full-1\nfull-2\n");
    still_kept(&client, &flights);

    cluster.etcd.make_space();
    client.run(&create).ok();
    client.run_with(&["produce", "late"], b"now\n").ok();
    assert_eq!(topic::values(&client, "late"), "now\n");
    client.run(&["topic", "delete", "open"]).ok();
    still_kept(&client, &flights);
}

#[test]
fn records_go_on_while_the_metastore_is_away() {
    let mut cluster = Cluster::start(3, 2);
    let flights = keep_records(&cluster);
    let client = cluster.client(0);
    open_topic(&client, "open", "g");
    let before = (owners(&client, "open"), owners(&client, "kept"));

    // Gone, and silent for longer than leases live: each request that needs it takes some seconds to give up.
    for silent in [false, true] {
        if silent {
            cluster.etcd.pause();
        } else {
            cluster.etcd.kill();
        }
        let name = |what: &str| format!("{what}-{silent}");
        for _ in 0..2 {
            let refused = client.run(&["topic", "create", &name("t"), "--partitions", "1"]);
            assert_eq!(refused.code, Some(4), "{}", refused.stderr);
            refused.refused("METADATA_UNAVAILABLE");
            let lines = format!("{0}\n{0}\n", name("away"));
            records_go_on(&client, "open", "g", &lines);
        }
        client.run(&["topic", "delete", "open"]).refused("METADATA_UNAVAILABLE");
        still_kept(&client, &flights);
        if silent {
            cluster.etcd.resume();
        } else {
            cluster.etcd.restart();
        }
        cluster.wait_ready();
        client.run(&["topic", "create", &name("after"), "--partitions", "1"]).ok();
        client.run_with(&["produce", &name("after")], b"x\n").ok();
        assert_eq!(topic::values(&client, &name("after")), "x\n");
    }
    // Nobody was taken for dead because nobody could be asked. What may move is one partition for each new topic, for
    // balance: it was made when not both brokers had registered again.
    let after = (owners(&client, "open"), owners(&client, "kept"));
    let moved =
        |before: &[_], after: &[_]| before.iter().zip(after).filter(|(b, a)| b != a).count();
    let moves = moved(&before.0, &after.0) + moved(&before.1, &after.1);
    assert!(moves <= 2, "{moves} partitions moved: {before:?} became {after:?}");
    still_kept(&client, &flights);
}

#[test]
fn a_topic_made_again_has_nothing_of_the_old_one() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    let few = Flights::load().first(1_000);
    let produce = |label: &str| {
        let (mut producer, report) = topic::produce(&client, "again", cluster.dir());
        producer.feed(&Flights::lines(few.rows()));
        producer.finish().ok();
        topic::check_topic(&cluster, "again", label, &few, &report);
    };
    topic::create(&client, "again");
    produce("g");
    let old = topic::describe(&client, "again")["topic"]["topic_id"].clone();

    client.run(&["topic", "delete", "again"]).ok();
    topic::create(&client, "again");
    assert_eq!(topic::values(&client, "again"), "");
    assert_eq!(topic::values(&cluster.client(1), "again"), "");
    // The same group: what it had committed was of the other topic.
    produce("g");

    wait_forgotten(&cluster, &client, old.as_str().expect("an id"));
    assert_eq!(topic::values(&client, "again").lines().count(), 1_000);
}
