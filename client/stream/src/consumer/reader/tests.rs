//! The reader against a broker on a real socket.

use std::time::Duration;

use geminga_proto::reason::Reason;

use crate::fake::{Fake, PARTITIONS, TOPIC};
use crate::{OffsetAt, ReaderConfig};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn streams_break_and_nothing_is_skipped_or_repeated() {
    let fake = Fake::start().await;
    fake.set_faults(20);
    let client = fake.client();
    let mut reader = client.reader(TOPIC, (0..PARTITIONS).map(|p| (p, 0)), ReaderConfig::default());
    let mut next = [0; PARTITIONS as usize];
    let read = async {
        for round in 0..200 {
            let partition = round % PARTITIONS;
            fake.append(partition, &["a", "b", "c"][..1 + (round % 2) as usize]);
            let wanted = fake.log(partition).len() as i64;
            while next[partition as usize] < wanted {
                let records = reader.next().await.unwrap();
                let at = &mut next[records.from.partition as usize];
                for record in &records.records {
                    assert_eq!(record.offset, *at);
                    *at += 1;
                }
                assert_eq!(records.next_offset, *at);
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("it reads on");
    assert_eq!(reader.positions().into_values().collect::<Vec<_>>(), next);
}

#[tokio::test]
async fn a_reader_starts_where_it_is_told() {
    let fake = Fake::start().await;
    fake.append(1, &["a", "b", "c"]);
    let client = fake.client();
    let mut reader = client.reader(TOPIC, [(1, 1)], ReaderConfig::default());
    let offsets = |records: crate::Records| -> Vec<i64> {
        records.records.iter().map(|record| record.offset).collect()
    };
    assert_eq!(offsets(reader.next().await.unwrap()), [1, 2]);
    reader.seek(1, 2);
    assert_eq!(offsets(reader.next().await.unwrap()), [2]);
    reader.seek(1, 9);
    assert_eq!(reader.next().await.unwrap_err().reason(), Reason::OffsetOutOfRange);
    let mut lost = client.reader("nowhere", [(0, 0)], ReaderConfig::default());
    assert_eq!(lost.next().await.unwrap_err().reason(), Reason::UnknownTopic);
}

#[tokio::test]
async fn offsets_of_a_partition_that_moves_are_asked_for_again() {
    let fake = Fake::start().await;
    let offsets = fake.client().admin().list_offsets(TOPIC, &[], OffsetAt::Latest).await.unwrap();
    assert_eq!(offsets, [(0, 0), (1, 0), (2, 0)]);
}
