//! AlterConfigs: replaces all configs of a topic.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;

use super::{Api, named_twice};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::alter_configs_request::AlterConfigsResource;
use crate::kafka::codec::messages::alter_configs_response::AlterConfigsResourceResponse;
use crate::kafka::codec::messages::{AlterConfigsRequest, AlterConfigsResponse};
use crate::kafka::configs::resource;
use crate::kafka::error::{Code, Fault, said};
use crate::topics::Alteration;

pub(super) const API: Api = Api::new::<AlterConfigsRequest>(
    "AlterConfigs",
    0,
    2,
    |call, body| serve(call, body).boxed(),
    "Topics only: brokers are configured when they start. Configs that are not named go back to their defaults, as in Kafka.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: AlterConfigsRequest = call.decode(body)?;
    let key = |asked: &AlterConfigsResource| {
        (asked.resource_type, asked.resource_name.as_str().to_owned())
    };
    let twice = named_twice(request.resources.iter().map(key));
    let mut response = AlterConfigsResponse::default();
    for asked in request.resources {
        let outcome = if !twice.contains(&key(&asked)) {
            match alteration(&asked) {
                Ok(change) => {
                    let (kind, name) = (asked.resource_type, &asked.resource_name);
                    apply(&call, kind, name, change, request.validate_only).await
                }
                Err(fault) => Err(fault),
            }
        } else {
            Err(Fault::new(Code::INVALID_REQUEST, "a resource is named twice"))
        };
        let mut result = AlterConfigsResourceResponse::default();
        (result.error_code, result.error_message) = said(outcome);
        result.resource_type = asked.resource_type;
        result.resource_name = asked.resource_name;
        response.responses.push(result);
    }
    call.answer(&response)
}

fn alteration(asked: &AlterConfigsResource) -> Result<Alteration, Fault> {
    let mut set = BTreeMap::new();
    for config in &asked.configs {
        let Some(value) = &config.value else {
            let why = format!("config {} has no value: leave it out", config.name.as_str());
            return Err(Fault::new(Code::INVALID_REQUEST, why));
        };
        let name = config.name.as_str();
        if set.insert(name.to_owned(), value.as_str().to_owned()).is_some() {
            let why = format!("config {name} is named twice");
            return Err(Fault::new(Code::INVALID_REQUEST, why));
        }
    }
    Ok(Alteration { set, replace: true, ..Alteration::default() })
}

/// Alters a resource, or says whether it could be.
pub(super) async fn apply(
    call: &Call,
    kind: i8,
    name: &str,
    alteration: Alteration,
    validate_only: bool,
) -> Result<(), Fault> {
    if kind != resource::TOPIC {
        let why = match kind {
            resource::BROKER => "brokers are configured when they start: nothing can be altered",
            _ => "only configs of topics, resource type 2, can be altered",
        };
        return Err(Fault::new(Code::INVALID_REQUEST, why));
    }
    let admin = &call.kafka.ctx.admin;
    match validate_only {
        true => admin.check_alter(name, &alteration).await?,
        false => drop(admin.alter(name, alteration).await?),
    }
    Ok(())
}
