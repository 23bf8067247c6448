//! The topics that this broker watches, and which of those that it misses are really gone. What is watched may lag, or hold a
//! topic that this version cannot read; an offset that is forgotten does not come back. So one task asks the store about a topic
//! before it is called deleted.

use std::collections::HashSet;
use std::sync::Arc;

use geminga_proto::ids::TopicId;
use geminga_runtime::Tasks;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{TopicFacts, TopicView};
use crate::ownership::topology::{Stored, Topology};

/// Questions that wait; who finds no place asks again at its next look.
const MAX_ASKED: usize = 1_024;
/// Deleted topics that are remembered; asking again is all that more would cost.
const MAX_DELETED: usize = 100_000;

/// The topics as groups see them.
#[derive(Debug)]
pub struct LiveTopics {
    topology: Topology,
    to: mpsc::Sender<(Arc<str>, TopicId)>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    asked: HashSet<TopicId>,
    /// An id never comes back.
    deleted: HashSet<TopicId>,
}

impl LiveTopics {
    /// Asks the store about topics that are missed, until `tasks` stops.
    pub fn start(topology: Topology, tasks: &Tasks) -> Arc<Self> {
        let (to, asked) = mpsc::channel(MAX_ASKED);
        let topics = Arc::new(Self { topology, to, known: Mutex::default() });
        let (asker, cancelled) = (Arc::clone(&topics), tasks.cancelled());
        tasks.spawn("deleted topics", async move {
            tokio::select! {
                () = cancelled => {}
                () = asker.ask(asked) => {}
            }
        });
        topics
    }

    async fn ask(&self, mut asked: mpsc::Receiver<(Arc<str>, TopicId)>) {
        while let Some((name, id)) = asked.recv().await {
            let deleted = match self.topology.stored(&name).await {
                Ok(Stored::Absent) => true,
                Ok(Stored::Is(now)) => now != id,
                // A newer broker wrote it: it is there, and may be the one.
                Ok(Stored::Unreadable) => false,
                Err(error) => {
                    tracing::debug!(topic = %name, %error, "whether a topic is gone cannot be told now");
                    false
                }
            };
            let mut known = self.known.lock();
            known.asked.remove(&id);
            if deleted {
                if known.deleted.len() >= MAX_DELETED {
                    known.deleted.clear();
                }
                known.deleted.insert(id);
            }
        }
    }
}

impl TopicView for LiveTopics {
    fn topic(&self, name: &str) -> Option<TopicFacts> {
        let topic = self.topology.topic(name)?;
        Some(TopicFacts { id: topic.id, partitions: topic.partitions })
    }

    fn is_deleted(&self, name: &Arc<str>, id: TopicId) -> bool {
        let mut known = self.known.lock();
        if known.deleted.contains(&id) {
            return true;
        }
        if !known.asked.contains(&id) && self.to.try_send((Arc::clone(name), id)).is_ok() {
            known.asked.insert(id);
        }
        false
    }

    /// Ticks more often than asked for: with every change of the view.
    fn changed(&self) -> watch::Receiver<u64> {
        self.topology.changed()
    }
}

#[cfg(test)]
mod tests;
