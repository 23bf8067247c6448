//! What a client is told of a batch that was refused for what is in it.

use geminga_proto::checksum;

use super::*;

const INVALID_RECORD: i16 = 87;

/// A node with topics `c`, which is to be compacted, and `t`.
async fn rig(strict: bool) -> (TestCluster, Node) {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let mut config = Config::default();
    config.partitions.strict_records = strict;
    let node = Node::start_with(&cluster, config).await;
    create(&node, "t", 1).await;
    let configs = [("cleanup.policy".to_owned(), "compact".to_owned())].into();
    let (name, partitions) = ("c".to_owned(), 1);
    let compact = v1::CreateTopicRequest { name, partitions, configs, ..Default::default() };
    node.topics().await.create_topic(compact).await.unwrap();
    for topic in ["t", "c"] {
        node.wait_owned_by(topic, node.broker.id()).await;
    }
    (cluster, node)
}

fn keyed(keys: &[Option<&'static str>], compression: Compression) -> Option<Bytes> {
    let record = |key: &Option<&'static str>| Record {
        key: key.map(|key| Bytes::from_static(key.as_bytes())),
        ..Record::default()
    };
    let records: Vec<_> = keys.iter().map(record).collect();
    Some(geminga_records::encode(&records, compression).unwrap().into_bytes())
}

/// Clients give up these records, and may send the others again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_records_that_a_batch_was_refused_for_are_named() {
    let (_cluster, node) = rig(false).await;
    let mut client = Client::connect(&node).await;
    let keys = [None, Some("k"), None, Some("")];
    for version in 3..=11 {
        for compression in [Compression::None, Compression::Gzip] {
            let request = produce("c", -1, &[(0, keyed(&keys, compression))]);
            let answer: ProduceResponse = client.call(version, &request).await;
            let part = &answer.responses[0].partition_responses[0];
            assert_eq!((part.error_code, part.base_offset), (INVALID_RECORD, -1));
            let named: Vec<_> =
                part.record_errors.iter().map(|errant| errant.batch_index).collect();
            let expected = if version >= 8 { &[0, 2][..] } else { &[] };
            assert_eq!(named, expected, "version {version}");
            assert_eq!(part.error_message.is_some(), version >= 8);
            assert_eq!(client.is_taken(version, "t", keyed(&keys, compression)).await, Ok(()));
        }
    }
    let good = keyed(&keys[3..], Compression::None);
    assert_eq!(client.is_taken(9, "c", good).await, Ok(()));
    assert_eq!(count(&mut client, "c").await, 1, "nothing of what was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strict_broker_refuses_records_that_nobody_could_read() {
    let noise = keyed(&[Some("k"); 5], Compression::Zstd).map(|batch| {
        let mut bytes = batch.to_vec();
        bytes[61..].fill(7);
        let sum = checksum::append(0, &bytes[21..]);
        bytes[17..21].copy_from_slice(&sum.to_be_bytes());
        Bytes::from(bytes)
    });
    for (strict, expected) in [(true, Err(INVALID_RECORD)), (false, Ok(()))] {
        let (_cluster, node) = rig(strict).await;
        let mut client = Client::connect(&node).await;
        assert_eq!(client.is_taken(9, "t", noise.clone()).await, expected, "strict: {strict}");
    }
}

impl Client {
    async fn is_taken(
        &mut self,
        version: i16,
        topic: &str,
        batch: Option<Bytes>,
    ) -> Result<(), i16> {
        match produced(self, version, &produce(topic, -1, &[(0, batch)])).await {
            (0, _) => Ok(()),
            (code, _) => Err(code),
        }
    }
}

/// How many records the topic has.
async fn count(client: &mut Client, topic: &str) -> i64 {
    let answer: FetchResponse = client.call(11, &fetch(topic, 0, 1, 1000)).await;
    let part = &answer.responses[0].partitions[0];
    assert_eq!(part.error_code, 0);
    part.high_watermark
}
