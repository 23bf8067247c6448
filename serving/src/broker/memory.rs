//! How the memory of a broker is divided, and how much of the parts of messages and tails is in use. A part that is full makes
//! those wait that would use it, or forgets what can be read again.
//!
//! | part | of the whole | what is charged |
//! |---|---|---|
//! | direct | 1/8 | messages with records that are not answered, sent to this broker since it owns their partition |
//! | routed | 1/8 | the same of clients that leave it to this broker to find the owner; apart, so that two brokers never wait for each other |
//! | entries | 3/16 | entries that not every bookie of their ledger has, be they acknowledged |
//! | tails | 5/32, or 3/32 | recent entries that are kept for readers |
//! | cold | 0, or 1/16 | blocks of objects on their way from the object store, or cached; a broker that was given one takes it from the tails |
//! | reads | 1/8 | older entries on their way from bookies to readers, or kept for readers who read on |
//! | lanes | 1/8 | entries that wait in the connections to bookies that do not read, even when their ledgers go on without these: for each of them a quarter of it, 32 MiB at least and 64 MiB at most |
//! | answers | 1/16 | records and descriptions on their way to Kafka clients, which share the memory of tails and reads mostly |
//! | streams | 1/32 | records on their way to gRPC clients, from when they are read until they are written; they share that memory, too, but for what batches are decompressed to, and the pieces that are made of that |
//! | groups | beside it | of each of their shards that this broker coordinates (`geminga_group_bytes`): committed offsets, 1/64 of the whole at most; what members say and what they are assigned, 1/256 each, both twice, as requests see them and as they are durable. A broker that coordinates all eight shards holds a quarter of the whole at worst, and refuses what is above |
//! | looks | 1/32 | what compressed batches are decompressed to while records in them are looked at: one before it is taken, one in the log, half each |
//! | the rest | 1/32 | not counted: connections, messages below 4 KiB, requests of Kafka clients without records (of all of them 1/128 at most, and what that decodes to), one message of each kind above its part, what another broker reads for this one, the process itself |

use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_runtime::Tasks;
use metrics::gauge;

use super::Config;
use crate::partition::Partitions;
use crate::partition::log::{Reads, Tails};
use crate::room::{Answers, Streams};
use crate::rpc::produce::ProduceRoom;

/// Least memory that a broker works in: a message of the largest size has room in each part.
pub const LEAST_BYTES: usize = 256 * 1024 * 1024;
/// Memory of a broker that is told nothing else.
pub const DEFAULT_BYTES: usize = 2 * 1024 * 1024 * 1024;
/// A connection to a bookie may hold so much, however little memory there is: more than the largest request.
const LEAST_LANE_BYTES: usize = 32 * 1024 * 1024;
/// A connection to a bookie may hold no more, however much memory there is.
const MOST_LANE_BYTES: usize = 64 * 1024 * 1024;
/// How often it is measured.
const EVERY: Duration = Duration::from_secs(1);

/// The part of `bytes` of memory that is for entries on their way to bookies.
pub fn entries(bytes: usize) -> usize {
    bytes.max(LEAST_BYTES) / 16 * 3
}

/// What may wait in the connection to one bookie, of `bytes` of memory.
pub fn lane(bytes: usize) -> usize {
    (lanes(bytes) / 4).clamp(LEAST_LANE_BYTES, MOST_LANE_BYTES)
}

/// The part of `bytes` of memory that is for what is read of the object store, where there is one.
pub fn cold(bytes: usize) -> usize {
    bytes.max(LEAST_BYTES) / 16
}

/// The part of `bytes` of memory that is for what waits in connections to bookies.
fn lanes(bytes: usize) -> usize {
    bytes.max(LEAST_BYTES) / 8
}

impl Config {
    /// These limits, of a broker that is to stay within `bytes` of memory, [`LEAST_BYTES`] at least.
    #[must_use]
    pub fn within(mut self, bytes: usize) -> Self {
        let bytes = bytes.max(LEAST_BYTES);
        self.produce_bytes = bytes / 8;
        self.partitions.queue_bytes = bytes / 4;
        self.log.all_tails_bytes = bytes / 32 * 5;
        self.stream_bytes = bytes / 32;
        self.log.reads_bytes = bytes / 8;
        self.kafka.reply_bytes = bytes / 16;
        self.group_member_bytes = bytes / 256;
        self.group_offset_bytes = bytes / 64;
        self.kafka.request_bytes = bytes / 128;
        self.partitions.looks_bytes = bytes / 32;
        self
    }
}

