//! Metadata that went back to a backup, and clusters of which only the object store is left.

use std::collections::BTreeSet;
use std::path::Path;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, http, wait};
use serde_json::Value;

use crate::topic;

/// Small segments, so that there are many of them.
const SEGMENT: &str = "segment.bytes=1048576";
/// Rows that are acknowledged before the backup, and after it.
const BEFORE: usize = 20_000;
const AFTER: usize = 40_000;

/// Rows that go to an object store.
const TIERED: usize = 40_000;

/// Writes rows with their keys and waits until all are acknowledged.
#[track_caller]
fn write(client: &Client, topic: &str, flights: &Flights, rows: std::ops::Range<usize>) {
    let lines = Flights::lines(&flights.rows()[rows]);
    client.run_with(&["produce", topic, "--key-separator", "|"], &lines).ok();
}

fn read(client: &Client, topic: &str) -> Vec<Record> {
    let args = ["consume", topic, "--from-beginning", "--until-end", "--format", "json"];
    topic::in_log_order(&[Record::parse_all(&client.run(&args).ok())])
}

/// Ids of all ledgers in the metadata.
fn ledgers(cluster: &Cluster, client: &Client) -> BTreeSet<String> {
    let metastore = cluster.metastore();
    let dump = client.json(&["meta", "dump", "--metastore", &metastore, "--prefix", "ledgers/"]);
    let keys = dump["keys"].as_array().expect("keys").iter();
    let id = |key: &Value| key["key"].as_str()?.strip_prefix("ledgers/").map(str::to_owned);
    keys.filter_map(id).collect()
}

fn ids(audit: &Value, what: &str) -> BTreeSet<String> {
    let found = audit[what].as_array().expect("a list").iter();
    found.map(|one| one["ledger_id"].as_str().expect("an id").to_owned()).collect()
}

fn audit(cluster: &Cluster, client: &Client, more: &[&str]) -> Value {
    let metastore = cluster.metastore();
    client.json(&[&["cluster", "audit", "--metastore", &metastore][..], more].concat())
}

/// What a broker says that is not let start.
#[track_caller]
fn broker_is_refused(cluster: &Cluster, client: &Client, reason: &str) {
    let metastore = format!("--metastore={}", cluster.metastore());
    let here = ["--grpc=127.0.0.1:0", "--http=127.0.0.1:0", "--kafka=127.0.0.1:0"];
    let ended = client.run(&[&["serving", &metastore][..], &here].concat());
    assert!(ended.code != Some(0) && ended.stderr.contains(reason), "{}", ended.stderr);
}

fn restart_bookies(cluster: &mut Cluster) {
    for bookie in &mut cluster.bookies {
        bookie.process.restart();
    }
    cluster.bookies.iter_mut().for_each(geminga_harness::Node::wait_ready);
}

fn restart_brokers(cluster: &mut Cluster) {
    for broker in &mut cluster.brokers {
        broker.process.restart();
    }
    cluster.wait_ready();
}

/// A cluster that has lived on after a backup: records, another topic, starts of bookies and brokers.
struct Lived {
    cluster: Cluster,
    client: Client,
    flights: Flights,
    /// Ledgers that the backup knows, and those that were there at the end.
    known: BTreeSet<String>,
    all: BTreeSet<String>,
}

fn lived(back_up: impl FnOnce(&Cluster, &Client)) -> Lived {
    let mut cluster = Cluster::start_with(3, 2, &["--gc-interval=300ms"], &[]);
    let flights = Flights::load().first(BEFORE + AFTER + 1_000);
    let client = cluster.client(0);
    let create = ["topic", "create", "kept", "--partitions", "3", "--config", SEGMENT];
    client.run(&create).ok();
    write(&client, "kept", &flights, 0..BEFORE);
    back_up(&cluster, &client);
    let known = ledgers(&cluster, &client);
    write(&client, "kept", &flights, BEFORE..BEFORE + AFTER);
    client.run(&["topic", "create", "late", "--partitions", "1"]).ok();
    write(&client, "late", &flights, 0..1_000);
    // Whoever counts starts has counted more of them than the backup knows.
    for _ in 0..2 {
        cluster.bookies[0].crash_and_restart();
        cluster.brokers[1].crash_and_restart();
    }
    let all = ledgers(&cluster, &client);
    assert!(all.difference(&known).count() > 3, "{all:?}, before: {known:?}");
    cluster.kill_servers();
    Lived { cluster, client, flights, known, all }
}

