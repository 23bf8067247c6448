//! Commands and snapshot parts: read back, refused when newer, and readable for ever.

use proptest::prelude::*;

use super::*;

fn committed() -> impl Strategy<Value = (TopicPartition, Committed)> {
    let names = ("[a-z]{1,8}", any::<u32>(), ".{0,16}");
    let numbers = (any::<i64>(), any::<Option<i32>>(), any::<i64>(), any::<Option<i64>>());
    (names, numbers, any::<Option<u128>>()).prop_map(
        |((topic, partition, metadata), (offset, leader_epoch, committed_ms, expires_ms), id)| {
            let tp = TopicPartition { topic: topic.into(), partition };
            let topic_id = id.map(TopicId::from_random);
            let committed =
                Committed { offset, leader_epoch, metadata, committed_ms, topic_id, expires_ms };
            (tp, committed)
        },
    )
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from)
}

fn classic_record() -> impl Strategy<Value = ClassicRecord> {
    let protocol = ("[a-z]{1,8}", bytes())
        .prop_map(|(name, metadata)| Protocol { name: name.into(), metadata });
    let protocols = proptest::collection::vec(protocol, 0..3);
    (proptest::option::of("[a-z]{1,4}"), "[a-z]{0,4}", protocols, bytes()).prop_map(
        |(instance, client_host, protocols, assignment)| ClassicRecord {
            instance: instance.map(Into::into),
            client_host,
            protocols,
            assignment,
        },
    )
}

fn spoken() -> impl Strategy<Value = Spoken> {
    any::<(u64, u64)>().prop_map(|(session, sequence)| Spoken { session, sequence })
}

fn member() -> impl Strategy<Value = MemberRecord> {
    let topics = proptest::collection::btree_map(
        "[a-z]{1,8}",
        proptest::collection::vec(any::<u32>(), 0..4),
        0..4,
    );
    let times = (any::<u32>(), any::<u32>());
    let kinds = (proptest::option::of(spoken()), proptest::option::of(classic_record()));
    ("[a-z]{1,8}", "[a-z]{0,8}", topics, times, kinds).prop_map(
        |(member, client_id, topics, times, (spoken, classic))| MemberRecord {
            member: member.into(),
            client_id,
            topics: topics.keys().map(|t| t.as_str().into()).collect(),
            session_timeout_ms: times.0,
            rebalance_timeout_ms: times.1,
            assigned: topics.into_iter().map(|(t, p)| (t.into(), p)).collect(),
            spoken,
            classic,
        },
    )
}

fn generation() -> impl Strategy<Value = Generation> {
    let kind = prop_oneof![Just(None), Just(Some(Kind::Stream)), Just(Some(Kind::Classic))];
    let classic = ("[a-z]{1,8}", "[a-z]{0,8}", "[a-z]{0,8}", any::<bool>()).prop_map(
        |(protocol_type, protocol, leader, assigned)| ClassicGeneration {
            protocol_type,
            protocol: protocol.into(),
            leader: leader.into(),
            assigned,
        },
    );
    let members = proptest::collection::vec(member(), 0..4);
    (any::<i32>(), kind, members, proptest::option::of(classic), any::<i64>()).prop_map(
        |(generation, kind, members, classic, since_ms)| Generation {
            generation,
            kind,
            members,
            classic,
            since_ms,
        },
    )
}

proptest! {
    #[test]
    fn commands_are_read_back(
        group in "[a-z]{1,8}",
        generation in generation(),
        offsets in proptest::collection::vec(committed(), 0..5),
        by in proptest::option::of(("[a-z]{1,8}", spoken())),
    ) {
        let by = by.map(|(member, spoken)| (member.into(), spoken));
        let forgotten = offsets.iter().map(|(tp, _)| tp.clone()).collect();
        let changes = [
            Change::Generation(generation.clone()),
            Change::Offsets(offsets.clone(), by),
            Change::Forgotten(forgotten),
            Change::Deleted,
        ];
        for change in changes {
            let bytes = encode(&group, &change);
            let (name, back) = decode(&bytes).unwrap();
            prop_assert_eq!((&*name, back), (group.as_str(), change));
        }
        let pieces = vec![Piece { group: group.into(), generation: Some(generation), offsets }];
        prop_assert_eq!(decode_part(&encode_part(&pieces)).unwrap(), pieces);
    }

    #[test]
    fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&noise);
        let _ = decode_part(&noise);
    }
}

