//! Quotas, set while a client writes: it is slowed down to them, gets no error, and goes on as before when they go.

use geminga_harness::{Cluster, Running, http, wait};

/// What it may write a second, as an argument and in bytes.
const QUOTA: (&str, f64) = ("512KiB", 512.0 * 1024.0);
/// It writes so much without being held back: more than a quota that counts lets through at once.
const FREE: f64 = 32.0 * QUOTA.1;
/// It is watched until it was held back for so many seconds.
const HELD_SECONDS: f64 = 16.0;

/// What a broker counts.
struct Counts<'a>(&'a str);

impl Counts<'_> {
    fn of(&self, metric: &str) -> f64 {
        http::metric(self.0, metric).unwrap_or_default()
    }

    /// Bytes that it took.
    fn taken(&self) -> f64 {
        self.of("geminga_produce_bytes_total")
    }

    /// How often a producer was held back.
    fn held_back(&self) -> f64 {
        self.of("geminga_quota_throttled_total{quota=\"producer_byte_rate\"}")
    }

    /// For how long, seconds.
    fn held_seconds(&self) -> f64 {
        self.of("geminga_quota_throttled_seconds_total{quota=\"producer_byte_rate\"}")
    }

    /// Waits until the client writes as it likes.
    fn wait_free(&self, producer: &mut Running) {
        let mut from = (self.held_back(), self.taken());
        wait::until("the client to write much without being held back", || {
            assert!(producer.is_running(), "{}", producer.stderr());
            let now = (self.held_back(), self.taken());
            if now.0 > from.0 {
                from = now;
            }
            (now.1 - from.1 > FREE).then_some(())
        });
    }
}

#[test]
fn a_quota_that_is_set_slows_a_client_down_until_it_is_removed() {
    let cluster = Cluster::start(3, 1);
    let (client, http) = (cluster.client(0), cluster.brokers[0].http.clone());
    let counts = Counts(&http);
    client.run(&["topic", "create", "q", "--partitions", "4"]).ok();
    let args =
        ["perf", "produce", "q", "--records", "10000000", "--size", "1024", "--rate", "4096"];
    let mut producer = client.spawn(&args);
    counts.wait_free(&mut producer);
    assert_eq!(client.json(&["quota", "list"])["quotas"].as_array().map(Vec::len), Some(0));

    // Another client's quota is not this one's.
    client.run(&["quota", "set", "somebody-else", "--producer-byte-rate", "1KiB"]).ok();
    counts.wait_free(&mut producer);
    assert!(counts.held_back() <= 0.0, "nobody is held back where nothing is set for it");
    client.run(&["quota", "set", "--default", "--producer-byte-rate", QUOTA.0]).ok();
    // What it may at once is behind it by then.
    wait::until("the client to be held back", || (counts.held_seconds() >= 2.0).then_some(()));
    let (taken, held) = (counts.taken(), counts.held_seconds());
    let held = wait::until("the client to be held back for long", || {
        Some(counts.held_seconds() - held).filter(|held| *held >= HELD_SECONDS)
    });
    // It does little but wait, so that what it writes takes about the time that it was held back for.
    let each_second = (counts.taken() - taken) / held;
    println!("{each_second:.0} bytes for each second that it was held back");
    assert!(each_second > QUOTA.1 / 4.0 && each_second < 2.0 * QUOTA.1, "{each_second}");
    assert!(producer.is_running(), "it gets no error");
    let list = client.json(&["quota", "list"]);
    assert_eq!(list["quotas"][0]["client_id"], serde_json::Value::Null);
    assert_eq!(list["quotas"][0]["producer_byte_rate"], 512 << 10);
    assert_eq!(list["quotas"][1]["client_id"], "somebody-else");

    client.run(&["quota", "remove", "--default", "--quota", "producer_byte_rate"]).ok();
    counts.wait_free(&mut producer);
    producer.kill();
    let refused = client.run(&["quota", "set", "x", "--request-rate", "0"]);
    refused.refused("INVALID_REQUEST");
}
