//! Storage that heals itself: a disk that is wiped, a bookie that is gone for good, one that is taken out. Nobody is told, and
//! every copy comes back; what the copies hold is read and compared.

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Client, Cluster, Running, http, wait};
use serde_json::Value;
use tokio::time::Instant;

use crate::topic::{self, Follower};

const TOPIC: &str = "healing";
const ROWS: usize = 20_000;

/// Delays of seconds in the place of minutes.
const BOOKIES: [&str; 6] = [
    "--auto-heal",
    "--lost-bookie-delay=2s",
    "--repair-grace=1s",
    "--audit-interval=5s",
    "--excess-grace=5s",
    "--repair-rate=0",
];

fn list(cluster: &Cluster, what: &str) -> Vec<Value> {
    let client = Client::new("127.0.0.1:1", cluster.dir());
    let listed = client.json(&[what, "list", "--metastore", &cluster.metastore()]);
    listed.as_array().expect("a list").clone()
}

/// The bookie and the life of each member of each fragment of the topic's ledgers.
fn members(cluster: &Cluster) -> Vec<(String, String)> {
    let ledgers = list(cluster, "ledger").into_iter();
    // One that is being deleted, such as a segment that was rolled before its first record, is nobody's to repair.
    let kept = ledgers.filter(|ledger| ledger["state"] != "deleting");
    members_of(kept.filter(|ledger| ledger["topic"] == TOPIC))
}

/// The same of these ledgers.
fn members_of(ledgers: impl Iterator<Item = Value>) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let fragments = ledgers.flat_map(|l| l["fragments"].as_array().expect("fragments").clone());
    let members = fragments.flat_map(|f| f["members"].as_array().expect("members").clone());
    members.map(|m| (text(&m["bookie_id"]), text(&m["incarnation"]))).collect()
}

/// The lives of registered bookies.
fn lives(cluster: &Cluster) -> Vec<(String, String)> {
    let of = |bookie: Value| {
        let id = bookie["bookie_id"].as_str().expect("an id").to_owned();
        let lives = bookie["incarnations"].as_array().expect("lives").clone();
        lives.into_iter().map(move |life| (id.clone(), life.as_str().expect("text").to_owned()))
    };
    list(cluster, "bookie").into_iter().flat_map(of).collect()
}

fn under(client: &Client) -> Value {
    client.json(&["cluster", "status"])["repair"].clone()
}

/// Waits until every member of every ledger of the topic lives and nothing is marked; says how long that took.
#[track_caller]
fn wait_whole(cluster: &Cluster, since: Instant, what: &str) {
    let client = cluster.client(0);
    wait::until(&format!("{what}: all copies to be there"), || {
        let lives = lives(cluster);
        let named = members(cluster).into_iter().all(|member| lives.contains(&member));
        (named && under(&client)["ledgers"] == 0).then_some(())
    });
    eprintln!("{what}: every copy is back {:.1} s later", since.elapsed().as_secs_f64());
}

/// All records, as one consumer without a group reads them.
#[track_caller]
fn exactly(client: &Client, flights: &Flights) {
    let args = ["consume", TOPIC, "--from-beginning", "--until-end", "--format", "json"];
    let records = Record::parse_all(&client.run(&args).ok());
    flights.judge(&topic::in_log_order(&[records])).exactly_once();
}

/// Kills all bookies but one, one after the other, and reads everything from what is left.
#[track_caller]
fn one_alone_has_everything(cluster: &mut Cluster, flights: &Flights, keep: usize) {
    let others: Vec<usize> = (0..cluster.bookies.len())
        .filter(|bookie| *bookie != keep && !cluster.bookies[*bookie].process.was_stopped())
        .collect();
    for (number, bookie) in others.into_iter().enumerate() {
        cluster.bookies[bookie].process.kill();
        if number == 0 {
            // The new owner has nothing in memory.
            cluster.brokers[0].crash_and_restart();
        }
        exactly(&cluster.client(0), flights);
    }
}

