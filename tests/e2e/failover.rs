//! Clients whose broker is killed and does not come back: they go on with the other one, and what was produced is there once.

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, wait};

use crate::topic;

/// Rows that are fed before the kill.
const HALF: usize = 50_000;
/// Rows that are fed at a time while it happens: more than is acknowledged at once.
const BURST: usize = 2_500;

/// Commands against a broker, or against all.
fn given(cluster: &Cluster, both: bool) -> Client {
    let all: Vec<&str> = cluster.brokers.iter().map(|broker| &*broker.address).collect();
    Client::new(&if both { all.join(",") } else { all[0].to_owned() }, cluster.dir())
}

fn a_producer_goes_on(both: bool) {
    let flights = Flights::load().first(2 * HALF);
    let mut cluster = Cluster::start(3, 2);
    topic::create(&cluster.client(0), "flights");
    let client = given(&cluster, both);
    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    let (first, rest) = flights.rows().split_at(HALF);
    producer.feed(&Flights::lines(first));
    topic::wait_acknowledged(&report, HALF / 2);
    // The one that it was given, which owns half of the partitions as well.
    cluster.brokers[0].process.kill();
    producer.feed(&Flights::lines(rest));
    producer.finish().ok();

    topic::judge(&cluster.client(1), "flights", &flights, &report);
}

#[test]
fn a_producer_with_one_address_goes_on_when_its_broker_is_killed() {
    a_producer_goes_on(false);
}

#[test]
fn a_producer_with_two_addresses_goes_on_when_its_broker_is_killed() {
    a_producer_goes_on(true);
}

#[test]
fn members_of_a_group_go_on_when_their_broker_is_killed() {
    let flights = Flights::load().first(2 * HALF);
    let mut cluster = Cluster::start(3, 2);
    topic::create(&cluster.client(0), "flights");
    let (mut producer, report) = topic::produce(&cluster.client(1), "flights", cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..HALF]));
    // Both members know only the broker that dies, or both.
    let follow = ["consume", "flights", "--group", "g", "--from-beginning", "--format", "json"];
    let member = |both| given(&cluster, both).spawn(&follow);
    let mut members = [member(false), member(true)];
    for member in &mut members {
        wait::until("each member to read something", || {
            (!member.is_running() || !member.stdout().is_empty()).then_some(())
        });
    }
    // While records are on their way to it.
    let ((), fed) = topic::feed_while(&mut [&mut producer], &flights, HALF, BURST, || {
        topic::wait_acknowledged(&report, HALF + BURST);
        cluster.brokers[0].process.kill();
    });
    producer.feed(&Flights::lines(&flights.rows()[fed..]));
    producer.finish().ok();

    let survivor = cluster.client(1);
    wait::until("the group to have committed everything", || {
        let group = survivor.run(&["group", "describe", "g", "--output", "json"]);
        let group: serde_json::Value = serde_json::from_slice(&group.stdout).ok()?;
        let offsets = group["offsets"].as_array()?;
        let done = offsets.len() == usize::try_from(topic::PARTITIONS).ok()?
            && offsets.iter().all(|offset| offset["lag"] == 0);
        done.then_some(())
    });
    let read: Vec<Vec<Record>> = members
        .iter_mut()
        .map(|member| {
            assert!(member.is_running(), "a member gave up");
            member.kill();
            Record::parse_whole(&member.stdout())
        })
        .collect();
    let mut log = read.concat();
    log.sort_by_key(|record| (record.partition, record.offset));
    flights.judge(&log).at_least_once();
    // Members may read what they had not committed again; the log holds it once.
    topic::judge(&survivor, "flights", &flights, &report);
}
