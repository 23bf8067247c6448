//! What goes wrong, and when: decided by the seed before the run begins.
//!
//! Faults are dealt from a pack that holds each kind, which is shuffled anew when it is empty: a run that is long enough for one
//! pack has met them all. Never more at once than the cluster is to survive: one bookie, all brokers but one, one member of
//! etcd or all of them. Beside these there are outages of everything, which may only stall; nothing else goes wrong during one.
//! All is healed before the end.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::dice::Dice;
use crate::fault::{Fault, Sizes, Target};

/// Before the first fault: something is to be there that can be lost.
const QUIET: Duration = Duration::from_secs(3);
/// After a fault, the same part is left alone for this long: it is to come back before the next.
const BREATH: Duration = Duration::from_secs(3);
/// After a fault, one of the same sort is left alone for this long.
const HANDOVER: Duration = Duration::from_secs(2);
/// How often it is dealt anew until every kind of fault finds room.
const DEALS: u64 = 8;
/// How many packs are looked through for all faults of a kind.
const DRAWS: u64 = 60;
/// Between two looks for a fault that may begin.
const STEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(600));
/// The same, once every kind was met: there is time to recover.
const LATER_STEP: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2500));

/// What the machine that the run is on can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Means {
    /// Processes are in network namespaces, so that packets between two of them can be dropped.
    pub packets: bool,
    /// Packets can be held up and overtake each other (netem).
    pub netem: bool,
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// From the start of the run.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

impl Planned {
    /// When it is healed.
    pub fn end(&self) -> Duration {
        self.at + self.lasts
    }
}

/// All faults of a run, in the order of their beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule(Vec<Planned>);

impl Schedule {
    /// The schedule that belongs to `seed`.
    pub fn new(seed: u64, duration: Duration, sizes: Sizes, means: Means) -> Self {
        let kinds = Self::kinds(sizes, means).len();
        let mut best = Self(Vec::new());
        // Now and then a pack does not fit into a minute, and another would.
        for part in 0..DEALS {
            let dice = Dice::new(seed, 3000 + part);
            let dealt = Self::deal(&dice, duration, sizes, means);
            if dealt.met().len() > best.met().len() {
                best = dealt;
            }
            if best.met().len() == kinds {
                break;
            }
        }
        best
    }

    fn deal(dice: &Dice, duration: Duration, sizes: Sizes, means: Means) -> Self {
        let mut planned: Vec<Planned> = Vec::new();
        let mut pack = pack(dice, sizes, means);
        let (mut first, mut at) = (true, QUIET);
        while at < duration {
            let fits = |index: &usize| {
                let (fault, lasts) = pack[*index];
                let next = Planned { at, lasts, fault };
                next.end() < duration
                    && planned.iter().all(|earlier| together(earlier, &next))
                    && bearable(&planned, &next, sizes)
            };
            match (0..pack.len()).find(fits) {
                Some(index) => {
                    let (fault, lasts) = pack.remove(index);
                    planned.push(Planned { at, lasts, fault });
                }
                // The same kinds, with others and for other times, may find room.
                None => {
                    let left: BTreeSet<String> =
                        pack.iter().map(|(fault, _)| fault.kind()).collect();
                    pack = self::pack(dice, sizes, means);
                    pack.retain(|(fault, _)| left.contains(&fault.kind()));
                }
            }
            if pack.is_empty() {
                first = false;
                pack = self::pack(dice, sizes, means);
            }
            let (low, high) = if first { STEP } else { LATER_STEP };
            at += dice.between(low, high);
        }
        Self(planned)
    }

    /// The kinds of fault that a whole pack has.
    pub fn kinds(sizes: Sizes, means: Means) -> BTreeSet<String> {
        let pack = pack(&Dice::new(0, 0), sizes, means);
        pack.into_iter().map(|(fault, _)| fault.kind()).collect()
    }

    /// All faults of a kind, whoever they happen to: for one that nobody felt. With how long each is to last.
    pub(crate) fn all_of(
        kind: &str,
        seed: u64,
        sizes: Sizes,
        means: Means,
    ) -> Vec<(Fault, Duration)> {
        let mut all: Vec<(Fault, Duration)> = Vec::new();
        for part in 0..DRAWS {
            let pack = pack(&Dice::new(seed, 4000 + part), sizes, means);
            for (fault, lasts) in pack.into_iter().filter(|(fault, _)| fault.kind() == kind) {
                if !all.iter().any(|(known, _)| *known == fault) {
                    all.push((fault, lasts));
                }
            }
        }
        all
    }

