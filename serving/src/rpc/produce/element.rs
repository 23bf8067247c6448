//! One element as it arrives: checked, encoded where it came as plain records, and given its partition. Nothing passes that
//! is not exactly one whole batch. One whose topic cannot be found (now) has no partition to fail in; its stream remembers
//! that it failed, so that no later one overtakes it (P5).

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::PartitionIndex;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, murmur, v1};
use geminga_records::{Batch, BatchError, Compression, Record, Sequence};
use prost::Message as _;

use super::lane::Meta;
use crate::ownership::topology::Topic;
use crate::router::check_partition;
use crate::rpc::context::Context;

/// What an element costs its stream beside its bytes.
pub(super) const OVERHEAD_BYTES: usize = 512;
/// Most bytes that a batch is decompressed to when its first key is looked for.
const MAX_INFLATED_BYTES: usize = 64 * 1024 * 1024;

/// A partition as the client named it: `None` leaves the choice to us.
pub(super) type Named = (String, Option<u32>);

/// An element as the stream goes on with it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) named: Named,
    pub(super) meta: Meta,
    /// Its place, or why it has none to fail in.
    pub(super) outcome: Result<Placed, ApiError>,
}

/// An element that has its place.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: PartitionIndex,
    pub(super) work: Result<Batch, ApiError>,
}

/// What an element counts for while it is on its way.
pub(super) fn cost(element: &v1::ProduceElement) -> usize {
    OVERHEAD_BYTES + element.encoded_len()
}

/// Takes one element in. `direct`: the caller wants NOT_OWNER rather than a hop. `cost`: as [`cost`] says.
pub(super) async fn take(
    ctx: &Context,
    element: v1::ProduceElement,
    direct: bool,
    cost: usize,
) -> Taken {
    let v1::ProduceElement { id, topic: name, partition, data, acks, restart, producer } = element;
    let acks = v1::Acks::try_from(acks);
    let meta = Meta { id, answered: acks != Ok(v1::Acks::None), restart, direct, cost };
    let outcome = match acks {
        Ok(acks) => place(ctx, &name, partition, data, producer).await.map(|mut placed| {
            placed.work = placed.work.and_then(|batch| check_sequence(batch, partition, acks));
            placed
        }),
        Err(_) => {
            let why = "acks must be ACKS_ALL or ACKS_NONE";
            Err(ApiError::new(Reason::InvalidRequest, why))
        }
    };
    Taken { named: (name, partition), meta, outcome }
}

async fn place(
    ctx: &Context,
    name: &str,
    partition: Option<u32>,
    data: Option<v1::produce_element::Data>,
    producer: Option<v1::ProducerSequence>,
) -> Result<Placed, ApiError> {
    let topic = ctx.router.topology().resolve(name).await?;
    let (now_ms, wanted) = (ctx.clock.now_ms(), partition.is_none());
    let inflates = wanted && matches!(data, Some(v1::produce_element::Data::Batch(_)));
    let encoded = if inflates {
        // A small batch may be a large one when it is taken apart: not on a thread that others wait for.
        let encoded = tokio::task::spawn_blocking(move || encode(data, now_ms, wanted)).await;
        encoded.unwrap_or_else(|error| {
            tracing::error!(%error, "a batch could not be taken apart");
            Err(ApiError::new(
                Reason::Internal,
                "the batch could not be taken apart: see the broker's log",
            ))
        })
    } else {
        encode(data, now_ms, wanted)
    };
    let (key, work) = match encoded {
        Ok((key, batch)) => (key, with_sequence(batch, producer)),
        Err(error) => (None, Err(error)),
    };
    let partition = match (partition, key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => murmur::bucket(&key, topic.partitions),
        (None, None) => u32::try_from(ctx.random.below(u64::from(topic.partitions)))
            .expect("below the number of partitions"),
    };
    let partition = check_partition(&topic, partition)?;
    Ok(Placed { topic, partition, work })
}

/// The batch and, where it is `wanted`, the key of its first record.
fn encode(
    data: Option<v1::produce_element::Data>,
    now_ms: i64,
    wanted: bool,
) -> Result<(Option<Bytes>, Batch), ApiError> {
    use v1::produce_element::Data;
    match data {
        Some(Data::Batch(bytes)) => {
            let batch = Batch::parse(bytes)?;
            let key = if wanted { first_key(&batch)? } else { None };
            Ok((key, batch))
        }
        Some(Data::Records(v1::Records { records })) => {
            // Before anything is allocated for them: a record may take two bytes of a message.
            if records.len() > caps::MAX_BATCH_RECORDS as usize {
                return Err(BatchError::TooManyRecords.into());
            }
            let key = records.first().and_then(|record| record.key.clone());
            let mut records: Vec<Record> = records.into_iter().map(Record::from).collect();
            for record in records.iter_mut().filter(|record| record.timestamp == 0) {
                record.timestamp = now_ms;
            }
            Ok((key, geminga_records::encode(&records, Compression::None)?))
        }
        None => {
            let why = "an element carries neither a batch nor records: send one of them";
            Err(ApiError::new(Reason::InvalidRequest, why))
        }
    }
}

