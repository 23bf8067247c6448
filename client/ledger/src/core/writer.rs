//! One writer of one open ledger: ids, acks, LAC, the change of the ensemble and the close (protocol 2), as a pure state
//! machine. Entry bytes stay with the task around it; here are only numbers.
//!
//! ```text
//!   released <= … <= lac <= lap           lac: completed in order (W3); lap: last id assigned
//!   per position: sent <= lap             first - 1 <= sent
//! ```
//!
//! Phases: `Running`; `Changing` while a change of the ensemble is in the metadata or not, nobody knows (nothing completes:
//! W6); `Closing` once a close is asked for (nothing completes any more, whatever arrives); `Dead` after a verdict.
//! Completion is judged against the ensemble of the last fragment only, and every acknowledged entry lies below it or
//! completed on it (W8). What failed and is not replaced is *Absent* while enough others are healthy (2.5 step 0): `Qa`, in as
//! many zones as acknowledgements of this ledger are in ([`Rule`]), which is fixed when it begins.
//!
//! * [`position`]: one member's progress. [`change`]: failures and the change of the ensemble.

mod change;
mod event;
mod position;
#[cfg(feature = "mutations")]
mod renamed;

use std::cmp::Reverse;

use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::{EntryId, Member};

use self::change::Change;
pub use self::event::{Effect, Event, Outcome, Replacement, Search};
pub use self::position::{Link, Position};
use super::mutation::{Mutation, Mutations};
use super::quorum::{Rule, Zone};

/// Where the writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepts entries.
    Running,
    /// Accepts entries; a change of the ensemble is being committed, and nothing completes (2.5).
    Changing,
    /// The close is being committed; nothing completes (2.9).
    Closing,
    /// Closed at its LAC by this writer.
    Closed,
    /// Has lost its role; pending entries are unknown (2.7).
    Dead,
}

impl Phase {
    fn takes_entries(self) -> bool {
        matches!(self, Self::Running | Self::Changing)
    }
}

/// A refusal to take an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotRunning;

/// The state of one writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// What acknowledges.
    rule: Rule,
    mutations: Mutations,
    phase: Phase,
    /// First entry of the last fragment.
    first: EntryId,
    /// How many fragments the ledger has.
    fragments: usize,
    lap: EntryId,
    lac: EntryId,
    released: EntryId,
    positions: Vec<Position>,
    /// Replacements are being looked for.
    searching: bool,
    /// What is being committed, while `Changing`.
    change: Option<Change>,
    /// A close waits for the change before it.
    close_asked: bool,
    /// What the owner was told, and has not to be told again.
    quorum_lost: bool,
    roll_asked: bool,
}

impl Writer {
    /// The writer of an open ledger whose last fragment holds nothing yet, and the effects that open it. Its members are in `zones`,
    /// in their order; what it acknowledges is in `min_zones` of them, or in all where they are fewer.
    pub fn new(
        meta: &LedgerMeta,
        zones: &[Zone],
        min_zones: usize,
        mutations: Mutations,
    ) -> (Self, Vec<Effect>) {
        let fragment = meta.last_fragment();
        assert_eq!(fragment.ensemble.len(), zones.len(), "each member is in a zone");
        let first = fragment.first_entry;
        let members = fragment.ensemble.iter().zip(zones);
        let position =
            |(member, zone): (&Member, &Zone)| Position::new(member.clone(), *zone, first);
        let writer = Self {
            rule: Rule::of(meta.qa, zones, min_zones),
            mutations,
            phase: Phase::Running,
            first,
            fragments: meta.fragments.len(),
            lap: first.prev(),
            lac: first.prev(),
            released: first.prev(),
            positions: members.map(position).collect(),
            searching: false,
            change: None,
            close_asked: false,
            quorum_lost: false,
            roll_asked: false,
        };
        let effects = (0..fragment.ensemble.len()).map(Effect::Hello).collect();
        (writer, effects)
    }

    /// Last id assigned.
    pub fn lap(&self) -> EntryId {
        self.lap
    }

    /// Last add confirmed: it and everything before is acknowledged.
    pub fn lac(&self) -> EntryId {
        self.lac
    }

    /// First entry of the last fragment, which every request names.
    pub fn fragment_first(&self) -> EntryId {
        self.first
    }

    /// Where the writer stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Each member's progress.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// The positions that somebody else should take.
    pub fn missing(&self) -> Vec<usize> {
        let missing = self.positions.iter().enumerate().filter(|(_, p)| p.is_missing());
        missing.map(|(index, _)| index).collect()
    }

