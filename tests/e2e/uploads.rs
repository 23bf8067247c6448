//! Uploaders that are killed with -9 behind each step of an upload (protocol 7.4), as processes: what was written is read back byte for
//! byte, and no object is left over.

use std::path::Path;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, wait};

use crate::tiering::{objects, tiers};
use crate::topic;

/// Places behind the steps, in their order.
const STEPS: [&str; 8] = [
    "tier-1-checked",
    "tier-2-claimed",
    "tier-3-streamed",
    "tier-4-completed",
    "tier-5-read-back",
    "tier-6-named",
    "tier-7-trimmed",
    "tier-8-dropped",
];
/// Rows of each step's topic: one closed segment or two, and an open one.
const ROWS: usize = 25_000;

fn start(objects: &Path) -> Cluster {
    let store = format!("--object-store=file://{}", objects.display());
    let bookies = [
        store.as_str(),
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1s",
        "--tier-sweep-interval=1s",
        // What an uploader is about to name is not this old, and left over is what is.
        "--tier-sweep-age=1s",
    ];
    Cluster::start_with(3, 1, &bookies, &[&store])
}

/// Writes a topic whose closed segments go to the object store, one uploader of which dies behind this step.
fn upload_with_a_death(cluster: &mut Cluster, client: &Client, step: &str, flights: &Flights) {
    let created = ["topic", "create", step, "--partitions", "1"];
    let configs = ["--config", "segment.bytes=1048576", "--config", "remote.storage.enable=true"];
    client.run(&[&created[..], &configs].concat()).ok();
    let armed = cluster.kill_at(step);
    let (mut producer, _) = topic::produce(client, step, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    wait::until(&format!("an uploader to come to {step}"), || (!armed.exists()).then_some(()));
    let died = wait::until("it to be dead", || {
        cluster.bookies.iter_mut().position(|bookie| !bookie.process.is_running())
    });
    cluster.bookies[died].crash_and_restart();
    wait::until(&format!("{step}: every closed segment to be in the object store only"), || {
        let tiers = tiers(cluster, client, step);
        (!tiers.is_empty() && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(())
    });
}

#[test]
fn scenario_52_an_uploader_is_killed_behind_each_step() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let mut cluster = start(dir.path());
    let client = cluster.client(0);
    let flights = Flights::load().first(ROWS);
    for step in STEPS {
        upload_with_a_death(&mut cluster, &client, step, &flights);
    }
    let named: usize = STEPS.iter().map(|step| tiers(&cluster, &client, step).len()).sum();
    wait::until("what dead uploaders left over to be removed", || {
        (objects(dir.path()) == named).then_some(())
    });
    // Nothing of it is in a broker's memory.
    cluster.brokers[0].crash_and_restart();
    for step in STEPS {
        let values: String = flights.rows().iter().map(|row| row.value.clone() + "\n").collect();
        assert!(topic::values(&client, step) == values, "{step}: other bytes than were written");
    }
}
