//! What the page says that answers always say, they say, and nothing else that is told of a cluster is always the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use geminga_records::{Builder, Compression, Record};

use crate::kafka::api::{Api, TABLE, find};
use crate::kafka::codec::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::describe_producers_request::TopicRequest;
use crate::kafka::codec::messages::elect_leaders_request::TopicPartitions;
use crate::kafka::codec::messages::join_group_request::JoinGroupRequestProtocol;
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::sync_group_request::SyncGroupRequestAssignment;
use crate::kafka::codec::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, ElectLeadersRequest, FindCoordinatorRequest, JoinGroupRequest,
    KafkaMessage, ListGroupsRequest, ListPartitionReassignmentsRequest, MetadataRequest,
    RequestResponsePair, SyncGroupRequest, describe_topic_partitions_request,
};
use crate::kafka::testing::Rig;
use crate::topics::{Alteration, NewTopic};

/// What something stands behind, and these states do not change it: API (or `*`), field, why.
const UNVARIED: &[(&str, &str, &str)] = &[
    ("*", "fields", "nobody sent tags that are not known"),
    ("*", "host", "all brokers are on one machine"),
    ("*", "rack", "no broker names a zone"),
    ("*", "leader_epoch", "nothing is moved"),
    ("*", "offline_replicas", "no owner lacks the listener"),
    ("CreateTopics", "topic_id", "topics that are only checked have none"),
    ("CreateTopics", "topic_config_error_code", "of more than a thousand topics"),
    ("DescribeGroups", "client_host", "there is one client"),
    ("DescribeGroups", "client_id", "there is one client"),
    ("DescribeLogDirs", "error_code", "storage is there"),
    ("DescribeLogDirs", "is_cordoned", "not said in a version that is served"),
    ("ListGroups", "error_code", "nothing is taken over"),
    ("Metadata", "controller_id", "one broker is elected"),
];

/// Of what is not there, or not asked for.
const NOT_SAID: &str = "-2147483648";

