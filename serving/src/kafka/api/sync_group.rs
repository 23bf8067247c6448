//! SyncGroup: the leader brings the assignment, everybody takes theirs.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::classic::SyncClassic;
use crate::groups::local::Refused;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::{SyncGroupRequest, SyncGroupResponse};
use crate::kafka::error::{Code, Fault};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<SyncGroupRequest>(
    "SyncGroup",
    0,
    5,
    |call, body| serve(call, body).boxed(),
    "Classic groups.",
)
.waiting_for_others();

/// The first version that names the protocol.
const PROTOCOL_SINCE: i16 = 5;

async fn serve(call: Call, body: Bytes) -> Served {
    let bytes = body.len();
    let request: SyncGroupRequest = call.decode(body)?;
    let (member, instance) = (&request.member_id, request.group_instance_id.as_ref());
    let text = |text: Option<crate::kafka::codec::messages::StrBytes>| {
        text.map(|text| text.as_str().to_owned())
    };
    let sync = SyncClassic {
        by: group::identity(member, instance, request.generation_id),
        protocol_type: text(request.protocol_type),
        protocol: text(request.protocol_name),
        assignments: request
            .assignments
            .into_iter()
            .map(|assignment| (group::name(&assignment.member_id), assignment.assignment))
            .collect(),
    };
    let mut answer = SyncGroupResponse::default();
    (answer.protocol_type, answer.protocol_name) = (None, None);
    let group = match group::named(&request.group_id) {
        Ok(group) => group,
        Err(fault) => {
            answer.error_code = fault.code.0;
            return call.answer(&answer);
        }
    };
    match call.kafka.groups.sync(&group, sync, bytes).await {
        Ok(synced) => {
            answer.assignment = synced.assignment;
            if call.version() >= PROTOCOL_SINCE {
                answer.protocol_type = Some(synced.protocol_type.into());
                answer.protocol_name = Some((&*synced.protocol).into());
            }
        }
        Err(refused) => answer.error_code = code_of(refused).0,
    }
    call.answer(&answer)
}

/// Clients do not expect to hear here that a coordinator takes over or has much to do; joining again is what they would do.
pub(super) fn code_of(refused: Refused) -> Code {
    match refused {
        Refused::Loading | Refused::Busy => Code::REBALANCE_IN_PROGRESS,
        refused => Fault::from(refused).code,
    }
}
