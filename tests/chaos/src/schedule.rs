//! What goes wrong, and when: decided by the seed before the run begins.
//!
//! Never more at once than the cluster is to survive: one bookie, all brokers but one, etcd. Beside these there are outages
//! of everything, which may only stall; nothing else goes wrong during one. All is healed before the end.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// Before the first fault: something is to be there that can be lost.
const QUIET: Duration = Duration::from_secs(3);
/// After a fault, the same part is left alone for this long: it is to come back before the next.
const BREATH: Duration = Duration::from_secs(3);

/// How large the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Storage nodes.
    pub bookies: usize,
    /// Serving nodes.
    pub brokers: usize,
}

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The broker with this index.
    Broker(usize),
    /// The bookie with this index.
    Bookie(usize),
    /// The metadata store.
    Etcd,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(index) => write!(f, "broker-{}", index + 1),
            Self::Bookie(index) => write!(f, "bookie-{}", index + 1),
            Self::Etcd => f.write_str("etcd"),
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and started again at the end.
    Kill(Target),
    /// SIGTERM, and started again at the end.
    Stop(Target),
    /// SIGSTOP, and SIGCONT at the end.
    Pause(Target),
    /// Connections to it break, and no new one is accepted.
    Cut(Target),
    /// Nothing comes through to it or from it, and connections stay.
    Silence(Target),
    /// Bytes to it and from it are held up, each connection's by itself.
    Slow(Target),
    /// It is cut off from the metadata store, and from nothing else.
    NoStore(Target),
    /// Everything is killed with -9, at once.
    Outage,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(target) => write!(f, "kill {target}"),
            Self::Stop(target) => write!(f, "stop {target}"),
            Self::Pause(target) => write!(f, "pause {target}"),
            Self::Cut(target) => write!(f, "cut {target}"),
            Self::Silence(target) => write!(f, "silence {target}"),
            Self::Slow(target) => write!(f, "slow {target}"),
            Self::NoStore(target) => write!(f, "no store for {target}"),
            Self::Outage => f.write_str("outage"),
        }
    }
}

impl Fault {
    /// Whom it is about; nobody in particular: everybody.
    pub fn target(self) -> Option<Target> {
        match self {
            Self::Kill(target)
            | Self::Stop(target)
            | Self::Pause(target)
            | Self::Cut(target)
            | Self::Silence(target)
            | Self::Slow(target)
            | Self::NoStore(target) => Some(target),
            Self::Outage => None,
        }
    }
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
    pub fn new(seed: u64, duration: Duration, sizes: Sizes) -> Self {
        let dice = Dice::new(seed, 1);
        let mut planned: Vec<Planned> = Vec::new();
        let mut at = QUIET;
        loop {
            at += dice.between(Duration::from_millis(100), Duration::from_millis(2500));
            let fault = draw(&dice, sizes);
            let longest = Duration::from_secs(if dice.chance(25) { 12 } else { 4 });
            let lasts = dice.between(Duration::from_millis(200), longest);
            let next = Planned { at, lasts, fault };
            if next.end() >= duration {
                // Later ones would end later still, but for a lucky draw.
                if at + Duration::from_secs(1) >= duration {
                    return Self(planned);
                }
                continue;
            }
            if planned.iter().all(|earlier| together(earlier, &next))
                && bearable(&planned, &next, sizes)
            {
                planned.push(next);
            }
        }
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

fn draw(dice: &Dice, sizes: Sizes) -> Fault {
    let broker = Target::Broker(dice.below(sizes.brokers));
    let bookie = Target::Bookie(dice.below(sizes.bookies));
    let node = if dice.chance(50) { broker } else { bookie };
    let anyone = if dice.chance(20) { Target::Etcd } else { node };
    match dice.below(100) {
        0..30 => Fault::Kill(anyone),
        30..38 => Fault::Stop(node),
        38..55 => Fault::Pause(anyone),
        55..67 => Fault::Cut(node),
        67..79 => Fault::Silence(node),
        79..89 => Fault::Slow(node),
        89..96 => Fault::NoStore(node),
        _ => Fault::Outage,
    }
}

/// Whether both can be planned: nothing beside an outage, and one thing at a time for each process. `next` does not begin
/// before `earlier`.
fn together(earlier: &Planned, next: &Planned) -> bool {
    let apart = next.at >= earlier.end() + BREATH;
    match (earlier.fault.target(), next.fault.target()) {
        (Some(one), Some(other)) => one != other || apart,
        _ => apart,
    }
}

/// Whether the cluster is to survive `next` beside what goes on.
fn bearable(planned: &[Planned], next: &Planned, sizes: Sizes) -> bool {
    let going_on = planned.iter().filter(|earlier| next.at < earlier.end() + BREATH);
    let (mut bookies, mut brokers) = (0, 0);
    for target in going_on.chain([next]).filter_map(|planned| planned.fault.target()) {
        match target {
            Target::Broker(_) => brokers += 1,
            Target::Bookie(_) => bookies += 1,
            Target::Etcd => {}
        }
    }
    bookies <= 1 && brokers < sizes.brokers.max(2)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SIZES: Sizes = Sizes { bookies: 4, brokers: 3 };
    const MINUTE: Duration = Duration::from_secs(60);

    fn all() -> impl Iterator<Item = Schedule> {
        (0..200).map(|seed| Schedule::new(seed, MINUTE, SIZES))
    }

    /// The faults that last at this moment.
    fn during(schedule: &Schedule, at: Duration) -> Vec<Fault> {
        let faults = schedule.faults().iter();
        faults.filter(|p| p.at <= at && at < p.end()).map(|p| p.fault).collect()
    }

    #[test]
    fn a_seed_has_one_schedule() {
        assert_eq!(Schedule::new(7, MINUTE, SIZES), Schedule::new(7, MINUTE, SIZES));
        assert_ne!(Schedule::new(7, MINUTE, SIZES), Schedule::new(8, MINUTE, SIZES));
    }

    #[test]
    fn all_is_healed_before_the_end() {
        for schedule in all() {
            assert!(schedule.faults().iter().all(|planned| planned.end() < MINUTE), "{schedule}");
            assert!(schedule.faults().len() >= 5, "{schedule}");
        }
    }

    #[test]
    fn no_more_at_once_than_the_cluster_is_to_survive() {
        for schedule in all() {
            for planned in schedule.faults() {
                let now = during(&schedule, planned.at);
                let count = |is: fn(&Target) -> bool| {
                    now.iter().filter(|fault| fault.target().as_ref().is_some_and(is)).count()
                };
                assert!(count(|target| matches!(target, Target::Bookie(_))) <= 1, "{schedule}");
                assert!(count(|target| matches!(target, Target::Broker(_))) <= 2, "{schedule}");
                if now.contains(&Fault::Outage) {
                    assert_eq!(now.len(), 1, "{schedule}");
                }
                let targets: Vec<_> = now.iter().filter_map(|fault| fault.target()).collect();
                let mut apart = targets.clone();
                apart.dedup();
                assert_eq!(targets, apart, "{schedule}");
            }
        }
    }

    #[test]
    fn everything_happens() {
        let faults = all().flat_map(|schedule| schedule.faults().to_vec());
        let kinds: BTreeSet<String> = faults.map(|planned| planned.fault.to_string()).collect();
        for kind in ["kill etcd", "pause etcd", "outage", "no store for bookie-4", "slow broker-3"]
        {
            assert!(kinds.contains(kind), "{kind} is missing in {kinds:?}");
        }
    }
}
