//! What a group writes to its shard's log: commands and snapshots as validated types. The messages are in
//! `geminga/internal/v1/state.proto`; fields are only ever added.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::TopicId;
use geminga_proto::internal as wire;
use prost::Message;

use super::classic::Protocol;
use super::core::Change;
use super::limits;
use super::types::{Assignment, Committed, Kind, Spoken, TopicPartition};

/// The format that every version reads: groups of streams, and offsets.
const FORMAT: u32 = 1;
/// Classic groups, offsets that say when they expire, and offsets that are forgotten. Written only where one of these
/// is, so that a broker of the former version reads the rest.
const CLASSIC_FORMAT: u32 = 2;

/// One generation of a group: complete, so that it replaces the former one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generation {
    /// Its number.
    pub generation: i32,
    /// How the members talk; `None` without members.
    pub kind: Option<Kind>,
    /// Who is in it.
    pub members: Vec<MemberRecord>,
    /// Of a classic group, also when the last member has gone.
    pub classic: Option<ClassicGeneration>,
    /// When it was made, milliseconds since the Unix epoch; 0 where this was not written down.
    pub since_ms: i64,
}

/// What a classic group agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassicGeneration {
    /// The family of protocols.
    pub protocol_type: String,
    /// The protocol; empty without members.
    pub protocol: Arc<str>,
    /// The member that assigns; empty without members.
    pub leader: Arc<str>,
    /// Whether it has assigned already.
    pub assigned: bool,
}

/// A member of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its id.
    pub member: Arc<str>,
    /// For people to recognise it by.
    pub client_id: String,
    /// What it subscribes to, ascending.
    pub topics: Vec<Arc<str>>,
    /// Silence after which it is taken for dead, milliseconds.
    pub session_timeout_ms: u32,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_timeout_ms: u32,
    /// What it reads.
    pub assigned: Assignment,
    /// Who speaks for it, as far as the log says; `None` for classic members, and where an earlier version wrote it.
    pub spoken: Option<Spoken>,
    /// Of a classic member; `topics` and `assigned` are then empty.
    pub classic: Option<ClassicRecord>,
}

impl Generation {
    /// Notes who spoke for a member.
    pub(crate) fn speaks(&mut self, by: Option<(Arc<str>, Spoken)>) {
        let Some((by, spoken)) = by else { return };
        if let Some(member) = self.members.iter_mut().find(|member| member.member == by) {
            member.spoken = Some(spoken);
        }
    }
}

/// What only a classic member has. Its bytes are opaque.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassicRecord {
    /// The name that a static member keeps over restarts.
    pub instance: Option<Arc<str>>,
    /// Where its connection comes from.
    pub client_host: String,
    /// What it can follow, the most wanted first.
    pub protocols: Vec<Protocol>,
    /// What the leader assigned to it.
    pub assignment: Bytes,
}

impl ClassicRecord {
    /// What the member says of itself for `protocol`.
    pub fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        let protocol = self.protocols.iter().find(|p| &*p.name == protocol)?;
        Some(&protocol.metadata)
    }
}

/// Why stored bytes are not a command or a snapshot part. The shard is then damaged, or written by a newer version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the message.
    #[error("not a group record: {0}")]
    Malformed(String),
    /// A format or a variant of a newer version.
    #[error("group record of format {0} is from a newer version; upgrade this broker")]
    Newer(u32),
    /// A field that cannot be.
    #[error("group record has an invalid {0}")]
    Invalid(&'static str),
}

/// Encodes a command of `group`. The limits of groups and commits keep it within [`limits::MAX_COMMAND_BYTES`].
pub fn encode(group: &str, change: &Change) -> Bytes {
    use wire::group_command::Change as WireChange;
    let format = format_of(change);
    let change = match change {
        Change::Generation(generation) => WireChange::Generation(generation_to_wire(generation)),
        Change::Offsets(offsets, by) => {
            let offsets = offsets.iter().map(|(tp, c)| offset_to_wire(tp, c)).collect();
            let member_id = by.as_ref().map(|(member, _)| member.to_string()).unwrap_or_default();
            let spoken = by.as_ref().map(|(_, spoken)| spoken_to_wire(*spoken));
            WireChange::Offsets(wire::GroupOffsets { offsets, member_id, spoken })
        }
        Change::Forgotten(offsets) => WireChange::Forgotten(forgotten_to_wire(offsets)),
        Change::Deleted => WireChange::Deleted(wire::GroupDeleted {}),
    };
    let command = wire::GroupCommand { format, group: group.to_owned(), change: Some(change) };
    debug_assert!(command.encoded_len() <= limits::MAX_COMMAND_BYTES);
    command.encode_to_vec().into()
}

