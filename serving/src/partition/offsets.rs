//! Looking offsets up: the ends of a partition, and the first record at or after a time (Kafka's ListOffsets).

use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};

use super::fetch::read_error;
use super::log::{HeadError, ReadEntry};
use super::manager::Handle;
use super::retention;
use crate::router::{FoundOffset, OffsetAt};

/// Looks an offset up. Cancel-safe.
pub(super) async fn find(handle: &Handle, at: OffsetAt) -> Result<FoundOffset, ApiError> {
    let term = handle.term;
    let ends = handle.reader.ends();
    // Where it cannot be read now under which term a record was written, its offset is known all the same.
    let epoch = async |offset: Option<Offset>| {
        let Some(offset) = offset else { return term };
        handle.reader.term_of(offset).await.ok().flatten().unwrap_or(term)
    };
    let end = async |offset| {
        let offset = Some(offset);
        FoundOffset { offset, timestamp_ms: None, term, epoch: epoch(offset).await }
    };
    let record = async |found: Option<(Offset, i64)>| {
        let offset = found.map(|(offset, _)| offset.max(ends.log_start));
        let timestamp_ms = found.map(|(_, timestamp)| timestamp);
        FoundOffset { offset, timestamp_ms, term, epoch: epoch(offset).await }
    };
    match at {
        OffsetAt::Earliest => Ok(end(ends.log_start).await),
        OffsetAt::Latest => Ok(end(ends.high_watermark).await),
        OffsetAt::MaxTimestamp => {
            let entry = handle.reader.by_max_timestamp().await.map_err(|e| read_error(&e))?;
            Ok(record(look(handle, entry, None).await).await)
        }
        OffsetAt::Timestamp(timestamp_ms) => {
            let entry = handle.reader.by_time(timestamp_ms).await.map_err(|e| read_error(&e))?;
            Ok(record(look(handle, entry, Some(timestamp_ms)).await).await)
        }
    }
}

/// Makes records before an offset unreadable, and removes the segments that nothing needs then. Where that fails, the next
/// round of retention does it.
pub(super) async fn delete_before(
    handle: &Handle,
    before: Option<Offset>,
) -> Result<Offset, ApiError> {
    let before = before.unwrap_or_else(|| handle.reader.ends().high_watermark);
    let start = handle.head.raise(before).await.map_err(|e| head_error(&e))?;
    let now_ms = handle.now_ms();
    if let Err(error) = retention::task::trim(handle, retention::Limits::NONE, now_ms).await {
        tracing::debug!(%error, "segments of deleted records are not removed yet");
    }
    Ok(start)
}

fn head_error(error: &HeadError) -> ApiError {
    let reason = match error {
        HeadError::BeyondEnd { .. } => Reason::OffsetOutOfRange,
        HeadError::Deposed => Reason::NotReady,
        HeadError::Unavailable(_) => Reason::MetadataUnavailable,
    };
    ApiError::new(reason, error.to_string())
}

/// The first record of an entry at or after a time, or of its youngest.
async fn look(
    handle: &Handle,
    entry: Option<ReadEntry>,
    timestamp_ms: Option<i64>,
) -> Option<(Offset, i64)> {
    let entry = entry?;
    let beginning = (entry.first_offset, entry.max_timestamp);
    let find = move |limit_bytes| {
        first_since(&entry, timestamp_ms.unwrap_or(entry.max_timestamp), limit_bytes)
    };
    Some(handle.looks.at_kept(find).await.unwrap_or_else(|error| {
        tracing::error!(%error, "a batch could not be taken apart");
        beginning
    }))
}

/// The first record of `entry` at or after a time. Largest timestamps are the producers' word and batches are opened only
/// here: where one cannot be, or breaks its word, its beginning is the answer, so that no record is missed.
fn first_since(entry: &ReadEntry, timestamp_ms: i64, limit_bytes: usize) -> (Offset, i64) {
    for batch in geminga_records::split(entry.payload.clone()) {
        let Ok(batch) = batch else { break };
        let header = batch.header();
        if header.max_timestamp < timestamp_ms {
            continue;
        }
        return match geminga_records::find_since(&batch, timestamp_ms, limit_bytes) {
            Ok(Some((offset, timestamp))) => (Offset(offset), timestamp),
            _ => (Offset(header.base_offset), header.max_timestamp),
        };
    }
    (entry.first_offset, entry.max_timestamp)
}

#[cfg(test)]
mod tests;
