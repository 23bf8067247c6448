//! Configs of topics, read and written by Kafka clients; of brokers, read.

use std::collections::BTreeMap;

use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::describe_configs_response::DescribeConfigsResult;
use crate::kafka::codec::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    alter_configs_request, incremental_alter_configs_request,
};
use crate::kafka::error::Code;
use crate::kafka::testing::Rig;
use crate::topics::config::TABLE;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

async fn describe(
    rig: &Rig,
    version: i16,
    (kind, name): (i8, &str),
    keys: Option<&[&str]>,
) -> DescribeConfigsResult {
    let mut resource = DescribeConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (kind, name.into());
    resource.configuration_keys = keys.map(|keys| keys.iter().map(|key| (*key).into()).collect());
    let mut request = DescribeConfigsRequest::default();
    (request.resources, request.include_synonyms) = (vec![resource], true);
    request.include_documentation = version >= 3;
    rig.call(version, request).await.results.remove(0)
}

/// The values of a topic's configs that are not the default ones.
async fn set_of(rig: &Rig, name: &str) -> BTreeMap<String, String> {
    let result = describe(rig, 4, (TOPIC, name), None).await;
    let own = result.configs.into_iter().filter(|config| config.config_source == 1);
    own.map(|c| (c.name.as_str().to_owned(), c.value.unwrap().as_str().to_owned())).collect()
}

