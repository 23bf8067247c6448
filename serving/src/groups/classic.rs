//! The nouns of classic groups, whose members choose the protocol and whose leader assigns. What members say of
//! themselves and what the leader assigns are opaque bytes here.

use std::sync::Arc;

use bytes::Bytes;

use super::types::{Committed, Error, TopicPartition};

/// A member as it names itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemberName {
    /// The id that it was given; empty when it has none.
    pub member: Arc<str>,
    /// The name that a static member keeps over restarts.
    pub instance: Option<Arc<str>>,
}

/// A member of a generation as it names itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// Who.
    pub name: MemberName,
    /// In which generation; negative: in none.
    pub generation: i32,
}

impl Identity {
    /// Whether nobody is named: somebody who only keeps offsets in the group.
    pub fn is_nobody(&self) -> bool {
        self.generation < 0 && self.name.member.is_empty() && self.name.instance.is_none()
    }
}

/// A protocol that a member can follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    /// Its name, mostly an assignor's.
    pub name: Arc<str>,
    /// What the leader needs to know of the member; opaque.
    pub metadata: Bytes,
}

/// A request to be, or to remain, a member in the next generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinClassic {
    /// Who.
    pub name: MemberName,
    /// An id that no member ever had; taken when the member needs one.
    pub fresh: Arc<str>,
    /// For people to recognise the member by.
    pub client_id: String,
    /// Where its connection comes from.
    pub client_host: String,
    /// Silence after which the member is taken for dead, milliseconds.
    pub session_timeout_ms: u32,
    /// How long a rebalance waits for the member to join again, milliseconds.
    pub rebalance_timeout_ms: u32,
    /// The family of protocols, the same for all members.
    pub protocol_type: String,
    /// What the member can follow, the most wanted first.
    pub protocols: Vec<Protocol>,
    /// Whether a member without an id is only given one, to join again with.
    pub two_steps: bool,
    /// Whether a leader understands that it need not assign anew.
    pub may_skip: bool,
}

/// A member's place in a generation, before the leader has assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedClassic {
    /// The member's id.
    pub member: Arc<str>,
    /// The generation.
    pub generation: i32,
    /// The family of protocols.
    pub protocol_type: String,
    /// The protocol that the members agreed on.
    pub protocol: Arc<str>,
    /// Who assigns.
    pub leader: Arc<str>,
    /// The leader goes on with what is assigned already.
    pub skip_assignment: bool,
    /// To the leader: everybody, in the order in which they joined.
    pub members: Vec<JoinedMember>,
}

/// A member as the leader is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its name.
    pub name: MemberName,
    /// What it says of itself for the protocol agreed on.
    pub metadata: Bytes,
}

/// A request for what a member is assigned; the leader's brings the assignment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SyncClassic {
    /// Who, and in which generation.
    pub by: Identity,
    /// The family of protocols, where the member says it.
    pub protocol_type: Option<String>,
    /// The protocol, where the member says it.
    pub protocol: Option<String>,
    /// From the leader: member ids and what each is assigned.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// What a member is assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synced {
    /// The family of protocols.
    pub protocol_type: String,
    /// The protocol that the members agreed on.
    pub protocol: Arc<str>,
    /// As the leader wrote it; empty when the leader forgot the member.
    pub assignment: Bytes,
}

/// Offsets to commit, and in whose name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitClassic {
    /// The member and its generation, or nobody.
    pub by: Identity,
    /// How long to keep them, milliseconds; `None`: as the broker is configured.
    pub retention_ms: Option<i64>,
    /// What to commit. When, for which topic and until when is for the coordinator to add.
    pub offsets: Vec<(TopicPartition, Committed)>,
}

/// One answer for each thing asked, in the same order.
pub type Each = Vec<Result<(), Error>>;
