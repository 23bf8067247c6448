//! One truth, four faces: what a topic and a group are is told alike through Kafka, gRPC, HTTP and the commands, and changes
//! alike in all of them when something is done through any.

mod ending;

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use geminga_harness::{Cluster, Kafka, http, wait};
use geminga_proto::v1;
use geminga_proto::v1::groups_client::GroupsClient;
use geminga_proto::v1::topics_client::TopicsClient;
use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    DescribeGroupsRequest, FindCoordinatorRequest, JoinGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest,
};
use serde_json::Value;

use crate::kafka_admin::{
    RECORDS, TOPIC, VALUE_BYTES, configs, connect, create_replicated, delete_records, leaders,
    offset, produce, replicas, set_config, sizes,
};

const NOT_LEADER: i16 = 6;
const GROUP: &str = "readers";
const PARTITIONS: i32 = 2;
/// 10 MB over all partitions.
const BATCHES: i64 = 10;
const END: i64 = BATCHES * RECORDS as i64;
const SEGMENT_BYTES: &str = "1048576";

/// What every face tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    partitions: BTreeMap<i64, Partition>,
    replication_factor: i64,
    configs: BTreeMap<String, String>,
    group_state: String,
    /// Members with the partitions that they are assigned.
    members: BTreeMap<String, BTreeSet<i64>>,
    /// By partition.
    committed: BTreeMap<i64, i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Partition {
    leader: i64,
    epoch: i64,
    start: i64,
    end: i64,
    bytes: i64,
}

/// The cluster's Kafka clients, by the brokers' numbers.
type Brokers = BTreeMap<i32, Kafka>;

fn coordinator(brokers: &mut Brokers) -> i32 {
    let any = brokers.values_mut().next().expect("a broker");
    let mut request = FindCoordinatorRequest::default();
    request.coordinator_keys = vec![GROUP.into()];
    wait::until("a coordinator of the group", || {
        let found = any.call(4, &request).coordinators.remove(0);
        (found.error_code == 0).then_some(found.node_id)
    })
}

fn by_kafka(brokers: &mut Brokers) -> Option<Told> {
    let led = leaders(brokers.values_mut().next()?)?;
    let mut partitions = BTreeMap::new();
    for (index, (leader, epoch)) in (0..).zip(led) {
        let broker = brokers.get_mut(&leader)?;
        let (start, end) = (offset(broker, index, -2), offset(broker, index, -1));
        let bytes = *sizes(broker).get(&index)?;
        let at = [start, end].map(|(code, at)| (code == 0).then_some(at));
        let partition = Partition {
            leader: leader.into(),
            epoch: epoch.into(),
            start: at[0]?,
            end: at[1]?,
            bytes,
        };
        partitions.insert(index.into(), partition);
    }
    let replication_factor = replicas(brokers.values_mut().next()?)?;
    let configs = configs(brokers.values_mut().next()?);
    let coordinator = coordinator(brokers);
    let broker = brokers.get_mut(&coordinator)?;
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![GROUP.into()];
    let group = broker.call(5, &request).groups.remove(0);
    let members = group
        .members
        .iter()
        .map(|member| (member.member_id.as_str().to_owned(), assigned(&member.member_assignment)));
    let members = members.collect();
    let mut request = OffsetFetchRequest::default();
    (request.group_id, request.topics) = (GROUP.into(), None);
    let fetched = broker.call(5, &request);
    let of = |topic: &kafka_wire::offset_fetch_response::OffsetFetchResponseTopic| {
        let partitions = topic.partitions.iter();
        partitions.map(|p| (p.partition_index.into(), p.committed_offset)).collect::<Vec<_>>()
    };
    let committed = fetched.topics.iter().flat_map(of).collect();
    let group_state = group.group_state.as_str().to_lowercase();
    Some(Told { partitions, replication_factor, configs, group_state, members, committed })
}

/// Ends what is asked of a server after as long as anything is waited for.
async fn within<T>(asked: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(wait::PATIENCE, asked).await
}

