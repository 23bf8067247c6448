//! What a topic says of when its closed segments are uploaded, and how long bookies keep theirs: by age, and by bytes.

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, wait};
use serde_json::Value;

use crate::tiering::start;
use crate::topic;

const SEGMENT: &str = "segment.bytes=262144";
/// Rows of some ten segments.
const ROWS: usize = 25_000;
/// Longer than an upload takes that nothing holds up.
const LAG_MS: i64 = 15_000;
/// What bookies keep: some of the segments.
const KEEP: u64 = 1_000_000;

/// The closed ledgers of a topic that hold something, the oldest first.
fn closed(cluster: &Cluster, client: &Client, topic: &str) -> Vec<Value> {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"]);
    let keys = dump["keys"].as_array().expect("keys").iter().map(|key| key["value"].clone());
    let mut closed: Vec<Value> = keys
        .filter(|m| m["name"] == topic && m["state"] == "Closed" && m["last_entry"] != -1)
        .collect();
    closed.sort_by_key(|meta| meta["first_offset"].as_i64().expect("an offset"));
    closed
}

/// A topic of one partition with these settings, and its records.
fn write(cluster: &Cluster, client: &Client, topic: &str, configs: &[&str], rows: &[u8]) {
    let configs = configs.iter().chain(&[SEGMENT, "remote.storage.enable=true"]);
    let configs: Vec<&str> = configs.flat_map(|config| ["--config", *config]).collect();
    client.run(&[&["topic", "create", topic, "--partitions", "1"][..], &configs].concat()).ok();
    more(cluster, client, topic, rows);
}

fn more(cluster: &Cluster, client: &Client, topic: &str, rows: &[u8]) {
    let (mut producer, _) = topic::produce(client, topic, cluster.dir());
    producer.feed(rows);
    producer.finish().ok();
}

/// How long after its beginning each closed segment was uploaded, once all were, milliseconds.
fn ages(cluster: &Cluster, client: &Client, topic: &str) -> Vec<i64> {
    wait::until(&format!("all closed segments of {topic} to be uploaded"), || {
        let closed = closed(cluster, client, topic);
        let age = |meta: &Value| {
            Some(meta["tier"]["at_ms"].as_i64()? - meta["created_ms"].as_i64().expect("a date"))
        };
        let ages: Option<Vec<i64>> = closed.iter().map(age).collect();
        ages.filter(|ages| ages.len() > 3)
    })
}

/// Begun at the same time, one topic waits for its segments to be old enough, and the other does not.
#[test]
fn segments_are_uploaded_once_they_are_old_enough() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let cluster = start(&format!("file://{}", dir.path().display()), &[]);
    let client = cluster.client(0);
    let rows = Flights::lines(Flights::load().first(ROWS).rows());
    let lag = format!("remote.copy.lag.ms={LAG_MS}");
    write(&cluster, &client, "old", &[&lag], &rows);
    write(&cluster, &client, "soon", &[], &rows);
    let (soon, old) = (ages(&cluster, &client, "soon"), ages(&cluster, &client, "old"));
    println!("uploaded after {soon:?} ms, and with the lag after {old:?} ms");
    assert!(old.iter().all(|age| *age >= LAG_MS), "{old:?}");
    assert!(soon.iter().any(|age| *age < LAG_MS), "nothing shows that the lag was waited for");
}

/// The state of each closed segment, and whether those behind it hold so many bytes that bookies are to drop it.
fn kept(cluster: &Cluster, client: &Client, topic: &str) -> Vec<(String, bool)> {
    let closed = closed(cluster, client, topic);
    let mut newer = 0;
    let state = |meta: &Value| {
        let goes = newer >= KEEP;
        newer += meta["length"].as_u64().expect("bytes");
        (meta["tier"]["state"].as_str().unwrap_or("LOCAL").to_owned(), goes)
    };
    let mut states: Vec<_> = closed.iter().rev().map(state).collect();
    states.reverse();
    states
}

/// Uploaded segments stay at bookies for ever, but for those that so many newer bytes are behind. What comes later pushes others out.
#[test]
fn bookies_keep_the_newest_bytes_of_a_topic() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let cluster = start(&format!("file://{}", dir.path().display()), &[]);
    let client = cluster.client(0);
    let flights = Flights::load().first(2 * ROWS);
    let half = |n: usize| Flights::lines(&flights.rows()[n * ROWS..(n + 1) * ROWS]);
    let keep = format!("local.retention.bytes={KEEP}");
    write(&cluster, &client, "newest", &[&keep, "local.retention.ms=-1"], &half(0));
    let mut before = 0;
    for round in 0..2 {
        if round > 0 {
            more(&cluster, &client, "newest", &half(1));
        }
        let gone =
            wait::until("what is old to be in the object store only, and the rest not", || {
                let states = kept(&cluster, &client, "newest");
                let due = |(state, goes): &(String, bool)| {
                    state == if *goes { "TRIMMED" } else { "OFFLOADED" }
                };
                let gone = states.iter().filter(|(_, goes)| *goes).count();
                let stays = states.len() - gone;
                (gone > before && stays > 0 && states.iter().all(due)).then_some(gone)
            });
        before = gone;
    }
    println!("{before} segments are in the object store only");
}