    /// Whether too few positions are healthy to acknowledge anything, and others do not help.
    pub fn is_quorum_lost(&self) -> bool {
        self.quorum_lost
    }

    /// Whether no position is healthy: nothing is searched for in their place.
    pub fn is_nobody_left(&self) -> bool {
        self.healthy().next().is_none()
    }

    /// Whether the owner was asked to roll.
    pub fn is_roll_asked(&self) -> bool {
        self.roll_asked
    }

    /// The position that this disk-life holds.
    pub fn index_of(&self, member: &Member) -> Option<usize> {
        let loose = self.mutations.is(Mutation::IgnoreIncarnation);
        let same =
            |p: &Position| p.member == *member || (loose && p.member.bookie == member.bookie);
        self.positions.iter().position(same)
    }

    /// Assigns the next id (call order = id order) and says to whom it is sent.
    ///
    /// # Errors
    /// [`NotRunning`] after a close or a verdict.
    pub fn append(&mut self) -> Result<(EntryId, Vec<Effect>), NotRunning> {
        if !self.phase.takes_entries() || self.close_asked {
            return Err(NotRunning);
        }
        self.lap = self.lap.next();
        let mut effects = Vec::new();
        for index in 0..self.positions.len() {
            self.send_rest(index, &mut effects);
        }
        Ok((self.lap, effects))
    }

