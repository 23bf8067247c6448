//! What is there: which lives ledgers name, what bookies' disks hold, what became of a topic's closed segments.

use std::path::Path;

use geminga_harness::{Client, Cluster, Node};
use serde_json::Value;

use crate::tiering;

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn ask(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let client = Client::new("127.0.0.1:1", cluster.dir());
    let listed = client.json(&[args, &["--metastore", &cluster.metastore()]].concat());
    listed.as_array().expect("a list").clone()
}

/// The bookie and the life of each member of each fragment of a topic's ledgers.
pub(super) fn members(cluster: &Cluster, topic: &str) -> Vec<(String, String)> {
    let ledgers = ask(cluster, &["ledger", "list", "--topic", topic]).into_iter();
    let fragments = ledgers.flat_map(|l| l["fragments"].as_array().expect("fragments").clone());
    let members = fragments.flat_map(|f| f["members"].as_array().expect("members").clone());
    members.map(|m| (text(&m["bookie_id"]), text(&m["incarnation"]))).collect()
}

/// The lives of registered bookies.
fn lives(cluster: &Cluster) -> Vec<(String, String)> {
    let of = |bookie: Value| {
        let lives = bookie["incarnations"].as_array().expect("lives").clone();
        let id = text(&bookie["bookie_id"]);
        lives.into_iter().map(move |life| (id.clone(), text(&life)))
    };
    ask(cluster, &["bookie", "list"]).into_iter().flat_map(of).collect()
}

/// Bookies that the cluster knows, also those that are gone.
pub(super) fn bookies(cluster: &Cluster) -> Vec<String> {
    ask(cluster, &["bookie", "list"]).iter().map(|bookie| text(&bookie["bookie_id"])).collect()
}

/// The life of a bookie that lives.
pub(super) fn life(cluster: &Cluster, bookie: &str) -> Option<String> {
    lives(cluster).into_iter().find(|(id, _)| id == bookie).map(|(_, life)| life)
}

/// Whether every member of every ledger of these topics lives, and nothing is marked.
pub(super) fn is_whole(cluster: &Cluster, topics: &[&str]) -> bool {
    let lives = lives(cluster);
    let all_live = |topic: &&str| members(cluster, topic).iter().all(|m| lives.contains(m));
    let status = cluster.client(0).json(&["cluster", "status"]);
    topics.iter().all(all_live) && status["repair"]["ledgers"] == 0
}

/// How many closed segments with records a topic has, when all are in this state and none is open.
pub(super) fn all_are(cluster: &Cluster, topic: &str, states: &[&str]) -> Option<usize> {
    let open = ask(cluster, &["ledger", "list", "--topic", topic, "--state", "open"]);
    if !open.is_empty() {
        return None;
    }
    let tiers = tiering::tiers(cluster, &cluster.client(0), topic);
    let all = tiers.iter().all(|tier| states.contains(&tier.as_str()));
    (!tiers.is_empty() && all).then_some(tiers.len())
}

/// Whether a topic has no ledger but such as are being deleted.
pub(super) fn are_given_up(cluster: &Cluster, topic: &str) -> bool {
    let ledgers = ask(cluster, &["ledger", "list", "--topic", topic]);
    ledgers.iter().all(|ledger| ledger["state"] == "deleting")
}

/// Bytes on the disk of what holds entries in a bookie's data directory.
pub(super) fn log_bytes(bookie: &Node) -> u64 {
    bookie.data_dir.as_deref().map_or(0, |dir| below(dir, "log"))
}

/// The same of all bookies.
pub(super) fn all_log_bytes(cluster: &Cluster) -> u64 {
    cluster.bookies.iter().map(log_bytes).sum()
}

fn below(dir: &Path, extension: &str) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => below(&entry.path(), extension),
        Ok(meta) if entry.path().extension().is_some_and(|end| end == extension) => meta.len(),
        _ => 0,
    };
    entries.map(of).sum()
}
