//! JoinGroup: a member wants to be in the next generation. Answered when that begins, which may take as long as the members'
//! rebalance timeouts; a client that goes away meanwhile waits no more.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::classic::{JoinClassic, JoinedClassic, Protocol};
use crate::groups::local::Refused;
use crate::groups::types::Error;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::join_group_response::JoinGroupResponseMember;
use crate::kafka::codec::messages::{JoinGroupRequest, JoinGroupResponse, StrBytes};
use crate::kafka::error::{Code, Fault};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<JoinGroupRequest>(
    "JoinGroup",
    0,
    9,
    |call, body| serve(call, body).boxed(),
    "Classic groups. A group that has gRPC members is refused with INCONSISTENT_GROUP_PROTOCOL, and the other way round.",
)
.waiting_for_others();

/// The first version that says how long a rebalance may take.
const REBALANCE_TIMEOUT_SINCE: i16 = 1;
/// The first version in which a new member joins twice: once for its id.
const TWO_STEPS_SINCE: i16 = 4;
/// The first version that has a word for the family of protocols, and for no protocol at all.
const PROTOCOL_TYPE_SINCE: i16 = 7;
/// The first version in which a leader understands that it need not assign anew.
const SKIP_SINCE: i16 = 9;

async fn serve(call: Call, body: Bytes) -> Served {
    let bytes = body.len();
    let request: JoinGroupRequest = call.decode(body)?;
    let asked = request.member_id.clone();
    let joined = join(&call, request, bytes).await;
    call.answer(&answer(call.version(), asked, joined))
}

async fn join(
    call: &Call,
    request: JoinGroupRequest,
    bytes: usize,
) -> Result<JoinedClassic, Refused> {
    let timeout = |ms: i32| u32::try_from(ms).unwrap_or(0);
    let session_timeout_ms = timeout(request.session_timeout_ms);
    let rebalance_timeout_ms = match call.version() < REBALANCE_TIMEOUT_SINCE {
        true => session_timeout_ms,
        false => timeout(request.rebalance_timeout_ms),
    };
    let name = group::member(&request.member_id, request.group_instance_id.as_ref());
    // Static members keep their place without an id.
    let two_steps = call.version() >= TWO_STEPS_SINCE && name.instance.is_none();
    let fresh = format!("{}-{:032x}", call.header.client_id, call.kafka.ctx.random.next_u128());
    let protocols = request.protocols.into_iter();
    let join = JoinClassic {
        name,
        fresh: fresh.into(),
        client_id: call.header.client_id.as_str().to_owned(),
        client_host: format!("/{}", call.peer.address.ip()),
        session_timeout_ms,
        rebalance_timeout_ms,
        protocol_type: request.protocol_type.as_str().to_owned(),
        protocols: protocols
            .map(|protocol| Protocol {
                name: group::name(&protocol.name),
                metadata: protocol.metadata,
            })
            .collect(),
        two_steps,
        may_skip: call.version() >= SKIP_SINCE,
    };
    call.kafka.groups.join(&group::name(&request.group_id), join, bytes).await
}

fn answer(
    version: i16,
    asked: StrBytes,
    joined: Result<JoinedClassic, Refused>,
) -> JoinGroupResponse {
    let mut answer = JoinGroupResponse::default();
    let nothing = (version < PROTOCOL_TYPE_SINCE).then(StrBytes::default);
    (answer.generation_id, answer.member_id, answer.protocol_name) = (-1, asked, nothing);
    answer.protocol_type = None;
    let joined = match joined {
        Ok(joined) => joined,
        Err(Refused::Group(Error::MemberIdRequired(given))) => {
            answer.error_code = Code::MEMBER_ID_REQUIRED.0;
            answer.member_id = (&*given).into();
            return answer;
        }
        Err(refused) => {
            answer.error_code = Fault::from(refused).code.0;
            return answer;
        }
    };
    answer.generation_id = joined.generation;
    answer.protocol_name = Some((&*joined.protocol).into());
    answer.leader = (&*joined.leader).into();
    answer.member_id = (&*joined.member).into();
    if version >= PROTOCOL_TYPE_SINCE {
        answer.protocol_type = Some(joined.protocol_type.into());
    }
    if version >= SKIP_SINCE {
        answer.skip_assignment = joined.skip_assignment;
    }
    let members = joined.members.into_iter().map(|joined| {
        let mut member = JoinGroupResponseMember::default();
        member.member_id = (&*joined.name.member).into();
        member.group_instance_id = joined.name.instance.map(|instance| (&*instance).into());
        member.metadata = joined.metadata;
        member
    });
    answer.members = members.collect();
    answer
}
