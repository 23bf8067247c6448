//! Every kind of record: what was encoded is decoded, the bytes never change, and noise is refused and never panics.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_proto::ids::{
    BookieId, BrokerId, ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId, Member, Offset,
    PartitionIndex, SealEpoch, Term, TopicId,
};
use geminga_proto::internal as wire;
use geminga_runtime::{Random, SeededRandom};
use prost::Message;

use super::*;
use crate::keys;
use crate::store::LeaseId;

/// One record of each kind, as it is stored.
pub(crate) struct Sample {
    /// The kind as a dump names it.
    pub(crate) kind: &'static str,
    pub(crate) key: String,
    pub(crate) value: Bytes,
    /// The value in hexadecimal. Never changes: such values are in the clusters that run.
    golden: &'static str,
    /// Decodes and encodes again.
    again: fn(&[u8]) -> Result<Bytes, Invalid>,
}

fn topic_id() -> TopicId {
    TopicId::from_random(1)
}

fn cluster_uuid() -> ClusterUuid {
    ClusterUuid::from_random(2)
}

fn bookie() -> BookieId {
    "bookie-1".parse().unwrap()
}

fn ledger() -> LedgerMeta {
    let member = |name: &str| Member { bookie: name.parse().unwrap(), incarnation: Incarnation(7) };
    LedgerMeta {
        id: LedgerId(0x0010_0000_0000_002a),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(3),
        qw: 2,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![
            Fragment { first_entry: EntryId(0), ensemble: vec![member("a"), member("b")] },
            Fragment { first_entry: EntryId(10), ensemble: vec![member("a"), member("c")] },
        ],
        last_entry: Some(EntryId(41)),
        length: 4096,
        entries_crc: Some(0xdead_beef),
        tier: Tier::Local,
        close_kind: Some(CloseKind::Recovered),
        recoverer: "broker-2".to_owned(),
        last_op: 0x0123_4567_89ab_cdef,
        custom: Custom {
            topic: topic_id(),
            namespace: "default".to_owned(),
            name: "flights".to_owned(),
            partition: 3,
            first_offset: 100,
            term: 2,
        },
        created_ms: 1_700_000_000_000,
        owner: "broker-1".to_owned(),
        degraded: true,
    }
}

/// One of each kind.
pub(crate) fn samples() -> Vec<Sample> {
    let mut all = of_topics();
    all.extend(of_servers());
    all
}

