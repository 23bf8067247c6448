//! DescribeGroups: members of groups and what they read. Members that are gRPC streams are shown as consumers whose server
//! assigns.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
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
);

/// The first version that says that there is no such group, rather than that it is dead.
const NOT_FOUND_SINCE: i16 = 6;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeGroupsRequest = call.decode(body)?;
    let mut response = DescribeGroupsResponse::default();
    let operations = operations::when(request.include_authorized_operations, operations::GROUP);
    for asked in request.groups {
        let described = call.kafka.groups.describe(&group::name(&asked)).await;
        let mut group = answer(call.version(), asked, described);
        group.authorized_operations = operations;
        response.groups.push(group);
    }
    call.answer(&response)
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
