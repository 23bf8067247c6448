//! Groups between brokers: the types of this crate as messages of the `Peer` service, and back. Whatever comes from a
//! wire is checked for size before it is taken apart; what it means is for the group to judge.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::internal::{GroupCommitRequest, JoinGroupRequest, JoinGroupResponse};
use geminga_proto::v1;

use super::record::{ClassicRecord, MemberRecord};
use super::request::{Description, JoinAnswer, Summary};
use super::types::{
    Assignment, Caller, Commit, CommitBy, Committed, Error, Join, Joined, Kind, TopicPartition,
};
use super::{consumer_protocol, limits};

/// A join as it travels. Only streams join through here; the kind is not in the message.
pub(crate) fn join_to_wire(group: &str, join: &Join) -> JoinGroupRequest {
    JoinGroupRequest {
        group: group.to_owned(),
        member_id: join.caller.member.to_string(),
        client_id: join.client_id.clone(),
        topics: join.topics.iter().map(ToString::to_string).collect(),
        session_timeout_ms: join.session_timeout_ms,
        rebalance_timeout_ms: join.rebalance_timeout_ms,
        session: join.caller.session,
    }
}

/// A join that arrived.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn join_from_wire(wire: JoinGroupRequest) -> Result<Join, Error> {
    let limit = limits::MAX_MEMBER_TOPICS;
    if wire.topics.len() > limit {
        return Err(Error::Limit { what: "the number of topics of a member", limit });
    }
    Ok(Join {
        caller: caller(&wire.member_id, wire.session),
        client_id: wire.client_id,
        topics: wire.topics.into_iter().map(Into::into).collect(),
        session_timeout_ms: wire.session_timeout_ms,
        rebalance_timeout_ms: wire.rebalance_timeout_ms,
    })
}

/// Who speaks.
pub(crate) fn caller(member: &str, session: u64) -> Caller {
    Caller { member: member.into(), session }
}

/// The answer to a join as it travels.
pub(crate) fn answer_to_wire(answer: JoinAnswer) -> JoinGroupResponse {
    match answer {
        JoinAnswer::Wait => JoinGroupResponse { wait: true, ..JoinGroupResponse::default() },
        JoinAnswer::Joined(joined, offsets) => JoinGroupResponse {
            member_id: joined.member.to_string(),
            generation: joined.generation,
            assigned: partitions(&joined.assigned),
            offsets: offsets.iter().map(|(tp, c)| offset(tp, c)).collect(),
            wait: false,
        },
    }
}

/// The answer to a join that arrived.
pub(crate) fn answer_from_wire(wire: JoinGroupResponse) -> JoinAnswer {
    if wire.wait {
        return JoinAnswer::Wait;
    }
    let mut assigned = Assignment::new();
    for p in wire.assigned {
        assigned.entry(p.topic.into()).or_default().push(p.partition);
    }
    let joined = Joined { member: wire.member_id.into(), generation: wire.generation, assigned };
    let offsets = wire.offsets.into_iter().map(|o| {
        let tp = TopicPartition { topic: o.topic.into(), partition: o.partition };
        let committed = Committed {
            offset: o.offset,
            leader_epoch: None,
            metadata: o.metadata,
            committed_ms: o.committed_ms,
            topic_id: None,
            expires_ms: None,
        };
        (tp, committed)
    });
    JoinAnswer::Joined(joined, offsets.collect())
}

/// A commit as it travels.
pub(crate) fn commit_to_wire(group: &str, commit: &Commit) -> GroupCommitRequest {
    let by = commit.by.as_ref();
    GroupCommitRequest {
        group: group.to_owned(),
        member_id: by.map_or_else(String::new, |by| by.caller.member.to_string()),
        generation: by.map_or(-1, |by| by.generation),
        offsets: commit.offsets.iter().map(|(tp, c)| commit_offset(tp, c)).collect(),
        session: by.map_or(0, |by| by.caller.session),
        sequence: by.map_or(0, |by| by.sequence),
    }
}

/// A commit that arrived.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn commit_from_wire(wire: GroupCommitRequest) -> Result<Commit, Error> {
    let alone = wire.member_id.is_empty() && wire.generation == -1;
    let by = (!alone).then(|| CommitBy {
        caller: caller(&wire.member_id, wire.session),
        generation: wire.generation,
        sequence: wire.sequence,
    });
    Ok(Commit { by, offsets: commit_offsets(wire.offsets)? })
}

