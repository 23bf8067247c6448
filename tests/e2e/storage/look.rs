//! What is there: which lives ledgers name, what bookies' disks hold, what became of a topic's closed segments.

use std::path::{Path, PathBuf};

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

/// Payload bytes of a topic's closed segments.
pub(super) fn payload_bytes(cluster: &Cluster, topic: &str) -> u64 {
    let ledgers = ask(cluster, &["ledger", "list", "--topic", topic]);
    ledgers.iter().filter_map(|ledger| ledger["payload_bytes"].as_u64()).sum()
}

/// Bytes on the disk of what holds entries in a bookie's data directory.
pub(super) fn log_bytes(bookie: &Node) -> u64 {
    log_files(bookie).iter().map(|(_, bytes)| bytes).sum()
}

/// The files of bookies' logs at one moment, of those that the test did not stop.
#[derive(Debug)]
pub(super) struct Logs(Vec<Vec<(PathBuf, u64)>>);

/// The files as they are.
pub(super) fn logs(cluster: &Cluster) -> Logs {
    let running = cluster.bookies.iter().filter(|bookie| !bookie.process.is_stopped());
    Logs(running.map(log_files).collect())
}

impl Logs {
    pub(super) fn bookies(&self) -> usize {
        self.0.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().flatten().map(|(_, bytes)| bytes).sum()
    }

    /// Of all but the two newest of each bookie, which it writes or is about to.
    pub(super) fn full_bytes(&self) -> u64 {
        let full = |files: &Vec<(PathBuf, u64)>| {
            files.iter().rev().skip(2).map(|(_, bytes)| bytes).sum::<u64>()
        };
        self.0.iter().map(full).sum()
    }

    /// Of those that are not there any more.
    pub(super) fn gone_bytes(&self) -> u64 {
        let gone = self.0.iter().flatten().filter(|(path, _)| !path.exists());
        gone.map(|(_, bytes)| bytes).sum()
    }
}

/// The files of a bookie's log, the oldest first, and their bytes.
fn log_files(bookie: &Node) -> Vec<(PathBuf, u64)> {
    let mut found = bookie.data_dir.as_deref().map_or_else(Vec::new, |dir| below(dir, "log"));
    found.sort();
    found
}

fn below(dir: &Path, extension: &str) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => below(&entry.path(), extension),
        Ok(meta) if entry.path().extension().is_some_and(|end| end == extension) => {
            vec![(entry.path(), meta.len())]
        }
        _ => Vec::new(),
    };
    entries.flat_map(of).collect()
}
