//! ListGroups: the groups that this broker coordinates. Clients ask every broker.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use super::describe_groups::{protocol_type, state};
use super::sized::Size;
use crate::groups::request::Summary;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::list_groups_response::ListedGroup;
use crate::kafka::codec::messages::{ListGroupsRequest, ListGroupsResponse, StrBytes};
use crate::kafka::error::Fault;

pub(super) const API: Api = Api::new::<ListGroupsRequest>(
    "ListGroups",
    0,
    5,
    |call, body| serve(call, body).boxed(),
    "All groups are of the type `classic`: there are no others.",
)
.always_saying(&[("group_type", "classic")]);

/// The first versions that say states and types.
const STATES_SINCE: i16 = 4;
const TYPES_SINCE: i16 = 5;
/// What a group takes beside its name.
const GROUP_BYTES: usize = 128;
/// Kafka's name of the type.
const CLASSIC: &str = "classic";

async fn serve(call: Call, body: Bytes) -> Served {
    let request: ListGroupsRequest = call.decode(body)?;
    let mut response = ListGroupsResponse::default();
    let mut bytes = 0;
    match call.kafka.groups.list().await {
        Ok(groups) => {
            let wanted = |summary: &Summary| {
                is_wanted(&request.states_filter, state(summary.phase))
                    && is_wanted(&request.types_filter, CLASSIC)
            };
            bytes = groups.iter().map(|summary| summary.group.len() + GROUP_BYTES).sum();
            let groups = groups.iter().filter(|summary| wanted(summary));
            response.groups = groups.map(|summary| listed(call.version(), summary)).collect();
        }
        Err(refused) => response.error_code = Fault::from(refused).code.0,
    }
    Size::of(&call.kafka.answers.groups, bytes).await.answer(&call, &response)
}

fn is_wanted(filter: &[StrBytes], what: &str) -> bool {
    filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(what))
}

fn listed(version: i16, summary: &Summary) -> ListedGroup {
    let mut group = ListedGroup::default();
    group.group_id = (&*summary.group).into();
    group.protocol_type = protocol_type(summary).into();
    if version >= STATES_SINCE {
        group.group_state = state(summary.phase).into();
    }
    if version >= TYPES_SINCE {
        group.group_type = CLASSIC.into();
    }
    group
}
