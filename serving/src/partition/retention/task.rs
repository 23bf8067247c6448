//! Looks after the partitions that this broker owns, every minute or as often as it is told: raises log starts as topics say,
//! and removes what nothing needs any more. A partition that is not open is opened only when what is stored of it says that there
//! is something to give up, or something left that was given up before.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use geminga_metastore::Error as MetaError;
use geminga_proto::ids::{Offset, PartitionIndex, TopicId};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::dating::Dating;
use super::{Limits, Piece, believed, log_start};
use crate::ownership::topology::Topic;
use crate::partition::log::{
    FoldedHeld, HeadError, Held, LogHead, LogReader, ReadError, stored_folded, stored_ledger,
    stored_segments, stored_start,
};
use crate::partition::manager::{Handle, Partitions};
use crate::partition::metrics;

/// Partitions looked at at a time.
const PARALLEL: usize = 8;
/// Partitions that are not open are looked at once in so many rounds, since that costs the metadata store a read each.
const COLD_EVERY: u64 = 10;
/// Runs until it is dropped.
pub(in crate::partition) async fn run(partitions: Partitions, every: Duration) {
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dating = Dating::default();
    dating.believes(Instant::now(), partitions.now_ms(), || partitions.known_ms());
    let mut round = 0;
    loop {
        tick.tick().await;
        let now_ms = partitions.now_ms();
        let dated = dating.believes(Instant::now(), now_ms, || partitions.known_ms());
        let look = Look { partitions: &partitions, now_ms, dated, cold: round % COLD_EVERY == 0 };
        round += 1;
        let owned = partitions.owned();
        futures::stream::iter(owned)
            .for_each_concurrent(PARALLEL, |(topic, partition)| look.at(topic, partition))
            .await;
    }
}

/// One round.
struct Look<'a> {
    partitions: &'a Partitions,
    now_ms: i64,
    /// Whether `now_ms` can be believed.
    dated: bool,
    /// Also at partitions that are not open.
    cold: bool,
}

impl Look<'_> {
    async fn at(&self, topic: TopicId, partition: PartitionIndex) {
        let Some(topic) = self.partitions.topic(topic) else { return };
        let mut limits = Limits::of(&topic.settings);
        if !self.dated {
            limits.ms = None;
        }
        let handle = match self.partitions.open_now((topic.id, partition)) {
            Some(handle) => handle,
            None if !self.cold => return,
            None => match self.wake(&topic, partition, limits).await {
                Some(handle) => handle,
                None => return,
            },
        };
        match trim(&handle, limits, self.now_ms).await {
            Ok(removed) => metrics::count_removed_segments(removed),
            Err(error) => {
                tracing::debug!(topic = topic.name, %partition, %error, "what is old is not given up yet; trying on");
            }
        }
    }

    /// Opens a partition that has something to give up.
    async fn wake(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        limits: Limits,
    ) -> Option<Arc<Handle>> {
        let wanted = self.is_wanted(topic, partition, limits).await;
        let wanted = wanted.inspect_err(|error| {
            tracing::debug!(topic = topic.name, %partition, %error, "segments cannot be listed");
        });
        if !wanted.ok()? {
            return None;
        }
        self.partitions.open(topic, partition).await.ok()
    }

    /// Whether a partition that is not open has something to give up, or still holds what was.
    async fn is_wanted(
        &self,
        topic: &Topic,
        partition: PartitionIndex,
        limits: Limits,
    ) -> Result<bool, MetaError> {
        let store = self.partitions.store();
        let start = stored_start(store, topic.id, partition).await?;
        if limits.is_unlimited() && start == Offset(0) {
            return Ok(false);
        }
        let mut held = stored_segments(store, topic.id, partition).await?;
        if held.iter().any(|held| held.base < held.end && held.end <= start) {
            return Ok(true);
        }
        if self.is_left_behind(topic, held.last(), limits).await? {
            return Ok(true);
        }
        // After the keys: what was folded meanwhile is then in one of the two, or in both.
        let folded = stored_folded(self.partitions.log(), topic.id, partition, start).await?;
        prepend(&folded, &mut held);
        let mut pieces = Vec::with_capacity(held.len());
        // Of what follows a segment that stays it makes no difference how old it is.
        let mut by_time = Limits { bytes: None, ..limits };
        for (at, this) in held.iter().enumerate() {
            let wanted = Limits { ms: by_time.ms, ..limits };
            let piece = self.stored_piece(this, held.get(at + 1), wanted).await?;
            let stays = log_start(&[piece], by_time, self.now_ms, this.base) == this.base;
            if stays && (this.base < this.end || !this.closed) {
                by_time = Limits::NONE;
            }
            pieces.push(piece);
        }
        Ok(log_start(&pieces, limits, self.now_ms, start) > start)
    }

    /// Whether the newest segment may hold records, which all are too old then: its owner died, or was none that wrote, and noted no
    /// date. Nobody wrote to its ledger when that was older than a segment may be. Opening it closes it and looks closer.
    async fn is_left_behind(
        &self,
        topic: &Topic,
        newest: Option<&Held>,
        limits: Limits,
    ) -> Result<bool, MetaError> {
        let (Some(newest), Some(kept)) = (newest, limits.ms) else { return Ok(false) };
        let may_hold = !newest.closed || newest.base < newest.end;
        if !may_hold || newest.max_timestamp.is_some() {
            return Ok(false);
        }
        let made = stored_ledger(self.partitions.store(), newest.ledger).await?;
        let longest = kept.saturating_add(topic.settings.segment_ms);
        let longest = i64::try_from(longest).unwrap_or(i64::MAX);
        Ok(made.is_some_and(|(created_ms, _)| self.now_ms.saturating_sub(created_ms) > longest))
    }

    /// A segment of a partition that is not open. One that a takeover closed has no date and no size in the store: it is no younger
    /// than the ledger after it, and as large as its own says.
    async fn stored_piece(
        &self,
        this: &Held,
        next: Option<&Held>,
        limits: Limits,
    ) -> Result<Piece, MetaError> {
        let (store, holds) = (self.partitions.store(), this.base < this.end && this.closed);
        let mut youngest_ms = this.max_timestamp.and_then(|at| believed(at, None, self.now_ms));
        if let (None, true, Some(_), Some(next)) = (youngest_ms, holds, limits.ms, next) {
            let ended_ms =
                stored_ledger(store, next.ledger).await?.map(|(created_ms, _)| created_ms);
            youngest_ms = believed(-1, ended_ms, self.now_ms);
        }
        let mut bytes = this.bytes;
        if let (None, true, Some(_)) = (bytes, holds, limits.bytes) {
            bytes = stored_ledger(store, this.ledger).await?.and_then(|(_, bytes)| bytes);
        }
        Ok(Piece { end: this.end, youngest_ms, bytes: bytes.unwrap_or(0), closed: this.closed })
    }
}

