//! Who should own which partition: a pure function of the topics, the brokers that live and what stands now. The
//! coordinator calls it on every change; the same input always gives the same answer.
//!
//! * **Sticky.** A partition stays where it is unless its owner is gone or evenness asks for the move.
//! * **Even.** Afterwards the loads of living brokers differ by at most one, by as few moves as that takes. Load is the
//!   number of partitions for now.
//! * **Terms** rise by exactly one with every change of owner, and never otherwise (DESIGN 4).
//! * A broker whose death is not certain keeps what it has and is given nothing: a wrong guess would change terms
//!   because the metadata store was away (DESIGN 6).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};

/// Who owns a partition. A partition that was never assigned has no owner and term 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ownership {
    /// `None` = nobody yet.
    pub broker: Option<BrokerId>,
    /// Rises by one with every change of owner.
    pub term: Term,
}

/// What the answer depends on.
#[derive(Debug)]
pub struct Input<'a> {
    /// Every topic with its partition count, internal ones included; no topic twice.
    pub topics: &'a [(TopicId, u32)],
    /// What stands now, by partition; a shorter list means that the rest was never assigned.
    pub current: &'a HashMap<TopicId, Vec<Ownership>>,
    /// Brokers that may be given partitions.
    pub live: &'a BTreeSet<BrokerId>,
    /// Brokers whose partitions stay although they cannot be seen now.
    pub suspect: &'a BTreeSet<BrokerId>,
}

/// One partition that changes its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionIndex,
    /// What stood before.
    pub before: Ownership,
    /// What is to stand; always another broker and the next term.
    pub after: Ownership,
}

struct Slot {
    topic: TopicId,
    partition: PartitionIndex,
    before: Ownership,
    broker: BrokerId,
}

/// The changes that make everything owned and even, in order of topic and partition. None when nobody lives.
pub fn plan(input: &Input<'_>) -> Vec<Change> {
    if input.live.is_empty() {
        return Vec::new();
    }
    let mut slots = place(input);
    even_out(&mut slots, input.live);
    slots.iter().filter_map(change).collect()
}

fn change(slot: &Slot) -> Option<Change> {
    if slot.before.broker == Some(slot.broker) {
        return None;
    }
    // A partition at the last term can never move again; two thousand million moves do not happen.
    let term = Term(slot.before.term.0.checked_add(1)?);
    let after = Ownership { broker: Some(slot.broker), term };
    Some(Change { topic: slot.topic, partition: slot.partition, before: slot.before, after })
}

/// Every partition with an owner that lives, or may: orphans go to the least loaded.
fn place(input: &Input<'_>) -> Vec<Slot> {
    let mut topics = input.topics.to_vec();
    topics.sort_unstable();
    let mut loads: HashMap<BrokerId, usize> = HashMap::new();
    let mut slots = Vec::new();
    let mut orphans = Vec::new();
    for (topic, partitions) in topics {
        let current = input.current.get(&topic).map_or(&[][..], Vec::as_slice);
        for partition in 0..partitions {
            let before = current.get(partition as usize).copied().unwrap_or_default();
            let keeps =
                before.broker.filter(|b| input.live.contains(b) || input.suspect.contains(b));
            if let Some(broker) = keeps {
                *loads.entry(broker).or_default() += 1;
            } else {
                orphans.push(slots.len());
            }
            let broker = keeps.unwrap_or(BrokerId(-1));
            slots.push(Slot { topic, partition: PartitionIndex(partition), before, broker });
        }
    }
    let mut queue: BTreeSet<(usize, BrokerId)> =
        input.live.iter().map(|b| (loads.get(b).copied().unwrap_or(0), *b)).collect();
    for index in orphans {
        let (load, broker) = queue.pop_first().expect("somebody lives: checked by plan");
        slots[index].broker = broker;
        queue.insert((load + 1, broker));
    }
    slots
}

/// Moves what is above the even share of one living broker to those below it: the fewest moves that leave all
/// within one of each other.
fn even_out(slots: &mut [Slot], live: &BTreeSet<BrokerId>) {
    let mut held: BTreeMap<BrokerId, Vec<usize>> = live.iter().map(|b| (*b, Vec::new())).collect();
    for (index, slot) in slots.iter().enumerate() {
        if let Some(held) = held.get_mut(&slot.broker) {
            held.push(index);
        }
    }
    let total: usize = held.values().map(Vec::len).sum();
    let (share, extra) = (total / live.len(), total % live.len());
    // The most loaded keep the remainder, so that nothing moves for its sake.
    let mut by_load: Vec<(BrokerId, usize)> = held.iter().map(|(b, h)| (*b, h.len())).collect();
    by_load.sort_by_key(|(broker, load)| (Reverse(*load), *broker));
    let mut spare = Vec::new();
    let mut wanting = BTreeSet::new();
    for (rank, (broker, load)) in by_load.into_iter().enumerate() {
        let target = share + usize::from(rank < extra);
        if load > target {
            spare.extend(give_away(&held[&broker], slots, load - target));
        } else if load < target {
            wanting.insert((load, broker, target));
        }
    }
    for index in spare {
        let (load, broker, target) = wanting.pop_first().expect("targets add up to the total");
        slots[index].broker = broker;
        if load + 1 < target {
            wanting.insert((load + 1, broker, target));
        }
    }
}

/// Which `count` of its partitions a broker gives away: from the topics it holds most of, so that what is
/// left is spread over topics as it was.
fn give_away(held: &[usize], slots: &[Slot], count: usize) -> Vec<usize> {
    let mut seen: HashMap<TopicId, usize> = HashMap::new();
    let mut ranked: Vec<(Reverse<usize>, usize)> = held
        .iter()
        .map(|&index| {
            let rank = seen.entry(slots[index].topic).and_modify(|n| *n += 1).or_insert(0);
            (Reverse(*rank), index)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, index)| index).collect()
}

#[cfg(test)]
mod tests;
