//! Commands that move records, with each of their choices.

use geminga_harness::{Cluster, wait};

use crate::topic;

#[test]
fn records_come_back_however_they_were_packed() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    let lines: String = (0..20_000).map(|n| format!("record {n} of many alike\n")).collect();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        client.run(&["topic", "create", compression, "--partitions", "1"]).ok();
        let args = ["produce", compression, "--compression", compression];
        client.run_with(&args, lines.as_bytes()).ok();
        let read = topic::values(&cluster.client(1), compression);
        assert!(read == lines, "{compression}: {} bytes of {}", read.len(), lines.len());
    }

    // Not waited for, and yet written: nothing here fails.
    client.run(&["topic", "create", "unacknowledged", "--partitions", "1"]).ok();
    client.run_with(&["produce", "unacknowledged", "--acks", "none"], lines.as_bytes()).ok();
    wait::until("what was sent without acknowledgement", || {
        (topic::values(&client, "unacknowledged") == lines).then_some(())
    });

    // Bytes that are no text, keys, empty values.
    client.run(&["topic", "create", "bytes", "--partitions", "1"]).ok();
    let input = b"k|v\n|no key text\nkey only|\nplain\n\n\xff\x00|\xfe\n";
    client.run_with(&["produce", "bytes", "--key-separator", "|"], input).ok();
    let args = ["consume", "bytes", "--from-beginning", "--until-end", "--format"];
    let read = client.run(&[&args[..], &["key-value"]].concat()).ok();
    assert_eq!(read, b"k\tv\n\tno key text\nkey only\t\n\tplain\n\t\n\xff\x00\t\xfe\n");
}

#[test]
fn a_measurement_checks_what_it_wrote() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    topic::create(&client, "load");
    let load = ["load", "--records", "20000", "--size", "300"];
    let produce = |more: &[&str]| client.json(&[&["perf", "produce"], &load[..], more].concat());
    let consume = |more: &[&str]| client.run(&[&["perf", "consume"], &load[..], more].concat());

    // Nothing is there yet.
    let missing = consume(&[]);
    assert_eq!(missing.code, Some(3), "{}", missing.stderr);
    missing.refused("CONTENT_MISMATCH");

    let wrote = produce(&["--compression", "lz4"]);
    assert_eq!(wrote["records"], 20_000, "{wrote}");
    assert_eq!(wrote["failed"], 0, "{wrote}");
    assert_eq!(wrote["acknowledged"], true, "{wrote}");
    let read = client.json(&[&["perf", "consume"], &load[..]].concat());
    for (what, count) in [("records", 20_000), ("missing", 0), ("duplicates", 0), ("wrong", 0)] {
        assert_eq!(read[what], count, "{what}: {read}");
    }

    // Other content than expected is found.
    consume(&["--seed", "2"]).refused("CONTENT_MISMATCH");
    let again = produce(&["--rate", "40000"]);
    assert_eq!(again["records"], 20_000, "{again}");
    let read = client.json(&[&["perf", "consume"], &load[..]].concat());
    assert_eq!(read["duplicates"], 20_000, "{read}");

    // A group has read everything once it committed it, and has nothing to read again.
    let read = client.json(&[&["perf", "consume"], &load[..], &["--group", "g"]].concat());
    for (what, count) in [("records", 40_000), ("missing", 0), ("wrong", 0)] {
        assert_eq!(read[what], count, "{what}: {read}");
    }
    let group = client.json(&["group", "describe", "g"]);
    let offsets = group["offsets"].as_array().expect("a line for each partition");
    let committed: i64 = offsets.iter().filter_map(|o| o["offset"].as_i64()).sum();
    assert_eq!(committed, 40_000, "{group}");
    consume(&["--group", "g"]).refused("CONTENT_MISMATCH");

    topic::create(&client, "sent");
    let sent = ["sent", "--records", "20000", "--size", "300"];
    let wrote = client.json(&[&["perf", "produce"], &sent[..], &["--acks", "none"]].concat());
    assert_eq!(wrote["acknowledged"], false, "{wrote}");
    wait::until("what was sent without acknowledgement", || {
        let read = client.run(&[&["perf", "consume"], &sent[..]].concat());
        (read.code == Some(0)).then_some(())
    });
}
