//! The head of a log: where it starts, and removing what nothing needs any more (DESIGN 4, protocol 7.8). The log start is
//! raised first, under a key of its own, and only rises; then segments go, each in one transaction with the begin of its
//! ledger's end.
//!
//! What may go is before the *anchor*: the newest segment that is known to hold a complete snapshot within its LAC. Takeover
//! finds the end, and the state, from there on (P4), and never looks before it. Of those,
//!
//! * in a statelog every one: what is before the newest snapshot is dead weight (S1);
//! * in a topic's log those that end at the log start or before, and those that hold no records.
//!
//! So the newest segment never goes. Everything is guarded by the term; of two who do the same at the same time one fails its
//! guard and looks again, so nothing is locked.

use std::sync::Arc;

use geminga_ledger::DeleteError;
use geminga_metastore::record::{LedgerMeta, LogStart, Segment as Record};
use geminga_metastore::{Error as MetaError, Guard, MetaStore, Txn, TxnOutcome, keys};
use geminga_proto::caps;
use geminga_proto::ids::{LedgerId, Offset, PartitionIndex, TopicId};

use super::LogParts;
use super::folded::{Folded, FoldedHeld, FoldedSize, stored_manifest};
use super::mutation::Mutation;
use super::opening::{Opening, Stored, list_segments};
use super::segments::{Held, Segments};

/// Attempts at one change whose outcome stays unknown, or that others overtake.
const ATTEMPTS: usize = 5;
/// Segments of one transaction: beside the term's guard, a guard and a delete each, and the ledger's two guards and two puts.
const BATCH: usize = (caps::MAX_METADATA_TXN_OPS - 1) / 6;

/// Why the head of a log was not changed, or is not known to have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Nothing is committed there.
    #[error("offset {asked} is after the end of what is committed, {end}: name one up to it")]
    BeyondEnd {
        /// Asked for.
        asked: Offset,
        /// The high watermark.
        end: Offset,
    },
    /// Another broker owns the partition.
    #[error("another broker owns the partition")]
    Deposed,
    /// The metadata store did not do it, or did not say so; it may be tried again.
    #[error("{0}")]
    Unavailable(String),
}

