//! One writer of one open ledger: ids, acks, LAC, dead positions and the close (protocol 2), as a pure state
//! machine. Entry bytes stay with the task around it; here are only numbers.
//!
//! ```text
//!   released <= min(acked) <= … <= lac <= lap           lac: completed in order (W3); lap: last id assigned
//!   per position: acked <= sent <= lap
//! ```
//!
//! Phases: `Running` until a close is asked for (`Closing`: nothing completes any more, whatever arrives) or a verdict
//! comes (`Dead`). There is no ensemble change: a position that stays away is marked *Absent* while at least `Qa`
//! others are healthy, and is neither sent to nor counted until the next ledger (2.5 step 0).

use geminga_proto::bookie::{Class, Code, WriteReply};
use geminga_proto::ids::{EntryId, Member};

use super::quorum;

/// Whether a position takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// `Hello` was asked for; nothing is sent until it is answered.
    Connecting,
    /// Entries are streamed.
    Live,
    /// Left out for the rest of this ledger; its earlier acks still count, they are durable copies.
    Absent,
}

/// One member's progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// Who (W4: acks count only for exactly this disk-life).
    pub member: Member,
    /// Whether it takes part.
    pub link: Link,
    /// Highest entry sent since the last `Hello`.
    pub sent: EntryId,
    /// Highest entry known durable there.
    pub acked: EntryId,
}

/// Where the writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Accepts entries.
    Running,
    /// The close is being committed; nothing completes (2.9).
    Closing,
    /// Closed at its LAC by this writer.
    Closed,
    /// Has lost its role; pending entries are unknown (2.7).
    Dead,
}

/// What an entry came to (2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// On stable storage on Qa bookies.
    Acked,
    /// Certainly not written.
    NotWritten,
    /// Only the closed ledger tells (W9).
    Unknown,
}

/// What happens to a writer. Positions are named with their member, so that a reply meant for a former
/// member is not counted (W4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// `Hello` was answered.
    Opened {
        /// By whom.
        member: Member,
        /// Durable there.
        durable_tail: EntryId,
        /// Accepted there.
        staged_tail: EntryId,
    },
    /// An add was acknowledged, cumulatively (W1).
    Acked {
        /// By whom.
        member: Member,
        /// Durable there.
        durable_tail: EntryId,
    },
    /// A bookie saw a gap.
    OutOfOrder {
        /// Who.
        member: Member,
        /// What it has.
        staged_tail: EntryId,
    },
    /// The connection broke, or an answer counted as nothing.
    Disconnected {
        /// To whom.
        member: Member,
    },
    /// A position has been away beyond the grace, or is too slow (2.5).
    GiveUp {
        /// Who.
        member: Member,
    },
    /// A bookie says that this writer has lost its role.
    Verdict,
    /// The owner wants the ledger closed at its LAC.
    Close,
    /// The close was committed with this writer's end.
    CloseCommitted,
    /// The close was lost to a recoverer or a deletion.
    CloseLost,
}

impl Event {
    /// What a reply to `Hello` means.
    pub fn from_hello(member: Member, reply: &WriteReply) -> Self {
        match reply.code.class() {
            Class::Positive => Self::Opened {
                member,
                durable_tail: reply.durable_tail,
                staged_tail: reply.staged_tail,
            },
            Class::Verdict => Self::Verdict,
            Class::Negative | Class::Unknown => Self::Disconnected { member },
        }
    }

    /// What a reply to an add means. Only `Ok` acknowledges.
    pub fn from_add(member: Member, reply: &WriteReply) -> Self {
        match (reply.code, reply.code.class()) {
            (Code::OutOfOrder, _) => Self::OutOfOrder { member, staged_tail: reply.staged_tail },
            (_, Class::Positive) => Self::Acked { member, durable_tail: reply.durable_tail },
            (_, Class::Verdict) => Self::Verdict,
            (_, Class::Negative | Class::Unknown) => Self::Disconnected { member },
        }
    }
}

/// What the task must do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the position for its tail.
    Hello(usize),
    /// Send these entries, both ends included.
    Send {
        /// To which position.
        position: usize,
        /// First entry.
        first: EntryId,
        /// Last entry.
        last: EntryId,
    },
    /// Everything up to here is acknowledged: tell the callers, in id order (W3).
    Commit(EntryId),
    /// The bytes up to here are needed no more.
    Release(EntryId),
    /// Commit `OPEN → CLOSED(last)`.
    CommitClose(EntryId),
    /// Every entry above the LAC ended so.
    Fail(Outcome),
    /// A position was left out: the owner should roll when the member is back.
    LeftOut(usize),
    /// Fewer than Qa positions are healthy: the owner should close and roll onto others (2.9).
    QuorumLost,
}

/// A refusal to take an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotRunning;

/// The state of one writer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    qa: u8,
    first: EntryId,
    phase: Phase,
    lap: EntryId,
    lac: EntryId,
    released: EntryId,
    positions: Vec<Position>,
}