#[test]
fn a_wiped_disk_is_filled_again_while_records_come_in() {
    let mut cluster = Cluster::start_with(3, 1, &BOOKIES, &[]);
    let client = cluster.client(0);
    topic::create(&client, TOPIC);
    let flights = Flights::load().first(3 * ROWS);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    topic::wait_acknowledged(&report, ROWS / 2);

    let before = lives(&cluster);
    let data = cluster.bookies[0].data_dir.clone().expect("a bookie has data");
    cluster.bookies[0].process.kill();
    std::fs::remove_dir_all(&data).expect("removed");
    producer.feed(&Flights::lines(&flights.rows()[ROWS..2 * ROWS]));
    let begun = Instant::now();
    cluster.bookies[0].process.restart();
    cluster.wait_ready();
    producer.feed(&Flights::lines(&flights.rows()[2 * ROWS..]));
    topic::wait_acknowledged(&report, 2 * ROWS);
    wait_whole(&cluster, begun, "a wiped disk");
    producer.finish().ok();

    let reborn = lives(&cluster).into_iter().find(|(bookie, _)| bookie == "bookie-1");
    let reborn = reborn.expect("it is registered");
    assert!(!before.contains(&reborn), "it lives on as if it had lost nothing");
    assert!(members(&cluster).contains(&reborn), "it was not filled");
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
    one_alone_has_everything(&mut cluster, &flights, 0);
}

/// Bytes a second that each bookie's repairs copy, where there is to be something to see meanwhile.
const RATE: u64 = 1 << 20;

#[test]
fn one_of_three_is_gone_for_good_and_a_fourth_takes_its_place() {
    let rate = format!("--repair-rate={RATE}");
    let others = BOOKIES.into_iter().filter(|arg| !arg.starts_with("--repair-rate"));
    let bookies: Vec<&str> = others.chain([rate.as_str()]).collect();
    let mut cluster = Cluster::start_with(3, 1, &bookies, &[]);
    let client = cluster.client(0);
    let create = ["topic", "create", TOPIC, "--partitions", "2"];
    client.run(&[&create[..], &["--config", "segment.bytes=262144"]].concat()).ok();
    // Nothing is written to this one any more, and its ledger stays open.
    client.run(&["topic", "create", "idle", "--partitions", "1"]).ok();
    client.run_with(&["produce", "idle"], b"kept\n").ok();
    let flights = Flights::load().first(3 * ROWS);
    let consumer = Follower::start(&client, TOPIC);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    topic::wait_acknowledged(&report, ROWS / 2);
    let named = closed_fragments(&cluster).len();
    assert!(named > 0, "no closed segment");
    let before_ms = now_ms();
    cluster.bookies[2].process.kill();
    std::fs::remove_dir_all(cluster.bookies[2].data_dir.clone().expect("data")).expect("removed");
    producer.feed(&Flights::lines(&flights.rows()[ROWS..2 * ROWS]));
    topic::wait_acknowledged(&report, 2 * ROWS - ROWS / 2);
    // Nobody can take the places. Ledgers that are written end soon; one that is not has two copies for longer, and that is shown as well.
    let shown = wait::until("copies that are missing to be shown", || {
        let status = client.json(&["cluster", "status"]);
        let bookies = status["bookies"].as_array().expect("bookies").iter();
        let live = bookies.filter(|bookie| bookie["live"] == true).count();
        let number = |name: &str| status["repair"][name].as_u64().expect("a number");
        let closed = number("fragments") - number("open_fragments");
        let all = live == 2 && number("open_fragments") > 0 && closed >= named as u64;
        all.then(|| status["repair"].clone())
    });
    let bytes = shown["bytes"].as_u64().expect("a number");
    assert!(bytes > 0, "{shown}");
    let seconds = shown["estimate_seconds"].as_u64();
    assert_eq!(seconds, Some(bytes.div_ceil(2 * RATE)), "at the pace of the two: {shown}");
    let oldest_ms = shown["oldest_ms"].as_i64().expect("a time");
    assert!((before_ms..=now_ms()).contains(&oldest_ms), "{before_ms}, {shown}");
    let text = String::from_utf8(client.run(&["cluster", "status"]).ok()).expect("text");
    let words = ["under-replicated:", "are being written", "to go once bookies can take them"];
    assert!(words.iter().all(|word| text.contains(word)), "{text}");

    let begun = Instant::now();
    cluster.add_bookie().wait_ready();
    // By its next record the writer of that one finds out as well.
    client.run_with(&["produce", "idle"], b"more\n").ok();
    producer.feed(&Flights::lines(&flights.rows()[2 * ROWS..]));
    topic::wait_acknowledged(&report, 3 * ROWS);
    wait_whole(&cluster, begun, "a bookie in the place of another");
    nobody_was_told(producer, consumer, &flights);
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
    let text = String::from_utf8(client.run(&["cluster", "status"]).ok()).expect("text");
    assert!(text.contains("all copies are there"), "{text}");
    assert_eq!(topic::values(&client, "idle"), "kept\nmore\n");
}

fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("a clock");
    i64::try_from(since.as_millis()).expect("milliseconds fit")
}

/// Holds when neither was told of anything, all is acknowledged, and the consumer read each row once, in order.
#[track_caller]
fn nobody_was_told(producer: Running, consumer: Follower, flights: &Flights) {
    let produced = producer.finish();
    assert_eq!(produced.stderr, "", "the producer was told of something");
    produced.ok();
    consumer.finish(flights);
}

/// 6.4: nobody writes and so nobody notices, but that a bookie is not registered any more.
#[test]
fn scenario_70_an_idle_topic_has_all_its_copies_again_without_another_record() {
    let mut cluster = Cluster::start_with(4, 1, &BOOKIES, &[]);
    let client = cluster.client(0);
    client.run(&["topic", "create", "idle", "--partitions", "1"]).ok();
    let kept: String = (0..1_000).map(|number| format!("kept {number}\n")).collect();
    client.run_with(&["produce", "idle"], kept.as_bytes()).ok();
    let idle = |cluster: &Cluster| {
        let ledgers = list(cluster, "ledger").into_iter();
        ledgers.filter(|ledger| ledger["topic"] == "idle").collect::<Vec<_>>()
    };
    let before = members_of(idle(&cluster).into_iter());
    let is_member = |bookie: usize| before.iter().any(|(id, _)| *id == format!("bookie-{bookie}"));
    let dead = (1..=4).find(|bookie| is_member(*bookie)).expect("a member");
    let spare = (1..=4).find(|bookie| !is_member(*bookie)).expect("three of four are members");

    cluster.bookies[dead - 1].process.kill();
    let data = cluster.bookies[dead - 1].data_dir.clone().expect("a bookie has data");
    std::fs::remove_dir_all(data).expect("removed");
    let begun = Instant::now();
    wait::until("the idle topic to have three copies of everything", || {
        let (lives, ledgers) = (lives(&cluster), idle(&cluster));
        let lives =
            |one: &(String, String)| one.0 != format!("bookie-{dead}") && lives.contains(one);
        let whole = members_of(ledgers.into_iter()).iter().all(lives);
        (whole && under(&client)["ledgers"] == 0).then_some(())
    });
    eprintln!("an idle topic: every copy is back {:.1} s later", begun.elapsed().as_secs_f64());
    let ledgers = idle(&cluster);
    let open: Vec<&Value> = ledgers.iter().filter(|ledger| ledger["state"] == "open").collect();
    let [open] = &open[..] else { panic!("it was rolled or closed: {ledgers:?}") };
    assert_eq!(open["fragments"].as_array().map(Vec::len), Some(2), "{open}");

    // The two that had it from the start go, one after the other; what is left was copied.
    let others = (1..=4).filter(|bookie| *bookie != dead && *bookie != spare);
    for (number, bookie) in others.enumerate() {
        cluster.bookies[bookie - 1].process.kill();
        if number == 0 {
            // The new owner has nothing in memory.
            cluster.brokers[0].crash_and_restart();
        }
        assert_eq!(topic::values(&cluster.client(0), "idle"), kept);
    }
}

#[test]
fn one_of_four_is_gone_for_good_while_records_go_in_and_out() {
    let mut cluster = Cluster::start_with(4, 1, &BOOKIES, &[]);
    let client = cluster.client(0);
    topic::create(&client, TOPIC);
    let flights = Flights::load().first(3 * ROWS);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    let consumer = Follower::start(&client, TOPIC);
    producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    topic::wait_acknowledged(&report, ROWS / 2);
    let gone = lives(&cluster).into_iter().find(|(bookie, _)| bookie == "bookie-2");
    let gone = gone.expect("it is registered");
    assert!(members(&cluster).contains(&gone), "it has nothing");

    cluster.bookies[1].process.kill();
    std::fs::remove_dir_all(cluster.bookies[1].data_dir.clone().expect("data")).expect("removed");
    let begun = Instant::now();
    for rows in flights.rows()[ROWS..].chunks(ROWS / 5) {
        producer.feed(&Flights::lines(rows));
    }
    topic::wait_acknowledged(&report, 3 * ROWS);
    wait::until("others to take all its places", || {
        (!members(&cluster).contains(&gone)).then_some(())
    });
    wait_whole(&cluster, begun, "one of four gone for good");

    nobody_was_told(producer, consumer, &flights);
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
    one_alone_has_everything(&mut cluster, &flights, 0);
}

