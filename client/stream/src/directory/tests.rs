//! Clients whose broker goes away, on real sockets. Every wait is for a state, under one watchdog.

use std::time::Duration;

use bytes::Bytes;
use geminga_proto::reason::Reason;
use geminga_proto::v1;
use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event as Say;

use super::Way;
use crate::fake::{Door, Fake, TOPIC};
use crate::{
    Client, ConsumerConfig, Error, Event, Message, Producer, ProducerConfig, ReaderConfig,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Two brokers: the first owns partitions 0 and 2, the second 1.
async fn two() -> (Fake, Door, Door) {
    let fake = Fake::start().await;
    let (a, b) = (fake.broker(1).await, fake.broker(2).await);
    fake.list(&[(1, &a.address), (2, &b.address)], &[1, 2, 1]);
    (fake, a, b)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it goes on")
}

/// Waits until owners are asked where this says.
async fn until_way(client: &Client, partition: u32, way: Way) {
    let mut views = client.directory().watch();
    within(views.wait_for(|view| view.way(TOPIC, partition) == way)).await.expect("it is kept up");
}

async fn send(producer: &Producer, partition: u32, value: &'static str) {
    let message = Message { partition: Some(partition), ..Message::new(value) };
    let delivery = within(producer.send(TOPIC, message)).await.unwrap();
    within(delivery).await.unwrap();
}

fn values(fake: &Fake, partition: u32) -> Vec<Bytes> {
    fake.log(partition).into_iter().map(|record| record.value.unwrap()).collect()
}

#[tokio::test]
async fn a_producer_goes_on_with_the_other_broker() {
    for given_both in [false, true] {
        let (fake, a, b) = two().await;
        let servers = match given_both {
            true => format!("{}, {}", a.address, b.address),
            false => a.address.clone(),
        };
        let client = Client::connect(&servers).unwrap();
        let producer = client.producer(ProducerConfig::default());
        send(&producer, 0, "first").await;
        until_way(&client, 0, Way::Broker(1)).await;
        a.shut().await;
        // Its owner has gone, too, and the other one forwards or owns.
        send(&producer, 0, "second").await;
        fake.list(&[(2, &b.address)], &[2, 2, 2]);
        until_way(&client, 0, Way::Broker(2)).await;
        send(&producer, 0, "third").await;
        assert_eq!(values(&fake, 0), ["first", "second", "third"]);
        within(producer.close()).await;
        // Single calls go there as well.
        within(client.admin().describe_topic(TOPIC)).await.unwrap();
        within(client.close()).await;
    }
}

#[tokio::test]
async fn batches_go_to_their_owners() {
    let (fake, a, b) = two().await;
    let client = Client::connect(&a.address).unwrap();
    let producer = client.producer(ProducerConfig::default());
    for partition in 0..3 {
        send(&producer, partition, "anywhere").await;
    }
    until_way(&client, 1, Way::Broker(2)).await;
    until_way(&client, 2, Way::Broker(1)).await;
    // The producer hears of the view as well.
    let before = || fake.taken(1, false) + fake.taken(2, false);
    within(async {
        while fake.taken(1, true) == 0 || fake.taken(2, true) == 0 {
            for partition in 0..3 {
                send(&producer, partition, "directly").await;
            }
        }
    })
    .await;
    let forwarded = before();
    send(&producer, 0, "last").await;
    send(&producer, 1, "last").await;
    assert_eq!(before(), forwarded, "what goes to its owner is not forwarded");

    // The partition moves, and nobody is told: the owner that was says so.
    fake.list(&[(1, &a.address), (2, &b.address)], &[2, 2, 1]);
    let (first, second) = (fake.taken(1, true), fake.taken(2, true));
    send(&producer, 0, "moved").await;
    assert_eq!((fake.taken(1, true), fake.taken(2, true)), (first + 1, second + 1));
    assert_eq!(values(&fake, 0).last().unwrap(), "moved");
    within(producer.close()).await;
    within(client.close()).await;
}

/// As behind a load balancer: the cluster names addresses that lead nowhere, or to somebody else.
#[tokio::test]
async fn owners_out_of_reach_are_left_alone() {
    let (fake, a, _b) = two().await;
    fake.list(&[(1, "127.0.0.1:1"), (2, &a.address)], &[1, 2, 1]);
    let client = Client::connect(&a.address).unwrap();
    let producer = client.producer(ProducerConfig::default());
    for _ in 0..20 {
        send(&producer, 0, "x").await;
        send(&producer, 1, "y").await;
    }
    assert_eq!((fake.taken(1, false), fake.taken(1, true)), (40, 0));
    let mut reader = client.reader(TOPIC, [(0, 0), (1, 0)], ReaderConfig::default());
    let mut read = 0;
    while read < 40 {
        read += within(reader.next()).await.unwrap().records.len();
    }
    within(producer.close()).await;
}

#[tokio::test]
async fn a_reader_goes_on_with_the_other_broker() {
    let (fake, a, b) = two().await;
    fake.append(0, &["a"]);
    fake.append(1, &["b"]);
    let client = Client::connect(&a.address).unwrap();
    let mut reader = client.reader(TOPIC, [(0, 0), (1, 0)], ReaderConfig::default());
    let mut read = Vec::new();
    for _ in 0..2 {
        read.push(within(reader.next()).await.unwrap().from.partition);
    }
    until_way(&client, 0, Way::Broker(1)).await;
    a.shut().await;
    fake.list(&[(2, &b.address)], &[2, 2, 2]);
    fake.append(0, &["c"]);
    fake.append(1, &["d"]);
    for _ in 0..2 {
        let records = within(reader.next()).await.unwrap();
        assert_eq!(records.records[0].offset, 1);
        read.push(records.from.partition);
    }
    read.sort_unstable();
    assert_eq!(read, [0, 0, 1, 1]);
}

#[tokio::test]
async fn a_member_resumes_at_the_other_broker() {
    let (mut fake, a, b) = two().await;
    let client = Client::connect(&a.address).unwrap();
    let mut consumer = client.consumer(ConsumerConfig::new("g", TOPIC));
    until_way(&client, 0, Way::Broker(1)).await;
    let mut members = Vec::new();
    for expected in ["", "m-1"] {
        let group = async {
            let mut member = fake.member().await;
            let Some(Op::Join(join)) = member.hear().await else { panic!("not a join") };
            assert_eq!(join.member_id, expected);
            member.say(Say::Joined(v1::ConsumeJoined { member_id: "m-1".to_owned() })).await;
            let partitions = vec![v1::AssignedPartition {
                topic: TOPIC.to_owned(),
                partition: 0,
                start_offset: 0,
            }];
            member.say(Say::Assignment(v1::ConsumeAssignment { generation: 1, partitions })).await;
            if !expected.is_empty() {
                let data = crate::fake::data(0, fake.append(0, &["a"]));
                member.say(Say::Data(data)).await;
            }
            member
        };
        let (event, member) = within(async { tokio::join!(consumer.next(), group) }).await;
        match event.unwrap() {
            Event::Assigned(_) => assert!(expected.is_empty(), "it was resumed"),
            Event::Records(records) => assert_eq!(records.next_offset, 1),
            other => panic!("{other:?}"),
        }
        if members.is_empty() {
            a.shut().await;
            fake.list(&[(2, &b.address)], &[2, 2, 2]);
        }
        members.push(member);
    }
}

#[tokio::test]
async fn the_first_call_finds_the_address_that_lives() {
    let fake = Fake::start().await;
    for _ in 0..8 {
        let client = Client::connect(&format!("127.0.0.1:1,{}", fake.address)).unwrap();
        within(client.admin().cluster_status()).await.unwrap();
    }
    let nobody = Client::connect("127.0.0.1:1,127.0.0.1:2").unwrap();
    let error = within(nobody.admin().cluster_status()).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    for wrong in ["", "a:1,", "a b:1"] {
        let error = Client::connect(wrong).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.reason() == Reason::InvalidRequest);
    }
}

#[tokio::test]
async fn a_broker_that_cannot_help_is_left_at_once() {
    let (fake, a, b) = two().await;
    fake.append(0, &["a"]);
    fake.cut_off(1);
    for _ in 0..4 {
        let client = Client::connect(&format!("{},{}", a.address, b.address)).unwrap();
        let before = fake.refused(1);
        within(client.admin().cluster_status()).await.unwrap();
        assert!(fake.refused(1) <= before + 1, "it is asked once at most");
        within(client.close()).await;
    }
    // Nobody is directly reachable, as behind a load balancer.
    fake.list(&[], &[]);
    for _ in 0..4 {
        let client = Client::connect(&format!("{},{}", a.address, b.address)).unwrap();
        let before = fake.refused(1);
        let mut reader = client.reader(TOPIC, [(0, 0)], ReaderConfig::default());
        assert_eq!(within(reader.next()).await.unwrap().records.len(), 1);
        assert!(fake.refused(1) <= before + 1, "it is asked once at most");
        within(client.close()).await;
    }
}
