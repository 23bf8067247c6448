//! `geminga cluster doctor` on a real cluster: silent while it is well, and right about what is not.

use geminga_harness::{Cluster, Etcd, port, wait};
use serde_json::Value;

/// Exit code and what was found, as JSON.
fn findings(cluster: &Cluster, more: &[&str]) -> (Option<i32>, Vec<String>) {
    let metastore = cluster.metastore();
    // A test is not about how full the developer's disk is.
    let args = ["cluster", "doctor", "--low-disk=0", "--metastore", &metastore, "--output", "json"];
    let done = cluster.client(0).run(&[&args, more].concat());
    let said: Value = serde_json::from_slice(&done.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", done.stderr));
    let found = said["findings"].as_array().expect("findings").iter();
    (done.code, found.map(|one| one["what"].as_str().expect("a sentence").to_owned()).collect())
}

#[test]
fn a_doctor_finds_nothing_and_then_what_was_broken() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=16000000"]);
    let mut cluster = Cluster::start_on(etcd, 4, 2);
    cluster.client(0).run(&["topic", "create", "t", "--partitions", "4"]).ok();
    cluster.client(0).run_with(&["produce", "t"], b"one\ntwo\nthree\nfour\n").ok();
    wait::until("nothing to find", || {
        let (code, found) = findings(&cluster, &[]);
        (code == Some(0) && found.is_empty()).then_some(())
    });

    // As a set that was scaled by hand: the last one goes.
    cluster.bookies[3].process.kill();
    let bookie = "bookie-4 is gone";
    wait::until("the bookie to be missed", || {
        let (code, found) = findings(&cluster, &[]);
        let missed = found.iter().any(|what| what.contains(bookie));
        missed.then(|| {
            assert!(code == Some(1) || found.iter().all(|w| w.contains("nothing is kept")))
        })
    });

    let by_hand = "the bookies that are gone are the last ones of the set bookie: it looks as if it was made smaller by hand";
    wait::until("the set to be taken for made smaller", || {
        let (code, found) = findings(&cluster, &["--gone-after=1s"]);
        found.iter().any(|what| what == by_hand).then(|| assert_eq!(code, Some(1)))
    });
    let (_, restarted) = findings(&cluster, &[]);
    assert!(!restarted.iter().any(|what| what == by_hand), "one that is restarted: {restarted:?}");

    cluster.bookies[3].process.restart();
    cluster.wait_ready();
    let well = |cluster: &Cluster| {
        wait::until("all to be well again", || {
            let (code, found) = findings(cluster, &[]);
            (code == Some(0) && found.is_empty()).then_some(())
        });
    };
    well(&cluster);

    let endpoint = format!("--object-store-endpoint=http://{}", port::free_address());
    let (code, found) = findings(&cluster, &["--object-store=s3://bucket/prefix", &endpoint]);
    assert!(
        found
            .iter()
            .any(|what| what.contains("the object store s3://bucket/prefix does not answer")),
        "{found:?}"
    );
    assert_eq!(code, Some(1));

    cluster.etcd.fill();
    let (code, found) = findings(&cluster, &[]);
    let full = "etcd is out of space, and takes no writes";
    assert!(found.iter().any(|what| what.starts_with(full)), "{found:?}");
    assert!(found.iter().any(|what| what.contains(" % of its quota of ")), "{found:?}");
    assert_eq!(code, Some(1));
    cluster.etcd.make_space();
    well(&cluster);
}
