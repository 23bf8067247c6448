//! A cluster whose list of etcd members begins with one that is dead: nobody notices.

use std::path::Path;

use geminga_harness::{Client, EtcdMembers, Host, Node, port, wait};

use crate::topic;

/// Each command is a process that picks a member anew.
const ROUNDS: usize = 8;

#[test]
fn commands_and_servers_do_without_a_dead_member_of_etcd() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let here = Host::here();
    let mut etcd = EtcdMembers::start(&[(); 3].map(|()| here.clone()), dir.path());
    let endpoints: Vec<&str> = etcd.endpoints().collect();
    let metastore = format!("etcd://{}/test", endpoints.join(","));
    etcd.process(0).kill();
    wait::until("a leader of those that are left", || etcd.leader());

    let node = |start: fn(&Host, &str, &str, &str, &Path, &[String]) -> Node, name: &str| {
        start(&here, name, &port::free_address(), &metastore, dir.path(), &[])
    };
    let mut nodes: Vec<Node> =
        ["bookie-1", "bookie-2", "bookie-3"].map(|name| node(Node::bookie, name)).into();
    nodes.extend(["broker-1", "broker-2"].map(|name| node(Node::broker, name)));
    nodes.iter_mut().for_each(Node::wait_ready);

    let clients = [3, 4].map(|broker: usize| Client::new(&nodes[broker].address, dir.path()));
    for round in 0..ROUNDS {
        for command in [["bookie", "list"], ["meta", "dump"], ["cluster", "audit"]] {
            let args = [&command[..], &["--metastore", &metastore]].concat();
            clients[0].run(&args).ok();
        }
        let (topic, client) = (format!("made-{round}"), &clients[round % 2]);
        client.run(&["topic", "create", &topic, "--partitions", "2"]).ok();
        client.run_with(&["produce", &topic], b"x\n").ok();
        assert_eq!(topic::values(client, &topic), "x\n");
    }
    for node in &mut nodes {
        assert!(node.process.is_running(), "{}", node.process.log());
    }
}
