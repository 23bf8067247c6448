//! Groups as Kafka clients know them, in every version that is served.

use kafka_wire::join_group_request::JoinGroupRequestProtocol;
use kafka_wire::leave_group_request::MemberIdentity;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_wire::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_wire::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_wire::sync_group_request::SyncGroupRequestAssignment;
use kafka_wire::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::*;

fn join(group: &str, member: &str) -> JoinGroupRequest {
    let mut protocol = JoinGroupRequestProtocol::default();
    (protocol.name, protocol.metadata) = ("range".into(), Bytes::from_static(b"what I want"));
    let mut request = JoinGroupRequest::default();
    (request.group_id, request.member_id) = (group.into(), member.into());
    (request.protocol_type, request.protocols) = ("consumer".into(), vec![protocol]);
    request.session_timeout_ms = 10_000;
    request
}

/// Joins as the only member, in as many steps as the version takes; returns id and generation.
async fn joined(client: &mut Client, version: i16, group: &str) -> (StrBytes, i32) {
    let mut member = StrBytes::default();
    loop {
        let mut request = join(group, &member);
        request.rebalance_timeout_ms = if version > 0 { 10_000 } else { -1 };
        let answer: JoinGroupResponse = client.call(version, &request).await;
        member = answer.member_id.clone();
        if answer.error_code == 79 {
            assert!(version >= 4, "two steps only where they are known");
            continue;
        }
        assert_eq!(answer.error_code, 0, "version {version}");
        assert_eq!(answer.leader, member);
        assert_eq!(answer.protocol_name.as_deref(), Some("range"));
        assert_eq!(answer.members.len(), 1);
        assert_eq!(answer.members[0].metadata, &b"what I want"[..]);
        return (member, answer.generation_id);
    }
}

async fn synced(
    client: &mut Client,
    version: i16,
    group: &str,
    member: &StrBytes,
    generation: i32,
) {
    let mut assignment = SyncGroupRequestAssignment::default();
    (assignment.member_id, assignment.assignment) = (member.clone(), Bytes::from_static(b"yours"));
    let mut request = SyncGroupRequest::default();
    (request.group_id, request.member_id) = (group.into(), member.clone());
    (request.generation_id, request.assignments) = (generation, vec![assignment]);
    (request.protocol_type, request.protocol_name) = (None, None);
    let answer: SyncGroupResponse = client.call(version, &request).await;
    assert_eq!(
        (answer.error_code, &answer.assignment[..]),
        (0, &b"yours"[..]),
        "version {version}"
    );
}