impl Lived {
    /// Bookies are compared with the restored metadata, and brokers serve what it knows.
    fn comes_back(&mut self) {
        let Self { cluster, client, flights, known, all } = self;
        restart_bookies(cluster);
        broker_is_refused(cluster, client, "NOT_AUDITED");
        let audit_of_all = audit(cluster, client, &[]);
        assert_eq!(audit_of_all["audited"], true, "{audit_of_all}");
        assert_eq!(audit_of_all["lost"], Value::Array(vec![]), "{audit_of_all}");
        assert!(!ids(&audit_of_all, "recovered").is_empty(), "{audit_of_all}");
        let quarantined = ids(&audit_of_all, "quarantined");
        let strangers: BTreeSet<_> = all.difference(known).cloned().collect();
        assert!(quarantined.is_superset(&strangers), "{quarantined:?}, expected {strangers:?}");
        assert_eq!(quarantined.intersection(known).count(), 0);

        restart_brokers(cluster);
        let topics = client.json(&["topic", "list"]).to_string();
        assert!(topics.contains("kept") && !topics.contains("late"), "{topics}");
        // All that was acknowledged before the backup, in order, and of what came later no row twice.
        let verdict = flights.judge(&read(client, "kept"));
        assert_eq!((verdict.foreign, verdict.duplicates.len()), (0, 0));
        assert_eq!(verdict.out_of_order, []);
        assert!(verdict.seen[..BEFORE].iter().all(|count| *count == 1));

        write(client, "kept", flights, BEFORE + AFTER..BEFORE + AFTER + 1_000);
        let verdict = flights.judge(&read(client, "kept"));
        assert!(verdict.seen[BEFORE + AFTER..].iter().all(|count| *count == 1));
        assert!(verdict.seen[..BEFORE].iter().all(|count| *count == 1));
        // I16: nobody is given an id that a bookie knows.
        let now = ledgers(cluster, client);
        assert_eq!(now.intersection(&quarantined).count(), 0);
        assert!(now.iter().any(|ledger| ledger.starts_with("001")), "{now:?}");

        // Nothing of it goes, whoever starts anew and however often it is looked for what may go.
        cluster.bookies[1].crash_and_restart();
        let kept = wait::until("bookies to have looked for what may go", || {
            let metric = |bookie: &geminga_harness::Node| {
                http::metric(&bookie.http, "geminga_bookie_quarantined_ledgers")
            };
            let kept: Vec<f64> = cluster.bookies.iter().map(metric).collect::<Option<_>>()?;
            (kept.iter().sum::<f64>() >= quarantined.len() as f64).then_some(kept)
        });
        let again = audit(cluster, client, &["--dry-run"]);
        assert_eq!(ids(&again, "quarantined"), quarantined, "{kept:?}");
    }
}

/// Scenario 43 with our own backup: metadata of yesterday is put where there is none.
#[test]
fn scenario_43_a_backup_of_the_metadata_brings_the_cluster_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("metadata.backup");
    let path = file.to_str().expect("a plain path");
    let mut lived = lived(|cluster, client| {
        let metastore = cluster.metastore();
        client.run(&["meta", "backup", "--to", path, "--metastore", &metastore]).ok();
    });
    let metastore = lived.cluster.metastore();
    let restore = ["meta", "restore", "--from", path, "--metastore", &metastore];
    lived.client.run(&restore).refused("METADATA_NOT_EMPTY");
    lived.cluster.etcd.ctl(&["del", "--prefix", "/geminga/"]);
    lived.client.run(&restore).ok();
    lived.comes_back();

    // The same backup once more: a bookie that was started several times since was in its next epoch before, and says so.
    let bump = ["cluster", "epoch-bump", "--above", "1", "--metastore", &metastore];
    lived.client.run(&bump).refused("CLUSTER_IN_USE");
    lived.cluster.kill_servers();
    lived.cluster.etcd.ctl(&["del", "--prefix", "/geminga/"]);
    lived.client.run(&restore).ok();
    let bookie = &mut lived.cluster.bookies[0].process;
    bookie.restart();
    assert!(!bookie.wait().success());
    assert!(bookie.log().contains("geminga cluster epoch-bump"), "{}", bookie.log());
    broker_is_refused(&lived.cluster, &lived.client, "NOT_AUDITED");
    lived.client.run(&bump).ok();
    restart_bookies(&mut lived.cluster);
    audit(&lived.cluster, &lived.client, &[]);
    restart_brokers(&mut lived.cluster);
    let verdict = lived.flights.judge(&read(&lived.client, "kept"));
    assert!(verdict.seen[..BEFORE].iter().all(|count| *count == 1));
}

