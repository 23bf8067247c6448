//! What the rest of the broker asks of the partitions that it owns; the partition code implements it.

use std::fmt;
use std::sync::Arc;

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use geminga_proto::ids::{Offset, PartitionIndex, Term, TopicId};
use geminga_proto::reason::ApiError;
use geminga_records::Batch;
use tokio::sync::watch;

use crate::ownership::topology::Topic;

/// The ends of an open partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOffsets {
    /// The first offset that can be read.
    pub log_start: Offset,
    /// The end of what is committed.
    pub high_watermark: Offset,
}

/// Which offset is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first that can be read.
    Earliest,
    /// The end of what is committed (P1).
    Latest,
    /// The first record at or after this time, in milliseconds since the Unix epoch.
    Timestamp(i64),
    /// The record with the largest timestamp, the first of several.
    MaxTimestamp,
}

/// An offset that was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundOffset {
    /// `None`: no record is that young.
    pub offset: Option<Offset>,
    /// Timestamp of the record, where one was looked for by time.
    pub timestamp_ms: Option<i64>,
    /// Term of the owner that answers.
    pub term: Term,
    /// Term in which the record at the offset was written; that of the owner where no record is there yet.
    pub epoch: Term,
}

/// An idempotent producer that a partition remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Its id.
    pub id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// Number of its last record that is in the log.
    pub last_sequence: i32,
    /// The largest timestamp of its last batch, milliseconds since the Unix epoch.
    pub last_timestamp_ms: i64,
}

/// What to read of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadSpec {
    /// The first record wanted; the first batch returned contains it.
    pub offset: Offset,
    /// Most bytes; a single larger batch is still returned whole.
    pub max_bytes: usize,
    /// Wait until so much is there.
    pub min_bytes: usize,
    /// For so long at most.
    pub max_wait: Duration,
}

/// What was read: committed data only (P1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// Stored record batches in order, one each; empty when nothing came in time.
    pub batches: Vec<Bytes>,
    /// Where to read next.
    pub next_offset: Offset,
    /// The end of what is committed.
    pub high_watermark: Offset,
    /// The first offset that can be read.
    pub log_start: Offset,
}

/// An acknowledged batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of its first record.
    pub base_offset: Offset,
    /// When the broker dated it, in milliseconds since the Unix epoch; -1 where records keep the producer's times.
    pub log_append_time_ms: i64,
}

/// Resolves when the batch is durable (P1), or when it is known or feared not to be (NOT_WRITTEN, UNKNOWN). Dropping it takes nothing
/// back.
pub type Pending = BoxFuture<'static, Result<Appended, ApiError>>;

/// Appends to one *opening* of a partition. It is bound to it, so that a batch never lands in a later opening while the
/// fate of an earlier batch of the same stream is open: that would break the stream's order (P5).
///
/// # Contract
/// * Batches are appended in call order. Once the opening ended every further call fails, and every batch that it
///   took and did not acknowledge resolves with an error.
/// * Cancel-safe: a call that was dropped before it returned has appended nothing.
#[async_trait]
pub trait Appender: Send + Sync + fmt::Debug + 'static {
    /// Whether the opening still takes batches.
    fn is_open(&self) -> bool;

    /// Enqueues one batch; waits while too many bytes are queued. When it returns, the batch's place is fixed.
    ///
    /// # Errors
    /// MESSAGE_TOO_LARGE, NOT_OWNER, NOT_READY, SHUTTING_DOWN: the batch was certainly not written.
    async fn append(&self, batch: Batch) -> Result<Pending, ApiError>;
}

/// The partitions of this broker.
#[async_trait]
pub trait LocalPartitions: Send + Sync + fmt::Debug + 'static {
    /// The ends of a partition that is open here; never opens one.
    fn open_offsets(&self, topic: TopicId, partition: PartitionIndex) -> Option<OpenOffsets>;

    /// How many bytes a partition holds that is open here, as far as they are known; never opens one. What is committed counts before
    /// [`LocalPartitions::end`] says so.
    fn known_bytes(&self, topic: TopicId, partition: PartitionIndex) -> Option<u64>;

    /// Follows the end of what is committed (P1) of a partition that is open here; never opens one. Ends with the opening.
    fn end(&self, topic: TopicId, partition: PartitionIndex) -> Option<watch::Receiver<Offset>>;

    /// Looks an offset up, opening the partition when it is not open. Cancel-safe.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, or whatever keeps the partition from being opened or read.
    async fn find_offset(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError>;

    /// Makes records before an offset unreadable for ever, opening the partition when it is not open; returns where it
    /// starts then. `None`: everything that is committed. Cancel-safe: a second call finishes what a dropped one began.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, OFFSET_OUT_OF_RANGE, or whatever keeps the partition from being opened.
    async fn delete_records(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError>;

    /// The largest term up to `term` that the partition had, and where its records end; `None` when it never had one as
    /// high. Opens the partition when it is not open. Cancel-safe.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, or whatever keeps the partition from being opened.
    async fn end_of_term(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError>;

    /// Bytes of records that a partition of this broker holds: of its segments, as far as these are known; never opens it.
    /// Cancel-safe.
    ///
    /// # Errors
    /// METADATA_UNAVAILABLE.
    async fn size(&self, topic: TopicId, partition: PartitionIndex) -> Result<u64, ApiError>;

    /// The idempotent producers that a partition remembers, opening it when it is not open. Cancel-safe.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, or whatever keeps the partition from being opened.
    async fn producers(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<Vec<ActiveProducer>, ApiError>;

    /// Reads committed batches, opening the partition when it is not open; waits as `spec` says. Cancel-safe.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, OFFSET_OUT_OF_RANGE, or whatever keeps the partition from being opened or read.
    async fn read(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError>;

    /// The present opening of a partition, to append to; opens it when it is not open. Cancel-safe.
    ///
    /// # Errors
    /// NOT_OWNER, NOT_READY, or whatever keeps the partition from being opened.
    async fn appender(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<Arc<dyn Appender>, ApiError>;
}
