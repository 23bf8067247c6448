//! FindCoordinator: which broker coordinates a group. Coordinators of transactions are not found until there are some.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::find_coordinator_response::Coordinator;
use crate::kafka::codec::messages::{FindCoordinatorRequest, FindCoordinatorResponse, StrBytes};
use crate::kafka::error::{Code, Fault};
use crate::kafka::place::{NOBODY, Node};

pub(super) const API: Api = Api::new::<FindCoordinatorRequest>(
    "FindCoordinator",
    0,
    6,
    |call, body| serve(call, body).boxed(),
    "Groups only. Transactional ids are answered with TRANSACTIONAL_ID_AUTHORIZATION_FAILED and other kinds with INVALID_REQUEST, since they are not built.",
);

/// The version from which several keys are asked for together.
const MANY_SINCE: i16 = 4;
/// The key type of consumer groups.
const GROUP: i8 = 0;
/// The key type of transactional ids.
const TRANSACTION: i8 = 1;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: FindCoordinatorRequest = call.decode(body)?;
    let mut response = FindCoordinatorResponse::default();
    if call.version() >= MANY_SINCE {
        let keys = request.coordinator_keys.into_iter();
        response.coordinators = keys.map(|key| coordinator(&call, request.key_type, key)).collect();
        return call.answer(&response);
    }
    let found = coordinator(&call, request.key_type, request.key);
    (response.error_code, response.error_message) = (found.error_code, found.error_message);
    (response.node_id, response.host, response.port) = (found.node_id, found.host, found.port);
    call.answer(&response)
}

fn coordinator(call: &Call, key_type: i8, key: StrBytes) -> Coordinator {
    let mut coordinator = Coordinator::default();
    (coordinator.node_id, coordinator.port) = (NOBODY, -1);
    match find(call, key_type, &key) {
        Ok(node) => {
            coordinator.node_id = node.broker.id.0;
            coordinator.host = node.at.host.into();
            coordinator.port = i32::from(node.at.port);
        }
        Err(fault) => {
            coordinator.error_code = fault.code.0;
            coordinator.error_message = Some(fault.message.into());
        }
    }
    coordinator.key = key;
    coordinator
}

fn find(call: &Call, key_type: i8, group: &str) -> Result<Node, Fault> {
    match key_type {
        GROUP => {}
        // The one refusal that every client takes for final.
        TRANSACTION => {
            let why = "transactions are not supported";
            return Err(Fault::new(Code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, why));
        }
        _ => return Err(Fault::new(Code::INVALID_REQUEST, "only groups have coordinators")),
    }
    if group.is_empty() {
        return Err(Fault::new(Code::INVALID_GROUP_ID, "a group needs a name"));
    }
    let broker = call.kafka.groups.find(group);
    broker.and_then(|broker| call.node(broker)).ok_or_else(|| {
        let why = "the group has no coordinator now: try again";
        Fault::new(Code::COORDINATOR_NOT_AVAILABLE, why)
    })
}
