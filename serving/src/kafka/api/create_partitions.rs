//! CreatePartitions: a topic gets more of them. There are never fewer.

use bytes::Bytes;
use futures::FutureExt;

use super::{Api, named_twice};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::create_partitions_request::CreatePartitionsTopic;
use crate::kafka::codec::messages::create_partitions_response::CreatePartitionsTopicResult;
use crate::kafka::codec::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::patience::Patience;
use crate::topics::Alteration;

pub(super) const API: Api = Api::new::<CreatePartitionsRequest>(
    "CreatePartitions",
    0,
    3,
    |call, body| serve(call, body).boxed(),
    "Assignments by hand must fit the number of new partitions, name no broker twice for a partition, and have no effect.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: CreatePartitionsRequest = call.decode(body)?;
    let patience = Patience::of(request.timeout_ms);
    let name = |topic: &CreatePartitionsTopic| topic.name.as_str().to_owned();
    let twice = named_twice(request.topics.iter().map(name));
    let mut response = CreatePartitionsResponse::default();
    for name in &twice {
        let mut result = CreatePartitionsTopicResult::default();
        let why = Fault::new(Code::INVALID_REQUEST, "a topic is named twice");
        (result.error_code, result.error_message) = said(Err(why));
        result.name = name.as_str().into();
        response.results.push(result);
    }
    let once = request.topics.into_iter().filter(|topic| !twice.contains(topic.name.as_str()));
    for topic in once {
        let outcome = patience.hold(grow(&call, &topic, request.validate_only)).await;
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
        if assignments.len() != more {
            let why =
                format!("there are {more} new partitions: name brokers for each, or for none");
            return Err(Fault::new(Code::INVALID_REPLICA_ASSIGNMENT, why));
        }
        assignments.iter().try_for_each(|a| Call::check_assigned(&a.broker_ids))?;
    }
    let alteration = Alteration { partitions: Some(count), ..Alteration::default() };
    let admin = &call.kafka.ctx.admin;
    match check {
        true => admin.check_alter(&asked.name, &alteration).await?,
        false => drop(admin.alter(&asked.name, alteration).await?),
    }
    Ok(())
}
