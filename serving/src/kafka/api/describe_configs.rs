//! DescribeConfigs of topics and of this broker.

use std::collections::HashSet;

use bytes::Bytes;
use futures::FutureExt;

use super::Api;
use crate::kafka::call::{Call, Served};
use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::describe_configs_response::DescribeConfigsResult;
use crate::kafka::codec::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use crate::kafka::configs::{self, Entry, resource};
use crate::kafka::error::{Code, Fault, said};

pub(super) const API: Api = Api::new::<DescribeConfigsRequest>(
    "DescribeConfigs",
    1,
    4,
    |call, body| serve(call, body).boxed(),
    "Topics: every config of [topic-configs](topic-configs.md). The broker that is asked: a few that have an answer here, \
     read-only. `default.replication.factor` and `min.insync.replicas` are the default quorum's.",
);

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeConfigsRequest = call.decode(body)?;
    let (synonyms, doc) = (request.include_synonyms, request.include_documentation);
    let mut response = DescribeConfigsResponse::default();
    let mut seen = HashSet::new();
    for asked in request.resources {
        if !seen.insert((asked.resource_type, asked.resource_name.clone())) {
            continue;
        }
        let mut result = DescribeConfigsResult::default();
        let outcome = entries(&call, &asked).await.map(|entries| {
            let wanted = |entry: &&Entry| match &asked.configuration_keys {
                // No key at all asks for all of them, as at Kafka.
                Some(keys) if !keys.is_empty() => keys.iter().any(|key| key.as_str() == entry.name),
                _ => true,
            };
            let described = entries.iter().filter(wanted).map(|e| e.described(synonyms, doc));
            result.configs = described.collect();
        });
        (result.error_code, result.error_message) = said(outcome);
        result.resource_type = asked.resource_type;
        result.resource_name = asked.resource_name;
        response.results.push(result);
    }
    call.answer(&response)
}

async fn entries(call: &Call, asked: &DescribeConfigsResource) -> Result<Vec<Entry>, Fault> {
    match asked.resource_type {
        resource::TOPIC => {
            let topic = call.named_topic(&asked.resource_name).await?;
            Ok(configs::of_topic(&topic.configs).collect())
        }
        // What holds for all brokers and can be changed while they run: nothing.
        resource::BROKER if asked.resource_name.is_empty() => Ok(Vec::new()),
        resource::BROKER => {
            let me = call.kafka.ctx.router.me();
            if asked.resource_name.parse() == Ok(me.0) {
                return Ok(configs::of_broker(call));
            }
            let why = format!("this is broker {me}: ask each about itself");
            Err(Fault::new(Code::INVALID_REQUEST, why))
        }
        other => {
            let why = format!(
                "resource type {other} has no configs here: ask for topics, 2, or brokers, 4"
            );
            Err(Fault::new(Code::INVALID_REQUEST, why))
        }
    }
}
