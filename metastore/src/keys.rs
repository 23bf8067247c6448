//! Every key of a cluster's metadata, relative to the cluster's prefix. Numbers are zero-padded, so that key order is
//! number order; a prefix of one topic or partition ends with a slash, so that it never matches another's.

use geminga_proto::ids::{BookieId, BrokerId, LedgerId, PartitionIndex, TopicId};

/// The cluster itself; guards create-if-absent.
pub const CLUSTER: &str = "cluster";
/// The coordinator's election.
pub const COORDINATOR: &str = "coordinator";
/// That a dead broker's registration is being ended.
pub const REVOKING: &str = "revoking";
/// The next block of producer ids.
pub const PRODUCER_IDS: &str = "producer-ids";
/// The auditor's election.
pub const AUDITOR: &str = "auditor";
/// The election of the bookie that removes objects.
pub const JANITOR: &str = "janitor";
/// Prefix of all topics.
pub const TOPICS: &str = "topics/";
/// Prefix of all topics that are being removed.
pub const DELETED_TOPICS: &str = "deleted-topics/";
/// Prefix of all assignments.
pub const ASSIGN: &str = "assign/";
/// Prefix of all registered brokers.
pub const BROKERS: &str = "brokers/";
/// Prefix of all brokers that are to own nothing.
pub const DRAINS: &str = "drains/";
/// Prefix of all moves that the coordinator is asked for.
pub const MOVES: &str = "moves/";
/// Prefix of all quotas.
pub const QUOTAS: &str = "quotas/";
/// Quotas of each client id that has none of its own.
pub const DEFAULT_QUOTA: &str = "quotas/default";
/// Prefix of all segments.
pub const SEGMENTS: &str = "segments/";
/// Prefix of all manifests.
pub const MANIFESTS: &str = "manifests/";
/// Prefix of all ledgers.
pub const LEDGERS: &str = "ledgers/";
/// Prefix of all under-replication marks.
pub const UNDER: &str = "under/";
/// Prefix of all cookies: one for each bookie that was ever registered and not decommissioned.
pub const BOOKIE_COOKIES: &str = "bookies/cookie/";
/// Prefix of all live bookies.
pub const BOOKIES_LIVE: &str = "bookies/live/";
/// Prefix of all ledgers whose deletion is in progress.
pub const DELETING: &str = "deleting/";
/// Prefix of all object stores that the cluster uses.
pub const OBJECT_STORES: &str = "object-stores/";
/// Watermarks of bookies.
pub const BOOKIE_WATERMARKS: &str = "bookies/watermark/";

/// Prefix of all that is known about bookies.
pub const BOOKIES: &str = "bookies/";
/// Prefix of all bookies that are being decommissioned.
pub const BOOKIES_DRAINING: &str = "bookies/draining/";
/// Prefix of all bookies that are known and not registered.
pub const BOOKIES_ABSENT: &str = "bookies/absent/";
/// Prefix of the locks on ledgers that are being repaired.
pub const UNDER_LOCKS: &str = "under-lock/";

/// Whether a key is bound to a lease: it says who is there now, and is in no backup.
pub fn is_leased(key: &str) -> bool {
    let one = [COORDINATOR, REVOKING, AUDITOR, JANITOR];
    let below = [BROKERS, BOOKIES_LIVE, UNDER_LOCKS];
    one.contains(&key) || below.iter().any(|prefix| key.starts_with(prefix))
}

/// A topic by its name: the one commit point of a topic.
pub fn topic(namespace: &str, name: &str) -> String {
    format!("{TOPICS}{namespace}/{name}")
}

/// The namespace and name in a topic's key.
pub fn parse_topic(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(TOPICS)?.split_once('/')
}

/// A topic whose remains are to be removed.
pub fn deleted_topic(topic: TopicId) -> String {
    format!("{DELETED_TOPICS}{topic}")
}

/// The topic in a deleted topic's key.
pub fn parse_deleted_topic(key: &str) -> Option<TopicId> {
    key.strip_prefix(DELETED_TOPICS)?.parse().ok()
}

/// The owners of 64 partitions.
pub fn assign(topic: TopicId, chunk: u32) -> String {
    format!("{}{chunk:08}", assignments_of(topic))
}

/// Prefix of one topic's assignments.
pub fn assignments_of(topic: TopicId) -> String {
    format!("{ASSIGN}{topic}/")
}

/// The topic and chunk in an assignment's key.
pub fn parse_assign(key: &str) -> Option<(TopicId, u32)> {
    let (topic, chunk) = key.strip_prefix(ASSIGN)?.split_once('/')?;
    Some((topic.parse().ok()?, chunk.parse().ok()?))
}

/// Prefix of everything that belongs to a topic's partitions.
pub fn partitions_of(topic: TopicId) -> String {
    format!("partitions/{topic}/")
}

/// The ownership term of a partition.
pub fn term(topic: TopicId, partition: PartitionIndex) -> String {
    format!("{}{:08}/term", partitions_of(topic), partition.0)
}