#[test]
fn newer_formats_are_refused() {
    let command = wire::GroupCommand { format: 3, group: "g".to_owned(), change: None };
    assert_eq!(decode(&command.encode_to_vec()), Err(DecodeError::Newer(3)));
    let part = wire::GroupSnapshotPart { format: 9, groups: Vec::new() };
    assert_eq!(decode_part(&part.encode_to_vec()), Err(DecodeError::Newer(9)));
}

/// What is stored today must stay readable, and is written the same.
fn check_golden(change: &Change, golden: &str) {
    let bytes = encode("g", change);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, golden);
    assert_eq!(decode(&bytes), Ok(("g".into(), change.clone())));
}

fn golden_offset() -> (TopicPartition, Committed) {
    let tp = TopicPartition { topic: "t".into(), partition: 3 };
    let committed = Committed {
        offset: 42,
        leader_epoch: Some(7),
        metadata: "m".to_owned(),
        committed_ms: 1000,
        topic_id: None,
        expires_ms: None,
    };
    (tp, committed)
}

fn golden_generation() -> Generation {
    let member = MemberRecord {
        member: "m".into(),
        client_id: "c".to_owned(),
        topics: vec!["t".into()],
        session_timeout_ms: 3,
        rebalance_timeout_ms: 4,
        assigned: Assignment::from([("t".into(), vec![0, 1])]),
        spoken: None,
        classic: None,
    };
    Generation {
        generation: 5,
        kind: Some(Kind::Stream),
        members: vec![member],
        classic: None,
        since_ms: 0,
    }
}

#[test]
fn golden_format_1() {
    let change = Change::Offsets(vec![golden_offset()], None);
    check_golden(&change, "080112016722110a0f0a01741003182a20072a016d30e807");
    check_golden(
        &Change::Generation(golden_generation()),
        "08011201671a220805120673747265616d1a160a016d1201631a01742003280432070a017412020001",
    );
}

/// Brokers of the former version read over who spoke for a member.
#[test]
fn golden_spoken() {
    let spoken = Spoken { session: 0x0102_0304_0506_0708, sequence: 9 };
    let by = Some(("m".into(), spoken));
    check_golden(
        &Change::Offsets(vec![golden_offset()], by.clone()),
        "080112016722210a0f0a01741003182a20072a016d30e80712016d1a0b0908070605040302011009",
    );
    check_golden(
        &Change::Offsets(Vec::new(), by),
        "0801120167221012016d1a0b0908070605040302011009",
    );
    let mut generation = golden_generation();
    generation.members[0].spoken = Some(spoken);
    check_golden(
        &Change::Generation(generation),
        "08011201671a2f0805120673747265616d1a230a016d1201631a01742003280432070a017412020001420b0908070605040302011009",
    );
}

/// What a broker of the former version cannot read is not in its format.
#[test]
fn golden_format_2() {
    let (tp, mut committed) = golden_offset();
    committed.expires_ms = Some(2000);
    check_golden(
        &Change::Offsets(vec![(tp.clone(), committed)], None),
        "080212016722140a120a01741003182a20072a016d30e80740d00f",
    );
    let next = TopicPartition { partition: 4, ..tp.clone() };
    check_golden(&Change::Forgotten(vec![tp, next]), "080212016732090a070a017412020304");
    let protocol = Protocol { name: "range".into(), metadata: Bytes::from_static(b"meta") };
    let member = MemberRecord {
        member: "m".into(),
        client_id: "c".to_owned(),
        topics: Vec::new(),
        session_timeout_ms: 3,
        rebalance_timeout_ms: 4,
        assigned: Assignment::new(),
        spoken: None,
        classic: Some(ClassicRecord {
            instance: Some("i".into()),
            client_host: "h".to_owned(),
            protocols: vec![protocol],
            assignment: Bytes::from_static(b"mine"),
        }),
    };
    let generation = Generation {
        generation: 5,
        kind: Some(Kind::Classic),
        members: vec![member],
        classic: Some(ClassicGeneration {
            protocol_type: "consumer".to_owned(),
            protocol: "range".into(),
            leader: "m".into(),
            assigned: true,
        }),
        since_ms: 1000,
    };
    check_golden(
        &Change::Generation(generation.clone()),
        "08021201671a4f08051207636c61737369631a270a016d120163200328043a1b0a01691201681a0d0a0572616e676512046d65746122046d696e6522160a08636f6e73756d6572120572616e67651a016d200128e807",
    );
    let pieces = [Piece { group: "g".into(), generation: Some(generation), offsets: Vec::new() }];
    assert_eq!(encode_part(&pieces)[..2], [8, 2]);
}
