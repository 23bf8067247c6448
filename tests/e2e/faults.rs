//! The real input with faults: half is fed, the acknowledged counter is waited for, something is killed, the rest is
//! fed. Each record is there once, where its acknowledgement says, in order: producers are idempotent.

use geminga_harness::flights::{Flights, ROWS};
use geminga_harness::{Cluster, wait};

use crate::topic;

/// Feeds half, waits until half of that is acknowledged while the rest is on its way, lets `fault` happen, feeds the
/// rest, and judges what was kept.
fn with_fault(fault: impl FnOnce(&mut Cluster)) -> (Cluster, Flights) {
    let flights = Flights::load();
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");
    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    let (first, rest) = flights.rows().split_at(ROWS / 2);
    producer.feed(&Flights::lines(first));
    topic::wait_acknowledged(&report, ROWS / 4);

    fault(&mut cluster);

    producer.feed(&Flights::lines(rest));
    producer.finish().ok();
    assert_eq!(topic::read_report(&report).len(), ROWS);
    topic::check_topic(&cluster, "flights", "after", &flights, &report);
    (cluster, flights)
}

#[test]
fn a_bookie_is_killed() {
    with_fault(|cluster| cluster.bookies[1].process.kill());
}

#[test]
fn the_broker_with_most_partitions_is_killed() {
    with_fault(|cluster| {
        let broker = topic::busiest_broker(cluster, &cluster.client(0), "flights");
        cluster.brokers[broker].crash_and_restart();
    });
}

#[test]
fn everything_is_killed_and_started_again() {
    with_fault(Cluster::crash_everything);
}

#[test]
fn with_a_bookie_gone_for_good_life_goes_on() {
    const ROLLS: usize = 20;
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    // Small segments, so that a moderate amount of data rolls often.
    let small = ["--config", "segment.bytes=1048576"];
    client.run(&[&["topic", "create", "rolls", "--partitions", "1"][..], &small].concat()).ok();
    cluster.bookies[2].process.kill();

    let (mut producer, report) = topic::produce(&client, "rolls", cluster.dir());
    let flights = Flights::load();
    let mut fed = 0;
    for (takeover, rows) in flights.rows().chunks(ROWS.div_ceil(4)).enumerate() {
        if takeover > 0 {
            let owner = topic::busiest_broker(&cluster, &cluster.client(0), "rolls");
            cluster.brokers[owner].crash_and_restart();
        }
        producer.feed(&Flights::lines(rows));
        fed += rows.len();
        // What the pipe and the producer still hold is acknowledged with the next part.
        topic::wait_acknowledged(&report, fed - rows.len() / 2);
    }
    producer.finish().ok();
    topic::check_topic(&cluster, "rolls", "after", &flights, &report);
    let segments = wait::until("the owner's view of its segments", || {
        let topic = topic::describe(&cluster.client(0), "rolls");
        topic["partitions"][0]["segments"].as_array().map(Vec::len)
    });
    assert!(segments > ROLLS, "{segments} segments are fewer than {ROLLS} rolls");

    let client = cluster.client(1);
    topic::create(&client, "new");
    let few = Flights::load().first(1000);
    let (mut producer, report) = topic::produce(&client, "new", cluster.dir());
    producer.feed(&Flights::lines(few.rows()));
    producer.finish().ok();
    topic::check_topic(&cluster, "new", "after", &few, &report);
}

#[test]
fn an_owner_killed_twice_before_its_first_record_does_no_harm() {
    let mut cluster = Cluster::start(3, 2);
    cluster.client(0).run(&["topic", "create", "early", "--partitions", "1"]).ok();
    for _ in 0..2 {
        // Reading opens the partition.
        let args = ["consume", "early", "--from-beginning", "--until-end"];
        assert_eq!(cluster.client(0).run(&args).ok(), b"");
        let owner = topic::busiest_broker(&cluster, &cluster.client(0), "early");
        cluster.brokers[owner].crash_and_restart();
    }
    let few = Flights::load().first(1000);
    let (mut producer, report) = topic::produce(&cluster.client(0), "early", cluster.dir());
    producer.feed(&Flights::lines(few.rows()));
    producer.finish().ok();
    topic::check_topic(&cluster, "early", "after", &few, &report);
}
