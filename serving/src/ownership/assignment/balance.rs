//! Moves that nobody waits for: away from a broker that is to own nothing, from one with more partitions than others, or with
//! more of a topic, from one that carries more bytes. Each time the first of these that finds something to do, from one broker only.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use geminga_metastore::record::BrokerLoad;
use geminga_proto::ids::{BrokerId, TopicId};

use super::{Cause, Input, Slot};

/// Most partitions that one answer takes from a broker: they stand still for a moment, others do not.
pub(super) const AT_ONCE: usize = 16;
/// A broker that is to own nothing is waited for, and each answer costs a look at all partitions: where a part of this size
/// of what it has is more than that, so many leave at once. One with 33,000 partitions takes some hundreds of answers.
pub(super) const DRAIN_PARTS: usize = 64;
/// Differences of so many partitions are left alone, or of an eighth of the even share where that is more. One that has
/// nothing at all is given something before that.
const SLACK: usize = 2;
/// A broker that carries fewer bytes per second than this is not hot, whatever the others carry.
const HOT_BYTES: u64 = 1024 * 1024;

/// Shares are counted in parts of this.
const PARTS: u64 = 1 << 32;

type Held = BTreeMap<BrokerId, Vec<usize>>;

/// Gives some slots another broker.
pub(super) fn settle(slots: &mut [Slot], input: &Input<'_>, takers: &BTreeSet<BrokerId>) {
    let mut held: Held = takers.iter().map(|b| (*b, Vec::new())).collect();
    for (index, slot) in slots.iter().enumerate() {
        // A draining broker that cannot be seen now keeps what it has, like every other.
        let leaves = input.draining.contains(&slot.broker) && input.live.contains(&slot.broker);
        if takers.contains(&slot.broker) || leaves {
            held.entry(slot.broker).or_default().push(index);
        }
    }
    let moves = drain(slots, &mut held, takers)
        .or_else(|| even_out(slots, &mut held))
        .or_else(|| spread(slots, &held).map(|one| (Cause::Spread, vec![one])))
        .or_else(|| cool_down(slots, &held, input.loads).map(|one| (Cause::Load, vec![one])));
    let Some((cause, moves)) = moves else { return };
    for (index, broker) in moves {
        slots[index].broker = broker;
        // One that is placed by this very answer does not move.
        if slots[index].before.broker.is_some() {
            slots[index].cause = cause;
        }
    }
}

type Moves = (Cause, Vec<(usize, BrokerId)>);

/// From a broker that is no taker to those that have fewest.
fn drain(slots: &[Slot], held: &mut Held, takers: &BTreeSet<BrokerId>) -> Option<Moves> {
    let leaving =
        |(broker, held): &(&BrokerId, &Vec<usize>)| !takers.contains(broker) && !held.is_empty();
    let from = held.iter().find(leaving).map(|(broker, _)| *broker);
    let leaving: Vec<BrokerId> =
        held.keys().filter(|broker| !takers.contains(broker)).copied().collect();
    let at_once = |held: &[usize]| AT_ONCE.max(held.len() / DRAIN_PARTS);
    let given = from.map(|from| give_away(&held[&from], slots, at_once(&held[&from])));
    // What others are leaving, too, counts for nobody: it will be shared out as well.
    leaving.iter().for_each(|broker| drop(held.remove(broker)));
    let mut fewest: BTreeSet<(usize, BrokerId)> =
        held.iter().map(|(broker, held)| (held.len(), *broker)).collect();
    let moves = given?.into_iter().filter_map(|index| {
        let (count, broker) = fewest.pop_first()?;
        fewest.insert((count + 1, broker));
        Some((index, broker))
    });
    Some((Cause::Drain, moves.collect()))
}

/// From the broker that has most to those that have fewest, until it has its share.
fn even_out(slots: &[Slot], held: &mut Held) -> Option<Moves> {
    let mut counts: BTreeMap<BrokerId, usize> =
        held.iter().map(|(broker, held)| (*broker, held.len())).collect();
    if !is_uneven(&counts) {
        return None;
    }
    let from = *counts.iter().max_by_key(|(broker, count)| (**count, Reverse(**broker)))?.0;
    let share = counts.values().sum::<usize>().div_ceil(counts.len());
    let spare = counts[&from].saturating_sub(share).clamp(1, AT_ONCE);
    let mut moves = Vec::new();
    for index in give_away(&held[&from], slots, spare) {
        let (to, count) = counts.iter().min_by_key(|(broker, count)| (**count, **broker))?;
        let (to, count) = (*to, *count);
        if count + 1 >= counts[&from] {
            break;
        }
        counts.insert(to, count + 1);
        counts.insert(from, counts[&from] - 1);
        moves.push((index, to));
    }
    (!moves.is_empty()).then_some((Cause::Balance, moves))
}

