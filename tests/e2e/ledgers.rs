//! What an operator sees of ledgers, and may do to them.

use geminga_harness::{Client, Cluster};
use serde_json::Value;

use crate::topic;

#[test]
fn an_operator_lists_describes_and_recovers_ledgers() {
    let cluster = Cluster::start(3, 1);
    let (client, metastore) = (cluster.client(0), cluster.metastore());
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"one\ntwo\n").ok();

    let at = ["--metastore", metastore.as_str()];
    let open = || -> Vec<Value> {
        let args = ["ledger", "list", "--topic", "t", "--state", "open"];
        let listed = client.json(&[&args[..], &at].concat());
        listed.as_array().expect("a list").clone()
    };
    let before = open();
    assert_eq!(before.len(), 1, "{before:?}");
    let id = before[0]["ledger_id"].as_str().expect("an id").to_owned();
    assert_eq!(before[0]["fragments"][0]["members"].as_array().map(Vec::len), Some(3));

    // Its writer is alive: it is fenced, and the partition goes on in the next ledger.
    let recovered = client.json(&[&["ledger", "recover", &id], &at[..]].concat());
    assert_eq!(recovered["state"], "closed");
    assert_eq!(recovered["close_kind"], "recovered");
    client.run_with(&["produce", "t"], b"three\n").ok();
    assert_eq!(topic::values(&client, "t"), "one\ntwo\nthree\n");
    assert!(open().iter().all(|ledger| ledger["ledger_id"] != id.as_str()));

    // A closed ledger is what it is, however often it is recovered.
    let again = client.json(&[&["ledger", "recover", &id], &at[..]].concat());
    assert_eq!(again["last_entry"], recovered["last_entry"]);
    let described = client.json(&[&["ledger", "describe", &id], &at[..]].concat());
    assert_eq!(described["state"], "closed");

    for action in ["describe", "recover"] {
        let args = [&["ledger", action, "00000000000fffff"], &at[..]].concat();
        client.run(&args).refused("UNKNOWN_LEDGER");
    }
}

#[test]
fn bookies_are_measured_without_a_broker_and_nothing_stays_behind() {
    let cluster = Cluster::start(3, 0);
    let (client, metastore) = (Client::new("127.0.0.1:1", cluster.dir()), cluster.metastore());
    let at = ["--metastore", metastore.as_str()];
    let state = || -> Vec<Value> {
        let listed = client.json(&[&["ledger", "list"], &at[..]].concat());
        listed.as_array().expect("a list").iter().map(|ledger| ledger["state"].clone()).collect()
    };
    let load = ["perf", "ledger", "--entries", "50", "--size", "1000", "--ledgers", "2"];
    let written = client.json(&[&load[..], &at, &["--keep"]].concat());
    assert_eq!((&written["entries"], &written["bytes"]), (&100.into(), &100_000.into()));
    assert_eq!(state(), ["closed", "closed"]);

    let ids = written["ledgers"].as_array().expect("ids").iter().filter_map(Value::as_str);
    let args: Vec<&str> = ["perf", "ledger-read", "--delete"].into_iter().chain(ids).collect();
    let read = client.json(&[&args[..], &at].concat());
    assert_eq!((&read["entries"], &read["bytes"]), (&100.into(), &100_000.into()));
    assert!(state().iter().all(|state| state == "deleting"), "{:?}", state());
}

#[test]
fn a_ledger_whose_quorum_is_lost_waits_for_an_operator() {
    let mut cluster = Cluster::start(3, 1);
    let (client, metastore) = (cluster.client(0), cluster.metastore());
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"one\ntwo\n").ok();
    let at = ["--metastore", metastore.as_str(), "--wait", "1s"];
    let open = ["ledger", "list", "--topic", "t", "--state", "open"];
    let open = client.json(&[&open[..], &at[..2]].concat());
    let id = open[0]["ledger_id"].as_str().expect("an open ledger").to_owned();
    cluster.brokers[0].process.kill();
    cluster.bookies[0].process.kill();
    cluster.bookies[1].process.kill();

    let refused = client.run(&[&["ledger", "recover", &id], &at[..]].concat());
    let said = refused.refused("BOOKIES_MISSING");
    assert!(said.contains("bookie-1") && said.contains("bookie-2"), "{said}");
    let other = ["ledger", "force-close", &id, "--confirm", "0000000000000000"];
    assert_eq!(client.run(&[&other[..], &at].concat()).code, Some(2));

    let args = ["ledger", "force-close", &id, "--confirm", &id];
    let closed = client.json(&[&args[..], &at].concat());
    assert_eq!(
        (&closed["state"], &closed["close_kind"]),
        (&"closed".into(), &"forced-with-risk".into())
    );
    assert_eq!(closed["missing"].as_array().map(Vec::len), Some(2), "{closed}");

    // The survivor had all of it.
    for node in cluster.bookies[..2].iter_mut().chain(&mut cluster.brokers) {
        node.process.restart();
    }
    cluster.wait_ready();
    assert_eq!(topic::values(&client, "t"), "one\ntwo\n");
}
