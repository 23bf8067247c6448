//! The nouns of consumer groups, without any protocol in them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use geminga_proto::ids::TopicId;
use geminga_proto::reason::{ApiError, Reason};

/// Partitions by topic, each list ascending.
pub type Assignment = BTreeMap<Arc<str>, Vec<u32>>;

/// How the members of a group talk. A group is of one kind while it has members. Persisted by name, keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Members are streams; the coordinator assigns.
    Stream,
    /// Kafka's classic protocol; the leading member assigns.
    Classic,
}

impl Kind {
    /// The persisted name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Classic => "classic",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "stream" => Some(Self::Stream),
            "classic" => Some(Self::Classic),
            _ => None,
        }
    }
}

/// Who speaks for a member: the stream that joined last. A call of an earlier one is fenced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The member.
    pub member: Arc<str>,
    /// Its stream.
    pub session: u64,
}

/// Which stream speaks for a member, and the newest commit of that stream. It is in the log, so that a commit that arrives late is
/// refused by every later coordinator too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    /// The stream.
    pub session: u64,
    /// Of its newest commit; 0 before the first.
    pub sequence: u64,
}

/// A request to be, or to remain, a member in the next generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// Who. An unknown member id is a new member.
    pub caller: Caller,
    /// For people to recognise it by.
    pub client_id: String,
    /// What it subscribes to.
    pub topics: Vec<Arc<str>>,
    /// Silence after which the member is taken for dead, milliseconds.
    pub session_timeout_ms: u32,
    /// How long a rebalance waits for the member to join again, milliseconds.
    pub rebalance_timeout_ms: u32,
}

/// A member's place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The member.
    pub member: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// What it reads in this generation.
    pub assigned: Assignment,
}

/// One partition's committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// The term that the consumer read in, when it said.
    pub leader_epoch: Option<i32>,
    /// The consumer's own words.
    pub metadata: String,
    /// When, milliseconds since the Unix epoch.
    pub committed_ms: i64,
    /// Which topic of that name; `None` when the coordinator did not know it.
    pub topic_id: Option<TopicId>,
    /// Forgotten from then on, milliseconds since the Unix epoch; `None`: as the broker is configured.
    pub expires_ms: Option<i64>,
}

/// A partition by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Offsets to commit, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The member and its generation; `None` without membership, allowed only while the group has no members.
    pub by: Option<CommitBy>,
    /// What to commit.
    pub offsets: Vec<(TopicPartition, Committed)>,
}

/// The member that commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitBy {
    /// Who.
    pub caller: Caller,
    /// The generation in which it was assigned what it read.
    pub generation: i32,
    /// Rises with every commit of a session, the same on a retry.
    pub sequence: u64,
}

/// Why a group did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The member is not in the group.
    #[error("member is not in the group; join again with an empty member id")]
    UnknownMember,
    /// Another stream has taken the member over.
    #[error("another stream has taken this member over")]
    Fenced,
    /// The generation, or the commit, is not the newest.
    #[error("the group is at generation {current}; join again")]
    StaleGeneration {
        /// The newest.
        current: i32,
    },
    /// Members are joining the next generation.
    #[error("the group is rebalancing; revoke, commit and join again")]
    RebalanceInProgress,
    /// Only possible without members.
    #[error("the group has members; stop them first")]
    NotEmpty,
    /// There is no such group.
    #[error("group does not exist; list the groups to see their names")]
    UnknownGroup,
    /// The group's members talk another protocol.
    #[error("the group has {kind} members; use another group name or stop them first", kind = .0.as_str())]
    OtherKind(Kind),
    /// A new member is to join again, with the id that it is given.
    #[error("join again with member id {0}")]
    MemberIdRequired(Arc<str>),
    /// A newer member has taken over the instance id.
    #[error("another member has joined with this instance id; give each instance an id of its own")]
    FencedInstance,
    /// Members and group have no protocol in common.
    #[error(
        "the members' protocols have nothing in common; give all members of the group one assignor in common"
    )]
    InconsistentProtocol,
    /// As many members as a group may have, or as large ones.
    #[error("{what} is limited to {limit}; use several groups")]
    GroupFull {
        /// What.
        what: &'static str,
        /// How many or how large.
        limit: usize,
    },
    /// The name of the group.
    #[error("a group name has 1 to {limit} bytes")]
    GroupName {
        /// Most bytes.
        limit: usize,
    },
    /// Words that come with an offset.
    #[error("metadata of an offset is limited to {limit} bytes")]
    MetadataTooLarge {
        /// Most bytes.
        limit: usize,
    },
    /// The topic's offsets are in use.
    #[error("members of the group read this topic; stop them first")]
    SubscribedTopic,
    /// A timeout outside the allowed range.
    #[error("{what} must be {min} to {max} ms")]
    Timeout {
        /// Which.
        what: &'static str,
        /// Smallest, milliseconds.
        min: u32,
        /// Largest, milliseconds.
        max: u32,
    },
    /// Something is above a hard limit.
    #[error("{what} is limited to {limit}")]
    Limit {
        /// What.
        what: &'static str,
        /// How many or how large.
        limit: usize,
    },
    /// The request contradicts itself.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Error {
    /// The stable reason of the public API.
    pub fn reason(&self) -> Reason {
        match self {
            Self::UnknownMember => Reason::UnknownMember,
            Self::Fenced => Reason::MemberFenced,
            Self::StaleGeneration { .. } => Reason::StaleGeneration,
            Self::RebalanceInProgress => Reason::RebalanceInProgress,
            Self::NotEmpty | Self::SubscribedTopic => Reason::GroupNotEmpty,
            Self::UnknownGroup => Reason::UnknownGroup,
            Self::MemberIdRequired(_) => Reason::UnknownMember,
            Self::FencedInstance => Reason::MemberFenced,
            Self::OtherKind(_)
            | Self::InconsistentProtocol
            | Self::Timeout { .. }
            | Self::GroupName { .. }
            | Self::Invalid(_) => Reason::InvalidRequest,
            Self::Limit { .. } | Self::GroupFull { .. } | Self::MetadataTooLarge { .. } => {
                Reason::LimitExceeded
            }
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
