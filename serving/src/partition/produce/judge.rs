//! Judges a batch before it gets its place: what no topic takes, what this topic takes, and what its records are.
//!
//! * Records that are not compressed are walked through once, whatever the topic says: that is cheap. Others are taken apart only
//!   where the topic asks for what only they tell (keys, or bounds of its own for times), or the broker is strict. Otherwise the header
//!   is believed: who lies spoils look-ups by time in the own batches.
//! * A largest timestamp that the records show to be wrong is mended: look-ups and retention go by it.
//! * What a topic's settings forbid is an objection, which the owner's task may overrule: a batch that is in the log already was
//!   taken when it came first, whatever the topic says since, and is answered all the same (P2).

mod errant;

use std::sync::Arc;

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Batch, BatchError, Glance, look_through};

use self::errant::Errant;
use crate::ownership::topology::Topic;
use crate::partition::looks::{Looks, NotSeen};

/// A compressed batch up to here is taken apart at once, if its records take no more than [`SMALL_DECODED_BYTES`].
const SMALL_BYTES: usize = 64 * 1024;
const SMALL_DECODED_BYTES: usize = 256 * 1024;
/// Kafka's "no timestamp".
const NO_TIMESTAMP: i64 = -1;

/// What a batch is judged by.
#[derive(Debug, Clone)]
pub(in crate::partition) struct Judge {
    /// The topic as it is now.
    pub(in crate::partition) topic: Arc<Topic>,
    /// Whether all records are looked at, however they are compressed.
    pub(in crate::partition) strict: bool,
    /// Milliseconds since the Unix epoch.
    pub(in crate::partition) now_ms: i64,
}

/// What is seen of a batch's records, by places.
struct Seen {
    max_timestamp: i64,
    keyless: Errant,
    /// Whose times nobody believes.
    misdated: Errant,
}

impl Judge {
    /// The batch as it is to be stored, and what there is against it. Every batch passes here, whichever way it came; that it is one
    /// and whole was checked when it was parsed. Cancel-safe.
    ///
    /// # Errors
    /// MESSAGE_TOO_LARGE, INVALID_RECORD, INVALID_TIMESTAMP, NOT_SUPPORTED: what no topic takes. Objections are these.
    pub(in crate::partition) async fn judge(
        &self,
        batch: Batch,
        looks: &Looks,
    ) -> Result<(Batch, Option<ApiError>), ApiError> {
        check(&batch)?;
        let objection = match self.check_size(&batch) {
            Ok(()) => match self.look(&batch, looks).await {
                Ok(None) => None,
                Ok(Some(max_timestamp)) => {
                    return Ok((batch.with_max_timestamp(max_timestamp), None));
                }
                Err(objection) => Some(objection),
            },
            Err(objection) => Some(objection),
        };
        Ok((batch, objection))
    }

    fn check_size(&self, batch: &Batch) -> Result<(), ApiError> {
        let max = self.topic.settings.max_message_bytes;
        if batch.len() <= max {
            return Ok(());
        }
        let why = format!(
            "batch of {} bytes is above the {max} that max.message.bytes of topic {} allows: send smaller batches",
            batch.len(),
            self.topic.name
        );
        Err(ApiError::new(Reason::MessageTooLarge, why))
    }

    /// The largest timestamp, where the header says a wrong one.
    async fn look(&self, batch: &Batch, looks: &Looks) -> Result<Option<i64>, ApiError> {
        let settings = &self.topic.settings;
        let bounds_times = settings.bounds_times && !settings.log_append_time;
        if batch.is_plain() {
            return self.look_within(batch, usize::MAX).map_err(|error| self.unreadable(error))?;
        }
        if !(self.strict || settings.wants_keys || bounds_times) {
            return self.check_header(batch).map(|()| None);
        }
        if batch.len() <= SMALL_BYTES {
            match self.look_within(batch, SMALL_DECODED_BYTES) {
                Err(BatchError::Inflated(_)) => {}
                looked => return looked.map_err(|error| self.unreadable(error))?,
            }
        }
        let (own, batch) = (self.clone(), batch.clone());
        let look = move |limit_bytes| own.look_within(&batch, limit_bytes);
        let looked = looks.at_new(look).await.map_err(|not_seen| match not_seen {
            NotSeen::Busy => {
                let why =
                    "many large batches wait to be looked into: send it again, or smaller ones";
                ApiError::new(Reason::Overloaded, why)
            }
            NotSeen::Failed(error) => {
                tracing::error!(%error, "a batch could not be taken apart");
                ApiError::new(Reason::Internal, "the batch could not be taken apart")
            }
        })?;
        looked.map_err(|error| self.unreadable(error))?
    }