fn by_grpc(cluster: &Cluster) -> Option<Told> {
    let server = format!("http://{}", cluster.brokers[0].address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let asked = async {
        let mut topics = TopicsClient::connect(server.clone()).await.ok()?;
        let mut groups = GroupsClient::connect(server).await.ok()?;
        let topic = topics.describe_topic(v1::DescribeTopicRequest { name: TOPIC.into() });
        let topic = topic.await.ok()?.into_inner();
        let group = groups.describe_group(v1::DescribeGroupRequest { group: GROUP.into() });
        Some((topic, group.await.ok()?.into_inner()))
    };
    let (topic, group) = runtime.block_on(within(asked)).ok()??;
    let mut partitions = BTreeMap::new();
    for p in topic.partitions {
        let partition = Partition {
            leader: p.owner_broker.into(),
            epoch: p.term.into(),
            start: p.log_start_offset?,
            end: p.high_watermark?,
            bytes: i64::try_from(p.size_bytes?).ok()?,
        };
        partitions.insert(p.partition.into(), partition);
    }
    let members = group.members.into_iter().map(|member| {
        let assigned = member.assigned.into_iter().map(|a| i64::from(a.partition));
        (member.member_id, assigned.collect())
    });
    let summary = topic.topic?;
    Some(Told {
        partitions,
        replication_factor: summary.replication_factor.into(),
        configs: summary.configs.into_iter().collect(),
        group_state: group.group?.state,
        members: members.collect(),
        committed: group.offsets.iter().map(|o| (o.partition.into(), o.offset)).collect(),
    })
}

/// What HTTP and the commands say in the same words.
fn by_json(topic: &Value, group: &Value) -> Option<Told> {
    let mut partitions = BTreeMap::new();
    for p in topic["partitions"].as_array()? {
        let partition = Partition {
            leader: p["owner_broker"].as_i64()?,
            epoch: p["term"].as_i64()?,
            start: p["log_start_offset"].as_i64()?,
            end: p["high_watermark"].as_i64()?,
            bytes: p["size_bytes"].as_i64()?,
        };
        partitions.insert(p["partition"].as_i64()?, partition);
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let configs = topic["topic"]["configs"].as_object()?;
    let mut members = BTreeMap::new();
    for member in group["members"].as_array()? {
        let assigned = member["assigned"].as_array()?.iter();
        let assigned = assigned.filter_map(|a| a["partition"].as_i64()).collect();
        members.insert(text(&member["member_id"])?, assigned);
    }
    let offsets = group["offsets"].as_array()?.iter();
    let committed = offsets.filter_map(|o| Some((o["partition"].as_i64()?, o["offset"].as_i64()?)));
    Some(Told {
        partitions,
        replication_factor: topic["topic"]["replication_factor"].as_i64()?,
        configs: configs.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect(),
        group_state: text(&group["state"])?,
        members,
        committed: committed.collect(),
    })
}

fn by_http(cluster: &Cluster) -> Option<Told> {
    let ask = |path: String| -> Option<Value> {
        let (status, body) = http::get(&cluster.brokers[1].http, &path)?;
        (status == 200).then(|| serde_json::from_str(&body).expect("JSON"))
    };
    let topic = ask(format!("/api/v1/topics/{TOPIC}"))?;
    by_json(&topic, &ask(format!("/api/v1/groups/{GROUP}"))?)
}

fn by_commands(cluster: &Cluster) -> Option<Told> {
    let client = cluster.client(1);
    let topic = client.json(&["topic", "describe", TOPIC]);
    by_json(&topic, &client.json(&["group", "describe", GROUP]))
}

/// Waits until all faces tell the same, and it is what is `expected` of it: views of brokers follow a moment later.
fn alike(
    what: &str,
    cluster: &Cluster,
    brokers: &mut Brokers,
    expected: impl Fn(&Told) -> bool,
) -> Told {
    let mut last = Vec::new();
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait::until(what, || {
            last =
                vec![by_kafka(brokers), by_grpc(cluster), by_http(cluster), by_commands(cluster)];
            let first = last[0].clone()?;
            (expected(&first) && last.iter().all(|told| told.as_ref() == Some(&first)))
                .then_some(first)
        })
    }));
    waited.unwrap_or_else(|_| panic!("{what}: Kafka, gRPC, HTTP and commands tell {last:#?}"))
}

