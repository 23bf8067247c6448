//! What a shard is asked, and how it answers. The replies are one-shot channels: a reply that is dropped means that the
//! shard ended before its log proved anything, so the outcome of a change is unknown.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::record::MemberRecord;
use super::types::{Caller, Commit, Committed, Error, Join, Joined, TopicPartition};

/// Where an answer goes.
pub type Respond<T> = oneshot::Sender<Result<T, Error>>;

/// A request to the shard that holds the group.
#[derive(Debug)]
pub enum Request {
    /// A member wants to be in the next generation, or to hear the current one.
    Join(Arc<str>, Join, Respond<JoinAnswer>),
    /// A member of this generation is alive.
    Heartbeat(Arc<str>, Caller, i32, Respond<()>),
    /// A member goes for good.
    Leave(Arc<str>, Caller, Respond<()>),
    /// Offsets are to be committed.
    Commit(Arc<str>, Commit, Respond<()>),
    /// Everything about one group.
    Describe(Arc<str>, Respond<Description>),
    /// The group is to be forgotten.
    Delete(Arc<str>, Respond<()>),
    /// All groups of the shard.
    List(Respond<Vec<Summary>>),
}

/// The answer to a join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinAnswer {
    /// The member's place, and the committed offsets of what it is assigned.
    Joined(Joined, Vec<(TopicPartition, Committed)>),
    /// The join phase goes on: ask again.
    Wait,
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub group: Arc<str>,
    /// `empty`, `preparing`, `stable` or `dead`.
    pub state: &'static str,
    /// How many members.
    pub members: usize,
    /// The newest generation.
    pub generation: i32,
    /// How the members talk; empty without members.
    pub protocol: &'static str,
}

/// Everything about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// As in a list.
    pub summary: Summary,
    /// Its members and what they read.
    pub members: Vec<MemberRecord>,
    /// Its committed offsets, by topic and partition.
    pub offsets: Vec<(TopicPartition, Committed)>,
}
