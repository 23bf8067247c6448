//! Partitions that move between living brokers under load: nobody is told of an error, nothing is lost or repeated, and no
//! stored data is copied.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_harness::flights::Flights;
use geminga_harness::{Client, Cluster, Running, http, wait};
use serde_json::Value;
use tokio::time::Instant;

use crate::{kafka_admin, topic};

fn brokers(client: &Client) -> Vec<Value> {
    client.json(&["broker", "list"])["brokers"].as_array().expect("a list").clone()
}

/// The number and the partitions of the broker at an address.
fn broker(client: &Client, address: &str) -> Option<(u64, u64)> {
    let all = brokers(client);
    let found = all.iter().find(|broker| broker["address"] == address)?;
    Some((found["broker_id"].as_u64()?, found["partitions"].as_u64()?))
}

/// Shards of consumer groups, beside the partitions of a test's own topics.
const SHARDS: u64 = 8;

/// How much their numbers may differ when nothing is moved any more.
const SLACK: u64 = 2;

/// Waits until two brokers share so many partitions and the shards, so evenly that nothing is moved without need.
pub(crate) fn wait_even(client: &Client, partitions: u64) {
    wait::until("two brokers to share all evenly", || {
        let all = brokers(client).into_iter().filter_map(|broker| broker["partitions"].as_u64());
        let [a, b] = all.collect::<Vec<_>>().try_into().ok()?;
        (a + b == partitions + SHARDS && a.abs_diff(b) <= SLACK).then_some(())
    });
}

/// Rows that are fed every 50 ms: all of them take more than a minute.
const ROWS: usize = 250;

/// Feeds rows while `meanwhile` does its part, and the producer's end: what that says, and the rows that were fed.
fn under_load<T>(
    mut producer: Running,
    report: &Path,
    flights: Flights,
    meanwhile: impl FnOnce() -> T,
) -> (T, Flights) {
    let (said, fed) = topic::feed_while(&mut [&mut producer], &flights, 0, ROWS, || {
        topic::wait_acknowledged(report, 10 * ROWS);
        meanwhile()
    });
    producer.finish().ok();
    (said, flights.first(fed))
}

/// The longest time without an acknowledgement while `act` runs and until the next one after it.
fn longest_silence(report: &Path, act: impl FnOnce()) -> Duration {
    let size = || std::fs::metadata(report).map_or(0, |file| file.len());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let (mut last, mut since, mut longest) = (size(), Instant::now(), Duration::ZERO);
            loop {
                std::thread::sleep(Duration::from_millis(1));
                let over = over.load(Ordering::Relaxed);
                if size() != last {
                    longest = longest.max(since.elapsed());
                    (last, since) = (size(), Instant::now());
                }
                if over {
                    return longest;
                }
            }
        });
        let ends = topic::Ends(&over);
        act();
        let before = size();
        wait::until("the next acknowledgement", || (size() > before).then_some(()));
        drop(ends);
        watcher.join().expect("it ends")
    })
}

#[test]
fn a_partition_is_moved_under_load() {
    let flights = Flights::load();
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    client.run(&["topic", "create", "one", "--partitions", "1"]).ok();
    let (producer, report) = topic::produce(&client, "one", cluster.dir());
    let (silences, flights) = under_load(producer, &report, flights, || {
        let mut silences = Vec::new();
        for _ in 0..4 {
            let owner = topic::describe(&client, "one")["partitions"][0]["owner_broker"].as_i64();
            let all = brokers(&client);
            let other = all.iter().find(|b| b["broker_id"].as_i64() != owner).expect("another");
            let to = other["broker_id"].to_string();
            silences.push(longest_silence(&report, || {
                let moved = client.json(&["partition", "move", "one", "0", "--to", &to]);
                assert_eq!(moved["from"].as_i64(), owner, "{moved}");
            }));
        }
        silences
    });
    println!("longest time without an acknowledgement, by move: {silences:?}");
    topic::judge(&cluster.client(1), "one", &flights, &report);
    client.run(&["partition", "move", "one", "0", "--to", "99"]).refused("INVALID_REQUEST");
    client.run(&["partition", "move", "one", "9", "--to", "0"]).refused("UNKNOWN_PARTITION");
}

