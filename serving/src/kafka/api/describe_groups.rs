//! DescribeGroups: members of groups and what they read. Members that are gRPC streams are shown as consumers whose server
//! assigns.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use super::sized::Size;
use crate::groups::core::Phase;
use crate::groups::local::Refused;
use crate::groups::record::MemberRecord;
use crate::groups::request::Description;
use crate::groups::types::Error;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_groups_response::{
    DescribedGroup, DescribedGroupMember,
};
use crate::kafka::codec::messages::{DescribeGroupsRequest, DescribeGroupsResponse, StrBytes};
use crate::kafka::error::Fault;
use crate::kafka::{codec, group, operations};

pub(super) const API: Api = Api::new::<DescribeGroupsRequest>(
    "DescribeGroups",
    0,
    6,
    |call, body| serve(call, body).boxed(),
    "Members that are gRPC streams are shown as consumers of the protocol `stream`.",
)
.always_saying(&[("authorized_operations", "3400")]);

/// The first version that says that there is no such group, rather than that it is dead.
const NOT_FOUND_SINCE: i16 = 6;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeGroupsRequest = call.decode(body)?;
    // Whoever asks for a group more than once is told once.
    let operations = operations::when(request.include_authorized_operations, operations::GROUP);
    let asked: BTreeSet<StrBytes> = request.groups.into_iter().collect();
    let mut size = Size::of(&call.kafka.answers.groups, 0).await;
    let response = loop {
        let response = describe(&call, (&asked, operations), &mut size).await;
        if !size.is_too_small() {
            break response;
        }
        drop(response);
        size = size.larger().await;
    };
    size.answer(&call, &response)
}

/// What fits of it: clients ask again for the rest.
async fn describe(
    call: &Call,
    (asked, operations): (&BTreeSet<StrBytes>, i32),
    size: &mut Size,
) -> DescribeGroupsResponse {
    let mut response = DescribeGroupsResponse::default();
    for name in asked {
        // Mostly shares the memory of the group itself.
        let described = match size.left() > 0 {
            true => call.kafka.groups.describe(&group::name(name)).await,
            false => Err(Refused::Loading),
        };
        let bytes = name.len() + GROUP_BYTES + described.as_ref().map_or(0, bytes);
        let fits = size.add(bytes);
        let described = if fits { described } else { Err(Refused::Loading) };
        let mut group = answer(call.version(), name.clone(), described);
        group.authorized_operations = operations;
        response.groups.push(group);
    }
    response
}

/// What a group and a member take beside their words.
const GROUP_BYTES: usize = 128;
const MEMBER_BYTES: usize = 192;

/// What a description takes, roughly.
fn bytes(described: &Description) -> usize {
    let member = |record: &MemberRecord| {
        let topics: usize = record.topics.iter().map(|topic| topic.len() + 2).sum();
        let assigned = record.assigned.iter().map(|(topic, p)| topic.len() + 8 + 4 * p.len());
        let classic = record.classic.as_ref().map_or(0, |classic| {
            let metadata = classic.metadata(&described.protocol).map_or(0, Bytes::len);
            metadata + classic.assignment.len() + classic.client_host.len()
        });
        let names = record.member.len() + record.client_id.len();
        MEMBER_BYTES + names + topics + assigned.sum::<usize>() + classic
    };
    described.members.iter().map(member).sum()
}

fn answer(
    version: i16,
    asked: StrBytes,
    described: Result<Description, Refused>,
) -> DescribedGroup {
    let mut group = DescribedGroup::default();
    group.group_id = asked;
    match described {
        Ok(described) => {
            let summary = &described.summary;
            group.group_state = state(summary.phase).into();
            group.protocol_type = protocol_type(summary).into();
            group.protocol_data = (&*described.protocol).into();
            let members = described.members.into_iter().map(|m| member(m, &described.protocol));
            group.members = members.collect();
        }
        Err(Refused::Group(Error::UnknownGroup)) if version < NOT_FOUND_SINCE => {
            group.group_state = state(Phase::Dead).into();
        }
        Err(refused) => {
            let fault = Fault::from(refused);
            group.error_code = fault.code.0;
            if version >= NOT_FOUND_SINCE {
                group.group_state = state(Phase::Dead).into();
                group.error_message = Some(fault.message.into());
            }
        }
    }
    group
}

/// Kafka's name of a state.
pub(super) fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Empty => "Empty",
        Phase::Preparing => "PreparingRebalance",
        Phase::Completing => "CompletingRebalance",
        Phase::Stable => "Stable",
        Phase::Dead => "Dead",
    }
}

/// The family of protocols of a group: all that gRPC groups do is consume.
pub(super) fn protocol_type(summary: &crate::groups::request::Summary) -> &str {
    match summary.kind {
        Some(crate::groups::types::Kind::Stream) => "consumer",
        _ => &summary.protocol_type,
    }
}

fn member(record: MemberRecord, protocol: &str) -> DescribedGroupMember {
    let mut member = DescribedGroupMember::default();
    member.member_id = (&*record.member).into();
    member.client_id = record.client_id.into();
    match record.classic {
        Some(classic) => {
            member.member_metadata = classic.metadata(protocol).cloned().unwrap_or_default();
            member.group_instance_id = classic.instance.map(|instance| (&*instance).into());
            member.client_host = classic.client_host.into();
            member.member_assignment = classic.assignment;
        }
        None => {
            member.member_metadata = codec::consumer::subscription(&record.topics);
            member.member_assignment = codec::consumer::assignment(&record.assigned);
        }
    }
    member
}