/// Whether a key of a partition is its term.
pub fn is_term(key: &str) -> bool {
    key.starts_with("partitions/") && key.ends_with("/term")
}

/// The first offset that a partition still has.
pub fn log_start(topic: TopicId, partition: PartitionIndex) -> String {
    format!("{}{:08}/log-start", partitions_of(topic), partition.0)
}

/// One segment of a partition; key order is log order.
pub fn segment(topic: TopicId, partition: PartitionIndex, seq: u32) -> String {
    format!("{}{seq:08x}", segments_of(topic, partition))
}

/// Prefix of the segments of all of a topic's partitions.
pub fn all_segments_of(topic: TopicId) -> String {
    format!("{SEGMENTS}{topic}/")
}

/// Prefix of one partition's segments.
pub fn segments_of(topic: TopicId, partition: PartitionIndex) -> String {
    format!("{}{:08}/", all_segments_of(topic), partition.0)
}

/// The number in a segment's key.
pub fn parse_segment_seq(key: &str) -> Option<u32> {
    let (_, seq) = key.strip_prefix(SEGMENTS)?.rsplit_once('/')?;
    u32::from_str_radix(seq, 16).ok()
}

/// The partition in the key of one of its segments.
pub fn parse_segment_partition(key: &str) -> Option<(TopicId, PartitionIndex)> {
    let (topic, rest) = key.strip_prefix(SEGMENTS)?.split_once('/')?;
    let (partition, _) = rest.split_once('/')?;
    Some((topic.parse().ok()?, PartitionIndex(partition.parse().ok()?)))
}

/// The object that lists a partition's folded segments.
pub fn manifest(topic: TopicId, partition: PartitionIndex) -> String {
    format!("{}{:08}", manifests_of(topic), partition.0)
}

/// Prefix of the manifests of all of a topic's partitions.
pub fn manifests_of(topic: TopicId) -> String {
    format!("{MANIFESTS}{topic}/")
}

/// The partition in the key of its manifest.
pub fn parse_manifest(key: &str) -> Option<(TopicId, PartitionIndex)> {
    let (topic, partition) = key.strip_prefix(MANIFESTS)?.split_once('/')?;
    Some((topic.parse().ok()?, PartitionIndex(partition.parse().ok()?)))
}

/// A registered broker.
pub fn broker(broker: BrokerId) -> String {
    format!("{BROKERS}{:010}", broker.0)
}

/// The broker in a registration's key.
pub fn parse_broker(key: &str) -> Option<BrokerId> {
    key.strip_prefix(BROKERS)?.parse().ok().map(BrokerId)
}

/// That a broker is to own nothing.
pub fn drain(broker: BrokerId) -> String {
    format!("{DRAINS}{:010}", broker.0)
}

/// The broker in the key of a drain.
pub fn parse_drain(key: &str) -> Option<BrokerId> {
    key.strip_prefix(DRAINS)?.parse().ok().map(BrokerId)
}

/// That a partition is to have another owner.
pub fn move_of(topic: TopicId, partition: PartitionIndex) -> String {
    format!("{MOVES}{topic}/{:08}", partition.0)
}

/// The partition in the key of a move.
pub fn parse_move(key: &str) -> Option<(TopicId, PartitionIndex)> {
    let (topic, partition) = key.strip_prefix(MOVES)?.split_once('/')?;
    Some((topic.parse().ok()?, PartitionIndex(partition.parse().ok()?)))
}

/// Quotas of one client id; `None`: of each that has none of its own.
pub fn quota(client_id: Option<&str>) -> String {
    match client_id {
        None => DEFAULT_QUOTA.to_owned(),
        Some(client_id) => format!("{QUOTAS}client/{client_id}"),
    }
}

/// The client id in the key of its quotas.
pub fn parse_quota(key: &str) -> Option<&str> {
    key.strip_prefix(QUOTAS)?.strip_prefix("client/")
}

/// A ledger's metadata.
pub fn ledger(ledger: LedgerId) -> String {
    format!("{LEDGERS}{ledger}")
}

/// The ledger in a key.
pub fn parse_ledger(key: &str) -> Option<LedgerId> {
    u64::from_str_radix(key.strip_prefix(LEDGERS)?, 16).ok().map(LedgerId)
}

/// The next block of ledger ids.
pub fn alloc(shard: u32) -> String {
    format!("alloc/{shard:04}")
}

/// A bookie's identity.
pub fn bookie_cookie(bookie: &BookieId) -> String {
    format!("{BOOKIE_COOKIES}{bookie}")
}

/// An object store by its bucket and prefix.
pub fn object_store(place: &str) -> String {
    format!("{OBJECT_STORES}{place}")
}

/// How far the logs of a bookie's disks have come.
pub fn bookie_watermark(bookie: &BookieId) -> String {
    format!("{BOOKIE_WATERMARKS}{bookie}")
}

