//! Every API is asked in every version that the table has, and every answer is read by a second codec ([`Rig::call`]).

use std::collections::BTreeSet;

use bytes::Bytes;
use geminga_records::{Builder, Compression, Record};

use crate::kafka::api::{find, served};
use crate::kafka::codec::messages::create_topics_request::CreatableTopic;
use crate::kafka::codec::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use crate::kafka::codec::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::kafka::codec::messages::join_group_request::JoinGroupRequestProtocol;
use crate::kafka::codec::messages::leave_group_request::MemberIdentity;
use crate::kafka::codec::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::kafka::codec::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::kafka::codec::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::kafka::codec::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use crate::kafka::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::kafka::codec::messages::{
    AlterConfigsRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest,
    DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, DescribeLogDirsRequest,
    DescribeProducersRequest, DescribeTopicPartitionsRequest, ElectLeadersRequest, FetchRequest,
    FindCoordinatorRequest, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, KafkaMessage, LeaveGroupRequest, ListGroupsRequest,
    ListOffsetsRequest, ListPartitionReassignmentsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest,
    RequestResponsePair, SyncGroupRequest, Uuid, alter_configs_request, create_partitions_request,
    delete_topics_request, describe_producers_request, describe_topic_partitions_request,
    elect_leaders_request, incremental_alter_configs_request,
};
use crate::kafka::place::uuid;
use crate::kafka::testing::Rig;

const TOPIC: &str = "t";
const GROUP: &str = "g";

/// What was asked so far: key and version.
struct Asked<'a> {
    rig: &'a Rig,
    seen: BTreeSet<(i16, i16)>,
}

