//! Reading: as a member of a group ([`Consumer`]), or partitions of one's own choice ([`Reader`]). Both go on by
//! themselves at the next offset after whatever broke, so nothing is skipped or repeated while one of them lives.
//!
//! Nothing here spawns: streams are read when the caller asks for more, and what the caller does not take stays at the
//! broker (credit of a member, flow control of a reader).

mod data;
mod group;
mod position;
mod reader;

use std::fmt;
use std::sync::Arc;

use geminga_records::{Header, Record};

pub use group::{Consumer, ConsumerConfig, Event, OffsetReset};
pub use reader::{Reader, ReaderConfig};

/// A partition by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Consecutive records of one partition, in order. May be empty while `next_offset` goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// Where they are from.
    pub from: TopicPartition,
    /// The records.
    pub records: Vec<Record>,
    /// Headers of the batches that were read for them, as they are stored. What is read again after a failure is here again.
    pub batches: Vec<Header>,
    /// The offset after them: what to commit when they are done.
    pub next_offset: i64,
    /// The end of what is committed, as of this answer.
    pub high_watermark: i64,
}
