//! DescribeCluster: its brokers, and who serves as controller.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_cluster_response::DescribeClusterBroker;
use crate::kafka::codec::messages::{DescribeClusterRequest, DescribeClusterResponse};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::operations;
use crate::kafka::place::Node;

pub(super) const API: Api = Api::new::<DescribeClusterRequest>(
    "DescribeCluster",
    0,
    2,
    |call, body| serve(call, body).boxed(),
    "Every broker serves what Kafka's controller serves; the elected coordinator is named as such. Here and elsewhere all \
     operations are authorized, as by Kafka without an authorizer: there is no authorization yet.",
)
.always_saying(&[
    ("endpoint_type", "1"),
    ("is_fenced", "false"),
    ("cluster_authorized_operations", "8096"),
]);

/// Kinds of endpoints.
mod endpoint {
    pub(super) const BROKERS: i8 = 1;
    pub(super) const CONTROLLERS: i8 = 2;
}

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeClusterRequest = call.decode(body)?;
    let mut response = DescribeClusterResponse::default();
    let outcome = match request.endpoint_type {
        endpoint::BROKERS => Ok(()),
        endpoint::CONTROLLERS => {
            let why = "there are no controllers apart from brokers: ask for brokers";
            Err(Fault::new(Code::MISMATCHED_ENDPOINT_TYPE, why))
        }
        _ => Err(Fault::new(Code::UNSUPPORTED_ENDPOINT_TYPE, "no such kind of endpoint")),
    };
    if outcome.is_ok() {
        response.cluster_id = call.kafka.ctx.cluster.uuid.to_string().into();
        response.controller_id = call.controller();
        response.brokers = call.nodes().iter().map(broker).collect();
        let asked = request.include_cluster_authorized_operations;
        response.cluster_authorized_operations = operations::when(asked, operations::CLUSTER);
    }
    (response.error_code, response.error_message) = said(outcome);
    call.answer(&response)
}

fn broker(node: &Node) -> DescribeClusterBroker {
    let mut broker = DescribeClusterBroker::default();
    broker.broker_id = node.broker.id.0;
    broker.host = node.at.host.as_str().into();
    broker.port = i32::from(node.at.port);
    broker.rack = (!node.broker.zone.is_empty()).then(|| node.broker.zone.as_str().into());
    broker
}
