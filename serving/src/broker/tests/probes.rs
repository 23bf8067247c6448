//! Brokers that find each other dead by probes alone: leases here live longer than any wait.

use super::*;

fn patient() -> Config {
    Config { lease_ttl: 10 * LIMIT, ..Config::default() }
}

/// The coordinator among the victims, too: the other two agree, end its registration, and one of them is elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_dead_for_two_is_replaced_before_its_lease_ends() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Node::start_with(&cluster, patient()).await);
    }
    create(&nodes[0], "t", 6).await;
    for node in &nodes {
        node.wait_spread("t", 3).await;
    }
    let mut producer = Producer::open(&nodes[2]).await;
    for partition in 0..6 {
        producer.send_all("t", partition, 0..20).await;
    }
    let coordinator = nodes[2].broker.0.topology.coordinator().expect("elected").broker;
    let first = nodes.iter().position(|node| node.broker.id() == coordinator).unwrap();
    let dead = nodes.remove(first);
    dead.kill();
    let left = &nodes[0];
    left.wait_spread("t", 2).await;
    let mut producer = Producer::open(left).await;
    for partition in 0..6 {
        producer.send_all("t", partition, 20..40).await;
    }
    let all = read_all(left, "t", 6).await;
    assert!(all.iter().all(|values| values.len() >= 40), "{all:?}");
    // Of two that are left, one is enough to see a refusal.
    nodes.remove(0).kill();
    let left = &nodes[0];
    left.wait_owned_by("t", left.broker.id()).await;
}

/// One that finds its registration gone serves again when probes reach it, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_registration_is_given_partitions_again() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) =
        (Node::start_with(&cluster, patient()).await, Node::start_with(&cluster, patient()).await);
    create(&one, "t", 4).await;
    for node in [&one, &two] {
        node.wait_spread("t", 2).await;
    }
    let lease = one.broker.0.topology.broker(two.broker.id()).expect("registered").lease;
    cluster.store.revoke_lease(lease).await.unwrap();
    let view = &one.broker.0.topology;
    let again = view.wait_for(LIMIT, |view| {
        view.broker(two.broker.id()).filter(|broker| broker.lease != lease)
    });
    let again = again.await.expect("it registers again");
    let mut probed = one.broker.0.probes.watch();
    let reached = probed.wait_for(|view| view.reaches(two.broker.id(), again.lease));
    tokio::time::timeout(LIMIT, reached).await.expect("in time").unwrap();
    one.wait_spread("t", 2).await;
}
