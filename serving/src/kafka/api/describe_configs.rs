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
use crate::kafka::patience::Patience;
use crate::topics::config::TABLE;

pub(super) const API: Api = Api::new::<DescribeConfigsRequest>(
    "DescribeConfigs",
    1,
    4,
    |call, body| serve(call, body).boxed(),
    "Topics: every config of [topic-configs](topic-configs.md). The broker that is asked: a few that have an answer here, \
     read-only. `default.replication.factor` and `min.insync.replicas` are the default quorum's.",
)
.always_saying(&[("is_sensitive", "false")]);

/// Most bytes of one answer, while it is made: of what does not fit an error is told.
const MAX_BYTES: usize = 48 * 1024 * 1024;
/// What a resource takes while it is described, a config of it, its synonyms, and its description.
const RESOURCE_BYTES: usize = 256;
const CONFIG_BYTES: usize = 256;
const SYNONYM_BYTES: usize = 256;
const DOC_BYTES: usize = 256;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: DescribeConfigsRequest = call.decode(body)?;
    let (synonyms, doc) = (request.include_synonyms, request.include_documentation);
    let mut response = DescribeConfigsResponse::default();
    let mut seen = HashSet::new();
    let mut asked = request.resources;
    asked.retain(|asked| seen.insert((asked.resource_type, asked.resource_name.clone())));
    // What is said is many times what was asked: how many of them fit is known before anything is made.
    let mut bytes = 0;
    let fitting = asked.iter().map(|asked| expected_bytes(&call, asked, (synonyms, doc)));
    let fitting = fitting.take_while(|more| {
        bytes += more;
        bytes <= MAX_BYTES
    });
    let fitting = fitting.count();
    let bytes = bytes.min(MAX_BYTES) + (asked.len() - fitting) * RESOURCE_BYTES;
    let room = call.kafka.answers.topics.take(bytes).await;
    let patience = Patience::with_room();
    for (n, asked) in asked.into_iter().enumerate() {
        let mut result = DescribeConfigsResult::default();
        let entries = match n < fitting {
            true => patience.hold(entries(&call, &asked)).await,
            false => {
                let why = "the answer would be too large: ask for fewer at once";
                Err(Fault::new(Code::POLICY_VIOLATION, why))
            }
        };
        let outcome = entries.map(|entries| {
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
    call.answer_in(room, &response)
}

/// What a resource takes while it is described, roughly.
fn expected_bytes(
    call: &Call,
    asked: &DescribeConfigsResource,
    (synonyms, doc): (bool, bool),
) -> usize {
    let keys = asked.configuration_keys.as_ref().map_or(0, Vec::len);
    let configs = if keys == 0 { TABLE.len() } else { keys.min(TABLE.len()) };
    let each = CONFIG_BYTES + usize::from(synonyms) * SYNONYM_BYTES + usize::from(doc) * DOC_BYTES;
    let known = call.kafka.ctx.router.topology().topic(&asked.resource_name);
    let own = known.filter(|_| asked.resource_type == resource::TOPIC).map_or(0, |topic| {
        let words: usize = topic.configs.values().map(String::len).sum();
        // In the answer and in its bytes; as a value and as a synonym.
        4 * words
    });
    RESOURCE_BYTES + configs * each + own
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
