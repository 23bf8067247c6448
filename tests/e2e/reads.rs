//! Readers that are far behind, beside consumers that keep up.

use geminga_harness::{Cluster, http, wait};

use crate::topic;

const RECORDS: &str = "8000";

/// A consumer that keeps up never needs a bookie, whatever others read meanwhile; and what they read is bounded.
#[test]
fn who_keeps_up_reads_from_memory_while_others_read_everything() {
    let mut cluster = Cluster::start_with(3, 1, &[], &["--memory=256MiB"]);
    let client = cluster.client(0);
    for name in ["old", "live"] {
        client.run(&["topic", "create", name, "--partitions", "1"]).ok();
    }
    let load = ["old", "--records", RECORDS, "--size", "4096"];
    client.run(&[&["perf", "produce"][..], &load].concat()).ok();
    // Nothing of it is in the memory of a new process.
    cluster.brokers[0].crash_and_restart();
    let (client, http) = (cluster.client(0), cluster.brokers[0].http.clone());
    let metric = |name: &str| http::metric(&http, name).unwrap_or_default();
    assert_eq!(topic::values(&client, "live"), "");

    let tail = client.spawn(&["consume", "live", "--group", "keeps-up", "--from-beginning"]);
    let mut lines = 0;
    let mut one_more = || {
        let line = format!("line {lines}\n");
        client.run_with(&["produce", "live"], line.as_bytes()).ok();
        lines += 1;
        wait::until("the line to arrive", || {
            tail.stdout().ends_with(line.as_bytes()).then_some(())
        });
    };
    one_more();
    let mut behind: Vec<_> =
        (0..3).map(|_| client.spawn(&[&["perf", "consume"][..], &load].concat())).collect();
    let limit = metric("geminga_memory_limit_bytes{part=\"reads\"}");
    wait::until("those who are behind to be through", || {
        one_more();
        let used = metric("geminga_memory_used_bytes{part=\"reads\"}");
        assert!(used <= limit && limit > 0.0, "{used} of {limit}");
        (!behind.iter_mut().any(|reader| reader.is_running())).then_some(())
    });
    for reader in behind {
        reader.finish().ok();
    }
    one_more();

    let read =
        |source: &str| metric(&format!("geminga_fetch_source_bytes_total{{source=\"{source}\"}}"));
    let live = metric("geminga_produce_bytes_total");
    assert_eq!(read("memory"), live, "each record of the consumer that keeps up, once");
    let old = 8_000.0 * 4_096.0;
    assert!(read("ledgers") >= 3.0 * old, "{} of {old}, three times", read("ledgers"));
    let kept = metric("geminga_fetch_ledger_reads_total{how=\"kept\"}");
    assert!(kept > 0.0, "who reads on is read ahead for");
}

/// What each bookie has sent to readers, bytes; nothing of one that is gone.
fn sent(cluster: &Cluster) -> Vec<f64> {
    let of = |address: &str| http::metric(address, "geminga_bookie_read_bytes_total");
    cluster.bookies.iter().map(|bookie| of(&bookie.http).unwrap_or_default()).collect()
}

/// Empties the broker's memory. It closes its ledgers, so that nobody has to read them for that.
fn forget(cluster: &mut Cluster) {
    let process = &mut cluster.brokers[0].process;
    let status = process.terminate();
    assert_eq!(status.code(), Some(0), "{}", process.log());
    process.restart();
    cluster.brokers[0].wait_ready();
}

/// Protocol 6.7: what is in no memory any more is read from the copy in the broker's own zone, and from another one when that is gone.
#[test]
fn a_broker_reads_from_its_own_zone_first() {
    let mut cluster = Cluster::unborn(&[], &["--zone=b"]);
    for zone in ["a", "b", "c"] {
        cluster.add_bookie_with(&[&format!("--zone={zone}")]);
    }
    cluster.add_broker();
    cluster.wait_ready();
    let flights = topic::keep_records(&cluster);

    forget(&mut cluster);
    topic::still_kept(&cluster.client(0), &flights);
    let payload: usize = flights.rows().iter().map(|row| row.value.len()).sum();
    let [a, b, c] = sent(&cluster)[..] else { panic!("three bookies") };
    println!("{a}, {b} and {c} bytes of {payload}");
    assert!(b >= payload as f64, "{b} of {payload} bytes came from the broker's zone");
    // One read that was slow by chance is asked of the others, and they are the first for a while then.
    assert!((a + c) * 10.0 < payload as f64, "{a} and {c} bytes came from other zones");

    cluster.bookies[1].process.kill();
    forget(&mut cluster);
    topic::still_kept(&cluster.client(0), &flights);
    let others: f64 = sent(&cluster).iter().sum();
    println!("{others} bytes from other zones");
    assert!(others >= payload as f64, "{others} of {payload} bytes came from other zones");
}
