//! What happens to a group, what it wants done, and what it answers.

use std::sync::Arc;

use crate::groups::classic::{
    Each, Identity, JoinClassic, JoinedClassic, MemberName, SyncClassic, Synced,
};
use crate::groups::record::Generation;
use crate::groups::types::{
    Caller, Commit, Committed, Error, Join, Joined, Spoken, TopicPartition,
};

/// Names a request whose reply is still due.
pub type Token = u64;

/// What happens to a group.
#[derive(Debug, Clone)]
pub enum Event {
    /// A member wants to be in the next generation, or to hear the current one.
    Join(Token, Join),
    /// A member is alive.
    Heartbeat(Token, Caller, i32),
    /// A member goes for good.
    Leave(Token, Caller),
    /// Offsets are to be committed.
    Commit(Token, Commit),
    /// A classic member wants to be in the next generation.
    JoinClassic(Token, JoinClassic),
    /// A classic member wants what it is assigned.
    SyncClassic(Token, SyncClassic),
    /// A classic member is alive.
    HeartbeatClassic(Token, Identity),
    /// Classic members go for good.
    LeaveClassic(Token, Vec<MemberName>),
    /// A classic member, or somebody who is no member, commits offsets.
    CommitClassic(Token, Identity, Vec<(TopicPartition, Committed)>),
    /// Offsets are to be forgotten.
    DeleteOffsets(Token, Vec<TopicPartition>),
    /// Offsets have expired, or their topic is gone; `true`: these are all that there are.
    Expired(Vec<TopicPartition>, bool),
    /// The group is to be forgotten with its offsets.
    Delete(Token),
    /// Whoever waits for this answer has gone away; it is not given any more.
    Gone(Token),
    /// A deadline has passed.
    Tick,
    /// Partition counts may have changed.
    TopicsChanged,
}

impl Event {
    /// Whether what members say or are assigned may be another afterwards.
    pub fn may_change_members(&self) -> bool {
        match self {
            Self::Join(..)
            | Self::Leave(..)
            | Self::JoinClassic(..)
            | Self::SyncClassic(..)
            | Self::LeaveClassic(..)
            | Self::Delete(_)
            | Self::Gone(_)
            | Self::Tick => true,
            Self::Heartbeat(..)
            | Self::HeartbeatClassic(..)
            | Self::Commit(..)
            | Self::CommitClassic(..)
            | Self::DeleteOffsets(..)
            | Self::Expired(..)
            | Self::TopicsChanged => false,
        }
    }
}

/// What the runner does, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append the command.
    Persist(Change),
    /// Answer, once all that was appended so far is durable.
    Reply(Token, Result<Reply, Error>),
}

/// A command, still without the group's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new generation; of a classic group also the same one, once it is assigned or a static member has come back.
    Generation(Generation),
    /// Committed offsets, and the member whose stream committed them. Without any offsets, that another stream speaks for it now.
    Offsets(Vec<(TopicPartition, Committed)>, Option<(Arc<str>, Spoken)>),
    /// Offsets that are no more.
    Forgotten(Vec<TopicPartition>),
    /// The group is gone.
    Deleted,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The member's place.
    Joined(Joined),
    /// The join phase goes on: ask again.
    Wait,
    /// Done.
    Done,
    /// The classic member's place.
    JoinedClassic(JoinedClassic),
    /// What the classic member is assigned.
    Synced(Synced),
    /// An answer for each thing asked.
    Each(Each),
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No members; offsets are kept.
    Empty,
    /// Members are joining the next generation.
    PreparingRebalance {
        /// Not complete before this time.
        hold_until_ms: u64,
        /// Who has not joined by then is removed.
        deadline_ms: u64,
    },
    /// Of classic groups: members know their generation; its leader has not assigned yet.
    CompletingRebalance,
    /// Members know their generation, and what they are assigned.
    Stable,
    /// Deleted; the runner drops it.
    Dead,
}

impl State {
    /// The state without its times.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Empty => Phase::Empty,
            Self::PreparingRebalance { .. } => Phase::Preparing,
            Self::CompletingRebalance => Phase::Completing,
            Self::Stable => Phase::Stable,
            Self::Dead => Phase::Dead,
        }
    }
}

/// Where a group stands, as tools are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No members.
    Empty,
    /// Members are joining.
    Preparing,
    /// The leader is assigning.
    Completing,
    /// Members work.
    Stable,
    /// Gone.
    Dead,
}

impl Phase {
    /// As tools show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Preparing => "preparing",
            Self::Completing => "completing",
            Self::Stable => "stable",
            Self::Dead => "dead",
        }
    }
}

/// What the group is told of the world with each event.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Monotonic, milliseconds.
    pub now_ms: u64,
    /// Milliseconds since the Unix epoch; dates generations, decides nothing.
    pub wall_ms: i64,
    /// Partitions of a topic, 0 when it does not exist.
    pub partitions: &'a dyn Fn(&str) -> u32,
    /// How long an empty group waits for more members before its first generation, milliseconds.
    pub initial_delay_ms: u32,
    /// What the group may still grow by.
    pub rooms: Rooms,
}

/// Bytes that the limits of a shard leave to one of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rooms {
    /// For what members say who are none yet. The last of it is for those who are.
    pub newcomers: usize,
    /// For what those say more who are members.
    pub members: usize,
    /// For what members are assigned.
    pub assigned: usize,
}

impl Rooms {
    /// Of a shard that may hold `limit` bytes of what is said, and as many of what is assigned, and holds `(said, assigned)`.
    pub fn left(limit: usize, (said, assigned): (usize, usize)) -> Self {
        Self {
            newcomers: (limit - limit / 8).saturating_sub(said),
            members: limit.saturating_sub(said),
            assigned: limit.saturating_sub(assigned),
        }
    }

    /// Whether somebody who counts for `before`, 0 for a newcomer, may say what counts for `now`.
    pub(super) fn fits(&self, before: usize, now: usize) -> Result<(), Error> {
        let room = if before == 0 { self.newcomers } else { self.members };
        refuse(
            now.saturating_sub(before),
            room,
            "bytes of what the members of the groups of one shard say",
        )
    }

    /// Whether members who are assigned `before` bytes may be assigned `now`.
    pub(super) fn fits_assigned(&self, before: usize, now: usize) -> Result<(), Error> {
        let what = "bytes of what the members of the groups of one shard are assigned";
        refuse(now.saturating_sub(before), self.assigned, what)
    }
}

fn refuse(more: usize, limit: usize, what: &'static str) -> Result<(), Error> {
    if more > limit { Err(Error::GroupFull { what, limit }) } else { Ok(()) }
}

/// Names as a set of topics would be told of.
pub type Topics = std::collections::BTreeSet<Arc<str>>;
