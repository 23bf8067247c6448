//! What a group writes to its shard's log: commands and snapshots as validated types. The messages are in
//! `geminga/internal/v1/state.proto`; fields are only ever added.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::TopicId;
use geminga_proto::internal as wire;
use prost::Message;

use super::core::Change;
use super::limits;
use super::types::{Assignment, Committed, Kind, TopicPartition};

/// Format of commands and snapshot parts.
const FORMAT: u32 = 1;

/// One generation of a group: complete, so that it replaces the former one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generation {
    /// Its number.
    pub generation: i32,
    /// How the members talk; `None` without members.
    pub kind: Option<Kind>,
    /// Who is in it.
    pub members: Vec<MemberRecord>,
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
    let change = match change {
        Change::Generation(generation) => WireChange::Generation(generation_to_wire(generation)),
        Change::Offsets(offsets) => {
            let offsets = offsets.iter().map(|(tp, c)| offset_to_wire(tp, c)).collect();
            WireChange::Offsets(wire::GroupOffsets { offsets })
        }
        Change::Deleted => WireChange::Deleted(wire::GroupDeleted {}),
    };
    let command =
        wire::GroupCommand { format: FORMAT, group: group.to_owned(), change: Some(change) };
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
            let offsets = offsets.offsets.into_iter().map(offset_from_wire);
            Change::Offsets(offsets.collect::<Result<_, _>>()?)
        }
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

/// Encodes one snapshot part.
pub fn encode_part(pieces: &[Piece]) -> Bytes {
    let groups = pieces
        .iter()
        .map(|piece| wire::GroupState {
            group: piece.group.to_string(),
            generation: piece.generation.as_ref().map(generation_to_wire),
            offsets: piece.offsets.iter().map(|(tp, c)| offset_to_wire(tp, c)).collect(),
        })
        .collect();
    wire::GroupSnapshotPart { format: FORMAT, groups }.encode_to_vec().into()
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

fn check_format(format: u32) -> Result<(), DecodeError> {
    match format {
        FORMAT => Ok(()),
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
    }
}

fn generation_from_wire(wire: wire::GroupGeneration) -> Result<Generation, DecodeError> {
    let kind = match wire.protocol.as_str() {
        "" => None,
        name => Some(Kind::parse(name).ok_or(DecodeError::Invalid("protocol"))?),
    };
    let members = wire.members.into_iter().map(member_from_wire).collect();
    Ok(Generation { generation: wire.generation, kind, members })
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
    }
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
    };
    Ok((tp, committed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn committed() -> impl Strategy<Value = (TopicPartition, Committed)> {
        let names = ("[a-z]{1,8}", any::<u32>(), ".{0,16}");
        let numbers = (any::<i64>(), any::<Option<i32>>(), any::<i64>(), any::<Option<u128>>());
        (names, numbers).prop_map(
            |((topic, partition, metadata), (offset, leader_epoch, committed_ms, id))| {
                let tp = TopicPartition { topic: topic.into(), partition };
                let topic_id = id.map(TopicId::from_random);
                (tp, Committed { offset, leader_epoch, metadata, committed_ms, topic_id })
            },
        )
    }

    fn generation() -> impl Strategy<Value = Generation> {
        let topics = proptest::collection::btree_map(
            "[a-z]{1,8}",
            proptest::collection::vec(any::<u32>(), 0..4),
            0..4,
        );
        let member = ("[a-z]{1,8}", "[a-z]{0,8}", topics, any::<u32>(), any::<u32>()).prop_map(
            |(member, client_id, topics, session_timeout_ms, rebalance_timeout_ms)| MemberRecord {
                member: member.into(),
                client_id,
                topics: topics.keys().map(|t| t.as_str().into()).collect(),
                session_timeout_ms,
                rebalance_timeout_ms,
                assigned: topics.into_iter().map(|(t, p)| (t.into(), p)).collect(),
            },
        );
        let kind = prop_oneof![Just(None), Just(Some(Kind::Stream)), Just(Some(Kind::Classic))];
        (any::<i32>(), kind, proptest::collection::vec(member, 0..4))
            .prop_map(|(generation, kind, members)| Generation { generation, kind, members })
    }

    proptest! {
        #[test]
        fn commands_are_read_back(
            group in "[a-z]{1,8}",
            generation in generation(),
            offsets in proptest::collection::vec(committed(), 0..5),
        ) {
            let changes = [Change::Generation(generation.clone()), Change::Offsets(offsets.clone()), Change::Deleted];
            for change in changes {
                let bytes = encode(&group, &change);
                let (name, back) = decode(&bytes).unwrap();
                prop_assert_eq!((&*name, back), (group.as_str(), change));
            }
            let pieces = vec![Piece { group: group.into(), generation: Some(generation), offsets }];
            prop_assert_eq!(decode_part(&encode_part(&pieces)).unwrap(), pieces);
        }

        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&noise);
            let _ = decode_part(&noise);
        }
    }

    #[test]
    fn newer_formats_are_refused() {
        let command = wire::GroupCommand { format: 2, group: "g".to_owned(), change: None };
        assert_eq!(decode(&command.encode_to_vec()), Err(DecodeError::Newer(2)));
        let part = wire::GroupSnapshotPart { format: 9, groups: Vec::new() };
        assert_eq!(decode_part(&part.encode_to_vec()), Err(DecodeError::Newer(9)));
    }

    /// The bytes of format 1: what is stored today must stay readable.
    #[test]
    fn golden_format_1() {
        let tp = TopicPartition { topic: "t".into(), partition: 3 };
        let committed = Committed {
            offset: 42,
            leader_epoch: Some(7),
            metadata: "m".to_owned(),
            committed_ms: 1000,
            topic_id: None,
        };
        let bytes = encode("g", &Change::Offsets(vec![(tp, committed)]));
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "080112016722110a0f0a01741003182a20072a016d30e807");
    }
}
