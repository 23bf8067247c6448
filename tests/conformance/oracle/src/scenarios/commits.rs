//! Offsets of groups: committed by members and by others, fetched, deleted, expired by nobody.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, FindCoordinatorRequest, GroupId, JoinGroupRequest,
    ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest,
};

use crate::script::{Script, text, topic_name};

const GROUPS_SINCE: i16 = 8;

fn commit(group: &str, generation: i32, member: &str, topic: &str, at: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(at)
        .with_committed_metadata(Some(text("a note")));
    of(group, generation, member, topic, partition)
}

fn of(
    group: &str,
    generation: i32,
    member: &str,
    topic: &str,
    partition: OffsetCommitRequestPartition,
) -> OffsetCommitRequest {
    let topic = OffsetCommitRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member))
        .with_topics(vec![topic])
}

/// `None`: of all topics.
fn fetch(version: i16, group: &str, topic: Option<(&str, &[i32])>) -> OffsetFetchRequest {
    let request = OffsetFetchRequest::default();
    if version < GROUPS_SINCE {
        let topics = topic.map(|(name, partitions)| {
            let topic = OffsetFetchRequestTopic::default()
                .with_name(topic_name(name))
                .with_partition_indexes(partitions.to_vec());
            vec![topic]
        });
        return request.with_group_id(GroupId(text(group))).with_topics(topics);
    }
    let topics = topic.map(|(name, partitions)| {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(topic_name(name))
            .with_partition_indexes(partitions.to_vec());
        vec![topic]
    });
    let group =
        OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(topics);
    request.with_groups(vec![group])
}

fn delete(group: &str, topic: &str, partition: i32) -> OffsetDeleteRequest {
    let partition = OffsetDeleteRequestPartition::default().with_partition_index(partition);
    let topic = OffsetDeleteRequestTopic::default()
        .with_name(topic_name(topic))
        .with_partitions(vec![partition]);
    OffsetDeleteRequest::default().with_group_id(GroupId(text(group))).with_topics(vec![topic])
}

pub(super) fn play(script: &mut Script) {
    script.topic("commits", 2, &[]);
    script.wait_coordinated();
    coordinators(script);
    for version in 2..=9 {
        let group = format!("commits-{version}");
        script.ask("commit", version, &commit(&group, -1, "", "commits", 42));
        script.ask("commit: an unknown topic", version, &commit(&group, -1, "", "commits-no", 42));
        script.ask("commit: a bad topic", version, &commit(&group, -1, "", "a b", 42));
        script.ask("commit: no group", version, &commit("", -1, "", "commits", 42));
        script.ask("commit: a stranger", version, &commit(&group, 1, "nobody", "commits", 42));
        script.ask("commit: a generation", version, &commit(&group, 1, "", "commits", 42));
        let nobody = commit("commits-none", 1, "nobody", "commits", 42);
        script.ask("commit: an unknown group's member", version, &nobody);
        script.ask("commit: a negative offset", version, &commit(&group, -1, "", "commits", -5));
        let partition = |index, note: Option<String>| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(index)
                .with_committed_offset(1)
                .with_committed_metadata(note.map(|note| text(&note)))
        };
        let mut odd = |what: &str, partition| {
            script.ask(what, version, &of(&group, -1, "", "commits", partition));
        };
        odd("commit: an unknown partition", partition(7, None));
        odd("commit: a negative partition", partition(-1, None));
        odd("commit: too long a note", partition(1, Some("x".repeat(4_097))));
        odd("commit: no note", partition(1, None));
    }
    for version in 1..=9 {
        let known: Option<(&str, &[i32])> = Some(("commits", &[0, 1, 7]));
        script.ask("fetch", version, &fetch(version, "commits-9", known));
        script.ask("fetch: an unknown group", version, &fetch(version, "commits-none", known));
        let nothing: Option<(&str, &[i32])> = Some(("commits-nothing", &[0]));
        script.ask("fetch: an unknown topic", version, &fetch(version, "commits-9", nothing));
        script.ask("fetch: no group", version, &fetch(version, "", known));
        if version >= 2 {
            script.ask("fetch: all", version, &fetch(version, "commits-9", None));
            script.ask("fetch: all of nobody", version, &fetch(version, "commits-none", None));
        }
        if version >= 7 {
            let stable = fetch(version, "commits-9", known).with_require_stable(true);
            script.ask("fetch: what is stable", version, &stable);
        }
    }
    members(script);
    described(script);
    deletions(script);
}

