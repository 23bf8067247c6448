//! How much a partition holds, for people: the bytes of its segments. What an opening knows is taken from it; the rest is read from
//! the metadata store, which knows the length of every ledger that is closed.

use geminga_metastore::{Error, MetaStore};
use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_proto::reason::ApiError;

use super::log::{stored_folded_size, stored_ledger, stored_segments, stored_start};
use super::manager::Handle;
use crate::rpc::metadata::api_error;

/// The store did not answer, or holds what nobody can read.
#[derive(Debug)]
pub(super) struct Unknown(Error);

impl From<Unknown> for ApiError {
    fn from(Unknown(error): Unknown) -> Self {
        api_error(&error)
    }
}

/// Bytes of a partition; `open`: as it is opened here, if it is. Cancel-safe.
pub(super) async fn of(
    store: &dyn MetaStore,
    open: Option<&Handle>,
    topic: TopicId,
    partition: PartitionIndex,
) -> Result<u64, Unknown> {
    let held = match open {
        Some(handle) => handle.reader.held(),
        None => stored_segments(store, topic, partition).await.map_err(Unknown)?,
    };
    let folded = match open {
        Some(handle) => handle.reader.folded_size(),
        None => {
            let start = stored_start(store, topic, partition).await.map_err(Unknown)?;
            stored_folded_size(store, topic, partition, start).await.map_err(Unknown)?
        }
    };
    let mut bytes = folded.bytes;
    for segment in held.into_iter().filter(|held| !folded.counts(held)) {
        let known = match segment.bytes {
            Some(bytes) => bytes,
            None if segment.base == segment.end && segment.closed => 0,
            None => {
                let ledger = stored_ledger(store, segment.ledger).await.map_err(Unknown)?;
                ledger.and_then(|(_, bytes)| bytes).unwrap_or(0)
            }
        };
        bytes = bytes.saturating_add(known);
    }
    Ok(bytes)
}
