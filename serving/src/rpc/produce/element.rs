//! One element as it arrives: checked, encoded where it came as plain records, and given its partition. Nothing passes that
//! is not exactly one whole batch.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::PartitionIndex;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{murmur, v1};
use geminga_records::{Batch, Compression, Record};

use super::lane::{Item, Meta};
use crate::ownership::topology::Topic;
use crate::router::check_partition;
use crate::rpc::context::Context;

/// What an element costs its stream beside its bytes.
const OVERHEAD_BYTES: usize = 512;
/// Most bytes that a batch is decompressed to when its first key is looked for.
const MAX_INFLATED_BYTES: usize = 64 * 1024 * 1024;

/// An element that has its place.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: PartitionIndex,
    /// The caller wants NOT_OWNER rather than a hop.
    pub(super) direct: bool,
    pub(super) item: Item<Batch>,
}

/// An element, or the answer to one that has no place to fail in. `None`: one that nobody waits for.
pub(super) type Taken = Result<Placed, Option<v1::ProduceResult>>;

/// Takes one element in.
pub(super) async fn take(ctx: &Context, element: v1::ProduceElement, direct: bool) -> Taken {
    let v1::ProduceElement { id, topic: name, partition, data, acks, restart } = element;
    let acks = v1::Acks::try_from(acks);
    let answered = acks != Ok(v1::Acks::None);
    let refuse = |error: &ApiError| {
        answered.then(|| v1::ProduceResult {
            id,
            topic: name.clone(),
            partition: partition.unwrap_or(0),
            base_offset: -1,
            log_append_time_ms: -1,
            error: Some(error.to_proto()),
        })
    };
    if acks.is_err() {
        let error = ApiError::new(Reason::InvalidRequest, "acks must be ACKS_ALL or ACKS_NONE");
        return Err(refuse(&error));
    }
    let topic = ctx.router.topology().resolve(&name).await.map_err(|e| refuse(&e))?;
    let (key, work) = match encode(data, ctx.clock.now_ms(), partition.is_none()) {
        Ok((key, batch)) => (key, Ok(batch)),
        Err(error) => (None, Err(error)),
    };
    let partition = match (partition, key) {
        (Some(partition), _) => partition,
        (None, Some(key)) => murmur::bucket(&key, topic.partitions),
        (None, None) => u32::try_from(ctx.random.below(u64::from(topic.partitions)))
            .expect("below the number of partitions"),
    };
    let partition = check_partition(&topic, partition).map_err(|e| refuse(&e))?;
    let cost = OVERHEAD_BYTES + work.as_ref().map_or(0, Batch::len);
    let meta = Meta { id, answered, restart, cost };
    Ok(Placed { topic, partition, direct, item: Item { meta, work } })
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