fn coordinators(script: &mut Script) {
    for version in 0..=6 {
        let of = |key: &str, kind: i8| {
            let request = FindCoordinatorRequest::default().with_key_type(kind);
            if version < 4 {
                request.with_key(text(key))
            } else {
                request.with_coordinator_keys(vec![text(key)])
            }
        };
        script.ask("coordinator", version, &of("commits", 0));
        script.ask("coordinator: no group", version, &of("", 0));
        if version > 0 {
            script.ask("coordinator: of no kind", version, &of("commits", 9));
        }
    }
}

fn members(script: &mut Script) {
    let group = "commits-members";
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"\0\0\0\0\0\x01\0\x07commits\xff\xff\xff\xff"));
    let join = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(30_000)
        .with_rebalance_timeout_ms(30_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    let joined = script.quietly(3, &join);
    assert_eq!(joined.generation_id, 1, "{joined:?}");
    let member = joined.member_id.to_string();
    let committed = commit(group, 1, &member, "commits", 7);
    script.ask("member: commits before it is assigned", 7, &committed);
    script.ask("member: a stranger commits", 7, &commit(group, 1, "nobody", "commits", 7));
    let assigned = kafka_protocol::messages::SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(1)
        .with_member_id(text(&member));
    script.quietly(3, &assigned);
    script.ask("member: commits", 7, &committed);
    script.ask("member: another generation", 7, &commit(group, 2, &member, "commits", 7));
    script.ask("member: nobody in particular", 7, &commit(group, -1, "", "commits", 7));
    let named = committed.clone().with_group_instance_id(Some(text("desk")));
    script.ask("member: under a name", 7, &named);
    script.ask("member: deletes what it reads", 0, &delete(group, "commits", 0));
    let groups = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
    script.ask("member: its group is deleted", 2, &groups);
}

fn described(script: &mut Script) {
    for version in 0..=6 {
        let of =
            |name: &str| DescribeGroupsRequest::default().with_groups(vec![GroupId(text(name))]);
        script.ask("describe", version, &of("commits-members"));
        script.ask("describe: without members", version, &of("commits-9"));
        script.ask("describe: an unknown group", version, &of("commits-none"));
        script.ask("describe: no group", version, &of(""));
    }
    for version in 4..=5 {
        let of = |states: &[&str]| {
            let states = states.iter().map(|state| text(state)).collect();
            ListGroupsRequest::default().with_states_filter(states)
        };
        script.ask("list: preparing", version, &of(&["PreparingRebalance"]));
        script.ask("list: no such state", version, &of(&["Asleep"]));
        if version >= 5 {
            let types =
                |name: &str| ListGroupsRequest::default().with_types_filter(vec![text(name)]);
            script.ask("list: consumer groups", version, &types("consumer"));
            script.ask("list: no such type", version, &types("other"));
        }
    }
}

fn deletions(script: &mut Script) {
    script.ask("delete an offset", 0, &delete("commits-8", "commits", 0));
    script.ask("delete an offset again", 0, &delete("commits-8", "commits", 0));
    script.ask("delete an offset of no partition", 0, &delete("commits-8", "commits", 7));
    script.ask("delete an offset of no topic", 0, &delete("commits-8", "commits-no", 0));
    script.ask("delete an offset of no group", 0, &delete("commits-none", "commits", 0));
    script.ask("delete an offset of an empty group", 0, &delete("", "commits", 0));
    for version in 0..=2 {
        let of = |name: &str| {
            DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(name))])
        };
        script.quietly(7, &commit("commits-gone", -1, "", "commits", 1));
        script.ask("delete a group", version, &of("commits-gone"));
        script.ask("delete a group again", version, &of("commits-gone"));
        script.ask("delete an empty group", version, &of(""));
    }
}
