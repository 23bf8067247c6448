//! Polls and streams of readers.

use super::*;

/// What one poll says of each partition: how many records, or the reason why there are none.
async fn poll(node: &Node, offsets: &[i64], wait_ms: u32) -> BTreeMap<u32, Result<usize, String>> {
    let partitions = (0..)
        .zip(offsets)
        .map(|(partition, offset)| v1::FetchPartition { partition, offset: *offset });
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: partitions.collect(),
        max_wait_ms: wait_ms,
        once: true,
        ..Default::default()
    };
    let mut client = StreamClient::new(node.channel().await);
    let mut answers = client.fetch(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().expect("one answer");
    assert_eq!(answers.message().await.unwrap(), None, "and no other");
    let said = |data: v1::PartitionData| match (data.data, data.error) {
        (_, Some(error)) => Err(error.reason),
        (Some(v1::partition_data::Data::Records(records)), None) => Ok(records.records.len()),
        _ => Ok(0),
    };
    answer.partitions.into_iter().map(|data| (data.partition, said(data))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poll_waits_for_whichever_partition_gets_something() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 4).await;
    one.wait_spread("t", 2).await;
    two.wait_spread("t", 2).await;
    assert_eq!(poll(&one, &[0; 4], 0).await.values().collect::<Vec<_>>(), [&Ok(0); 4]);
    for partition in 0..4 {
        let writes = async {
            let mut producer = Producer::open(&two).await;
            producer.send_all("t", partition, 0..10).await;
        };
        let mut offsets = [10; 4];
        offsets[partition as usize..].fill(0);
        let (found, ()) = futures::future::join(poll(&one, &offsets, 20_000), writes).await;
        assert!(matches!(found[&partition], Ok(n) if n > 0), "{found:?}");
    }
    let refused = poll(&one, &[10, 11, 10, 10], 20_000).await;
    assert_eq!(refused[&1], Err("OFFSET_OUT_OF_RANGE".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_goes_on_over_a_takeover_without_a_gap_or_a_repetition() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 2).await;
    two.wait_spread("t", 2).await;
    let request = v1::FetchRequest {
        topic: "t".to_owned(),
        partitions: (0..2).map(|p| v1::FetchPartition { partition: p, offset: 0 }).collect(),
        ..Default::default()
    };
    let mut client = StreamClient::new(two.channel().await);
    let mut answers = client.fetch(request).await.unwrap().into_inner();
    let mut producer = Producer::open(&two).await;
    let mut next = [0; 2];
    let read = async {
        while next.iter().any(|next| *next < 100) {
            for data in answers.message().await.unwrap().expect("it goes on").partitions {
                assert_eq!(data.error, None);
                if let Some(v1::partition_data::Data::Records(records)) = data.data {
                    for record in records.records {
                        assert_eq!(record.offset, next[data.partition as usize]);
                        next[data.partition as usize] += 1;
                    }
                }
            }
        }
    };
    let write = async {
        for partition in 0..2 {
            producer.send_all("t", partition, 0..50).await;
        }
        one.kill();
        for partition in 0..2 {
            producer.send_all("t", partition, 50..100).await;
        }
    };
    let both = futures::future::join(read, write);
    tokio::time::timeout(LIMIT, both).await.expect("in time");
}
