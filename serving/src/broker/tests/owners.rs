//! Partitions that are served wherever a client asks, and by another broker when their owner goes.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_broker_serves_any_partition() {
    const PARTITIONS: u32 = 4;
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "flights", PARTITIONS).await;
    one.wait_spread("flights", 2).await;
    two.wait_spread("flights", 2).await;
    for (node, values) in [(&one, 0..100), (&two, 100..200)] {
        let mut producer = Producer::open(node).await;
        for partition in 0..PARTITIONS {
            producer.send_all("flights", partition, values.clone()).await;
        }
    }
    let all: Vec<u64> = (0..200).collect();
    for node in [&one, &two] {
        assert_eq!(read_all(node, "flights", PARTITIONS).await, vec![all.clone(); 4]);
        let at = Some(v1::list_offsets_request::At::Latest(true));
        let request =
            v1::ListOffsetsRequest { topic: "flights".to_owned(), at, ..Default::default() };
        let found = node.topics().await.list_offsets(request).await.unwrap().into_inner();
        let offsets: Vec<i64> = found.offsets.iter().map(|o| o.offset).collect();
        assert_eq!(offsets, [200; 4]);
        let request = v1::DescribeTopicRequest { name: "flights".to_owned() };
        let described = node.topics().await.describe_topic(request).await.unwrap().into_inner();
        for partition in described.partitions {
            assert_eq!(partition.high_watermark, Some(200));
            assert_eq!(partition.segments.len(), 1, "{partition:?}");
            assert_eq!(partition.segments[0].bookies.len(), 3);
        }
    }
    let mut status = ClusterClient::new(two.channel().await);
    let status = status.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.brokers.len(), status.bookies.len(), status.topics), (2, 3, 1));
    assert!(status.bookies.iter().all(|b| b.live && b.writable));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_directly_is_told_where_to_ask() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 2).await;
    one.wait_spread("t", 2).await;
    two.wait_spread("t", 2).await;
    let elsewhere = one.owners("t").await.iter().position(|o| *o == two.broker.id()).unwrap();
    let elsewhere = u32::try_from(elsewhere).unwrap();
    let mut producer = Producer::open(&one).await;
    producer.direct = true;
    let results = producer.send(vec![element(1, "t", elsewhere, "1".to_owned())]).await;
    let error = results[&1].error.clone().expect("refused");
    assert_eq!((error.reason.as_str(), &error.owner_address), ("NOT_OWNER", &two.address));
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: vec![v1::FetchPartition { partition: elsewhere, offset: 0 }],
        direct: true,
        once: true,
        ..Default::default()
    };
    let mut client = StreamClient::new(one.channel().await);
    let answer = client.fetch(request).await.unwrap().into_inner().message().await.unwrap();
    let error = answer.expect("an answer").partitions.remove(0).error.expect("refused");
    assert_eq!((error.reason.as_str(), &error.owner_address), ("NOT_OWNER", &two.address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_a_broker_dies_the_other_takes_over_and_nothing_acknowledged_is_lost() {
    const PARTITIONS: u32 = 4;
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", PARTITIONS).await;
    one.wait_spread("t", 2).await;
    let streams = (0..PARTITIONS).map(|partition| {
        let two = &two;
        async move {
            let mut producer = Producer::open(two).await;
            producer.send_all("t", partition, 0..2_000).await;
        }
    });
    let kill = async {
        // Some is written before, some after.
        let mut producer = Producer::open(&two).await;
        producer.send_all("other", 0, 0..200).await;
        one.kill();
    };
    create(&two, "other", 1).await;
    let work = futures::future::join(futures::future::join_all(streams), kill);
    tokio::time::timeout(LIMIT, work).await.expect("in time");
    two.wait_owned_by("t", two.broker.id()).await;
    for values in read_all(&two, "t", PARTITIONS).await {
        // Unknown outcomes were sent again: the first deliveries are in order, and none is missing.
        let mut seen = 0;
        for value in values {
            assert!(value <= seen, "{value} before {seen}");
            seen = seen.max(value + 1);
        }
        assert_eq!(seen, 2_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_in_good_order_hands_over_at_once() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 4).await;
    two.wait_spread("t", 2).await;
    assert_eq!(two.broker.is_ready(), Ok(()));
    let mut producer = Producer::open(&one).await;
    producer.send_all("t", 0, 0..100).await;
    one.broker.shutdown().await;
    assert_eq!(one.broker.is_ready(), Err("shutting down".to_owned()));
    two.wait_owned_by("t", two.broker.id()).await;
    let ended = producer.answers.message().await.expect_err("the stream has ended");
    assert_eq!(ApiError::from_status(&ended).reason, Reason::ShuttingDown);
    let values = read_all(&two, "t", 4).await;
    assert_eq!(values[0], (0..100).collect::<Vec<_>>());
}
