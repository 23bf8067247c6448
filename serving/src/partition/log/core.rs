//! The rules of one opening's writing as a pure state machine: what to submit, hold back, acknowledge or resubmit, when
//! to snapshot and when to roll. No I/O and no clock; payloads stay with the task around it.
//!
//! ```text
//!   pending:  appends that are not acknowledged, in order      | submitted … | held back … |
//!   flight:   entries of the current ledger that are not acknowledged: snapshot parts and the submitted appends
//! ```
//!
//! * **Order (P3).** Appends are submitted in call order. When a ledger ends, what it holds (entries `<= last_entry`
//!   of the *closed* ledger) is acknowledged and the rest is submitted to the next, in the same order with the same offsets (W9).
//! * **Snapshots (P4).** One is due at the head of each ledger and at intervals. It is asked for when nothing is in
//!   flight, so the state that answers is the one after the last entry; until its end marker is submitted, appends are held.
//! * **Metadata away.** A ledger is left only after the store has answered (2.8 step 0), and goes on until it has.
//! * **Doubt.** After an unknown outcome nothing is assumed: [`Effect::Settle`] closes whatever ledgers there are
//!   and says how the current one ended.
//! * **Pauses.** A ledger is left for want of bookies once it had time to find them, and more where those before found none ([`pauses`]).

mod pauses;

use std::collections::VecDeque;

use geminga_ledger::Health;
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT};
use geminga_proto::ids::{EntryId, Offset};

use self::pauses::Pauses;
use super::mutation::{Mutation, Mutations};
use super::{Appended, What};

/// Counted for each entry beside its payload, so that many small ones are bounded as well.
const ENTRY_OVERHEAD: u64 = 84;
/// A snapshot is small beside what was written since the last when that is so many times as much.
const SNAPSHOT_SHARE: u64 = 8;

/// The numbers that decisions depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    /// Roll after this many payload bytes of appends.
    pub(super) roll_bytes: u64,
    /// A snapshot is due after this many bytes.
    pub(super) snapshot_bytes: u64,
    /// A snapshot is due after this many entries.
    pub(super) snapshot_entries: u64,
    /// And after this many, where it is small beside what was written since the last.
    pub(super) snapshot_often_entries: u64,
    /// Copies that the topic asks for.
    pub(super) write_quorum: usize,
    /// Copies that an acknowledgement needs.
    pub(super) ack_quorum: usize,
    /// None but in tests.
    pub(super) mutations: Mutations,
}

/// Where the log stands when it is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub(super) next_offset: Offset,
    pub(super) running_max_timestamp: i64,
}

/// Bookies that new data is placed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) bookies: usize,
    /// They are in so many zones; those that name none are in one.
    pub(super) zones: usize,
}

/// What a ledger was begun without, since bookies were missing, and has not as long as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Lacks {
    /// It has fewer copies than the topic asks for (2.2).
    pub(super) copies: bool,
    /// What it acknowledges is in so many zones, fewer than asked for (6.7).
    pub(super) zones: Option<usize>,
}

/// What happens to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    /// The ledger took what [`Core::next`] said.
    Submitted { entry: EntryId },
    /// The current ledger acknowledged everything up to here.
    Confirmed { lac: EntryId },
    /// The owner gave its state.
    SnapshotAnswered { parts: u32, bytes: u64 },
    /// The current ledger's health changed. `Dead` is final.
    Health(Health),
    /// These bookies are registered and take new data.
    LiveBookies(Live),
    /// The current ledger is old enough to roll.
    AgeReached,
    /// Roll after so many payload bytes from now on.
    RollBytes(u64),
    /// Nothing was appended for long.
    IdleReached,
    /// A ledger is open.
    Created { lacks: Lacks },
    /// No ledger was created, certainly.
    NotCreated,
    /// The current ledger is closed at `last`, and the next one is open.
    Rolled { last: EntryId, lacks: Lacks },
    /// Nothing was changed: the current ledger goes on.
    NotRolled,
    /// What a create, roll or close came to is not known, or it was refused.
    Doubt,
    /// Every ledger is closed. `last`: the end of the one that was current.
    Settled { last: Option<EntryId> },
    /// They could not be closed now.
    NotSettled,
    /// Whether the metadata store answered [`Effect::Check`].
    Checked(bool),
    /// The pause of [`Effect::RetryLater`] is over.
    RetryDue,
    /// The pause of [`Effect::Pause`] is over.
    PauseOver,
}