async fn heartbeat(
    client: &mut Client,
    version: i16,
    group: &str,
    member: &str,
    generation: i32,
) -> i16 {
    let mut request = HeartbeatRequest::default();
    (request.group_id, request.member_id) = (group.into(), member.into());
    request.generation_id = generation;
    client.call::<_, HeartbeatResponse>(version, &request).await.error_code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_works_and_goes_in_every_version() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    for version in 0..=9 {
        let group = format!("members-{version}");
        let (member, generation) = joined(&mut client, version, &group).await;
        let low = version.min(5);
        synced(&mut client, low, &group, &member, generation).await;
        let low = version.min(4);
        assert_eq!(heartbeat(&mut client, low, &group, &member, generation).await, 0);
        assert_eq!(heartbeat(&mut client, low, &group, &member, generation + 1).await, 22);
        assert_eq!(heartbeat(&mut client, low, &group, "nobody", generation).await, 25);
        let version = version.min(6);
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec![group.as_str().into()];
        let answer: DescribeGroupsResponse = client.call(version, &request).await;
        let described = &answer.groups[0];
        assert_eq!((described.error_code, described.group_state.as_str()), (0, "Stable"));
        assert_eq!(described.protocol_type.as_str(), "consumer");
        assert_eq!(described.members[0].member_assignment, &b"yours"[..]);
        let version = version.min(5);
        let answer: ListGroupsResponse = client.call(version, &ListGroupsRequest::default()).await;
        assert!(answer.groups.iter().any(|listed| listed.group_id.as_str() == group));
        let mut request = DeleteGroupsRequest::default();
        request.groups_names = vec![group.as_str().into()];
        let answer: DeleteGroupsResponse = client.call(version.min(2), &request).await;
        assert_eq!(answer.results[0].error_code, 68, "it has a member");
        let mut request = LeaveGroupRequest::default();
        request.group_id = group.as_str().into();
        if version < 3 {
            request.member_id = member;
        } else {
            let mut identity = MemberIdentity::default();
            identity.member_id = member;
            request.members = vec![identity];
        }
        let answer: LeaveGroupResponse = client.call(version, &request).await;
        let each = answer.members.first().map_or(0, |member| member.error_code);
        assert_eq!((answer.error_code, each), (0, 0));
    }
    // What is not there.
    for (version, state, code) in [(0, "Dead", 0), (5, "Dead", 0), (6, "Dead", 69)] {
        let mut request = DescribeGroupsRequest::default();
        request.groups = vec!["nowhere".into()];
        let answer: DescribeGroupsResponse = client.call(version, &request).await;
        let described = &answer.groups[0];
        assert_eq!((described.group_state.as_str(), described.error_code), (state, code));
    }
    let mut request = DeleteGroupsRequest::default();
    request.groups_names = vec!["nowhere".into()];
    let answer: DeleteGroupsResponse = client.call(2, &request).await;
    assert_eq!(answer.results[0].error_code, 69);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_waits_for_its_leader_and_a_rebalance_is_heard_of() {
    let (_cluster, node) = rig().await;
    let (mut one, mut two) = (Client::connect(&node).await, Client::connect(&node).await);
    let (leader, generation) = joined(&mut one, 5, "g").await;
    synced(&mut one, 3, "g", &leader, generation).await;
    let mut request = join("g", "");
    request.rebalance_timeout_ms = 10_000;
    let answer: JoinGroupResponse = two.call(5, &request).await;
    assert_eq!(answer.error_code, 79);
    request.member_id = answer.member_id.clone();
    two.send(5, &request).await;
    while heartbeat(&mut one, 3, "g", &leader, generation).await != 27 {
        tokio::task::yield_now().await;
    }
    let mut again = join("g", &leader);
    again.rebalance_timeout_ms = 10_000;
    let mine: JoinGroupResponse = one.call(5, &again).await;
    let theirs: JoinGroupResponse = two.answer::<JoinGroupRequest, _>(5).await;
    assert_eq!((mine.error_code, theirs.error_code), (0, 0));
    assert_eq!((mine.generation_id, theirs.generation_id), (generation + 1, generation + 1));
    assert_eq!((mine.members.len(), theirs.members.len()), (2, 0), "only the leader hears of all");
    let mut request = SyncGroupRequest::default();
    (request.group_id, request.generation_id) = ("g".into(), theirs.generation_id);
    request.member_id = theirs.member_id.clone();
    (request.protocol_type, request.protocol_name) = (None, None);
    two.send(3, &request).await;
    let assign = |id: &StrBytes, what: &'static [u8]| {
        let mut assignment = SyncGroupRequestAssignment::default();
        (assignment.member_id, assignment.assignment) = (id.clone(), Bytes::from_static(what));
        assignment
    };
    request.member_id = leader.clone();
    request.assignments = vec![assign(&leader, b"a"), assign(&theirs.member_id, b"b")];
    let mine: SyncGroupResponse = one.call(3, &request).await;
    let theirs: SyncGroupResponse = two.answer::<SyncGroupRequest, _>(3).await;
    assert_eq!((&mine.assignment[..], &theirs.assignment[..]), (&b"a"[..], &b"b"[..]));
}

fn commit(group: &str, partition: i32, offset: i64, metadata: &str) -> OffsetCommitRequest {
    let mut one = OffsetCommitRequestPartition::default();
    (one.partition_index, one.committed_offset) = (partition, offset);
    one.committed_metadata = Some(metadata.into());
    one.committed_leader_epoch = -1;
    let mut topic = OffsetCommitRequestTopic::default();
    (topic.name, topic.partitions) = ("t".into(), vec![one]);
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.topics) = (group.into(), vec![topic]);
    (request.generation_id_or_member_epoch, request.retention_time_ms) = (-1, -1);
    request
}