/// Decodes what [`encode`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<(Arc<str>, Change), DecodeError> {
    use wire::group_command::Change as WireChange;
    let command = wire::GroupCommand::decode(bytes)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    check_format(command.format)?;
    let change = match command.change.ok_or(DecodeError::Newer(command.format))? {
        WireChange::Generation(generation) => Change::Generation(generation_from_wire(generation)?),
        WireChange::Offsets(offsets) => {
            let by =
                offsets.spoken.map(|spoken| (offsets.member_id.into(), spoken_from_wire(spoken)));
            let offsets = offsets.offsets.into_iter().map(offset_from_wire);
            Change::Offsets(offsets.collect::<Result<_, _>>()?, by)
        }
        WireChange::Forgotten(forgotten) => Change::Forgotten(forgotten_from_wire(forgotten)),
        WireChange::Deleted(wire::GroupDeleted {}) => Change::Deleted,
    };
    Ok((command.group.into(), change))
}

/// A group, or a further piece of its offsets, as a snapshot part holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The group.
    pub group: Arc<str>,
    /// Its generation; absent where only offsets go on.
    pub generation: Option<Generation>,
    /// Offsets.
    pub offsets: Vec<(TopicPartition, Committed)>,
}

impl Piece {
    fn is_classic(&self) -> bool {
        let generation = self.generation.as_ref();
        generation.is_some_and(|g| g.classic.is_some())
            || self.offsets.iter().any(|(_, committed)| committed.expires_ms.is_some())
    }
}

/// Encodes one snapshot part.
pub fn encode_part(pieces: &[Piece]) -> Bytes {
    let format = if pieces.iter().any(Piece::is_classic) { CLASSIC_FORMAT } else { FORMAT };
    let groups = pieces
        .iter()
        .map(|piece| wire::GroupState {
            group: piece.group.to_string(),
            generation: piece.generation.as_ref().map(generation_to_wire),
            offsets: piece.offsets.iter().map(|(tp, c)| offset_to_wire(tp, c)).collect(),
        })
        .collect();
    wire::GroupSnapshotPart { format, groups }.encode_to_vec().into()
}

/// Decodes what [`encode_part`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_part(bytes: &[u8]) -> Result<Vec<Piece>, DecodeError> {
    let part = wire::GroupSnapshotPart::decode(bytes)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    check_format(part.format)?;
    part.groups.into_iter().map(piece_from_wire).collect()
}

fn format_of(change: &Change) -> u32 {
    let classic = match change {
        Change::Generation(generation) => generation.classic.is_some(),
        Change::Offsets(offsets, _) => offsets.iter().any(|(_, c)| c.expires_ms.is_some()),
        Change::Forgotten(_) => true,
        Change::Deleted => false,
    };
    if classic { CLASSIC_FORMAT } else { FORMAT }
}

fn check_format(format: u32) -> Result<(), DecodeError> {
    match format {
        FORMAT | CLASSIC_FORMAT => Ok(()),
        0 => Err(DecodeError::Invalid("format")),
        newer => Err(DecodeError::Newer(newer)),
    }
}

fn piece_from_wire(state: wire::GroupState) -> Result<Piece, DecodeError> {
    Ok(Piece {
        group: state.group.into(),
        generation: state.generation.map(generation_from_wire).transpose()?,
        offsets: state.offsets.into_iter().map(offset_from_wire).collect::<Result<_, _>>()?,
    })
}

fn generation_to_wire(generation: &Generation) -> wire::GroupGeneration {
    wire::GroupGeneration {
        generation: generation.generation,
        protocol: generation.kind.map_or("", Kind::as_str).to_owned(),
        members: generation.members.iter().map(member_to_wire).collect(),
        classic: generation.classic.as_ref().map(|classic| wire::GroupClassicGeneration {
            protocol_type: classic.protocol_type.clone(),
            protocol: classic.protocol.to_string(),
            leader: classic.leader.to_string(),
            assigned: classic.assigned,
        }),
        since_ms: generation.since_ms,
    }
}

fn generation_from_wire(wire: wire::GroupGeneration) -> Result<Generation, DecodeError> {
    let kind = match wire.protocol.as_str() {
        "" => None,
        name => Some(Kind::parse(name).ok_or(DecodeError::Invalid("protocol"))?),
    };
    let members = wire.members.into_iter().map(member_from_wire).collect();
    let classic = wire.classic.map(|classic| ClassicGeneration {
        protocol_type: classic.protocol_type,
        protocol: classic.protocol.into(),
        leader: classic.leader.into(),
        assigned: classic.assigned,
    });
    let (generation, since_ms) = (wire.generation, wire.since_ms);
    Ok(Generation { generation, kind, members, classic, since_ms })
}