fn of_topics() -> Vec<Sample> {
    let topic = Topic {
        id: topic_id(),
        partitions: 12,
        write_quorum: 3,
        ack_quorum: 2,
        replication_factor: None,
        configs: BTreeMap::from([("retention.ms".to_owned(), "1000".to_owned())]),
        created_ms: 1_700_000_000_000,
    };
    let asked = Topic { replication_factor: Some(5), ..topic.clone() };
    let deleted = DeletedTopic {
        namespace: "default".to_owned(),
        name: "flights".to_owned(),
        partitions: 12,
        deleted_ms: 1_700_000_000_001,
    };
    let assign = Assign {
        partitions: vec![
            Assignment { broker: Some(BrokerId(0)), term: Term(1) },
            Assignment { broker: None, term: Term(5) },
        ],
    };
    let term = PartitionTerm { term: Term(5), broker: Some(BrokerId(2)) };
    let segment = Segment {
        ledger: LedgerId(42),
        base_offset: Offset(100),
        term: Term(5),
        end_offset: Some(Offset(200)),
        max_timestamp: Some(0),
        bytes: None,
    };
    vec![
        Sample {
            kind: "topic",
            key: keys::topic("default", "flights"),
            value: topic.encode(),
            golden: "0801121000000000000040008000000000000001180c22140a0c726574656e74696f6e2e6d73\
                     120431303030280330023880d095ffbc31",
            again: |value| Topic::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "topic",
            key: keys::topic("default", "asked"),
            value: asked.encode(),
            golden: "0801121000000000000040008000000000000001180c22140a0c726574656e74696f6e2e6d73\
                     120431303030280330023880d095ffbc314005",
            again: |value| Topic::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "deleted topic",
            key: keys::deleted_topic(topic_id()),
            value: deleted.encode(),
            golden: "0801120764656661756c741a07666c6967687473200c2881d095ffbc31",
            again: |value| DeletedTopic::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "assignment",
            key: keys::assign(topic_id(), 0),
            value: assign.encode(),
            golden: "080112021001120d08ffffffffffffffffff011005",
            again: |value| Assign::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "term",
            key: keys::term(topic_id(), PartitionIndex(3)),
            value: term.encode(),
            golden: "080110051802",
            again: |value| PartitionTerm::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "log start",
            key: keys::log_start(topic_id(), PartitionIndex(3)),
            value: LogStart { offset: Offset(77) }.encode(),
            golden: "0801104d",
            again: |value| LogStart::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "segment",
            key: keys::segment(topic_id(), PartitionIndex(3), 1),
            value: segment.encode(),
            golden: "0801102a1864200528c8013000",
            again: |value| Segment::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "segment",
            key: keys::segment(topic_id(), PartitionIndex(3), 1),
            value: Segment { bytes: Some(300), ..segment }.encode(),
            golden: "0801102a1864200528c801300038ac02",
            again: |value| Segment::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "ledger",
            key: keys::ledger(ledger().id),
            value: ledger().encode(),
            golden: "080110aa8080808080800818032003280230023801420e12050a0161100712050a0162100742\
                     10080a12050a0161100712050a01631007482950802058effdb6f50d620862726f6b65722d32\
                     6802721000000000000000000123456789abcdef7a2a0a100000000000004000800000000000\
                     0001120764656661756c741a07666c6967687473200328643002800180d095ffbc318a010862\
                     726f6b65722d31900101",
            again: |value| LedgerMeta::decode(ledger().id, value).map(|record| record.encode()),
        },
        Sample {
            kind: "ledger",
            key: keys::ledger(ledger().id),
            value: tiered(Tier::Uploading {
                attempt: 9,
                by: ledger().fragments[0].ensemble[1].clone(),
                started_ms: 1_700_000_000_003,
            }),
            golden: "080210aa8080808080800818032003280230023801420e12050a0161100712050a01621007\
                     4210080a12050a0161100712050a01631007482950802058effdb6f50d620862726f6b6572\
                     2d326802721000000000000000000123456789abcdef7a2a0a100000000000004000800000\
                     0000000001120764656661756c741a07666c6967687473200328643002800180d095ffbc31\
                     8a010862726f6b65722d31900101a201220801121000000000000000000000000000000009\
                     1a050a016210072083d095ffbc31",
            again: |value| LedgerMeta::decode(ledger().id, value).map(|record| record.encode()),
        },
        Sample {
            kind: "ledger",
            key: keys::ledger(ledger().id),
            value: tiered(Tier::Offloaded(object())),
            golden: "080210aa8080808080800818032003280230023801420e12050a0161100712050a01621007\
                     4210080a12050a0161100712050a01631007482950802058effdb6f50d620862726f6b6572\
                     2d326802721000000000000000000123456789abcdef7a2a0a100000000000004000800000\
                     0000000001120764656661756c741a07666c6967687473200328643002800180d095ffbc31\
                     8a010862726f6b65722d31900101a2014c080212100123456789abcdef0123456789abcdef\
                     2a360a0b73333a2f2f6275636b6574120c7072656669782f782e736567188827202a2defbe\
                     adde3205227461672238c0254084d095ffbc31",
            again: |value| LedgerMeta::decode(ledger().id, value).map(|record| record.encode()),
        },
        Sample {
            kind: "ledger",
            key: keys::ledger(ledger().id),
            value: tiered(Tier::Trimmed(object())),
            golden: "080210aa8080808080800818032003280230023801420e12050a0161100712050a01621007\
                     4210080a12050a0161100712050a01631007482950802058effdb6f50d620862726f6b6572\
                     2d326802721000000000000000000123456789abcdef7a2a0a100000000000004000800000\
                     0000000001120764656661756c741a07666c6967687473200328643002800180d095ffbc31\
                     8a010862726f6b65722d31900101a2014c080312100123456789abcdef0123456789abcdef\
                     2a360a0b73333a2f2f6275636b6574120c7072656669782f782e736567188827202a2defbe\
                     adde3205227461672238c0254084d095ffbc31",
            again: |value| LedgerMeta::decode(ledger().id, value).map(|record| record.encode()),
        },
        Sample {
            kind: "deletion",
            key: keys::deleting(ledger().id),
            value: Deleting { since_ms: 1_700_000_000_002 }.encode(),
            golden: "08011082d095ffbc31",
            again: |value| Deleting::decode(value).map(|record| record.encode()),
        },
    ]
}