    /// Handles one event.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Opened { member, durable_tail, staged_tail } => {
                self.opened(&member, durable_tail, staged_tail, &mut effects);
            }
            Event::Acked { member, durable_tail } => {
                self.acked(&member, durable_tail, &mut effects)
            }
            Event::OutOfOrder { member, staged_tail } => {
                self.rewind(&member, staged_tail, &mut effects)
            }
            Event::Disconnected { member } => self.disconnected(&member, &mut effects),
            Event::GiveUp { member } => self.give_up(&member, &mut effects),
            Event::Unregistered { member } => self.unregistered(&member, &mut effects),
            Event::Verdict { member } => self.verdict(&member, &mut effects),
            Event::Searched(search) => self.searched(search, &mut effects),
            Event::SearchAgain => self.look_for_others(&mut effects),
            Event::Back { member } => self.back(&member, &mut effects),
            Event::Changed => self.changed(&mut effects),
            Event::NotChanged => self.not_changed(&mut effects),
            Event::Close if self.phase == Phase::Changing => self.close_asked = true,
            Event::Close => self.close(&mut effects),
            Event::CloseCommitted => self.closed(&mut effects),
            Event::Deposed => self.die(&mut effects),
        }
        effects
    }

    fn opened(
        &mut self,
        member: &Member,
        durable: EntryId,
        staged: EntryId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(index) = self.index_of(member) else { return };
        let floor = self.first.prev();
        let position = &mut self.positions[index];
        if position.link != Link::Connecting {
            return;
        }
        let staged_here = staged.max(floor);
        if staged > self.lap || staged_here < position.acked {
            self.distrust(index, durable, effects);
            return;
        }
        position.link = Link::Live;
        position.rewound = None;
        position.sent =
            if self.mutations.is(Mutation::SkipReplay) { self.lap } else { staged_here };
        // The stream before this one is over, and with it what was under way for a fragment that has ended.
        self.mark_debt(index, effects);
        // Nothing is durable that was not accepted, whatever a bookie says.
        self.progress(index, durable.min(staged).max(floor), effects);
        self.send_rest(index, effects);
    }

    fn acked(&mut self, member: &Member, durable: EntryId, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        self.progress(index, durable.min(self.lap), effects);
    }

    /// A position has everything up to `tail`. That is the proof that it takes data; where nothing is left to take there is
    /// nothing to prove. While others are being looked for, they are to come all the same: slow is not stuck.
    fn progress(&mut self, index: usize, tail: EntryId, effects: &mut Vec<Effect>) {
        let searching = self.searching && !self.mutations.is(Mutation::ForgiveSlow);
        let settled = self.phase == Phase::Running && !searching;
        let position = &mut self.positions[index];
        let proven = tail > position.acked || tail >= self.lap;
        position.acked = position.acked.max(tail);
        position.sent = position.sent.max(position.acked);
        position.owes &= position.acked < self.first.prev();
        position.failed &= !(proven && settled);
        self.find_quorum();
        self.complete(effects);
    }

    fn rewind(&mut self, member: &Member, staged: EntryId, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let floor = self.first.prev();
        let position = &mut self.positions[index];
        // What was on its way behind a gap is refused, request by request, with the tail that was sent from again already.
        let echo = position.rewound == Some(staged);
        if position.link != Link::Live || staged >= position.sent || echo {
            return;
        }
        position.rewound = Some(staged);
        let staged_here = staged.max(floor);
        if staged_here < position.acked {
            self.distrust(index, staged, effects);
            return;
        }
        position.sent = staged_here;
        if staged < floor {
            self.mark_debt(index, effects);
        }
        self.send_rest(index, effects);
    }

    /// A member has more than was ever assigned, or less than it acknowledged: not the log that this writer knows, so what it
    /// acknowledged beyond what it has is no durable copy.
    fn distrust(&mut self, index: usize, durable: EntryId, effects: &mut Vec<Effect>) {
        let position = &mut self.positions[index];
        position.link = Link::Connecting;
        position.acked = position.acked.min(durable.max(self.first.prev()));
        let member = position.member.clone();
        self.give_up(&member, effects);
    }

    fn disconnected(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        if position.link == Link::Absent || !self.phase.takes_entries() {
            return;
        }
        position.link = Link::Connecting;
        effects.push(Effect::Hello(index));
    }

    /// Where the members are that can be counted on.
    fn healthy(&self) -> impl Iterator<Item = Zone> + Clone {
        self.positions.iter().filter(|p| p.is_healthy()).map(|p| p.zone)
    }

    /// From here on no entry completes: the end that is being committed is this LAC (I3).
    fn close(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Running {
            self.phase = Phase::Closing;
            let at_lap = self.mutations.is(Mutation::CloseAtLap);
            effects.push(Effect::CommitClose(if at_lap { self.lap } else { self.lac }));
        }
    }

    fn closed(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Closing {
            return;
        }
        self.phase = Phase::Closed;
        effects.push(Effect::Fail(Outcome::NotWritten));
        let lacks = |p: &&Position| p.owes || (p.link != Link::Live && p.acked < self.lac);
        let lacking = self.positions.iter().filter(lacks);
        let lacking: Vec<Member> = lacking.map(|p| p.member.clone()).collect();
        if !lacking.is_empty() {
            effects.push(Effect::MarkUnder(lacking));
        }
    }

    fn die(&mut self, effects: &mut Vec<Effect>) {
        if self.phase.takes_entries() || self.phase == Phase::Closing {
            self.phase = Phase::Dead;
            (self.searching, self.change) = (false, None);
            effects.push(Effect::Fail(Outcome::Unknown));
        }
    }

    /// Sends what a live position lacks.
    fn send_rest(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let lap = self.lap;
        let position = &mut self.positions[index];
        if position.link != Link::Live || !self.phase.takes_entries() || position.sent >= lap {
            return;
        }
        effects.push(Effect::Send { position: index, first: position.sent.next(), last: lap });
        position.sent = lap;
    }

    /// W2, W3: the LAC moves only while `Running`.
    fn complete(&mut self, effects: &mut Vec<Effect>) {
        if !self.is_frozen()
            && let Some(confirmed) = self.confirmed()
            && confirmed > self.lac
        {
            debug_assert!(confirmed <= self.lap, "nobody acknowledges what was not assigned");
            self.lac = confirmed;
            effects.push(Effect::Commit(confirmed));
        }
        self.release(effects);
    }

    /// What acknowledges an entry of this ledger, as long as it is written.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// The last entry that enough members have: since acks are cumulative, the ack at which those with higher ones become enough.
    fn confirmed(&self) -> Option<EntryId> {
        let mut acked: Vec<(EntryId, Zone)> =
            self.positions.iter().map(|p| (p.acked, p.zone)).collect();
        acked.sort_unstable_by_key(|(entry, _)| Reverse(*entry));
        let zones = acked.iter().map(|(_, zone)| *zone);
        let rule = self.rule_to_acknowledge();
        let enough = (1..=acked.len()).find(|count| rule.is_met(zones.clone().take(*count)))?;
        Some(acked[enough - 1].0)
    }

    /// The rule; a test breaks it.
    fn rule_to_acknowledge(&self) -> Rule {
        let less = u8::from(self.mutations.is(Mutation::AckWithOneLess));
        let anywhere = self.mutations.is(Mutation::AckInOneZone);
        Rule { qa: self.rule.qa - less, zones: if anywhere { 1 } else { self.rule.zones } }
    }

    /// Bytes stay until every position that takes part has them.
    fn release(&mut self, effects: &mut Vec<Effect>) {
        let taking_part = self.positions.iter().filter(|p| p.link != Link::Absent);
        let needed = taking_part.map(|p| p.acked).min().unwrap_or(self.lac).min(self.lac);
        if needed > self.released {
            self.released = needed;
            effects.push(Effect::Release(needed));
        }
    }
}

#[cfg(test)]
mod tests;