#[test]
fn a_bookie_is_taken_out_while_records_come_in() {
    let mut cluster = Cluster::start_with(4, 1, &BOOKIES, &[]);
    let client = cluster.client(0);
    let metastore = cluster.metastore();
    topic::create(&client, TOPIC);
    let flights = Flights::load().first(3 * ROWS);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(&flights.rows()[..ROWS]));
    topic::wait_acknowledged(&report, ROWS / 2);
    let decommission = |bookie: &[&str]| {
        let args = ["bookie", "decommission", "--metastore", &metastore];
        client.spawn(&[&args[..], bookie].concat())
    };
    let unknown = decommission(&["bookie-9"]).finish().refused("UNKNOWN_BOOKIE");
    assert!(unknown.contains("bookie-9"), "{unknown}");
    decommission(&["--ordinal-from", "3"]).finish().refused("TOO_FEW_BOOKIES");

    let begun = Instant::now();
    // Interrupted, and run again.
    let mut first = decommission(&["bookie-2", "--wait"]);
    wait::until("the decommission to have begun", || {
        let bookies = list(&cluster, "bookie");
        bookies.iter().any(|b| b["draining_since_ms"].is_i64()).then_some(())
    });
    first.kill();
    producer.feed(&Flights::lines(&flights.rows()[ROWS..2 * ROWS]));
    let left = decommission(&["bookie-2", "--wait"]).finish();
    assert!(left.stderr.contains("bookie-2: has left"), "{}", left.stderr);
    left.ok();
    eprintln!("a bookie was taken out in {:.1} s", begun.elapsed().as_secs_f64());
    producer.feed(&Flights::lines(&flights.rows()[2 * ROWS..]));
    producer.finish().ok();

    assert!(list(&cluster, "bookie").iter().all(|bookie| bookie["bookie_id"] != "bookie-2"));
    assert!(members(&cluster).iter().all(|(bookie, _)| bookie != "bookie-2"));
    wait::until("its process to stop", || (!cluster.bookies[1].process.is_running()).then_some(()));
    cluster.bookies[1].process.kill();
    wait_whole(&cluster, begun, "without it");
    decommission(&["bookie-1"]).finish().refused("TOO_FEW_BOOKIES");
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
}

/// Bookies in these zones, a broker, and a topic with closed segments: what was written, and the producer's report.
fn zoned(zones: &[&str]) -> (Cluster, Flights, std::path::PathBuf) {
    let mut cluster = Cluster::unborn(&BOOKIES, &[]);
    for zone in zones {
        match *zone {
            "" => cluster.add_bookie(),
            zone => cluster.add_bookie_with(&[&format!("--zone={zone}")]),
        };
    }
    cluster.add_broker();
    cluster.wait_ready();
    let client = cluster.client(0);
    let create = ["topic", "create", TOPIC, "--partitions", "2"];
    client.run(&[&create[..], &["--config", "segment.bytes=1048576"]].concat()).ok();
    let flights = Flights::load().first(3 * ROWS);
    let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
    producer.feed(&Flights::lines(flights.rows()));
    producer.finish().ok();
    (cluster, flights, report)
}

/// The bookies of each fragment of the topic's closed ledgers, with the ledger's id.
fn closed_fragments(cluster: &Cluster) -> Vec<(String, Vec<String>)> {
    let closed = |l: &Value| l["topic"] == TOPIC && l["state"] == "closed";
    let ledgers = list(cluster, "ledger").into_iter().filter(closed);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let mut found = Vec::new();
    for ledger in ledgers {
        for fragment in ledger["fragments"].as_array().expect("fragments") {
            let members = fragment["members"].as_array().expect("members");
            let bookies = members.iter().map(|member| text(&member["bookie_id"])).collect();
            found.push((text(&ledger["ledger_id"]), bookies));
        }
    }
    found
}

/// How many closed fragments have a copy there.
fn named(cluster: &Cluster, bookie: &str) -> usize {
    let fragments = closed_fragments(cluster).into_iter();
    fragments.filter(|(_, bookies)| bookies.iter().any(|other| other == bookie)).count()
}

