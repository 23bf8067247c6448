//! Old records go as topics say, and on command; what is left is read as before.

use geminga_harness::{Client, Cluster, http, wait};

use crate::topic;

/// Lines `from..to`, each long enough that a thousand fill a segment of the smallest size.
fn lines(from: u32, to: u32) -> String {
    (from..to).map(|n| format!("{n:05} {:100}\n", "")).collect()
}

fn offset(client: &Client, topic: &str, at: &str) -> Option<i64> {
    client.json(&["topic", "offsets", topic, "--at", at])[0]["offset"].as_i64()
}

fn first_lines(client: &Client, topic: &str, count: usize) -> Vec<String> {
    let values = topic::values(client, topic);
    values.lines().take(count).map(|line| line[..5].to_owned()).collect()
}

#[test]
fn a_topic_that_is_altered_gives_up_what_is_old() {
    let every = ["--retention-interval=200ms"];
    let mut cluster = Cluster::start_with(3, 2, &["--gc-interval=300ms"], &every);
    let client = cluster.client(0);
    let small = ["--partitions", "1", "--config", "segment.bytes=65536"];
    client.run(&[&["topic", "create", "t"][..], &small].concat()).ok();
    for part in 0..10 {
        client.run_with(&["produce", "t"], lines(part * 1_000, (part + 1) * 1_000).as_bytes()).ok();
    }
    assert_eq!(offset(&client, "t", "earliest"), Some(0));
    assert_eq!(topic::values(&client, "t").lines().count(), 10_000);

    client.run(&["topic", "alter", "t", "--config", "retention.bytes=300000"]).ok();
    let start = wait::until("a later start", || {
        offset(&client, "t", "earliest").filter(|start| *start >= 5_000)
    });
    assert!(start < 9_000, "{start}: the newest 300 kB stay");
    assert_eq!(first_lines(&client, "t", 1), [format!("{start:05}")]);
    wait::until("ledgers to be dropped by the bookies", || {
        let name = "geminga_bookie_dropped_ledgers_total";
        http::metric(&cluster.bookies[0].http, name).filter(|dropped| *dropped >= 4.0)
    });

    // Everything is older than nothing. The last records go with their ledger, which could take more, and the log goes on
    // behind them.
    client.run_with(&["produce", "t"], lines(10_000, 10_001).as_bytes()).ok();
    client
        .run(&["topic", "alter", "t", "--config", "retention.ms=0", "--unset", "retention.bytes"])
        .ok();
    wait::until("an empty topic", || {
        (offset(&client, "t", "earliest") == Some(10_001)).then_some(())
    });
    client.run(&["topic", "alter", "t", "--unset", "retention.ms"]).ok();
    client.run_with(&["produce", "t"], lines(10_001, 10_011).as_bytes()).ok();
    assert_eq!(first_lines(&client, "t", 1), ["10001"]);
    cluster.crash_everything();
    assert_eq!(topic::values(&client, "t").lines().count(), 10);
    assert_eq!(offset(&client, "t", "earliest"), Some(10_001));
}

#[test]
fn records_are_deleted_on_command_and_consumers_go_on_behind_them() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], lines(0, 100).as_bytes()).ok();
    let read = ["consume", "t", "--group", "g", "--from-beginning", "--until-end"];
    assert_eq!(client.run(&read).ok().iter().filter(|byte| **byte == b'\n').count(), 100);
    client.run_with(&["produce", "t"], lines(100, 200).as_bytes()).ok();

    let delete = |broker: usize, before: &str| {
        let args = ["topic", "delete-records", "t", "--partition", "0", "--before", before];
        cluster.client(broker).run(&args)
    };
    delete(0, "201").refused("OFFSET_OUT_OF_RANGE");
    delete(0, "150").ok();
    delete(1, "30").ok();
    assert_eq!(offset(&client, "t", "earliest"), Some(150));
    assert_eq!(first_lines(&cluster.client(1), "t", 1), ["00150"]);
    // What the group had committed is gone: it goes on by its policy.
    let rest = client.run(&read).ok();
    assert_eq!(rest.iter().filter(|byte| **byte == b'\n').count(), 50);
    delete(1, "latest").ok();
    assert_eq!(offset(&client, "t", "earliest"), Some(200));
    assert_eq!(offset(&client, "t", "max-timestamp"), None);
    assert_eq!(topic::values(&client, "t"), "");
    client.run_with(&["produce", "t"], b"00200 goes on\n").ok();
    assert_eq!(first_lines(&client, "t", 2), ["00200"]);
    assert_eq!(offset(&client, "t", "max-timestamp"), Some(200));
    assert_eq!(offset(&client, "t", "1970-01-02T00:00:00Z"), Some(200));
    assert_eq!(offset(&client, "t", "latest"), Some(201));
}

#[test]
fn a_topic_gets_more_partitions_and_never_fewer() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    client.run_with(&["produce", "t"], lines(0, 100).as_bytes()).ok();
    client.run(&["topic", "alter", "t", "--partitions", "1"]).refused("INVALID_PARTITIONS");
    client.run(&["topic", "alter", "t", "--config", "no.such=1"]).refused("INVALID_CONFIG");
    assert_eq!(client.run(&["topic", "alter", "t"]).code, Some(2));
    let altered = client.json(&["topic", "alter", "t", "--partitions", "70"]);
    assert_eq!(altered["partitions"], 70);
    let lines: String = (0..2_000).map(|n| format!("{n}|x\n")).collect();
    client.run_with(&["produce", "t", "--key-separator", "|"], lines.as_bytes()).ok();
    assert_eq!(topic::values(&cluster.client(1), "t").lines().count(), 2_100);
    let ends = client.json(&["topic", "offsets", "t"]);
    let used = ends.as_array().expect("a list").iter().filter(|end| end["offset"] != 0).count();
    assert!(used > 60, "{used} partitions are used");
}
