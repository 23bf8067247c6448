//! Storage that grows while it is used: a bookie that is added takes part in what is written next, and nothing that is stored moves
//! to it.

use std::collections::BTreeMap;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster};
use serde_json::Value;

use crate::topic;

const TOPIC: &str = "growing";
/// Its segments are of the smallest size, so that every partition rolls with this many rows.
const ROWS: usize = 30_000;

/// The bookies of each segment, by partition and base offset.
fn segments(client: &Client) -> BTreeMap<(u64, i64), Vec<String>> {
    let described = topic::describe(client, TOPIC);
    let partitions = described["partitions"].as_array().expect("partitions").iter();
    let of = |partition: &Value| {
        let number = partition["partition"].as_u64().expect("a number");
        let segments = partition["segments"].as_array().expect("segments").clone();
        segments.into_iter().map(move |segment| {
            let base = segment["base_offset"].as_i64().expect("an offset");
            let bookies = segment["bookies"].as_array().expect("bookies").iter();
            let bookies = bookies.map(|name| name.as_str().expect("a name").to_owned());
            ((number, base), bookies.collect())
        })
    };
    partitions.flat_map(of).collect()
}

#[test]
fn a_bookie_that_is_added_takes_new_segments_within_one_roll() {
    let mut cluster = Cluster::start(3, 1);
    let client = cluster.client(0);
    let config = ["--config", "segment.bytes=65536"];
    client.run(&[&["topic", "create", TOPIC, "--partitions", "12"][..], &config].concat()).ok();
    let flights = Flights::load().first(2 * ROWS);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    topic::wait_acknowledged(&report, ROWS / 2);
    cluster.add_bookie().wait_ready();
    let before = segments(&client);
    assert!(before.values().flatten().all(|bookie| bookie != "bookie-4"));
    producer.feed(&Flights::lines(&flights.rows()[ROWS..]));
    producer.finish().ok();

    let after = segments(&client);
    for (segment, bookies) in &before {
        assert_eq!(after.get(segment), Some(bookies), "{segment:?} has moved");
    }
    // Those that each partition made after the bookie had come.
    let last = |partition| before.keys().rfind(|(p, _)| *p == partition).map(|(_, base)| *base);
    let is_new = |(partition, base): &(u64, i64)| Some(*base) > last(*partition);
    let new: Vec<_> = after.iter().filter(|(segment, _)| is_new(segment)).collect();
    let first = (0..12).filter_map(|partition| new.iter().find(|((p, _), _)| *p == partition));
    let first: Vec<_> = first.copied().collect();
    assert_eq!(first.len(), 12, "every partition has rolled");
    let on_it = |segments: &[(&(u64, i64), &Vec<String>)]| {
        segments.iter().filter(|(_, bookies)| bookies.iter().any(|b| b == "bookie-4")).count()
    };
    println!(
        "of {} segments {} are on it, of the first of each partition {}",
        new.len(),
        on_it(&new),
        on_it(&first)
    );
    // Each is on three of four bookies, by chance: of the first ones nine are to be expected, and less than three in one of 30,000 runs.
    assert!(on_it(&first) >= 3, "{first:?}");
    // How many there are depends on how much was written when the bookie came.
    assert!(3 * on_it(&new) >= new.len(), "it takes less than its share: {new:?}");
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
}