/// What the task must do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Create the next ledger.
    Create,
    /// See whether the metadata store answers, while the current ledger goes on.
    Check,
    /// Close the current ledger and open the next; `drain`: wait for what is outstanding first.
    Roll { drain: bool },
    /// Close the current ledger; `drain` as for a roll. Answered by `Settled`, `NotRolled` or `Doubt`.
    Close { drain: bool },
    /// Check the term, find and close whatever ledgers there are.
    Settle,
    /// Ask the owner for its state.
    AskSnapshot,
    /// Tell the owner; the first `through` appends are durable.
    Acked { through: u64, high_watermark: Offset },
    /// Come back with [`Input::RetryDue`].
    RetryLater,
    /// Come back with [`Input::PauseOver`], after a pause that is doubled so often, in the place of one under way.
    Pause { doubled: u32 },
}

/// The next entry for the current ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Submission {
    pub(super) what: Submit,
    pub(super) attributes: Attributes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Submit {
    /// The append with this number.
    Append(u64),
    /// A part of the snapshot that the owner gave.
    Part { index: u32, total: u32 },
}

#[derive(Debug, Clone, Copy)]
struct Append {
    number: u64,
    kind: Kind,
    first_offset: i64,
    offset_count: u32,
    max_timestamp: i64,
    running_max_timestamp: i64,
    bytes: usize,
}

impl Append {
    fn end(&self) -> i64 {
        self.first_offset + i64::from(self.offset_count)
    }
}

/// An entry of the current ledger that is not acknowledged.
#[derive(Debug, Clone, Copy)]
struct InFlight {
    entry: EntryId,
    is_append: bool,
}

/// How the current ledger stands with its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Snapshot {
    /// Appends go through.
    Complete,
    /// To be asked for once nothing is in flight.
    Due,
    /// The owner was asked.
    Asked,
    /// `index` of `total` parts were submitted, from entry `first` on.
    Writing { index: u32, total: u32, first: EntryId },
}

#[derive(Debug, Clone, Copy)]
struct Open {
    snapshot: Snapshot,
    /// First part of the newest snapshot completed in this ledger.
    last_snapshot: Option<EntryId>,
    /// Of the newest snapshot.
    snapshot_bytes: u64,
    bytes_since_snapshot: u64,
    entries_since_snapshot: u64,
    /// Payload of appends; snapshots do not count, or a large one would make a ledger roll at once, for ever.
    bytes: u64,
    old: bool,
    /// Nothing was appended for long.
    idle: bool,
    lacks: Lacks,
}

/// Why a ledger is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Fewer than Qa of its members answer (2.9).
    Lost,
    /// Large or old enough.
    Full,
    /// Nothing was appended for long.
    Idle,
    /// There are bookies for more copies (2.2), or for acknowledgements in more zones (6.7).
    Copies,
}

/// Whether the metadata store answers (2.8 step 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    No,
    Asked,
    Passed,
}

impl Open {
    /// Bounds what a takeover has to read, and to go through, before it serves (P4).
    fn is_snapshot_due(&self, policy: &Policy) -> bool {
        let is_small = self.snapshot_bytes * SNAPSHOT_SHARE <= self.bytes_since_snapshot;
        self.bytes_since_snapshot >= policy.snapshot_bytes
            || self.entries_since_snapshot >= policy.snapshot_entries
            || (is_small && self.entries_since_snapshot >= policy.snapshot_often_entries)
    }