/// A bookie's registration.
pub fn bookie_live(bookie: &BookieId) -> String {
    format!("{BOOKIES_LIVE}{bookie}")
}

/// The bookie in a registration's key.
pub fn parse_bookie_live(key: &str) -> Option<BookieId> {
    key.strip_prefix(BOOKIES_LIVE)?.parse().ok()
}

/// That a bookie is being decommissioned.
pub fn bookie_draining(bookie: &BookieId) -> String {
    format!("{BOOKIES_DRAINING}{bookie}")
}

/// The bookie in the key of its decommission.
pub fn parse_bookie_draining(key: &str) -> Option<BookieId> {
    key.strip_prefix(BOOKIES_DRAINING)?.parse().ok()
}

/// That a bookie is known and not registered.
pub fn bookie_absent(bookie: &BookieId) -> String {
    format!("{BOOKIES_ABSENT}{bookie}")
}

/// The bookie in the key of its absence.
pub fn parse_bookie_absent(key: &str) -> Option<BookieId> {
    key.strip_prefix(BOOKIES_ABSENT)?.parse().ok()
}

/// Under-replication mark of a ledger.
pub fn under(ledger: LedgerId) -> String {
    format!("{UNDER}{ledger}")
}

/// The ledger in the key of a mark.
pub fn parse_under(key: &str) -> Option<LedgerId> {
    u64::from_str_radix(key.strip_prefix(UNDER)?, 16).ok().map(LedgerId)
}

/// A repair worker's lock on a ledger.
pub fn under_lock(ledger: LedgerId) -> String {
    format!("{UNDER_LOCKS}{ledger}")
}

/// The ledger in the key of a lock.
pub fn parse_under_lock(key: &str) -> Option<LedgerId> {
    u64::from_str_radix(key.strip_prefix(UNDER_LOCKS)?, 16).ok().map(LedgerId)
}

/// A ledger whose deletion is in progress.
pub fn deleting(ledger: LedgerId) -> String {
    format!("{DELETING}{ledger}")
}

/// The ledger in the key of a deletion.
pub fn parse_deleting(key: &str) -> Option<LedgerId> {
    u64::from_str_radix(key.strip_prefix(DELETING)?, 16).ok().map(LedgerId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_parsed_back() {
        let topic_id = TopicId::from_random(5);
        assert_eq!(parse_topic(&topic("default", "flights")), Some(("default", "flights")));
        assert_eq!(parse_assign(&assign(topic_id, 7)), Some((topic_id, 7)));
        assert_eq!(parse_deleted_topic(&deleted_topic(topic_id)), Some(topic_id));
        assert_eq!(parse_broker(&broker(BrokerId(12))), Some(BrokerId(12)));
        assert_eq!(parse_drain(&drain(BrokerId(12))), Some(BrokerId(12)));
        let (moved, partition) = (move_of(topic_id, PartitionIndex(3)), PartitionIndex(3));
        assert_eq!(parse_move(&moved), Some((topic_id, partition)));
        for client in ["default", "a/b", "client/x"] {
            assert_eq!(parse_quota(&quota(Some(client))), Some(client));
        }
        assert_eq!(parse_quota(&quota(None)), None);
        assert_eq!(parse_ledger(&ledger(LedgerId(0xab))), Some(LedgerId(0xab)));
        assert_eq!(parse_under(&under(LedgerId(0xab))), Some(LedgerId(0xab)));
        assert_eq!(parse_deleting(&deleting(LedgerId(0xab))), Some(LedgerId(0xab)));
        assert_eq!(parse_segment_seq(&segment(topic_id, PartitionIndex(3), 0x1f)), Some(0x1f));
        let third = Some((topic_id, PartitionIndex(3)));
        assert_eq!(parse_segment_partition(&segment(topic_id, PartitionIndex(3), 0x1f)), third);
        assert_eq!(parse_manifest(&manifest(topic_id, PartitionIndex(3))), third);
        assert!(is_term(&term(topic_id, PartitionIndex(3))));
        assert!(!is_term(&log_start(topic_id, PartitionIndex(3))));
        let bookie: BookieId = "b-1".parse().unwrap();
        assert_eq!(parse_bookie_live(&bookie_live(&bookie)), Some(bookie.clone()));
        assert_eq!(parse_bookie_draining(&bookie_draining(&bookie)), Some(bookie.clone()));
        assert_eq!(parse_bookie_absent(&bookie_absent(&bookie)), Some(bookie));
        assert_eq!(parse_under_lock(&under_lock(LedgerId(0xab))), Some(LedgerId(0xab)));
    }

    #[test]
    fn key_order_is_number_order_and_prefixes_are_exact() {
        let topic = TopicId::from_random(5);
        assert!(segment(topic, PartitionIndex(1), 9) < segment(topic, PartitionIndex(1), 16));
        assert!(assign(topic, 9) < assign(topic, 10));
        assert!(
            !segment(topic, PartitionIndex(11), 1)
                .starts_with(&segments_of(topic, PartitionIndex(1)))
        );
    }
}
