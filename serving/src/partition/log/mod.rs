//! One opening of one partition's log: a list of segments, each a ledger. Topic partitions and statelogs are built on it.
//!
//! * [`open`] takes the log over: it raises the term, then seals every ledger that an earlier owner left open, so
//!   that nothing is acknowledged behind its back (DESIGN 4, 6).
//! * [`LogWriter`] is owned by one task. Offsets are assigned in call order (P1); entries become durable in that order,
//!   across ledgers (P3). Snapshots stand at the head of each ledger and at intervals (P4).
//! * [`LogReader`] reads what is committed, and nothing else (RD1).
//! * Segments that were folded into a manifest ([`folded`]) are read as all others are; only the owner's list lacks them.
//! * [`LogHead`] raises the log start and removes segments that nothing needs.
//!
//! A partition that was opened and not appended to has no ledger yet: quiet partitions cost metadata only.

mod core;
mod folded;
mod head;
mod ledgers;
mod mutation;
mod opening;
mod part;
mod reader;
mod reads;
mod replay;
mod segments;
mod tail;
mod tails;
mod takeover;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use geminga_ledger::LedgerClient;
use geminga_metastore::MetaStore;
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, Offset, PartitionIndex, Term};
use geminga_runtime::Tasks;
use tokio::sync::watch;

use crate::cold::Cold;
use crate::ownership::topology::Topic;
use crate::topics::quorum::Quorum;
use mutation::Mutations;

pub use crate::statelog::log::SnapshotWanted;
pub(super) use folded::FoldedHeld;
pub use head::{HeadError, LogHead};
pub(super) use head::{
    stored_folded, stored_folded_size, stored_ledger, stored_segments, stored_start,
};
#[cfg(feature = "decoders")]
pub(super) use part::{Place, decode as decode_place, header as place_header};
pub use reader::{LogReader, ReadError};
pub use reads::Reads;
pub(super) use segments::Held;
pub use tails::Tails;
pub use writer::LogWriter;

/// What every log of a broker is made from.
#[derive(Debug, Clone)]
pub struct LogParts {
    /// Where terms and segments are.
    pub store: Arc<dyn MetaStore>,
    /// Ledgers.
    pub ledgers: LedgerClient,
    /// This broker.
    pub me: BrokerId,
    /// When they are told to stop, every opening ends with [`Lost::Stopping`].
    pub tasks: Tasks,
    /// Whether the metadata store is silent. While it is, a log asks its bookies whether it was taken over.
    pub silence: watch::Receiver<bool>,
    /// The bound on recent entries in memory, of all partitions together.
    pub tails: Tails,
    /// The bound on old entries that are being read, of all partitions together.
    pub reads: Reads,
    /// Where the lists of folded segments are; none where no object store was named.
    pub cold: Option<Cold>,
    /// Limits.
    pub config: LogConfig,
}

/// What an operator may tune in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// Most payload bytes of recent entries kept in memory for readers, for each partition. Default 8 MiB.
    pub tail_bytes: usize,
    /// The same for all partitions together. Default 384 MiB.
    pub all_tails_bytes: usize,
    /// Most payload bytes of old entries that are being read, or read ahead, for all partitions together. Default 256 MiB.
    pub reads_bytes: usize,
    /// Bytes a second that readers of old entries get together, however busy this broker is with others. Default 32 MiB.
    pub reads_floor: u64,
    /// Most payload bytes appended and not acknowledged, for each partition. Default 32 MiB, minimum one entry.
    pub outstanding_bytes: usize,
    /// A snapshot is due after this many payload bytes (P4). Default 32 MiB.
    pub snapshot_bytes: u64,
    /// A snapshot is due after this many entries (P4). Default 65,536.
    pub snapshot_entries: u64,
    /// And after this many, unless it would be more than an eighth of what was written since the last. Default 4,096.
    pub snapshot_often_entries: u64,
    /// How long a roll-over waits for what is outstanding before it resubmits it. Default 5 s.
    pub roll_drain: Duration,
    /// Shortest pause between attempts to roll, to create or to recover a ledger. Default 500 ms.
    pub retry_pause: Duration,
    /// Shortest pause between rolls that only restore the number of copies, and from when a ledger begins to when it may be left as
    /// lost; both double. Default 5 s.
    pub restore_pause: Duration,
    /// The ledger of a partition that takes nothing for so long is closed. Default 10 min.
    pub idle_close: Duration,
    /// Most ledgers that one opening recovers at a time. Default 8.
    pub recoveries: usize,
    /// None but in tests.
    pub(super) mutations: Mutations,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            tail_bytes: 8 * 1024 * 1024,
            all_tails_bytes: 320 * 1024 * 1024,
            reads_bytes: 256 * 1024 * 1024,
            reads_floor: 32 * 1024 * 1024,
            outstanding_bytes: 32 * 1024 * 1024,
            snapshot_bytes: 32 * 1024 * 1024,
            snapshot_entries: 65_536,
            snapshot_often_entries: 4_096,
            roll_drain: Duration::from_secs(5),
            retry_pause: Duration::from_millis(500),
            restore_pause: Duration::from_secs(5),
            idle_close: Duration::from_secs(600),
            recoveries: 8,
            mutations: Mutations::default(),
        }
    }
}

