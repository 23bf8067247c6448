//! Calls of gRPC as metrics count them, and their ids on the way from broker to broker.

use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_runtime::lines::{Lines, field};
use geminga_runtime::requests::{HEADER, Requests, RequestsConfig};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;
use crate::router::OffsetAt;

/// All requests are slow.
fn all_slow() -> Requests {
    let config = RequestsConfig { slow: Duration::from_nanos(1), ..RequestsConfig::default() };
    Requests::new(config, &SystemRandom)
}

fn with_id<T>(id: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert(HEADER, id.parse().unwrap());
    request
}

#[tokio::test]
async fn calls_are_counted_by_method_and_status_and_say_their_ids() {
    let metrics = PrometheusBuilder::new().build_recorder();
    let _counting = ::metrics::set_default_local_recorder(&metrics);
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    let mut topics = node.topics().await;
    let describe = |topic: &str| v1::DescribeTopicRequest { name: topic.to_owned() };
    let error = topics.describe_topic(with_id("mine", describe("none"))).await.unwrap_err();
    assert_eq!(error.metadata().get(HEADER).unwrap(), "mine");
    let list = |id| with_id(id, v1::ListTopicsRequest::default());
    let listed = topics.list_topics(list("order-17")).await.unwrap();
    assert_eq!(listed.metadata().get(HEADER).unwrap(), "order-17");
    // What has no place in a log is not taken, and refuses nothing.
    let listed = topics.list_topics(list("two words")).await.unwrap();
    let id = listed.metadata().get(HEADER).unwrap().to_str().unwrap();
    assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");

    let page = metrics.handle().render();
    let count = |method: &str, status: &str| -> Option<u64> {
        let series =
            format!("geminga_grpc_requests_total{{method=\"{method}\",status=\"{status}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    };
    assert_eq!(count("Topics/DescribeTopic", "not_found"), Some(1), "{page}");
    assert_eq!(count("Topics/ListTopics", "ok"), Some(2));
    assert!(page.contains("geminga_grpc_request_seconds_count{method=\"Topics/ListTopics\"} 2"));
}

#[tokio::test]
async fn a_request_has_its_id_at_the_broker_that_it_is_forwarded_to() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let config = Config { lease_ttl: Duration::from_secs(1), ..Config::default() };
    let one = Node::start_as(&cluster, config.clone(), all_slow()).await;
    let two = Node::start_as(&cluster, config, all_slow()).await;
    two.wait_even().await;
    create(&one, "t", 2).await;
    two.wait_spread("t", 2).await;
    let elsewhere = one.owners("t").await.iter().position(|o| *o == two.broker.id()).unwrap();
    let lines = Lines::capture();
    let request = v1::ListOffsetsRequest {
        topic: "t".to_owned(),
        partitions: vec![u32::try_from(elsewhere).unwrap()],
        at: Some(v1::list_offsets_request::At::Latest(true)),
        direct: false,
    };
    one.topics().await.list_offsets(with_id("order-17", request)).await.unwrap();
    let told = lines.with(&["slow request", "request=order-17"]);
    assert_eq!(told.len(), 2, "at both: {lines:?}");
    for line in told {
        assert_eq!(
            (field(&line, "method"), field(&line, "status")),
            (Some("Topics/ListOffsets"), Some("ok"))
        );
    }
}

/// Whoever looks for the stream's id finds all of them, and each is traced or not for itself.
#[tokio::test]
async fn batches_of_a_stream_have_its_id_and_a_number() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start_as(&cluster, Config::default(), all_slow()).await;
    create(&node, "t", 1).await;
    let lines = Lines::capture();
    let (requests, stream) = mpsc::channel(1);
    let mut client = StreamClient::new(node.channel().await);
    let stream = with_id("order-17", ReceiverStream::new(stream));
    let answers = client.produce(stream).await.unwrap().into_inner();
    let mut producer = Producer { requests, answers, direct: false };
    for id in 1..=3 {
        let sent = producer.send(vec![element(id, "t", 0, "a".to_owned())]).await;
        assert!(sent[&id].error.is_none(), "{sent:?}");
    }
    let told = lines.with(&["slow append"]);
    let ids: Vec<_> = told.iter().map(|line| field(line, "request").unwrap()).collect();
    assert_eq!(ids, ["order-17.1", "order-17.2", "order-17.3"]);
}

#[tokio::test]
async fn owners_say_where_their_partitions_end_and_open_none_for_it() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 2).await;
    two.wait_spread("t", 2).await;
    let topic = one.broker.0.topology.resolve("t").await.unwrap();
    let source = &one.broker.kafka().ctx.source;
    let both = [0, 1].map(PartitionIndex);
    assert_eq!(source.ends(&topic, &both).await, []);
    for partition in both {
        source.find_offset(&topic, partition, OffsetAt::Latest).await.unwrap();
    }
    let mut ends = source.ends(&topic, &both).await;
    ends.sort_unstable();
    assert_eq!(ends, both.map(|partition| (partition, Offset(0))));
}