/// The batch as that of the idempotent producer whose it is said to be. What its header says is what is stored, so an element
/// that says otherwise is refused.
fn with_sequence(mut batch: Batch, said: Option<v1::ProducerSequence>) -> Result<Batch, ApiError> {
    let Some(v1::ProducerSequence { producer_id, epoch, sequence: first }) = said else {
        return Ok(batch);
    };
    let epoch = i16::try_from(epoch).ok().filter(|epoch| *epoch >= 0 && producer_id >= 0);
    let Some(epoch) = epoch.filter(|_| first >= 0) else {
        let why = "a producer's id, epoch and sequence number are not negative, and its epoch is at most 32767";
        return Err(ApiError::new(Reason::InvalidRequest, why));
    };
    let said = Sequence { producer_id, epoch, first };
    match batch.header().sequence() {
        None => {
            batch.set_sequence(said);
            Ok(batch)
        }
        Some(own) if own == said => Ok(batch),
        Some(_) => {
            let why = "the batch's header names another producer, epoch or sequence number than its element: leave that of the element out";
            Err(ApiError::new(Reason::InvalidRequest, why))
        }
    }
}

/// A batch that is written once has numbers of one partition, and somebody who hears that it was written.
fn check_sequence(batch: Batch, partition: Option<u32>, acks: v1::Acks) -> Result<Batch, ApiError> {
    if batch.header().sequence().is_none() {
        return Ok(batch);
    }
    let why = if partition.is_none() {
        "sequence numbers are those of one partition: name it"
    } else if acks == v1::Acks::None {
        "an idempotent producer needs acknowledgements: send ACKS_ALL"
    } else {
        return Ok(batch);
    };
    Err(ApiError::new(Reason::InvalidRequest, why))
}

fn first_key(batch: &Batch) -> Result<Option<Bytes>, ApiError> {
    let records = geminga_records::decode(batch, MAX_INFLATED_BYTES)?;
    Ok(records.into_iter().next().and_then(|record| record.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(keys: &[Option<&str>], timestamp_ms: i64) -> Option<v1::produce_element::Data> {
        let record = |key: &Option<&str>| v1::Record {
            key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
            value: Some(Bytes::from_static(b"value")),
            timestamp_ms,
            ..v1::Record::default()
        };
        let records = keys.iter().map(record).collect();
        Some(v1::produce_element::Data::Records(v1::Records { records }))
    }

    #[test]
    fn plain_records_become_one_batch_dated_by_the_broker() {
        let (key, batch) = encode(records(&[Some("a"), Some("b")], 0), 77, true).unwrap();
        assert_eq!(key.as_deref(), Some(&b"a"[..]));
        let decoded = geminga_records::decode(&batch, 1 << 20).unwrap();
        assert_eq!(decoded.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [77, 77]);
        let (_, dated) = encode(records(&[None], 5), 77, true).unwrap();
        assert_eq!(geminga_records::decode(&dated, 1 << 20).unwrap()[0].timestamp, 5);
    }

    #[test]
    fn a_batch_without_a_partition_goes_by_its_first_key() {
        let (_, batch) = encode(records(&[Some("first"), Some("b")], 1), 1, false).unwrap();
        let data = Some(v1::produce_element::Data::Batch(batch.clone().into_bytes()));
        let (key, same) = encode(data.clone(), 1, true).unwrap();
        assert_eq!((key.as_deref(), &same), (Some(&b"first"[..]), &batch));
        assert_eq!(encode(data, 1, false).unwrap().0, None, "looked for in vain");
    }

    /// P6: the numbers of a producer are fields of the element, or stand in the batch.
    #[test]
    fn a_batch_becomes_its_producers() {
        let batch = || encode(records(&[None], 1), 1, false).unwrap().1;
        let said = |sequence| Some(v1::ProducerSequence { producer_id: 7, epoch: 1, sequence });
        assert_eq!(with_sequence(batch(), None).unwrap().header().sequence(), None);
        let given = with_sequence(batch(), said(5)).unwrap();
        let sequence = Sequence { producer_id: 7, epoch: 1, first: 5 };
        assert_eq!(given.header().sequence(), Some(sequence));
        Batch::parse(given.as_bytes().clone()).unwrap();
        assert_eq!(with_sequence(given.clone(), None), Ok(given.clone()));
        assert_eq!(with_sequence(given.clone(), said(5)), Ok(given.clone()));
        let reason = |result: Result<Batch, ApiError>| result.unwrap_err().reason;
        assert_eq!(reason(with_sequence(given.clone(), said(6))), Reason::InvalidRequest);
        assert_eq!(reason(with_sequence(batch(), said(-1))), Reason::InvalidRequest);
        for (producer_id, epoch) in [(-1, 0), (1, -1), (1, 32_768)] {
            let bad = v1::ProducerSequence { producer_id, epoch, sequence: 0 };
            assert_eq!(reason(with_sequence(batch(), Some(bad))), Reason::InvalidRequest);
        }
        let check = |partition, acks| check_sequence(given.clone(), partition, acks);
        assert!(check(Some(1), v1::Acks::All).is_ok());
        assert_eq!(reason(check(None, v1::Acks::All)), Reason::InvalidRequest);
        assert_eq!(reason(check(Some(1), v1::Acks::None)), Reason::InvalidRequest);
        assert!(check_sequence(batch(), None, v1::Acks::None).is_ok());
    }

    #[test]
    fn what_is_no_batch_is_refused() {
        let reason = |data| encode(data, 1, true).unwrap_err().reason;
        assert_eq!(reason(None), Reason::InvalidRequest);
        assert_eq!(reason(records(&[], 1)), Reason::InvalidRecord);
        let batch = |bytes: &'static [u8]| {
            Some(v1::produce_element::Data::Batch(Bytes::from_static(bytes)))
        };
        assert_eq!(reason(batch(b"not a batch")), Reason::CorruptBatch);
        assert_eq!(reason(batch(b"")), Reason::CorruptBatch);
        assert_eq!(reason(batch(&[0; 200])), Reason::CorruptBatch);
    }
}
