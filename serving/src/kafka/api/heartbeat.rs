//! Heartbeat: a member is alive, and learns when it has to join again.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::local::Refused;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::{HeartbeatRequest, HeartbeatResponse};
use crate::kafka::error::{Code, Fault};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<HeartbeatRequest>(
    "Heartbeat",
    0,
    4,
    |call, body| serve(call, body).boxed(),
    "Classic groups.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: HeartbeatRequest = call.decode(body)?;
    let instance = request.group_instance_id.as_ref();
    let by = group::identity(&request.member_id, instance, request.generation_id);
    let mut answer = HeartbeatResponse::default();
    let group = match group::named(&request.group_id) {
        Ok(group) => group,
        Err(fault) => {
            answer.error_code = fault.code.0;
            return call.answer(&answer);
        }
    };
    let heard = call.kafka.groups.heartbeat(&group, by).await;
    answer.error_code = heard.map_or_else(code_of, |()| Code::NONE).0;
    call.answer(&answer)
}

/// While the coordinator is taking over, which it may say for less than any session, nobody has to do anything: members have a
/// whole session timeout to be heard of once it has.
pub(super) fn code_of(refused: Refused) -> Code {
    match refused {
        Refused::Loading => Code::NONE,
        refused => Fault::from(refused).code,
    }
}
