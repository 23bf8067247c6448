//! Consumer groups when members and coordinators come and go.

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, Running, wait};
use kafka_wire::FindCoordinatorRequest;
use serde_json::Value;

use crate::topic::{self, PARTITIONS};
use crate::{kcat, moves};

/// Names of classic groups, of which one has the coordinator that a test looks for.
const NAMES: u32 = 64;

/// What a rebalance changes: the generation, and by member what it is assigned. `None` unless two members share all partitions evenly.
fn standing(group: &Value) -> Option<(i64, Vec<(String, Value)>)> {
    let members = group["members"].as_array()?;
    let share = usize::try_from(PARTITIONS / 2).ok()?;
    let assigned = |m: &Value| m["assigned"].as_array().map(Vec::len) == Some(share);
    if members.len() != 2 || !members.iter().all(assigned) {
        return None;
    }
    let of = |m: &Value| Some((m["member_id"].as_str()?.to_owned(), m["assigned"].clone()));
    let mut members = members.iter().map(of).collect::<Option<Vec<_>>>()?;
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some((group["generation"].as_i64()?, members))
}

/// What is told of a group, unless nobody coordinates it now.
fn described(client: &Client, group: &str) -> Option<Value> {
    serde_json::from_slice(&client.run(&["group", "describe", group, "--output", "json"]).stdout)
        .ok()
}

/// The name of a group that has no members yet and whose coordinator is the broker with this address for Kafka clients.
fn classic_group_at(cluster: &Cluster, kafka: &str) -> String {
    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = (0..NAMES).map(|n| format!("k{n}").as_str().into()).collect();
    wait::until("a group with that coordinator", || {
        let found = cluster.kafka(0).call(4, &request).coordinators;
        let here = found
            .iter()
            .find(|c| c.error_code == 0 && format!("{}:{}", c.host.as_str(), c.port) == kafka)?;
        Some(here.key.as_str().to_owned())
    })
}

/// A member that goes on, and how what it prints is read.
struct Member {
    running: Running,
    parse: fn(&[u8]) -> Vec<Record>,
}

impl Member {
    /// What it has read so far.
    #[track_caller]
    fn read(&mut self) -> Vec<Record> {
        assert!(self.running.is_running(), "a member gave up: {}", self.running.stderr());
        (self.parse)(&self.running.stdout())
    }
}

/// Waits until each of these members has read a record that `is_new`.
fn wait_read(members: &mut [Member], is_new: impl Fn(&Record) -> bool) {
    for member in members {
        wait::until("each member to read on", || member.read().iter().any(&is_new).then_some(()));
    }
}

#[test]
fn members_of_both_protocols_keep_what_they_have_when_their_coordinator_is_killed() {
    let flights = Flights::load().first(20_000);
    let mut cluster = Cluster::start(3, 2);
    let addresses: Vec<String> = cluster.brokers.iter().map(|b| b.address.clone()).collect();
    let client = Client::new(&addresses.join(","), cluster.dir());
    topic::create(&client, "flights");
    moves::wait_even(&client, u64::from(PARTITIONS));
    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    let (first, rest) = flights.rows().split_at(10_000);
    producer.feed(&Flights::lines(first));

    let follow = ["consume", "flights", "--group", "g", "--from-beginning", "--format", "json"];
    let stream = || Member { running: client.spawn(&follow), parse: Record::parse_whole };
    let mut members = vec![stream(), stream()];
    let coordinator = |group: &Value| {
        let address = group["coordinator_address"].as_str()?;
        addresses.iter().position(|broker| broker == address)
    };
    let victim = wait::until("a coordinator", || coordinator(&described(&client, "g")?));
    let kafka = cluster.brokers[victim].kafka.as_deref().expect("a broker serves Kafka clients");
    let classic = classic_group_at(&cluster, kafka);
    for _ in 0..2 {
        let running = kcat::member(&cluster, &classic, "flights");
        members.push(Member { running, parse: kcat::parse });
    }
    wait_read(&mut members, |_| true);
    let stands = |coordinated: usize| {
        ["g", &classic].map(|group| {
            wait::until("two members with half of the partitions each", || {
                let group = described(&client, group)?;
                standing(&group).filter(|_| coordinator(&group) == Some(coordinated))
            })
        })
    };
    let before = stands(victim);

    cluster.brokers[victim].process.kill();
    producer.feed(&Flights::lines(rest));
    producer.finish().ok();
    let row = |r: &Record| r.value.split(',').next().and_then(|n| n.parse::<usize>().ok());
    wait_read(&mut members, |record| row(record) >= Some(first.len()));
    let read: Vec<Vec<Vec<Record>>> = members
        .chunks_mut(2)
        .map(|group| {
            wait::until("a group to have read all", || {
                let read: Vec<_> = group.iter_mut().map(Member::read).collect();
                (read.iter().map(Vec::len).sum::<usize>() >= flights.rows().len()).then_some(read)
            })
        })
        .collect();
    assert_eq!(stands(1 - victim), before, "no rebalance");
    // Whose assignment stands reads nothing twice.
    for read in &read {
        flights.judge(&topic::in_log_order(read)).exactly_once();
    }
    topic::check_report(&topic::read_report(&report), &topic::in_log_order(&read[0]));
}

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
    read.push(Record::parse_whole(&died.stdout()));
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
