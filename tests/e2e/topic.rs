//! What tests ask about a topic, and what they do with it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, Finished, Running, wait};
use serde_json::Value;

/// Partitions of the topics of these tests.
pub(crate) const PARTITIONS: u32 = 12;

/// Rows that a steady load feeds at a time, and the pause behind them.
pub(crate) const ROWS: usize = 50;
const PACE: Duration = Duration::from_millis(50);

/// Feeds `flights` from a row on to all of these producers, `rows` every [`PACE`], while `act` does its part, or until there are no more.
/// What `act` says, and how many rows are fed by then, those before included.
pub(crate) fn feed_while<T>(
    producers: &mut [&mut Running],
    flights: &Flights,
    from: usize,
    rows: usize,
    act: impl FnOnce() -> T,
) -> (T, usize) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let mut fed = from;
            while !done.load(Ordering::Relaxed) && fed < flights.rows().len() {
                let end = (fed + rows).min(flights.rows().len());
                let lines = Flights::lines(&flights.rows()[fed..end]);
                producers.iter_mut().for_each(|producer| producer.feed(&lines));
                fed = end;
                std::thread::sleep(PACE);
            }
            fed
        });
        let ends = Ends(&done);
        let said = act();
        drop(ends);
        (said, feeder.join().expect("it feeds"))
    })
}

/// Says that a load is to end when it goes away, also by a panic: whoever waits for the thread that feeds would wait for ever.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Creates a topic of [`PARTITIONS`] partitions.
#[track_caller]
pub(crate) fn create(client: &Client, topic: &str) {
    client.run(&["topic", "create", topic, "--partitions", &PARTITIONS.to_string()]).ok();
}

/// A cluster with a topic whose records every test that uses this must find again with [`still_kept`].
pub(crate) fn cluster_with_records() -> (Cluster, Flights) {
    let cluster = Cluster::start(3, 1);
    let flights = keep_records(&cluster);
    (cluster, flights)
}

