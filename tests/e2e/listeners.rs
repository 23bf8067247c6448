//! Brokers that Kafka clients reach by several networks, a listener in each: whoever comes by one is told addresses of that one,
//! those of all brokers, by every answer that names any.

use std::collections::BTreeMap;

use geminga_harness::{Cluster, Host, Kafka, Node, port, wait};
use kafka_wire::{DescribeClusterRequest, FindCoordinatorRequest, MetadataRequest};

const BROKERS: usize = 2;
/// So many that each broker coordinates some.
const GROUPS: usize = 50;

/// A listener of all brokers, in their order.
#[derive(Debug, Default)]
struct Door {
    /// Where they listen.
    at: Vec<String>,
    /// What clients are told.
    told: Vec<String>,
}

impl Door {
    fn add(&mut self, at: &str, told: &str) {
        self.at.push(at.to_owned());
        self.told.push(told.to_owned());
    }
}

/// Brokers by number, as a client is told them.
type Told = BTreeMap<i32, String>;

fn by_metadata(kafka: &mut Kafka) -> Told {
    let answer = kafka.call(9, &MetadataRequest::default());
    answer.brokers.iter().map(|b| (b.node_id, format!("{}:{}", b.host.as_str(), b.port))).collect()
}

fn by_description(kafka: &mut Kafka) -> Told {
    let answer = kafka.call(1, &DescribeClusterRequest::default());
    let address = |b: &kafka_wire::describe_cluster_response::DescribeClusterBroker| {
        (b.broker_id, format!("{}:{}", b.host.as_str(), b.port))
    };
    answer.brokers.iter().map(address).collect()
}

/// The coordinators of many groups, as a newer and an older version tell them.
fn by_coordinators(kafka: &mut Kafka) -> Option<Told> {
    let mut told = Told::new();
    let mut many = FindCoordinatorRequest::default();
    many.coordinator_keys = (0..GROUPS).map(|n| format!("group-{n}").as_str().into()).collect();
    for found in kafka.call(4, &many).coordinators {
        let at = format!("{}:{}", found.host.as_str(), found.port);
        told.extend((found.error_code == 0).then_some((found.node_id, at)));
    }
    let mut one = FindCoordinatorRequest::default();
    one.key = "group-0".into();
    let found = kafka.call(2, &one);
    let at = format!("{}:{}", found.host.as_str(), found.port);
    (found.error_code == 0 && told.get(&found.node_id) == Some(&at)).then_some(told)
}

#[test]
fn clients_are_told_the_addresses_of_the_listener_that_they_came_by() {
    let mut cluster = Cluster::start(3, 0);
    let (mut own, mut inside, mut outside) = (Door::default(), Door::default(), Door::default());
    for n in 1..=BROKERS {
        let [in_port, out_port] = [port::free(), port::free()];
        let (named, elsewhere) =
            (format!("localhost:{in_port}"), format!("broker-{n}.example:{n}"));
        let more = [
            format!("--kafka=inside=127.0.0.1:{in_port}"),
            format!("--kafka=outside=127.0.0.1:{out_port}"),
            format!("--kafka-advertise=inside={named},outside={elsewhere}"),
        ];
        let (name, address) = (format!("broker-{n}"), port::free_address());
        let (metastore, dir) = (cluster.metastore(), cluster.dir());
        let broker = Node::broker(&Host::here(), &name, &address, &metastore, dir, &more);
        let at = broker.kafka.clone().expect("a broker serves Kafka clients");
        own.add(&at, &at);
        inside.add(&format!("127.0.0.1:{in_port}"), &named);
        outside.add(&format!("127.0.0.1:{out_port}"), &elsewhere);
        cluster.brokers.push(broker);
    }
    cluster.wait_ready();

    // Which of them has which number, the listener that is told as it is shows.
    let numbers = wait::until("all brokers", || {
        let told = by_metadata(&mut Kafka::connect(&own.at[0]));
        (told.len() == BROKERS).then_some(told)
    });
    let number_of = |n: usize| {
        let found = numbers.iter().find(|(_, at)| **at == own.told[n]);
        *found.expect("each is told").0
    };
    for door in [&own, &inside, &outside] {
        let expected: Told = (0..BROKERS).map(|n| (number_of(n), door.told[n].clone())).collect();
        for at in &door.at {
            let mut kafka = Kafka::connect(at);
            wait::until("the brokers by Metadata", || {
                (by_metadata(&mut kafka) == expected).then_some(())
            });
            assert_eq!(by_description(&mut kafka), expected, "{door:?}");
            let coordinators = wait::until("coordinators at all brokers", || {
                by_coordinators(&mut kafka).filter(|told| told.len() == BROKERS)
            });
            assert_eq!(coordinators, expected, "{door:?}");
        }
    }
    // What is told leads there.
    for told in own.told.iter().chain(&inside.told) {
        assert_eq!(by_metadata(&mut Kafka::connect(told)).len(), BROKERS);
    }
}
