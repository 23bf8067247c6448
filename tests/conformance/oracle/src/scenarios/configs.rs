//! Configs: described, and altered in both ways, or refused.

use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    alter_configs_request as alter, incremental_alter_configs_request as incremental,
};

use crate::script::{Script, text};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn resource(kind: i8, name: &str, keys: Option<&[&str]>) -> DescribeConfigsResource {
    DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()))
}

fn describe(resource: DescribeConfigsResource) -> DescribeConfigsRequest {
    DescribeConfigsRequest::default().with_resources(vec![resource])
}

fn increment(
    kind: i8,
    name: &str,
    changes: &[(i8, &str, Option<&str>)],
) -> IncrementalAlterConfigsRequest {
    let config = |(operation, name, value): &(i8, &str, Option<&str>)| {
        incremental::AlterableConfig::default()
            .with_name(text(name))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    let resource = incremental::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(changes.iter().map(config).collect());
    IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
}

fn replace(kind: i8, name: &str, configs: &[(&str, Option<&str>)]) -> AlterConfigsRequest {
    let config = |(name, value): &(&str, Option<&str>)| {
        alter::AlterableConfig::default().with_name(text(name)).with_value(value.map(text))
    };
    let resource = alter::AlterConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(text(name))
        .with_configs(configs.iter().map(config).collect());
    AlterConfigsRequest::default().with_resources(vec![resource])
}

/// What tools look for, with the value that a topic has for itself and those that it has not.
const KEYS: &[&str] = &[
    "cleanup.policy",
    "compression.type",
    "delete.retention.ms",
    "max.message.bytes",
    "message.timestamp.type",
    "min.cleanable.dirty.ratio",
    "preallocate",
    "retention.bytes",
    "retention.ms",
    "segment.bytes",
];

pub(super) fn play(script: &mut Script) {
    script.topic("configs", 1, &[("retention.ms", "86400000")]);
    for version in 1..=4 {
        let plain = describe(resource(TOPIC, "configs", Some(KEYS)));
        script.ask("described", version, &plain);
        script.ask("with synonyms", version, &plain.with_include_synonyms(true));
        let unknown = describe(resource(TOPIC, "configs", Some(&["no.such.config"])));
        script.ask("an unknown config", version, &unknown);
        script.ask("no configs", version, &describe(resource(TOPIC, "configs", Some(&[]))));
        let nothing = describe(resource(TOPIC, "configs-nothing", Some(KEYS)));
        script.ask("an unknown topic", version, &nothing);
        script.ask("a bad topic", version, &describe(resource(TOPIC, "a b", Some(KEYS))));
        script.ask("no topic", version, &describe(resource(TOPIC, "", Some(KEYS))));
        script.ask("of what has none", version, &describe(resource(3, "configs", Some(&[]))));
        let broker = describe(resource(BROKER, "999999", Some(&["num.partitions"])));
        script.ask("of a broker that is not there", version, &broker);
        let broker = describe(resource(BROKER, "x", Some(&["num.partitions"])));
        script.ask("of a broker without a number", version, &broker);
    }
    for version in 0..=1 {
        increments(script, version);
    }
    for version in 0..=2 {
        replacements(script, version);
    }
}

fn increments(script: &mut Script, version: i16) {
    let mut of = |what: &str, kind: i8, name: &str, changes: &[(i8, &str, Option<&str>)]| {
        script.ask(&format!("increment: {what}"), version, &increment(kind, name, changes));
    };
    of("set", TOPIC, "configs", &[(SET, "segment.ms", Some("700000"))]);
    of("delete", TOPIC, "configs", &[(DELETE, "segment.ms", None)]);
    of("delete what is not set", TOPIC, "configs", &[(DELETE, "segment.ms", None)]);
    of("append to what is no list", TOPIC, "configs", &[(APPEND, "retention.ms", Some("1"))]);
    of("subtract from no list", TOPIC, "configs", &[(SUBTRACT, "retention.ms", Some("1"))]);
    of("append what is there", TOPIC, "configs", &[(APPEND, "cleanup.policy", Some("delete"))]);
    of("append what is none", TOPIC, "configs", &[(APPEND, "cleanup.policy", Some("burn"))]);
    of("set without a value", TOPIC, "configs", &[(SET, "segment.ms", None)]);
    of("append without a value", TOPIC, "configs", &[(APPEND, "cleanup.policy", None)]);
    of("unknown", TOPIC, "configs", &[(SET, "no.such.config", Some("1"))]);
    of("delete unknown", TOPIC, "configs", &[(DELETE, "no.such.config", None)]);
    of("no number", TOPIC, "configs", &[(SET, "retention.ms", Some("long"))]);
    of("out of range", TOPIC, "configs", &[(SET, "max.message.bytes", Some("-1"))]);
    let twice = [(SET, "segment.ms", Some("700000")), (SET, "segment.ms", Some("800000"))];
    of("one twice", TOPIC, "configs", &twice);
    of("an operation that is none", TOPIC, "configs", &[(9, "segment.ms", Some("1"))]);
    of("an unknown topic", TOPIC, "configs-nothing", &[(SET, "segment.ms", Some("700000"))]);
    of("no topic", TOPIC, "", &[(SET, "segment.ms", Some("700000"))]);
    of("nothing", TOPIC, "configs", &[]);
    of("of what has none", 3, "configs", &[(SET, "segment.ms", Some("700000"))]);
    let one = increment(TOPIC, "configs", &[(SET, "segment.ms", Some("700000"))]);
    script.ask("increment: only validate", version, &one.clone().with_validate_only(true));
    let two = one.clone().with_resources([one.resources.clone(), one.resources].concat());
    script.ask("increment: one topic twice", version, &two);
    let after = describe(resource(TOPIC, "configs", Some(&["segment.ms", "cleanup.policy"])));
    script.ask(&format!("after increments {version}"), 4, &after);
}

fn replacements(script: &mut Script, version: i16) {
    let mut of = |what: &str, kind: i8, name: &str, configs: &[(&str, Option<&str>)]| {
        script.ask(&format!("replace: {what}"), version, &replace(kind, name, configs));
    };
    of("unknown", TOPIC, "configs", &[("no.such.config", Some("1"))]);
    of("no number", TOPIC, "configs", &[("retention.ms", Some("long"))]);
    of("without a value", TOPIC, "configs", &[("retention.ms", None)]);
    of("an unknown topic", TOPIC, "configs-nothing", &[("retention.ms", Some("1"))]);
    of("of what has none", 3, "configs", &[("retention.ms", Some("1"))]);
    let twice = [("segment.ms", Some("700000")), ("segment.ms", Some("800000"))];
    of("one twice", TOPIC, "configs", &twice);
    of("by one", TOPIC, "configs", &[("segment.ms", Some("700000"))]);
    let one = replace(TOPIC, "configs", &[("segment.ms", Some("900000"))]);
    script.ask("replace: only validate", version, &one.with_validate_only(true));
    let after = describe(resource(TOPIC, "configs", Some(&["segment.ms", "retention.ms"])));
    script.ask(&format!("after replacements {version}"), 4, &after);
}
