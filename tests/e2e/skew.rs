//! An earlier build of this repository beside today's, as in an upgrade and on the way back: whoever of them reads what the others write,
//! under load, and nothing that the earlier one does not read is written while it is there. `make skew` builds it and runs these.

use std::path::{Path, PathBuf};

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, Node, Running, binary, http, wait};
use serde_json::Value;

use crate::{tiering, topic};

/// Each ledger is old after this time, so that all kinds of metadata are written all the time, and read by the next owner.
const ROLL: &str = "segment.ms=3000";
/// Rows that are fed every 50 ms.
const ROWS: usize = 25;

/// Delays of seconds in the place of minutes. Both builds know these.
const BOOKIES: [&str; 5] = [
    "--auto-heal",
    "--lost-bookie-delay=2s",
    "--repair-grace=1s",
    "--audit-interval=3s",
    "--repair-rate=0",
];

fn old() -> PathBuf {
    binary::old_geminga().expect("GEMINGA_OLD_BIN names an earlier build: run `make skew`")
}

/// A producer and a member of a group, of one build, on a topic of their own.
struct Load {
    topic: &'static str,
    program: PathBuf,
    producer: Running,
    reader: Running,
    report: PathBuf,
}

impl Load {
    fn start(cluster: &Cluster, topic: &'static str, program: &Path) -> Self {
        let client = cluster.client(0).of(program);
        client.run(&["topic", "create", topic, "--partitions", "4", "--config", ROLL]).ok();
        let (producer, report) = topic::produce(&client, topic, cluster.dir());
        let args = ["consume", topic, "--group", topic, "--from-beginning", "--format", "json"];
        let reader = cluster.client(1).of(program).spawn(&args);
        Self { topic, program: program.to_owned(), producer, reader, report }
    }

    /// Everything was acknowledged, is where that says, and was read once by the group and is by both builds.
    fn finish(self, cluster: &Cluster, flights: &Flights) {
        let Self { topic, program, producer, mut reader, report } = self;
        producer.finish().ok();
        wait::until("the group to have read all", || {
            let read = reader.stdout().iter().filter(|byte| **byte == b'\n').count();
            (read >= flights.rows().len()).then_some(())
        });
        assert!(reader.is_running(), "{topic}: {}", reader.stderr());
        reader.kill();
        let log = topic::in_log_order(&[Record::parse_all(&reader.stdout())]);
        flights.judge(&log).exactly_once();
        topic::check_report(&topic::read_report(&report), &log);
        let args = ["consume", topic, "--from-beginning", "--until-end", "--format", "json"];
        for program in [&program, &binary::geminga()] {
            let read = Record::parse_all(&cluster.client(0).of(program).run(&args).ok());
            assert_eq!(topic::in_log_order(&[read]), log, "{topic}");
        }
    }
}

/// Feeds both loads while `act` does its part; how many rows each got.
fn under_load(flights: &Flights, loads: &mut [Load; 2], act: impl FnOnce()) -> usize {
    let [first, second] = loads;
    let reports = [first.report.clone(), second.report.clone()];
    let mut producers = [&mut first.producer, &mut second.producer];
    let ((), fed) = topic::feed_while(&mut producers, flights, 0, ROWS, || {
        for report in &reports {
            topic::wait_acknowledged(report, 10 * ROWS);
        }
        act();
    });
    fed
}

fn status(client: &Client) -> Value {
    client.json(&["cluster", "status"])
}

/// Stops each server in good order and starts it as that build, the next when all are there and nothing is short of a copy.
fn roll(nodes: &mut [Node], program: &Path, client: &Client, bookies: usize) {
    for node in nodes {
        let ended = node.process.terminate();
        assert_eq!(ended.code(), Some(0), "{}", node.process.log());
        node.process.replace_by(program);
        node.process.restart();
        node.wait_ready();
        wait::until("all bookies and copies", || {
            let status = status(client);
            let all = status["bookies"].as_array().expect("bookies").iter();
            let live = all.filter(|bookie| bookie["live"] == true).count();
            (live == bookies && status["repair"]["ledgers"] == 0).then_some(())
        });
    }
}

