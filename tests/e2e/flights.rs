//! The real input without faults: every row arrives, byte for byte, once over the whole group, in order per key; a
//! second group, and a program in another language, see all of it again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use geminga_harness::flights::{Flights, ROWS, TAIL_NUMBERS};
use geminga_harness::{Client, Cluster, Finished, Running, binary};

use crate::topic;

/// Longer than the example needs for all rows on a busy machine.
const PATIENCE: Duration = Duration::from_mins(5);

#[test]
fn every_row_arrives_once_in_order() {
    let flights = Flights::load();
    let keys: std::collections::HashSet<_> = flights.rows().iter().map(|row| &row.key).collect();
    assert_eq!(keys.len(), TAIL_NUMBERS);
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");

    let (mut producer, report) = topic::produce(&client, "flights", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    let report = topic::read_report(&report);
    assert_eq!(report.len(), ROWS);

    for group in ["first", "second"] {
        let members = topic::read_all(topic::consume_group(&cluster, "flights", group, 3));
        for (member, records) in members.iter().enumerate() {
            assert!(!records.is_empty(), "member {member} of {group} was given nothing to read");
        }
        let log = topic::in_log_order(&members);
        flights.judge(&log).exactly_once();
        topic::check_report(&report, &log);
    }

    python_sees_the_same(&cluster, &flights);
}

/// The example in Python writes the same data to a topic of its own, and reads it, and reads ours.
fn python_sees_the_same(cluster: &Cluster, flights: &Flights) {
    let client = cluster.client(1);
    topic::create(&client, "python");
    let stubs = cluster.dir().join("stubs");
    std::fs::create_dir(&stubs).expect("a directory for the stubs");
    generate_stubs(&stubs);

    let data = binary::repository().join(".cache/flights.csv");
    example(&client, &stubs, &["python", "produce", data.to_str().expect("a plain path")]);
    let rows = ROWS.to_string();
    for topic in ["python", "flights"] {
        let text = example(&client, &stubs, &[topic, "consume", "snake", &rows]);
        let mut seen: Vec<&str> = text.lines().collect();
        seen.sort_unstable();
        let mut expected: Vec<&str> = flights.rows().iter().map(|row| row.value.as_str()).collect();
        expected.sort_unstable();
        assert!(
            seen == expected,
            "{topic}: python read {} rows, not those of the file",
            seen.len()
        );
    }
    // What Python wrote is ordered by key as well, for a reader that goes by partitions.
    let args = ["consume", "python", "--from-beginning", "--until-end", "--format", "json"];
    let records = geminga_harness::flights::Record::parse_all(&client.run(&args).ok());
    flights.judge(&topic::in_log_order(&[records])).exactly_once();
}

fn python() -> Command {
    let mut command = Command::new(binary::repository().join(".venv/bin/python"));
    command.current_dir(binary::repository());
    command
}

/// Runs it to its end.
fn run(command: Command, dir: &Path) -> Finished {
    Running::command(command, "python", dir).finish_within(PATIENCE)
}

fn generate_stubs(out: &Path) {
    let mut command = python();
    command.args(["-m", "grpc_tools.protoc", "-I", "proto"]);
    command.arg(format!("--python_out={}", out.display()));
    command.arg(format!("--grpc_python_out={}", out.display()));
    for file in ["stream", "topics", "groups", "cluster"] {
        command.arg(format!("proto/geminga/v1/{file}.proto"));
    }
    run(command, out).ok();
}

fn example(client: &Client, stubs: &Path, args: &[&str]) -> String {
    let mut command = python();
    command.env("PYTHONPATH", stubs).arg("client/examples/python/flights.py");
    command.arg(client.server()).args(args);
    String::from_utf8(run(command, stubs).ok()).expect("rows are text")
}