/// Offsets to commit that arrived. When and for which topic is for the coordinator to add.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn commit_offsets(
    wire: Vec<v1::CommitOffset>,
) -> Result<Vec<(TopicPartition, Committed)>, Error> {
    let limit = limits::MAX_COMMIT_OFFSETS;
    if wire.len() > limit {
        return Err(Error::Limit { what: "the number of offsets in a commit", limit });
    }
    let offsets = wire.into_iter().map(|o| {
        let tp = TopicPartition { topic: o.topic.into(), partition: o.partition };
        let committed = Committed {
            offset: o.offset,
            leader_epoch: o.leader_epoch,
            metadata: o.metadata,
            committed_ms: 0,
            topic_id: None,
            expires_ms: None,
        };
        (tp, committed)
    });
    Ok(offsets.collect())
}

fn commit_offset(tp: &TopicPartition, committed: &Committed) -> v1::CommitOffset {
    v1::CommitOffset {
        topic: tp.topic.to_string(),
        partition: tp.partition,
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
    }
}

/// Bytes that a commit counts for while it waits.
pub(crate) fn commit_bytes(commit: &Commit) -> usize {
    commit.offsets.iter().map(|(tp, c)| tp.topic.len() + c.metadata.len()).sum()
}

/// A group as tools see it; high watermarks are for others to add.
pub(crate) fn description(
    description: Description,
    coordinator_address: String,
) -> v1::DescribeGroupResponse {
    v1::DescribeGroupResponse {
        group: Some(summary(description.summary)),
        members: description
            .members
            .into_iter()
            .map(|m| member(m, &description.protocol))
            .collect(),
        offsets: description.offsets.iter().map(|(tp, c)| offset(tp, c)).collect(),
        coordinator_address,
        protocol_name: description.protocol.to_string(),
    }
}

/// A group in a list.
pub(crate) fn summary(summary: Summary) -> v1::GroupSummary {
    v1::GroupSummary {
        group: summary.group.to_string(),
        state: summary.phase.as_str().to_owned(),
        members: u32::try_from(summary.members).unwrap_or(u32::MAX),
        generation: summary.generation,
        protocol: summary.kind.map_or("", Kind::as_str).to_owned(),
        protocol_type: summary.protocol_type,
    }
}

fn member(record: MemberRecord, protocol: &str) -> v1::GroupMember {
    let member = v1::GroupMember {
        member_id: record.member.to_string(),
        client_id: record.client_id,
        topics: record.topics.iter().map(ToString::to_string).collect(),
        assigned: partitions(&record.assigned),
        ..v1::GroupMember::default()
    };
    match record.classic {
        Some(classic) => classic_member(member, classic, protocol),
        None => member,
    }
}

/// Adds what a classic member says and is assigned, as far as it can be read.
fn classic_member(
    member: v1::GroupMember,
    classic: ClassicRecord,
    protocol: &str,
) -> v1::GroupMember {
    let topics =
        classic.metadata(protocol).and_then(|bytes| consumer_protocol::subscription(bytes));
    let assigned = topics.as_ref().and_then(|_| consumer_protocol::assignment(&classic.assignment));
    v1::GroupMember {
        topics: topics.iter().flatten().map(ToString::to_string).collect(),
        assigned: assigned.as_ref().map(partitions).unwrap_or_default(),
        assignment: if assigned.is_some() { Bytes::new() } else { classic.assignment },
        instance_id: classic.instance.as_deref().unwrap_or_default().to_owned(),
        client_host: classic.client_host,
        ..member
    }
}

fn partitions(assigned: &Assignment) -> Vec<v1::GroupPartition> {
    let one = |topic: &Arc<str>, &partition: &u32| v1::GroupPartition {
        topic: topic.to_string(),
        partition,
    };
    assigned.iter().flat_map(|(topic, list)| list.iter().map(move |p| one(topic, p))).collect()
}

fn offset(tp: &TopicPartition, committed: &Committed) -> v1::GroupOffset {
    v1::GroupOffset {
        topic: tp.topic.to_string(),
        partition: tp.partition,
        offset: committed.offset,
        high_watermark: None,
        metadata: committed.metadata.clone(),
        committed_ms: committed.committed_ms,
    }
}

#[cfg(test)]
mod tests;
