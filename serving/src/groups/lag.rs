//! How far groups are behind: records between what a group has committed and what is committed of the partition, by group and
//! topic. One task looks now and then at the shards that are served here; whoever is asked for metrics reads what it saw last.
//!
//! * It measures and changes nothing: no partition is opened for it, no log written to. Of a partition that is open nowhere the end
//!   that was seen last counts, since nothing is appended to it meanwhile; one whose end was never seen is told as unknown.
//! * Series are bounded: the largest lags have names, the rest is summed up. A group that is gone, or coordinated elsewhere, is
//!   not in the next look.

mod table;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_runtime::Tasks;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use self::table::Table;
use super::coordinator::Shards;
use super::metrics;
use super::request::{Positions, Request};
use crate::ownership::topology::{Topic, Topology};
use crate::router::Source;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(15);
/// Offsets that a shard is asked for at one time, and one group more.
const PAGE: usize = 10_000;
/// How long a shard may take to answer, and the brokers that own partitions of a topic to say where these end.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen last. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lag(Arc<Mutex<Arc<Table>>>);

/// What a look needs.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The groups that are coordinated here.
    pub(crate) shards: Shards,
    /// Which topic has which name.
    pub(crate) topology: Topology,
    /// Where partitions end.
    pub(crate) source: Arc<dyn Source>,
}

impl Lag {
    /// Looks until `tasks` stops.
    pub(crate) fn start(parts: Parts, tasks: &Tasks) -> Self {
        let lag = Self::default();
        let (told, cancelled) = (lag.clone(), tasks.cancelled());
        tasks.spawn("group lag", async move {
            let mut looker = Looker { parts, ends: Ends::default() };
            let mut tick = tokio::time::interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let looking = async {
                loop {
                    tick.tick().await;
                    let seen = looker.look().await;
                    *told.0.lock() = Arc::new(seen);
                }
            };
            tokio::select! {
                () = cancelled => {}
                () = looking => {}
            }
        });
        lag
    }

    /// Tells whichever recorder of metrics is asked for them now.
    pub(crate) fn observe(&self) {
        let seen = Arc::clone(&self.0.lock());
        for (group, topic, records) in seen.named() {
            metrics::lag(group, topic, records);
        }
        if let Some(records) = seen.rest() {
            metrics::lag(table::OTHER, table::OTHER, records);
        }
        metrics::lag_unknown(seen.unknown());
    }
}

type Key = (TopicId, PartitionIndex);

/// Where partitions end: as seen last, and whether that was in this look.
#[derive(Debug, Default)]
struct Ends(HashMap<Key, Seen>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    end: Option<i64>,
    now: bool,
}

struct Looker {
    parts: Parts,
    ends: Ends,
}

impl Looker {
    async fn look(&mut self) -> Table {
        let mut table = Table::default();
        for shard in 0..self.parts.shards.placement().shards() {
            let mut after = None;
            // A shard that is not served here has nothing to say, and one that moves meanwhile no more than it said.
            while let Ok(page) = self.page(shard, after.take()).await {
                self.find_ends(&page).await;
                self.count(&page, &mut table);
                after = page.groups.last().map(|(name, _)| name.clone()).filter(|_| page.more);
                if after.is_none() {
                    break;
                }
            }
        }
        self.ends.0.retain(|_, seen| std::mem::take(&mut seen.now));
        table
    }

    async fn page(&self, shard: u32, after: Option<Arc<str>>) -> Result<Positions, ()> {
        let asked = async {
            let shards = &self.parts.shards;
            let answer = shards.send(shard, |to| Request::Positions(after, PAGE, to)).await;
            answer.map_err(drop)?.await.map_err(drop)?.map_err(drop)
        };
        tokio::time::timeout(PATIENCE, asked).await.map_err(drop)?
    }

    /// Asks for each partition once a look.
    async fn find_ends(&mut self, page: &Positions) {
        let mut wanted: BTreeMap<TopicId, (Arc<Topic>, Vec<PartitionIndex>)> = BTreeMap::new();
        for (tp, _) in page.groups.iter().flat_map(|(_, offsets)| offsets) {
            let Some(topic) = self.parts.topology.topic(&tp.topic) else { continue };
            let partition = PartitionIndex(tp.partition);
            let seen = self.ends.0.entry((topic.id, partition));
            let seen = seen.or_insert(Seen { end: None, now: false });
            if !std::mem::replace(&mut seen.now, true) {
                wanted.entry(topic.id).or_insert_with(|| (topic, Vec::new())).1.push(partition);
            }
        }
        for (topic, partitions) in wanted.values() {
            let found = self.parts.source.ends(topic, partitions);
            let found = tokio::time::timeout(PATIENCE, found).await.unwrap_or_default();
            for (partition, end) in found {
                if let Some(seen) = self.ends.0.get_mut(&(topic.id, partition)) {
                    seen.end = Some(end.0);
                }
            }
        }
    }

    fn count(&self, page: &Positions, table: &mut Table) {
        for (group, offsets) in &page.groups {
            let mut topics: BTreeMap<&Arc<str>, u64> = BTreeMap::new();
            for (tp, committed) in offsets {
                let Some(topic) = self.parts.topology.topic(&tp.topic) else { continue };
                let seen = self.ends.0.get(&(topic.id, PartitionIndex(tp.partition)));
                match seen.and_then(|seen| seen.end) {
                    Some(end) => {
                        // What is known of the end may be older than the commit.
                        let behind = u64::try_from(end.saturating_sub(*committed)).unwrap_or(0);
                        *topics.entry(&tp.topic).or_default() += behind;
                    }
                    None => table.add_unknown(),
                }
            }
            for (topic, records) in topics {
                table.add(group, topic, records);
            }
        }
    }
}

#[cfg(test)]
mod tests;
