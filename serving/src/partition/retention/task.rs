//! Looks after the partitions that this broker owns, every minute or as often as it is told: raises log starts as topics say,
//! and removes what nothing needs any more. A partition that is not open is opened only when its stored segments say that there
//! is something to give up.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use geminga_proto::ids::{PartitionIndex, TopicId};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{Limits, Piece, believed, log_start};
use crate::ownership::topology::Topic;
use crate::partition::log::{HeadError, Held, ReadError, stored_head};
use crate::partition::manager::{Handle, Partitions};
use crate::partition::metrics;

/// Partitions looked at at a time.
const PARALLEL: usize = 8;
/// Partitions that are not open are looked at once in so many rounds, since that costs the metadata store a read each.
const COLD_EVERY: u64 = 10;
/// A wall clock that jumped by more than this against the monotonic one is not believed for a while.
const JUMP: Duration = Duration::from_secs(600);
/// For so long. A machine that was suspended has the right time all the same, and loses nothing but this hour.
const DISBELIEF: Duration = Duration::from_secs(3_600);

/// Whether the wall clock can be believed.
#[derive(Debug)]
struct Watch {
    /// Both clocks at the last look.
    last: (Instant, i64),
    /// Nothing is given up by time before this.
    until: Option<Instant>,
}

impl Watch {
    fn new(now: Instant, wall_ms: i64) -> Self {
        Self { last: (now, wall_ms), until: None }
    }

    /// Takes a look; whether it goes as it should.
    fn believes(&mut self, now: Instant, wall_ms: i64) -> bool {
        let (then, then_ms) = self.last;
        self.last = (now, wall_ms);
        let passed = i64::try_from(now.saturating_duration_since(then).as_millis());
        let drift = wall_ms.saturating_sub(then_ms).saturating_sub(passed.unwrap_or(i64::MAX));
        if u128::from(drift.unsigned_abs()) > JUMP.as_millis() {
            tracing::warn!(
                drift_ms = drift,
                "the clock of this machine jumped: nothing is given up by age for an hour"
            );
            self.until = Some(now + DISBELIEF);
        }
        self.until.is_none_or(|until| now >= until)
    }
}

/// Runs until it is dropped.
pub(in crate::partition) async fn run(partitions: Partitions, every: Duration) {
    let mut tick = interval_at(Instant::now() + every, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::new(Instant::now(), partitions.now_ms());
    let mut round = 0;
    loop {
        tick.tick().await;
        let now_ms = partitions.now_ms();
        let dated = watch.believes(Instant::now(), now_ms);
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
            None if !self.cold || limits.is_unlimited() => return,
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
        let stored = stored_head(self.partitions.store(), topic.id, partition).await;
        let stored = stored.inspect_err(|error| {
            tracing::debug!(topic = topic.name, %partition, %error, "segments cannot be listed");
        });
        let (start, held) = stored.ok()?;
        let piece = |held: &Held| Piece {
            end: held.end,
            youngest_ms: held.max_timestamp.and_then(|at| believed(at, None, self.now_ms)),
            bytes: held.bytes.unwrap_or(0),
            closed: held.closed,
        };
        let pieces: Vec<Piece> = held.iter().map(piece).collect();
        if log_start(&pieces, limits, self.now_ms, start) == start {
            return None;
        }
        self.partitions.open(topic, partition).await.ok()
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
    let before = handle.reader.ends().log_start;
    if !limits.is_unlimited() {
        let pieces = pieces(handle, limits, now_ms).await?;
        let to = log_start(&pieces, limits, now_ms, before);
        if to > before {
            handle.head.raise(to).await?;
        }
    }
    let removed = handle.head.remove_dead().await?;
    let (start, held) = (handle.reader.ends().log_start, handle.reader.held());
    let at_rest = held.last().is_some_and(|newest| newest.closed);
    if at_rest && held.iter().any(|held| held.base < held.end && held.end <= start) {
        // Nothing of it is wanted, and it holds the log's state: the next ledger begins with that.
        handle.anew.notify_one();
    }
    Ok(removed)
}

async fn pieces(handle: &Handle, limits: Limits, now_ms: i64) -> Result<Vec<Piece>, ReadError> {
    let (reader, held) = (&handle.reader, handle.reader.held());
    let mut pieces = Vec::with_capacity(held.len());
    // Of what follows a segment that stays it makes no difference how old it is.
    let mut dating = limits.ms.is_some();
    for (at, this) in held.iter().enumerate() {
        let mut youngest_ms = None;
        if dating && this.closed {
            let says = match this.max_timestamp {
                Some(says) => says,
                None => reader.newest_of(this.seq).await?,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_not_believed_for_a_while() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut watch = Watch::new(start, 0);
        assert!(watch.believes(at(60), 61_000), "a little ahead");
        assert!(!watch.believes(at(120), 1_000_000_000), "ahead");
        assert!(!watch.believes(at(180), 1_000_060_000), "it still is");
        assert!(watch.believes(at(120 + 3_600), 1_003_600_000), "it stays like that");
        assert!(!watch.believes(at(3_800), 0), "behind");
    }
}