impl Writer {
    /// The writer of a fragment that starts at `first` and holds nothing yet, and the effects that open it.
    pub fn new(qa: u8, first: EntryId, ensemble: &[Member]) -> (Self, Vec<Effect>) {
        let position = |member: &Member| Position {
            member: member.clone(),
            link: Link::Connecting,
            sent: first.prev(),
            acked: first.prev(),
        };
        let writer = Self {
            qa,
            first,
            phase: Phase::Running,
            lap: first.prev(),
            lac: first.prev(),
            released: first.prev(),
            positions: ensemble.iter().map(position).collect(),
        };
        let effects = (0..ensemble.len()).map(Effect::Hello).collect();
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

    /// Where the writer stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Each member's progress.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Assigns the next id (call order = id order) and says to whom it is sent.
    ///
    /// # Errors
    /// [`NotRunning`] after a close or a verdict.
    pub fn append(&mut self) -> Result<(EntryId, Vec<Effect>), NotRunning> {
        if self.phase != Phase::Running {
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
            Event::Verdict => self.die(&mut effects),
            Event::Close => {
                if self.phase == Phase::Running {
                    // From here on no entry completes: the end that is being committed is this LAC (I3).
                    self.phase = Phase::Closing;
                    effects.push(Effect::CommitClose(self.lac));
                }
            }
            Event::CloseCommitted => {
                if self.phase == Phase::Closing {
                    self.phase = Phase::Closed;
                    effects.push(Effect::Fail(Outcome::NotWritten));
                }
            }
            Event::CloseLost => self.die(&mut effects),
        }
        effects
    }

    fn index_of(&self, member: &Member) -> Option<usize> {
        self.positions.iter().position(|p| p.member == *member)
    }

    fn opened(
        &mut self,
        member: &Member,
        durable: EntryId,
        staged: EntryId,
        effects: &mut Vec<Effect>,
    ) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        if position.link != Link::Connecting {
            return;
        }
        if staged > self.lap || staged < position.acked {
            // More than was ever assigned, or less than was acknowledged: not the log this writer knows, so what it
            // acknowledged beyond what it has is no durable copy.
            position.acked = position.acked.min(durable);
            self.leave_out(index, effects);
            return;
        }
        position.link = Link::Live;
        position.sent = staged;
        // Nothing is durable that was not accepted, whatever a bookie says.
        position.acked = position.acked.max(durable.min(staged));
        self.send_rest(index, effects);
        self.complete(effects);
    }

    fn acked(&mut self, member: &Member, durable: EntryId, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        position.acked = position.acked.max(durable.min(self.lap));
        position.sent = position.sent.max(position.acked);
        self.complete(effects);
    }

    fn rewind(&mut self, member: &Member, staged: EntryId, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        if position.link != Link::Live || staged >= position.sent {
            return;
        }
        if staged < position.acked {
            position.acked = staged;
            self.leave_out(index, effects);
            return;
        }
        position.sent = staged;
        self.send_rest(index, effects);
    }

    fn disconnected(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        let position = &mut self.positions[index];
        if position.link == Link::Absent || self.phase != Phase::Running {
            return;
        }
        position.link = Link::Connecting;
        effects.push(Effect::Hello(index));
        if self.healthy() < usize::from(self.qa) {
            effects.push(Effect::QuorumLost);
        }
    }

    /// 2.5 step 0: left out only while Qa others are healthy; otherwise its buffer is kept and it may resume.
    fn give_up(&mut self, member: &Member, effects: &mut Vec<Effect>) {
        let Some(index) = self.index_of(member) else { return };
        if self.phase != Phase::Running || self.positions[index].link == Link::Absent {
            return;
        }
        let healthy =
            self.positions.iter().enumerate().filter(|(i, p)| *i != index && p.link == Link::Live);
        if quorum::acknowledged(self.qa, healthy.count()) {
            self.leave_out(index, effects);
        } else {
            effects.push(Effect::QuorumLost);
        }
    }

    fn leave_out(&mut self, index: usize, effects: &mut Vec<Effect>) {
        self.positions[index].link = Link::Absent;
        effects.push(Effect::LeftOut(index));
        self.release(effects);
        if self.healthy() < usize::from(self.qa) {
            effects.push(Effect::QuorumLost);
        }
    }

    fn healthy(&self) -> usize {
        self.positions.iter().filter(|p| p.link == Link::Live).count()
    }

    fn die(&mut self, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Running | Phase::Closing) {
            self.phase = Phase::Dead;
            effects.push(Effect::Fail(Outcome::Unknown));
        }
    }

    /// Sends what a live position lacks.
    fn send_rest(&mut self, index: usize, effects: &mut Vec<Effect>) {
        let lap = self.lap;
        let position = &mut self.positions[index];
        if position.link != Link::Live || self.phase != Phase::Running || position.sent >= lap {
            return;
        }
        effects.push(Effect::Send { position: index, first: position.sent.next(), last: lap });
        position.sent = lap;
    }

    /// W2, W3: the LAC is the Qa-th highest ack, since acks are cumulative; it moves only while `Running`.
    fn complete(&mut self, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Running {
            let mut acked: Vec<EntryId> = self.positions.iter().map(|p| p.acked).collect();
            acked.sort_unstable_by(|a, b| b.cmp(a));
            let confirmed = acked[usize::from(self.qa) - 1];
            if confirmed > self.lac {
                debug_assert!(confirmed <= self.lap, "nobody acknowledges what was not assigned");
                self.lac = confirmed;
                effects.push(Effect::Commit(confirmed));
            }
        }
        self.release(effects);
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
