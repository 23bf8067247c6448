//! Keys and values for people: each key's kind by its shape, its value decoded into named fields. For tools; nothing
//! decides by it. A value that cannot be decoded is shown as it is, with what is wrong.

use geminga_proto::ids::Offset;
use geminga_proto::internal as wire;
use prost::Message;

use crate::keys;
use crate::record::{
    AbsentBookie, Assign, Assignment, Broker, BrokerLoad, Cluster, Cookie, CookieDisk, Coordinator,
    DeletedTopic, Deleting, DiskWatermark, Drain, DrainingBookie, Fragment, Holder, Invalid,
    LedgerMeta, LiveBookie, LiveDisk, LogStart, Manifest, ManifestPart, Move, PartitionTerm, Quota,
    Revoking, Segment, Tier, TierObject, Topic, Under, UsedStore, Watermark,
};

/// A value as a tree that any notation can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not set.
    None,
    /// Yes or no.
    Flag(bool),
    /// A number. Identities and digests are text.
    Number(i128),
    /// Text.
    Text(String),
    /// In order.
    List(Vec<Value>),
    /// Named, in a stable order.
    Fields(Vec<(String, Value)>),
}

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What the key is for, `unknown` when it is none of this version's.
    pub kind: &'static str,
    /// The value; what cannot be decoded is one field `bytes` in hexadecimal.
    pub value: Value,
    /// Why the value cannot be decoded.
    pub invalid: Option<String>,
}

/// Decodes a value by its key.
pub fn describe(key: &str, value: &[u8]) -> Described {
    let (kind, decoded) = decode(key, value);
    match decoded {
        Ok(value) => Described { kind, value, invalid: None },
        Err(why) => {
            let bytes: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let value = fields([("bytes", Value::Text(bytes))]);
            Described { kind, value, invalid: why.map(|why| why.to_string()) }
        }
    }
}

