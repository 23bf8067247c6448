//! What every part of the world uses: time, dice, the network, the truth that invariants are checked against, and the record
//! of what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use geminga_ledger::core::quorum::Zone;
use geminga_proto::ids::{ClusterUuid, Incarnation, LedgerId, Member};

use crate::coverage::Coverage;
use crate::dice::Dice;
use crate::event::Host;
use crate::network::Network;
use crate::objects::Objects;
use crate::schedule::{Schedule, Time};
use crate::settings::Settings;
use crate::trace::Trace;
use crate::truth::Truth;

/// A bookie as placement sees it, until its lease runs out.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    pub(crate) member: Member,
    pub(crate) writable: bool,
}

/// A ledger to be recovered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Errand {
    /// Where the recoverer runs.
    pub(crate) host: Host,
    pub(crate) ledger: LedgerId,
    /// The broker that waits for it, and its life.
    pub(crate) owner: Option<(usize, u32)>,
}

/// The shared part of the world.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) dice: Dice,
    pub(crate) schedule: Schedule,
    pub(crate) network: Network,
    pub(crate) objects: Objects,
    /// Ledgers whose upload was claimed a second time.
    pub(crate) retried: BTreeSet<LedgerId>,
    pub(crate) truth: Truth,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    /// Who has a lease.
    pub(crate) registry: BTreeMap<usize, Registered>,
    /// Faults are over and producers have stopped.
    pub(crate) healing: bool,
    /// Ledgers that somebody wants recovered.
    pub(crate) to_recover: Vec<Errand>,
    calls: u64,
    ledgers: u64,
    clients: u32,
}

/// Writes a line into the trace.
macro_rules! note {
    ($context:expr, $($what:tt)*) => {
        $context.note(format_args!($($what)*))
    };
}
pub(crate) use note;

impl Context {
    pub(crate) fn new(settings: Settings, dice: Dice, trace: Trace) -> Self {
        let truth = Truth::of(settings.zones, settings.min_ack_zones);
        Self {
            settings,
            dice,
            schedule: Schedule::default(),
            network: Network::default(),
            objects: Objects::default(),
            retried: BTreeSet::new(),
            truth,
            coverage: Coverage::default(),
            trace,
            registry: BTreeMap::new(),
            healing: false,
            to_recover: Vec::new(),
            calls: 0,
            ledgers: 0,
            clients: 0,
        }
    }

    pub(crate) fn now(&self) -> Time {
        self.schedule.now()
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        self.trace.note(self.schedule.now(), what);
    }

    /// A number that no other call has.
    pub(crate) fn new_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// A number that no other writer or recoverer has.
    pub(crate) fn new_client(&mut self) -> u32 {
        self.clients += 1;
        self.clients
    }

    /// An id that no other ledger has, or ever had (M1).
    pub(crate) fn new_ledger(&mut self) -> LedgerId {
        self.ledgers += 1;
        LedgerId(self.ledgers)
    }

    /// Where a member's bookie is.
    pub(crate) fn zone(&self, member: &Member) -> Zone {
        self.truth.zone(member)
    }

    /// Distinct bookies for an ensemble: up to `count`, at random among those that have a lease and take data, of one zone after the
    /// other.
    pub(crate) fn place(&self, count: usize, without: &[Member]) -> Vec<Member> {
        let mut candidates: Vec<Member> = self
            .registry
            .values()
            .filter(|registered| registered.writable)
            .map(|registered| registered.member.clone())
            .filter(|member| !without.contains(member))
            .collect();
        self.dice.shuffle(&mut candidates);
        self.take_turns(&mut candidates);
        candidates.truncate(count);
        candidates
    }

    /// Brings the first of each zone before the second of any.
    fn take_turns(&self, members: &mut Vec<Member>) {
        let mut met: BTreeMap<Zone, usize> = BTreeMap::new();
        let turn = |member: Member| {
            let turn = met.entry(self.zone(&member)).or_default();
            *turn += 1;
            (*turn, member)
        };
        let mut turns: Vec<(usize, Member)> = members.drain(..).map(turn).collect();
        turns.sort_by_key(|(turn, _)| *turn);
        members.extend(turns.into_iter().map(|(_, member)| member));
    }
}

/// The cluster that everything belongs to.
pub(crate) fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

/// The number of a member's bookie.
pub(crate) fn number(member: &Member) -> usize {
    let digits = member.bookie.as_str().trim_start_matches("bookie-");
    digits.parse().expect("the simulator names bookies by number")
}

/// A bookie under an incarnation.
pub(crate) fn member(bookie: usize, incarnation: Incarnation) -> Member {
    let id = format!("bookie-{bookie}").parse().expect("a valid bookie id");
    Member { bookie: id, incarnation }
}
