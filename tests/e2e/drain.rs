//! A bookie is taken out of a cluster whose old segments are in an object store: what it alone is named for holds nobody up, and what only
//! bookies have is copied first.

use std::time::Duration;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, wait};
use serde_json::Value;
use tokio::time::Instant;

use crate::tiering::tiers;
use crate::topic;

/// Small segments, so that there are many of them.
const SEGMENT: &str = "segment.bytes=1048576";
const ROWS: usize = 40_000;
/// Longer than copies take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Closed segments are trimmed at once, and delays of repairs are seconds.
fn start(objects: &str) -> Cluster {
    let bookies = [
        objects,
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1s",
        "--gc-interval=300ms",
        "--lost-bookie-delay=2s",
        "--repair-grace=1s",
        "--audit-interval=5s",
        "--repair-rate=0",
    ];
    Cluster::start_with(4, 1, &bookies, &[objects])
}

/// All ledgers of a topic, as the metadata has them.
fn ledgers(cluster: &Cluster, client: &Client, topic: &str) -> Vec<Value> {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"]);
    let keys = dump["keys"].as_array().expect("keys").iter().map(|key| key["value"].clone());
    keys.filter(|meta| meta["name"] == topic).collect()
}

/// How many of these name a bookie.
fn naming(ledgers: &[Value], bookie: &str) -> usize {
    ledgers.iter().filter(|meta| meta["fragments"].to_string().contains(bookie)).count()
}

fn bookie(cluster: &Cluster, client: &Client, id: &str) -> Option<Value> {
    let listed = client.json(&["bookie", "list", "--metastore", &cluster.metastore()]);
    listed.as_array().expect("a list").iter().find(|one| one["bookie_id"] == id).cloned()
}

#[test]
fn a_bookie_leaves_though_trimmed_segments_name_it() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let mut cluster = start(&format!("--object-store=file://{}", dir.path().display()));
    let client = cluster.client(0);
    let flights = Flights::load().first(3 * ROWS);
    let create = |name: &str, more: &[&str]| {
        let create = ["topic", "create", name, "--partitions", "3", "--config", SEGMENT];
        client.run(&[&create[..], more].concat()).ok();
        topic::produce(&client, name, cluster.dir())
    };
    let (mut cold, cold_report) = create("cold", &["--config", "remote.storage.enable=true"]);
    let (mut warm, warm_report) = create("warm", &[]);
    for producer in [&mut cold, &mut warm] {
        producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    }
    wait::until("closed segments of the tiered topic to be in the object store only", || {
        let tiers = tiers(&cluster, &client, "cold");
        (tiers.len() > 2 && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(())
    });
    let trimmed = naming(&ledgers(&cluster, &client, "cold"), "bookie-2");
    assert!(trimmed > 0, "no trimmed segment names it");

    let begun = Instant::now();
    let metastore = cluster.metastore();
    let args = ["bookie", "decommission", "bookie-2", "--wait", "--metastore", &metastore];
    let leaving = client.spawn(&args);
    let since = wait::until("the decommission to have begun", || {
        bookie(&cluster, &client, "bookie-2")?["draining_since_ms"].as_i64()
    });
    for rows in flights.rows()[ROWS..].chunks(ROWS / 4) {
        for producer in [&mut cold, &mut warm] {
            producer.feed(&Flights::lines(rows));
        }
    }
    let left = leaving.finish_within(PATIENCE);
    assert!(left.stderr.contains("bookie-2: has left"), "{}", left.stderr);
    left.ok();
    eprintln!("it left in {:.1} s", begun.elapsed().as_secs_f64());
    cold.finish().ok();
    warm.finish().ok();

    assert_eq!(bookie(&cluster, &client, "bookie-2"), None);
    wait::until("its process to stop", || (!cluster.bookies[1].process.is_running()).then_some(()));
    cluster.bookies[1].process.kill();
    // A broker that had not heard of it yet may have begun a segment there in the last moment, which is repaired then. What was there
    // before names it no more: else it would not have left.
    let still = || {
        let all = ["cold", "warm"].map(|name| ledgers(&cluster, &client, name)).concat();
        let kept = all.into_iter().filter(|meta| meta["tier"]["state"] != "TRIMMED");
        kept.filter(|meta| naming(std::slice::from_ref(meta), "bookie-2") > 0).collect::<Vec<_>>()
    };
    for meta in still() {
        assert!(meta["created_ms"].as_i64() >= Some(since), "from before {since}: {meta:#}");
    }
    wait::until("no segment that bookies keep to name it", || still().is_empty().then_some(()));
    wait::until("nothing to be short of a copy", || {
        let status = client.json(&["cluster", "status"]);
        (status["repair"]["ledgers"] == 0).then_some(())
    });

    // Nothing of it is in a broker's memory.
    cluster.brokers[0].crash_and_restart();
    topic::check_topic(&cluster, "cold", "after", &flights, &cold_report);
    topic::check_topic(&cluster, "warm", "after", &flights, &warm_report);
}

/// It cannot say that none of its copies was the last: the objects do, which the auditor asks for. Nothing is written meanwhile.
#[test]
fn a_bookie_whose_disks_are_lost_leaves_though_trimmed_segments_name_it() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let mut cluster = start(&format!("--object-store=file://{}", dir.path().display()));
    let client = cluster.client(0);
    let flights = Flights::load().first(ROWS);
    let create = ["topic", "create", "cold", "--partitions", "3", "--config", SEGMENT];
    client.run(&[&create[..], &["--config", "remote.storage.enable=true"]].concat()).ok();
    let (mut producer, report) = topic::produce(&client, "cold", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    wait::until("closed segments of the tiered topic to be in the object store only", || {
        let tiers = tiers(&cluster, &client, "cold");
        (tiers.len() > 2 && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(())
    });
    assert!(naming(&ledgers(&cluster, &client, "cold"), "bookie-2") > 0, "nothing names it");

    cluster.bookies[1].process.kill();
    let data = cluster.bookies[1].data_dir.clone().expect("a bookie has data");
    std::fs::remove_dir_all(data).expect("removed");
    let begun = Instant::now();
    let metastore = cluster.metastore();
    let args = ["bookie", "decommission", "bookie-2", "--wait", "--metastore", &metastore];
    let left = client.spawn(&args).finish_within(2 * PATIENCE);
    assert!(left.stderr.contains("bookie-2: has left"), "{}", left.stderr);
    left.ok();
    eprintln!("it was let go in {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!(bookie(&cluster, &client, "bookie-2"), None);
    let still = ledgers(&cluster, &client, "cold");
    assert!(
        naming(&still, "bookie-2") > 0,
        "trimmed segments name it for as long as they are there"
    );
    cluster.brokers[0].crash_and_restart();
    topic::check_topic(&cluster, "cold", "after", &flights, &report);
}
