//! Uploaders that are killed with -9 behind each step of an upload (protocol 7.4), and between two parts of one, as processes: what was
//! written is read back byte for byte, and no object is left over.

use geminga_harness::flights::Flights;
use geminga_harness::{Bucket, Client, Cluster, http, wait};

use crate::tiering::{objects, tiers, unfinished};
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
/// Behind the first part of a larger object.
const PART_SENT: &str = "tier-3-part-sent";
/// Rows of each step's topic: one closed segment or two, and an open one.
const ROWS: usize = 25_000;
const SMALL: &str = "segment.bytes=1048576";
/// Rows of a segment of more than a part of 16 MiB, and of a part of the next.
const MANY_ROWS: usize = 240_000;
const LARGE: &str = "segment.bytes=20971520";

/// Where objects are.
enum Objects {
    Directory(tempfile::TempDir),
    Server { bucket: Bucket, _files: tempfile::TempDir },
}

impl Objects {
    fn directory() -> Self {
        Self::Directory(tempfile::tempdir().expect("a directory for objects"))
    }

    fn server() -> Self {
        let files = tempfile::tempdir().expect("a directory for the server");
        Self::Server { bucket: Bucket::start(files.path()), _files: files }
    }

    fn flags(&self) -> Vec<String> {
        match self {
            Self::Directory(dir) => vec![format!("--object-store=file://{}", dir.path().display())],
            Self::Server { bucket, .. } => bucket.flags().to_vec(),
        }
    }

    /// How many there are, with files of uploads that never ended where those are seen.
    fn count(&self) -> usize {
        match self {
            Self::Directory(dir) => objects(dir.path()) + unfinished(dir.path()),
            Self::Server { bucket, .. } => bucket.segments().0,
        }
    }

    fn start(&self) -> Cluster {
        let store = self.flags();
        let store: Vec<&str> = store.iter().map(String::as_str).collect();
        let soon = [
            "--tier-interval=200ms",
            "--tier-local-retention=100ms",
            "--tier-take-over=1s",
            "--tier-sweep-interval=1s",
            // What an uploader is about to name is not this old, and left over is what is.
            "--tier-sweep-age=1s",
        ];
        Cluster::start_with(3, 1, &[&store[..], &soon].concat(), &store)
    }
}

/// Writes a topic whose closed segments go to the object store, one uploader of which dies at this place.
fn upload_with_a_death(
    cluster: &mut Cluster,
    client: &Client,
    place: &str,
    segment: &str,
    flights: &Flights,
) {
    let created = ["topic", "create", place, "--partitions", "1"];
    let configs = ["--config", segment, "--config", "remote.storage.enable=true"];
    client.run(&[&created[..], &configs].concat()).ok();
    let armed = cluster.kill_at(place);
    let (mut producer, _) = topic::produce(client, place, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    wait::until(&format!("an uploader to come to {place}"), || (!armed.exists()).then_some(()));
    let died = wait::until("it to be dead", || {
        cluster.bookies.iter_mut().position(|bookie| !bookie.process.is_running())
    });
    cluster.bookies[died].crash_and_restart();
    wait::until(&format!("{place}: every closed segment to be in the object store only"), || {
        let tiers = tiers(cluster, client, place);
        (!tiers.is_empty() && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(())
    });
}

/// Waits until there is one object for each segment that is named, and no other, and reads all.
fn judge(cluster: &mut Cluster, objects: &Objects, places: &[&str], flights: &Flights) {
    let client = cluster.client(0);
    let named: usize = places.iter().map(|place| tiers(cluster, &client, place).len()).sum();
    wait::until("what dead uploaders left over to be removed", || {
        (objects.count() == named).then_some(())
    });
    // Nothing of it is in a broker's memory.
    cluster.brokers[0].crash_and_restart();
    let values: String = flights.rows().iter().map(|row| row.value.clone() + "\n").collect();
    for place in places {
        assert!(topic::values(&client, place) == values, "{place}: other bytes than were written");
    }
}

fn at_each_step(objects: &Objects) {
    let mut cluster = objects.start();
    let client = cluster.client(0);
    let flights = Flights::load().first(ROWS);
    for step in STEPS {
        upload_with_a_death(&mut cluster, &client, step, SMALL, &flights);
    }
    judge(&mut cluster, objects, &STEPS, &flights);
}

fn between_parts(objects: &Objects) -> Cluster {
    let mut cluster = objects.start();
    let client = cluster.client(0);
    let flights = Flights::load().first(MANY_ROWS);
    upload_with_a_death(&mut cluster, &client, PART_SENT, LARGE, &flights);
    judge(&mut cluster, objects, &[PART_SENT], &flights);
    cluster
}

#[test]
fn scenario_52_an_uploader_is_killed_behind_each_step() {
    at_each_step(&Objects::directory());
}

#[test]
fn scenario_52_an_uploader_to_an_s3_server_is_killed_behind_each_step() {
    at_each_step(&Objects::server());
}

/// What a listing does not show is found and removed all the same.
#[test]
fn scenario_52_an_uploader_is_killed_between_two_parts() {
    let cluster = between_parts(&Objects::directory());
    let removed = |bookie: &geminga_harness::Node| {
        http::metric(&bookie.http, "geminga_tier_unfinished_removed_total")
    };
    let removed: f64 = cluster.bookies.iter().filter_map(removed).sum();
    assert!(removed >= 1.0, "nothing was left over, or not removed");
}

#[test]
fn scenario_52_an_uploader_to_an_s3_server_is_killed_between_two_parts() {
    between_parts(&Objects::server());
}