/// By API and field: what was said under its name, wherever in an answer that is.
#[derive(Debug, Default)]
struct Told(BTreeMap<(&'static str, String), BTreeSet<String>>);

impl Told {
    async fn ask<R: RequestResponsePair + Clone>(
        &mut self,
        (rig, node): (&Rig, usize),
        version: i16,
        request: R,
    ) where
        R::Response: KafkaMessage + Debug,
    {
        let answer = rig.call_at(node, version, request.clone()).await;
        self.add(R::API_KEY.value(), &answer);
        // Who owes something is told so.
        let answer = rig.call_owing(version, request, Duration::from_secs(1)).await;
        self.add(R::API_KEY.value(), &answer);
    }

    fn add(&mut self, key: i16, answer: &impl Debug) {
        let api = find(key).expect("it is served").name();
        for (field, value) in fields(&format!("{answer:?}")) {
            self.0.entry((api, field)).or_default().insert(value);
        }
    }
}

/// Each `name: value` of what the derived `Debug` says; what has names inside is told by these, and is `some`.
fn fields(shown: &str) -> Vec<(String, String)> {
    let (mut plain, mut quoted, mut escaped) = (String::new(), false, false);
    for letter in shown.chars() {
        let end = letter == '"' && !escaped;
        quoted ^= end;
        escaped = letter == '\\' && !escaped;
        let word = !quoted || !" ,:()[]{}".contains(letter);
        plain.push(if word { letter } else { '_' });
    }
    let plain = plain.replace("StrBytes(b\"", "").replace("\")", "").replace("Some(", "");
    let mut found = Vec::new();
    for (at, _) in plain.match_indices(": ") {
        let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        let name = plain[..at].rsplit(|letter| !is_name(letter)).next().unwrap_or_default();
        let value = &plain[at + 2..];
        let end = match value.strip_prefix('[') {
            Some(list) => 1 + list.find(']').map_or(list.len(), |end| end + 1),
            None => value.find([',', ' ', ')']).unwrap_or(value.len()),
        };
        let has_names = value[..end].contains(": ") || value[end..].starts_with(" {");
        let value = if has_names { "some" } else { &value[..end] };
        found.push((name.to_owned(), value.to_owned()));
    }
    found
}

#[test]
fn fields_are_found_in_what_is_shown() {
    let shown = r#"A { n: 1, b: [B { s: StrBytes(b"x: y, z"), l: [1, 2] }], o: Some(3), e: [], t: T { x: () } }"#;
    let found = fields(shown);
    let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let expected = [
        ("n", "1"),
        ("b", "some"),
        ("s", "x__y__z"),
        ("l", "[1, 2]"),
        ("o", "3"),
        ("e", "[]"),
        ("t", "some"),
        ("x", "("),
    ];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_advertised_is_said_by_every_answer_and_nothing_else_is() {
    let mut told = Told::default();
    let one = Rig::start(1).await;
    one.create("t", 1).await;
    ask(&mut told, (&one, 0)).await;
    change(&one).await;
    ask(&mut told, (&one, 0)).await;
    let two = Rig::start(2).await;
    two.create("t", 3).await;
    for node in 0..2 {
        ask(&mut told, (&two, node)).await;
    }
    let mut wrong = Vec::new();
    for api in TABLE {
        for (field, value) in api.constants {
            let said = told.0.get(&(api.name(), (*field).to_owned()));
            let said = said.into_iter().flatten().filter(|said| *said != NOT_SAID);
            let said: Vec<_> = said.collect();
            if said != [*value] {
                wrong.push(format!("{} {field} is listed as {value}: {said:?}", api.name()));
            }
        }
    }
    let mut needed = BTreeSet::new();
    for ((api, field), said) in told.0.iter().filter(|(_, said)| said.len() == 1) {
        if said.contains("some") || field == "unknown_tagged_fields" {
            continue;
        }
        let listed = find_by_name(api).constants.iter().any(|(name, _)| name == field);
        let excused =
            UNVARIED.iter().position(|(of, name, _)| (*of == "*" || of == api) && name == field);
        match excused {
            Some(excused) if !listed => _ = needed.insert(excused),
            _ if listed => {}
            _ => wrong.push(format!(
                "{api} {field} is always {said:?}: list it, or say what stands behind it"
            )),
        }
    }
    let idle = UNVARIED.iter().enumerate().filter(|(n, _)| !needed.contains(n));
    wrong.extend(idle.map(|(_, row)| format!("it does change: {row:?}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn find_by_name(name: &str) -> &'static Api {
    TABLE.iter().find(|api| api.name() == name).expect("it is in the table")
}

/// Records of a producer, configs, and a group at work.
async fn change(rig: &Rig) {
    let topic = rig.context(0).router.topology().topic("t").expect("it was made");
    rig.append(&topic, 0, &["a"]).await;
    for (id, epoch, sequence) in [(4, 0, 0), (4, 0, 1), (5, 1, 0)] {
        let mut builder = Builder::new(Compression::None).producer(id, epoch, sequence);
        builder.push(&Record { timestamp: 10 * id, ..Record::default() }).unwrap();
        rig.append_batch(&topic, 0, builder.finish().unwrap()).await;
    }
    let set = [("retention.ms".to_owned(), "86400000".to_owned())].into();
    rig.context(0).admin.alter("t", Alteration { set, ..Alteration::default() }).await.unwrap();
    let more = NewTopic {
        name: "u".to_owned(),
        partitions: 2,
        replication_factor: Some(1),
        ..NewTopic::default()
    };
    rig.context(0).admin.create(more).await.unwrap();
    for (group, kind, what) in [("g", "consumer", "one"), ("h", "connect", "another")] {
        joined(rig, group, kind, what).await;
    }
}

/// The one member of a group, which wants `what`; only that of `g` gets it.
async fn joined(rig: &Rig, group: &str, kind: &str, what: &'static str) {
    let what = Bytes::from_static(what.as_bytes());
    let mut protocol = JoinGroupRequestProtocol::default();
    (protocol.name, protocol.metadata) = ("range".into(), what.clone());
    let mut request = JoinGroupRequest::default();
    (request.group_id, request.protocol_type) = (group.into(), kind.into());
    (request.session_timeout_ms, request.rebalance_timeout_ms) = (10_000, 10_000);
    (request.group_instance_id, request.protocols) = (Some(group.into()), vec![protocol]);
    let joined = rig.call(5, request).await;
    if group == "g" {
        let mut assignment = SyncGroupRequestAssignment::default();
        (assignment.member_id, assignment.assignment) = (joined.member_id.clone(), what);
        let mut request = SyncGroupRequest::default();
        (request.group_id, request.generation_id) = (group.into(), joined.generation_id);
        (request.member_id, request.assignments) = (joined.member_id, vec![assignment]);
        assert_eq!(rig.call(1, request).await.error_code, 0);
    }
}

/// What there is, what there is not, and what cannot be meant.
async fn ask(told: &mut Told, at: (&Rig, usize)) {
    ask_of_topics(told, at).await;

    let mut request = DescribeGroupsRequest::default();
    request.groups = vec!["g".into(), "h".into(), "nowhere".into()];
    request.include_authorized_operations = true;
    told.ask(at, 6, request).await;
    told.ask(at, 5, ListGroupsRequest::default()).await;

    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = ["g", "h", ""].map(Into::into).into();
    told.ask(at, 6, request).await;

    let mut request = ApiVersionsRequest::default();
    (request.client_software_name, request.client_software_version) = ("test".into(), "1".into());
    told.ask(at, 4, request.clone()).await;
    request.client_software_name = "no name".into();
    told.ask(at, 4, request).await;

    for endpoint_type in [1, 2] {
        let mut request = DescribeClusterRequest::default();
        request.include_cluster_authorized_operations = true;
        request.endpoint_type = endpoint_type;
        told.ask(at, 2, request).await;
    }
}

async fn ask_of_topics(told: &mut Told, at: (&Rig, usize)) {
    let mut nothing = MetadataRequestTopic::default();
    nothing.name = Some("nothing".into());
    for topics in [None, Some(vec![nothing])] {
        let mut request = MetadataRequest::default();
        (request.topics, request.include_topic_authorized_operations) = (topics, true);
        request.include_cluster_authorized_operations = true;
        told.ask(at, 10, request).await;
    }

    let mut request = CreateTopicsRequest::default();
    let new = |name: &str, partitions: i32| {
        let mut new = CreatableTopic::default();
        (new.name, new.num_partitions, new.replication_factor) = (name.into(), partitions, -1);
        new
    };
    let mut set = CreatableTopicConfig::default();
    (set.name, set.value) = ("retention.ms".into(), Some("5".into()));
    let mut other = new("newer", 2);
    other.configs = vec![set];
    request.topics = vec![new("new", 1), other, new("t", 1)];
    request.validate_only = true;
    told.ask(at, 7, request).await;

    let broker = at.0.broker_id(at.1).0.to_string();
    let mut request = DescribeConfigsRequest::default();
    let resource = |kind: i8, name: &str| {
        let mut resource = DescribeConfigsResource::default();
        (resource.resource_type, resource.resource_name) = (kind, name.into());
        resource.configuration_keys = None;
        resource
    };
    request.resources = vec![resource(2, "t"), resource(2, "nothing"), resource(4, &broker)];
    (request.include_synonyms, request.include_documentation) = (true, true);
    told.ask(at, 4, request).await;

    let mut request = DescribeLogDirsRequest::default();
    request.topics = None;
    told.ask(at, 4, request).await;

    let mut request = ListPartitionReassignmentsRequest::default();
    request.topics = None;
    told.ask(at, 0, request).await;

    let mut request = DescribeProducersRequest::default();
    let of = |name: &str| {
        let mut of = TopicRequest::default();
        (of.name, of.partition_indexes) = (name.into(), vec![0, 9]);
        of
    };
    request.topics = vec![of("t"), of("u")];
    told.ask(at, 0, request).await;

    let mut request = DescribeTopicPartitionsRequest::default();
    let topic = |name: &str| {
        let mut topic = describe_topic_partitions_request::TopicRequest::default();
        topic.name = name.into();
        topic
    };
    request.topics = vec![topic("t"), topic("u"), topic("nothing")];
    for limit in [1, 2, 10] {
        request.response_partition_limit = limit;
        told.ask(at, 0, request.clone()).await;
    }

    let mut request = ElectLeadersRequest::default();
    let of = |name: &str| {
        let mut of = TopicPartitions::default();
        (of.topic, of.partitions) = (name.into(), vec![0, 9]);
        of
    };
    request.topic_partitions = Some(vec![of("t"), of("u")]);
    told.ask(at, 2, request.clone()).await;
    request.election_type = 7;
    told.ask(at, 2, request).await;
}
