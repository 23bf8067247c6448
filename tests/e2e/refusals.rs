//! What must be refused well: one line that says what to do, a stable reason, a non-zero exit; and nothing that was
//! acknowledged is lost by it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use geminga_harness::{Client, Cluster, Finished, binary, http, port, wait};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;

use crate::topic::{self, cluster_with_records, still_kept};

#[test]
fn requests_that_cannot_be_served() {
    let (cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    let create = |args: &[&str]| client.run(&[&["topic", "create"], args].concat());

    client.run_with(&["produce", "nowhere"], b"x\n").refused("UNKNOWN_TOPIC");
    client.run(&["consume", "nowhere", "--until-end"]).refused("UNKNOWN_TOPIC");
    client.run(&["topic", "describe", "nowhere"]).refused("UNKNOWN_TOPIC");
    client.run(&["topic", "delete", "nowhere"]).refused("UNKNOWN_TOPIC");
    create(&["no spaces", "--partitions", "1"]).refused("INVALID_NAME");
    create(&["none", "--partitions", "0"]).refused("INVALID_PARTITIONS");
    create(&["huge", "--partitions", "10001"]).refused("INVALID_PARTITIONS");
    create(&["kept", "--partitions", "1"]).refused("TOPIC_EXISTS");
    create(&["t", "--partitions", "1", "--write-quorum", "4"]).refused("NOT_ENOUGH_BOOKIES");
    let single = ["t", "--partitions", "1", "--write-quorum", "3", "--ack-quorum", "1"];
    create(&single).refused("INVALID_QUORUM");
    create(&["t", "--partitions", "1", "--config", "segment.bites=1"]).refused("INVALID_CONFIG");
    let one = ["t", "--partitions", "1", "--write-quorum", "1", "--ack-quorum", "1"];
    create(&one).refused("INVALID_QUORUM");
    create(&[&one[..], &["--allow-single-copy"]].concat()).ok();

    create(&["short", "--partitions", "1", "--config", "max.message.bytes=1000"]).ok();
    let long = [b"before\n".to_vec(), b"y".repeat(2_000), b"\nafter\n".to_vec()].concat();
    let report = cluster.dir().join("short.report");
    let path = report.to_str().expect("a plain path");
    let refused = client.run_with(&["produce", "short", "--report", path], &long);
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    refused.refused("MESSAGE_TOO_LARGE");
    let fates = std::fs::read_to_string(&report).expect("a report");
    let fates: Vec<&str> = fates.lines().collect();
    assert_eq!(fates.len(), 3, "{fates:?}");
    assert!(fates[1].contains(r#""error":"MESSAGE_TOO_LARGE""#), "{fates:?}");
    // One that is too large for any topic.
    let longest = [b"y".repeat(2_000_000), b"\n".to_vec()].concat();
    client.run_with(&["produce", "kept"], &longest).refused("MESSAGE_TOO_LARGE");
    client.run_with(&["produce", "short"], b"fits\n").ok();
    assert_eq!(topic::values(&client, "short"), "before\nafter\nfits\n");

    still_kept(&client, &flights);
}

#[test]
fn a_corrupt_batch_is_refused_and_the_next_one_is_not() {
    let (cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let reason = |batch: Vec<u8>| {
        let server = format!("http://{}", client.server());
        let asked = async move {
            let mut stream = StreamClient::connect(server).await.expect("a connection");
            let element = v1::ProduceElement {
                topic: "kept".to_owned(),
                partition: Some(0),
                data: Some(v1::produce_element::Data::Batch(batch.into())),
                ..Default::default()
            };
            let request = v1::ProduceRequest { elements: vec![element], ..Default::default() };
            let requests = tokio_stream::iter([request]);
            let mut answers = stream.produce(requests).await.expect("accepted").into_inner();
            let answer = answers.message().await.expect("an answer").expect("not the end");
            answer.results.into_iter().next().expect("one result").error.map(|e| e.reason)
        };
        let answered = async { tokio::time::timeout(wait::PATIENCE, asked).await };
        runtime.block_on(answered).expect("an answer in time")
    };
    assert_eq!(reason(b"not a batch".to_vec()).as_deref(), Some("CORRUPT_BATCH"));
    assert_eq!(reason(vec![0; 200]).as_deref(), Some("CORRUPT_BATCH"));
    assert_eq!(reason(Vec::new()).as_deref(), Some("CORRUPT_BATCH"));
    still_kept(&client, &flights);
}

/// A few bytes of a Kafka client that claims to ask for 16.7 million topics.
#[test]
fn a_hostile_kafka_frame_ends_its_connection_and_is_counted() {
    let (cluster, flights) = cluster_with_records();
    let kafka = cluster.brokers[0].kafka.as_deref().expect("a broker serves Kafka clients");
    let hangups = || {
        let counted = http::metric(&cluster.brokers[0].http, "geminga_kafka_hangups_total");
        counted.expect("a broker's metrics")
    };
    let before = hangups();
    let claims =
        [&14_u32.to_be_bytes()[..], &[0, 3, 0, 1, 0, 0, 0, 1, 255, 255, 0, 255, 255, 255]].concat();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(kafka).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.write_all(&claims).expect("sent");
        let answer = stream.read(&mut [0; 1]).expect("it is closed, not left open");
        assert_eq!(answer, 0, "it is no request, and gets no answer");
    }
    // Counted once the connection is gone, which its client may see first.
    wait::until("three to be counted", || (hangups() - before >= 3.0).then_some(()));
    assert_eq!(hangups() - before, 3.0);
    still_kept(&cluster.client(0), &flights);
}

#[test]
fn too_few_live_bookies() {
    let (mut cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    for bookie in 0..2 {
        cluster.bookies[bookie].process.kill();
    }
    // Registered bookies are enough for the topic, live ones are not: known once the leases have ended.
    wait::until("the refusal for too few live bookies", || {
        let args = ["topic", "create", "late", "--partitions", "1"];
        let Finished { code, stderr, .. } = client.run(&args);
        if code == Some(0) {
            client.run(&["topic", "delete", "late"]).ok();
            return None;
        }
        assert!(stderr.trim_end().ends_with("(NOT_ENOUGH_LIVE_BOOKIES)"), "{stderr}");
        Some(())
    });
    for bookie in 0..2 {
        cluster.bookies[bookie].process.restart();
    }
    cluster.wait_ready();
    still_kept(&client, &flights);
}

/// Starts a server that must refuse to start, and returns what it said.
fn refused_start(cluster: &Cluster, args: &[&str], reason: &str) -> String {
    Client::new("127.0.0.1:1", cluster.dir()).run(args).refused(reason)
}

#[test]
fn servers_that_must_not_start() {
    let (mut cluster, flights) = cluster_with_records();
    let client = cluster.client(0);
    let metastore = cluster.metastore();
    let other_cluster = format!("etcd://{}/other", cluster.etcd.endpoint());
    let (listen, unused) = (port::free_address(), port::free_address());
    let data = |node: usize| {
        let dir = cluster.bookies[node].data_dir.as_ref().expect("a bookie has data");
        dir.to_str().expect("a plain path").to_owned()
    };
    let (first, second) = (data(0), data(1));
    let bookie = |metastore: &str, dir: &str, id: &str| {
        ["bookie", "--metastore", metastore, "--data-dir", dir, "--listen", &listen, "--id", id]
            .map(str::to_owned)
    };
    let start = |args: &[String], reason: &str| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused_start(&cluster, &args, reason)
    };

    // In use, also when everything else is right.
    start(&bookie(&metastore, &first, "bookie-1"), "DATA_DIR_IN_USE");
    // A port that another server has.
    let fresh = cluster.dir().join("fresh");
    let mut taken = bookie(&metastore, fresh.to_str().expect("a plain path"), "bookie-9");
    taken[6].clone_from(&cluster.bookies[0].address);
    start(&taken, "PORT_IN_USE");
    assert!(!fresh.exists(), "a server that could not listen has written already");
    start(
        &[
            "serving",
            "--metastore",
            &metastore,
            "--grpc",
            &cluster.brokers[0].address,
            "--http",
            &unused,
        ]
        .map(str::to_owned),
        "PORT_IN_USE",
    );
    // Of another bookie, of another cluster.
    cluster.bookies[1].process.kill();
    let refused = |cluster: &Cluster, args: &[String], reason: &str| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        refused_start(cluster, &args, reason)
    };
    refused(&cluster, &bookie(&metastore, &second, "bookie-3"), "DATA_DIR_OF_ANOTHER_BOOKIE");
    let init = ["cluster", "init", "--metastore", &other_cluster];
    client.run(&init).ok();
    refused(&cluster, &bookie(&other_cluster, &second, "bookie-2"), "DATA_DIR_OF_ANOTHER_CLUSTER");
    client.run(&init).refused("CLUSTER_EXISTS");

    cluster.bookies[1].process.restart();
    cluster.wait_ready();
    still_kept(&client, &flights);
}

#[test]
fn standalone_refuses_a_directory_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let data = dir.path().join("data");
    let addresses: Vec<String> = (0..4).map(|_| port::free_address()).collect();
    let args = |grpc: &str, http: &str| {
        [
            "standalone",
            "--data-dir",
            data.to_str().expect("a plain path"),
            "--grpc",
            grpc,
            "--http",
            http,
            "--kafka=none",
        ]
        .map(str::to_owned)
    };
    let mut server = geminga_harness::Process::start(
        "standalone",
        &binary::geminga(),
        args(&addresses[0], &addresses[1]),
        dir.path(),
    );
    wait::until("a standalone server", || http::is_ready(&addresses[1]).then_some(()));
    let client = Client::new(&addresses[0], dir.path());
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"one\ntwo\n").ok();

    let second = args(&addresses[2], &addresses[3]);
    let second: Vec<&str> = second.iter().map(String::as_str).collect();
    client.run(&second).refused("DATA_DIR_IN_USE");

    // A stop in good order, then one without warning: all is there again each time.
    for graceful in [true, false] {
        if graceful {
            assert!(server.terminate().success(), "not a good end");
        } else {
            server.kill();
        }
        server.restart();
        wait::until("a standalone server", || http::is_ready(&addresses[1]).then_some(()));
        let args = ["consume", "t", "--from-beginning", "--until-end"];
        assert_eq!(client.run(&args).ok(), b"one\ntwo\n");
    }
}