impl From<MetaError> for HeadError {
    fn from(error: MetaError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Where a log starts, as it is stored, whoever owns it.
pub(in crate::partition) async fn stored_start(
    store: &dyn MetaStore,
    topic: TopicId,
    partition: PartitionIndex,
) -> Result<Offset, MetaError> {
    let key = keys::log_start(topic, partition);
    match store.get(&key).await? {
        None => Ok(Offset(0)),
        Some(found) => LogStart::decode(&found.value)
            .map(|start| start.offset)
            .map_err(|e| MetaError::Corrupt { key, why: e.to_string() }),
    }
}

/// What a log holds, as it is stored, whoever owns it. What is not known of its segments is not stored.
pub(in crate::partition) async fn stored_segments(
    store: &dyn MetaStore,
    topic: TopicId,
    partition: PartitionIndex,
) -> Result<Vec<Held>, MetaError> {
    let stored = list_segments(store, topic, partition, None).await?;
    let nexts = stored.iter().skip(1).map(|next| Some(next.segment.base_offset)).chain([None]);
    let held = |(Stored { seq, segment, .. }, next): (&Stored, Option<Offset>)| Held {
        seq: *seq,
        ledger: segment.ledger,
        base: segment.base_offset,
        end: segment.end_offset.or(next).unwrap_or(segment.base_offset),
        max_timestamp: segment.max_timestamp,
        bytes: segment.bytes,
        // Where another one follows it was closed, whether or not its end was noted.
        closed: segment.end_offset.or(next).is_some(),
    };
    Ok(stored.iter().zip(nexts).map(held).collect())
}

/// What a log holds of folded segments from `start` on, as it is stored. The oldest list is told apart where there is an object store.
pub(in crate::partition) async fn stored_folded(
    parts: &LogParts,
    topic: TopicId,
    partition: PartitionIndex,
    start: Offset,
) -> Result<FoldedHeld, MetaError> {
    let (store, cold) = (Arc::clone(&parts.store), parts.cold.clone());
    let folded = Folded::load(store, cold, (topic, partition)).await?;
    folded.held(start).await.map_err(|error| MetaError::Unavailable(error.to_string()))
}

/// How much is folded from `start` on, as it is stored. To be read after the keys of segments.
pub(in crate::partition) async fn stored_folded_size(
    store: &dyn MetaStore,
    topic: TopicId,
    partition: PartitionIndex,
    start: Offset,
) -> Result<FoldedSize, MetaError> {
    let (manifest, _) = stored_manifest(store, (topic, partition)).await?;
    Ok(FoldedSize::of(&manifest, start))
}

/// When a ledger was made, by its maker's clock, and how many bytes it holds when it is closed.
pub(in crate::partition) async fn stored_ledger(
    store: &dyn MetaStore,
    ledger: LedgerId,
) -> Result<Option<(i64, Option<u64>)>, MetaError> {
    let key = keys::ledger(ledger);
    let Some(found) = store.get(&key).await? else { return Ok(None) };
    let meta = LedgerMeta::decode(ledger, &found.value)
        .map_err(|e| MetaError::Corrupt { key, why: e.to_string() })?;
    Ok(Some((meta.created_ms, meta.last_entry.map(|_| meta.length))))
}

/// Changes the head of one opening's log. Cheap to clone; useful for as long as the opening owns the partition.
#[derive(Debug, Clone)]
pub struct LogHead {
    opening: Arc<Opening>,
    segments: Arc<Segments>,
}

impl LogHead {
    pub(super) fn new(opening: Arc<Opening>, segments: Arc<Segments>) -> Self {
        Self { opening, segments }
    }

    /// Makes records before `to` unreadable for ever; returns where the log starts then, which is `to` or, where it started
    /// later already, that. Durable on return. Cancel-safe: a second call finishes what a dropped one began.
    ///
    /// # Errors
    /// [`HeadError`].
    pub async fn raise(&self, to: Offset) -> Result<Offset, HeadError> {
        let end = self.segments.ends().high_watermark;
        if to > end {
            return Err(HeadError::BeyondEnd { asked: to, end });
        }
        let Opening { parts, topic, partition, .. } = &*self.opening;
        let key = keys::log_start(topic.id, *partition);
        for _ in 0..ATTEMPTS {
            let found = parts.store.get(&key).await?;
            let (stands, own) = match &found {
                None => (Offset(0), Guard::Absent(key.clone())),
                Some(found) => {
                    let stands = LogStart::decode(&found.value)
                        .map_err(|e| HeadError::Unavailable(format!("{key} holds {e}")))?;
                    (stands.offset, Guard::Version(key.clone(), found.version))
                }
            };
            if stands >= to && !self.breaks(Mutation::LowerLogStart) {
                self.segments.start_at(stands);
                return Ok(stands);
            }
            let raised = LogStart { offset: to }.encode();
            let txn = self.opening.guarded().guard(own).put(&key, raised);
            match parts.store.txn(txn).await {
                Ok(TxnOutcome::Committed(_)) => {
                    self.segments.start_at(to);
                    return Ok(to);
                }
                // Raised by somebody else, or by this after all (M9): the next look tells.
                Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
            self.still_owns().await?;
        }
        Err(HeadError::Unavailable("the log start could not be raised: try again".to_owned()))
    }

    /// Removes the segments that nothing needs; how many. Cancel-safe as [`LogHead::raise`].
    ///
    /// # Errors
    /// [`HeadError`]; what was removed is removed.
    pub async fn remove_dead(&self) -> Result<usize, HeadError> {
        let (mut removed, mut attempts) = (0, 0);
        let unanchored = self.breaks(Mutation::DropUnanchored);
        loop {
            let dead = self.segments.dead(BATCH, unanchored);
            if dead.is_empty() {
                break;
            }
            let (gone, txn) = self.part(&dead).await?;
            let (gone, done) = if txn.ops.is_empty() {
                (gone, true)
            } else {
                match self.opening.parts.store.txn(txn).await {
                    Ok(TxnOutcome::Committed(_)) => {
                        (dead.iter().map(|(seq, _)| *seq).collect(), true)
                    }
                    Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => (gone, false),
                    Err(error) => return Err(error.into()),
                }
            };
            removed += gone.len();
            self.segments.removed(&gone);
            if done {
                attempts = 0;
                continue;
            }
            self.still_owns().await?;
            attempts += 1;
            if attempts == ATTEMPTS {
                let why = "dead segments could not be removed: try again".to_owned();
                return Err(HeadError::Unavailable(why));
            }
        }
        if removed > 0 {
            let Opening { topic, partition, .. } = &*self.opening;
            tracing::info!(
                topic = topic.name,
                partition = partition.0,
                removed,
                "segments removed"
            );
        }
        Ok(removed)
    }

    /// Which of these are gone already, and what removes the others.
    async fn part(&self, dead: &[(u32, LedgerId)]) -> Result<(Vec<u32>, Txn), HeadError> {
        let parts = &self.opening.parts;
        let (mut gone, mut deleted, mut txn) = (Vec::new(), Vec::new(), self.opening.guarded());
        for (seq, ledger) in dead {
            let key = self.opening.segment_key(*seq);
            let found = parts.store.get(&key).await?;
            let stored = found.filter(|found| {
                Record::decode(&found.value).is_ok_and(|segment| segment.ledger == *ledger)
            });
            let Some(stored) = stored else {
                gone.push(*seq);
                continue;
            };
            let part = match parts.ledgers.deletion(*ledger).await {
                Ok(part) => part.unwrap_or_default(),
                Err(DeleteError::Metadata(error)) => return Err(error.into()),
                Err(error @ DeleteError::NotClosed(_)) => {
                    return Err(HeadError::Unavailable(error.to_string()));
                }
            };
            txn = txn.guard(Guard::Version(key.clone(), stored.version)).and(part);
            deleted.push(key);
        }
        if deleted.is_empty() {
            return Ok((gone, Txn::new()));
        }
        Ok((gone, deleted.into_iter().fold(txn, Txn::delete)))
    }

    async fn still_owns(&self) -> Result<(), HeadError> {
        if self.opening.still_owns().await? { Ok(()) } else { Err(HeadError::Deposed) }
    }

    fn breaks(&self, rule: Mutation) -> bool {
        self.opening.parts.config.mutations.is(rule)
    }
}
