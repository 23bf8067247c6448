//! How the memory of a broker is divided, and how much of the parts of messages and tails is in use. A part that is full makes
//! those wait that would use it, or forgets what can be read again.
//!
//! | part | of the whole | what is charged |
//! |---|---|---|
//! | direct | 1/8 | messages with records that are not answered, sent to this broker since it owns their partition |
//! | routed | 1/8 | the same of clients that leave it to this broker to find the owner; apart, so that two brokers never wait for each other |
//! | entries | 1/4 | entries that not every bookie of their ledger has, be they acknowledged |
//! | tails | 1/4 | recent entries that are kept for readers |
//! | reads | 1/8 | older entries on their way from bookies to readers, or kept for readers who read on |
//! | the rest | 1/8 | not counted: connections, a message of each stream that waits for room, what waits in the connection to a slow bookie, what a stream was given and its client does not take, what another broker reads for this one, the process itself |

use std::time::Duration;

use geminga_runtime::Tasks;
use metrics::gauge;

use super::Config;
use crate::partition::log::{Reads, Tails};
use crate::rpc::produce::ProduceRoom;

/// Least memory that a broker works in: a message of the largest size has room in each part.
pub const LEAST_BYTES: usize = 256 * 1024 * 1024;
/// Memory of a broker that is told nothing else.
pub const DEFAULT_BYTES: usize = 2 * 1024 * 1024 * 1024;
/// How often it is measured.
const EVERY: Duration = Duration::from_secs(1);

/// The part of `bytes` of memory that is for entries on their way to bookies.
pub fn entries(bytes: usize) -> usize {
    bytes.max(LEAST_BYTES) / 4
}

impl Config {
    /// These limits, of a broker that is to stay within `bytes` of memory, [`LEAST_BYTES`] at least.
    #[must_use]
    pub fn within(mut self, bytes: usize) -> Self {
        let bytes = bytes.max(LEAST_BYTES);
        self.produce_bytes = bytes / 8;
        self.partitions.queue_bytes = bytes / 4;
        self.log.all_tails_bytes = bytes / 4;
        self.log.reads_bytes = bytes / 8;
        self.kafka.reply_bytes = bytes / 16;
        self
    }
}

/// What knows how much of its part is in use.
pub(super) struct Parts {
    pub(super) produce: ProduceRoom,
    pub(super) tails: Tails,
    pub(super) reads: Reads,
}

/// Shows how much of each part is in use, until `tasks` stops.
pub(super) fn watch(config: &Config, parts: Parts, tasks: &Tasks) {
    let (produced, kept) = (config.produce_bytes, config.log.all_tails_bytes);
    let read = config.log.reads_bytes;
    for (part, bytes) in
        [("direct", produced), ("routed", produced), ("tails", kept), ("reads", read)]
    {
        gauge!("geminga_memory_limit_bytes", "part" => part).set(bytes as f64);
    }
    let stop = tasks.cancelled();
    tasks.spawn("memory", async move {
        let mut ticks = tokio::time::interval(EVERY);
        tokio::pin!(stop);
        loop {
            let (routed, direct) = parts.produce.used();
            let (tails, reads) = (parts.tails.bytes(), parts.reads.bytes());
            let used = [("direct", direct), ("routed", routed), ("tails", tails), ("reads", reads)];
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
            let all = produced + entries(bytes) + kept;
            assert!(all <= bytes.max(LEAST_BYTES) * 7 / 8);
            // Whatever streams took in may be on its way to the logs.
            assert!(config.partitions.queue_bytes >= 2 * config.produce_bytes);
        }
        let (given, default) = (Config::default().within(DEFAULT_BYTES), Config::default());
        assert_eq!(given.produce_bytes, default.produce_bytes);
        assert_eq!(given.partitions, default.partitions);
        assert_eq!(given.log, default.log);
    }
}
