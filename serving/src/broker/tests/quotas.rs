//! Quotas as clients see them: slower answers, and no errors; counted once, wherever the partition is.

use super::groups::Consumer;
use super::*;

/// A batch of a hundred kilobytes.
fn large(id: u64, partition: u32) -> v1::ProduceElement {
    element(id, "t", partition, "x".repeat(100_000))
}

/// Sets a quota of a client at one broker, and waits until all that are given follow it.
async fn set(nodes: &[&Node], quota: v1::Quota) {
    let client = quota.client_id.clone();
    let mut cluster = ClusterClient::new(nodes[0].channel().await);
    cluster.set_quota(v1::SetQuotaRequest { quota: Some(quota.clone()) }).await.unwrap();
    for node in nodes {
        let mut cluster = ClusterClient::new(node.channel().await);
        let seen = async {
            loop {
                let list = cluster.list_quotas(v1::ListQuotasRequest {}).await.unwrap();
                let mut found = list.into_inner().quotas.into_iter();
                if found.any(|found| found.client_id == client && found == quota) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, seen).await.expect("a broker follows what is set");
    }
}

fn quota(client: &str) -> v1::Quota {
    v1::Quota { client_id: Some(client.to_owned()), ..Default::default() }
}

async fn held_back(node: &Node) -> Vec<String> {
    let mut cluster = ClusterClient::new(node.channel().await);
    let list = cluster.list_quotas(v1::ListQuotasRequest {}).await.unwrap().into_inner();
    list.held_back.into_iter().map(|held| held.client_id).collect()
}

/// The client's broker forwards to the owner, which does not charge what it is sent.
#[tokio::test(start_paused = true)]
async fn what_a_client_sends_is_charged_where_it_is_connected() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    two.wait_even().await;
    create(&one, "t", 8).await;
    one.wait_spread("t", 2).await;
    let owners = one.owners("t").await;
    let far = owners.iter().position(|owner| *owner == two.broker.id()).unwrap();
    let far = u32::try_from(far).unwrap();
    set(&[&one, &two], v1::Quota { producer_byte_rate: Some(100_000), ..quota("c") }).await;
    // Where nobody gives a name, too, it is not charged twice.
    let of_all = v1::Quota { producer_byte_rate: Some(1), ..Default::default() };
    set(&[&two], of_all).await;

    let mut producer = Producer::open(&one).await;
    let send =
        |elements| v1::ProduceRequest { elements, client_id: "c".to_owned(), ..Default::default() };
    let begun = tokio::time::Instant::now();
    producer.requests.send(send(vec![large(1, far), large(2, far)])).await.unwrap();
    let mut throttle_ms = 0;
    let mut done = 0;
    while done < 2 {
        let answer = producer.answers.message().await.unwrap().unwrap();
        done += answer.results.len();
        assert!(answer.results.iter().all(|result| result.error.is_none()), "{answer:?}");
        throttle_ms = throttle_ms.max(answer.throttle_ms);
    }
    assert!(throttle_ms > 100 && throttle_ms <= 1_010, "{throttle_ms} ms: it is told");
    assert_eq!(held_back(&one).await, ["c"]);
    assert!(held_back(&two).await.is_empty());
    producer.requests.send(send(vec![large(3, far)])).await.unwrap();
    let answer = producer.answers.message().await.unwrap().unwrap();
    assert_eq!(answer.results[0].error, None);
    assert!(begun.elapsed() >= Duration::from_millis(1_000), "the second message waits");
}

#[tokio::test(start_paused = true)]
async fn answers_to_fetches_wait_until_those_before_are_paid() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 1).await;
    let mut producer = Producer::open(&node).await;
    producer.send((1..4).map(|id| large(id, 0)).collect()).await;
    let limits = v1::Quota { consumer_byte_rate: Some(100_000), ..quota("reader") };
    set(&[&node], limits).await;
    set(&[&node], v1::Quota { request_rate: Some(2), ..quota("asker") }).await;
    let fetch = async |client: &str, offset: i64| {
        let mut stream = StreamClient::new(node.channel().await);
        let request = v1::FetchRequest {
            topic: "t".to_owned(),
            partitions: vec![v1::FetchPartition { partition: 0, offset }],
            max_bytes: 16 << 20,
            once: true,
            client_id: client.to_owned(),
            ..Default::default()
        };
        let answer = stream.fetch(request).await.unwrap().into_inner().message().await;
        answer.unwrap().unwrap()
    };
    // Three batches at once: that much is found out only when they are there.
    let first = fetch("reader", 0).await;
    assert_eq!((first.throttle_ms, first.partitions[0].next_offset), (0, 3));
    let second = fetch("reader", 2).await;
    assert!(second.throttle_ms > 1_000 && second.throttle_ms < 3_000, "{second:?}");
    assert_eq!(fetch("another", 0).await.throttle_ms, 0);
    // Two a second, and two at once.
    let asked = [fetch("asker", 2).await, fetch("asker", 2).await, fetch("asker", 2).await];
    assert_eq!(asked[0].throttle_ms, 0);
    assert!(asked[2].throttle_ms > 100 && asked[2].throttle_ms <= 510, "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_members_data_waits_until_what_it_had_is_paid() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node = Node::start(&cluster).await;
    create(&node, "t", 1).await;
    let mut producer = Producer::open(&node).await;
    for id in 1..4 {
        producer.send(vec![large(id, 0)]).await;
    }
    // Its client gives no name: what is set for all counts.
    set(&[&node], v1::Quota { consumer_byte_rate: Some(200_000), ..Default::default() }).await;
    let mut consumer = Consumer::join(&node, "g", "t").await;
    let (mut records, mut held_ms) = (0, 0);
    while records < 3 {
        let event = consumer.events.message().await.unwrap().unwrap();
        held_ms += event.throttle_ms;
        if let Some(v1::consume_response::Event::Data(data)) = event.event
            && let Some(v1::partition_data::Data::Records(some)) = data.data
        {
            records += some.records.len();
        }
    }
    // One more, behind all that it had.
    producer.send(vec![large(4, 0)]).await;
    loop {
        let event = consumer.events.message().await.unwrap().unwrap();
        held_ms += event.throttle_ms;
        if matches!(event.event, Some(v1::consume_response::Event::Data(_))) {
            break;
        }
    }
    assert!(held_ms > 100, "{held_ms} ms: what it had beyond a second's is paid first");
    consumer.leave().await;
}