impl Asked<'_> {
    /// Asks an API in each of its versions.
    async fn each<R: RequestResponsePair>(&mut self, request: impl Fn(i16) -> R)
    where
        R::Response: KafkaMessage,
    {
        let key = R::API_KEY.value();
        for version in find(key).expect("it is served").versions() {
            let _read_twice = self.rig.call(version, request(version)).await;
            self.seen.insert((key, version));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_read_by_another_codec_in_every_version() {
    let rig = Rig::start(1).await;
    let topic = rig.create(TOPIC, 1).await;
    rig.append(&topic, 0, &["a", "b"]).await;
    let mut asked = Asked { rig: &rig, seen: BTreeSet::new() };
    records(&mut asked, uuid(topic.id)).await;
    groups(&mut asked).await;
    cluster(&mut asked).await;
    topics(&mut asked).await;
    configs(&mut asked).await;
    let table = served().flat_map(|(key, versions)| versions.map(move |version| (key, version)));
    assert_eq!(asked.seen, table.collect(), "ask each of them above");
}

async fn records(asked: &mut Asked<'_>, id: Uuid) {
    let mut builder = Builder::new(Compression::None);
    let value = Some(Bytes::from_static(b"c"));
    builder.push(&Record { timestamp: -1, value, ..Record::default() }).unwrap();
    let batch = builder.finish().unwrap().into_bytes();
    asked
        .each(|_| {
            let mut partition = PartitionProduceData::default();
            partition.records = Some(batch.clone());
            let mut topic = TopicProduceData::default();
            (topic.name, topic.partition_data) = (TOPIC.into(), vec![partition]);
            let mut request = ProduceRequest::default();
            (request.acks, request.timeout_ms, request.topic_data) = (-1, 10_000, vec![topic]);
            request
        })
        .await;
    asked
        .each(|version| {
            let mut partition = FetchPartition::default();
            (partition.fetch_offset, partition.partition_max_bytes) = (0, 1 << 20);
            (partition.current_leader_epoch, partition.log_start_offset) = (-1, -1);
            let mut topic = FetchTopic::default();
            match version < 13 {
                true => topic.topic = TOPIC.into(),
                false => topic.topic_id = id,
            }
            topic.partitions = vec![partition];
            let mut request = FetchRequest::default();
            (request.replica_id, request.session_epoch) = (-1, -1);
            (request.max_bytes, request.topics) = (1 << 20, vec![topic]);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut partition = ListOffsetsPartition::default();
            (partition.timestamp, partition.current_leader_epoch) = (-1, -1);
            let mut topic = ListOffsetsTopic::default();
            (topic.name, topic.partitions) = (TOPIC.into(), vec![partition]);
            let mut request = ListOffsetsRequest::default();
            (request.replica_id, request.topics) = (-1, vec![topic]);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut partition = OffsetForLeaderPartition::default();
            (partition.current_leader_epoch, partition.leader_epoch) = (-1, 1);
            let mut topic = OffsetForLeaderTopic::default();
            (topic.topic, topic.partitions) = (TOPIC.into(), vec![partition]);
            let mut request = OffsetForLeaderEpochRequest::default();
            (request.replica_id, request.topics) = (-1, vec![topic]);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut partition = DeleteRecordsPartition::default();
            partition.offset = 1;
            let mut topic = DeleteRecordsTopic::default();
            (topic.name, topic.partitions) = (TOPIC.into(), vec![partition]);
            let mut request = DeleteRecordsRequest::default();
            (request.topics, request.timeout_ms) = (vec![topic], 10_000);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut request = InitProducerIdRequest::default();
            (request.producer_id, request.producer_epoch) = (-1, -1);
            request.transactional_id = None;
            request
        })
        .await;
    asked
        .each(|_| {
            let mut topic = describe_producers_request::TopicRequest::default();
            (topic.name, topic.partition_indexes) = (TOPIC.into(), vec![0]);
            let mut request = DescribeProducersRequest::default();
            request.topics = vec![topic];
            request
        })
        .await;
}

async fn groups(asked: &mut Asked<'_>) {
    asked
        .each(|version| {
            let mut request = FindCoordinatorRequest::default();
            match version >= 4 {
                true => request.coordinator_keys = vec![GROUP.into()],
                false => request.key = GROUP.into(),
            }
            request
        })
        .await;
    asked
        .each(|version| {
            let mut protocol = JoinGroupRequestProtocol::default();
            (protocol.name, protocol.metadata) = ("range".into(), Bytes::from_static(b"all"));
            let mut request = JoinGroupRequest::default();
            request.group_id = format!("{GROUP}-{version}").as_str().into();
            (request.protocol_type, request.protocols) = ("consumer".into(), vec![protocol]);
            request.session_timeout_ms = 10_000;
            request.rebalance_timeout_ms = if version > 0 { 10_000 } else { -1 };
            request
        })
        .await;
    asked
        .each(|_| {
            let mut request = SyncGroupRequest::default();
            (request.group_id, request.member_id) = (GROUP.into(), "nobody".into());
            (request.protocol_type, request.protocol_name) = (None, None);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut request = HeartbeatRequest::default();
            (request.group_id, request.member_id) = (GROUP.into(), "nobody".into());
            request
        })
        .await;
    asked
        .each(|version| {
            let mut request = LeaveGroupRequest::default();
            request.group_id = GROUP.into();
            match version < 3 {
                true => request.member_id = "nobody".into(),
                false => {
                    let mut member = MemberIdentity::default();
                    member.member_id = "nobody".into();
                    request.members = vec![member];
                }
            }
            request
        })
        .await;
    offsets(asked).await;
    asked
        .each(|_| {
            let mut request = DescribeGroupsRequest::default();
            // One that has a member, one that has none, one that is not there.
            request.groups = ["g-0", GROUP, "nowhere"].map(Into::into).into();
            request
        })
        .await;
    asked.each(|_| ListGroupsRequest::default()).await;
    asked
        .each(|_| {
            let mut topic = OffsetDeleteRequestTopic::default();
            let partition = OffsetDeleteRequestPartition::default();
            (topic.name, topic.partitions) = (TOPIC.into(), vec![partition]);
            let mut request = OffsetDeleteRequest::default();
            (request.group_id, request.topics) = (GROUP.into(), vec![topic]);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut request = DeleteGroupsRequest::default();
            request.groups_names = [GROUP, "g-0"].map(Into::into).into();
            request
        })
        .await;
}

async fn offsets(asked: &mut Asked<'_>) {
    asked
        .each(|_| {
            let mut partition = OffsetCommitRequestPartition::default();
            (partition.committed_offset, partition.committed_leader_epoch) = (1, -1);
            partition.committed_metadata = Some("words".into());
            let mut topic = OffsetCommitRequestTopic::default();
            (topic.name, topic.partitions) = (TOPIC.into(), vec![partition]);
            let mut request = OffsetCommitRequest::default();
            (request.group_id, request.topics) = (GROUP.into(), vec![topic]);
            (request.generation_id_or_member_epoch, request.retention_time_ms) = (-1, -1);
            request
        })
        .await;
    asked
        .each(|version| {
            let mut request = OffsetFetchRequest::default();
            if version >= 8 {
                let mut topic = OffsetFetchRequestTopics::default();
                (topic.name, topic.partition_indexes) = (TOPIC.into(), vec![0, 9]);
                let mut group = OffsetFetchRequestGroup::default();
                (group.group_id, group.member_id) = (GROUP.into(), None);
                (group.member_epoch, group.topics) = (-1, Some(vec![topic]));
                (request.groups, request.topics) = (vec![group], Some(Vec::new()));
            } else {
                let mut topic = OffsetFetchRequestTopic::default();
                (topic.name, topic.partition_indexes) = (TOPIC.into(), vec![0, 9]);
                (request.group_id, request.topics) = (GROUP.into(), Some(vec![topic]));
            }
            request
        })
        .await;
}

async fn cluster(asked: &mut Asked<'_>) {
    asked
        .each(|version| {
            let mut request = ApiVersionsRequest::default();
            if version >= 3 {
                request.client_software_name = "test".into();
                request.client_software_version = "1".into();
            }
            request
        })
        .await;
    asked
        .each(|version| {
            let topic = |name: &str| {
                let mut topic = MetadataRequestTopic::default();
                topic.name = Some(name.into());
                topic
            };
            let mut request = MetadataRequest::default();
            request.topics = Some(vec![topic(TOPIC), topic("nothing")]);
            request.allow_auto_topic_creation = version < 4;
            request
        })
        .await;
    asked.each(|_| DescribeClusterRequest::default()).await;
    asked
        .each(|_| {
            let mut request = DescribeLogDirsRequest::default();
            request.topics = None;
            request
        })
        .await;
    asked
        .each(|_| {
            let topic = |name: &str| {
                let mut topic = describe_topic_partitions_request::TopicRequest::default();
                topic.name = name.into();
                topic
            };
            let mut request = DescribeTopicPartitionsRequest::default();
            request.topics = vec![topic(TOPIC), topic("nothing")];
            request
        })
        .await;
    asked
        .each(|_| {
            let mut topic = elect_leaders_request::TopicPartitions::default();
            (topic.topic, topic.partitions) = (TOPIC.into(), vec![0, 9]);
            let mut request = ElectLeadersRequest::default();
            request.topic_partitions = Some(vec![topic]);
            request
        })
        .await;
    asked
        .each(|_| {
            let mut request = ListPartitionReassignmentsRequest::default();
            request.topics = None;
            request
        })
        .await;
}

async fn topics(asked: &mut Asked<'_>) {
    asked
        .each(|version| {
            let topic = |name: &str| {
                let mut topic = CreatableTopic::default();
                topic.name = name.into();
                (topic.num_partitions, topic.replication_factor) = (1, 1);
                topic
            };
            let mut request = CreateTopicsRequest::default();
            let new = format!("new-{version}");
            (request.topics, request.timeout_ms) = (vec![topic(&new), topic(TOPIC)], 10_000);
            request
        })
        .await;
    asked
        .each(|version| {
            let mut topic = create_partitions_request::CreatePartitionsTopic::default();
            (topic.name, topic.count) = (TOPIC.into(), 2 + i32::from(version));
            topic.assignments = None;
            let mut request = CreatePartitionsRequest::default();
            (request.topics, request.timeout_ms) = (vec![topic], 10_000);
            request
        })
        .await;
    asked
        .each(|version| {
            let mut request = DeleteTopicsRequest::default();
            request.timeout_ms = 10_000;
            let names = [format!("new-{version}"), "nothing".to_owned()];
            if version < 6 {
                request.topic_names = names.map(|name| name.as_str().into()).into();
            } else {
                let topic = |name: String| {
                    let mut topic = delete_topics_request::DeleteTopicState::default();
                    topic.name = Some(name.as_str().into());
                    topic
                };
                request.topics = names.map(topic).into();
            }
            request
        })
        .await;
}

async fn configs(asked: &mut Asked<'_>) {
    const OF_TOPIC: i8 = 2;
    const NAME: &str = "retention.ms";
    asked
        .each(|_| {
            let resource = |name: &str| {
                let mut resource = DescribeConfigsResource::default();
                (resource.resource_type, resource.resource_name) = (OF_TOPIC, name.into());
                resource.configuration_keys = None;
                resource
            };
            let mut request = DescribeConfigsRequest::default();
            request.resources = vec![resource(TOPIC), resource("nothing")];
            request.include_synonyms = true;
            request
        })
        .await;
    asked
        .each(|_| {
            let mut config = alter_configs_request::AlterableConfig::default();
            (config.name, config.value) = (NAME.into(), Some("86400000".into()));
            let mut resource = alter_configs_request::AlterConfigsResource::default();
            (resource.resource_type, resource.resource_name) = (OF_TOPIC, TOPIC.into());
            resource.configs = vec![config];
            let mut request = AlterConfigsRequest::default();
            request.resources = vec![resource];
            request
        })
        .await;
    asked
        .each(|_| {
            let mut config = incremental_alter_configs_request::AlterableConfig::default();
            (config.name, config.value) = (NAME.into(), Some("nonsense".into()));
            let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
            (resource.resource_type, resource.resource_name) = (OF_TOPIC, TOPIC.into());
            resource.configs = vec![config];
            let mut request = IncrementalAlterConfigsRequest::default();
            request.resources = vec![resource];
            request
        })
        .await;
}
