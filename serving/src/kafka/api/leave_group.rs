//! LeaveGroup: members go for good, or are sent away by an administrator.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::leave_group_response::MemberResponse;
use crate::kafka::codec::messages::{LeaveGroupRequest, LeaveGroupResponse};
use crate::kafka::error::{Fault, code_of_group};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<LeaveGroupRequest>(
    "LeaveGroup",
    0,
    5,
    |call, body| serve(call, body).boxed(),
    "Classic groups.",
);

/// The first version in which several members leave together.
const MANY_SINCE: i16 = 3;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: LeaveGroupRequest = call.decode(body)?;
    let many = call.version() >= MANY_SINCE;
    let members = match many {
        false => vec![group::member(&request.member_id, None)],
        true => {
            let member =
                |m: &crate::kafka::codec::messages::leave_group_request::MemberIdentity| {
                    group::member(&m.member_id, m.group_instance_id.as_ref())
                };
            request.members.iter().map(member).collect()
        }
    };
    let mut answer = LeaveGroupResponse::default();
    let group = match group::named(&request.group_id) {
        Ok(group) => group,
        Err(fault) => {
            answer.error_code = fault.code.0;
            return call.answer(&answer);
        }
    };
    match call.kafka.groups.leave(&group, members).await {
        Err(refused) => answer.error_code = Fault::from(refused).code.0,
        Ok(each) if many => {
            let gone = request.members.into_iter().zip(each).map(|(member, left)| {
                let mut gone = MemberResponse::default();
                gone.member_id = member.member_id;
                gone.group_instance_id = member.group_instance_id;
                gone.error_code = left.err().map_or(0, |error| code_of_group(&error).0);
                gone
            });
            answer.members = gone.collect();
        }
        Ok(each) => {
            let refused = each.into_iter().find_map(Result::err);
            answer.error_code = refused.map_or(0, |error| code_of_group(&error).0);
        }
    }
    call.answer(&answer)
}