async fn committed(client: &mut Client, version: i16, request: &OffsetCommitRequest) -> i16 {
    let answer: OffsetCommitResponse = client.call(version, request).await;
    answer.topics[0].partitions[0].error_code
}

/// Offset, metadata and code of the first partition of the first topic.
async fn offset(client: &mut Client, version: i16, group: &str, all: bool) -> (i64, String, i16) {
    let mut request = OffsetFetchRequest::default();
    if version >= 8 {
        let mut topic = OffsetFetchRequestTopics::default();
        (topic.name, topic.partition_indexes) = ("t".into(), vec![0]);
        let mut asked = OffsetFetchRequestGroup::default();
        (asked.group_id, asked.member_id, asked.member_epoch) = (group.into(), None, -1);
        asked.topics = (!all).then(|| vec![topic]);
        request.groups = vec![asked];
        request.topics = Some(Vec::new());
    } else {
        let mut topic = OffsetFetchRequestTopic::default();
        (topic.name, topic.partition_indexes) = ("t".into(), vec![0]);
        request.group_id = group.into();
        request.topics = (!all).then(|| vec![topic]);
    }
    let answer: OffsetFetchResponse = client.call(version, &request).await;
    if version >= 8 {
        let found = &answer.groups[0].topics[0].partitions[0];
        let metadata = found.metadata.as_deref().unwrap_or("null").to_owned();
        return (found.committed_offset, metadata, found.error_code);
    }
    let found = &answer.topics[0].partitions[0];
    let metadata = found.metadata.as_deref().unwrap_or("null").to_owned();
    (found.committed_offset, metadata, found.error_code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_come_back_with_their_words_in_every_version() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    for version in 2..=9 {
        let group = format!("offsets-{version}");
        for fetch in 1..=9 {
            let nothing = (-1, String::new(), 0);
            assert_eq!(offset(&mut client, fetch, &group, false).await, nothing);
        }
        assert_eq!(committed(&mut client, version, &commit(&group, 0, 7, "my words")).await, 0);
        assert_eq!(committed(&mut client, version, &commit(&group, 9, 7, "")).await, 3);
        let long = "x".repeat(5_000);
        assert_eq!(committed(&mut client, version, &commit(&group, 0, 8, &long)).await, 12);
        for fetch in 1..=9 {
            for all in [false, true] {
                if fetch >= 2 || !all {
                    let found = offset(&mut client, fetch, &group, all).await;
                    assert_eq!(found, (7, "my words".to_owned(), 0), "version {fetch}");
                }
            }
        }
    }
    // Who is in no group commits only while it has no members.
    let (member, generation) = joined(&mut client, 3, "busy").await;
    synced(&mut client, 1, "busy", &member, generation).await;
    assert_eq!(committed(&mut client, 5, &commit("busy", 0, 1, "")).await, 25);
    let mut mine = commit("busy", 0, 1, "");
    (mine.member_id, mine.generation_id_or_member_epoch) = (member.clone(), generation + 1);
    assert_eq!(committed(&mut client, 5, &mine).await, 22);
    mine.generation_id_or_member_epoch = generation;
    assert_eq!(committed(&mut client, 5, &mine).await, 0);
    // Offsets are forgotten one by one, or with their group.
    let mut topic = OffsetDeleteRequestTopic::default();
    (topic.name, topic.partitions) = ("t".into(), vec![OffsetDeleteRequestPartition::default()]);
    let mut request = OffsetDeleteRequest::default();
    (request.group_id, request.topics) = ("offsets-2".into(), vec![topic]);
    let answer: OffsetDeleteResponse = client.call(0, &request).await;
    assert_eq!((answer.error_code, answer.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(offset(&mut client, 7, "offsets-2", false).await.0, -1);
    let mut request = DeleteGroupsRequest::default();
    request.groups_names = vec!["offsets-3".into()];
    let answer: DeleteGroupsResponse = client.call(1, &request).await;
    assert_eq!(answer.results[0].error_code, 0);
    assert_eq!(offset(&mut client, 7, "offsets-3", false).await.0, -1);
}

/// A static member over the wire: its instance is heard of everywhere, and whoever uses its former id is fenced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back_without_a_rebalance_and_fences_its_former_self() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let mut request = join("static", "");
    (request.group_instance_id, request.rebalance_timeout_ms) = (Some("i".into()), 10_000);
    let first: JoinGroupResponse = client.call(5, &request).await;
    assert_eq!((first.error_code, first.members.len()), (0, 1), "in one step");
    assert_eq!(first.members[0].group_instance_id.as_deref(), Some("i"));
    let generation = first.generation_id;
    synced(&mut client, 3, "static", &first.member_id, generation).await;
    // It restarts, and says something else of itself.
    request.protocols[0].metadata = Bytes::from_static(b"what I want now");
    let second: JoinGroupResponse = client.call(9, &request).await;
    assert_eq!((second.error_code, second.generation_id), (0, generation), "no rebalance");
    assert_ne!(second.member_id, first.member_id);
    assert_eq!(second.leader, second.member_id);
    assert!(second.skip_assignment, "since version 9 a leader is told that it need not assign");
    // A leader that does not know this would assign anew: it is told that somebody else leads.
    let third: JoinGroupResponse = client.call(8, &request).await;
    assert_eq!((third.error_code, third.generation_id), (0, generation));
    assert!(third.leader != third.member_id && !third.skip_assignment);
    synced(&mut client, 5, "static", &third.member_id, generation).await;

    const FENCED: i16 = 82;
    let instance = Some(StrBytes::from("i"));
    let former = first.member_id;
    for version in 3..=4 {
        let mut beat = HeartbeatRequest::default();
        (beat.group_id, beat.member_id) = ("static".into(), former.clone());
        (beat.generation_id, beat.group_instance_id) = (generation, instance.clone());
        let answer: HeartbeatResponse = client.call(version, &beat).await;
        assert_eq!(answer.error_code, FENCED, "heartbeat version {version}");
        beat.member_id = third.member_id.clone();
        let answer: HeartbeatResponse = client.call(version, &beat).await;
        assert_eq!(answer.error_code, 0, "heartbeat version {version}");
    }
    for version in 3..=5 {
        let mut sync = SyncGroupRequest::default();
        (sync.group_id, sync.member_id) = ("static".into(), former.clone());
        (sync.generation_id, sync.group_instance_id) = (generation, instance.clone());
        (sync.protocol_type, sync.protocol_name) = (None, None);
        let answer: SyncGroupResponse = client.call(version, &sync).await;
        assert_eq!(answer.error_code, FENCED, "sync version {version}");
    }
    for version in 7..=9 {
        let mut mine = commit("static", 0, 1, "");
        (mine.member_id, mine.generation_id_or_member_epoch) = (former.clone(), generation);
        mine.retention_time_ms = -1;
        mine.group_instance_id = instance.clone();
        assert_eq!(committed(&mut client, version, &mine).await, FENCED, "version {version}");
        mine.member_id = third.member_id.clone();
        assert_eq!(committed(&mut client, version, &mine).await, 0, "version {version}");
    }
    request.member_id = former.clone();
    let answer: JoinGroupResponse = client.call(9, &request).await;
    assert_eq!(answer.error_code, FENCED);
    // An administrator takes the instance out by its name alone.
    let mut leave = LeaveGroupRequest::default();
    leave.group_id = "static".into();
    let mut identity = MemberIdentity::default();
    identity.group_instance_id = instance;
    for (member, code) in [(former, FENCED), (StrBytes::default(), 0)] {
        identity.member_id = member;
        leave.members = vec![identity.clone()];
        let answer: LeaveGroupResponse = client.call(3, &leave).await;
        assert_eq!((answer.error_code, answer.members[0].error_code), (0, code));
    }
}

fn named(name: &str, partitions: i32) -> OffsetCommitRequestTopic {
    let mut topic = commit("", 0, 1, "").topics.remove(0);
    topic.name = name.into();
    let one = topic.partitions[0].clone();
    let partition = |index| {
        let mut partition = one.clone();
        partition.partition_index = index;
        partition
    };
    topic.partitions = (0..partitions).map(partition).collect();
    topic
}

/// A request costs the metadata store one look at each topic that is not known, and only so many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_topics_are_looked_up_once_and_not_without_end() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let _ = committed(&mut client, 2, &commit("lookups", 0, 1, "")).await;
    let codes = |answer: OffsetCommitResponse| {
        let partitions = answer.topics.into_iter().flat_map(|topic| topic.partitions);
        partitions.map(|partition| partition.error_code).collect::<Vec<_>>()
    };
    let mut request = commit("lookups", 0, 1, "");
    request.topics = (0..100).map(|_| named("none", 50)).collect();
    let answer: OffsetCommitResponse = client.call(2, &request).await;
    assert_eq!(codes(answer), [3; 5_000], "one topic, named a hundred times");
    request.topics = (0..40).map(|n| named(&format!("none-{n}"), 1)).collect();
    request.topics.push(named("t", 1));
    let answer: OffsetCommitResponse = client.call(2, &request).await;
    let codes_of_many = codes(answer);
    assert_eq!(codes_of_many[..32], [3; 32]);
    assert_eq!(codes_of_many[32..40], [14; 8], "to be asked again");
    assert_eq!(codes_of_many[40], 0, "what is known needs no look");
    // More than a commit may hold is refused as it is.
    request.topics = vec![named("none", 10_001)];
    let answer: OffsetCommitResponse = client.call(2, &request).await;
    assert_eq!(codes(answer), [42; 10_001]);
    let mut topic = OffsetDeleteRequestTopic::default();
    (topic.name, topic.partitions) =
        ("none".into(), vec![OffsetDeleteRequestPartition::default(); 10_001]);
    let mut request = OffsetDeleteRequest::default();
    (request.group_id, request.topics) = ("lookups".into(), vec![topic]);
    let answer: OffsetDeleteResponse = client.call(0, &request).await;
    assert_eq!(answer.error_code, 42);
}

/// What is asked for many times is answered once, and an answer has an end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_groups_are_bounded() {
    let (_cluster, node) = rig().await;
    let mut client = Client::connect(&node).await;
    let words = "x".repeat(4_096);
    assert_eq!(committed(&mut client, 2, &commit("words", 0, 7, &words)).await, 0);
    let mut topic = OffsetFetchRequestTopic::default();
    (topic.name, topic.partition_indexes) = ("t".into(), vec![0; 20_000]);
    let mut request = OffsetFetchRequest::default();
    request.group_id = "words".into();
    request.topics = Some(vec![topic.clone(), topic]);
    let answer: OffsetFetchResponse = client.call(7, &request).await;
    assert_eq!(answer.error_code, 0);
    let found = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let found: Vec<_> = found.map(|partition| partition.committed_offset).collect();
    assert_eq!(found, [7]);
    let metadata = answer.topics[0].partitions[0].metadata.as_deref().map(str::len);
    assert_eq!(metadata, Some(4_096), "whatever its size, one is answered in full");

    let mut described = DescribeGroupsRequest::default();
    described.groups = vec!["words".into(); 20_000];
    let answer: DescribeGroupsResponse = client.call(0, &described).await;
    assert_eq!((answer.groups.len(), answer.groups[0].error_code), (1, 0));
}

/// A group is asked for at its coordinator only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_coordinator_says_so() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let (one, two) = (Node::start(&cluster).await, Node::start(&cluster).await);
    create(&one, "t", 1).await;
    let (mut here, mut there) = (Client::connect(&one).await, Client::connect(&two).await);
    let spread = async {
        loop {
            let mut seen = std::collections::BTreeMap::new();
            for n in 0..40 {
                let mut request = FindCoordinatorRequest::default();
                request.key = format!("g{n}").as_str().into();
                let found: FindCoordinatorResponse = here.call(1, &request).await;
                seen.insert(found.node_id, request.key);
            }
            seen.remove(&-1);
            if let (2, Some(group)) = (seen.len(), seen.get(&two.broker.id().0)) {
                return group.clone();
            }
        }
    };
    let group = tokio::time::timeout(LIMIT, spread).await.expect("both coordinate in time");
    assert_eq!(heartbeat(&mut here, 0, &group, "m", 1).await, 16);
    let code = heartbeat(&mut there, 0, &group, "m", 1).await;
    assert!(matches!(code, 25 | 14), "it is the coordinator: {code}");
}
