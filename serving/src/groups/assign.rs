//! Server-side assignment: uniform and sticky. Every partition of a topic that somebody subscribes to goes to exactly
//! one of its subscribers; members keep what they had unless balance demands a move; the result depends on nothing
//! but the input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::types::Assignment;

/// What the assignor knows of a member.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber<'a> {
    /// What it subscribes to, ascending, no repeats.
    pub(crate) topics: &'a [Arc<str>],
    /// What it had.
    pub(crate) previous: &'a Assignment,
}

/// Loads of the members that subscribe to one topic; the index breaks ties.
type Loads = BTreeSet<(usize, usize)>;

struct State {
    /// Topic, its partition count, and its subscribers' indexes.
    topics: BTreeMap<Arc<str>, (u32, Vec<usize>)>,
    assigned: Vec<BTreeMap<Arc<str>, BTreeSet<u32>>>,
    load: Vec<usize>,
}

/// Divides the partitions of all subscribed topics among `members`, answering in their order. `partitions` gives a
/// topic's partition count, 0 when it does not exist.
pub(crate) fn assign(
    members: &[Subscriber<'_>],
    partitions: impl Fn(&str) -> u32,
) -> Vec<Assignment> {
    let mut state = State::new(members, partitions);
    let orphans = state.keep_previous(members);
    for (topic, list) in orphans {
        state.give(&topic, list);
    }
    while state.level() {}
    state.assigned.into_iter().map(collect).collect()
}

fn collect(sets: BTreeMap<Arc<str>, BTreeSet<u32>>) -> Assignment {
    let lists = sets.into_iter().map(|(topic, set)| (topic, set.into_iter().collect::<Vec<_>>()));
    lists.filter(|(_, list)| !list.is_empty()).collect()
}

impl State {
    fn new(members: &[Subscriber<'_>], partitions: impl Fn(&str) -> u32) -> Self {
        let mut topics: BTreeMap<Arc<str>, (u32, Vec<usize>)> = BTreeMap::new();
        for (at, member) in members.iter().enumerate() {
            for topic in member.topics {
                let entry = topics.entry(topic.clone());
                entry.or_insert_with(|| (partitions(topic), Vec::new())).1.push(at);
            }
        }
        topics.retain(|_, (count, _)| *count > 0);
        Self {
            topics,
            assigned: vec![BTreeMap::new(); members.len()],
            load: vec![0; members.len()],
        }
    }

    /// Lets members keep what still exists, what they still subscribe to, and what no earlier member claims.
    /// Returns the rest.
    fn keep_previous(&mut self, members: &[Subscriber<'_>]) -> Vec<(Arc<str>, Vec<u32>)> {
        let mut orphans = Vec::new();
        for (topic, (count, subscribers)) in &self.topics {
            let mut free = vec![true; *count as usize];
            for &at in subscribers {
                let Some(had) = members[at].previous.get(topic) else { continue };
                for &partition in had {
                    let Some(free) = free.get_mut(partition as usize) else { continue };
                    if std::mem::take(free) {
                        self.assigned[at].entry(topic.clone()).or_default().insert(partition);
                        self.load[at] += 1;
                    }
                }
            }
            let left = (0..*count).filter(|&p| free[p as usize]).collect();
            orphans.push((topic.clone(), left));
        }
        orphans
    }

    fn loads(&self, topic: &str) -> Loads {
        let (_, subscribers) = &self.topics[topic];
        subscribers.iter().map(|&at| (self.load[at], at)).collect()
    }

    /// Gives each partition to the least loaded subscriber.
    fn give(&mut self, topic: &Arc<str>, partitions: Vec<u32>) {
        let mut loads = self.loads(topic);
        for partition in partitions {
            let (load, at) = loads.pop_first().expect("a topic is listed with its subscribers");
            self.assigned[at].entry(topic.clone()).or_default().insert(partition);
            self.load[at] += 1;
            loads.insert((load + 1, at));
        }
    }

    /// Moves partitions from members with at least two more than another subscriber of the same topic. Each move
    /// lowers the sum of squared loads, so this comes to an end. Returns whether anything moved.
    fn level(&mut self) -> bool {
        let topics: Vec<Arc<str>> = self.topics.keys().cloned().collect();
        let mut moved = false;
        for topic in topics {
            moved |= self.level_topic(&topic);
        }
        moved
    }

    fn level_topic(&mut self, topic: &Arc<str>) -> bool {
        let mut loads = self.loads(topic);
        let mut moved = false;
        // Givers with nothing left of this topic drop out at the heavy end.
        while let (Some(&light), Some(&heavy)) = (loads.first(), loads.last()) {
            if heavy.0 < light.0 + 2 {
                break;
            }
            loads.remove(&heavy);
            let Some(partition) =
                self.assigned[heavy.1].get_mut(topic).and_then(BTreeSet::pop_last)
            else {
                continue;
            };
            loads.remove(&light);
            self.assigned[light.1].entry(topic.clone()).or_default().insert(partition);
            self.load[heavy.1] -= 1;
            self.load[light.1] += 1;
            loads.insert((heavy.0 - 1, heavy.1));
            loads.insert((light.0 + 1, light.1));
            moved = true;
        }
        moved
    }
}

#[cfg(test)]
mod tests;