fn member_to_wire(member: &MemberRecord) -> wire::GroupMemberState {
    let assigned = member.assigned.iter().map(|(topic, partitions)| wire::GroupTopicPartitions {
        topic: topic.to_string(),
        partitions: partitions.clone(),
    });
    wire::GroupMemberState {
        member_id: member.member.to_string(),
        client_id: member.client_id.clone(),
        topics: member.topics.iter().map(ToString::to_string).collect(),
        session_timeout_ms: member.session_timeout_ms,
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        assigned: assigned.collect(),
        spoken: member.spoken.map(spoken_to_wire),
        classic: member.classic.as_ref().map(classic_to_wire),
    }
}

fn spoken_to_wire(spoken: Spoken) -> wire::GroupSpoken {
    wire::GroupSpoken { session: spoken.session, sequence: spoken.sequence }
}

fn spoken_from_wire(wire: wire::GroupSpoken) -> Spoken {
    Spoken { session: wire.session, sequence: wire.sequence }
}

fn classic_to_wire(classic: &ClassicRecord) -> wire::GroupClassicMember {
    let protocols = classic.protocols.iter().map(|protocol| wire::GroupClassicProtocol {
        name: protocol.name.to_string(),
        metadata: protocol.metadata.clone(),
    });
    wire::GroupClassicMember {
        instance_id: classic.instance.as_deref().unwrap_or_default().to_owned(),
        client_host: classic.client_host.clone(),
        protocols: protocols.collect(),
        assignment: classic.assignment.clone(),
    }
}

fn classic_from_wire(wire: wire::GroupClassicMember) -> ClassicRecord {
    let protocols = wire.protocols.into_iter();
    ClassicRecord {
        instance: (!wire.instance_id.is_empty()).then(|| wire.instance_id.into()),
        client_host: wire.client_host,
        protocols: protocols
            .map(|p| Protocol { name: p.name.into(), metadata: p.metadata })
            .collect(),
        assignment: wire.assignment,
    }
}

fn forgotten_to_wire(offsets: &[TopicPartition]) -> wire::GroupTopics {
    let mut topics: Vec<wire::GroupTopicPartitions> = Vec::new();
    for TopicPartition { topic, partition } in offsets {
        match topics.last_mut().filter(|last| *last.topic == **topic) {
            Some(last) => last.partitions.push(*partition),
            None => topics.push(wire::GroupTopicPartitions {
                topic: topic.to_string(),
                partitions: vec![*partition],
            }),
        }
    }
    wire::GroupTopics { topics }
}

fn forgotten_from_wire(wire: wire::GroupTopics) -> Vec<TopicPartition> {
    let mut offsets = Vec::new();
    for wire::GroupTopicPartitions { topic, partitions } in wire.topics {
        let topic: Arc<str> = topic.into();
        let tp = |partition| TopicPartition { topic: topic.clone(), partition };
        offsets.extend(partitions.into_iter().map(tp));
    }
    offsets
}

fn member_from_wire(wire: wire::GroupMemberState) -> MemberRecord {
    let assigned = wire.assigned.into_iter().map(|a| (a.topic.into(), a.partitions)).collect();
    MemberRecord {
        member: wire.member_id.into(),
        client_id: wire.client_id,
        topics: wire.topics.into_iter().map(Into::into).collect(),
        session_timeout_ms: wire.session_timeout_ms,
        rebalance_timeout_ms: wire.rebalance_timeout_ms,
        assigned,
        spoken: wire.spoken.map(spoken_from_wire),
        classic: wire.classic.map(classic_from_wire),
    }
}

fn offset_to_wire(tp: &TopicPartition, committed: &Committed) -> wire::GroupCommittedOffset {
    let topic_id = committed.topic_id.map(|id| Bytes::copy_from_slice(id.as_bytes()));
    wire::GroupCommittedOffset {
        topic: tp.topic.to_string(),
        partition: tp.partition,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        committed_ms: committed.committed_ms,
        topic_id: topic_id.unwrap_or_default(),
        expires_ms: committed.expires_ms,
    }
}

fn offset_from_wire(
    wire: wire::GroupCommittedOffset,
) -> Result<(TopicPartition, Committed), DecodeError> {
    let topic_id = match wire.topic_id.as_ref() {
        [] => None,
        id => Some(TopicId::from_slice(id).ok_or(DecodeError::Invalid("topic id"))?),
    };
    let tp = TopicPartition { topic: wire.topic.into(), partition: wire.partition };
    let committed = Committed {
        offset: wire.offset,
        leader_epoch: wire.leader_epoch,
        metadata: wire.metadata,
        committed_ms: wire.committed_ms,
        topic_id,
        expires_ms: wire.expires_ms,
    };
    Ok((tp, committed))
}

#[cfg(test)]
mod tests;
