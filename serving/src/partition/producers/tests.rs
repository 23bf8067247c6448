//! The state against a model that remembers everything, and the rules one by one.

use geminga_runtime::{Random, SeededRandom};

use super::*;
use crate::partition::snapshot;

const NOW: i64 = 1_000_000;

fn stamp(producer_id: i64, epoch: i16, first: i32, count: u32) -> Stamp {
    let sequence = Sequence { producer_id, epoch, first };
    Stamp { sequence, count, attributes: 0, max_timestamp: 5 }
}

/// Where a batch is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Log(Offset),
    Way(Ticket),
}

/// Remembers every batch, and looks through all of them.
#[derive(Default)]
struct Model {
    log: Vec<(Stamp, Offset)>,
    way: Vec<(Stamp, Ticket)>,
}

impl Model {
    /// A producer's batches of one epoch, in order.
    fn of(&self, id: i64, epoch: Option<i16>) -> Vec<(Stamp, Place)> {
        let log = self.log.iter().map(|(stamp, at)| (*stamp, Place::Log(*at)));
        let way = self.way.iter().map(|(stamp, at)| (*stamp, Place::Way(*at)));
        let mine = |(stamp, _): &(Stamp, Place)| {
            stamp.sequence.producer_id == id && epoch.is_none_or(|e| e == stamp.sequence.epoch)
        };
        log.chain(way).filter(mine).collect()
    }

    fn check(&self, stamp: &Stamp) -> Verdict {
        let Sequence { producer_id, epoch, first } = stamp.sequence;
        let Some((newest, _)) = self.of(producer_id, None).last().copied() else {
            return if first == 0 { Verdict::Next } else { Verdict::Refused(Refusal::Unknown) };
        };
        let newest = newest.sequence.epoch;
        if epoch < newest {
            return Verdict::Refused(Refusal::Fenced { epoch: newest });
        }
        let same = self.of(producer_id, Some(epoch));
        let total: i64 = same.iter().map(|(s, _)| i64::from(s.count)).sum();
        let expected = (total % (1 << 31)) as i32;
        if first == expected {
            return Verdict::Next;
        }
        if epoch > newest {
            return Verdict::Refused(Refusal::OutOfOrder { expected: 0 });
        }
        let in_log = same.iter().filter(|(_, place)| matches!(place, Place::Log(_))).count();
        let remembered = &same[in_log.saturating_sub(caps::PRODUCER_BATCHES)..];
        let found =
            remembered.iter().find(|(s, _)| s.sequence.first == first && s.count == stamp.count);
        match found {
            Some((_, Place::Log(at))) => return Verdict::Committed(*at),
            Some((_, Place::Way(ticket))) => return Verdict::Assigned(*ticket),
            None => {}
        }
        // Places on the line of all numbers ever given.
        let behind = (i64::from(expected) - i64::from(first)).rem_euclid(1 << 31);
        let oldest: i64 = total - remembered.iter().map(|(s, _)| i64::from(s.count)).sum::<i64>();
        if behind <= 1 << 30 && total - behind + i64::from(stamp.count) <= oldest {
            return Verdict::Refused(Refusal::TooOld);
        }
        Verdict::Refused(Refusal::OutOfOrder { expected })
    }
}

struct World {
    random: SeededRandom,
    model: Model,
    state: Producers,
    /// The newest snapshot, and how much of the log it covers.
    saved: (Vec<bytes::Bytes>, usize),
    tickets: u64,
    offset: i64,
    /// How often each verdict was given.
    seen: BTreeMap<&'static str, usize>,
}