/// Scenario 43 with etcd's own snapshot.
#[test]
fn scenario_43_a_snapshot_of_etcd_brings_the_cluster_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("etcd.snapshot");
    let mut lived = lived(|cluster, _| cluster.etcd.snapshot(&file));
    lived.cluster.etcd.restore(&file);
    // Those who were registered when it was made are, until their leases end.
    let metastore = lived.cluster.metastore();
    let bump = ["cluster", "epoch-bump", "--metastore", &metastore];
    wait::until("registrations to end", || (lived.client.run(&bump).code == Some(0)).then_some(()));
    lived.comes_back();
}

/// What was open when a snapshot was made and is deleted by now is not waited for, and disks that know more than the snapshot go on with what
/// they hold, although they may begin anew after a loss.
#[test]
fn scenario_43_what_was_deleted_since_a_snapshot_is_given_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("etcd.snapshot");
    let mut cluster = Cluster::start_with(3, 2, &["--gc-interval=300ms", "--auto-heal"], &[]);
    let flights = Flights::load().first(AFTER + 1_000);
    let client = cluster.client(0);
    for topic in ["old", "kept"] {
        client.run(&["topic", "create", topic, "--partitions", "1", "--config", SEGMENT]).ok();
    }
    write(&client, "kept", &flights, 0..BEFORE);
    write(&client, "old", &flights, 0..BEFORE);
    cluster.etcd.snapshot(&file);
    let metastore = cluster.metastore();
    let in_state = |state: &str| -> BTreeSet<String> {
        let list = ["ledger", "list", "--topic", "old", "--state", state];
        let found = client.json(&[&list[..], &["--metastore", &metastore]].concat());
        let id = |ledger: &Value| ledger["ledger_id"].as_str().expect("an id").to_owned();
        found.as_array().expect("ledgers").iter().map(id).collect()
    };
    let open = in_state("open");
    assert!(!open.is_empty());
    write(&client, "old", &flights, BEFORE..AFTER);
    let give_up = ["topic", "delete-records", "old", "--partition", "0", "--before", "latest"];
    client.run(&give_up).ok();
    wait::until("every bookie to have dropped them", || {
        let deleting = in_state("deleting");
        let name = "geminga_bookie_dropped_ledgers_total";
        let mut bookies = cluster.bookies.iter();
        let dropped = bookies.all(|bookie| {
            http::metric(&bookie.http, name).is_some_and(|count| count >= deleting.len() as f64)
        });
        (dropped && deleting.is_superset(&open)).then_some(())
    });
    for _ in 0..2 {
        cluster.bookies[0].crash_and_restart();
    }
    cluster.kill_servers();
    cluster.etcd.restore(&file);

    // Its epoch does not say what it is yet: whoever finds it less than it knows waits.
    let bookie = &mut cluster.bookies[0].process;
    bookie.restart();
    assert!(!bookie.wait().success());
    assert!(bookie.log().contains("geminga cluster epoch-bump"), "{}", bookie.log());
    let bump = ["cluster", "epoch-bump", "--metastore", &metastore];
    wait::until("registrations to end", || (client.run(&bump).code == Some(0)).then_some(()));
    restart_bookies(&mut cluster);
    // Deleted and folded ledgers leave the same tombstones: nothing is closed before somebody says that no object has them.
    let refused = client.run(&["cluster", "audit", "--metastore", &metastore]);
    assert!(!String::from_utf8_lossy(&refused.stdout).contains("delete-records"));
    refused.refused("NOT_RECOVERED");
    let found = audit(&cluster, &client, &["--no-other-object-store"]);
    assert_eq!(
        (&found["audited"], &found["lost"]),
        (&true.into(), &Value::Array(vec![])),
        "{found}"
    );
    assert!(ids(&found, "deleted").is_superset(&open), "{found}, expected {open:?}");

    restart_brokers(&mut cluster);
    let follow = found["follow"].as_array().expect("commands");
    assert!(!follow.is_empty(), "{found}");
    for command in follow {
        let command: Vec<_> = command.as_str().expect("a command").split(' ').collect();
        client.run(&command[1..]).ok();
    }
    write(&client, "old", &flights, AFTER..AFTER + 1_000);
    let verdict = flights.judge(&read(&client, "old"));
    assert!(verdict.seen[AFTER..].iter().all(|count| *count == 1));
    assert!(verdict.seen[..BEFORE].iter().all(|count| *count == 0));
    let verdict = flights.judge(&read(&client, "kept"));
    assert!(verdict.seen[..BEFORE].iter().all(|count| *count == 1));
}

