//! CreatePartitions: a topic gets more of them. There are never fewer.

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::create_partitions_request::CreatePartitionsTopic;
use crate::kafka::codec::messages::create_partitions_response::CreatePartitionsTopicResult;
use crate::kafka::codec::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::names::Names;
use crate::topics::Alteration;

pub(super) const API: Api = Api::new::<CreatePartitionsRequest>(
    "CreatePartitions",
    0,
    3,
    |call, body| serve(call, body).boxed(),
    "Assignments by hand must fit the number of new partitions and have no effect.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: CreatePartitionsRequest = call.decode(body)?;
    let mut names = Names::of(request.topics.iter().map(|topic| topic.name.clone()));
    let mut response = CreatePartitionsResponse::default();
    for topic in request.topics {
        let Some(turn) = names.turn(&topic.name) else { continue };
        let outcome = match turn {
            Ok(()) => grow(&call, &topic, request.validate_only).await,
            Err(fault) => Err(fault),
        };
        let mut result = CreatePartitionsTopicResult::default();
        (result.error_code, result.error_message) = said(outcome);
        result.name = topic.name;
        response.results.push(result);
    }
    call.answer(&response)
}

async fn grow(call: &Call, asked: &CreatePartitionsTopic, check: bool) -> Result<(), Fault> {
    let topic = call.topic(&asked.name).await?;
    let count = u32::try_from(asked.count).ok().filter(|count| *count > topic.partitions);
    let Some(count) = count else {
        let why = format!("the topic has {} partitions: ask for more", topic.partitions);
        return Err(Fault::new(Code::INVALID_PARTITIONS, why));
    };
    if let Some(assignments) = &asked.assignments {
        let more = (count - topic.partitions) as usize;
        if assignments.len() != more || assignments.iter().any(|a| a.broker_ids.is_empty()) {
            let why =
                format!("there are {more} new partitions: name brokers for each, or for none");
            return Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why));
        }
    }
    let alteration = Alteration { partitions: Some(count), ..Alteration::default() };
    let admin = &call.kafka.ctx.admin;
    match check {
        true => admin.check_alter(&asked.name, &alteration).await?,
        false => drop(admin.alter(&asked.name, alteration).await?),
    }
    Ok(())
}
