//! What is told of a request that took long, and of what it was told itself.

use geminga_runtime::lines::{Lines, field};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::*;

fn millis(line: &str, name: &str) -> u64 {
    field(line, name).unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
}

#[tokio::test]
async fn a_slow_produce_says_that_storage_was_slow() {
    let (rig, _topic) = rig().await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(PRODUCE, &produce(-1, 30_000, 100)).await;
    assert_eq!(wire.produced(1).await.0, 0);
    assert_eq!(lines.with(&["slow"]), [""; 0], "a fast one");

    rig.set_bookies(Mode::Held);
    wire.send(PRODUCE, &produce(-1, 30_000, 100)).await;
    seconds(3).await;
    rig.set_bookies(Mode::Up);
    assert_eq!(wire.produced(2).await.0, 0);
    let [line] = &lines.with(&["slow request", "api=\"Produce\""])[..] else { panic!("{lines:?}") };
    assert!((3_000..4_000).contains(&millis(line, "store_ms")), "{line}");
    assert!(millis(line, "place_ms") < 100 && millis(line, "send_ms") < 100, "{line}");
    assert_eq!((field(line, "partitions"), field(line, "peer")), (Some("1"), Some("127.0.0.1:1")));
    assert!(millis(line, "bytes") > 100 && millis(line, "reply_bytes") > 20, "{line}");
    // What the partition tells of the batch is of the same request.
    let [append] = &lines.with(&["slow append"])[..] else { panic!("{lines:?}") };
    assert_eq!(field(append, "request"), field(line, "request"));
    assert_eq!((field(append, "topic"), field(append, "partition")), (Some("t"), Some("0")));
    assert!((3_000..4_000).contains(&millis(append, "storage_ms")), "{append}");
}

/// It does what its client wants: nobody is to look into it.
#[tokio::test]
async fn a_fetch_that_waits_for_records_is_not_slow() {
    let (rig, _topic) = rig().await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 1 << 20);
    let begun = Instant::now();
    wire.send(FETCH, &fetch(1, 5_000, 1)).await;
    wire.answer::<FetchRequest>(1, FETCH).await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    assert_eq!(lines.with(&["slow"]), [""; 0]);
}

#[tokio::test]
async fn a_client_that_reads_late_is_why_its_requests_are_slow() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 64 * 1024);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    seconds(4).await;
    wire.answer::<FetchRequest>(1, FETCH).await;
    wire.shut();
    wire.end().await.0.unwrap();
    let [line] = &lines.with(&["slow request", "api=\"Fetch\""])[..] else { panic!("{lines:?}") };
    assert!((4_000..5_000).contains(&millis(line, "send_ms")), "{line}");
    assert!(millis(line, "place_ms") < 100 && millis(line, "reply_bytes") > 3_600_000, "{line}");
}

/// Whoever is cut off is one of the slowest there are.
#[tokio::test]
async fn an_answer_that_is_never_written_is_told() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 64 * 1024);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    seconds(READ_PATIENCE.as_secs() + 10).await;
    assert_eq!(wire.end().await.0, Err(Hangup::Slow));
    let [line] = &lines.with(&["slow request", "api=\"Fetch\""])[..] else { panic!("{lines:?}") };
    assert_eq!((field(line, "answered"), field(line, "reply_bytes")), (Some("false"), Some("0")));
    assert!(millis(line, "send_ms") >= 100_000, "{line}");
}

#[tokio::test]
async fn a_wait_that_its_client_gives_up_is_not_slow() {
    let (rig, _topic) = rig().await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(FETCH, &fetch(1, 60_000, 1)).await;
    seconds(5).await;
    wire.shut();
    wire.end().await.0.unwrap();
    assert_eq!(lines.with(&["slow"]), [""; 0]);
}

/// Storage does not come back: this is what the lines are for.
#[tokio::test]
async fn a_batch_that_is_given_up_is_a_slow_append() {
    let (rig, _topic) = rig().await;
    let lines = Lines::capture();
    let mut wire = Wire::new(&rig, 1 << 20);
    rig.set_bookies(Mode::Held);
    wire.send(PRODUCE, &produce(-1, 300_000, 100)).await;
    assert_ne!(wire.produced(1).await.0, 0);
    let [append] = &lines.with(&["slow append"])[..] else { panic!("{lines:?}") };
    assert_eq!(field(append, "acknowledged"), Some("false"));
    let [line] = &lines.with(&["slow request", "api=\"Produce\""])[..] else { panic!("{lines:?}") };
    assert_eq!(field(append, "request"), field(line, "request"));
}

#[test]
fn only_who_waits_for_other_clients_is_never_slow() {
    let waits = |api: &&Api| api.waits_for_others();
    let names: Vec<_> = api::TABLE.iter().filter(waits).map(Api::name).collect();
    assert_eq!(names, ["JoinGroup", "SyncGroup"]);
}

/// So many answers to requests for an API said this.
fn told(metrics: &PrometheusRecorder, api: &str, error: &str) -> Option<u64> {
    let page = metrics.handle().render();
    let series = format!("geminga_kafka_replies_total{{api=\"{api}\",error=\"{error}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
}

#[tokio::test]
async fn what_clients_are_told_is_counted_by_api_and_error() {
    let (rig, _topic) = rig().await;
    let metrics = PrometheusBuilder::new().build_recorder();
    let _counting = ::metrics::set_default_local_recorder(&metrics);
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(PRODUCE, &produce(-1, 30_000, 100)).await;
    assert_eq!(wire.produced(1).await.0, 0);
    // Said of two partitions of one answer, and counted once.
    wire.send(METADATA, &metadata(2)).await;
    wire.answer::<MetadataRequest>(2, METADATA).await;
    wire.send(FETCH, &fetch(1_000, 0, 1)).await;
    let fetched: FetchResponse = wire.answer::<FetchRequest>(3, FETCH).await;
    assert_eq!(fetched.responses[0].partitions[0].error_code, Code::OFFSET_OUT_OF_RANGE.0);
    assert_eq!(told(&metrics, "Produce", "NONE"), Some(1));
    assert_eq!(told(&metrics, "Metadata", "UNKNOWN_TOPIC_OR_PARTITION"), Some(1));
    assert_eq!(told(&metrics, "Metadata", "NONE"), None);
    assert_eq!(told(&metrics, "Fetch", "OFFSET_OUT_OF_RANGE"), Some(1));
    let page = metrics.handle().render();
    assert!(page.contains("geminga_fetch_failures_total{reason=\"OFFSET_OUT_OF_RANGE\"} 1"));
}