    fn look_within(
        &self,
        batch: &Batch,
        limit_bytes: usize,
    ) -> Result<Result<Option<i64>, ApiError>, BatchError> {
        let settings = &self.topic.settings;
        let (wants_keys, dates) = (settings.wants_keys, settings.log_append_time);
        let (early, late) = self.believed();
        let mut seen = Seen {
            max_timestamp: i64::MIN,
            keyless: Errant::default(),
            misdated: Errant::default(),
        };
        look_through(batch, limit_bytes, |record: Glance| {
            seen.max_timestamp = seen.max_timestamp.max(record.timestamp);
            if wants_keys && !record.has_key {
                seen.keyless.add(record);
            }
            let said = record.timestamp;
            if !dates && (said < early || said > late) && said != NO_TIMESTAMP {
                seen.misdated.add(record);
            }
        })?;
        let is_right = dates || seen.max_timestamp == batch.header().max_timestamp;
        let max_timestamp = (!is_right).then_some(seen.max_timestamp);
        Ok(self.verdict(seen).map(|()| max_timestamp))
    }

    /// Times that nobody believes would spoil look-ups by time, and keep data longer than it should be, or less long.
    fn believed(&self) -> (i64, i64) {
        let settings = &self.topic.settings;
        let early = self.now_ms.saturating_sub_unsigned(settings.timestamp_before_max_ms);
        (early, self.now_ms.saturating_add_unsigned(settings.timestamp_after_max_ms))
    }

    fn verdict(&self, seen: Seen) -> Result<(), ApiError> {
        let Seen { keyless, misdated, .. } = seen;
        let (reason, message) = match (misdated.first(), keyless.first()) {
            (None, None) => return Ok(()),
            // Where a record is wrong in both ways, Kafka says this one.
            (Some(first), _) => {
                let which = format!("record {} of the batch: its", first.place);
                (Reason::InvalidTimestamp, self.misdated(&which, first.timestamp))
            }
            (None, Some(first)) => {
                let why = format!(
                    "record {} of the batch has no key{}, and cleanup.policy of topic {} is compact: give every record a key",
                    first.place,
                    keyless.others(),
                    self.topic.name
                );
                (Reason::InvalidRecord, why)
            }
        };
        Err(ApiError { records: misdated.beside(keyless), ..ApiError::new(reason, message) })
    }

    /// A batch says when its first record was made, and its youngest.
    fn check_header(&self, batch: &Batch) -> Result<(), ApiError> {
        if self.topic.settings.log_append_time {
            return Ok(());
        }
        let (early, late) = self.believed();
        let header = batch.header();
        let said = [header.base_timestamp, header.max_timestamp];
        let wrong =
            said.into_iter().find(|&said| said != NO_TIMESTAMP && !(early..=late).contains(&said));
        wrong.map_or(Ok(()), |said| {
            Err(ApiError::new(Reason::InvalidTimestamp, self.misdated("a record's", said)))
        })
    }

    fn misdated(&self, whose: &str, said: i64) -> String {
        let settings = &self.topic.settings;
        let (which, by) = if said > self.now_ms {
            ("after", settings.timestamp_after_max_ms)
        } else {
            ("before", settings.timestamp_before_max_ms)
        };
        format!(
            "{whose} timestamp {said} is more than {by} ms {which} this broker's clock, {}: correct the clock that is wrong, or raise \
             message.timestamp.{which}.max.ms of topic {}",
            self.now_ms, self.topic.name
        )
    }

    /// Its checksum is right, so that to send it again is of no use.
    fn unreadable(&self, error: BatchError) -> ApiError {
        match error {
            BatchError::Decompress(_) => ApiError::new(Reason::InvalidRecord, error.to_string()),
            BatchError::Inflated(_) => {
                let more = "or give the broker more --memory to look at them";
                ApiError::new(Reason::MessageTooLarge, format!("{error}, {more}"))
            }
            error => error.into(),
        }
    }
}

/// Checks what no topic takes.
///
/// # Errors
/// MESSAGE_TOO_LARGE, INVALID_RECORD, INVALID_TIMESTAMP, NOT_SUPPORTED.
fn check(batch: &Batch) -> Result<(), ApiError> {
    if batch.len() > caps::MAX_BATCH_BYTES {
        let why = format!(
            "batch of {} bytes is above {}, the most of any topic: send smaller batches",
            batch.len(),
            caps::MAX_BATCH_BYTES
        );
        return Err(ApiError::new(Reason::MessageTooLarge, why));
    }
    batch.check_produced()?;
    // Accepting them would promise what is not kept: that they can be aborted.
    if batch.header().is_transactional() {
        let why = "transactions are not supported: produce without a transactional id";
        return Err(ApiError::new(Reason::NotSupported, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
