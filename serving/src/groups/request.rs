//! What a shard is asked, and how it answers. The replies are one-shot channels: a reply that is dropped means that the
//! shard ended before its log proved anything, so the outcome of a change is unknown.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::classic::{
    CommitClassic, Each, Identity, JoinClassic, JoinedClassic, MemberName, SyncClassic, Synced,
};
use super::core::Phase;
use super::record::MemberRecord;
use super::room::Room;
use super::types::{Caller, Commit, Committed, Error, Join, Joined, Kind, TopicPartition};

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
    /// The same without its offsets, which Kafka's tools ask for apart.
    DescribeMembers(Arc<str>, Respond<Description>),
    /// The group is to be forgotten.
    Delete(Arc<str>, Respond<()>),
    /// All groups of the shard.
    List(Respond<Vec<Summary>>),
    /// A classic member wants to be in the next generation; answered when that begins.
    JoinClassic(Arc<str>, JoinClassic, Room, Respond<JoinedClassic>),
    /// A classic member wants what it is assigned; answered when the leader has assigned.
    SyncClassic(Arc<str>, SyncClassic, Room, Respond<Synced>),
    /// A classic member of this generation is alive.
    HeartbeatClassic(Arc<str>, Identity, Respond<()>),
    /// Classic members go for good.
    LeaveClassic(Arc<str>, Vec<MemberName>, Respond<Each>),
    /// A classic member, or somebody who is no member, commits offsets.
    CommitClassic(Arc<str>, CommitClassic, Respond<Each>),
    /// Committed offsets of these partitions; of all that have any when none are named. Not more than so many bytes.
    FetchOffsets(Arc<str>, Option<Vec<TopicPartition>>, usize, Respond<Fetched>),
    /// How far groups have come, of those whose names are behind this one, until there are so many offsets. Answered at once, from
    /// what is durable, by whoever takes itself for the coordinator.
    Positions(Option<Arc<str>>, usize, Respond<Positions>),
    /// Offsets are to be forgotten.
    DeleteOffsets(Arc<str>, Vec<TopicPartition>, Respond<Each>),
    /// Somebody who waited for this group has gone away: their request is over.
    Gone(Arc<str>),
}

/// What is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Of each of the partitions that has something, and the bytes of it.
    These(Vec<(TopicPartition, Committed)>, usize),
    /// So many bytes, which is more than was asked for.
    Larger(usize),
}

/// A group by name, and its committed offsets.
pub type Position = (Arc<str>, Vec<(TopicPartition, i64)>);

/// How far some groups have come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Positions {
    /// Each of them.
    pub groups: Vec<Position>,
    /// Whether groups are behind them.
    pub more: bool,
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
    /// Where it stands.
    pub phase: Phase,
    /// How many members.
    pub members: usize,
    /// The newest generation.
    pub generation: i32,
    /// How the members talk; `None` without members.
    pub kind: Option<Kind>,
    /// Of a group that is or was classic: the family of protocols; else empty.
    pub protocol_type: String,
}

/// Everything about one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// As in a list.
    pub summary: Summary,
    /// Of a classic group with members: the protocol that they agreed on; else empty.
    pub protocol: Arc<str>,
    /// Its members and what they read.
    pub members: Vec<MemberRecord>,
    /// Its committed offsets, by topic and partition.
    pub offsets: Vec<(TopicPartition, Committed)>,
}
