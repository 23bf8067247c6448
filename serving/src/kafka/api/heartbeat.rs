//! Heartbeat: a member is alive, and learns when it has to join again.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::local::Refused;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::{HeartbeatRequest, HeartbeatResponse};
use crate::kafka::error::Fault;
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
    answer.error_code = match call.kafka.groups.heartbeat(&group, by).await {
        // Members have a whole session timeout to be heard of once it has taken over.
        Ok(()) | Err(Refused::Loading) => 0,
        Err(refused) => Fault::from(refused).code.0,
    };
    call.answer(&answer)
}