/// The whole content of objects below a directory, to see that nobody changes them.
fn objects(dir: &Path) -> BTreeSet<(std::path::PathBuf, u64)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).expect("a directory").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            found.append(&mut objects(&path));
        } else {
            let length = entry.metadata().expect("an object").len();
            found.insert((path, length));
        }
    }
    found
}

#[test]
fn topics_come_back_from_an_object_store_alone() {
    let dir = tempfile::tempdir().expect("a directory for objects");
    let store = format!("--object-store=file://{}", dir.path().display());
    let tier = [
        &store,
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1s",
        "--gc-interval=300ms",
    ];
    let flights = Flights::load().first(TIERED + 1_000);
    let before = {
        let cluster = Cluster::start_with(3, 1, &tier, &[&store]);
        let client = cluster.client(0);
        let tiered = ["--config", SEGMENT, "--config", "remote.storage.enable=true"];
        let create = ["topic", "create", "flights", "--partitions", "2"];
        client.run(&[&create[..], &tiered].concat()).ok();
        write(&client, "flights", &flights, 0..TIERED);
        let read = read(&client, "flights");
        // What is in open segments is in no object, and is lost with the cluster.
        wait::until("an object of each partition", || {
            let scan = client.json(&["restore", "scan", &store]);
            let partitions = scan["topics"][0]["partitions"].as_array()?.len();
            (partitions == 2).then_some(())
        });
        read
        // etcd, bookies and their disks end here.
    };

    let mut cluster = Cluster::unborn(&tier, &[&store]);
    let metastore = cluster.metastore();
    let client = Client::new("127.0.0.1:1", cluster.dir());
    // What is no segment is no reason to stop.
    std::fs::write(dir.path().join("note.txt"), "not ours").expect("a file");
    let scan = client.json(&["restore", "scan", &store, "--verify"]);
    assert_eq!((scan["other_objects"].as_u64(), &scan["broken"]), (Some(1), &Value::Array(vec![])));
    let found = scan["topics"][0]["partitions"].as_array().expect("partitions").clone();
    let end = |partition: u32| {
        let of = found.iter().find(|one| one["partition"] == partition).expect("a partition");
        assert_eq!((&of["gaps"], of["first_offset"].as_i64()), (&Value::Array(vec![]), Some(0)));
        of["end_offset"].as_i64().expect("an offset")
    };
    let ends = [end(0), end(1)];
    let kept: Vec<Record> = before
        .into_iter()
        .filter(|record| record.offset < ends[record.partition as usize])
        .collect();
    assert!(kept.len() > TIERED / 4, "{} records are in objects", kept.len());

    let import = ["restore", "import", &store, "--metastore", &metastore];
    client.run(&import).ok();
    // And once more: nothing is different.
    client.run(&import).ok();
    let there = objects(dir.path());
    for _ in 0..3 {
        cluster.add_bookie();
    }
    cluster.add_broker();
    cluster.wait_ready();
    let client = cluster.client(0);
    assert!(read(&client, "flights") == kept, "the same records at the same places");

    // Rows that were never written before go behind them, and all is read together.
    write(&client, "flights", &flights, TIERED..TIERED + 1_000);
    let all = read(&client, "flights");
    assert_eq!(all.len(), kept.len() + 1_000);
    let old = |record: &&Record| record.offset < ends[record.partition as usize];
    assert!(all.iter().filter(old).eq(kept.iter()), "what is old is as it was");
    cluster.brokers[0].crash_and_restart();
    assert!(read(&client, "flights") == all, "also for the next owner");
    assert!(there.is_subset(&objects(dir.path())), "no object is changed or removed");
    let ledgers = ledgers(&cluster, &client);
    assert!(ledgers.iter().any(|ledger| ledger.starts_with("001")), "{ledgers:?}");

    client.run(&import).ok();
    client.run(&["topic", "delete", "flights"]).ok();
    wait::until("deletion of the topic to remove the objects of its former life", || {
        let left = objects(dir.path());
        let ours = |path: &Path| !path.ends_with("note.txt") && !path.ends_with("geminga.store");
        (!left.iter().any(|(path, _)| ours(path))).then_some(())
    });
}