impl World {
    fn below(&self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    /// A batch as a good producer, a retrying one, or a confused one sends it.
    fn batch(&self) -> Stamp {
        let id = self.random.below(4) as i64;
        let mine = self.model.of(id, None);
        let count = 1 + self.random.below(1 << 26) as u32;
        let Some((last, _)) = mine.last() else {
            return stamp(id, self.random.below(2) as i16, self.random.below(2) as i32, count);
        };
        let Sequence { epoch, .. } = last.sequence;
        let next = sequence_after(last.sequence.first, last.count);
        let mut again = mine[mine.len() - 1 - self.below(mine.len().min(12))].0;
        match self.random.below(20) {
            0..8 => stamp(id, epoch, next, count),
            8..14 => again,
            14 => {
                again.count += 1;
                again
            }
            15 => stamp(id, epoch, sequence_after(next, count), count),
            16 => stamp(id, epoch, sequence_after(again.sequence.first, 1), 1),
            17 => stamp(id, epoch + 1, 0, count),
            18 => stamp(id, epoch + 1, next, count),
            _ => stamp(id, (epoch - 1).max(0), next, count),
        }
    }

    fn arrive(&mut self) {
        let batch = self.batch();
        let verdict = self.state.check(&batch, NOW);
        assert_eq!(verdict, self.model.check(&batch), "{batch:?}");
        let name = match verdict {
            Verdict::Next => "next",
            Verdict::Committed(_) => "committed",
            Verdict::Assigned(_) => "assigned",
            Verdict::Refused(Refusal::OutOfOrder { .. }) => "out of order",
            Verdict::Refused(Refusal::TooOld) => "too old",
            Verdict::Refused(Refusal::Fenced { .. }) => "fenced",
            Verdict::Refused(Refusal::Unknown) => "unknown",
            Verdict::Refused(Refusal::TooMany | Refusal::BrokerFull { .. }) => "too many",
        };
        *self.seen.entry(name).or_default() += 1;
        if verdict == Verdict::Next {
            let ticket = Ticket(self.tickets);
            self.tickets += 1;
            self.state.assign(&batch, ticket);
            self.model.way.push((batch, ticket));
        }
    }

    /// The oldest that are on their way are durable; whether their owner hears of it.
    fn store(&mut self, acknowledged: bool) {
        let count = self.below(self.model.way.len() + 1);
        for (batch, _) in self.model.way.drain(..count) {
            let at = Offset(self.offset);
            self.offset += i64::from(batch.count);
            self.model.log.push((batch, at));
            if acknowledged {
                self.state.commit(&batch, at, NOW);
            }
        }
    }

    /// The newest that are on their way are refused (P3).
    fn refuse(&mut self) {
        let keep = self.below(self.model.way.len() + 1);
        for (batch, _) in self.model.way.split_off(keep).into_iter().rev() {
            self.state.take_back(&batch);
        }
    }

    /// The next owner has the snapshot and the log (P4); some of what was on its way is there as well.
    fn take_over(&mut self) {
        self.store(false);
        self.model.way.clear();
        self.state = Producers::default();
        let (parts, covered) = &self.saved;
        parts.iter().for_each(|part| snapshot::decode(part, &mut self.state, NOW).unwrap());
        for (batch, at) in &self.model.log[*covered..] {
            self.state.replay(batch, *at);
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..26 => self.arrive(),
            26..34 => self.store(true),
            34..37 => self.refuse(),
            37..39 => self.saved = (snapshot::encode(&self.state, 0), self.model.log.len()),
            _ => self.take_over(),
        }
    }
}

#[test]
fn verdicts_are_those_of_a_model_that_remembers_everything() {
    let start: u64 = std::env::var("GEMINGA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in start..start + 200 {
        println!("seed {seed}");
        let mut world = World {
            random: SeededRandom::new(seed),
            model: Model::default(),
            state: Producers::default(),
            saved: (snapshot::encode(&Producers::default(), 0), 0),
            tickets: 0,
            offset: 0,
            seen: BTreeMap::new(),
        };
        for _ in 0..800 {
            world.step();
        }
        world.seen.into_iter().for_each(|(name, count)| *seen.entry(name).or_default() += count);
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), 7, "a verdict was never given: {seen:?}");
}

#[test]
fn numbers_go_on_at_zero_behind_the_largest() {
    let mut state = Producers::default();
    let batches = [(0, 0x7fff_fff0_u32), (0x7fff_fff0, 0x10 + 4), (4, 1)];
    for (offset, (first, count)) in (0..).zip(batches) {
        let batch = stamp(1, 0, first, count);
        assert_eq!(state.check(&batch, NOW), Verdict::Next);
        state.append(&batch, Offset(offset), NOW);
    }
    assert_eq!(state.check(&stamp(1, 0, 0x7fff_fff0, 0x14), NOW), Verdict::Committed(Offset(1)));
    let expected = Verdict::Refused(Refusal::OutOfOrder { expected: 5 });
    assert_eq!(state.check(&stamp(1, 0, 6, 1), NOW), expected);
}

/// A batch that overlaps with what is there is not taken for one of them, whatever it says.
#[test]
fn a_batch_cut_otherwise_is_no_duplicate() {
    let mut state = Producers::default();
    state.append(&stamp(1, 0, 0, 10), Offset(0), NOW);
    let expected = Verdict::Refused(Refusal::OutOfOrder { expected: 10 });
    for (first, count) in [(0, 9), (0, 11), (5, 5), (9, 3)] {
        assert_eq!(state.check(&stamp(1, 0, first, count), NOW), expected);
    }
}

fn full() -> Producers {
    let mut state = Producers::default();
    for id in 0..caps::MAX_PRODUCERS_PER_PARTITION as i64 {
        state.append(&stamp(id, 0, 0, 1), Offset(id), NOW);
    }
    state
}

