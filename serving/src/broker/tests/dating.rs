//! Topics whose records are dated by the broker, as gRPC clients see them, whichever broker they ask.

use geminga_runtime::WallClock;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_is_told_when_its_records_were_dated() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    let config = ("message.timestamp.type".to_owned(), "LogAppendTime".to_owned());
    let request = v1::CreateTopicRequest {
        name: "t".to_owned(),
        partitions: 2,
        configs: [config].into(),
        ..Default::default()
    };
    two.wait_even().await;
    one.topics().await.create_topic(request).await.unwrap();
    one.wait_spread("t", 2).await;
    two.wait_spread("t", 2).await;
    let before = SystemClock.now_ms();
    // One of the partitions is the other broker's.
    let mut producer = Producer::open(&one).await;
    for partition in 0..2 {
        let mut old = element(u64::from(partition), "t", partition, "old".to_owned());
        if let Some(v1::produce_element::Data::Records(records)) = &mut old.data {
            records.records[0].timestamp_ms = 7;
        }
        let result = producer.send(vec![old]).await.remove(&u64::from(partition)).unwrap();
        assert_eq!(result.error, None);
        let dated = result.log_append_time_ms;
        assert!((before..=SystemClock.now_ms()).contains(&dated), "{dated}");
        let at = Some(v1::list_offsets_request::At::TimestampMs(8));
        let request = v1::ListOffsetsRequest {
            topic: "t".to_owned(),
            partitions: vec![partition],
            at,
            ..Default::default()
        };
        let found = two.topics().await.list_offsets(request).await.unwrap().into_inner();
        assert_eq!((found.offsets[0].offset, found.offsets[0].timestamp_ms), (0, dated));
        let request = v1::FetchRequest {
            topic: "t".to_owned(),
            partitions: vec![v1::FetchPartition { partition, offset: 0 }],
            until_end: true,
            ..Default::default()
        };
        let mut client = StreamClient::new(two.channel().await);
        let mut answers = client.fetch(request).await.unwrap().into_inner();
        let answer = answers.next().await.unwrap().unwrap();
        let data = answer.partitions[0].data.clone();
        let Some(v1::partition_data::Data::Records(records)) = data else { panic!("{answer:?}") };
        assert_eq!(records.records[0].timestamp_ms, dated);
    }
}