/// Makes the topic `kept` and writes its records.
#[track_caller]
pub(crate) fn keep_records(cluster: &Cluster) -> Flights {
    let client = cluster.client(0);
    create(&client, "kept");
    let flights = Flights::load().first(2_000);
    let (mut producer, _) = produce(&client, "kept", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    flights
}

/// Holds when each record of [`keep_records`] is there once, in order.
#[track_caller]
pub(crate) fn still_kept(client: &Client, flights: &Flights) {
    let args = ["consume", "kept", "--from-beginning", "--until-end", "--format", "json"];
    let records = Record::parse_all(&client.run(&args).ok());
    flights.judge(&in_log_order(&[records])).exactly_once();
}

/// All values of a topic, as a consumer prints them.
#[track_caller]
pub(crate) fn values(client: &Client, topic: &str) -> String {
    let read = client.run(&["consume", topic, "--from-beginning", "--until-end"]).ok();
    String::from_utf8(read).expect("these tests write text")
}

/// Starts producing rows that are fed later; the report goes to the returned file.
pub(crate) fn produce(client: &Client, topic: &str, dir: &Path) -> (Running, PathBuf) {
    let report = dir.join(format!("{topic}.report"));
    let path = report.to_str().expect("a plain path");
    let running = client.spawn(&["produce", topic, "--key-separator", "|", "--report", path]);
    (running, report)
}

/// Where each record of the input went, in the order of input.
pub(crate) fn read_report(report: &Path) -> Vec<(u32, i64)> {
    let text = std::fs::read_to_string(report).expect("a report");
    text.lines()
        .map(|line| {
            let json: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            let partition = json["partition"].as_u64().unwrap_or_else(|| panic!("{line}"));
            let offset = json["offset"].as_i64().unwrap_or_else(|| panic!("{line}"));
            (u32::try_from(partition).expect("a partition"), offset)
        })
        .collect()
}

/// Waits until the report says that so many records are acknowledged.
pub(crate) fn wait_acknowledged(report: &Path, count: usize) {
    wait::until(&format!("{count} acknowledged records"), || {
        let text = std::fs::read(report).unwrap_or_default();
        (text.iter().filter(|byte| **byte == b'\n').count() >= count).then_some(())
    });
}

/// Starts `members` consumers of one group, each until the end of what is there.
pub(crate) fn consume_group(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    members: usize,
) -> Vec<Running> {
    (0..members)
        .map(|member| {
            let client = cluster.client(member % cluster.brokers.len());
            client.spawn(&[
                "consume",
                topic,
                "--group",
                group,
                "--from-beginning",
                "--until-end",
                "--format",
                "json",
            ])
        })
        .collect()
}

/// Waits for consumers to end well and returns what each read.
pub(crate) fn read_all(consumers: Vec<Running>) -> Vec<Vec<Record>> {
    consumers.into_iter().map(|c| Record::parse_all(&Finished::ok(c.finish()))).collect()
}

/// What all members read, in the order of the log; within each member offsets of a partition must rise.
#[track_caller]
pub(crate) fn in_log_order(members: &[Vec<Record>]) -> Vec<Record> {
    for records in members {
        let mut last: HashMap<u32, i64> = HashMap::new();
        for record in records {
            let before = last.insert(record.partition, record.offset);
            assert!(before < Some(record.offset), "offsets fell within one member: {record:?}");
        }
    }
    let mut all = members.concat();
    all.sort_by_key(|record| (record.partition, record.offset));
    all
}

/// Holds when every row is at the place that its acknowledgement named, and nowhere else.
#[track_caller]
pub(crate) fn check_report(report: &[(u32, i64)], log: &[Record]) {
    let mut places: BTreeMap<usize, Vec<(u32, i64)>> = BTreeMap::new();
    for record in log {
        let row =
            record.value.split(',').next().and_then(|n| n.parse().ok()).expect("a row number");
        let place = (record.partition, record.offset);
        let row_places = places.entry(row).or_default();
        if !row_places.contains(&place) {
            row_places.push(place);
        }
    }
    for (row, place) in report.iter().enumerate() {
        let found = places.get(&row).map_or(&[][..], Vec::as_slice);
        assert_eq!(found, [*place], "row {row}");
    }
}

/// The whole journey of the data set: produce all, read all with one group, judge.
#[track_caller]
pub(crate) fn check_topic(
    cluster: &Cluster,
    topic: &str,
    group: &str,
    flights: &Flights,
    report: &Path,
) {
    let members = read_all(consume_group(cluster, topic, group, 3));
    let log = in_log_order(&members);
    check_report(&read_report(report), &log);
    flights.judge(&log).exactly_once();
}

/// Holds when a reader without a group finds every row once, in order, where its acknowledgement says.
#[track_caller]
pub(crate) fn judge(client: &Client, topic: &str, flights: &Flights, report: &Path) {
    let report = read_report(report);
    assert_eq!(report.len(), flights.rows().len());
    let args = ["consume", topic, "--from-beginning", "--until-end", "--format", "json"];
    let log = in_log_order(&[Record::parse_all(&client.run(&args).ok())]);
    flights.judge(&log).exactly_once();
    check_report(&report, &log);
}

/// A group of one that reads a topic from its beginning, and what comes, and may notice nothing.
pub(crate) struct Follower(Running);

impl Follower {
    pub(crate) fn start(client: &Client, topic: &str) -> Self {
        let args = ["consume", topic, "--group", "follows", "--from-beginning", "--format", "json"];
        Self(client.spawn(&args))
    }

    /// Waits until it has read so many records; it was told of nothing.
    #[track_caller]
    pub(crate) fn wait_read(&mut self, count: usize) {
        wait::until(&format!("a consumer to have read {count} records"), || {
            let said = self.0.stderr();
            assert!(self.0.is_running() && said.is_empty(), "the consumer was told: {said}");
            let read = self.0.stdout().iter().filter(|byte| **byte == b'\n').count();
            (read >= count).then_some(())
        });
    }

    /// Ends it when it has read all of these rows: each once, in order.
    #[track_caller]
    pub(crate) fn finish(mut self, flights: &Flights) {
        self.wait_read(flights.rows().len());
        self.0.kill();
        let records = Record::parse_all(&self.0.stdout());
        flights.judge(&in_log_order(&[records])).exactly_once();
    }
}

/// `geminga topic describe` as JSON.
#[track_caller]
pub(crate) fn describe(client: &Client, topic: &str) -> Value {
    client.json(&["topic", "describe", topic])
}

/// The index of the broker that owns most partitions of a topic.
pub(crate) fn busiest_broker(cluster: &Cluster, client: &Client, topic: &str) -> usize {
    wait::until("an owner of every partition", || {
        let topic = describe(client, topic);
        let partitions = topic["partitions"].as_array()?;
        let mut owned = vec![0_usize; cluster.brokers.len()];
        for partition in partitions {
            let address = partition["owner_address"].as_str()?;
            let owner = cluster.brokers.iter().position(|broker| broker.address == address)?;
            owned[owner] += 1;
        }
        (0..owned.len()).max_by_key(|broker| owned[*broker])
    })
}
