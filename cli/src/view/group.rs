//! Consumer groups, their members and offsets.

use geminga_proto::v1;
use serde::Serialize;

use super::{View, optional, table, time};

/// All groups.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Groups(Vec<Summary>);

#[derive(Debug, Serialize)]
struct Summary {
    group: String,
    state: String,
    members: u32,
    generation: i32,
    protocol: String,
    protocol_type: String,
}

impl From<v1::GroupSummary> for Summary {
    fn from(summary: v1::GroupSummary) -> Self {
        let v1::GroupSummary { group, state, members, generation, protocol, protocol_type } =
            summary;
        Self { group, state, members, generation, protocol, protocol_type }
    }
}

impl From<Vec<v1::GroupSummary>> for Groups {
    fn from(groups: Vec<v1::GroupSummary>) -> Self {
        Self(groups.into_iter().map(Summary::from).collect())
    }
}

impl View for Groups {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|group| {
            let Summary { group, state, members, generation, protocol, protocol_type: _ } = group;
            let numbers = [members.to_string(), generation.to_string()];
            let [members, generation] = numbers;
            [group.clone(), state.clone(), members, generation, protocol.clone()]
        });
        table(["GROUP", "STATE", "MEMBERS", "GENERATION", "PROTOCOL"], rows)
    }
}

/// One group with members and offsets.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    group: String,
    state: String,
    generation: i32,
    /// `stream` or `classic`; empty without members.
    protocol: String,
    /// Of a classic group: the family of protocols, and the one that the members agreed on.
    protocol_type: String,
    protocol_name: String,
    coordinator_address: String,
    members: Vec<Member>,
    offsets: Offsets,
}

#[derive(Debug, Serialize)]
struct Member {
    member_id: String,
    client_id: String,
    topics: Vec<String>,
    assigned: Vec<Assigned>,
    /// Of a classic member.
    instance_id: String,
    client_host: String,
    /// Of a classic member that is no consumer: what it is assigned, in hexadecimal.
    assignment: String,
}

impl Member {
    fn assigned(&self) -> String {
        if !self.assignment.is_empty() {
            return format!("0x{}", self.assignment);
        }
        let assigned: Vec<String> =
            self.assigned.iter().map(|a| format!("{}/{}", a.topic, a.partition)).collect();
        assigned.join(" ")
    }
}

#[derive(Debug, Serialize)]
struct Assigned {
    topic: String,
    partition: u32,
}

impl From<v1::GroupMember> for Member {
    fn from(member: v1::GroupMember) -> Self {
        let assigned = member.assigned.into_iter();
        Self {
            member_id: member.member_id,
            client_id: member.client_id,
            topics: member.topics,
            assigned: assigned
                .map(|v1::GroupPartition { topic, partition }| Assigned { topic, partition })
                .collect(),
            instance_id: member.instance_id,
            client_host: member.client_host,
            assignment: member.assignment.iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

impl From<v1::DescribeGroupResponse> for Group {
    fn from(answer: v1::DescribeGroupResponse) -> Self {
        let summary = answer.group.unwrap_or_default();
        Self {
            group: summary.group,
            state: summary.state,
            generation: summary.generation,
            protocol: summary.protocol,
            protocol_type: summary.protocol_type,
            protocol_name: answer.protocol_name,
            coordinator_address: answer.coordinator_address,
            members: answer.members.into_iter().map(Member::from).collect(),
            offsets: Offsets::from(answer.offsets),
        }
    }
}

impl View for Group {
    fn text(&self) -> String {
        let Self { group, state, generation, coordinator_address, members, offsets, .. } = self;
        let mut text = format!(
            "group {group}: {state}, generation {generation}, coordinated at {coordinator_address}\n"
        );
        if self.protocol == "classic" {
            let (family, name) = (&self.protocol_type, &self.protocol_name);
            text += &format!("classic protocol {family}, {name}\n");
        }
        if !members.is_empty() {
            let rows = members.iter().map(|member| {
                [member.member_id.clone(), member.client_id.clone(), member.assigned()]
            });
            text = text + "\n" + &table(["MEMBER", "CLIENT", "ASSIGNED"], rows);
        }
        if !offsets.0.is_empty() {
            text = text + "\n" + &offsets.text();
        }
        text
    }
}

/// Committed offsets and how far behind they are.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Offsets(Vec<Offset>);

#[derive(Debug, Serialize)]
struct Offset {
    topic: String,
    partition: u32,
    offset: i64,
    high_watermark: Option<i64>,
    lag: Option<i64>,
    committed_ms: i64,
    metadata: String,
}

impl From<Vec<v1::GroupOffset>> for Offsets {
    fn from(offsets: Vec<v1::GroupOffset>) -> Self {
        let mut offsets: Vec<Offset> = offsets
            .into_iter()
            .map(|o| Offset {
                topic: o.topic,
                partition: o.partition,
                offset: o.offset,
                high_watermark: o.high_watermark,
                lag: o.high_watermark.map(|end| (end - o.offset).max(0)),
                committed_ms: o.committed_ms,
                metadata: o.metadata,
            })
            .collect();
        offsets.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Self(offsets)
    }
}

impl View for Offsets {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|o| {
            [
                o.topic.clone(),
                o.partition.to_string(),
                o.offset.to_string(),
                optional(o.high_watermark),
                optional(o.lag),
                time(o.committed_ms),
            ]
        });
        table(["TOPIC", "PARTITION", "OFFSET", "END", "LAG", "COMMITTED"], rows)
    }
}