impl Config {
    /// The same beside reads of an object store.
    #[must_use]
    pub fn beside_cold(mut self, bytes: usize) -> Self {
        self.log.all_tails_bytes = self.log.all_tails_bytes.saturating_sub(cold(bytes));
        self
    }
}

/// What knows how much of its part is in use.
pub(super) struct Parts {
    pub(super) produce: ProduceRoom,
    pub(super) tails: Tails,
    pub(super) reads: Reads,
    pub(super) ledgers: LedgerClient,
    pub(super) answers: Answers,
    pub(super) streams: Streams,
    pub(super) partitions: Partitions,
}

/// Shows how much of each part is in use, until `tasks` stops.
pub(super) fn watch(config: &Config, parts: Parts, tasks: &Tasks) {
    let (produced, kept) = (config.produce_bytes, config.log.all_tails_bytes);
    let read = config.log.reads_bytes;
    let answers = config.kafka.reply_bytes;
    for (part, bytes) in [
        ("direct", produced),
        ("routed", produced),
        ("tails", kept),
        ("reads", read),
        ("answers", answers),
        ("streams", config.stream_bytes),
        ("looks", config.partitions.looks_bytes),
    ] {
        gauge!("geminga_memory_limit_bytes", "part" => part).set(bytes as f64);
    }
    let stop = tasks.cancelled();
    tasks.spawn("memory", async move {
        let mut ticks = tokio::time::interval(EVERY);
        tokio::pin!(stop);
        loop {
            let (routed, direct) = parts.produce.used();
            let used = [
                ("direct", direct),
                ("routed", routed),
                ("tails", parts.tails.bytes()),
                ("reads", parts.reads.bytes()),
                ("lanes", parts.ledgers.waiting_bytes()),
                ("answers", parts.answers.used()),
                ("streams", parts.streams.used()),
                ("looks", parts.partitions.looks_bytes()),
            ];
            for (part, bytes) in used {
                gauge!("geminga_memory_used_bytes", "part" => part).set(bytes as f64);
            }
            tokio::select! {
                () = &mut stop => return,
                _ = ticks.tick() => {}
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_whole() {
        for bytes in [0, LEAST_BYTES, DEFAULT_BYTES, 64 * DEFAULT_BYTES] {
            let config = Config::default().within(bytes);
            let produced = 2 * config.produce_bytes;
            let kept = config.log.all_tails_bytes + config.log.reads_bytes;
            let answers =
                config.kafka.reply_bytes + config.stream_bytes + config.partitions.looks_bytes;
            let all = produced + entries(bytes) + kept + lanes(bytes) + answers;
            assert!(all <= bytes.max(LEAST_BYTES) / 32 * 31);
            // The smallest broker stands one bookie that does not read, others more of them.
            assert!(lane(bytes) <= lanes(bytes));
            let ledgers = geminga_ledger::Config {
                total_outstanding_bytes: entries(bytes),
                lane_bytes: lane(bytes),
                ..geminga_ledger::Config::default()
            };
            assert_eq!(ledgers.clone().validated(), Ok(ledgers));
            // Whatever streams took in may be on its way to the logs.
            assert!(config.partitions.queue_bytes >= 2 * config.produce_bytes);
        }
        let all = Config::default().within(DEFAULT_BYTES).log.all_tails_bytes;
        let beside = Config::default().within(DEFAULT_BYTES).beside_cold(DEFAULT_BYTES);
        assert_eq!(beside.log.all_tails_bytes + cold(DEFAULT_BYTES), all);
        let (given, default) = (Config::default().within(DEFAULT_BYTES), Config::default());
        assert_eq!(given.produce_bytes, default.produce_bytes);
        assert_eq!(given.stream_bytes, default.stream_bytes);
        assert_eq!(given.partitions, default.partitions);
        assert_eq!(given.log, default.log);
        let groups = |config: &Config| (config.group_member_bytes, config.group_offset_bytes);
        assert_eq!(groups(&given), groups(&default));
    }
}