/// A partition of a topic of which one broker has several and another none, where that one has fewer in all, too: so each such
/// move brings the topics nearer to even, and none takes the numbers further from it.
fn spread(slots: &[Slot], held: &Held) -> Option<(usize, BrokerId)> {
    let mut topics: BTreeMap<TopicId, BTreeMap<BrokerId, Vec<usize>>> = BTreeMap::new();
    for (broker, held) in held {
        for &index in held {
            let topic = topics.entry(slots[index].topic).or_default();
            topic.entry(*broker).or_default().push(index);
        }
    }
    topics.into_values().filter(|topic| topic.values().any(|own| own.len() > 1)).find_map(|topic| {
        let own = |broker: &BrokerId| topic.get(broker).map_or(0, Vec::len);
        let (from, most) =
            topic.iter().max_by_key(|(broker, own)| (own.len(), Reverse(**broker)))?;
        let none =
            |to: &&BrokerId| own(to) == 0 && most.len() > 1 && held[*to].len() < held[from].len();
        let to = held.keys().filter(none).min_by_key(|to| (held[*to].len(), **to))?;
        Some((*most.last()?, *to))
    })
}

/// Whether numbers differ by more than is left alone.
fn is_uneven(counts: &BTreeMap<BrokerId, usize>) -> bool {
    let most = counts.values().max().copied().unwrap_or(0);
    let fewest = counts.values().min().copied().unwrap_or(0);
    let share = counts.values().sum::<usize>() / counts.len().max(1);
    most - fewest > SLACK.max(share / 8) || (fewest == 0 && most >= 2)
}

/// One of the busiest partitions of the broker that carries most to the one that carries least, when that helps both by
/// much and leaves the numbers alone.
fn cool_down(
    slots: &[Slot],
    held: &Held,
    loads: &HashMap<BrokerId, BrokerLoad>,
) -> Option<(usize, BrokerId)> {
    let known: BTreeMap<BrokerId, &BrokerLoad> =
        held.keys().filter_map(|broker| Some((*broker, loads.get(broker)?))).collect();
    if known.len() < held.len() {
        return None;
    }
    let (from, hot) = known.iter().max_by_key(|(_, load)| load.bytes)?;
    let (to, cold) = known.iter().min_by_key(|(_, load)| load.bytes)?;
    let mean = known.values().map(|load| load.bytes).sum::<u64>() / known.len() as u64;
    if from == to || hot.bytes < HOT_BYTES || hot.bytes <= mean + mean / 2 {
        return None;
    }
    let mut counts: BTreeMap<BrokerId, usize> =
        held.iter().map(|(broker, held)| (*broker, held.len())).collect();
    *counts.entry(*from).or_default() -= 1;
    *counts.entry(*to).or_default() += 1;
    if is_uneven(&counts) {
        return None;
    }
    let after = |bytes: u64| (hot.bytes.saturating_sub(bytes)).max(cold.bytes + bytes);
    let (topic, partition, bytes) = hot.busiest.iter().min_by_key(|(_, _, bytes)| after(*bytes))?;
    if after(*bytes) > hot.bytes - hot.bytes / 10 {
        return None;
    }
    let mut owned = held.get(from)?.iter();
    let index = owned.find(|i| slots[**i].topic == *topic && slots[**i].partition == *partition)?;
    Some((*index, *to))
}

/// Which `count` of its partitions a broker gives away: of each topic about the same share of what it has of it, so that
/// what is left is spread over topics as it was, and what is given, too.
fn give_away(held: &[usize], slots: &[Slot], count: usize) -> Vec<usize> {
    let mut sizes: HashMap<TopicId, u64> = HashMap::new();
    for &index in held {
        *sizes.entry(slots[index].topic).or_default() += 1;
    }
    let mut seen: HashMap<TopicId, u64> = HashMap::new();
    let mut ranked: Vec<(Reverse<u64>, usize)> = held
        .iter()
        .map(|&index| {
            let topic = slots[index].topic;
            let rank = seen.entry(topic).and_modify(|n| *n += 1).or_insert(1);
            (Reverse(*rank * PARTS / sizes[&topic]), index)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().take(count).map(|(_, index)| index).collect()
}
