//! The producer against a broker on a real socket.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use geminga_proto::murmur;
use geminga_proto::reason::Reason;
use geminga_records::{Compression, Record};

use crate::fake::{Fake, PARTITIONS, TOPIC};
use crate::{Acks, Error, Message, ProducerConfig};

fn numbers(log: &[Record]) -> Vec<u64> {
    let number = |r: &Record| std::str::from_utf8(r.value.as_ref().unwrap()).unwrap().parse();
    log.iter().map(|record| number(record).unwrap()).collect()
}

#[tokio::test]
async fn every_record_is_where_its_acknowledgement_says_whatever_breaks() {
    for idempotence in [true, false] {
        every_record_is_where_its_acknowledgement_says(idempotence).await;
    }
}

async fn every_record_is_where_its_acknowledgement_says(idempotence: bool) {
    const RECORDS: u64 = 1_000;
    let fake = Fake::start().await;
    fake.set_faults(3);
    let client = fake.client();
    let producer = client.producer(ProducerConfig {
        batch_bytes: 500,
        compression: Compression::Snappy,
        linger: Duration::from_millis(1),
        idempotence,
        ..ProducerConfig::default()
    });
    let mut deliveries = Vec::new();
    for number in 0..RECORDS {
        let value = number.to_string();
        let message = match number % 4 {
            0 => Message::new(value),
            key => Message::keyed(format!("key {key}"), value),
        };
        deliveries.push(producer.send(TOPIC, message).await.unwrap());
    }
    producer.flush().await;
    let mut sent: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (number, delivery) in (0..).zip(deliveries) {
        let ack = delivery.await.unwrap();
        let offset = usize::try_from(ack.offset.unwrap()).unwrap();
        let record = &fake.log(ack.partition)[offset];
        assert_eq!(record.value.as_deref(), Some(number.to_string().as_bytes()));
        if let Some(key) = &record.key {
            assert_eq!(ack.partition, murmur::bucket(key, PARTITIONS));
        }
        sent.entry(ack.partition).or_default().push(number);
    }
    let mut copies = 0;
    for (partition, sent) in sent {
        let log = numbers(&fake.log(partition));
        copies += log.len();
        let mut seen = HashSet::new();
        let first: Vec<u64> = log.into_iter().filter(|number| seen.insert(*number)).collect();
        assert_eq!(first, sent, "partition {partition}");
    }
    println!("{copies} copies of {RECORDS} records");
    assert!(!idempotence || copies == RECORDS as usize, "each once");
    producer.close().await;
    client.close().await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_at_once() {
    let fake = Fake::start().await;
    let producer = fake.client().producer(ProducerConfig::default());
    let refused =
        |result: Result<_, Error>| result.map(|_: crate::Delivery| ()).unwrap_err().reason();
    let unknown = producer.send("nowhere", Message::new("x")).await;
    assert_eq!(refused(unknown), Reason::UnknownTopic);
    let message = Message { partition: Some(PARTITIONS), ..Message::new("x") };
    assert_eq!(refused(producer.send(TOPIC, message).await), Reason::UnknownPartition);
    let huge = Message::new(Bytes::from(vec![0; 17 << 20]));
    assert_eq!(refused(producer.send(TOPIC, huge).await), Reason::MessageTooLarge);
    let last = Message { partition: Some(PARTITIONS - 1), ..Message::new("x") };
    let ack = producer.send(TOPIC, last).await.unwrap().await.unwrap();
    assert_eq!((ack.partition, ack.offset), (PARTITIONS - 1, Some(0)));
}

#[tokio::test]
async fn a_full_buffer_makes_senders_wait() {
    let fake = Fake::start().await;
    fake.set_running(false);
    let producer = fake
        .client()
        .producer(ProducerConfig { buffer_bytes: 10_000, ..ProducerConfig::default() });
    producer.partitions(TOPIC).await.unwrap();
    let message = || Message::new(Bytes::from(vec![b'x'; 3_000]));
    let mut deliveries = Vec::new();
    let next = loop {
        let mut send = Box::pin(producer.send(TOPIC, message()));
        match send.as_mut().now_or_never() {
            Some(delivery) => deliveries.push(delivery.unwrap()),
            None => break send,
        }
    };
    assert_eq!(deliveries.len(), 3);
    assert!(deliveries.iter_mut().all(|delivery| delivery.now_or_never().is_none()));
    fake.set_running(true);
    deliveries.push(next.await.unwrap());
    for delivery in deliveries {
        delivery.await.unwrap();
    }
}

/// Records that are refused, at once or by the broker, take no room with them.
#[tokio::test]
async fn what_is_refused_gives_its_room_back() {
    let fake = Fake::start().await;
    let config = ProducerConfig { buffer_bytes: 10_000, ..ProducerConfig::default() };
    let producer = fake.client().producer(config);
    let long = Duration::from_secs(30);
    for _ in 0..20 {
        let nowhere =
            Message { partition: Some(PARTITIONS), ..Message::new(Bytes::from(vec![b'x'; 3_000])) };
        let refused = tokio::time::timeout(long, producer.send(TOPIC, nowhere)).await;
        assert_eq!(refused.unwrap().unwrap_err().reason(), Reason::UnknownPartition);
        // Counts as the whole buffer.
        let huge = Message::new(Bytes::from(vec![0; 17 << 20]));
        let refused = tokio::time::timeout(long, producer.send(TOPIC, huge)).await;
        assert_eq!(refused.unwrap().unwrap_err().reason(), Reason::MessageTooLarge);
        let good = Message::new(Bytes::from(vec![b'x'; 9_000]));
        let sent = tokio::time::timeout(long, producer.send(TOPIC, good)).await;
        sent.unwrap().unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn without_acks_closing_means_arrived() {
    let fake = Fake::start().await;
    let config = ProducerConfig { acks: Acks::None, ..ProducerConfig::default() };
    let producer = fake.client().producer(config);
    for number in 0..1000_u64 {
        let message = Message { partition: Some(1), ..Message::new(number.to_string()) };
        let ack = producer.send(TOPIC, message).await.unwrap();
        drop(ack);
    }
    producer.close().await;
    assert_eq!(numbers(&fake.log(1)), (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_dropped_producer_sends_what_it_took_and_a_closed_client_does_not() {
    let fake = Fake::start().await;
    let client = fake.client();
    let producer = client.producer(ProducerConfig::default());
    let delivery = producer.send(TOPIC, Message::new("1")).await.unwrap();
    drop(producer);
    delivery.await.unwrap();

    fake.set_running(false);
    let producer = client.producer(ProducerConfig::default());
    let delivery = producer.send(TOPIC, Message::new("2")).await.unwrap();
    client.close().await;
    assert_eq!(delivery.await, Err(Error::Closed));
    let late = producer.send(TOPIC, Message::new("3")).await.map(|_| ());
    assert_eq!(late, Err(Error::Closed));
}

#[tokio::test]
async fn nobody_there_is_said_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let config = crate::ClientConfig {
        unreachable_timeout: Duration::from_millis(50),
        ..crate::ClientConfig::default()
    };
    let client = crate::Client::with(&address, config).unwrap();
    let error = client.admin().list_topics(false).await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("refused"), "{error}");

    // A producer that knows its topic tries until its own timeout.
    let fake = Fake::start().await;
    let producer = fake.client().producer(ProducerConfig {
        delivery_timeout: Duration::from_millis(300),
        ..ProducerConfig::default()
    });
    fake.set_running(false);
    let delivery = producer.send(TOPIC, Message::new("1")).await.unwrap();
    let error = delivery.await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    fake.stop();
}
