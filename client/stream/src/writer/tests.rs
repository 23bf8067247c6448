//! Against brokers in memory that break streams: each batch is in the log once, in order.

use std::time::Duration;

use bytes::Bytes;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Compression, Record, Sequence, encode};

use super::round::{Begun, Round};
use super::*;
use crate::fake::{Fake, TOPIC};

fn batch(partition: u32, number: i32) -> ReadyBatch {
    let value = Some(Bytes::from(number.to_string()));
    let record = Record { value, timestamp: 1, ..Record::default() };
    let mut batch = encode(&[record], Compression::None).unwrap();
    batch.set_sequence(Sequence { producer_id: 7, epoch: 0, first: number });
    ReadyBatch { topic: TOPIC.into(), partition, batch: batch.into_bytes() }
}

#[tokio::test(start_paused = true)]
async fn every_batch_is_written_once_whatever_breaks() {
    let fake = Fake::start().await;
    fake.set_faults(20);
    let client = fake.client();
    let mut writer = client.batch_writer(Duration::from_secs(3600));
    let mut next = 0;
    for count in [1, 7, 40, 3] {
        let numbers = next..next + count;
        let batches: Vec<_> = numbers.clone().flat_map(|n| [batch(0, n), batch(1, n)]).collect();
        let ends = writer.append(&batches).await;
        let offsets: Vec<_> = ends.into_iter().map(|end| end.unwrap().unwrap()).collect();
        let expected: Vec<_> = numbers.flat_map(|n| [i64::from(n), i64::from(n)]).collect();
        assert_eq!(offsets, expected);
        next += count;
    }
    for partition in [0, 1] {
        let read: Vec<_> = fake.log(partition).into_iter().map(|r| r.value.unwrap()).collect();
        let expected: Vec<_> = (0..next).map(|n| Bytes::from(n.to_string())).collect();
        assert_eq!(read, expected, "partition {partition}");
    }
}

fn result(id: u64, end: Result<i64, Reason>) -> v1::ProduceResult {
    let error = end.err().map(|reason| ApiError::new(reason, "no").to_proto());
    v1::ProduceResult { id, base_offset: end.unwrap_or(-1), error, ..v1::ProduceResult::default() }
}

#[test]
fn a_refusal_ends_its_partition_and_no_other() {
    let batches: Vec<_> = (0..9).flat_map(|n| [batch(0, n), batch(1, n)]).collect();
    let (mut round, mut begun, mut id) = (Round::new(&batches), Begun::default(), 0);
    let elements = round.collect(usize::MAX, &mut id, &mut begun);
    let of = |partition| {
        let ids = elements.iter().filter(move |e| e.partition == Some(partition)).map(|e| e.id);
        ids.collect::<Vec<_>>()
    };
    assert_eq!((of(0).len(), of(1).len()), (5, 5), "so many are remembered");
    let restarts: Vec<_> = elements.iter().filter(|e| e.restart).map(|e| e.id).collect();
    assert_eq!(restarts, [of(0)[0], of(1)[0]], "the first of each");
    assert!(!round.has_ready());
    round.on_result(result(of(0)[0], Ok(0)), &mut begun).unwrap();
    assert!(round.has_ready());
    round.on_result(result(of(0)[1], Err(Reason::InvalidTimestamp)), &mut begun).unwrap();
    // What comes behind it is refused as well, and is no news.
    round.on_result(result(of(0)[2], Err(Reason::PriorBatchFailed)), &mut begun).unwrap();
    assert_eq!(round.left(), 9);
    // That one was there before.
    round.on_result(result(of(1)[0], Err(Reason::DuplicateSequence)), &mut begun).unwrap();
    assert_eq!(round.left(), 8);
    // Trouble that passes: all that has no end is sent again.
    assert!(round.on_result(result(of(1)[1], Err(Reason::NotOwner)), &mut begun).is_err());
    round.again();
    let elements = round.collect(usize::MAX, &mut id, &mut Begun::default());
    let numbers: Vec<_> = elements.iter().map(|e| e.partition).collect();
    assert_eq!(numbers, [Some(1); 5]);
    for element in elements {
        round.on_result(result(element.id, Ok(1)), &mut begun).unwrap();
    }
    round.give_up(&Error::Closed, Duration::ZERO);
    let ends = round.into_ends();
    assert_eq!(ends[0], Ok(Some(0)));
    assert_eq!(ends[2].as_ref().unwrap_err().reason(), Reason::InvalidTimestamp);
    assert_eq!((&ends[1], &ends[3], &ends[17]), (&Ok(None), &Ok(Some(1)), &Err(Error::Closed)));
}