/// Bounded; and whoever may still have to repeat something is not forgotten.
#[test]
fn one_more_producer_pushes_out_the_one_that_was_silent_for_longest() {
    let mut state = full();
    let comer = stamp(-7, 0, 0, 1);
    assert_eq!(state.check(&comer, NOW + 1), Verdict::Refused(Refusal::TooMany));
    assert_eq!(state.check(&stamp(0, 0, 1, 1), NOW + 1), Verdict::Next, "it is one of them");
    let later = NOW + PROTECTED_MS;
    state.append(&stamp(0, 0, 1, 1), Offset(1 << 20), later);
    for id in [-7, -8] {
        let comer = stamp(id, 0, 0, 1);
        assert_eq!(state.check(&comer, later), Verdict::Next);
        state.assign(&comer, Ticket(1));
    }
    state.commit(&comer, Offset(2 << 20), later);
    state.commit(&stamp(-8, 0, 0, 1), Offset(3 << 20), later);
    let left: Vec<i64> = state.committed().map(|(id, _)| id).collect();
    assert_eq!(left.len(), caps::MAX_PRODUCERS_PER_PARTITION);
    assert_eq!((left[0], left[left.len() - 1]), (3, -8), "1 and 2 are forgotten");
    assert_eq!(state.check(&stamp(1, 0, 1, 1), later), Verdict::Refused(Refusal::Unknown));
}

/// Who has something in the log and something on its way is one producer, not two.
#[test]
fn producers_that_are_known_take_no_second_place() {
    let mut state = Producers::default();
    let half = caps::MAX_PRODUCERS_PER_PARTITION as i64 / 2 + 1;
    for id in 0..half {
        state.append(&stamp(id, 0, 0, 1), Offset(id), NOW);
        state.assign(&stamp(id, 0, 1, 1), Ticket(id as u64));
    }
    for id in half..caps::MAX_PRODUCERS_PER_PARTITION as i64 {
        assert_eq!(state.check(&stamp(id, 0, 0, 1), NOW), Verdict::Next, "{id}");
        state.assign(&stamp(id, 0, 0, 1), Ticket(id as u64));
    }
    let comer = stamp(-1, 0, 0, 1);
    assert_eq!(state.check(&comer, NOW), Verdict::Refused(Refusal::TooMany));
    state.take_back(&stamp(half, 0, 0, 1));
    assert_eq!(state.check(&comer, NOW), Verdict::Next, "one of them was taken back");
    state.assign(&comer, Ticket(1 << 20));
    state.commit(&comer, Offset(1 << 20), NOW);
    assert_eq!(state.check(&stamp(-2, 0, 0, 1), NOW), Verdict::Refused(Refusal::TooMany));
}

/// What all partitions remember together is bounded, and whoever closes makes room for others.
#[test]
fn partitions_share_the_room_for_producers() {
    let budget = Budget::new(3);
    let of = |budget: &Budget| Producers::new(budget.clone(), Mutations::default());
    let (mut first, mut second) = (of(&budget), of(&budget));
    for id in 1..=3 {
        let comer = stamp(id, 0, 0, 1);
        assert_eq!(first.check(&comer, NOW), Verdict::Next);
        first.assign(&comer, Ticket(id as u64));
        if id < 3 {
            first.commit(&comer, Offset(id), NOW);
        }
    }
    let full = Verdict::Refused(Refusal::BrokerFull { most: 3 });
    assert_eq!(second.check(&stamp(4, 0, 0, 1), NOW), full);
    assert_eq!(first.check(&stamp(4, 0, 0, 1), NOW), full);
    assert_eq!(first.check(&stamp(1, 0, 1, 1), NOW), Verdict::Next, "it is one of them");
    // Who was refused gives its place back.
    first.take_back(&stamp(3, 0, 0, 1));
    assert_eq!(second.check(&stamp(4, 0, 0, 1), NOW), Verdict::Next);
    second.assign(&stamp(4, 0, 0, 1), Ticket(4));
    second.commit(&stamp(4, 0, 0, 1), Offset(4), NOW);
    // One for one, where somebody was silent for long enough; of others' none is forgotten.
    let later = NOW + PROTECTED_MS;
    second.append(&stamp(4, 0, 1, 1), Offset(5), later);
    assert_eq!(second.check(&stamp(5, 0, 0, 1), later), full);
    let comer = stamp(5, 0, 0, 1);
    assert_eq!(first.check(&comer, later), Verdict::Next);
    first.assign(&comer, Ticket(5));
    first.commit(&comer, Offset(6), later);
    assert_eq!(first.committed().map(|(id, _)| id).collect::<Vec<_>>(), [2, 5]);
    // A takeover forgets nobody.
    for id in 6..=7 {
        second.replay(&stamp(id, 0, 0, 1), Offset(id));
    }
    assert_eq!(second.committed().count(), 3);
    drop(second);
    drop(first);
    assert_eq!(of(&budget).check(&stamp(8, 0, 0, 1), NOW), Verdict::Next);
    let mut all = of(&budget);
    (1..=3).for_each(|id| all.append(&stamp(id, 0, 0, 1), Offset(id), NOW));
    all.expire(NOW + 100, 100);
    assert_eq!(of(&budget).check(&stamp(8, 0, 0, 1), NOW), Verdict::Next, "none is left");
}

