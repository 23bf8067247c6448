//! Metrics of consumer groups. `shard` has as many values as the cluster has group shards; `group` and `topic` are names of
//! users, in as many series as [`lag`](super::lag) allows.

use metrics::{counter, gauge};

/// Groups that a shard holds.
pub(crate) fn groups(shard: u32, count: usize) {
    gauge!("geminga_groups", "shard" => shard.to_string()).set(count as f64);
}

/// Members of all groups of a shard.
pub(crate) fn members(shard: u32, count: usize) {
    gauge!("geminga_group_members", "shard" => shard.to_string()).set(count as f64);
}

/// What the groups of a shard hold, bytes. `part`: `members` say, they are `assigned`, or `offsets`.
pub(crate) fn held(shard: u32, (said, assigned): (usize, usize), offsets: usize) {
    for (part, bytes) in [("members", said), ("assigned", assigned), ("offsets", offsets)] {
        gauge!("geminga_group_bytes", "shard" => shard.to_string(), "part" => part)
            .set(bytes as f64);
    }
}

/// Records that a group is behind in a topic. Told anew whenever metrics are asked for, so that nothing is left of who is gone.
pub(super) fn lag(group: &str, topic: &str, records: u64) {
    let (group, topic) = (group.to_owned(), topic.to_owned());
    gauge!("geminga_group_lag_records", "group" => group, "topic" => topic).set(records as f64);
}

/// Partitions with committed offsets whose ends are not known.
pub(super) fn lag_unknown(partitions: u64) {
    gauge!("geminga_group_lag_unknown_partitions").set(partitions as f64);
}

/// A generation was made.
pub(crate) fn rebalanced() {
    counter!("geminga_group_rebalances_total").increment(1);
}

/// A commit was accepted with so many offsets.
pub(crate) fn committed(offsets: usize) {
    counter!("geminga_group_commits_total").increment(1);
    counter!("geminga_group_offsets_committed_total").increment(offsets as u64);
}

/// Whether a shard is served here.
pub(crate) fn serving(shard: u32, serving: bool) {
    let value = if serving { 1.0 } else { 0.0 };
    gauge!("geminga_group_shard_served", "shard" => shard.to_string()).set(value);
}

/// Bytes of records were sent to a member of a group.
pub(crate) fn consumed(bytes: i64) {
    counter!("geminga_consumed_bytes_total").increment(bytes.unsigned_abs());
}

/// Counts a consumer's stream for as long as it lives.
#[derive(Debug)]
pub(crate) struct ConsumerStream;

impl ConsumerStream {
    /// A stream was opened.
    pub(crate) fn opened() -> Self {
        gauge!("geminga_consumer_streams").increment(1.0);
        Self
    }
}

impl Drop for ConsumerStream {
    fn drop(&mut self) {
        gauge!("geminga_consumer_streams").decrement(1.0);
    }
}
