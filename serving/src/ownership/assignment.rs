//! Who should own which partition: a pure function of the topics, the brokers that live, what they carry and what stands
//! now. The coordinator calls it on every change until it asks for nothing more; the same input always gives the same
//! answer.
//!
//! * **Sticky.** A partition stays where it is unless its owner is gone, or is to own nothing, or evenness asks for the move.
//! * **Even**, within a slack, so that nothing goes back and forth: in numbers of partitions first, then in bytes.
//! * **Gentle.** Besides partitions that nobody serves, one answer moves a few partitions of one broker.
//! * **Terms** rise by exactly one with every change of owner, and never otherwise (DESIGN 4).
//! * A broker whose death is not certain keeps what it has and is given nothing: a wrong guess would change terms
//!   because the metadata store was away (DESIGN 6).

mod balance;

use std::collections::{BTreeSet, HashMap};

use geminga_metastore::record::BrokerLoad;
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
    /// Brokers that are to own nothing, as long as there are others.
    pub draining: &'a BTreeSet<BrokerId>,
    /// What brokers carry, as far as that is known to be true now; empty = balance numbers only.
    pub loads: &'a HashMap<BrokerId, BrokerLoad>,
}

/// Why a partition changes its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It had none.
    New,
    /// Its owner is gone.
    Death,
    /// Its owner is to own nothing.
    Drain,
    /// Its owner has more partitions than others.
    Balance,
    /// Its owner has more partitions of its topic than others.
    Spread,
    /// Its owner carries more bytes than others.
    Load,
    /// An operator asked for it.
    Asked,
}

impl Cause {
    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Death => "death",
            Self::Drain => "drain",
            Self::Balance => "balance",
            Self::Spread => "spread",
            Self::Load => "load",
            Self::Asked => "asked",
        }
    }
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
    /// Why.
    pub cause: Cause,
}

impl Change {
    /// The change that gives a partition to `broker`; `None` when that changes nothing.
    pub fn new(
        (topic, partition): (TopicId, PartitionIndex),
        before: Ownership,
        broker: BrokerId,
        cause: Cause,
    ) -> Option<Self> {
        if before.broker == Some(broker) {
            return None;
        }
        // A partition at the last term can never move again; two thousand million moves do not happen.
        let term = Term(before.term.0.checked_add(1)?);
        let after = Ownership { broker: Some(broker), term };
        Some(Self { topic, partition, before, after, cause })
    }
}

/// A partition, and who is to own it.
struct Slot {
    topic: TopicId,
    partition: PartitionIndex,
    before: Ownership,
    broker: BrokerId,
    cause: Cause,
}

/// The next changes towards everything being owned and even, in order of topic and partition. None when nobody lives.
pub fn plan(input: &Input<'_>) -> Vec<Change> {
    let mut takers: BTreeSet<BrokerId> = input.live.difference(input.draining).copied().collect();
    if takers.is_empty() {
        takers.clone_from(input.live);
    }
    if takers.is_empty() {
        return Vec::new();
    }
    let mut slots = place(input, &takers);
    // While somebody's partitions are served by nobody, nobody else's are touched.
    if !slots.iter().any(|slot| slot.cause == Cause::Death) {
        balance::settle(&mut slots, input, &takers);
    }
    let change = |s: &Slot| Change::new((s.topic, s.partition), s.before, s.broker, s.cause);
    slots.iter().filter_map(change).collect()
}

/// Every partition with an owner that lives, or may: orphans go to the takers with fewest, topic by topic.
fn place(input: &Input<'_>, takers: &BTreeSet<BrokerId>) -> Vec<Slot> {
    let mut topics = input.topics.to_vec();
    topics.sort_unstable();
    let mut counts: HashMap<BrokerId, usize> = HashMap::new();
    let mut slots = Vec::new();
    let mut orphans = Vec::new();
    for (topic, partitions) in topics {
        let current = input.current.get(&topic).map_or(&[][..], Vec::as_slice);
        for partition in 0..partitions {
            let before = current.get(partition as usize).copied().unwrap_or_default();
            let keeps =
                before.broker.filter(|b| input.live.contains(b) || input.suspect.contains(b));
            if let Some(broker) = keeps {
                *counts.entry(broker).or_default() += 1;
            } else {
                orphans.push(slots.len());
            }
            let broker = keeps.unwrap_or(BrokerId(-1));
            let cause = match (before.broker, keeps) {
                (Some(_), None) => Cause::Death,
                _ => Cause::New,
            };
            let partition = PartitionIndex(partition);
            slots.push(Slot { topic, partition, before, broker, cause });
        }
    }
    // Orphans come topic by topic: each goes to a taker with fewest of its topic, and of those with fewest at all.
    let mut queue: BTreeSet<(usize, usize, BrokerId)> = BTreeSet::new();
    let mut of_topic = None;
    for index in orphans {
        let topic = slots[index].topic;
        if of_topic.replace(topic) != Some(topic) {
            let mut own: HashMap<BrokerId, usize> = HashMap::new();
            for slot in slots.iter().filter(|slot| slot.topic == topic) {
                *own.entry(slot.broker).or_default() += 1;
            }
            let count = |counts: &HashMap<BrokerId, usize>, b| counts.get(b).copied().unwrap_or(0);
            queue = takers.iter().map(|b| (count(&own, b), count(&counts, b), *b)).collect();
        }
        let (own, all, broker) = queue.pop_first().expect("somebody takes: checked by plan");
        slots[index].broker = broker;
        counts.insert(broker, all + 1);
        queue.insert((own + 1, all + 1, broker));
    }
    slots
}

#[cfg(test)]
mod tests;