fn object() -> TierObject {
    TierObject {
        attempt: 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef,
        bucket: "s3://bucket".to_owned(),
        key: "prefix/x.seg".to_owned(),
        size: 5000,
        entries: 42,
        object_crc: 0xdead_beef,
        etag: "\"tag\"".to_owned(),
        index_place: 4800,
        at_ms: 1_700_000_000_004,
    }
}

fn tiered(tier: Tier) -> Bytes {
    LedgerMeta { tier, ..ledger() }.encode()
}

fn of_servers() -> Vec<Sample> {
    let cluster = Cluster {
        uuid: cluster_uuid(),
        epoch: 1,
        group_shards: 8,
        next_broker: BrokerId(4),
        groups_topic: topic_id(),
        created_ms: 1_700_000_000_000,
        restored: None,
        features: Features::NONE,
    };
    let folds = Cluster { features: Features::NONE.with(Feature::Manifests), ..cluster.clone() };
    let features = Cluster { features: Features::ALL, ..cluster.clone() };
    let restored = Cluster {
        restored: Some(Restored { at_ms: 1_700_000_000_000, audited: true }),
        ..cluster.clone()
    };
    let broker = Broker {
        id: BrokerId(4),
        grpc_address: "127.0.0.1:7070".to_owned(),
        http_address: "127.0.0.1:7080".to_owned(),
        zone: "a".to_owned(),
        lease: LeaseId(0x77),
        started_ms: 1_700_000_000_000,
        load: None,
        kafka: Vec::new(),
        features: Features::ALL,
    };
    let listener = |name: &str, port| KafkaListener {
        name: name.to_owned(),
        host: "broker-4.example".to_owned(),
        port,
    };
    let kafka = vec![listener("default", 9092), listener("outside", 19_092)];
    let with_kafka = Broker { kafka, ..broker.clone() };
    let busiest = vec![(topic_id(), PartitionIndex(3), 1_000)];
    let loaded = Broker { load: Some(BrokerLoad { bytes: 1_500, busiest }), ..broker.clone() };
    let drain = Drain { since_ms: 1_700_000_000_000 };
    let moving = Move { to: BrokerId(5), asked_ms: 1_700_000_000_000 };
    let cookie = Cookie {
        cluster: cluster_uuid(),
        bookie: bookie(),
        disks: vec![CookieDisk {
            disk: DiskUuid::from_random(3),
            incarnation: Incarnation(7),
            boot_counter: 2,
            lost: vec![Incarnation(5), Incarnation(6)],
        }],
    };
    let live = LiveBookie {
        id: bookie(),
        address: "127.0.0.1:3181".to_owned(),
        http_address: String::new(),
        zone: "a".to_owned(),
        rack: "r".to_owned(),
        disks: vec![LiveDisk {
            incarnation: Incarnation(7),
            writable: true,
            free_bytes: 10,
            total_bytes: 20,
        }],
        lease: LeaseId(0x78),
        started_ms: 1_700_000_000_000,
        repair_rate: 0,
        objects_missing: Some(3),
        features: Features::ALL,
    };
    let under = Under {
        ledger: LedgerId(42),
        members: vec![Member { bookie: "a".parse().unwrap(), incarnation: Incarnation(7) }],
        replace: vec![],
        damaged: vec![],
        misplaced: vec![],
        copies: None,
        lost_entry: None,
        reason: UnderReason::Replaced,
        created_ms: 1_700_000_000_000,
    };
    let alloc = wire::AllocRecord { format: FORMAT, next: 1001 };
    vec![
        Sample {
            kind: "cluster",
            key: keys::CLUSTER.to_owned(),
            value: cluster.encode(),
            golden: "0801121000000000000040008000000000000002180120082804321000000000000040008000\
                     0000000000013880d095ffbc31",
            again: |value| Cluster::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "cluster",
            key: keys::CLUSTER.to_owned(),
            value: folds.encode(),
            golden: "0803121000000000000040008000000000000002180120082804321000000000000040008000\
                     0000000000013880d095ffbc31a00101",
            again: |value| Cluster::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "cluster",
            key: keys::CLUSTER.to_owned(),
            value: features.encode(),
            golden: "0804121000000000000040008000000000000002180120082804321000000000000040008000\
                     0000000000013880d095ffbc31a00101aa01020203",
            again: |value| Cluster::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "cluster",
            key: keys::CLUSTER.to_owned(),
            value: restored.encode(),
            golden: "0802121000000000000040008000000000000002180120082804321000000000000040008000\
                     0000000000013880d095ffbc314080d095ffbc314801",
            again: |value| Cluster::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "broker",
            key: keys::broker(BrokerId(4)),
            value: broker.encode(),
            golden: "080110041a0e3132372e302e302e313a37303730220e3132372e302e302e313a373038302a01\
                     6130773880d095ffbc31a00101aa0103010203",
            again: |value| Broker::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "broker",
            key: keys::broker(BrokerId(4)),
            value: loaded.encode(),
            golden: "080110041a0e3132372e302e302e313a37303730220e3132372e302e302e313a373038302a01\
                     6130773880d095ffbc31421c08dc0b12170a1000000000000040008000000000\
                     000001100318e807a00101aa0103010203",
            again: |value| Broker::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "broker",
            key: keys::broker(BrokerId(4)),
            value: with_kafka.encode(),
            golden: "080110041a0e3132372e302e302e313a37303730220e3132372e302e302e313a373038302a01\
                     6130773880d095ffbc31\
                     4a1e0a0764656661756c74121062726f6b65722d342e6578616d706c651884474a1f0a076f75\
                     7473696465121062726f6b65722d342e6578616d706c6518949501a00101aa0103010203",
            again: |value| Broker::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "drain",
            key: keys::drain(BrokerId(4)),
            value: drain.encode(),
            golden: "08011080d095ffbc31",
            again: |value| Drain::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "move",
            key: keys::move_of(topic_id(), PartitionIndex(3)),
            value: moving.encode(),
            golden: "080110051880d095ffbc31",
            again: |value| Move::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "quota",
            key: keys::quota(Some("flights/1")),
            value: Quota {
                producer_byte_rate: Some(5_242_880),
                consumer_byte_rate: None,
                request_rate: Some(100),
            }
            .encode(),
            golden: "0801108080c0022064",
            again: |value| Quota::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "coordinator",
            key: keys::COORDINATOR.to_owned(),
            value: Coordinator { broker: BrokerId(4) }.encode(),
            golden: "08011004",
            again: |value| Coordinator::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "revocation",
            key: keys::REVOKING.to_owned(),
            value: Revoking { broker: BrokerId(4), by: BrokerId(5) }.encode(),
            golden: "080110041805",
            again: |value| Revoking::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "cookie",
            key: keys::bookie_cookie(&bookie()),
            value: cookie.encode(),
            golden: "08011210000000000000400080000000000000021a08626f6f6b69652d31221a0a1000000000\
                     0000400080000000000000031007180222020506",
            again: |value| Cookie::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "live bookie",
            key: keys::bookie_live(&bookie()),
            value: live.encode(),
            golden: "08011208626f6f6b69652d311a0e3132372e302e302e313a333138312a01613201723a080807\
                     1001180a201440784880d095ffbc315803a00101aa0103010203",
            again: |value| LiveBookie::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "watermark",
            key: keys::bookie_watermark(&bookie()),
            value: Watermark {
                disks: vec![DiskWatermark { incarnation: Incarnation(7), frame: 300 }],
            }
            .encode(),
            golden: "08011205080710ac02",
            again: |value| Watermark::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "object store",
            key: keys::object_store("s3://bucket/prefix"),
            value: UsedStore { id: 0x0102_0304, pending: false }.encode(),
            golden: "0801121000000000000000000000000001020304",
            again: |value| UsedStore::decode(value).map(UsedStore::encode),
        },
        Sample {
            kind: "under-replication mark",
            key: keys::under(LedgerId(42)),
            value: under.encode(),
            golden: "0801102a1a050a0161100720012880d095ffbc31",
            again: |value| Under::decode(LedgerId(42), value).map(|record| record.encode()),
        },
        Sample {
            kind: "decommission",
            key: keys::bookie_draining(&bookie()),
            value: DrainingBookie { since_ms: 300 }.encode(),
            golden: "080110ac02",
            again: |value| DrainingBookie::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "absent bookie",
            key: keys::bookie_absent(&bookie()),
            value: AbsentBookie { since_ms: 300, zone: "a".to_owned() }.encode(),
            golden: "080110ac021a0161",
            again: |value| AbsentBookie::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "repair lock",
            key: keys::under_lock(LedgerId(42)),
            value: Holder { bookie: bookie() }.encode(),
            golden: "08011208626f6f6b69652d31",
            again: |value| Holder::decode(value).map(|record| record.encode()),
        },
        Sample {
            kind: "ledger ids",
            key: keys::alloc(0),
            value: alloc.encode_to_vec().into(),
            golden: "080110e907",
            again: |value| {
                let record = wire::AllocRecord::decode(value)
                    .map_err(|error| Invalid::Encoding(error.to_string()))?;
                check_format(record.format).map(|()| record.encode_to_vec().into())
            },
        },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
    digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
}

#[test]
fn what_was_encoded_is_decoded() {
    for Sample { kind, value, again, .. } in samples() {
        assert_eq!(again(&value), Ok(value), "{kind}");
    }
}

#[test]
fn the_bytes_of_a_record_never_change() {
    let wrong: Vec<String> = samples()
        .into_iter()
        .filter(|sample| hex(&sample.value) != sample.golden)
        .map(|sample| format!("{}: {}", sample.kind, hex(&sample.value)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_record_of_the_future_is_refused_with_what_to_do() {
    for Sample { kind, value, again, .. } in samples() {
        // Field 1 of every record is its format: a later one of the same number wins.
        let mut future = value.to_vec();
        future.extend([0x08, 0x05]);
        let error = again(&future).unwrap_err();
        assert_eq!(error, Invalid::Format(5), "{kind}");
        assert!(error.to_string().contains("upgrade"), "{error}");
    }
}

#[test]
fn noise_is_refused_or_valid_and_never_a_panic() {
    let seed = 42;
    let random = SeededRandom::new(seed);
    for Sample { kind, value, again, .. } in samples() {
        for round in 0..500 {
            let mut noise = value.to_vec();
            for _ in 0..=random.below(3) {
                let at = usize::try_from(random.below(noise.len() as u64)).unwrap();
                match random.below(3) {
                    0 => noise.truncate(at.max(1)),
                    1 => noise[at] = random.next_u64().to_le_bytes()[0],
                    _ => noise.insert(at, random.next_u64().to_le_bytes()[0]),
                }
            }
            if let Ok(valid) = again(&noise) {
                assert_eq!(again(&valid), Ok(valid), "{kind}: seed {seed}, round {round}");
            }
        }
    }
}

/// Registrations of earlier versions are read, and say what these versions read.
#[test]
fn earlier_registrations_say_what_they_read() {
    let broker = "080110041a0e3132372e302e302e313a37303730220e3132372e302e302e313a373038302a01\
                  6130773880d095ffbc31";
    let bookie = "08011208626f6f6b69652d311a0e3132372e302e302e313a333138312a01613201723a080807\
                  1001180a201440784880d095ffbc31";
    let manifests = Features::NONE.with(Feature::Manifests);
    for (field, features) in [
        ("", Features::NONE),
        ("a00101", manifests),
        // A later version, which reads more than this one knows.
        ("a00101aa01020163", manifests),
    ] {
        let [broker, bookie] = [broker, bookie].map(|value| unhex(&format!("{value}{field}")));
        assert_eq!(Broker::decode(&broker).unwrap().features, features, "{field}");
        assert_eq!(LiveBookie::decode(&bookie).unwrap().features, features, "{field}");
    }
}

/// A cluster that uses what this version does not know is none of its.
#[test]
fn a_cluster_with_an_unknown_feature_is_refused_with_what_to_do() {
    let mut value = of_servers()[0].value.to_vec();
    value.extend(unhex("0804aa01020263"));
    let error = Cluster::decode(&value).unwrap_err();
    assert_eq!(error, Invalid::Feature(0x63));
    assert!(error.to_string().contains("upgrade"), "{error}");
}
