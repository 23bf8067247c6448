//! Classic groups: joining in every version, each step out of turn, static members.

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest,
};

use crate::script::{Script, text};

/// Versions from which a member without a name is given one first.
const NAMED_SINCE: i16 = 4;
const LEAVE_BATCHED_SINCE: i16 = 3;

fn protocol(name: &str, metadata: &'static [u8]) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol::default()
        .with_name(text(name))
        .with_metadata(Bytes::from_static(metadata))
}

fn join(version: i16, group: &str, member: &str) -> JoinGroupRequest {
    let request = JoinGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_session_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol("range", b"a"), protocol("roundrobin", b"b")]);
    if version >= 1 { request.with_rebalance_timeout_ms(10_000) } else { request }
}

fn sync(group: &str, generation: i32, member: &str, to: &[&str]) -> SyncGroupRequest {
    let assignment = |member: &&str| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::from_static(b"yours"))
    };
    SyncGroupRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(text(member))
        .with_assignments(to.iter().map(assignment).collect())
}

fn beat(group: &str, generation: i32, member: &str) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(GroupId(text(group)))
        .with_generation_id(generation)
        .with_member_id(text(member))
}

fn leave(version: i16, group: &str, member: &str) -> LeaveGroupRequest {
    let request = LeaveGroupRequest::default().with_group_id(GroupId(text(group)));
    if version < LEAVE_BATCHED_SINCE {
        return request.with_member_id(text(member));
    }
    request.with_members(vec![MemberIdentity::default().with_member_id(text(member))])
}

/// The first member of a group, in its first generation, before it is assigned anything.
fn joined(script: &mut Script, group: &str) -> String {
    let first = script.quietly(5, &join(5, group, ""));
    let name = first.member_id.to_string();
    let second = script.quietly(5, &join(5, group, &name));
    assert_eq!((second.error_code, second.generation_id), (0, 1), "{second:?}");
    name
}

pub(super) fn play(script: &mut Script) {
    script.wait_coordinated();
    for version in 0..=9 {
        every_version(script, version);
    }
    refusals(script);
    out_of_turn(script);
    two_members(script);
    fixed_members(script);
}

fn every_version(script: &mut Script, version: i16) {
    let group = format!("groups-{version}");
    let what = |step: &str| format!("{step}, join {version}");
    let first = script.ask(&what("a member"), version, &join(version, &group, ""));
    let mut member = first.expect("an answer").member_id.to_string();
    if version >= NAMED_SINCE {
        let again = join(version, &group, &member);
        let joined = script.ask(&what("with its name"), version, &again);
        member = joined.expect("an answer").member_id.to_string();
    }
    let (beats, leaves, syncs) = (version.min(4), version.min(5), version.min(5));
    script.ask(&what("too early a heartbeat"), beats, &beat(&group, 1, &member));
    let mut request = sync(&group, 1, &member, &[&member]);
    if syncs >= 5 {
        request.protocol_type = Some(text("consumer"));
        request.protocol_name = Some(text("range"));
    }
    script.ask(&what("assigned"), syncs, &request);
    script.ask(&what("assigned again"), syncs, &request);
    script.ask(&what("a heartbeat"), beats, &beat(&group, 1, &member));
    let other = beat(&group, 2, &member);
    script.ask(&what("a heartbeat of another generation"), beats, &other);
    script.ask(&what("a heartbeat of a stranger"), beats, &beat(&group, 1, "nobody"));
    script.ask(&what("a stranger leaves"), leaves, &leave(leaves, &group, "nobody"));
    script.ask(&what("leaves"), leaves, &leave(leaves, &group, &member));
    script.ask(&what("leaves again"), leaves, &leave(leaves, &group, &member));
    script.ask(&what("a heartbeat after it left"), beats, &beat(&group, 1, &member));
}

fn refusals(script: &mut Script) {
    let version = 5;
    script.ask("join: no group", version, &join(version, "", ""));
    script.ask("join: a stranger's name", version, &join(version, "groups-no", "nobody"));
    let short = join(version, "groups-no", "").with_session_timeout_ms(10);
    script.ask("join: too short a session", version, &short);
    let long = join(version, "groups-no", "").with_session_timeout_ms(i32::MAX);
    script.ask("join: too long a session", version, &long);
    let none = join(version, "groups-no", "").with_protocols(vec![]);
    script.ask("join: no protocols", version, &none);
    let typeless = join(version, "groups-no", "").with_protocol_type(text(""));
    script.ask("join: no type of protocol", version, &typeless);
    for version in 0..=4 {
        script.ask("heartbeat: an unknown group", version, &beat("groups-none", 1, "nobody"));
        script.ask("heartbeat: no group", version, &beat("", 1, "nobody"));
        script.ask("heartbeat: no member", version, &beat("groups-none", 1, ""));
    }
    for version in 0..=5 {
        script.ask("leave: an unknown group", version, &leave(version, "groups-none", "nobody"));
        script.ask("leave: no group", version, &leave(version, "", "nobody"));
        let mut unknown = sync("groups-none", 1, "nobody", &[]);
        let mut no_group = sync("", 1, "nobody", &[]);
        if version >= 5 {
            for request in [&mut unknown, &mut no_group] {
                request.protocol_type = Some(text("consumer"));
                request.protocol_name = Some(text("range"));
            }
        }
        script.ask("sync: an unknown group", version, &unknown);
        script.ask("sync: no group", version, &no_group);
    }
}