/// The kind of a key and its value; without a reason when there is nothing that could be decoded.
fn decode(key: &str, value: &[u8]) -> (&'static str, Result<Value, Option<Invalid>>) {
    let room = key.split_once('/').map_or(key, |(room, _)| room);
    let last = key.rsplit_once('/').map_or(key, |(_, last)| last);
    let (kind, decoded) = match room {
        keys::CLUSTER => ("cluster", Cluster::decode(value).map(cluster)),
        keys::COORDINATOR => ("coordinator", Coordinator::decode(value).map(coordinator)),
        keys::REVOKING => ("revocation", Revoking::decode(value).map(revoking)),
        "topics" => ("topic", Topic::decode(value).map(topic)),
        "deleted-topics" => ("deleted topic", DeletedTopic::decode(value).map(deleted_topic)),
        "deleting" => ("deletion", Deleting::decode(value).map(deleting)),
        "assign" => ("assignment", Assign::decode(value).map(assign)),
        "partitions" if last == "term" => ("term", PartitionTerm::decode(value).map(term)),
        "partitions" if last == "log-start" => ("log start", LogStart::decode(value).map(start)),
        "segments" => ("segment", Segment::decode(value).map(segment)),
        "manifests" => ("manifest", Manifest::decode(value).map(manifest)),
        "brokers" => ("broker", Broker::decode(value).map(broker)),
        "drains" => ("drain", Drain::decode(value).map(drain)),
        "moves" => ("move", Move::decode(value).map(moving)),
        "quotas" => ("quota", Quota::decode(value).map(quota)),
        "alloc" => ("ledger ids", alloc(value)),
        keys::PRODUCER_IDS => ("producer ids", alloc(value)),
        _ if key.starts_with(keys::OBJECT_STORES) => {
            ("object store", UsedStore::decode(value).map(used_store))
        }
        _ if key.starts_with(keys::BOOKIE_COOKIES) => ("cookie", Cookie::decode(value).map(cookie)),
        _ if key.starts_with(keys::BOOKIE_WATERMARKS) => {
            ("watermark", Watermark::decode(value).map(watermark))
        }
        _ if key.starts_with(keys::BOOKIES_DRAINING) => {
            ("decommission", DrainingBookie::decode(value).map(draining))
        }
        _ if key.starts_with(keys::BOOKIES_ABSENT) => {
            ("absent bookie", AbsentBookie::decode(value).map(absent))
        }
        keys::AUDITOR => ("auditor", Holder::decode(value).map(holder)),
        keys::JANITOR => ("janitor", Holder::decode(value).map(holder)),
        "under-lock" => ("repair lock", Holder::decode(value).map(holder)),
        _ if key.starts_with(keys::BOOKIES_LIVE) => {
            ("live bookie", LiveBookie::decode(value).map(live))
        }
        "ledgers" => match keys::parse_ledger(key) {
            Some(id) => ("ledger", LedgerMeta::decode(id, value).map(ledger)),
            None => return ("unknown", Err(None)),
        },
        "under" => match keys::parse_under(key) {
            Some(id) => ("under-replication mark", Under::decode(id, value).map(under)),
            None => return ("unknown", Err(None)),
        },
        _ => return ("unknown", Err(None)),
    };
    (kind, decoded.map_err(Some))
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Fields(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn number(value: impl Into<i128>) -> Value {
    Value::Number(value.into())
}

fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> Value) -> Value {
    value.map_or(Value::None, show)
}

fn list<T>(values: impl IntoIterator<Item = T>, show: impl FnMut(T) -> Value) -> Value {
    Value::List(values.into_iter().map(show).collect())
}

fn cluster(record: Cluster) -> Value {
    fields([
        ("uuid", text(record.uuid)),
        ("epoch", number(record.epoch)),
        ("group_shards", number(record.group_shards)),
        ("groups_topic", text(record.groups_topic)),
        ("next_broker", number(record.next_broker.0)),
        ("created_ms", number(record.created_ms)),
        ("restored_ms", optional(record.restored, |restored| number(restored.at_ms))),
        ("audited", optional(record.restored, |restored| Value::Flag(restored.audited))),
        ("features", list(record.features.iter(), text)),
    ])
}

fn coordinator(record: Coordinator) -> Value {
    fields([("broker", number(record.broker.0))])
}

fn quota(record: Quota) -> Value {
    fields([
        ("producer_byte_rate", optional(record.producer_byte_rate, number)),
        ("consumer_byte_rate", optional(record.consumer_byte_rate, number)),
        ("request_rate", optional(record.request_rate, number)),
    ])
}

fn revoking(record: Revoking) -> Value {
    fields([("broker", number(record.broker.0)), ("by", number(record.by.0))])
}

fn topic(record: Topic) -> Value {
    let configs = record.configs.into_iter().map(|(name, value)| (name, Value::Text(value)));
    fields([
        ("id", text(record.id)),
        ("partitions", number(record.partitions)),
        ("write_quorum", number(record.write_quorum)),
        ("ack_quorum", number(record.ack_quorum)),
        ("replication_factor", optional(record.replication_factor, number)),
        ("configs", Value::Fields(configs.collect())),
        ("created_ms", number(record.created_ms)),
    ])
}

fn deleting(record: Deleting) -> Value {
    fields([("since_ms", number(record.since_ms))])
}

fn deleted_topic(record: DeletedTopic) -> Value {
    fields([
        ("namespace", text(record.namespace)),
        ("name", text(record.name)),
        ("partitions", number(record.partitions)),
        ("deleted_ms", number(record.deleted_ms)),
    ])
}

fn assign(record: Assign) -> Value {
    let one = |Assignment { broker, term }| {
        fields([("broker", optional(broker, |broker| number(broker.0))), ("term", number(term.0))])
    };
    fields([("partitions", list(record.partitions, one))])
}

fn term(record: PartitionTerm) -> Value {
    fields([
        ("term", number(record.term.0)),
        ("broker", optional(record.broker, |broker| number(broker.0))),
    ])
}

fn start(record: LogStart) -> Value {
    fields([("offset", number(record.offset.0))])
}

fn manifest(record: Manifest) -> Value {
    fields([
        ("dropped_before", number(record.dropped_before)),
        ("removed_before", number(record.removed_before)),
        ("parts", list(record.parts, manifest_part)),
        ("former", list(record.former, |former| text(format!("{:032x}", former.attempt)))),
    ])
}

fn manifest_part(part: ManifestPart) -> Value {
    fields([
        ("attempt", text(format!("{:032x}", part.attempt))),
        ("bucket", text(part.bucket)),
        ("key", text(part.key)),
        ("size", number(part.size)),
        ("crc", text(format!("{:08x}", part.crc))),
        ("first_seq", number(part.first_seq)),
        ("last_seq", number(part.last_seq)),
        ("segments", number(part.segments)),
        ("base_offset", number(part.base_offset.0)),
        ("end_offset", number(part.end_offset.0)),
        ("bytes", number(part.bytes)),
    ])
}

fn segment(record: Segment) -> Value {
    fields([
        ("ledger", text(record.ledger)),
        ("base_offset", number(record.base_offset.0)),
        ("term", number(record.term.0)),
        ("end_offset", optional(record.end_offset, |Offset(end)| number(end))),
        ("bytes", optional(record.bytes, number)),
        ("max_timestamp", optional(record.max_timestamp, number)),
    ])
}

fn broker(record: Broker) -> Value {
    fields([
        ("id", number(record.id.0)),
        ("grpc_address", text(record.grpc_address)),
        ("http_address", text(record.http_address)),
        ("zone", text(record.zone)),
        ("lease", text(format!("{:x}", record.lease.0))),
        ("started_ms", number(record.started_ms)),
        ("load", optional(record.load, load)),
        ("features", list(record.features.iter(), text)),
    ])
}

fn load(load: BrokerLoad) -> Value {
    let busiest = list(load.busiest, |(topic, partition, bytes)| {
        fields([
            ("topic", text(topic)),
            ("partition", number(partition.0)),
            ("bytes_per_second", number(bytes)),
        ])
    });
    fields([("bytes_per_second", number(load.bytes)), ("busiest", busiest)])
}

fn drain(record: Drain) -> Value {
    fields([("since_ms", number(record.since_ms))])
}

fn moving(record: Move) -> Value {
    fields([("to", number(record.to.0)), ("asked_ms", number(record.asked_ms))])
}

fn alloc(value: &[u8]) -> Result<Value, Invalid> {
    let record = wire::AllocRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
    crate::record::check_format(record.format)?;
    Ok(fields([("next", number(record.next))]))
}

fn cookie(record: Cookie) -> Value {
    let disk = |disk: CookieDisk| {
        fields([
            ("disk", text(disk.disk)),
            ("incarnation", text(disk.incarnation)),
            ("boot_counter", number(disk.boot_counter)),
            ("lost", list(disk.lost, text)),
        ])
    };
    fields([
        ("cluster", text(record.cluster)),
        ("bookie", text(record.bookie)),
        ("disks", list(record.disks, disk)),
    ])
}

fn live(record: LiveBookie) -> Value {
    let disk = |disk: LiveDisk| {
        fields([
            ("incarnation", text(disk.incarnation)),
            ("writable", Value::Flag(disk.writable)),
            ("free_bytes", number(disk.free_bytes)),
            ("total_bytes", number(disk.total_bytes)),
        ])
    };
    fields([
        ("id", text(record.id)),
        ("address", text(record.address)),
        ("http_address", text(record.http_address)),
        ("zone", text(record.zone)),
        ("rack", text(record.rack)),
        ("disks", list(record.disks, disk)),
        ("lease", text(format!("{:x}", record.lease.0))),
        ("started_ms", number(record.started_ms)),
        ("repair_rate", number(record.repair_rate)),
        ("objects_missing", optional(record.objects_missing, number)),
        ("features", list(record.features.iter(), text)),
    ])
}

fn ledger(record: LedgerMeta) -> Value {
    let fragment = |fragment: Fragment| {
        fields([
            ("first_entry", number(fragment.first_entry.0)),
            ("ensemble", list(fragment.ensemble, text)),
        ])
    };
    let custom = record.custom;
    fields([
        ("id", text(record.id)),
        ("state", text(format!("{:?}", record.state))),
        ("seal_epoch", number(record.seal_epoch.0)),
        ("qw", number(record.qw)),
        ("qa", number(record.qa)),
        ("digest", text(format!("{:?}", record.digest))),
        ("fragments", list(record.fragments, fragment)),
        ("last_entry", optional(record.last_entry, |entry| number(entry.0))),
        ("length", number(record.length)),
        ("entries_crc", optional(record.entries_crc, |crc| text(format!("{crc:016x}")))),
        ("tier", tier(record.tier)),
        ("close_kind", optional(record.close_kind, |kind| text(format!("{kind:?}")))),
        ("recoverer", text(record.recoverer)),
        ("last_op", text(format!("{:032x}", record.last_op))),
        ("topic", text(custom.topic)),
        ("namespace", text(custom.namespace)),
        ("name", text(custom.name)),
        ("partition", number(custom.partition)),
        ("first_offset", number(custom.first_offset)),
        ("term", number(custom.term)),
        ("created_ms", number(record.created_ms)),
        ("owner", text(record.owner)),
        ("degraded", Value::Flag(record.degraded)),
    ])
}

fn tier(tier: Tier) -> Value {
    let object = |state: &str, object: TierObject| {
        fields([
            ("state", text(state)),
            ("attempt", text(format!("{:032x}", object.attempt))),
            ("bucket", text(object.bucket)),
            ("key", text(object.key)),
            ("size", number(object.size)),
            ("entries", number(object.entries)),
            ("object_crc", text(format!("{:08x}", object.object_crc))),
            ("etag", text(object.etag)),
            ("index_place", number(object.index_place)),
            ("at_ms", number(object.at_ms)),
        ])
    };
    match tier {
        Tier::Local => text("LOCAL"),
        Tier::Uploading { attempt, by, started_ms } => fields([
            ("state", text("UPLOADING")),
            ("attempt", text(format!("{attempt:032x}"))),
            ("by", text(by)),
            ("started_ms", number(started_ms)),
        ]),
        Tier::Offloaded(found) => object("OFFLOADED", found),
        Tier::Trimmed(found) => object("TRIMMED", found),
    }
}

fn watermark(record: Watermark) -> Value {
    let disk = |disk: DiskWatermark| {
        fields([("incarnation", text(disk.incarnation)), ("frame", number(disk.frame))])
    };
    fields([("disks", list(record.disks, disk))])
}

fn used_store(record: UsedStore) -> Value {
    let id = text(format_args!("{:032x}", record.id));
    fields([("store_id", id), ("pending", Value::Flag(record.pending))])
}

fn draining(record: DrainingBookie) -> Value {
    fields([("since_ms", number(record.since_ms))])
}

fn absent(record: AbsentBookie) -> Value {
    fields([("since_ms", number(record.since_ms)), ("zone", text(record.zone))])
}

fn holder(record: Holder) -> Value {
    fields([("bookie", text(record.bookie))])
}

fn under(record: Under) -> Value {
    fields([
        ("ledger", text(record.ledger)),
        ("members", list(record.members, text)),
        ("replace", list(record.replace, text)),
        ("damaged", list(record.damaged, text)),
        ("misplaced", list(record.misplaced, text)),
        ("copies", optional(record.copies, number)),
        ("lost_entry", optional(record.lost_entry, |entry| number(entry.0))),
        ("reason", text(format!("{:?}", record.reason))),
        ("created_ms", number(record.created_ms)),
    ])
}

#[cfg(test)]
mod tests {
    use geminga_proto::ids::LedgerId;

    use super::*;
    use crate::record::tests::samples;

    #[test]
    fn every_kind_of_record_is_described() {
        for sample in samples() {
            let described = describe(&sample.key, &sample.value);
            assert_eq!(described.invalid, None, "{}", sample.key);
            assert_eq!(described.kind, sample.kind);
            let Value::Fields(fields) = described.value else {
                panic!("{}: no fields", sample.key)
            };
            assert!(!fields.is_empty(), "{}", sample.key);
        }
    }

    #[test]
    fn what_is_not_understood_is_shown_as_it_is() {
        let bytes = fields([("bytes", text("ff00"))]);
        for key in ["something/else", "ledgers/xyz", "partitions/a/0/what", "under/x"] {
            let unknown = Described { kind: "unknown", value: bytes.clone(), invalid: None };
            assert_eq!(describe(key, &[0xff, 0]), unknown, "{key}");
        }
        let broken = describe(keys::CLUSTER, &[0xff, 0]);
        assert_eq!((broken.kind, &broken.value), ("cluster", &bytes));
        assert!(broken.invalid.unwrap().contains("does not decode"));
        let ledger = keys::ledger(LedgerId(5));
        assert!(describe(&ledger, &[]).invalid.is_some());
    }
}