    /// The kinds of fault that this one has.
    fn met(&self) -> BTreeSet<String> {
        self.0.iter().map(|planned| planned.fault.kind()).collect()
    }

    /// The faults.
    pub fn faults(&self) -> &[Planned] {
        &self.0
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Planned { at, lasts, fault } in &self.0 {
            writeln!(f, "{:>8.1} s  {fault} for {:.1} s", at.as_secs_f32(), lasts.as_secs_f32())?;
        }
        Ok(())
    }
}

/// One fault of each kind and how long each lasts, shuffled. What takes longest to find room for comes first.
fn pack(dice: &Dice, sizes: Sizes, means: Means) -> Vec<(Fault, Duration)> {
    let broker = || Target::Broker(dice.below(sizes.brokers));
    let bookie = || Target::Bookie(dice.below(sizes.bookies));
    let node = || if dice.chance(50) { broker() } else { bookie() };
    let mut faults = vec![
        Fault::Kill(broker()),
        Fault::Kill(bookie()),
        Fault::Kill(Target::Leader),
        Fault::Kill(Target::Store),
        Fault::Stop(broker()),
        Fault::Stop(bookie()),
        Fault::Pause(broker()),
        Fault::Pause(bookie()),
        Fault::Pause(Target::Leader),
        Fault::Pause(Target::Store),
        Fault::Cut(node()),
        Fault::Silence(node()),
        Fault::Slow(node()),
        Fault::NoStore(node()),
        Fault::Outage,
    ];
    if means.packets {
        let pairs = || {
            let one = dice.below(sizes.brokers);
            let other = (one + 1 + dice.below(sizes.brokers - 1)) % sizes.brokers;
            [
                (Target::Broker(one), Target::Broker(other)),
                (broker(), bookie()),
                (broker(), Target::Store),
                (bookie(), Target::Store),
                (Target::Clients, broker()),
                (Target::Leader, Target::Follower(dice.below(sizes.etcds - 1))),
            ]
        };
        faults.extend(pairs().map(|(one, other)| Fault::Apart(one, other)));
        faults.extend(pairs().map(|(one, other)| {
            if dice.chance(50) { Fault::OneWay(one, other) } else { Fault::OneWay(other, one) }
        }));
        faults.extend([broker(), bookie(), Target::Leader].map(Fault::Alone));
        faults.extend([Fault::Lossy(node()), Fault::Narrow(broker())]);
        if means.netem {
            faults.push(Fault::Late(node()));
        }
    }
    let mut pack: Vec<(Fault, Duration)> = Vec::new();
    for fault in faults {
        pack.insert(dice.below(pack.len() + 1), (fault, lasts(dice, fault)));
    }
    pack.sort_by_key(|(fault, _)| match fault {
        Fault::Outage => 0,
        fault if fault.weakens().iter().any(|target| target.is_etcd()) => 1,
        fault if fault.is_mild() => 3,
        fault if fault.weakens().iter().any(|target| matches!(target, Target::Clients)) => 3,
        _ => 2,
    });
    pack
}

/// How long a fault lasts: long enough to be felt, at times longer than leases and sessions live.
fn lasts(dice: &Dice, fault: Fault) -> Duration {
    let seconds = |low: f32, high: f32| {
        dice.between(Duration::from_secs_f32(low), Duration::from_secs_f32(high))
    };
    match fault {
        // Elections take a second or two.
        _ if fault.targets().iter().any(|target| target.is_etcd()) => seconds(2.0, 4.0),
        Fault::Pause(_) | Fault::Silence(_) | Fault::Alone(_) if dice.chance(25) => {
            seconds(7.0, 12.0)
        }
        Fault::Kill(_) | Fault::Outage => seconds(0.2, 3.0),
        // A broker hands its partitions over.
        Fault::Stop(_) => seconds(3.5, 5.0),
        _ => seconds(1.0, 3.5),
    }
}