/// Why nothing, or not all, was given up.
#[derive(Debug, thiserror::Error)]
pub(in crate::partition) enum Error {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Gives up what `limits` say of an open partition; how many segments were removed. Cancel-safe: the next round goes on.
pub(in crate::partition) async fn trim(
    handle: &Handle,
    limits: Limits,
    now_ms: i64,
) -> Result<usize, Error> {
    raise_start(&handle.reader, &handle.head, limits, now_ms).await?;
    let removed = handle.head.remove_dead().await?;
    let (start, held) = (handle.reader.ends().log_start, handle.reader.held());
    let at_rest = held.last().is_some_and(|newest| newest.closed);
    if at_rest && held.iter().any(|held| held.base < held.end && held.end <= start) {
        // Nothing of it is wanted, and it holds the log's state: the next ledger begins with that.
        handle.anew.notify_one();
    }
    if held.last().is_some_and(|newest| is_expired(newest, limits, now_ms)) {
        // As Kafka does with an active segment: it is closed first, and a later round gives it up.
        handle.expired.notify_one();
    }
    Ok(removed)
}

/// Raises the start of a log as `limits` say. Cancel-safe.
pub(in crate::partition) async fn raise_start(
    reader: &LogReader,
    head: &LogHead,
    limits: Limits,
    now_ms: i64,
) -> Result<(), Error> {
    let before = reader.ends().log_start;
    if !limits.is_unlimited() {
        let pieces = pieces(reader, limits, now_ms).await?;
        let to = log_start(&pieces, limits, now_ms, before);
        if to > before {
            head.raise(to).await?;
        }
    }
    Ok(())
}

/// Whether an open segment holds records and all are too old.
fn is_expired(newest: &Held, limits: Limits, now_ms: i64) -> bool {
    let youngest_ms = newest.max_timestamp.and_then(|says| believed(says, None, now_ms));
    let as_closed = Piece { end: newest.end, youngest_ms, bytes: 0, closed: true };
    let by_time = Limits { bytes: None, ..limits };
    !newest.closed
        && newest.base < newest.end
        && log_start(&[as_closed], by_time, now_ms, newest.base) > newest.base
}

/// Puts folded segments before the others, of which none is among them then; where the lists behind the oldest are.
fn prepend(folded: &FoldedHeld, held: &mut Vec<Held>) -> Range<usize> {
    let FoldedHeld { oldest, later } = folded;
    let last = later.last().or(oldest.last()).map(|held| held.seq);
    held.retain(|held| last.is_none_or(|last| held.seq > last));
    held.splice(0..0, oldest.iter().chain(later).copied());
    oldest.len()..oldest.len() + later.len()
}

async fn pieces(reader: &LogReader, limits: Limits, now_ms: i64) -> Result<Vec<Piece>, ReadError> {
    let mut held = reader.held();
    let lists = prepend(&reader.folded_held().await?, &mut held);
    let mut pieces = Vec::with_capacity(held.len());
    // Of what follows a segment that stays it makes no difference how old it is.
    let mut dating = limits.ms.is_some();
    for (at, this) in held.iter().enumerate() {
        // A list whose segments are not told apart goes by time when it is the oldest.
        dating &= !lists.contains(&at);
        let mut youngest_ms = None;
        if dating && this.closed {
            let says = match this.max_timestamp {
                Some(says) => says,
                // One that cannot be read is as old as its end, so that damage keeps nothing for ever.
                None => reader.newest_of(this.seq).await.unwrap_or_else(|error| {
                    tracing::warn!(seq = this.seq, %error, "how old a segment is cannot be read");
                    -1
                }),
            };
            youngest_ms = believed(says, None, now_ms);
            if let (None, Some(next)) = (youngest_ms, held.get(at + 1)) {
                let next = reader.ledger_of(next.seq).await?;
                youngest_ms = believed(says, next.map(|(created_ms, _)| created_ms), now_ms);
            }
        }
        let bytes = match (limits.bytes, this.bytes) {
            (None, _) => 0,
            (_, Some(bytes)) => bytes,
            (_, None) => reader.ledger_of(this.seq).await?.map_or(0, |(_, bytes)| bytes),
        };
        let piece = Piece { end: this.end, youngest_ms, bytes, closed: this.closed };
        let by_time = Limits { bytes: None, ..limits };
        dating &= log_start(&[piece], by_time, now_ms, this.base) > this.base
            || (this.base == this.end && this.closed);
        pieces.push(piece);
    }
    Ok(pieces)
}