/// Whose an object store is, its marker says: nobody of another cluster begins with it, and nobody at all with another store of its name.
#[test]
fn an_object_store_that_is_not_the_clusters() {
    let dir = tempfile::tempdir().expect("a directory");
    let (at, away) = (dir.path().join("objects"), dir.path().join("unmounted"));
    let store = format!("--object-store=file://{}", at.display());
    let mut cluster = Cluster::start_with(1, 1, &[&store], &[&store]);
    assert!(at.join("geminga.store").is_file(), "marked by whoever used it first");
    let client = cluster.client(0);
    let refused = |args: &[&str]| {
        let ended = client.run(&[args, &["--http=127.0.0.1:0", &store]].concat());
        let told = ended.stderr.contains("OTHER_OBJECT_STORE");
        assert!(ended.code != Some(0) && told, "{args:?}: {}", ended.stderr);
    };
    // Another cluster in the same etcd.
    let other = format!("--metastore=etcd://{}/another", cluster.etcd.endpoint());
    let data = format!("--data-dir={}", dir.path().join("bookie").display());
    refused(&["bookie", &other, &data, "--listen=127.0.0.1:0"]);
    refused(&["serving", &other, "--grpc=127.0.0.1:0", "--kafka=127.0.0.1:0"]);

    // A directory that is not mounted.
    std::fs::rename(&at, &away).expect("a directory");
    cluster.kill_servers();
    let own = format!("--metastore={}", cluster.metastore());
    refused(&["serving", &own, "--grpc=127.0.0.1:0", "--kafka=127.0.0.1:0"]);
    let bookie = &mut cluster.bookies[0].process;
    bookie.restart();
    assert!(!bookie.wait().success());
    assert!(bookie.log().contains("nor the objects of this cluster"), "{}", bookie.log());
    std::fs::rename(&away, &at).expect("a directory");
    bookie.restart();
    cluster.bookies[0].wait_ready();
}
