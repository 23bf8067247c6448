//! Quotas, set while a client writes: it is slowed down to them, gets no error, and goes on as before when they go.

use std::time::Duration;

use geminga_harness::{Cluster, Running, http, wait};
use tokio::time::Instant;

/// What the client would write a second, bytes.
const FREE: f64 = 4.0 * 1024.0 * 1024.0;
/// What it may, as an argument and in bytes.
const QUOTA: (&str, f64) = ("512KiB", 512.0 * 1024.0);

/// What a broker takes a second, over so long.
fn rate(http: &str, over: Duration) -> f64 {
    let taken = || http::metric(http, "geminga_produce_bytes_total").unwrap_or_default();
    let (before, begun) = (taken(), Instant::now());
    std::thread::sleep(over);
    (taken() - before) / begun.elapsed().as_secs_f64()
}

#[test]
fn a_quota_that_is_set_slows_a_client_down_until_it_is_removed() {
    let cluster = Cluster::start(3, 1);
    let (client, http) = (cluster.client(0), cluster.brokers[0].http.clone());
    client.run(&["topic", "create", "q", "--partitions", "4"]).ok();
    let args =
        ["perf", "produce", "q", "--records", "10000000", "--size", "1024", "--rate", "4096"];
    let mut producer = client.spawn(&args);
    let is_free = |producer: &mut Running| {
        wait::until("the client to write as it likes", || {
            assert!(producer.is_running(), "{}", producer.stderr());
            (rate(&http, Duration::from_secs(1)) > FREE / 2.0).then_some(())
        });
    };
    is_free(&mut producer);
    assert_eq!(client.json(&["quota", "list"])["quotas"].as_array().map(Vec::len), Some(0));
    let throttled =
        || http::metric(&http, "geminga_quota_throttled_total{quota=\"producer_byte_rate\"}");
    assert!(throttled() <= Some(0.0), "nobody is held back where nothing is set");

    // Another client's quota is not this one's.
    client.run(&["quota", "set", "somebody-else", "--producer-byte-rate", "1KiB"]).ok();
    is_free(&mut producer);
    client.run(&["quota", "set", "--default", "--producer-byte-rate", QUOTA.0]).ok();
    let slowed = || (rate(&http, Duration::from_secs(8)) < 2.0 * QUOTA.1).then_some(());
    wait::until("the client to keep to its quota", slowed);
    let slow = rate(&http, Duration::from_secs(8));
    assert!(slow > QUOTA.1 / 4.0 && slow < 2.0 * QUOTA.1, "{slow} bytes a second");
    assert!(throttled() > Some(0.0));
    assert!(producer.is_running(), "it gets no error");
    let list = client.json(&["quota", "list"]);
    assert_eq!(list["quotas"][0]["client_id"], serde_json::Value::Null);
    assert_eq!(list["quotas"][0]["producer_byte_rate"], 512 << 10);
    assert_eq!(list["quotas"][1]["client_id"], "somebody-else");

    client.run(&["quota", "remove", "--default", "--quota", "producer_byte_rate"]).ok();
    is_free(&mut producer);
    producer.kill();
    let refused = client.run(&["quota", "set", "x", "--request-rate", "0"]);
    refused.refused("INVALID_REQUEST");
}
