//! Servers that are stopped in good order: nobody notices but by a moment's wait.

use geminga_harness::Cluster;
use geminga_harness::flights::{Flights, Record};

use crate::topic::{self, cluster_with_records, still_kept};

#[test]
fn an_owner_that_is_stopped_under_load_costs_no_record() {
    const STOPS: usize = 3;
    let flights = Flights::load().first(120_000);
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");
    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    let mut fed = 0;
    for (stop, rows) in flights.rows().chunks(flights.rows().len().div_ceil(STOPS)).enumerate() {
        let lines = Flights::lines(rows);
        std::thread::scope(|scope| {
            // It blocks when the producer's buffer is full, so most of it is on its way during the stop.
            scope.spawn(|| producer.feed(&lines));
            topic::wait_acknowledged(&report, fed + rows.len() / 20);
            // An owner elsewhere first, then the one that the producer is connected to.
            let broker = &mut cluster.brokers[(stop + 1) % 2];
            let status = broker.process.terminate();
            assert_eq!(status.code(), Some(0), "{}", broker.process.log());
            broker.process.restart();
            broker.wait_ready();
        });
        fed += rows.len();
    }
    producer.finish().ok();
    let report = topic::read_report(&report);
    assert_eq!(report.len(), flights.rows().len());
    let args = ["consume", "flights", "--from-beginning", "--until-end", "--format", "json"];
    let log = topic::in_log_order(&[Record::parse_all(&client.run(&args).ok())]);
    flights.judge(&log).exactly_once();
    topic::check_report(&report, &log);
}

#[test]
fn all_can_be_stopped_and_started_again() {
    let (mut cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    for round in ["first", "second"] {
        // In any order: first whom the others need least, then whom they need most.
        let (brokers, bookies) = (&mut cluster.brokers, &mut cluster.bookies);
        let mut nodes: Vec<_> = brokers.iter_mut().chain(bookies).collect();
        if round == "second" {
            nodes.reverse();
        }
        for node in nodes {
            let status = node.process.terminate();
            assert_eq!(status.code(), Some(0), "{round}: {}", node.process.log());
        }
        for node in cluster.bookies.iter_mut().chain(&mut cluster.brokers) {
            node.process.restart();
        }
        cluster.wait_ready();
        still_kept(&client, &flights);
        topic::create(&client, round);
        client.run_with(&["produce", round], b"x\n").ok();
        assert_eq!(topic::values(&client, round), "x\n");
    }
}