/// Whether both can be planned: nothing beside an outage, and one thing at a time for each part. `next` does not begin
/// before `earlier`.
fn together(earlier: &Planned, next: &Planned) -> bool {
    let apart = next.at >= earlier.end() + BREATH;
    let (one, other) = (earlier.fault.weakens(), next.fault.weakens());
    if one.is_empty() || other.is_empty() {
        return apart;
    }
    let same = |a: Target, b: Target| a == b || (a.is_etcd() && b.is_etcd());
    let meet = one.iter().any(|a| other.iter().any(|b| same(*a, *b)));
    !meet || apart
}

/// Whether the cluster is to survive `next` beside what goes on.
fn bearable(planned: &[Planned], next: &Planned, sizes: Sizes) -> bool {
    let going_on = planned.iter().filter(|earlier| next.at < earlier.end() + HANDOVER);
    let weak = |is: fn(&Target) -> bool| {
        let faults = going_on.clone().chain([next]).map(|planned| planned.fault);
        faults.filter(|fault| !fault.is_mild() && fault.weakens().iter().any(is)).count()
    };
    weak(|target| matches!(target, Target::Bookie(_))) <= 1
        && weak(|target| matches!(target, Target::Broker(_))) < sizes.brokers.max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { bookies: 4, brokers: 3, etcds: 3, clients: 6 };
    const MINUTE: Duration = Duration::from_secs(60);
    const ALL: Means = Means { packets: true, netem: true };
    const NONE: Means = Means { packets: false, netem: false };

    fn all() -> impl Iterator<Item = Schedule> {
        (0..30).map(|seed| Schedule::new(seed, MINUTE, SIZES, ALL))
    }

    /// The faults that last at this moment.
    fn during(schedule: &Schedule, at: Duration) -> Vec<Fault> {
        let faults = schedule.faults().iter();
        faults.filter(|p| p.at <= at && at < p.end()).map(|p| p.fault).collect()
    }

    #[test]
    fn a_seed_has_one_schedule() {
        assert_eq!(Schedule::new(7, MINUTE, SIZES, ALL), Schedule::new(7, MINUTE, SIZES, ALL));
        assert_ne!(Schedule::new(7, MINUTE, SIZES, ALL), Schedule::new(8, MINUTE, SIZES, ALL));
    }

    #[test]
    fn all_is_healed_before_the_end() {
        for schedule in all() {
            assert!(schedule.faults().iter().all(|planned| planned.end() < MINUTE), "{schedule}");
        }
    }

    #[test]
    fn no_more_at_once_than_the_cluster_is_to_survive() {
        for schedule in all() {
            for planned in schedule.faults() {
                let now = during(&schedule, planned.at);
                let count = |is: fn(&Target) -> bool| {
                    let hard = now.iter().filter(|fault| !fault.is_mild());
                    hard.filter(|fault| fault.weakens().iter().any(is)).count()
                };
                assert!(count(|target| matches!(target, Target::Bookie(_))) <= 1, "{schedule}");
                assert!(count(|target| matches!(target, Target::Broker(_))) <= 2, "{schedule}");
                assert!(count(|target| target.is_etcd()) <= 1, "{schedule}");
                if now.contains(&Fault::Outage) {
                    assert_eq!(now.len(), 1, "{schedule}");
                }
                let targets: Vec<_> = now.iter().flat_map(|fault| fault.weakens()).collect();
                let twice = |target| targets.iter().filter(|other| *other == target).count() > 1;
                assert!(!targets.iter().any(twice), "{schedule}");
            }
        }
    }

    #[test]
    fn a_minute_meets_every_kind_of_fault() {
        for schedule in all() {
            assert_eq!(schedule.met(), Schedule::kinds(SIZES, ALL), "{schedule}");
        }
        let without = Schedule::kinds(SIZES, NONE);
        assert!(without.iter().all(|kind| !kind.contains("partition") && kind != "late"));
        assert_eq!(Schedule::new(1, MINUTE, SIZES, NONE).met(), without);
        assert!(without.contains("kill etcd leader") && without.contains("outage"));
    }

    #[test]
    fn a_kind_that_nobody_felt_can_happen_to_everybody_else() {
        let all = |kind| Schedule::all_of(kind, 1, SIZES, ALL).len();
        assert_eq!(["outage", "kill broker", "partition clients, broker"].map(all), [1, 3, 3]);
        assert_eq!(["slow", "one way clients, broker"].map(all), [7, 6]);
    }
}
