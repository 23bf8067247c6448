//! What the page says that answers always say, they say.

use std::collections::BTreeSet;
use std::fmt::Debug;

use geminga_records::{Builder, Compression, Record};

use crate::kafka::api::{TABLE, find};
use crate::kafka::codec::messages::create_topics_request::CreatableTopic;
use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::describe_producers_request::TopicRequest;
use crate::kafka::codec::messages::{
    ApiVersionsRequest, CreateTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest,
    DescribeGroupsRequest, DescribeLogDirsRequest, DescribeProducersRequest,
    DescribeTopicPartitionsRequest, KafkaMessage, ListPartitionReassignmentsRequest,
    MetadataRequest, RequestResponsePair,
};
use crate::kafka::testing::Rig;

/// The constants of an API, in an answer that has all of them.
struct Said<'a>(&'a Rig, BTreeSet<i16>);

impl Said<'_> {
    async fn always<R: RequestResponsePair>(&mut self, version: i16, request: R)
    where
        R::Response: KafkaMessage + Debug,
    {
        let key = R::API_KEY.value();
        let answer = format!("{:?}", self.0.call(version, request).await);
        let answer = answer.replace("Some([])", "[]");
        for (field, value) in find(key).expect("it is served").constants {
            let field = format!(" {field}: ");
            assert!(answer.contains(&field), "no{field}in {answer}");
            for says in answer.split(&field).skip(1) {
                let end = says.find([',', ' ']).unwrap_or(says.len());
                assert_eq!(&says[..end], *value, "{field}in {answer}");
            }
        }
        self.1.insert(key);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_advertised_is_said_by_every_answer() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 1).await;
    let mut builder = Builder::new(Compression::None).producer(4, 0, 0);
    builder.push(&Record { timestamp: -1, ..Record::default() }).unwrap();
    rig.append_batch(&topic, 0, builder.finish().unwrap()).await;
    let mut said = Said(&rig, BTreeSet::new());

    let mut request = MetadataRequest::default();
    (request.topics, request.include_topic_authorized_operations) = (None, true);
    request.include_cluster_authorized_operations = true;
    said.always(10, request).await;

    let mut request = DescribeGroupsRequest::default();
    (request.groups, request.include_authorized_operations) = (vec!["g".into()], true);
    said.always(6, request).await;

    let mut request = ApiVersionsRequest::default();
    (request.client_software_name, request.client_software_version) = ("test".into(), "1".into());
    said.always(4, request).await;

    let mut request = CreateTopicsRequest::default();
    let mut new = CreatableTopic::default();
    (new.name, new.num_partitions, new.replication_factor) = ("new".into(), 1, -1);
    (request.topics, request.validate_only) = (vec![new], true);
    said.always(7, request).await;

    let mut request = DescribeConfigsRequest::default();
    let mut resource = DescribeConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (2, "t".into());
    request.resources = vec![resource];
    said.always(4, request).await;

    let mut request = DescribeLogDirsRequest::default();
    request.topics = None;
    said.always(4, request).await;

    let mut request = ListPartitionReassignmentsRequest::default();
    request.topics = None;
    said.always(0, request).await;

    let mut request = DescribeClusterRequest::default();
    request.include_cluster_authorized_operations = true;
    said.always(2, request).await;

    let mut request = DescribeProducersRequest::default();
    let mut of = TopicRequest::default();
    (of.name, of.partition_indexes) = ("t".into(), vec![0]);
    request.topics = vec![of];
    said.always(0, request).await;

    let mut request = DescribeTopicPartitionsRequest::default();
    request.response_partition_limit = 10;
    said.always(0, request).await;

    let advertised = TABLE.iter().filter(|api| !api.constants.is_empty());
    assert_eq!(said.1, advertised.map(|api| api.key).collect(), "ask each of them above");
}
