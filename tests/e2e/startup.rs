//! What servers need is away, full or not to be believed when they start: they are up, say in one line what is wrong, and begin by
//! themselves once that is repaired.

use std::path::Path;

use geminga_harness::flights::{Flights, Record};
use geminga_harness::{
    Authority, Bucket, Cluster, Etcd, Host, Node, Pair, Valid, http, port, wait,
};

use crate::tiering;
use crate::topic;

/// Waits until a server says so at `/readyz`: in one line, while it is alive.
#[track_caller]
fn says(node: &mut Node, expected: &str) {
    let what = format!("{} to say {expected:?}", node.process.name());
    let said = wait::until(&what, || {
        assert!(node.process.is_running(), "it ended instead of waiting");
        let (status, said) = http::get(&node.http, "/readyz")?;
        (status == 503 && said.contains(expected)).then_some(said)
    });
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("not ready: "), "{said}");
    assert_eq!(http::get(&node.http, "/livez").map(|(status, _)| status), Some(200));
}

/// Waits until a server that is ready says at `/readyz` that it does without the object store, or nothing of it.
#[track_caller]
fn says_without(node: &Node, expected: Option<&str>) {
    let what = format!("{} to say {expected:?}", node.process.name());
    wait::until(&what, || {
        let (status, said) = http::get(&node.http, "/readyz")?;
        assert_eq!((status, said.lines().next()), (200, Some("ready")), "{said}");
        let without = said.strip_prefix("ready\n").unwrap_or_default();
        let begins = |expected| without.starts_with(&format!("but the object store {expected}"));
        let is_said =
            expected.map_or(without.is_empty(), |e| begins(e) && without.lines().count() == 1);
        is_said.then_some(())
    });
}

/// Lines of its log with these words.
fn logged(node: &Node, words: &str) -> usize {
    node.process.log().lines().filter(|line| line.contains(words)).count()
}

#[test]
fn servers_wait_for_an_etcd_that_is_away_or_full() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=4000000"]);
    let mut cluster = Cluster::start_on(etcd, 0, 0);
    cluster.etcd.kill();
    for _ in 0..3 {
        cluster.add_bookie();
    }
    cluster.add_broker();
    let away = format!("the metadata store at {} does not answer: ", cluster.metastore());
    for node in cluster.bookies.iter_mut().chain(&mut cluster.brokers) {
        says(node, &away);
        assert_eq!(logged(node, &away), 1, "{}", node.process.log());
    }
    // A signal ends the waiting.
    let broker = &mut cluster.brokers[0];
    assert_eq!(broker.process.terminate().code(), Some(130));
    assert!(broker.process.log().contains("stopped by SIGTERM before it was ready"));
    broker.process.restart();
    says(broker, &away);

    // It answers, and takes nothing.
    let (first, rest) = cluster.bookies.split_first_mut().expect("three bookies");
    for node in rest.iter_mut().chain(&mut cluster.brokers) {
        node.process.kill();
    }
    first.process.kill();
    cluster.etcd.restart();
    cluster.etcd.fill();
    first.process.restart();
    says(first, "metadata store is out of space: compact and defragment etcd");
    assert_eq!(logged(first, "is out of space"), 1, "{}", first.process.log());
    cluster.etcd.make_space();
    first.wait_ready();
    assert_eq!(logged(first, "the metadata store answers"), 1, "{}", first.process.log());

    for node in rest.iter_mut().chain(&mut cluster.brokers) {
        node.process.restart();
    }
    cluster.wait_ready();
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"one\n").ok();
    assert_eq!(topic::values(&client, "t"), "one\n");
}

/// An etcd by TLS, and a bookie that is told to believe the authority in `ca`.
fn bookie_of(etcd: &Etcd, ca: &Path, pair: &Pair, scheme: &str, dir: &Path) -> Node {
    let flag = |name: &str, path: &Path| format!("--etcd-{name}={}", path.display());
    let mut more = vec![flag("ca", ca), flag("cert", &pair.cert), flag("key", &pair.key)];
    if scheme != "https" {
        more.clear();
    }
    let metastore = format!("{scheme}://{}/test", etcd.endpoint());
    Node::bookie(&Host::here(), "bookie-1", &port::free_address(), &metastore, dir, &more)
}

