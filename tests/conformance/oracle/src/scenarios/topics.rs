//! Topics: made, given more partitions, deleted, and each of it refused.

use kafka_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsTopic,
};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, TopicName,
};

use crate::script::{NOBODY, Script, text, topic_name};

fn new(name: &str, partitions: i32, factor: i16) -> CreatableTopic {
    CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partitions)
        .with_replication_factor(factor)
}

fn config(name: &str, value: Option<&str>) -> CreatableTopicConfig {
    CreatableTopicConfig::default().with_name(text(name)).with_value(value.map(text))
}

fn create(topics: Vec<CreatableTopic>) -> CreateTopicsRequest {
    CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(30_000)
}

fn assigned(partition: i32, brokers: &[i32]) -> CreatableReplicaAssignment {
    CreatableReplicaAssignment::default()
        .with_partition_index(partition)
        .with_broker_ids(brokers.iter().map(|id| BrokerId(*id)).collect())
}

fn more(name: &str, count: i32) -> CreatePartitionsTopic {
    CreatePartitionsTopic::default()
        .with_name(topic_name(name))
        .with_count(count)
        .with_assignments(None)
}

fn grow(topics: Vec<CreatePartitionsTopic>) -> CreatePartitionsRequest {
    CreatePartitionsRequest::default().with_topics(topics).with_timeout_ms(30_000)
}

pub(super) fn play(script: &mut Script) {
    creation(script);
    refusals(script);
    growth(script);
    deletion(script);
}

fn creation(script: &mut Script) {
    for version in 2..=7 {
        let name = format!("topics-{version}");
        let request = create(vec![new(&name, 2, 1)]);
        script.ask(&format!("create {name}"), version, &request);
        script.ask(&format!("create {name} again"), version, &request);
        let checked = create(vec![new(&format!("{name}-checked"), 1, 1)]).with_validate_only(true);
        script.ask(&format!("only validate {name}"), version, &checked);
    }
    let defaults = create(vec![new("topics-defaults", -1, -1)]);
    script.ask("create with defaults", 4, &defaults);
    script.ask("create nothing", 4, &create(vec![]));
}

fn refusals(script: &mut Script) {
    let long = "x".repeat(250);
    let names = [
        ("empty", ""),
        ("dot", "."),
        ("two dots", ".."),
        ("with a space", "a b"),
        ("with a slash", "a/b"),
        ("of 250 characters", long.as_str()),
    ];
    for (what, name) in names {
        script.ask(&format!("a name: {what}"), 4, &create(vec![new(name, 1, 1)]));
    }
    for partitions in [0, -2] {
        let request = create(vec![new("topics-bad", partitions, 1)]);
        script.ask(&format!("{partitions} partitions"), 4, &request);
    }
    for factor in [0, -2, 3] {
        let request = create(vec![new("topics-bad", 1, factor)]);
        script.ask(&format!("replication factor {factor}"), 4, &request);
    }
    let bad = |config| create(vec![new("topics-bad", 1, 1).with_configs(vec![config])]);
    script.ask("an unknown config", 4, &bad(config("no.such.config", Some("1"))));
    script.ask("a config that is no number", 4, &bad(config("retention.ms", Some("long"))));
    script.ask("a config out of range", 4, &bad(config("max.message.bytes", Some("-5"))));
    script.ask("a config without value", 4, &bad(config("retention.ms", None)));
    script.ask("a policy that is none", 4, &bad(config("cleanup.policy", Some("burn"))));
    let twice = create(vec![new("topics-twice", 1, 1), new("topics-twice", 1, 1)]);
    script.ask("one topic twice", 4, &twice);
    let both = new("topics-bad", 1, 1).with_assignments(vec![assigned(0, &[1])]);
    script.ask("assignments and numbers", 4, &create(vec![both]));
    let gap = new("topics-bad", -1, -1).with_assignments(vec![assigned(1, &[1])]);
    script.ask("assignments with a gap", 4, &create(vec![gap]));
    let nobody = new("topics-bad", -1, -1).with_assignments(vec![assigned(0, &[])]);
    script.ask("assignments without brokers", 4, &create(vec![nobody]));
    script.topic("topics.collide", 1, &[]);
    let collides = create(vec![new("topics_collide", 1, 1)]);
    script.ask("a name that collides", 4, &collides);
    let mixed = create(vec![new("topics-good", 1, 1), new("..", 1, 1)]);
    script.ask("one good, one bad", 4, &mixed);
}

fn growth(script: &mut Script) {
    for version in 0..=3 {
        let name = format!("topics-grow-{version}");
        script.topic(&name, 1, &[]);
        script.ask(&format!("grow, {version}"), version, &grow(vec![more(&name, 2)]));
        script.wait_led(&name, 2);
        script.ask(&format!("grow to as many, {version}"), version, &grow(vec![more(&name, 2)]));
        script.ask(&format!("shrink, {version}"), version, &grow(vec![more(&name, 1)]));
        script.ask(&format!("grow to none, {version}"), version, &grow(vec![more(&name, 0)]));
        script.ask(
            &format!("grow to less than none, {version}"),
            version,
            &grow(vec![more(&name, -1)]),
        );
        script.ask("grow what is not there", version, &grow(vec![more("topics-nothing", 3)]));
        let checked = grow(vec![more(&name, 20)]).with_validate_only(true);
        script.ask(&format!("only validate growth, {version}"), version, &checked);
        let one = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
        let by_hand = more(&name, 20).with_assignments(Some(vec![one]));
        script.ask(
            &format!("grow with too few assignments, {version}"),
            version,
            &grow(vec![by_hand]),
        );
        let twice = grow(vec![more(&name, 3), more(&name, 4)]);
        script.ask(&format!("grow one topic twice, {version}"), version, &twice);
    }
}

fn named(version: i16, names: &[&str]) -> DeleteTopicsRequest {
    let names: Vec<TopicName> = names.iter().map(|name| topic_name(name)).collect();
    let request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
    if version < 6 {
        return request.with_topic_names(names);
    }
    let state = |name| DeleteTopicState::default().with_name(Some(name));
    request.with_topics(names.into_iter().map(state).collect())
}

fn deletion(script: &mut Script) {
    for version in 1..=6 {
        let name = format!("topics-delete-{version}");
        script.topic(&name, 1, &[]);
        // Its name would make the answers of versions differ.
        let known = script.quietly(version, &named(version, &[&name]));
        assert_eq!(known.responses[0].error_code, 0, "{known:?}");
        script.ask("delete what is not there", version, &named(version, &["topics-nothing"]));
        script.ask("delete without a name", version, &named(version, &[""]));
        script.ask("delete nothing", version, &named(version, &[]));
        script.topic("topics-again", 1, &[]);
        let twice = named(version, &["topics-again", "topics-again"]);
        script.ask("delete twice", version, &twice);
        script.quietly(version, &named(version, &["topics-again"]));
    }
    let by =
        |state| DeleteTopicsRequest::default().with_timeout_ms(30_000).with_topics(vec![state]);
    let unknown = DeleteTopicState::default().with_name(None);
    script.ask("delete by no id", 6, &by(unknown.clone()));
    let mut state = unknown;
    state.topic_id = NOBODY;
    script.ask("delete by an unknown id", 6, &by(state.clone()));
    state.name = Some(topic_name("topics-good"));
    script.ask("delete by name and id", 6, &by(state));
}
