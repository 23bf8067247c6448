//! DeleteTopics, by name or by id. It is answered when the topic is gone from this broker's view; what it leaves is freed later.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::{Api, named_twice};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::delete_topics_request::DeleteTopicState;
use crate::kafka::codec::messages::delete_topics_response::DeletableTopicResult;
use crate::kafka::codec::messages::{DeleteTopicsRequest, DeleteTopicsResponse, StrBytes, Uuid};
use crate::kafka::error::{Code, Fault, said};
use crate::kafka::patience::Patience;
use crate::kafka::place::uuid;
use crate::ownership::topology::Topic;

pub(super) const API: Api = Api::new::<DeleteTopicsRequest>(
    "DeleteTopics",
    1,
    6,
    |call, body| serve(call, body).boxed(),
    "Answered when the topic is gone from the view of the broker that is asked; others see it a moment later.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DeleteTopicsRequest = call.decode(body)?;
    let by_name = request.topic_names.into_iter().map(|name| (Some(name), Uuid::ZERO));
    let by_either =
        request.topics.into_iter().map(|topic: DeleteTopicState| (topic.name, topic.topic_id));
    let patience = Patience::of(request.timeout_ms);
    let asked: Vec<_> = by_name.chain(by_either).collect();
    let key = |(name, id): &(Option<StrBytes>, Uuid)| {
        (name.as_ref().map(|name| name.as_str().to_owned()), *id.as_bytes())
    };
    let twice = named_twice(asked.iter().map(key));
    let mut response = DeleteTopicsResponse::default();
    for (name, id) in &twice {
        let mut result = DeletableTopicResult::default();
        result.name = name.as_ref().map(|name| name.as_str().into());
        result.topic_id = Uuid::from_bytes(*id);
        let why = Fault::new(Code::INVALID_REQUEST, "a topic is named twice");
        (result.error_code, result.error_message) = said(Err(why));
        response.responses.push(result);
    }
    let once = asked.into_iter().filter(|asked| !twice.contains(&key(asked)));
    for (name, id) in once {
        let mut result = DeletableTopicResult::default();
        let outcome = patience.hold(delete(&call, name.as_ref(), id)).await;
        (result.name, result.topic_id) = (name, id);
        let outcome = outcome.map(|known| {
            result.name = Some(known.name.as_str().into());
            result.topic_id = uuid(known.id);
        });
        (result.error_code, result.error_message) = said(outcome);
        response.responses.push(result);
    }
    call.answer(&response)
}

/// Deletes one topic; what it was.
async fn delete(call: &Call, name: Option<&StrBytes>, id: Uuid) -> Result<Arc<Topic>, Fault> {
    let admin = &call.kafka.ctx.admin;
    match name {
        Some(_) if !id.is_zero() => {
            let why = "a topic is named by its name and by its id: choose one";
            Err(Fault::new(Code::INVALID_REQUEST, why))
        }
        Some(name) => {
            let topic = call.topic(name).await?;
            admin.delete(name).await?;
            Ok(topic)
        }
        None if id.is_zero() => {
            let why = "a topic has neither a name nor an id: give one";
            Err(Fault::new(Code::INVALID_REQUEST, why))
        }
        None => {
            let topic = call.topic_by_id(id)?;
            match admin.delete_only(&topic.name, topic.id).await.map_err(Fault::from) {
                Err(gone) if gone.code == Code::UNKNOWN_TOPIC_OR_PARTITION => {
                    Err(Fault::new(Code::UNKNOWN_TOPIC_ID, "no topic has this id"))
                }
                outcome => outcome.map(|()| topic),
            }
        }
    }
}
