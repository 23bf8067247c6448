//! IncrementalAlterConfigs: changes the configs of a topic that are named, and those only.

use std::collections::HashSet;

use bytes::Bytes;
use futures::FutureExt;

use super::alter_configs::apply;
use super::{Api, named_twice};
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::incremental_alter_configs_request::AlterConfigsResource;
use crate::kafka::codec::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use crate::kafka::codec::messages::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use crate::kafka::error::{Code, Fault, said};
use crate::topics::{Alteration, ListChange};

pub(super) const API: Api = Api::new::<IncrementalAlterConfigsRequest>(
    "IncrementalAlterConfigs",
    0,
    1,
    |call, body| serve(call, body).boxed(),
    "Topics only, as with AlterConfigs. Only lists, such as `cleanup.policy`, are appended to and subtracted from.",
);

mod operation {
    pub(super) const SET: i8 = 0;
    pub(super) const DELETE: i8 = 1;
    pub(super) const APPEND: i8 = 2;
    pub(super) const SUBTRACT: i8 = 3;
}

async fn serve(call: Call, body: Bytes) -> Served {
    let request: IncrementalAlterConfigsRequest = call.decode(body)?;
    let key = |asked: &AlterConfigsResource| {
        (asked.resource_type, asked.resource_name.as_str().to_owned())
    };
    let twice = named_twice(request.resources.iter().map(key));
    let mut response = IncrementalAlterConfigsResponse::default();
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
    let mut seen = HashSet::new();
    let mut alteration = Alteration::default();
    for config in &asked.configs {
        let (name, invalid) = (config.name.as_str().to_owned(), Code::INVALID_REQUEST);
        if !seen.insert(&config.name) {
            return Err(Fault::new(invalid, format!("config {name} is named twice")));
        }
        if config.config_operation == operation::DELETE {
            alteration.unset.push(name);
            continue;
        }
        let Some(value) = config.value.as_ref().map(|value| value.as_str().to_owned()) else {
            return Err(Fault::new(invalid, format!("config {name} has no value: give one")));
        };
        match config.config_operation {
            operation::SET => drop(alteration.set.insert(name, value)),
            add @ (operation::APPEND | operation::SUBTRACT) => {
                let add = add == operation::APPEND;
                alteration.lists.push(ListChange { name, words: value, add });
            }
            other => {
                let why = format!("config {name}: there is no operation {other}");
                return Err(Fault::new(invalid, why));
            }
        }
    }
    Ok(alteration)
}