#[test]
fn a_broker_is_drained_and_taken_back_under_load() {
    let flights = Flights::load();
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(1);
    topic::create(&client, "flights");
    let (producer, report) = topic::produce(&client, "flights", cluster.dir());
    let drained = cluster.brokers[0].address.as_str();
    let (id, _) = broker(&client, drained).expect("it is registered");
    let id = id.to_string();
    let ((), flights) = under_load(producer, &report, flights, || {
        client.run(&["broker", "drain", &id]).ok();
        assert_eq!(broker(&client, drained).map(|(_, partitions)| partitions), Some(0));
        client.run(&["broker", "undrain", &id]).ok();
        wait::until("the broker to own its share again", || {
            broker(&client, drained).filter(|(_, partitions)| *partitions > 0)
        });
    });
    topic::judge(&client, "flights", &flights, &report);
    client.run(&["broker", "drain", "99"]).refused("INVALID_REQUEST");
}

#[test]
fn a_third_broker_takes_its_share_under_load_and_gives_it_back() {
    let flights = Flights::load();
    let mut cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "flights");
    let (producer, report) = topic::produce(&client, "flights", cluster.dir());
    let ((), flights) = under_load(producer, &report, flights, || {
        cluster.add_broker().wait_ready();
        let third = cluster.brokers[2].address.clone();
        wait::until("the third broker to own its share", || {
            broker(&client, &third).filter(|(_, partitions)| *partitions >= 4)
        });
        let status = cluster.brokers[2].process.terminate();
        assert_eq!(status.code(), Some(0), "{}", cluster.brokers[2].process.log());
        let log = cluster.brokers[2].process.log();
        assert!(log.contains("partitions handed over"), "{log}");
    });
    topic::judge(&client, "flights", &flights, &report);
    let all = brokers(&client);
    let owned: u64 = all.iter().filter_map(|broker| broker["partitions"].as_u64()).sum();
    assert_eq!((all.len(), owned), (2, u64::from(topic::PARTITIONS) + SHARDS));
}

/// How many partitions moved since their broker carried most, whoever decided it.
fn moved_for_load(cluster: &Cluster) -> f64 {
    let name = "geminga_coordinator_moves_total{cause=\"load\"}";
    cluster.brokers.iter().filter_map(|broker| http::metric(&broker.http, name)).sum()
}

#[test]
fn a_broker_that_carries_most_gives_a_busy_partition_away() {
    const PARTITIONS: i32 = 4;
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    wait_even(&client, 0);
    let mut kafka = kafka_admin::connect(&cluster);
    let any = *kafka.keys().next().expect("a broker");
    kafka_admin::create_replicated(kafka.get_mut(&any).expect("it"), PARTITIONS, 3);
    wait_even(&client, 4);
    let owners = |kafka: &mut BTreeMap<_, _>| {
        let led = kafka_admin::leaders(kafka.get_mut(&any)?)?;
        Some(led.into_iter().map(|(owner, _)| owner).collect::<Vec<i32>>())
    };
    // Of one that has fewer than the other nothing is taken, however busy it is.
    let has_half = |broker: i32| {
        let own = |b: &Value| b["broker_id"] == broker && b["partitions"].as_u64() >= Some(6);
        brokers(&client).iter().any(own)
    };
    let (hot, busy) = wait::until("a broker with two of the partitions", || {
        let owners = owners(&mut kafka)?;
        let of = |broker: i32| (0..PARTITIONS).zip(&owners).filter(move |(_, o)| **o == broker);
        let hot = owners.iter().find(|owner| of(**owner).count() >= 2 && has_half(**owner))?;
        Some((*hot, of(*hot).map(|(partition, _)| partition).take(2).collect::<Vec<i32>>()))
    });

    // Half a megabyte each fourth time that is asked: several a second.
    let (mut batches, mut asked) = (BTreeMap::new(), 0_usize);
    let moved = wait::until("one of two busy partitions to move", || {
        asked += 1;
        if asked.is_multiple_of(4) {
            let partition = busy[asked / 4 % 2];
            match kafka_admin::produce(kafka.get_mut(&hot)?, partition).0 {
                0 => *batches.entry(partition).or_insert(0) += 1,
                code => assert_eq!(code, kafka_admin::NOT_LEADER),
            }
        }
        let owners = owners(&mut kafka)?;
        (0..PARTITIONS).zip(owners).find(|(p, owner)| busy.contains(p) && *owner != hot)
    });
    assert!(moved_for_load(&cluster) >= 1.0, "it moved for another reason");
    let end = batches[&moved.0] * i64::try_from(kafka_admin::RECORDS).expect("a number");
    wait::until("its new owner to go on", || {
        let (code, base) = kafka_admin::produce(kafka.get_mut(&moved.1)?, moved.0);
        (code == 0).then(|| assert_eq!(base, end))
    });
}