/// The features that the cluster's record says are in use, as people read it.
fn in_use(cluster: &Cluster) -> String {
    let metastore = cluster.metastore();
    let args = ["meta", "dump", "--metastore", &metastore, "--prefix", "cluster"];
    let dump = String::from_utf8(cluster.client(0).run(&args).ok()).expect("text");
    let at = dump.find("features").unwrap_or_else(|| panic!("no features in {dump}"));
    dump[at..].chars().take(60).collect()
}

#[test]
#[ignore = "needs an earlier build: make skew"]
fn a_cluster_goes_to_todays_version_and_back_under_load() {
    let (old, new, flights) = (old(), binary::geminga(), Flights::load());
    let mut cluster = Cluster::unborn(&BOOKIES, &[]);
    cluster.add_of(&old);
    for _ in 0..3 {
        cluster.add_bookie();
    }
    for _ in 0..2 {
        cluster.add_broker();
    }
    cluster.wait_ready();
    let kept = topic::keep_records(&cluster);
    let mut loads = [Load::start(&cluster, "by-old", &old), Load::start(&cluster, "by-new", &new)];
    // Whichever broker is there.
    let servers: Vec<&str> = cluster.brokers.iter().map(|broker| &*broker.address).collect();
    let client = Client::new(&servers.join(","), cluster.dir());
    let fed = under_load(&flights, &mut loads, || {
        let Cluster { bookies, brokers, .. } = &mut cluster;
        // Today's bookies under earlier brokers, and back.
        roll(bookies, &new, &client, 3);
        topic::still_kept(&client, &kept);
        roll(bookies, &old, &client, 3);
        topic::still_kept(&client, &kept);
        // All of it, bookies first, and back: nothing has asked for a feature.
        roll(bookies, &new, &client, 3);
        roll(brokers, &new, &client, 3);
        topic::still_kept(&client, &kept);
        roll(brokers, &old, &client, 3);
        roll(bookies, &old, &client, 3);
        topic::still_kept(&client.clone().of(&old), &kept);
        // Brokers first is no order that anybody should choose, and none that loses anything.
        roll(brokers, &new, &client, 3);
        roll(bookies, &new, &client, 3);
    });
    let flights = flights.first(fed);
    for load in loads {
        load.finish(&cluster, &flights);
    }
    topic::still_kept(&client, &kept);
    let features = in_use(&cluster);
    assert!(!features.contains("given-up") && !features.contains("moves"), "{features}");
}

fn given_up(cluster: &Cluster) -> f64 {
    let of = |node: &Node| http::metric(&node.http, "geminga_repair_given_up_ledgers_total");
    cluster.bookies.iter().filter_map(of).sum()
}