    fn new(lacks: Lacks) -> Self {
        Self {
            snapshot: Snapshot::Due,
            last_snapshot: None,
            snapshot_bytes: 0,
            bytes_since_snapshot: 0,
            entries_since_snapshot: 0,
            bytes: 0,
            old: false,
            idle: false,
            lacks,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// No ledger is open. `waiting`: for a pause to end.
    Idle {
        waiting: bool,
    },
    /// Whatever ledgers there are get closed.
    Settling {
        waiting: bool,
    },
    Creating,
    Open(Open),
    /// The ledger is being rolled or closed; it may turn out to go on.
    Leaving(Open),
}

/// The state of one opening.
#[derive(Debug)]
pub(super) struct Core {
    policy: Policy,
    phase: Phase,
    pending: VecDeque<Append>,
    /// How many of `pending`, from the front, the current ledger was given.
    submitted: usize,
    flight: VecDeque<InFlight>,
    next_offset: i64,
    running_max_timestamp: i64,
    committed_offset: i64,
    committed_max_timestamp: i64,
    last_number: u64,
    acked: u64,
    outstanding_bytes: usize,
    health: Health,
    live: Live,
    check: Check,
    /// Attempts failed, and none has succeeded since.
    failing: bool,
    /// A pause after a failed attempt.
    cooling: bool,
    /// Before the current ledger is left for want of bookies.
    pauses: Pauses,
}

impl Core {
    pub(super) fn new(policy: Policy, start: Start, live: Live) -> Self {
        Self {
            policy,
            phase: Phase::Idle { waiting: false },
            pending: VecDeque::new(),
            submitted: 0,
            flight: VecDeque::new(),
            next_offset: start.next_offset.0,
            running_max_timestamp: start.running_max_timestamp,
            committed_offset: start.next_offset.0,
            committed_max_timestamp: start.running_max_timestamp,
            last_number: 0,
            acked: 0,
            outstanding_bytes: 0,
            health: Health::Healthy,
            live,
            check: Check::No,
            failing: false,
            cooling: false,
            pauses: Pauses::new(),
        }
    }

    /// What the next Batches append gets.
    pub(super) fn next_offset(&self) -> Offset {
        Offset(self.next_offset)
    }

    /// The end of what is committed.
    pub(super) fn high_watermark(&self) -> Offset {
        Offset(self.committed_offset)
    }

    /// Payload bytes that are not acknowledged, and how many appends.
    pub(super) fn outstanding(&self) -> (usize, usize) {
        (self.outstanding_bytes, self.pending.len())
    }

    /// Whether appends are on their way to storage.
    pub(super) fn is_writable(&self) -> bool {
        match self.phase {
            Phase::Open(_) => !self.health.is_quorum_lost(),
            Phase::Idle { .. } | Phase::Settling { .. } | Phase::Creating | Phase::Leaving(_) => {
                !self.failing
            }
        }
    }

    /// Whether no ledger is open, and nothing waits for one.
    pub(super) fn is_between_ledgers(&self) -> bool {
        matches!(self.phase, Phase::Idle { waiting: false }) && self.is_quiet()
    }

    /// The appends in the current ledger that are not acknowledged: entry, the offset after it, its largest timestamp.
    pub(super) fn ends(&self) -> Vec<(EntryId, Offset, i64)> {
        let appends = self.flight.iter().filter(|f| f.is_append).zip(&self.pending);
        appends.map(|(f, append)| (f.entry, Offset(append.end()), append.max_timestamp)).collect()
    }

    /// Takes the next place.
    pub(super) fn append(&mut self, what: What, bytes: usize) -> (Appended, Vec<Effect>) {
        let (kind, offset_count, max_timestamp) = match what {
            What::Batches { offset_count, max_timestamp } => {
                (Kind::Batches, offset_count, max_timestamp)
            }
            What::Command => (Kind::Command, 0, -1),
            What::Barrier => (Kind::Barrier, 0, -1),
        };
        self.last_number += 1;
        self.running_max_timestamp = self.running_max_timestamp.max(max_timestamp);
        let append = Append {
            number: self.last_number,
            kind,
            first_offset: self.next_offset,
            offset_count,
            max_timestamp,
            running_max_timestamp: self.running_max_timestamp,
            bytes,
        };
        if let Phase::Open(open) = &mut self.phase {
            open.idle = false;
        }
        self.next_offset = append.end();
        self.outstanding_bytes += bytes;
        self.pending.push_back(append);
        let mut effects = Vec::new();
        self.advance(&mut effects);
        (Appended { number: append.number, first_offset: Offset(append.first_offset) }, effects)
    }

    /// The entry to give to the current ledger next; [`Input::Submitted`] when it was taken.
    pub(super) fn next(&self) -> Option<Submission> {
        let Phase::Open(open) = &self.phase else { return None };
        let last_snapshot_entry =
            open.last_snapshot.map_or(NO_SNAPSHOT, |e| u64::try_from(e.0).expect("not negative"));
        match open.snapshot {
            Snapshot::Due | Snapshot::Asked => None,
            Snapshot::Writing { index, total, .. } => Some(Submission {
                what: Submit::Part { index, total },
                attributes: Attributes {
                    kind: Kind::Snapshot,
                    first_offset: self.committed_offset,
                    offset_count: 0,
                    max_timestamp: -1,
                    running_max_timestamp: self.committed_max_timestamp,
                    last_snapshot_entry,
                },
            }),
            Snapshot::Complete => self.pending.get(self.submitted).map(|append| Submission {
                what: Submit::Append(append.number),
                attributes: Attributes {
                    kind: append.kind,
                    first_offset: append.first_offset,
                    offset_count: append.offset_count,
                    max_timestamp: append.max_timestamp,
                    running_max_timestamp: append.running_max_timestamp,
                    last_snapshot_entry,
                },
            }),
        }
    }

    /// Handles one input. One that does not fit the phase comes late and is ignored.
    pub(super) fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Submitted { entry } => self.submitted(entry),
            Input::Confirmed { lac } => self.confirm(lac, &mut effects),
            Input::SnapshotAnswered { parts, bytes } => self.answered(parts, bytes),
            Input::Health(health) => self.on_health(health, &mut effects),
            Input::LiveBookies(live) => {
                if std::mem::replace(&mut self.live, live) != live {
                    self.pauses.bookies_changed(self.health.is_quorum_lost());
                }
            }
            Input::AgeReached => {
                if let Phase::Open(open) | Phase::Leaving(open) = &mut self.phase {
                    open.old = true;
                }
            }
            Input::RollBytes(bytes) => self.policy.roll_bytes = bytes,
            Input::IdleReached => {
                let quiet = self.is_quiet();
                if let Phase::Open(open) = &mut self.phase {
                    open.idle = quiet;
                }
            }
            Input::Checked(answered) => self.checked(answered, &mut effects),
            Input::Created { lacks } => {
                if matches!(self.phase, Phase::Creating) {
                    self.open(lacks, &mut effects);
                }
            }
            Input::NotCreated => {
                if matches!(self.phase, Phase::Creating) {
                    self.phase = Phase::Idle { waiting: true };
                    self.fail(&mut effects);
                }
            }
            Input::Rolled { last, lacks } => {
                if matches!(self.phase, Phase::Leaving(_)) {
                    self.ended(last, &mut effects);
                    self.open(lacks, &mut effects);
                }
            }
            Input::NotRolled => self.not_rolled(&mut effects),
            Input::Doubt => {
                if matches!(self.phase, Phase::Creating | Phase::Leaving(_)) {
                    // A store that answers reads and refuses writes must not be asked in a tight loop.
                    self.failing |= matches!(self.phase, Phase::Creating);
                    self.settle(&mut effects);
                }
            }
            Input::Settled { last } => {
                if matches!(self.phase, Phase::Settling { .. } | Phase::Leaving(_)) {
                    self.ended(last.unwrap_or(EntryId::NONE), &mut effects);
                    self.phase = Phase::Idle { waiting: self.failing };
                    if self.failing {
                        effects.push(Effect::RetryLater);
                    }
                }
            }
            Input::NotSettled => {
                if matches!(self.phase, Phase::Settling { .. }) {
                    self.phase = Phase::Settling { waiting: true };
                    self.fail(&mut effects);
                }
            }
            Input::RetryDue => self.retry(&mut effects),
            Input::PauseOver => {
                effects.extend(self.pauses.next().map(|doubled| Effect::Pause { doubled }));
            }
        }
        self.advance(&mut effects);
        effects
    }

