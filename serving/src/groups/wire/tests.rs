//! Classic groups as tools see them.

use super::*;
use crate::groups::classic::Protocol;
use crate::groups::consumer_protocol::tests::subscribed;
use crate::groups::core::Phase;

/// A classic group of one member that says and is assigned these bytes.
fn described(metadata: Vec<u8>, assignment: &'static [u8]) -> v1::DescribeGroupResponse {
    let classic = ClassicRecord {
        instance: Some("i".into()),
        client_host: "h".to_owned(),
        protocols: vec![Protocol { name: "range".into(), metadata: metadata.into() }],
        assignment: Bytes::from_static(assignment),
    };
    let member = MemberRecord {
        member: "m".into(),
        client_id: "c".to_owned(),
        topics: Vec::new(),
        session_timeout_ms: 6_000,
        rebalance_timeout_ms: 6_000,
        assigned: Assignment::new(),
        spoken: None,
        classic: Some(classic),
    };
    let summary = Summary {
        group: "g".into(),
        phase: Phase::Completing,
        members: 1,
        generation: 3,
        kind: Some(Kind::Classic),
        protocol_type: "consumer".to_owned(),
    };
    let protocol = "range".into();
    description(
        Description { summary, protocol, members: vec![member], offsets: Vec::new() },
        String::new(),
    )
}

#[test]
fn what_a_consumer_subscribes_to_and_is_assigned_is_shown() {
    let assigned = [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 2, 255, 255, 255, 255];
    let shown = described(subscribed(&["t", "u"]), Box::leak(Box::new(assigned)));
    let summary = shown.group.unwrap();
    assert_eq!((&*summary.state, &*summary.protocol), ("completing", "classic"));
    assert_eq!((&*summary.protocol_type, &*shown.protocol_name), ("consumer", "range"));
    let member = &shown.members[0];
    assert_eq!((&*member.instance_id, &*member.client_host), ("i", "h"));
    assert_eq!(member.topics, ["t", "u"]);
    assert_eq!(member.assigned, [v1::GroupPartition { topic: "t".to_owned(), partition: 2 }]);
    assert!(member.assignment.is_empty());
}

#[test]
fn what_others_are_assigned_is_shown_as_bytes() {
    let shown = described(b"connect".to_vec(), b"work");
    let member = &shown.members[0];
    assert_eq!((member.topics.len(), member.assigned.len()), (0, 0));
    assert_eq!(&member.assignment[..], b"work");
}
