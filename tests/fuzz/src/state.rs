//! What brokers keep in their logs beside records: commands and snapshots of groups, and of a partition's idempotent producers.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_proto::ids::TopicId;
use geminga_serving::groups::classic::Protocol;
use geminga_serving::groups::core::Change;
use geminga_serving::groups::record::{
    self, ClassicGeneration, ClassicRecord, Generation, MemberRecord, Piece,
};
use geminga_serving::groups::types::{Committed, Kind, Spoken, TopicPartition};
use geminga_serving::partition::decoders;

use crate::Target;

/// A command of a group.
pub(crate) const COMMAND: Target = Target { name: "group_command", run: command, seeds: commands };
/// A part of a snapshot of groups.
pub(crate) const GROUPS: Target = Target { name: "group_snapshot", run: part, seeds: groups };
/// A part of a snapshot of producers.
pub(crate) const PRODUCERS: Target = Target {
    name: "producers_snapshot",
    run: decoders::producers,
    seeds: decoders::producers_seeds,
};
/// What stands before such a part.
pub(crate) const PLACE: Target =
    Target { name: "snapshot_place", run: decoders::place, seeds: decoders::place_seeds };
/// What an entry says of the batches of producers in it.
pub(crate) const INDEX: Target =
    Target { name: "batch_index", run: decoders::index, seeds: decoders::index_seeds };

/// Of the member of a stream.
const SPOKEN: Spoken = Spoken { session: 1 << 40, sequence: 3 };

fn command(bytes: &[u8]) {
    let Ok((group, change)) = record::decode(bytes) else { return };
    assert_eq!(record::decode(&record::encode(&group, &change)), Ok((group, change)));
}

fn part(bytes: &[u8]) {
    let Ok(pieces) = record::decode_part(bytes) else { return };
    assert_eq!(record::decode_part(&record::encode_part(&pieces)), Ok(pieces));
}

fn of_streams() -> Generation {
    let member = MemberRecord {
        member: "m".into(),
        client_id: "client".to_owned(),
        topics: vec!["a".into(), "b".into()],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 60_000,
        assigned: BTreeMap::from([("a".into(), vec![0, 1]), ("b".into(), vec![7])]),
        spoken: Some(SPOKEN),
        classic: None,
    };
    Generation {
        generation: 3,
        kind: Some(Kind::Stream),
        members: vec![member],
        classic: None,
        since_ms: 9,
    }
}

fn of_kafka() -> Generation {
    let protocol = Protocol { name: "range".into(), metadata: Bytes::from_static(b"opaque") };
    let member = MemberRecord {
        topics: Vec::new(),
        assigned: BTreeMap::new(),
        classic: Some(ClassicRecord {
            instance: Some("static".into()),
            client_host: "/127.0.0.1".to_owned(),
            protocols: vec![protocol],
            assignment: Bytes::from_static(b"assigned"),
        }),
        ..of_streams().members[0].clone()
    };
    let classic = ClassicGeneration {
        protocol_type: "consumer".to_owned(),
        protocol: "range".into(),
        leader: "m".into(),
        assigned: true,
    };
    Generation {
        kind: Some(Kind::Classic),
        members: vec![member],
        classic: Some(classic),
        ..of_streams()
    }
}

fn offset(partition: u32) -> (TopicPartition, Committed) {
    let committed = Committed {
        offset: 77,
        leader_epoch: Some(2),
        metadata: "words".to_owned(),
        committed_ms: 1_700_000_000_000,
        topic_id: Some(TopicId::from_random(1)),
        expires_ms: (partition > 0).then_some(5),
    };
    (TopicPartition { topic: "a".into(), partition }, committed)
}

fn commands() -> Vec<Bytes> {
    let changes = [
        Change::Generation(of_streams()),
        Change::Generation(of_kafka()),
        Change::Offsets(vec![offset(0), offset(1)], Some(("m".into(), SPOKEN))),
        Change::Offsets(vec![offset(0)], None),
        Change::Forgotten(vec![offset(0).0, offset(1).0]),
        Change::Deleted,
    ];
    changes.iter().map(|change| record::encode("group", change)).collect()
}

fn groups() -> Vec<Bytes> {
    let piece = |generation, partition| Piece {
        group: "group".into(),
        generation,
        offsets: vec![offset(partition)],
    };
    let all = [piece(Some(of_streams()), 0), piece(Some(of_kafka()), 1), piece(None, 0)];
    vec![record::encode_part(&all[..1]), record::encode_part(&all)]
}
