//! Data that is lost: no copy of a closed segment is left anywhere. Whoever asks is told which ledger of which topic that is, as often as the
//! metadata store can bear, the rest goes on, and it ends when one disk that has it is brought back.

use std::path::PathBuf;
use std::time::Duration;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, Node, http, wait};
use serde_json::Value;

use crate::topic;

const TOPIC: &str = "doomed";
const ROWS: usize = 5_000;
/// How long attempts are counted, and how many of one bookie there may be at most: the pauses between them are twice as long each time.
const WATCHED: Duration = Duration::from_secs(10);
const ATTEMPTS: f64 = 3.0;

const BOOKIES: [&str; 5] = [
    "--auto-heal",
    "--lost-bookie-delay=2s",
    "--repair-grace=1s",
    "--audit-interval=5s",
    "--repair-rate=0",
];

fn list(cluster: &Cluster, what: &[&str]) -> Vec<Value> {
    let client = Client::new("127.0.0.1:1", cluster.dir());
    let listed = client.json(&[what, &["--metastore", &cluster.metastore()]].concat());
    listed.as_array().expect("a list").clone()
}

/// Writes rows to a topic whose only ledger with records is closed then: its id.
fn doomed(cluster: &Cluster, flights: &Flights) -> String {
    let client = cluster.client(0);
    client.run(&["topic", "create", TOPIC, "--partitions", "1"]).ok();
    let (mut producer, _) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    client.run(&["topic", "alter", TOPIC, "--config", "segment.ms=100"]).ok();
    let ledgers = ["ledger", "list", "--topic", TOPIC, "--state"];
    let closed = wait::until("its segment to be closed", || {
        let open = list(cluster, &[&ledgers[..], &["open"]].concat());
        let closed = list(cluster, &[&ledgers[..], &["closed"]].concat());
        let written = closed.into_iter().find(|ledger| ledger["payload_bytes"] != 0);
        written.filter(|_| open.is_empty())
    });
    assert_eq!(closed["fragments"].as_array().map(Vec::len), Some(1), "{closed}");
    closed["ledger_id"].as_str().expect("an id").to_owned()
}

/// Kills bookies and takes their data away, to where the answers say.
fn take_away(cluster: &mut Cluster, bookies: &[usize]) -> Vec<(PathBuf, PathBuf)> {
    for bookie in bookies {
        cluster.bookies[*bookie].process.kill();
    }
    let away = |bookie: &usize| {
        let data = cluster.bookies[*bookie].data_dir.clone().expect("a bookie has data");
        let away = data.with_extension("away");
        std::fs::rename(&data, &away).expect("taken away");
        (data, away)
    };
    bookies.iter().map(away).collect()
}

fn lost(client: &Client) -> Vec<Value> {
    let status = client.json(&["cluster", "status"]);
    status["repair"]["lost"].as_array().cloned().unwrap_or_default()
}

/// How many bookies' metric names this ledger and its topic as lost, and how often repairs of one bookie ended so at most.
fn alarms(cluster: &Cluster, ledger: &str) -> (usize, f64) {
    let name =
        format!("geminga_repair_lost_ledger{{ledger=\"{ledger}\",topic=\"default/{TOPIC}\"}}");
    let ended = "geminga_repair_ledgers_total{outcome=\"lost\"}";
    let metric = |name: &str| {
        let of = |bookie: &Node| http::metric(&bookie.http, name).unwrap_or(0.0);
        cluster.bookies.iter().map(of).collect::<Vec<_>>()
    };
    let named = metric(&name).into_iter().filter(|value| *value == 1.0).count();
    (named, metric(ended).into_iter().fold(0.0, f64::max))
}

#[test]
fn a_segment_without_a_copy_is_an_alarm_until_a_disk_with_it_is_back() {
    let mut cluster = Cluster::start_with(3, 1, &BOOKIES, &[]);
    let flights = Flights::load().first(ROWS);
    let ledger = doomed(&cluster, &flights);
    cluster.add_bookie().wait_ready();
    let away = take_away(&mut cluster, &[0, 1, 2]);
    // Two begin again with nothing; the third stays away.
    for bookie in &mut cluster.bookies[..2] {
        bookie.process.restart();
        bookie.wait_ready();
    }
    let client = cluster.client(0);
    let told = wait::until("the loss to be told", || {
        lost(&client).into_iter().find(|lost| lost["ledger_id"] == *ledger)
    });
    assert!(told["topic"].as_str().is_some_and(|topic| topic.ends_with(TOPIC)), "{told}");
    let text = String::from_utf8(client.run(&["cluster", "status"]).ok()).expect("text");
    let line = text.lines().find(|line| line.starts_with("LOST:") && line.contains(&ledger));
    assert!(line.is_some_and(|line| line.contains(TOPIC)), "{text}");
    wait::until("a metric to name it", || (alarms(&cluster, &ledger).0 > 0).then_some(()));
    let logged = cluster.bookies.iter().any(|bookie| {
        let log = bookie.process.log();
        let lines = log.lines().filter(|line| line.contains("no copy of an entry is known"));
        lines.into_iter().any(|line| line.contains(&ledger) && line.contains(TOPIC))
    });
    assert!(logged, "no log names it");

    // Others go on, and nobody tries again and again.
    let before = alarms(&cluster, &ledger).1;
    topic::create(&client, "well");
    let (mut producer, report) = topic::produce(&client, "well", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    topic::check_topic(&cluster, "well", "after", &flights, &report);
    std::thread::sleep(WATCHED);
    let after = alarms(&cluster, &ledger);
    assert!(after.0 > 0 && after.1 - before <= ATTEMPTS, "{before} attempts, then {}", after.1);

    // One disk is enough.
    let (data, kept) = &away[2];
    std::fs::rename(kept, data).expect("brought back");
    cluster.bookies[2].process.restart();
    cluster.bookies[2].wait_ready();
    wait::until("the alarm to be taken back", || {
        let under = client.json(&["cluster", "status"])["repair"]["ledgers"] == 0;
        (under && alarms(&cluster, &ledger).0 == 0).then_some(())
    });
    cluster.bookies[2].process.kill();
    cluster.brokers[0].crash_and_restart();
    let read = topic::values(&cluster.client(0), TOPIC);
    let written: String = flights.rows().iter().map(|row| row.value.clone() + "\n").collect();
    assert!(read == written, "other bytes than were written");
}