/// Today's bookies have copies to give up, which they write into their logs, and an earlier broker is registered: they wait for it, and
/// nobody of the earlier version starts afterwards.
#[test]
#[ignore = "needs an earlier build: make skew"]
fn what_an_earlier_version_does_not_read_waits_until_it_is_gone() {
    let (old, new) = (old(), binary::geminga());
    let args = [&BOOKIES[..], &["--excess-grace=2s"]].concat();
    let mut cluster = Cluster::unborn(&args, &[]);
    for _ in 0..4 {
        cluster.add_bookie();
    }
    cluster.add_broker();
    cluster.add_of(&old);
    cluster.add_broker();
    cluster.wait_ready();
    let client = cluster.client(0);
    // Many segments, so that each bookie has copies of closed ones.
    let small = ["--partitions", "2", "--config", "segment.bytes=1048576"];
    client.run(&[&["topic", "create", "t"], &small[..]].concat()).ok();
    let flights = Flights::load().first(50_000);
    let (mut producer, report) = topic::produce(&client, "t", cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    // Others take the places of a bookie; then it comes back.
    cluster.bookies[2].process.kill();
    let places = || {
        let args = ["ledger", "list", "--metastore", &cluster.metastore()];
        let ledgers = client.json(&args);
        let closed = ledgers.as_array().expect("ledgers").iter().filter(|l| l["state"] == "closed");
        closed.map(|ledger| ledger.to_string().matches("\"bookie-3\"").count()).sum::<usize>()
    };
    wait::until("others to take the places of one that is gone", || (places() == 0).then_some(()));
    cluster.bookies[2].process.restart();
    cluster.bookies[2].wait_ready();
    // The one that is asked says who keeps it closed, twice: then a whole round has gone by.
    wait::until("the gate to be asked for", || {
        let log = cluster.bookies[2].process.log();
        (log.matches("a server is of a version that does not read this").count() >= 2).then_some(())
    });
    assert_eq!(given_up(&cluster), 0.0, "a copy was given up, and an earlier version is there");
    assert!(!in_use(&cluster).contains("given-up"), "{}", in_use(&cluster));

    let broker = &mut cluster.brokers[1];
    assert_eq!(broker.process.terminate().code(), Some(0), "{}", broker.process.log());
    broker.process.replace_by(&new);
    broker.process.restart();
    broker.wait_ready();
    wait::until("copies to be given up", || (given_up(&cluster) > 0.0).then_some(()));
    assert!(in_use(&cluster).contains("given-up"), "{}", in_use(&cluster));
    topic::check_topic(&cluster, "t", "after", &flights, &report);

    // There is no way back, and whoever tries it is told why.
    for node in [&mut cluster.bookies[2], &mut cluster.brokers[1]] {
        assert_eq!(node.process.terminate().code(), Some(0), "{}", node.process.log());
        node.process.replace_by(&old);
        // Which knows no such flag; it would be told that instead.
        node.process.forget_args("--excess-grace");
        node.process.restart();
        assert_ne!(node.process.wait().code(), Some(0));
        let log = node.process.log();
        assert!(log.contains("newer than this version reads: upgrade this process"), "{log}");
    }
}

/// As many keys of segments stay, of two partitions, when folds keep three and wait for four more.
const FOLDED_TO: usize = 2 * (3 + 4);
/// Segments that are in the object store only.
const TIERED: [&str; 2] = ["segment.bytes=262144", "remote.storage.enable=true"];

/// Writes a topic of small segments, and lets nobody read it from memory afterwards.
fn written(cluster: &Cluster, topic: &str, configs: &[&str], flights: &Flights) -> PathBuf {
    let client = cluster.client(0);
    let configs = configs.iter().flat_map(|config| ["--config", *config]);
    let create = ["topic", "create", topic, "--partitions", "2"];
    client.run(&create.into_iter().chain(configs).collect::<Vec<_>>()).ok();
    let (mut producer, report) = topic::produce(&client, topic, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    report
}

/// Reads all by clients of these builds, each by each broker: the same, which is what was written.
fn read_by(cluster: &mut Cluster, programs: &[&Path], topic: &str, flights: &Flights) {
    for broker in &mut cluster.brokers {
        broker.crash_and_restart();
    }
    let args = ["consume", topic, "--from-beginning", "--until-end", "--format", "json"];
    for (broker, program) in
        (0..cluster.brokers.len()).flat_map(|b| programs.iter().map(move |p| (b, p)))
    {
        let read = Record::parse_all(&cluster.client(broker).of(program).run(&args).ok());
        flights.judge(&topic::in_log_order(&[read])).exactly_once();
    }
}

/// Closed segments of a topic that have a copy in the zone of the last bookie, and all of them.
fn spread(cluster: &Cluster, topic: &str) -> (usize, usize) {
    let ledgers = cluster.client(0).json(&["ledger", "list", "--metastore", &cluster.metastore()]);
    let ledgers = ledgers.as_array().expect("ledgers").iter();
    let closed: Vec<_> = ledgers
        .filter(|l| l["topic"] == topic && l["state"] == "closed")
        .map(Value::to_string)
        .collect();
    let last = format!("\"bookie-{}\"", cluster.bookies.len());
    (closed.iter().filter(|ledger| ledger.contains(&last)).count(), closed.len())
}

/// How many closed segments of a topic have keys, once all of them are in the object store only.
fn trimmed(cluster: &Cluster, topic: &str) -> Option<usize> {
    let tiers = tiering::tiers(cluster, &cluster.client(0), topic);
    (!tiers.is_empty() && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(tiers.len())
}

/// Bookies wanted to use a feature, and did not, because of a server that does not read it.
fn waited(cluster: &Cluster, feature: &str) -> Option<()> {
    let wanted = |line: &&str| {
        line.contains("a server is of a version that does not read this")
            && line.contains(&format!("feature={feature}"))
    };
    let of = |bookie: &Node| bookie.process.log().lines().filter(wanted).count();
    (cluster.bookies.iter().map(of).sum::<usize>() >= 2).then_some(())
}

/// Both builds upload, and read what either uploaded. The earlier one does not say that it reads manifests, and knows nothing of moves:
/// nothing is folded and no move is asked for before it is gone.
#[test]
#[ignore = "needs an earlier build: make skew"]
fn segments_are_tiered_by_both_versions_and_folds_and_moves_wait() {
    let (old, new) = (old(), binary::geminga());
    let dir = tempfile::tempdir().expect("a directory for objects");
    let store = format!("--object-store=file://{}", dir.path().display());
    let tier = [
        store.as_str(),
        "--tier-interval=200ms",
        "--tier-local-retention=100ms",
        "--tier-take-over=1s",
        "--gc-interval=300ms",
        "--tier-fold-interval=300ms",
        "--tier-fold-keep=3",
        "--tier-fold-at=4",
    ];
    let mut cluster = Cluster::unborn(&[&BOOKIES[..], &tier].concat(), &[&store]);
    // The auditor and the janitor are of today's: there is no other yet.
    for program in [&new, &old] {
        cluster.add_of(program);
        for _ in 0..2 {
            cluster.add_bookie_with(&["--zone=a"]);
        }
        cluster.wait_ready();
        cluster.add_broker();
    }
    cluster.wait_ready();
    let flights = Flights::load().first(50_000);
    let tiered = written(&cluster, "tiered", &TIERED, &flights);
    let local = written(&cluster, "local", &TIERED[..1], &flights);
    let segments =
        wait::until("all segments to be in the object store only", || trimmed(&cluster, "tiered"));
    assert!(segments > FOLDED_TO, "{segments} segments are too few to be folded");
    for bookies in [0..2, 2..4] {
        let of = |node: &Node| http::metric(&node.http, "geminga_tier_uploaded_bytes_total");
        let uploaded: f64 = cluster.bookies[bookies].iter().filter_map(of).sum();
        assert!(uploaded > 0.0, "one of the versions uploaded nothing");
    }
    // Twice: then a whole round has gone by.
    wait::until("folding to be asked for", || waited(&cluster, "manifests"));
    read_by(&mut cluster, &[&old, &new], "tiered", &flights);

    cluster.add_of(&new);
    cluster.add_bookie_with(&["--zone=b"]).wait_ready();
    wait::until("moves to be asked for", || waited(&cluster, "moves"));
    let used = in_use(&cluster);
    assert!(!used.contains("manifests") && !used.contains("moves"), "{used}");
    let left = trimmed(&cluster, "tiered");
    assert!(left >= Some(segments), "folded, and an earlier version is there");
    assert_eq!(
        spread(&cluster, "local").0,
        0,
        "a move was asked for, and an earlier version is there"
    );

    let client = cluster.client(0);
    let Cluster { bookies, brokers, .. } = &mut cluster;
    roll(&mut bookies[2..4], &new, &client, 5);
    roll(&mut brokers[1..], &new, &client, 5);
    wait::until("each closed segment to have a copy in the other zone", || {
        let (spread, all) = spread(&cluster, "local");
        (spread == all).then_some(())
    });
    wait::until("old segments to leave the metadata", || {
        (tiering::tiers(&cluster, &client, "tiered").len() <= FOLDED_TO).then_some(())
    });
    let used = in_use(&cluster);
    assert!(used.contains("manifests") && used.contains("moves"), "{used}");
    for (topic, report) in [("tiered", tiered), ("local", local)] {
        read_by(&mut cluster, &[&new], topic, &flights);
        topic::check_topic(&cluster, topic, "after", &flights, &report);
    }
}
