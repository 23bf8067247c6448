//! Commands that go to the metadata store themselves, on a real etcd and on a file.

use geminga_harness::{Etcd, port};
use serde_json::Value;

use crate::{geminga, text};

fn refused(args: &[&str], code: i32, reason: &str) {
    let output = geminga(args, &[]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(stderr.trim_end().ends_with(&format!("({reason})")), "{args:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
}

#[test]
fn a_cluster_is_made_once_and_shown() {
    let etcd = Etcd::start();
    let url = format!("etcd://{}/prod", etcd.endpoint());
    let dump = ["meta", "dump", "--metastore", &url];
    refused(&dump, 1, "NO_CLUSTER");

    let init = ["cluster", "init", "--metastore", &url, "--output", "json"];
    let output = geminga(&init, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let made: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(made["metastore"], url.as_str());
    refused(&init, 1, "CLUSTER_EXISTS");

    let output = geminga(&["meta", "dump", "--metastore", &url, "--output", "json"], &[]);
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["keys"][0]["key"], "cluster");
    assert_eq!(shown["keys"][0]["value"]["uuid"], made["cluster"]);

    etcd.ctl(&["put", "/geminga/foreign/what", "ever"]);
    let foreign = format!("etcd://{}/foreign", etcd.endpoint());
    refused(&["cluster", "init", "--metastore", &foreign], 1, "METADATA_NOT_EMPTY");
}

#[test]
fn nobody_there_is_said_in_one_line() {
    let nowhere = format!("etcd://{}", port::free_address());
    refused(&["cluster", "init", "--metastore", &nowhere], 4, "METADATA_UNAVAILABLE");
    refused(&["meta", "dump", "--metastore", &nowhere], 4, "METADATA_UNAVAILABLE");
    let output = geminga(&["meta", "dump", "--metastore", "file://no/such/file"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no such file"), "{}", text(&output.stderr));
}