/// When a ledger is followed by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roll {
    /// After this many payload bytes.
    pub bytes: u64,
    /// After this time.
    pub age: Duration,
}

impl Default for Roll {
    fn default() -> Self {
        Self { bytes: 1 << 30, age: Duration::from_secs(4 * 3600) }
    }
}

/// Which log to open.
#[derive(Debug, Clone)]
pub struct OpenSpec {
    /// The topic.
    pub topic: Arc<Topic>,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// The term under which this broker was assigned it.
    pub term: Term,
    /// Copies of its entries.
    pub quorum: Quorum,
    /// When to roll.
    pub roll: Roll,
}

/// Why a log could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// This broker is not assigned the partition under that term (any more).
    #[error("the partition is assigned to another broker")]
    NotOwner,
    /// Something that the log needs is away; try again.
    #[error("the partition cannot be opened now: {0}")]
    Unavailable(String),
    /// Stored entries or metadata that no replica can deliver, or that do not decode; an operator must act.
    #[error("the partition is damaged: {0}")]
    Damaged(String),
}

/// One step of the replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replay {
    /// A part of the newest complete snapshot. All parts come first.
    SnapshotPart(Bytes),
    /// A command after that snapshot.
    Command(Bytes),
    /// A Batches entry after that snapshot, without its payload.
    Batches {
        /// Offset of the first record.
        first_offset: Offset,
        /// Offsets taken.
        offset_count: u32,
        /// Largest record timestamp, milliseconds.
        max_timestamp: i64,
        /// The index that stood before the payload; empty where there was none.
        index: Bytes,
    },
}

/// A log that was taken over.
pub struct Opened {
    /// The term of this opening.
    pub term: Term,
    /// The first offset that can be read.
    pub log_start: Offset,
    /// What the next record gets; everything below is committed.
    pub next_offset: Offset,
    /// Largest record timestamp so far, milliseconds; -1 when there is none.
    pub running_max_timestamp: i64,
    /// The state so far: newest complete snapshot, then what follows it. To be read to its end before the first append
    /// where the state matters.
    pub replay: BoxStream<'static, Result<Replay, OpenError>>,
    /// Where to append.
    pub writer: LogWriter,
    /// Where to read.
    pub reader: LogReader,
    /// Where to give up what is old.
    pub head: LogHead,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("term", &self.term)
            .field("log_start", &self.log_start)
            .field("next_offset", &self.next_offset)
            .finish_non_exhaustive()
    }
}

/// What an append is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Record batches, stamped with the offsets that they are about to take.
    Batches {
        /// Offsets taken; at least one.
        offset_count: u32,
        /// Largest record timestamp, milliseconds; -1 when there is none.
        max_timestamp: i64,
    },
    /// A statelog's change of state.
    Command,
    /// Nothing: proves, once acknowledged, that this broker still owned the log after the append (S2).
    Barrier,
}

/// An append's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Counts the appends of this opening from 1.
    pub number: u64,
    /// Offset of its first record; of the next record for kinds that take none. Assigned, not yet committed (P1).
    pub first_offset: Offset,
}

/// Why an append was not taken; it certainly was not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The opening has ended; the reason is in its [`Event::Lost`].
    #[error("the partition's log is closed")]
    Closed,
    /// The payload is above the largest entry.
    #[error("the entry is above {max} bytes", max = caps::MAX_ENTRY_BYTES)]
    TooLarge,
}

/// What a log tells its owner, in order.
#[derive(Debug)]
pub enum Event {
    /// The first `through` appends of this opening are durable.
    Acked {
        /// Number of the newest durable append.
        through: u64,
        /// The end of what is committed then (P1).
        high_watermark: Offset,
    },
    /// The log goes on once it has the state after exactly the appends acknowledged by the events before (P4).
    Snapshot(SnapshotWanted),
    /// This opening is over: nothing more is acknowledged, and what was not acknowledged may or may not be in the log.
    Lost(Lost),
}

/// Why an opening ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// Another broker owns the partition, or will.
    #[error("another broker owns the partition")]
    Deposed,
    /// The log cannot be written; opening it again may help.
    #[error("the partition's log cannot be written: {0}")]
    Failed(String),
    /// The process is stopping.
    #[error("the broker is shutting down")]
    Stopping,
}

/// The ends of what can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The first offset.
    pub log_start: Offset,
    /// The end of what is committed (P1).
    pub high_watermark: Offset,
}

/// One stored Batches entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadEntry {
    /// Offset of its first record.
    pub first_offset: Offset,
    /// Offsets that it takes.
    pub offset_count: u32,
    /// Largest record timestamp, milliseconds.
    pub max_timestamp: i64,
    /// Record batches, end to end.
    pub payload: Bytes,
}

impl ReadEntry {
    /// The offset after its last record.
    pub fn end(&self) -> Offset {
        Offset(self.first_offset.0 + i64::from(self.offset_count))
    }
}

/// Takes a partition's log over. When it returns, no earlier owner can have anything acknowledged any more. Not
/// cancel-safe in its effects: a dropped call may have raised the term, which costs time and no data.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(parts: &LogParts, spec: OpenSpec) -> Result<Opened, OpenError> {
    takeover::open(parts, spec).await
}
