//! `geminga cluster doctor` on a real cluster: silent while it is well, and right about what is not.

use geminga_harness::{Cluster, wait};
use serde_json::Value;

/// Exit code and what was found, as JSON.
fn findings(cluster: &Cluster) -> (Option<i32>, Vec<String>) {
    let metastore = cluster.metastore();
    let args = ["cluster", "doctor", "--metastore", &metastore, "--output", "json"];
    let done = cluster.client(0).run(&args);
    let said: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", done.stderr));
    let found = said["findings"].as_array().expect("findings").iter();
    (done.code, found.map(|one| one["what"].as_str().expect("a sentence").to_owned()).collect())
}

#[test]
fn a_doctor_finds_nothing_and_then_what_was_broken() {
    let mut cluster = Cluster::start(4, 2);
    cluster.client(0).run(&["topic", "create", "t", "--partitions", "4"]).ok();
    cluster.client(0).run_with(&["produce", "t"], b"one\ntwo\nthree\nfour\n").ok();
    wait::until("nothing to find", || {
        let (code, found) = findings(&cluster);
        (code == Some(0) && found.is_empty()).then_some(())
    });

    // As a set that was scaled by hand: the last one goes.
    cluster.bookies[3].process.kill();
    let bookie = "bookie-4 is gone";
    wait::until("the bookie to be missed", || {
        let (code, found) = findings(&cluster);
        let missed = found.iter().any(|what| what.contains(bookie));
        missed.then(|| {
            assert!(code == Some(1) || found.iter().all(|w| w.contains("nothing is kept")))
        })
    });

    cluster.bookies[3].process.restart();
    cluster.wait_ready();
    wait::until("all to be well again", || {
        let (code, found) = findings(&cluster);
        (code == Some(0) && found.is_empty()).then_some(())
    });
}
