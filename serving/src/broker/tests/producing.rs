//! What becomes of elements: where they go, in which order, and how many are taken.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elements_without_a_partition_go_by_their_key() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 8).await;
    let mut producer = Producer::open(&node).await;
    let keyed = |id: u64, key: &str| {
        let mut element = element(id, "t", 0, id.to_string());
        element.partition = None;
        if let Some(v1::produce_element::Data::Records(records)) = &mut element.data {
            records.records[0].key = Some(Bytes::copy_from_slice(key.as_bytes()));
        }
        element
    };
    let results =
        producer.send(vec![keyed(1, "foobar"), keyed(2, "abc"), keyed(3, "foobar")]).await;
    let partition = |id| results[&id].partition;
    assert_eq!(partition(1), Some(geminga_proto::murmur::bucket(b"foobar", 8)));
    assert_eq!(partition(2), Some(geminga_proto::murmur::bucket(b"abc", 8)));
    assert_eq!((partition(3), results[&3].base_offset), (partition(1), 1));
    let mut bad = element(4, "t", 0, String::new());
    bad.data = Some(v1::produce_element::Data::Batch(Bytes::from_static(b"not a batch")));
    let results = producer.send(vec![bad, element(5, "t", 0, "5".to_owned())]).await;
    let reason = |id| results[&id].error.as_ref().map(|e| e.reason.clone());
    assert_eq!(reason(4).as_deref(), Some("CORRUPT_BATCH"));
    assert_eq!(reason(5).as_deref(), Some("PRIOR_BATCH_FAILED"));
    let mut again = element(6, "t", 0, "6".to_owned());
    again.restart = true;
    let unknown = element(7, "nowhere", 0, "7".to_owned());
    let results = producer.send(vec![again, unknown]).await;
    assert_eq!(results[&6].error, None);
    assert_eq!(results[&7].error.as_ref().unwrap().reason, "UNKNOWN_TOPIC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_overtakes_an_element_whose_topic_was_not_found() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    let mut producer = Producer::open(&node).await;
    let reason = |result: &v1::ProduceResult| result.error.as_ref().map(|e| e.reason.clone());
    let anywhere =
        |id| v1::ProduceElement { partition: None, ..element(id, "late", 0, id.to_string()) };
    let results = producer.send(vec![element(1, "late", 0, "1".to_owned()), anywhere(2)]).await;
    assert_eq!(reason(&results[&1]).as_deref(), Some("UNKNOWN_TOPIC"));
    // The client must not take a partition for chosen that nobody chose.
    assert_eq!((results[&1].partition, results[&2].partition), (Some(0), None));
    create(&node, "late", 2).await;
    let results = producer
        .send(vec![
            element(3, "late", 0, "3".to_owned()),
            element(4, "late", 1, "4".to_owned()),
            anywhere(5),
        ])
        .await;
    assert_eq!(reason(&results[&3]).as_deref(), Some("PRIOR_BATCH_FAILED"));
    assert_eq!(results[&4].error, None, "another partition");
    assert_eq!(reason(&results[&5]).as_deref(), Some("PRIOR_BATCH_FAILED"));
    let mut again = element(6, "late", 0, "1".to_owned());
    again.restart = true;
    let results = producer.send(vec![again, element(7, "late", 0, "3".to_owned())]).await;
    assert_eq!((results[&6].base_offset, results[&7].base_offset), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_above_the_limits_ends_its_stream_with_a_reason() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 1).await;
    let many = vec![v1::ProduceElement::default(); caps::MAX_PRODUCE_ELEMENTS + 1];
    let large = element(1, "t", 0, "x".repeat(caps::MAX_CLIENT_MESSAGE_BYTES));
    for elements in [many, vec![large]] {
        let mut producer = Producer::open(&node).await;
        let request = v1::ProduceRequest { elements, ..Default::default() };
        producer.requests.send(request).await.unwrap();
        let ended = producer.answers.message().await.expect_err("it is refused");
        assert_eq!(ApiError::from_status(&ended).reason, Reason::LimitExceeded, "{ended}");
    }
    let records = vec![v1::Record::default(); caps::MAX_BATCH_RECORDS as usize + 1];
    let mut crowded = element(1, "t", 0, String::new());
    crowded.data = Some(v1::produce_element::Data::Records(v1::Records { records }));
    let mut producer = Producer::open(&node).await;
    let results = producer.send(vec![crowded]).await;
    assert_eq!(results[&1].error.as_ref().unwrap().reason, "MESSAGE_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_makes_room_for_more_whoever_takes_the_results() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    // The smallest room there is: that of one message.
    let node = Node::start_with(&cluster, Config { produce_bytes: 0, ..Config::default() }).await;
    create(&node, "t", 2).await;
    let value = "x".repeat(1_000_000);
    let lazy = Producer::open(&node).await;
    let mut busy = Producer::open(&node).await;
    let sending = async {
        for id in 0..12 {
            let elements = vec![element(id, "t", 0, value.clone())];
            let request = v1::ProduceRequest { elements, ..Default::default() };
            lazy.requests.send(request).await.unwrap();
        }
    };
    let both = async {
        for id in 0..12 {
            let results = busy.send(vec![element(id, "t", 1, value.clone())]).await;
            assert_eq!(results[&id].error, None);
        }
    };
    let both = futures::future::join(sending, both);
    tokio::time::timeout(LIMIT, both).await.expect("no room is lost");
}
