//! Consumer groups when members and coordinators come and go.

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Cluster, wait};

use crate::topic;

#[test]
fn a_group_survives_a_member_and_its_brokers() {
    let flights = Flights::load().first(100_000);
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");
    let (mut producer, _) = topic::produce(&client, "flights", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();

    // One member reads a part and dies without leaving; then each broker dies in turn under the others.
    let mut members = topic::consume_group(&cluster, "flights", "g", 3);
    wait::until("the first member to read something", || {
        (!members[0].is_running() || !members[0].stdout().is_empty()).then_some(())
    });
    members[0].kill();
    let died = members.remove(0);
    for broker in 0..cluster.brokers.len() {
        cluster.brokers[broker].crash_and_restart();
    }
    let mut read = topic::read_all(members);
    // The dead member's last line may be cut off.
    let cut = died.stdout();
    let whole = cut.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    read.push(Record::parse_all(&cut[..whole]));
    let mut log = read.concat();
    log.sort_by_key(|record| (record.partition, record.offset));
    flights.judge(&log).at_least_once();

    let group = cluster.client(0).json(&["group", "describe", "g"]);
    for offset in group["offsets"].as_array().expect("offsets") {
        assert_eq!(offset["lag"], 0, "{offset}");
    }
    assert_eq!(group["members"].as_array().map(Vec::len), Some(0), "{group}");
}

#[test]
fn offsets_can_be_listed_reset_and_deleted() {
    let flights = Flights::load().first(5_000);
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");
    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();

    topic::check_topic(&cluster, "flights", "g", &flights, &report);
    // All is committed: nothing to read.
    let again = topic::read_all(topic::consume_group(&cluster, "flights", "g", 1));
    assert_eq!(again.concat(), []);
    client.run(&["group", "reset-offsets", "g", "--topic", "flights", "--to", "earliest"]).ok();
    topic::check_topic(&cluster, "flights", "g", &flights, &report);

    let names = |groups: serde_json::Value| -> Vec<String> {
        let groups = groups.as_array().expect("a list").clone();
        groups.iter().map(|g| g["group"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(client.json(&["group", "list"])), ["g"]);
    client.run(&["group", "delete", "g"]).ok();
    assert_eq!(names(client.json(&["group", "list"])), [""; 0]);
    client.run(&["group", "describe", "g"]).refused("UNKNOWN_GROUP");
}
