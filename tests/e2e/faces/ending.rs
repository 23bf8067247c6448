//! How a group and a topic end: a member that leaves is gone from every face, and what is deleted is neither described nor listed by
//! any.

use geminga_harness::{Cluster, Kafka, http, wait};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::groups_client::GroupsClient;
use geminga_proto::v1::topics_client::TopicsClient;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::{
    DeleteGroupsRequest, DescribeGroupsRequest, LeaveGroupRequest, ListGroupsRequest,
};

use super::{Brokers, GROUP, coordinator, within};
use crate::kafka_admin::{TOPIC, leaders};

const NO_SUCH_GROUP: i16 = 69;
const COORDINATOR_LOADING: i16 = 14;
const NOT_COORDINATOR: i16 = 16;

/// Whether something is described, and whether it is listed.
type Seen = (bool, bool);

/// By Kafka, gRPC, HTTP and commands.
type Faces = [Seen; 4];

const THERE: Faces = [(true, true); 4];
const GONE: Faces = [(false, false); 4];

pub(super) fn leave(brokers: &mut Brokers, member: &str) {
    let mut identity = MemberIdentity::default();
    identity.member_id = member.into();
    let mut request = LeaveGroupRequest::default();
    (request.group_id, request.members) = (GROUP.into(), vec![identity]);
    let answer = at_coordinator(brokers).call(4, &request);
    assert_eq!((answer.error_code, answer.members[0].error_code), (0, 0));
}

/// Deletes the group through Kafka and the topic by a command.
pub(super) fn everything_goes(cluster: &Cluster, brokers: &mut Brokers) {
    wait_seen("the group everywhere", THERE, || groups(cluster, brokers));
    let mut request = DeleteGroupsRequest::default();
    request.groups_names = vec![GROUP.into()];
    let answer = at_coordinator(brokers).call(2, &request);
    assert_eq!(answer.results[0].error_code, 0);
    wait_seen("the group to be gone everywhere", GONE, || groups(cluster, brokers));

    wait_seen("the topic everywhere", THERE, || topics(cluster, brokers));
    cluster.client(0).run(&["topic", "delete", TOPIC]).ok();
    wait_seen("the topic to be gone everywhere", GONE, || topics(cluster, brokers));
}

/// `ask` says nothing where a face cannot say just then.
fn wait_seen(what: &str, expected: Faces, mut ask: impl FnMut() -> Option<Faces>) {
    let mut last = None;
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait::until(what, || {
            last = ask();
            (last == Some(expected)).then_some(())
        });
    }));
    waited.unwrap_or_else(|_| panic!("{what}: Kafka, gRPC, HTTP and commands see {last:?}"));
}

fn at_coordinator(brokers: &mut Brokers) -> &mut Kafka {
    let id = coordinator(brokers);
    brokers.get_mut(&id).expect("the coordinator")
}

fn groups(cluster: &Cluster, brokers: &mut Brokers) -> Option<Faces> {
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![GROUP.into()];
    let code = at_coordinator(brokers).call(6, &request).groups[0].error_code;
    if matches!(code, COORDINATOR_LOADING | NOT_COORDINATOR) {
        return None;
    }
    assert!(matches!(code, 0 | NO_SUCH_GROUP), "error {code}");
    let listed = brokers.values_mut().any(|broker| {
        let listed = broker.call(4, &ListGroupsRequest::default());
        listed.groups.iter().any(|group| group.group_id.as_str() == GROUP)
    });
    Some([
        (code == 0, listed),
        groups_by_grpc(cluster)?,
        by_http(cluster, "groups", GROUP, Reason::UnknownGroup)?,
        by_commands(cluster, "group", GROUP, Reason::UnknownGroup),
    ])
}

fn topics(cluster: &Cluster, brokers: &mut Brokers) -> Option<Faces> {
    // Metadata of all topics is a list that describes.
    let by_kafka = brokers.values_mut().any(|broker| leaders(broker).is_some());
    Some([
        (by_kafka, by_kafka),
        topics_by_grpc(cluster)?,
        by_http(cluster, "topics", TOPIC, Reason::UnknownTopic)?,
        by_commands(cluster, "topic", TOPIC, Reason::UnknownTopic),
    ])
}

/// Asks a broker by gRPC.
fn ask<T>(
    cluster: &Cluster,
    asked: impl AsyncFnOnce(String) -> Result<T, tonic::Status>,
) -> Option<T> {
    let server = format!("http://{}", cluster.brokers[0].address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    runtime.block_on(within(asked(server))).ok()?.ok()
}

/// Whether it was described, unless the answer says something else than that it is not there.
fn described<T>(answer: Result<T, tonic::Status>, unknown: Reason) -> Result<bool, tonic::Status> {
    match answer {
        Ok(_) => Ok(true),
        Err(status) if ApiError::from_status(&status).reason == unknown => Ok(false),
        Err(status) => Err(status),
    }
}

fn groups_by_grpc(cluster: &Cluster) -> Option<Seen> {
    ask(cluster, async |server| {
        let connected = GroupsClient::connect(server).await;
        let mut client = connected.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let answer = client.describe_group(v1::DescribeGroupRequest { group: GROUP.into() }).await;
        let listed = client.list_groups(v1::ListGroupsRequest {}).await?.into_inner();
        let listed = listed.groups.iter().any(|group| group.group == GROUP);
        Ok((described(answer, Reason::UnknownGroup)?, listed))
    })
}

fn topics_by_grpc(cluster: &Cluster) -> Option<Seen> {
    ask(cluster, async |server| {
        let connected = TopicsClient::connect(server).await;
        let mut client = connected.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        let answer = client.describe_topic(v1::DescribeTopicRequest { name: TOPIC.into() }).await;
        let listed = client.list_topics(v1::ListTopicsRequest::default()).await?.into_inner();
        let listed = listed.topics.iter().any(|topic| topic.name == TOPIC);
        Ok((described(answer, Reason::UnknownTopic)?, listed))
    })
}

fn is_named(list: &str, name: &str) -> bool {
    list.contains(&format!("\"{name}\""))
}

fn by_http(cluster: &Cluster, kind: &str, name: &str, unknown: Reason) -> Option<Seen> {
    let ask = |path: String| http::get(&cluster.brokers[1].http, &path);
    let described = match ask(format!("/api/v1/{kind}/{name}"))? {
        (200, _) => true,
        (404, why) if why.contains(unknown.as_str()) => false,
        _ => return None,
    };
    let (status, list) = ask(format!("/api/v1/{kind}"))?;
    (status == 200).then(|| (described, is_named(&list, name)))
}

fn by_commands(cluster: &Cluster, kind: &str, name: &str, unknown: Reason) -> Seen {
    let client = cluster.client(1);
    let finished = client.run(&[kind, "describe", name]);
    let described = finished.code == Some(0);
    if !described {
        finished.refused(unknown.as_str());
    }
    let list = client.run(&[kind, "list", "--output", "json"]).ok();
    (described, is_named(&String::from_utf8_lossy(&list), name))
}