/// A batch's acknowledgement may have died with the former owner, whatever that one's wall clock said of its age.
#[test]
fn a_takeover_on_a_full_broker_forgets_nobody() {
    let mut state = Producers::new(Budget::new(2), Mutations::default());
    for id in 1..=2 {
        let kept =
            Kept { first: 0, count: 1, base_offset: Offset(id), max_timestamp: 5, dated: false };
        let batches = VecDeque::from([kept]);
        state.restore(id, Producer { epoch: 0, appended_ms: -PROTECTED_MS, batches });
    }
    // One that was pushed out by each newcomer would leave only these.
    (3..=5).for_each(|id| state.replay(&stamp(id, 0, 0, 1), Offset(id)));
    assert_eq!(state.committed().map(|(id, _)| id).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let again = stamp(1, 0, 0, 1);
    let full = Verdict::Refused(Refusal::BrokerFull { most: 2 });
    for now_ms in [0, PROTECTED_MS - 1] {
        assert_eq!(state.check(&again, now_ms), Verdict::Committed(Offset(1)));
        assert_eq!(state.check(&stamp(6, 0, 0, 1), now_ms), full, "all are protected");
    }
    assert_eq!(state.check(&stamp(6, 0, 0, 1), PROTECTED_MS), Verdict::Next);
}

/// P4: who was forgotten and began anew is after a takeover what it was before, though the snapshot still knows it.
#[test]
fn who_was_forgotten_and_began_anew_has_no_past_for_a_successor_either() {
    let mut state = Producers::default();
    (0..3).for_each(|n| state.append(&stamp(1, 0, n * 10, 10), Offset(i64::from(n) * 10), NOW));
    let saved = snapshot::encode(&state, 0);
    state.expire(NOW + 100, 100);
    assert!(!state.knows_any());
    assert_eq!(state.check(&stamp(1, 0, 0, 5), NOW), Verdict::Next);
    state.append(&stamp(1, 0, 0, 5), Offset(30), NOW);
    let mut next = Producers::default();
    saved.iter().for_each(|part| snapshot::decode(part, &mut next, 0).unwrap());
    next.replay(&stamp(1, 0, 0, 5), Offset(30));
    for state in [state, next] {
        // Of the former numbers: not taken for the batch that was written then.
        let gap = Verdict::Refused(Refusal::OutOfOrder { expected: 5 });
        assert_eq!(state.check(&stamp(1, 0, 20, 10), NOW), gap);
        assert_eq!(state.check(&stamp(1, 0, 0, 5), NOW), Verdict::Committed(Offset(30)));
        assert_eq!(state.check(&stamp(1, 0, 5, 1), NOW), Verdict::Next);
    }
}

#[test]
fn the_silent_are_forgotten_in_time_but_not_with_something_on_its_way() {
    let mut state = Producers::default();
    for id in 1..=3 {
        state.append(&stamp(id, 0, 0, 1), Offset(id), NOW + id);
    }
    state.assign(&stamp(1, 0, 1, 1), Ticket(0));
    state.expire(NOW + 102, 100);
    let left: Vec<i64> = state.committed().map(|(id, _)| id).collect();
    assert_eq!(left, [1, 3]);
    state.expire(i64::MAX, 100);
    let left: Vec<i64> = state.committed().map(|(id, _)| id).collect();
    assert_eq!(left, [1]);
}

/// What a client is told is stable, and says what to do.
#[test]
fn refusals_have_reasons() {
    let batch = stamp(1, 2, 3, 4);
    let reason = |refusal: Refusal| refusal.error(&batch).reason;
    assert_eq!(reason(Refusal::OutOfOrder { expected: 1 }), Reason::OutOfOrderSequence);
    assert_eq!(reason(Refusal::TooOld), Reason::DuplicateSequence);
    assert_eq!(reason(Refusal::Fenced { epoch: 3 }), Reason::InvalidProducerEpoch);
    assert_eq!(reason(Refusal::Unknown), Reason::UnknownProducerId);
    assert_eq!(reason(Refusal::TooMany), Reason::Overloaded);
    assert_eq!(reason(Refusal::BrokerFull { most: 1 }), Reason::Overloaded);
    let error = Refusal::OutOfOrder { expected: 1 }.error(&batch);
    assert!(error.message.contains("sequence 3 of producer 1, epoch 2"), "{error}");
}