    /// What follows from the state, whatever led to it.
    fn advance(&mut self, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Idle { waiting: false } if !self.pending.is_empty() => {
                self.phase = Phase::Creating;
                effects.push(Effect::Create);
            }
            Phase::Open(mut open) => {
                let reason = self.leave_reason(&open);
                if let Some(reason) = reason.filter(|reason| self.may_leave(*reason, effects)) {
                    self.leave(open, reason, effects);
                } else if open.snapshot == Snapshot::Due && self.flight.is_empty() {
                    open.snapshot = Snapshot::Asked;
                    self.phase = Phase::Open(open);
                    effects.push(Effect::AskSnapshot);
                }
            }
            Phase::Idle { .. } | Phase::Settling { .. } | Phase::Creating | Phase::Leaving(_) => {}
        }
    }

    fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.flight.is_empty()
    }

    /// Whether to leave the ledger now, and why (2.5, 2.8, 2.9).
    fn leave_reason(&self, open: &Open) -> Option<Reason> {
        if self.cooling {
            return None;
        }
        if self.health.is_quorum_lost() {
            // Also where nothing waits: while the quorum is away nothing is let in that would ask for a successor.
            let heals = self.health == Health::QuorumLost;
            let go =
                self.pauses.may_leave_lost(heals) && self.live.bookies >= self.policy.ack_quorum;
            return go.then_some(Reason::Lost);
        }
        if !matches!(open.snapshot, Snapshot::Complete | Snapshot::Due) {
            return None;
        }
        if open.bytes >= self.policy.roll_bytes || open.old {
            return Some(Reason::Full);
        }
        if open.idle {
            return Some(Reason::Idle);
        }
        let better = self.has_more_copies(open) || self.has_more_zones(open);
        let go = self.pauses.may_restore() && (better || self.health == Health::Roll);
        go.then_some(Reason::Copies)
    }

    /// Whether the next ledger would have the copies that this one lacks.
    fn has_more_copies(&self, open: &Open) -> bool {
        let lacks = self.health == Health::Degraded || open.lacks.copies;
        lacks && self.live.bookies >= self.policy.write_quorum
    }

    /// Whether its acknowledgements would be in more zones, as far as it has a copy for each, and it in no fewer copies.
    fn has_more_zones(&self, open: &Open) -> bool {
        let Policy { ack_quorum, write_quorum, .. } = self.policy;
        let copies = if open.lacks.copies { ack_quorum } else { write_quorum };
        let reachable = self.live.zones.min(write_quorum);
        self.live.bookies >= copies && open.lacks.zones.is_some_and(|zones| reachable > zones)
    }

    /// Appends wait while a ledger is left. So the store is asked before, but for a ledger that takes nothing as it is.
    fn may_leave(&mut self, reason: Reason, effects: &mut Vec<Effect>) -> bool {
        match self.check {
            _ if reason == Reason::Lost => return true,
            Check::Passed => return true,
            Check::No => effects.push(Effect::Check),
            Check::Asked => {}
        }
        self.check = Check::Asked;
        false
    }

    fn checked(&mut self, answered: bool, effects: &mut Vec<Effect>) {
        if self.check != Check::Asked {
            return;
        }
        if answered {
            self.check = Check::Passed;
            self.advance(effects);
            // Where there is no reason to leave any more, the answer will be too old for the next.
        } else {
            self.cooling = true;
            effects.push(Effect::RetryLater);
        }
        self.check = Check::No;
    }

    /// Where nothing is on its way no successor is needed yet.
    fn leave(&mut self, open: Open, reason: Reason, effects: &mut Vec<Effect>) {
        self.pauses.left(reason);
        self.check = Check::No;
        self.phase = Phase::Leaving(open);
        let drain = reason != Reason::Lost;
        let needed = !self.pending.is_empty() || (drain && !self.flight.is_empty());
        effects.push(if needed { Effect::Roll { drain } } else { Effect::Close { drain } });
    }

    fn open(&mut self, lacks: Lacks, effects: &mut Vec<Effect>) {
        self.phase = Phase::Open(Open::new(lacks));
        self.health = Health::Healthy;
        self.failing = false;
        self.pauses.begin();
        effects.push(Effect::Pause { doubled: 0 });
    }

    /// The current ledger is closed at `last`: what it holds is acknowledged, the rest is to be resubmitted (W9).
    fn ended(&mut self, last: EntryId, effects: &mut Vec<Effect>) {
        self.confirm(last, effects);
        self.flight.clear();
        self.submitted = 0;
    }

    fn confirm(&mut self, lac: EntryId, effects: &mut Vec<Effect>) {
        let before = self.acked;
        while let Some(entry) = self.flight.pop_front_if(|f| f.entry <= lac) {
            self.pauses.acknowledged();
            if !entry.is_append {
                continue;
            }
            let append = self.pending.pop_front().expect("what is in flight is pending");
            self.submitted -= 1;
            self.outstanding_bytes -= append.bytes;
            self.acked = append.number;
            self.committed_offset = append.end();
            self.committed_max_timestamp = append.running_max_timestamp;
        }
        if self.acked > before {
            let high_watermark = self.high_watermark();
            effects.push(Effect::Acked { through: self.acked, high_watermark });
        }
    }

    fn submitted(&mut self, entry: EntryId) {
        let Phase::Open(open) = &mut self.phase else { return };
        match &mut open.snapshot {
            Snapshot::Due | Snapshot::Asked => {}
            Snapshot::Writing { index, total, first } => {
                if *index == 0 {
                    *first = entry;
                }
                *index += 1;
                self.flight.push_back(InFlight { entry, is_append: false });
                if index == total {
                    open.last_snapshot = Some(*first);
                    open.snapshot = Snapshot::Complete;
                    open.bytes_since_snapshot = 0;
                    open.entries_since_snapshot = 0;
                }
            }
            Snapshot::Complete => {
                let Some(append) = self.pending.get(self.submitted) else { return };
                let bytes = append.bytes as u64;
                self.submitted += 1;
                self.flight.push_back(InFlight { entry, is_append: true });
                open.bytes += bytes;
                open.bytes_since_snapshot += bytes + ENTRY_OVERHEAD;
                open.entries_since_snapshot += 1;
                if open.is_snapshot_due(&self.policy) {
                    open.snapshot = Snapshot::Due;
                }
            }
        }
    }

    fn answered(&mut self, parts: u32, bytes: u64) {
        if let Phase::Open(open) = &mut self.phase
            && open.snapshot == Snapshot::Asked
        {
            debug_assert!(self.flight.is_empty(), "asked for when nothing was in flight (P4)");
            open.snapshot = Snapshot::Writing { index: 0, total: parts, first: EntryId::NONE };
            open.snapshot_bytes = bytes;
        }
    }

    fn on_health(&mut self, health: Health, effects: &mut Vec<Effect>) {
        match self.phase {
            Phase::Open(_) if health.is_over() => self.settle(effects),
            Phase::Open(_) | Phase::Leaving(_) if !self.health.is_over() => {
                self.health = health;
            }
            Phase::Open(_)
            | Phase::Leaving(_)
            | Phase::Idle { .. }
            | Phase::Settling { .. }
            | Phase::Creating => {}
        }
    }

    fn not_rolled(&mut self, effects: &mut Vec<Effect>) {
        let Phase::Leaving(mut open) = self.phase else { return };
        open.idle = false;
        // The snapshot that was under way was given up with the attempt; what was written of it counts for nothing (P4).
        if matches!(open.snapshot, Snapshot::Asked | Snapshot::Writing { .. }) {
            open.snapshot = Snapshot::Due;
        }
        if self.health.is_over() {
            self.settle(effects);
            return;
        }
        self.phase = Phase::Open(open);
        self.cooling = true;
        effects.push(Effect::RetryLater);
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        self.check = Check::No;
        if self.policy.mutations.is(Mutation::SkipSettle) {
            self.ended(EntryId::NONE, effects);
            self.phase = Phase::Idle { waiting: false };
            return;
        }
        self.phase = Phase::Settling { waiting: false };
        effects.push(Effect::Settle);
    }

    fn fail(&mut self, effects: &mut Vec<Effect>) {
        self.failing = true;
        effects.push(Effect::RetryLater);
    }

    fn retry(&mut self, effects: &mut Vec<Effect>) {
        self.cooling = false;
        match self.phase {
            Phase::Idle { .. } => self.phase = Phase::Idle { waiting: false },
            Phase::Settling { waiting: true } => self.settle(effects),
            Phase::Settling { .. } | Phase::Creating | Phase::Open(_) | Phase::Leaving(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