fn map(configs: &[(&str, &str)]) -> BTreeMap<String, String> {
    configs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// One resource of AlterConfigs, by its kind and name.
async fn replace(
    rig: &Rig,
    version: i16,
    (kind, name): (i8, &str),
    configs: &[(&str, Option<&str>)],
    validate_only: bool,
) -> i16 {
    use alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let mut resource = AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (kind, name.into());
    resource.configs = configs
        .iter()
        .map(|(name, value)| {
            let mut config = AlterableConfig::default();
            (config.name, config.value) = ((*name).into(), value.map(Into::into));
            config
        })
        .collect();
    let mut request = AlterConfigsRequest::default();
    (request.resources, request.validate_only) = (vec![resource], validate_only);
    let result = rig.call(version, request).await.responses.remove(0);
    assert_eq!((result.resource_type, result.resource_name.as_str()), (kind, name));
    assert_eq!(result.error_message.is_some(), result.error_code != 0);
    result.error_code
}

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// The same of IncrementalAlterConfigs.
async fn change(
    rig: &Rig,
    version: i16,
    (kind, name): (i8, &str),
    configs: &[(i8, &str, Option<&str>)],
    validate_only: bool,
) -> i16 {
    use incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
    let mut resource = AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (kind, name.into());
    resource.configs = configs
        .iter()
        .map(|(operation, name, value)| {
            let mut config = AlterableConfig::default();
            (config.name, config.value) = ((*name).into(), value.map(Into::into));
            config.config_operation = *operation;
            config
        })
        .collect();
    let mut request = IncrementalAlterConfigsRequest::default();
    (request.resources, request.validate_only) = (vec![resource], validate_only);
    let result = rig.call(version, request).await.responses.remove(0);
    assert_eq!((result.resource_type, result.resource_name.as_str()), (kind, name));
    result.error_code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_config_of_a_topic_is_described() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    let own = [("retention.ms", Some("5000"))];
    assert_eq!(replace(&rig, 0, (TOPIC, "t"), &own, false).await, 0);
    for version in 1..=4 {
        let result = describe(&rig, version, (TOPIC, "t"), None).await;
        assert_eq!((result.error_code, result.error_message), (0, None));
        assert_eq!(result.configs.len(), TABLE.len());
        for (config, row) in result.configs.iter().zip(TABLE) {
            let set = row.name == "retention.ms";
            assert_eq!(config.name.as_str(), row.name);
            let value = if set { "5000" } else { row.default };
            assert_eq!(config.value.as_ref().unwrap().as_str(), value);
            assert_eq!((config.config_source, config.read_only), (if set { 1 } else { 5 }, false));
            let said = |s: &crate::kafka::codec::messages::describe_configs_response::DescribeConfigsSynonym| {
                (s.value.as_ref().unwrap().as_str().to_owned(), s.source)
            };
            let synonyms: Vec<_> = config.synonyms.iter().map(said).collect();
            let default = (row.default.to_owned(), 5);
            let both = [("5000".to_owned(), 1), default.clone()];
            assert_eq!(synonyms, if set { both.to_vec() } else { vec![default] });
            let doc = config.documentation.as_ref().map(|doc| doc.as_str());
            assert_eq!(doc, Some(if version >= 3 { row.doc } else { "" }));
            let kind = match row.name {
                "cleanup.policy" => 7,
                "max.message.bytes" => 3,
                "retention.ms" => 5,
                "preallocate" => 1,
                "min.cleanable.dirty.ratio" => 6,
                "compression.type" => 2,
                _ => config.config_type,
            };
            assert_eq!(config.config_type, if version >= 3 { kind } else { 0 }, "{config:?}");
        }
        let some = describe(&rig, version, (TOPIC, "t"), Some(&["segment.ms", "no.such"])).await;
        assert_eq!(some.configs.len(), 1);
        let (none, all) = (
            describe(&rig, version, (TOPIC, "t"), Some(&[])).await.configs,
            describe(&rig, version, (TOPIC, "t"), None).await.configs,
        );
        assert_eq!(none, all, "as Kafka has it");
        let unknown = describe(&rig, version, (TOPIC, "u"), None).await;
        assert_eq!(unknown.error_code, Code::UNKNOWN_TOPIC_OR_PARTITION.0);
        let stranger = describe(&rig, version, (3, "t"), None).await;
        assert_eq!(stranger.error_code, Code::INVALID_REQUEST.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_says_of_itself_what_it_knows() {
    let rig =
        Rig::start_with(1, crate::kafka::Config { default_partitions: 7, ..Default::default() })
            .await;
    let me = rig.broker_id(0).0.to_string();
    for version in 1..=4 {
        let result = describe(&rig, version, (BROKER, &me), None).await;
        assert_eq!(result.error_code, 0);
        assert!(result.configs.iter().all(|config| config.read_only));
        let of = |name: &str| {
            let found = result.configs.iter().find(|c| c.name.as_str() == name).unwrap();
            (found.value.as_ref().unwrap().as_str(), found.config_source)
        };
        assert_eq!(of("broker.id"), (me.as_str(), 4));
        assert_eq!(of("num.partitions"), ("7", 4));
        assert_eq!(of("auto.create.topics.enable"), ("false", 5));
        assert_eq!(of("default.replication.factor"), ("3", 5));
        assert_eq!(describe(&rig, version, (BROKER, ""), None).await.configs, []);
        for other in ["999", "x"] {
            let result = describe(&rig, version, (BROKER, other), None).await;
            assert_eq!(result.error_code, Code::INVALID_REQUEST.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alter_configs_replaces_all() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    let long = "x".repeat(32_750);
    for version in 0..=2 {
        let t = (TOPIC, "t");
        let both = [("retention.ms", Some("1")), ("segment.ms", Some("700"))];
        assert_eq!(replace(&rig, version, t, &both, false).await, 0);
        assert_eq!(set_of(&rig, "t").await, map(&[("retention.ms", "1"), ("segment.ms", "700")]));
        let one = [("retention.bytes", Some("9"))];
        assert_eq!(replace(&rig, version, t, &one, true).await, 0);
        assert_eq!(set_of(&rig, "t").await.len(), 2, "it was to be validated only");
        assert_eq!(replace(&rig, version, t, &one, false).await, 0);
        assert_eq!(set_of(&rig, "t").await, map(&[("retention.bytes", "9")]));
        for check in [false, true] {
            let refused = [
                (t, vec![("no.such", Some("1"))], Code::INVALID_CONFIG),
                (t, vec![("retention.ms", Some("x"))], Code::INVALID_CONFIG),
                (t, vec![("retention.ms", None)], Code::INVALID_REQUEST),
                (t, vec![("flush.ms", Some("1")), ("flush.ms", Some("2"))], Code::INVALID_REQUEST),
                // What is quoted of it is cut: the oldest versions cannot say that much.
                (t, vec![(&long, Some("1"))], Code::INVALID_CONFIG),
                ((TOPIC, "u"), vec![], Code::UNKNOWN_TOPIC_OR_PARTITION),
                ((BROKER, "1"), vec![], Code::INVALID_REQUEST),
                ((9, "t"), vec![], Code::INVALID_REQUEST),
            ];
            for (resource, configs, code) in refused {
                let refused = replace(&rig, version, resource, &configs, check).await;
                assert_eq!(refused, code.0, "{resource:?} {configs:?}");
            }
        }
        let twice = {
            let mut resource = alter_configs_request::AlterConfigsResource::default();
            (resource.resource_type, resource.resource_name) = (TOPIC, "t".into());
            let mut request = AlterConfigsRequest::default();
            request.resources = vec![resource.clone(), resource];
            rig.call(version, request).await.responses
        };
        assert!(twice.iter().all(|answer| answer.error_code == Code::INVALID_REQUEST.0));
        assert_eq!(set_of(&rig, "t").await, map(&[("retention.bytes", "9")]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_are_changed_one_by_one() {
    let rig = Rig::start(1).await;
    rig.create("t", 1).await;
    let t = (TOPIC, "t");
    for version in 0..=1 {
        let both = [(SET, "retention.ms", Some("1")), (SET, "segment.ms", Some("700"))];
        assert_eq!(change(&rig, version, t, &both, false).await, 0);
        let mixed = [(DELETE, "retention.ms", None), (SET, "flush.ms", Some("3"))];
        assert_eq!(change(&rig, version, t, &mixed, true).await, 0);
        assert_eq!(set_of(&rig, "t").await, map(&[("retention.ms", "1"), ("segment.ms", "700")]));
        assert_eq!(change(&rig, version, t, &mixed, false).await, 0);
        assert_eq!(set_of(&rig, "t").await, map(&[("flush.ms", "3"), ("segment.ms", "700")]));
        let throttled = "follower.replication.throttled.replicas";
        for list in ["0:1,1:2", "1:2,2:3"] {
            assert_eq!(
                change(&rig, version, t, &[(APPEND, throttled, Some(list))], false).await,
                0
            );
        }
        assert_eq!(set_of(&rig, "t").await[throttled], "0:1,1:2,2:3");
        let some = [(SUBTRACT, throttled, Some("0:1,2:3"))];
        assert_eq!(change(&rig, version, t, &some, false).await, 0);
        assert_eq!(set_of(&rig, "t").await[throttled], "1:2");
        let policy = "cleanup.policy";
        assert_eq!(change(&rig, version, t, &[(APPEND, policy, Some("delete"))], false).await, 0);
        assert_eq!(set_of(&rig, "t").await[policy], "delete");
        let before = set_of(&rig, "t").await;
        for check in [false, true] {
            let refused = [
                // Both policies together are not supported, and none is no policy.
                (t, vec![(APPEND, policy, Some("compact"))], Code::INVALID_CONFIG),
                (t, vec![(SUBTRACT, policy, Some("delete"))], Code::INVALID_CONFIG),
                (t, vec![(APPEND, "retention.ms", Some("1"))], Code::INVALID_CONFIG),
                (t, vec![(SUBTRACT, "no.such", Some("1"))], Code::INVALID_CONFIG),
                (t, vec![(SET, "no.such", Some("1"))], Code::INVALID_CONFIG),
                (t, vec![(DELETE, "no.such", None)], Code::INVALID_CONFIG),
                (t, vec![(SET, "retention.ms", None)], Code::INVALID_REQUEST),
                (t, vec![(4, "retention.ms", Some("1"))], Code::INVALID_REQUEST),
                (
                    t,
                    vec![(SET, "flush.ms", Some("1")), (DELETE, "flush.ms", None)],
                    Code::INVALID_REQUEST,
                ),
                ((TOPIC, "u"), vec![], Code::UNKNOWN_TOPIC_OR_PARTITION),
                ((BROKER, "1"), vec![], Code::INVALID_REQUEST),
            ];
            for (resource, configs, code) in refused {
                let refused = change(&rig, version, resource, &configs, check).await;
                assert_eq!(refused, code.0, "{resource:?} {configs:?}");
            }
        }
        assert_eq!(set_of(&rig, "t").await, before);
        assert_eq!(replace(&rig, 0, t, &[], false).await, 0);
        assert_eq!(set_of(&rig, "t").await, map(&[]));
    }
}
