//! DeleteGroups: forgets groups without members, with their offsets.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::delete_groups_response::DeletableGroupResult;
use crate::kafka::codec::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use crate::kafka::error::Fault;
use crate::kafka::group;

pub(super) const API: Api = Api::new::<DeleteGroupsRequest>(
    "DeleteGroups",
    0,
    2,
    |call, body| serve(call, body).boxed(),
    "gRPC groups as well.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DeleteGroupsRequest = call.decode(body)?;
    let mut response = DeleteGroupsResponse::default();
    for asked in request.groups_names {
        let deleted = call.kafka.groups.delete(&group::name(&asked)).await;
        let mut result = DeletableGroupResult::default();
        result.group_id = asked;
        result.error_code = deleted.err().map_or(0, |refused| Fault::from(refused).code.0);
        response.results.push(result);
    }
    call.answer(&response)
}
