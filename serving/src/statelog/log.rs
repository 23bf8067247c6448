//! What a statelog asks of the internal partition that it lives on. The partition code implements it on ledgers;
//! tests implement it in memory.
//!
//! # Contract
//! * [`Logs::open`] takes the shard over: when it returns, no earlier owner can have anything acknowledged any more
//!   (the term was raised and every open ledger sealed). The replay yields the newest complete snapshot and then
//!   every later command, in log order, across ledgers (S1). Barriers are not replayed.
//! * Appends are numbered from 1 in call order, and that is the order in the log. They become durable in that order.
//! * The log keeps P4 by itself: it asks for a [`SnapshotWanted`] right after opening, after each roll and after each
//!   snapshot interval, and it holds back appended entries until the snapshot's end marker is written. All of this,
//!   and resubmitting after a roll (P3), happens inside one opening.
//! * The events of a log are one sequence. A wanted snapshot is of the state after exactly the appends acknowledged by
//!   the events before it, so the state that answers it is the one that [`Event::Acked`] has been applied to.
//! * After [`Event::Lost`] the opening is over: nothing more is acknowledged, and what was not acknowledged may or
//!   may not be in the log. Whoever still wants the shard opens it again and replays.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use geminga_proto::ids::{PartitionIndex, Term};
use tokio::sync::oneshot;

/// Most payload bytes of unacknowledged entries that a statelog appends; a log accepts at least these.
pub const MAX_OUTSTANDING_BYTES: usize = 24 * 1024 * 1024;
/// Most unacknowledged entries that a statelog appends; a log accepts at least these.
pub const MAX_OUTSTANDING_ENTRIES: usize = 4096;
/// A statelog aims at snapshot parts of this size; none is above the largest entry.
pub const SNAPSHOT_PART_BYTES: usize = 1024 * 1024;

/// What may be appended. Both take no offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Append {
    /// A change of state.
    Command(Bytes),
    /// Nothing: proves, once acknowledged, that this broker still owned the log after the append (S2).
    Barrier,
}

impl Append {
    /// Bytes of payload.
    pub fn len(&self) -> usize {
        match self {
            Self::Command(bytes) => bytes.len(),
            Self::Barrier => 0,
        }
    }

    /// Whether there is no payload.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One step of the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// A part of the newest complete snapshot. All parts come before the first command.
    SnapshotPart(Bytes),
    /// A command after that snapshot.
    Command(Bytes),
}

/// What a log tells its statelog, in order.
#[derive(Debug)]
pub enum Event {
    /// The first `through` appends of this opening are durable.
    Acked {
        /// Number of the newest durable append.
        through: u64,
    },
    /// The log goes on once it has the state after the acknowledged appends.
    Snapshot(SnapshotWanted),
    /// This opening is over.
    Lost(Lost),
}

/// A request for the state; answered with its parts, at least one and none above the largest entry.
#[derive(Debug)]
pub struct SnapshotWanted {
    reply: oneshot::Sender<Vec<Bytes>>,
}

impl SnapshotWanted {
    /// A request and where its answer arrives. The answer never arrives when the statelog is gone.
    pub fn new() -> (Self, oneshot::Receiver<Vec<Bytes>>) {
        let (reply, answer) = oneshot::channel();
        (Self { reply }, answer)
    }

    /// Answers.
    pub fn answer(self, parts: Vec<Bytes>) {
        // The log may be closing: it then needs no snapshot.
        let _ = self.reply.send(parts);
    }
}

/// Why an opening ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another broker owns the shard, or will.
    #[error("another broker owns the shard")]
    Deposed,
    /// The log cannot be written now; opening it again may help.
    #[error("the shard's log cannot be written: {0}")]
    Failed(String),
    /// The process is stopping.
    #[error("the broker is shutting down")]
    Stopping,
}

/// The opening has ended; the reason is in its [`Event::Lost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the shard's log is closed")]
pub struct Closed;

/// Why a shard could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// This broker is not assigned the shard (any more).
    #[error("shard {0} is assigned to another broker")]
    NotOwner(PartitionIndex),
    /// Something that the log needs is away; try again.
    #[error("shard cannot be opened now: {0}")]
    Unavailable(String),
    /// Stored entries that no replica can deliver, or that do not decode.
    #[error("shard {shard} is damaged: {what}; restore it before its groups can be served")]
    Damaged {
        /// Which.
        shard: PartitionIndex,
        /// What is wrong with it.
        what: String,
    },
}

/// A shard that was taken over.
pub struct Opened {
    /// The term of this opening.
    pub term: Term,
    /// The state so far. Must be read to its end before the first append.
    pub replay: BoxStream<'static, Result<Replay, OpenError>>,
    /// Where to append.
    pub log: Box<dyn Log>,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("term", &self.term).finish_non_exhaustive()
    }
}

/// One opening of one shard's log. Dropping it gives the shard up without sealing anything.
#[async_trait]
pub trait Log: Send + 'static {
    /// Takes the next place in the log at once and returns its number. Never waits; never refuses while open and
    /// within [`MAX_OUTSTANDING_BYTES`] and [`MAX_OUTSTANDING_ENTRIES`].
    ///
    /// # Errors
    /// [`Closed`] when the opening has ended.
    fn append(&mut self, what: Append) -> Result<u64, Closed>;

    /// The next event. Cancel-safe. After [`Event::Lost`] it pends for ever.
    async fn event(&mut self) -> Event;
}

/// Opens shards: partitions of `_system/__groups`.
#[async_trait]
pub trait Logs: Send + Sync + fmt::Debug + 'static {
    /// Takes `shard` over. Not cancel-safe in its effects: a dropped call may have raised the term, which costs time
    /// and no data.
    ///
    /// # Errors
    /// See [`OpenError`].
    async fn open(&self, shard: PartitionIndex) -> Result<Opened, OpenError>;
}
