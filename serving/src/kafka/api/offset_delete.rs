//! OffsetDelete: forgets offsets of a group, but for topics that its members read.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::groups::limits;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::kafka::codec::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use crate::kafka::error::{Code, Fault, code_of_group};
use crate::kafka::group;

pub(super) const API: Api = Api::new::<OffsetDeleteRequest>(
    "OffsetDelete",
    0,
    0,
    |call, body| serve(call, body).boxed(),
    "Offsets of topics that members read are kept: GROUP_SUBSCRIBED_TO_TOPIC.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: OffsetDeleteRequest = call.decode(body)?;
    let mut response = OffsetDeleteResponse::default();
    let group = match group::named(&request.group_id) {
        Ok(group) => group,
        Err(fault) => {
            response.error_code = fault.code.0;
            return call.answer(&response);
        }
    };
    let (mut asked, mut places) = (Vec::new(), Vec::new());
    let count: usize = request.topics.iter().map(|topic| topic.partitions.len()).sum();
    if count > limits::MAX_COMMIT_OFFSETS {
        response.error_code = Code::INVALID_REQUEST.0;
        return call.answer(&response);
    }
    let mut topics = group::Topics::new(&call);
    for (t, topic) in request.topics.iter().enumerate() {
        let named = topics.find(&topic.name).await;
        let mut answer = OffsetDeleteResponseTopic::default();
        answer.name.clone_from(&topic.name);
        for (p, partition) in topic.partitions.iter().enumerate() {
            let mut one = OffsetDeleteResponsePartition::default();
            one.partition_index = partition.partition_index;
            match named.partition(partition.partition_index) {
                Ok(tp) => {
                    asked.push(tp);
                    places.push((t, p));
                }
                Err(code) => one.error_code = code.0,
            }
            answer.partitions.push(one);
        }
        response.topics.push(answer);
    }
    match call.kafka.groups.delete_offsets(&group, asked).await {
        Ok(each) => {
            for ((t, p), deleted) in places.into_iter().zip(each) {
                let code = deleted.err().map_or(0, |error| code_of_group(&error).0);
                response.topics[t].partitions[p].error_code = code;
            }
        }
        Err(refused) => {
            response.error_code = Fault::from(refused).code.0;
            response.topics.clear();
        }
    }
    call.answer(&response)
}