/// Writes a batch where the partition is led; brokers that have just started still share the partitions out.
fn written(brokers: &mut Brokers, partition: i32, at: i64) {
    wait::until("a batch to be written", || {
        let led = leaders(brokers.values_mut().next()?)?;
        let leader = led.get(usize::try_from(partition).ok()?)?.0;
        let (code, offset) = produce(brokers.get_mut(&leader)?, partition);
        assert!(code == 0 || code == NOT_LEADER, "error {code}");
        (code == 0).then(|| assert_eq!(offset, at))
    });
}

fn text(out: &mut BytesMut, text: &str) {
    out.put_i16(i16::try_from(text.len()).expect("a short text"));
    out.put_slice(text.as_bytes());
}

/// A consumer's words, version 0: what it reads, and with `partitions` what it is assigned.
fn consumer(partitions: Option<&[i32]>) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(0);
    out.put_i32(1);
    text(&mut out, TOPIC);
    if let Some(partitions) = partitions {
        out.put_i32(i32::try_from(partitions.len()).expect("few"));
        partitions.iter().for_each(|partition| out.put_i32(*partition));
    }
    out.put_i32(-1);
    out.freeze()
}

/// The partitions of an assignment of that kind.
fn assigned(assignment: &[u8]) -> BTreeSet<i64> {
    let numbers = assignment.get(2 + 4 + 2 + TOPIC.len() + 4..).unwrap_or_default();
    let numbers = numbers.chunks_exact(4).map(|c| i32::from_be_bytes([c[0], c[1], c[2], c[3]]));
    numbers.map(i64::from).filter(|partition| *partition >= 0).collect()
}

/// Joins the group as its only member, which takes all partitions; the member's name.
fn join(kafka: &mut Kafka) -> String {
    let mut protocol = JoinGroupRequestProtocol::default();
    (protocol.name, protocol.metadata) = ("range".into(), consumer(None));
    let mut request = JoinGroupRequest::default();
    (request.group_id, request.protocol_type) = (GROUP.into(), "consumer".into());
    (request.session_timeout_ms, request.rebalance_timeout_ms) = (300_000, 300_000);
    request.protocols = vec![protocol];
    let first = kafka.call(5, &request);
    assert_eq!(first.error_code, 79, "join again with the name");
    request.member_id = first.member_id;
    let joined = kafka.call(5, &request);
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let mut assignment = SyncGroupRequestAssignment::default();
    assignment.member_id = joined.member_id.clone();
    assignment.assignment = consumer(Some(&(0..PARTITIONS).collect::<Vec<_>>()));
    let mut request = SyncGroupRequest::default();
    (request.group_id, request.generation_id) = (GROUP.into(), 1);
    (request.member_id, request.assignments) = (joined.member_id.clone(), vec![assignment]);
    assert_eq!(kafka.call(3, &request).error_code, 0);
    joined.member_id.as_str().to_owned()
}

fn commit(kafka: &mut Kafka, member: &str, partition: i32, at: i64) {
    let mut asked = OffsetCommitRequestPartition::default();
    (asked.partition_index, asked.committed_offset) = (partition, at);
    let mut topic = OffsetCommitRequestTopic::default();
    (topic.name, topic.partitions) = (TOPIC.into(), vec![asked]);
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.member_id) = (GROUP.into(), member.into());
    (request.generation_id_or_member_epoch, request.topics) = (1, vec![topic]);
    assert_eq!(kafka.call(7, &request).topics[0].partitions[0].error_code, 0);
}

