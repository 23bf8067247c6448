//! Three members of etcd that speak TLS among themselves and with clients, under an authority of their own: each leader in turn is killed
//! under load. What was acknowledged stays, segments roll, topics are made, brokers come and go.

use std::time::Duration;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{Authority, Client, EtcdMembers, Host, Node, Tls, port, wait};
use tempfile::TempDir;

use crate::topic;

/// Each ledger is old after this time, so that metadata is written all the time.
const ROLL: &str = "segment.ms=2000";
const ROWS: usize = 50;
const PACE: Duration = Duration::from_millis(50);

/// Three bookies and two brokers on three members of etcd.
struct World {
    brokers: Vec<Node>,
    bookies: Vec<Node>,
    etcd: EtcdMembers,
    tls: Tls,
    dir: TempDir,
}

impl World {
    fn start(authority: &Authority, of_etcd: &Authority) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let here = Host::here();
        let etcd = EtcdMembers::start_tls(&[(); 3].map(|()| here.clone()), dir.path(), of_etcd);
        let endpoints: Vec<&str> = etcd.endpoints().collect();
        let metastore = format!("https://{}/test", endpoints.join(","));
        let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
        let (own, to_etcd) = (authority.issue(), of_etcd.issue());
        let args: Vec<String> = [
            flag("tls-ca", &authority.ca()),
            flag("etcd-ca", &of_etcd.ca()),
            flag("etcd-cert", &to_etcd.cert),
            flag("etcd-key", &to_etcd.key),
        ]
        .into_iter()
        .chain(own.flags())
        .collect();
        let tls = Tls::new(authority.ca(), Some(own));
        let node = |start: fn(&Host, &str, &str, &str, &std::path::Path, &[String]) -> Node,
                    kind: &str,
                    number: usize| {
            let (name, address) = (format!("{kind}-{number}"), port::free_address());
            let node = start(&here, &name, &address, &metastore, dir.path(), &args);
            Node { tls: Some(tls.clone()), ..node }
        };
        let bookies = (1..=3).map(|number| node(Node::bookie, "bookie", number)).collect();
        let brokers = (1..=2).map(|number| node(Node::broker, "broker", number)).collect();
        let mut world = Self { brokers, bookies, etcd, tls: tls.clone(), dir };
        for node in world.bookies.iter_mut().chain(&mut world.brokers) {
            node.wait_ready();
        }
        world
    }

    fn client(&self, broker: usize) -> Client {
        Client::new(&self.brokers[broker].address, self.dir.path()).by(&self.tls)
    }

    fn leader(&self) -> usize {
        wait::until("a leader of etcd", || self.etcd.leader())
    }
}

/// How many segments each partition has.
fn segments(client: &Client) -> Vec<usize> {
    let described = topic::describe(client, "flights");
    let partitions = described["partitions"].as_array().expect("partitions");
    partitions.iter().map(|p| p["segments"].as_array().map_or(0, Vec::len)).collect()
}

#[test]
fn leaders_of_a_tls_etcd_are_killed_under_load() {
    let (authority, of_etcd) = (Authority::new(), Authority::new());
    let mut world = World::start(&authority, &of_etcd);
    let (client, other) = (world.client(0), world.client(1));
    client.run(&["topic", "create", "flights", "--partitions", "4", "--config", ROLL]).ok();
    let flights = Flights::load();
    let (mut producer, report) = topic::produce(&client, "flights", world.dir.path());
    let mut fed = 0;
    let mut feed = || {
        producer.feed(&Flights::lines(&flights.rows()[fed..fed + ROWS]));
        fed += ROWS;
        std::thread::sleep(PACE);
        fed
    };
    for round in 0..3 {
        let fed = feed();
        topic::wait_acknowledged(&report, fed);
        let before = segments(&other);
        let leader = world.leader();
        world.etcd.process(leader).kill();
        // Metadata is written, by owners and by commands, while that member is away.
        wait::until("every partition to roll without that member", || {
            feed();
            segments(&other).iter().zip(&before).all(|(now, then)| now > then).then_some(())
        });
        let name = format!("made-{round}");
        other.run(&["topic", "create", &name, "--partitions", "3"]).ok();
        other.run_with(&["produce", &name], b"x\n").ok();
        assert_ne!(world.leader(), leader);
        if round == 1 {
            let broker = &mut world.brokers[1];
            assert_eq!(broker.process.terminate().code(), Some(0), "{}", broker.process.log());
            broker.process.restart();
            broker.wait_ready();
        }
        let fed = feed();
        topic::wait_acknowledged(&report, fed);
        world.etcd.process(leader).restart();
        world.etcd.wait_healthy();
    }
    producer.finish().ok();

    let flights = flights.first(fed);
    let args = ["consume", "flights", "--from-beginning", "--until-end", "--format", "json"];
    let log = topic::in_log_order(&[Record::parse_all(&client.run(&args).ok())]);
    flights.judge(&log).exactly_once();
    topic::check_report(&topic::read_report(&report), &log);
    for round in 0..3 {
        assert_eq!(topic::values(&client, &format!("made-{round}")), "x\n");
    }
    // Nobody gave up: each is the process that was started.
    for node in world.bookies.iter_mut().chain(&mut world.brokers) {
        assert!(node.process.is_running(), "{}", node.process.log());
    }
}
