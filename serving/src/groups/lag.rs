//! How far groups are behind: records between what a group has committed and what is committed of the partition, by group and
//! topic. One task looks now and then at the shards that are served here; whoever is asked for metrics reads what it saw last.
//!
//! * It measures and changes nothing: no partition is opened for it, no log written to. Of a partition that is open nowhere the end
//!   that was seen last counts, which lacks at most what was appended between that look and its closing; one whose end was never seen is
//!   told as unknown, and so is one whose end was seen before the group committed behind it.
//! * Series are bounded: the largest lags have names, the rest is summed up. A group that is gone, or coordinated elsewhere, is
//!   not in the next look. What was seen is not told for longer than [`STALE`].

mod table;

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_runtime::Tasks;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, timeout};

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
/// For how long a look may take before what the last one saw is told no more.
const STALE: Duration = Duration::from_mins(1);
/// How long a shard may take to answer.
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
                    let mut look = pin!(looker.look());
                    let seen = match timeout(STALE, &mut look).await {
                        Ok(seen) => seen,
                        Err(_) => {
                            *told.0.lock() = Arc::default();
                            look.await
                        }
                    };
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
    /// In this look it was asked for, and said.
    now: bool,
    said: bool,
}

/// A shard did not answer in time.
#[derive(Debug)]
struct Late;

struct Looker {
    parts: Parts,
    ends: Ends,
}

impl Looker {
    async fn look(&mut self) -> Table {
        let (mut table, mut whole) = (Table::default(), true);
        for shard in 0..self.parts.shards.placement().shards() {
            let mut after = None;
            // A shard that is not served here has nothing to say, and one that moves meanwhile no more than it said.
            while let Some(page) = self.page(shard, after.take()).await.unwrap_or_else(|Late| {
                whole = false;
                None
            }) {
                self.find_ends(&page).await;
                self.count(&page, &mut table);
                after = page.groups.last().map(|(name, _)| name.clone()).filter(|_| page.more);
                if after.is_none() {
                    break;
                }
            }
        }
        self.ends.0.retain(|_, seen| {
            seen.said = false;
            std::mem::take(&mut seen.now) || !whole
        });
        table
    }

    /// `None`: it is not served here.
    async fn page(&self, shard: u32, after: Option<Arc<str>>) -> Result<Option<Positions>, Late> {
        let asked = async {
            let shards = &self.parts.shards;
            let answer = shards.send(shard, |to| Request::Positions(after, PAGE, to)).await;
            answer.ok()?.await.ok()?.ok()
        };
        timeout(PATIENCE, asked).await.map_err(|_| Late)
    }

    /// Asks for each partition once a look.
    async fn find_ends(&mut self, page: &Positions) {
        let mut wanted: BTreeMap<TopicId, (Arc<Topic>, Vec<PartitionIndex>)> = BTreeMap::new();
        for (tp, _) in page.groups.iter().flat_map(|(_, offsets)| offsets) {
            let Some(topic) = self.parts.topology.topic(&tp.topic) else { continue };
            let partition = PartitionIndex(tp.partition);
            let seen = self.ends.0.entry((topic.id, partition));
            let seen = seen.or_insert(Seen { end: None, now: false, said: false });
            if !std::mem::replace(&mut seen.now, true) {
                wanted.entry(topic.id).or_insert_with(|| (topic, Vec::new())).1.push(partition);
            }
        }
        for (topic, partitions) in wanted.values() {
            // In time, with those that said nothing left out.
            for (partition, end) in self.parts.source.ends(topic, partitions).await {
                if let Some(seen) = self.ends.0.get_mut(&(topic.id, partition)) {
                    (seen.end, seen.said) = (Some(end.0), true);
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
                // An end of before the commit says nothing of what is behind it.
                let fits =
                    |seen: &&Seen| seen.said || seen.end.is_some_and(|end| end >= *committed);
                match seen.filter(fits).and_then(|seen| seen.end) {
                    Some(end) => {
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
