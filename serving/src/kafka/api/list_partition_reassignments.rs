//! ListPartitionReassignments. Nothing is ever copied from broker to broker: there are none.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};

pub(super) const API: Api = Api::new::<ListPartitionReassignmentsRequest>(
    "ListPartitionReassignments",
    0,
    0,
    |call, body| serve(call, body).boxed(),
    "Always an empty list, which is the truth: a partition moves in a moment, since nothing is copied.",
)
.always_saying(&[("topics", "[]"), ("error_code", "0"), ("error_message", "None")]);

async fn serve(call: Call, body: Bytes) -> Served {
    let _asked: ListPartitionReassignmentsRequest = call.decode(body)?;
    let mut response = ListPartitionReassignmentsResponse::default();
    response.error_message = None;
    call.answer(&response)
}