#[test]
fn every_face_tells_the_same_of_a_topic_and_a_group() {
    let cluster = Cluster::start_with(3, 2, &[], &["--retention-interval=200ms"]);
    let client = cluster.client(0);
    let mut brokers = connect(&cluster);
    let ids: Vec<i32> = brokers.keys().copied().collect();
    // Two replicas, as Kafka's clients count them; three copies, as ever.
    let any = brokers.get_mut(&ids[0]).expect("a broker");
    create_replicated(any, PARTITIONS, 2);
    // Each has several segments.
    set_config(any, "segment.bytes", SEGMENT_BYTES);

    // 10 MB, a member, and what it has committed.
    for partition in 0..PARTITIONS {
        for batch in 0..BATCHES {
            written(&mut brokers, partition, batch * RECORDS as i64);
        }
    }
    let coordinator = coordinator(&mut brokers);
    let member = join(brokers.get_mut(&coordinator).expect("the coordinator"));
    commit(brokers.get_mut(&coordinator).expect("the coordinator"), &member, 0, 100);
    let payload = END * VALUE_BYTES as i64;
    let first = alike("records, a member and its offset", &cluster, &mut brokers, |told| {
        told.committed == BTreeMap::from([(0, 100)])
            && told.partitions.values().all(|p| (p.start, p.end) == (0, END))
    });
    assert_eq!((first.group_state.as_str(), first.replication_factor), ("stable", 2));
    assert_eq!(
        first.members,
        BTreeMap::from([(member.clone(), (0..i64::from(PARTITIONS)).collect())])
    );
    for partition in first.partitions.values() {
        assert!((payload..payload * 11 / 10).contains(&partition.bytes), "{partition:?}");
    }

    // A move, a config, deleted records, and another commit, by different faces.
    let Partition { leader: from, epoch, .. } = first.partitions[&0];
    let to = ids[usize::from(i64::from(ids[0]) == from)];
    client.run(&["partition", "move", TOPIC, "0", "--to", &to.to_string()]).ok();
    alike("the move", &cluster, &mut brokers, |told| {
        let moved = &told.partitions[&0];
        moved.leader == i64::from(to) && moved.epoch > epoch
    });
    let any = brokers.get_mut(&ids[0]).expect("a broker");
    set_config(any, "retention.ms", "86400000");
    alike("the config", &cluster, &mut brokers, |told| {
        let set = [("retention.ms", "86400000"), ("segment.bytes", SEGMENT_BYTES)];
        told.configs == set.map(|(name, value)| (name.into(), value.into())).into()
            && told.replication_factor == 2
    });
    let led = leaders(brokers.get_mut(&to).expect("the new leader")).expect("the topic");
    let owner = brokers.get_mut(&led[0].0).expect("the new leader");
    assert_eq!(delete_records(owner, 0, 700), (0, 700));
    alike("the deletion", &cluster, &mut brokers, |told| told.partitions[&0].start == 700);
    commit(brokers.get_mut(&coordinator).expect("the coordinator"), &member, 1, 7);
    let last = alike("the second commit", &cluster, &mut brokers, |told| {
        told.committed == BTreeMap::from([(0, 100), (1, 7)])
    });

    // What gets less: whole segments that are deleted, a member that leaves.
    let bytes = last.partitions[&0].bytes;
    let delete = ["topic", "delete-records", TOPIC, "--partition", "0", "--before", "4000"];
    client.run(&delete).ok();
    let left = alike("less bytes", &cluster, &mut brokers, |told| {
        let partition = &told.partitions[&0];
        partition.start == 4_000 && partition.bytes < bytes / 2
    });
    assert!(left.partitions[&0].bytes >= (END - 4_000) * VALUE_BYTES as i64, "what is left");
    assert_eq!(left.partitions[&1], last.partitions[&1], "the other one is as it was");
    ending::leave(&mut brokers, &member);
    alike("a group without members", &cluster, &mut brokers, |told| {
        told.members.is_empty() && told.group_state == "empty" && told.committed.len() == 2
    });

    // What is not there is refused alike.
    let missing = http::get(&cluster.brokers[0].http, "/api/v1/topics/nothing").expect("an answer");
    assert!(missing.0 == 404 && missing.1.contains("UNKNOWN_TOPIC"), "{missing:?}");
    client.run(&["topic", "describe", "nothing"]).refused("UNKNOWN_TOPIC");
    let topics = http::get(&cluster.brokers[0].http, "/api/v1/topics").expect("an answer");
    assert!(topics.0 == 200 && topics.1.contains(TOPIC), "{topics:?}");
    let nobody = http::get(&cluster.bookies[0].http, "/api/v1/topics").expect("an answer");
    assert_eq!(nobody.0, 503, "a bookie knows no topics");

    ending::everything_goes(&cluster, &mut brokers);
}