/// Waits until others have all places that a bookie had in closed segments: after its lease, and the delay.
#[track_caller]
fn wait_left(cluster: &Cluster, bookie: &str) {
    wait::until("others to take the places of one that is gone", || {
        (named(cluster, bookie) == 0).then_some(())
    });
}

/// Waits until bookies with these indexes have given up so many copies together.
#[track_caller]
fn wait_given_up(cluster: &Cluster, bookies: std::ops::Range<usize>, count: usize) {
    wait::until("copies that nobody names to be given up", || {
        let of = |bookie| metric(cluster, bookie, "geminga_repair_given_up_ledgers_total");
        (bookies.clone().map(of).sum::<f64>() >= count as f64).then_some(())
    });
}

fn metric(cluster: &Cluster, bookie: usize, name: &str) -> f64 {
    http::metric(&cluster.bookies[bookie].http, name).unwrap_or(0.0)
}

/// 6.7: a zone that comes later gets a copy of each closed segment, one, and who had it before gives its own up.
#[test]
fn scenario_66_copies_of_one_zone_spread_to_the_next() {
    let (mut cluster, flights, report) = zoned(&["a", "a", "a"]);
    let closed = closed_fragments(&cluster).len();
    assert!(closed >= 2, "{closed} closed segments");
    cluster.add_bookie_with(&["--zone=b"]).wait_ready();
    wait::until("each closed segment to have a copy in the other zone", || {
        (named(&cluster, "bookie-4") == closed).then_some(())
    });
    let settled = closed_fragments(&cluster);
    wait_given_up(&cluster, 0..3, closed);
    let text = String::from_utf8(cluster.client(0).run(&["cluster", "status"]).ok());
    assert!(text.expect("text").contains("all copies are there"));
    cluster.brokers[0].crash_and_restart();
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
    // Passes later everything is where it was.
    let now = closed_fragments(&cluster);
    assert!(settled.iter().all(|fragment| now.contains(fragment)), "{settled:?}, then {now:?}");
}

/// Scenario 51: a bookie comes back after others took its places. It gives up what it has of them, and takes places again when it has to.
#[test]
fn scenario_51_who_comes_back_gives_up_its_copies_and_takes_them_again() {
    let (mut cluster, flights, report) = zoned(&[""; 4]);
    let before = named(&cluster, "bookie-3");
    assert!(before > 0, "it had nothing");
    cluster.bookies[2].process.kill();
    wait_left(&cluster, "bookie-3");
    cluster.bookies[2].process.restart();
    cluster.wait_ready();
    wait_given_up(&cluster, 2..3, before);
    assert_eq!(named(&cluster, "bookie-3"), 0);
    // Nobody but it can take the places of the next.
    assert!(named(&cluster, "bookie-1") > 0, "each copy of four is somewhere");
    cluster.bookies[0].process.kill();
    wait_left(&cluster, "bookie-1");
    assert!(named(&cluster, "bookie-3") > 0);
    topic::check_topic(&cluster, TOPIC, "after", &flights, &report);
}

/// Which of the bookies that run is the auditor, once one is.
fn auditor(cluster: &Cluster) -> usize {
    wait::until("an auditor", || {
        let is = |bookie: &usize| {
            !cluster.bookies[*bookie].process.was_stopped()
                && metric(cluster, *bookie, "geminga_repair_auditor") == 1.0
        };
        (0..cluster.bookies.len()).find(is)
    })
}

/// 6.1: the auditor is killed, twice. Each time another is elected, finds what the former held short of a copy, and others copy it.
#[test]
fn another_auditor_finds_what_a_killed_one_held() {
    let (mut cluster, flights, report) = zoned(&[""; 4]);
    let mut killed = Vec::new();
    for _ in 0..2 {
        let auditor = auditor(&cluster);
        assert!(!killed.contains(&auditor));
        let name = format!("bookie-{}", auditor + 1);
        assert!(named(&cluster, &name) > 0, "{name} holds nothing that somebody could miss");
        cluster.bookies[auditor].process.kill();
        wait_left(&cluster, &name);
        topic::check_topic(&cluster, TOPIC, &name, &flights, &report);
        cluster.bookies[auditor].process.restart();
        cluster.wait_ready();
        killed.push(auditor);
    }
}