#[test]
fn servers_wait_for_an_etcd_that_they_believe_and_that_believes_them() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let shown = authority.issue();
    let etcd = Etcd::start_tls(&authority.ca(), &shown);
    let (ca, own) = (dir.path().join("ca.pem"), other.issue());
    std::fs::copy(other.ca(), &ca).expect("writable");
    let mut bookie = bookie_of(&etcd, &ca, &own, "https", dir.path());

    // Files are read again, and etcd reads its own for every connection.
    says(
        &mut bookie,
        "the certificate of the server is of another authority than those of --tls-ca (of etcd --etcd-ca)",
    );
    std::fs::copy(authority.ca(), &ca).expect("writable");
    says(&mut bookie, "the server does not accept this side's certificate (BadCertificate)");
    own.replace_by(&authority.issue());
    bookie.wait_ready();
    let (_, metrics) = http::get(&bookie.http, "/metrics").expect("an answer");
    let expires =
        "geminga_tls_certificate_expires_timestamp_seconds{certificate=\"etcd\"} 4102444800";
    assert!(metrics.contains(expires), "{metrics}");

    for (wrong, expected) in [
        (
            authority.issue_named(&["elsewhere.example"]),
            "not for the address that was connected to",
        ),
        (authority.issue_valid(Valid::Before), "the certificate of the server has expired"),
    ] {
        bookie.process.kill();
        shown.replace_by(&wrong);
        bookie.process.restart();
        says(&mut bookie, expected);
        shown.replace_by(&authority.issue());
        bookie.wait_ready();
    }

    // One end by TLS, the other not.
    let plain = tempfile::tempdir().expect("a temporary directory");
    let mut bookie = bookie_of(&etcd, &ca, &own, "etcd", plain.path());
    says(&mut bookie, "if it speaks TLS, --metastore has to begin with https://");
    bookie.process.kill();
    let etcd = Etcd::start();
    let mut bookie = bookie_of(&etcd, &ca, &own, "https", plain.path());
    says(&mut bookie, "in the TLS handshake: see its log, and whether that port speaks TLS");
}

#[test]
fn servers_start_without_the_object_store_and_use_it_once_it_answers() {
    let address = port::free_address();
    let [store, endpoint] = Bucket::flags_of(&address);
    let url = store.strip_prefix("--object-store=").expect("a flag");
    let mut cluster = tiering::start(url, &[&endpoint]);
    cluster.add_broker();
    cluster.wait_ready();
    for bookie in &cluster.bookies {
        let begins = "tiering begins when the object store answers";
        assert_eq!(logged(bookie, begins), 1, "{}", bookie.process.log());
    }
    for broker in &cluster.brokers {
        // It refused at once, or said nothing in time.
        let told = logged(broker, "whose the object store is cannot be asked")
            + logged(broker, "the object store does not answer");
        assert_eq!(told, 1, "{}", broker.process.log());
    }
    let nodes: Vec<_> = cluster.bookies.iter().chain(&cluster.brokers).collect();
    nodes.iter().for_each(|node| says_without(node, Some(url)));

    // Records are acknowledged without it.
    // Several segments of 1 MiB, however large the entries become in which they are written.
    let few = Flights::load().first(120_000);
    let client = cluster.client(0);
    let small = ["--config", "segment.bytes=1048576", "--config", "remote.storage.enable=true"];
    client.run(&[&["topic", "create", "t", "--partitions", "1"][..], &small].concat()).ok();
    let (mut producer, _) = topic::produce(&client, "t", cluster.dir());
    producer.feed(&Flights::lines(few.rows()));
    producer.finish().ok();
    cluster.wait_ready();
    assert!(tiering::tiers(&cluster, &client, "t").iter().all(|tier| tier == "LOCAL"));

    let dir = tempfile::tempdir().expect("a directory for the server");
    let _bucket = Bucket::start_at(&address, dir.path());
    let nodes = cluster.bookies.iter().chain(&cluster.brokers);
    nodes.for_each(|node| says_without(node, None));
    wait::until("every closed segment to be in the object store only", || {
        let tiers = tiering::tiers(&cluster, &client, "t");
        (tiers.len() > 2 && tiers.iter().all(|tier| tier == "TRIMMED")).then_some(())
    });
    // The broker that is left has nothing of them in memory, and began without the store as well.
    let owner = topic::busiest_broker(&cluster, &client, "t");
    let left = 1 - owner;
    cluster.brokers[owner].process.kill();
    let args = ["consume", "t", "--from-beginning", "--until-end", "--format", "json"];
    let records = Record::parse_all(&cluster.client(left).run(&args).ok());
    few.judge(&topic::in_log_order(&[records])).exactly_once();
    let cold = http::metric(&cluster.brokers[left].http, "geminga_cold_read_bytes_total");
    assert!(cold.is_some_and(|bytes| bytes > 1_000_000.0), "{cold:?}");
}