fn out_of_turn(script: &mut Script) {
    let (group, version) = ("groups-turns", 3);
    let member = joined(script, group);
    script.ask("turns: a heartbeat before it is assigned", version, &beat(group, 1, &member));
    script.ask("turns: a wrong generation's sync", version, &sync(group, 7, &member, &[]));
    script.ask("turns: a stranger's sync", version, &sync(group, 1, "nobody", &[]));
    let mut typed = sync(group, 1, &member, &[&member]);
    typed.protocol_type = Some(text("connect"));
    typed.protocol_name = Some(text("range"));
    script.ask("turns: a sync of another type", 5, &typed);
    typed.protocol_type = Some(text("consumer"));
    typed.protocol_name = Some(text("roundrobin"));
    script.ask("turns: a sync of another protocol", 5, &typed);
    script.ask("turns: joins again before it is assigned", 5, &join(5, group, &member));
    let other = join(5, group, "").with_protocols(vec![protocol("sticky", b"c")]);
    script.ask("turns: another without a protocol in common", 5, &other);
    let other = join(5, group, "").with_protocol_type(text("connect"));
    script.ask("turns: another of another type", 5, &other);
    script.ask("turns: assigned to nobody", version, &sync(group, 1, &member, &[]));
    script.ask("turns: a heartbeat when it is", version, &beat(group, 1, &member));
    script.ask("turns: the leader joins again", 5, &join(5, group, &member));
    script.ask("turns: a heartbeat of the generation before", version, &beat(group, 1, &member));
    script.ask("turns: leaves", 3, &leave(3, group, &member));
}

fn two_members(script: &mut Script) {
    let (group, version) = ("groups-two", 3);
    let first = joined(script, group);
    script.ask("two: the first is assigned", version, &sync(group, 1, &first, &[&first]));
    let named = script.ask_by(1, "two: a second", 5, &join(5, group, ""));
    let second = named.expect("an answer").member_id.to_string();
    // Answered when the first joins, too.
    script.send(1, 5, &join(5, group, &second));
    geminga_harness::wait::until("the rebalance", || {
        let heard = script.quietly(version, &beat(group, 1, &first));
        (heard.error_code != 0).then_some(())
    });
    script.ask("two: a heartbeat while it rebalances", version, &beat(group, 1, &first));
    script.ask("two: a sync while it rebalances", version, &sync(group, 1, &first, &[]));
    script.ask("two: the first joins", 5, &join(5, group, &first));
    script.receive::<JoinGroupRequest>(1, "two: the second has joined", 5);
    script.ask("two: a heartbeat before all is assigned", version, &beat(group, 2, &first));
    script.send(1, version, &sync(group, 2, &second, &[]));
    let both = sync(group, 2, &first, &[&first, &second]);
    script.ask("two: the leader assigns", version, &both);
    script.receive::<SyncGroupRequest>(1, "two: the second is assigned", version);
    script.ask("two: a follower joins again, unchanged", 5, &join(5, group, &second));
    script.ask("two: its heartbeat", version, &beat(group, 2, &second));
    script.ask("two: the second leaves", 3, &leave(3, group, &second));
    script.ask("two: a heartbeat after one left", version, &beat(group, 2, &first));
    script.ask("two: the first leaves", 3, &leave(3, group, &first));
}

fn fixed_members(script: &mut Script) {
    let (group, name) = ("groups-fixed", Some(text("desk")));
    let joins = |member: &str| join(5, group, member).with_group_instance_id(name.clone());
    let first = script.ask("fixed: joins", 5, &joins("")).expect("an answer");
    let first = first.member_id.to_string();
    let request = sync(group, 1, &first, &[&first]).with_group_instance_id(name.clone());
    script.ask("fixed: assigned", 3, &request);
    let beats = |member: &str| beat(group, 1, member).with_group_instance_id(name.clone());
    script.ask("fixed: a heartbeat", 3, &beats(&first));
    let again = script.ask("fixed: joins again without its id", 5, &joins("")).expect("an answer");
    let second = again.member_id.to_string();
    script.ask("fixed: a heartbeat of the one before", 3, &beats(&first));
    script.ask("fixed: a sync of the one before", 3, &request);
    script.ask("fixed: joins with the id of the one before", 5, &joins(&first));
    script.ask("fixed: a heartbeat of the new one", 3, &beats(&second));
    let unknown = beat(group, 1, &second).with_group_instance_id(Some(text("elsewhere")));
    script.ask("fixed: a heartbeat under another name", 3, &unknown);
    let skipping = join(9, group, "").with_group_instance_id(name.clone());
    script.ask("fixed: joins again in version 9", 9, &skipping);
    let away = |instance: &str| {
        let who = MemberIdentity::default().with_group_instance_id(Some(text(instance)));
        LeaveGroupRequest::default().with_group_id(GroupId(text(group))).with_members(vec![who])
    };
    script.ask("fixed: an unknown name leaves", 3, &away("elsewhere"));
    script.ask("fixed: is taken out by name", 3, &away("desk"));
    script.ask("fixed: is taken out again", 3, &away("desk"));
}
