//! Servers restarted one after the other under load, as an upgrade does it: no client of either protocol is told of an error, and no
//! record is lost or repeated. `tests/bench/run rolling` restarts all of a larger cluster, and says what it costs.

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Cluster, Node, wait};

use crate::kcat;
use crate::topic::{self, ROWS};

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// Stops a server in good order, starts it again and waits until the cluster is well, as the operations page asks for.
fn restart(node: &mut Node, is_well: impl Fn() -> bool) {
    let status = node.process.terminate();
    assert_eq!(status.code(), Some(0), "{}", node.process.log());
    node.process.restart();
    node.wait_ready();
    wait::until("all servers and copies", || is_well().then_some(()));
}

#[test]
fn clients_of_both_protocols_notice_no_restart_of_a_bookie_or_a_broker() {
    let flights = Flights::load();
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(1);
    topic::create(&client, "grpc");
    topic::create(&client, "kafka");
    // Each is connected to the broker that is restarted, or owns partitions with it.
    let (mut grpc, report) = topic::produce(&cluster.client(0), "grpc", cluster.dir());
    let idempotent = ["-X", "enable.idempotence=true", "-X", "linger.ms=5"];
    let mut kafka =
        kcat::start(&cluster, &[&["-P", "-t", "kafka", "-K", "|"], &idempotent[..]].concat());
    let follow = ["consume", "grpc", "--group", "g", "--from-beginning", "--format", "json"];
    let mut reads_grpc = cluster.client(0).spawn(&follow);
    let mut reads_kafka = kcat::member(&cluster, "k", "kafka");

    let mut producers = [&mut grpc, &mut kafka];
    let ((), fed) = topic::feed_while(&mut producers, &flights, 0, ROWS, || {
        topic::wait_acknowledged(&report, 10 * ROWS);
        wait::until("both groups to read", || {
            let both = [&reads_grpc, &reads_kafka].map(|reader| reader.stdout().is_empty());
            (both == [false; 2]).then_some(())
        });
        let is_well = || {
            let status = client.json(&["cluster", "status"]);
            let live = status["bookies"].as_array().expect("bookies").iter();
            let all = live.filter(|bookie| bookie["live"] == true).count() == 3
                && status["brokers"].as_array().map(Vec::len) == Some(2);
            all && status["repair"]["ledgers"] == 0
        };
        restart(&mut cluster.bookies[0], is_well);
        restart(&mut cluster.brokers[0], is_well);
    });

    // All that was fed is acknowledged, and no producer was told of an error.
    grpc.finish().ok();
    let ended = kafka.finish();
    assert!(ended.code == Some(0) && !ended.stderr.contains("failed"), "{}", ended.stderr);
    let flights = flights.first(fed);
    wait::until("both groups to have read all", || {
        (lines(&reads_grpc.stdout()) >= fed && lines(&reads_kafka.stdout()) >= fed).then_some(())
    });
    // A member that was told of an error has ended.
    assert!(reads_grpc.is_running(), "{}", reads_grpc.stderr());
    assert!(reads_kafka.is_running(), "{}", reads_kafka.stderr());
    reads_grpc.kill();
    reads_kafka.kill();
    let read = Record::parse_all(&reads_grpc.stdout());
    let log = topic::in_log_order(&[read]);
    flights.judge(&log).exactly_once();
    topic::check_report(&topic::read_report(&report), &log);
    let log = topic::in_log_order(&[kcat::parse(&reads_kafka.stdout())]);
    flights.judge(&log).exactly_once();
}
