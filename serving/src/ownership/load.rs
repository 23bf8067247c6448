//! What this broker carries, told to the coordinator with its registration: rarely, and only when it has changed much, since
//! every broker hears of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::LeaseId;
use geminga_metastore::record::BrokerLoad;
use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_runtime::Tasks;
use tokio::time::{Instant, MissedTickBehavior};

use super::registration::{Registration, Standing};

/// Between two looks; a report tells the bytes per second of one.
const EVERY: Duration = Duration::from_secs(10);
/// What did not change by much is told again after so long.
const AT_LEAST: Duration = Duration::from_secs(60);
/// So long after a partition moved every report tells what is carried since.
pub const SETTLED: Duration = Duration::from_secs(25);
/// Busiest partitions in one report.
const BUSIEST: usize = 16;
/// Differences of fewer bytes per second are not worth a word.
const NOISE_BYTES: u64 = 64 * 1024;

/// What is counted.
pub trait Carried: Send + Sync + 'static {
    /// Bytes of records in and out of each open partition, since it was opened. Never waits.
    fn carried(&self) -> Vec<((TopicId, PartitionIndex), u64)>;
}

/// Reports until `tasks` stops.
pub fn start(carried: Arc<dyn Carried>, registration: Registration, tasks: &Tasks) {
    let cancelled = tasks.cancelled();
    let reporter = Reporter { carried, registration, seen: Meter::default(), told: None };
    tasks.spawn("load report", async move {
        tokio::select! {
            () = cancelled => {}
            () = reporter.run() => {}
        }
    });
}

struct Reporter {
    carried: Arc<dyn Carried>,
    registration: Registration,
    seen: Meter,
    /// Under which registration, what, and when.
    told: Option<(LeaseId, BrokerLoad, Instant)>,
}

impl Reporter {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = tick.tick().await;
            let load = self.seen.measure(now, self.carried.carried());
            let Standing::Registered { lease } = self.registration.standing() else { continue };
            if !self.is_news(lease, &load, now) {
                continue;
            }
            let report = self.registration.report(lease, load.clone());
            match tokio::time::timeout(EVERY, report).await {
                Ok(Ok(())) => self.told = Some((lease, load, now)),
                Ok(Err(error)) => tracing::debug!(%error, "load was not reported"),
                Err(_) => tracing::debug!("load was not reported in time"),
            }
        }
    }

    fn is_news(&self, lease: LeaseId, load: &BrokerLoad, now: Instant) -> bool {
        let Some((told_lease, told, at)) = &self.told else { return true };
        let most = told.bytes.max(load.bytes);
        let differs = told.bytes.abs_diff(load.bytes) > NOISE_BYTES.max(most / 5);
        let stale = now.saturating_duration_since(*at) >= AT_LEAST && most > NOISE_BYTES;
        // Whoever decides by what was told must not think that it is still here.
        let counted = |(topic, partition, _): &(TopicId, PartitionIndex, u64)| {
            self.seen.counts.contains_key(&(*topic, *partition))
        };
        lease != *told_lease || differs || stale || !told.busiest.iter().all(counted)
    }
}

/// Turns counts into bytes per second.
#[derive(Debug, Default)]
struct Meter {
    at: Option<Instant>,
    counts: HashMap<(TopicId, PartitionIndex), u64>,
}

impl Meter {
    /// What was carried since the last call. A count that fell is that of a partition that was opened again.
    fn measure(
        &mut self,
        now: Instant,
        carried: Vec<((TopicId, PartitionIndex), u64)>,
    ) -> BrokerLoad {
        let window = self.at.map(|at| now.saturating_duration_since(at).as_millis());
        let window = window.and_then(|ms| u64::try_from(ms).ok()).filter(|ms| *ms > 0);
        let former = std::mem::take(&mut self.counts);
        self.at = Some(now);
        let mut load = BrokerLoad::default();
        for (partition, count) in carried {
            let before = former.get(&partition).copied().filter(|before| *before <= count);
            let bytes =
                window.map_or(0, |ms| (count - before.unwrap_or(0)).saturating_mul(1_000) / ms);
            load.bytes = load.bytes.saturating_add(bytes);
            if bytes > 0 {
                load.busiest.push((partition.0, partition.1, bytes));
            }
            self.counts.insert(partition, count);
        }
        load.busiest.sort_unstable_by_key(|(topic, partition, bytes)| {
            (std::cmp::Reverse(*bytes), *topic, *partition)
        });
        load.busiest.truncate(BUSIEST);
        load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_become_rates() {
        let (now, topic) = (Instant::now(), TopicId::from_random(1));
        let carried = |counts: &[u64]| -> Vec<_> {
            (0..).map(|p| (topic, PartitionIndex(p))).zip(counts.iter().copied()).collect()
        };
        let mut meter = Meter::default();
        assert_eq!(meter.measure(now, carried(&[500, 500])), BrokerLoad::default());
        let load = meter.measure(now + EVERY, carried(&[1_500, 20_500, 30_000]));
        assert_eq!(load.bytes, 100 + 2_000 + 3_000);
        let busiest: Vec<_> = load.busiest.iter().map(|(_, p, bytes)| (p.0, *bytes)).collect();
        assert_eq!(busiest, [(2, 3_000), (1, 2_000), (0, 100)]);
        // The first one was opened again, the last one closed.
        let load = meter.measure(now + 2 * EVERY, carried(&[1_000, 20_500]));
        assert_eq!((load.bytes, load.busiest.len()), (100, 1));
        let many: Vec<u64> = (1..=100).map(|n| n * 10_000).collect();
        assert_eq!(meter.measure(now + 3 * EVERY, carried(&many)).busiest.len(), BUSIEST);
    }
}
