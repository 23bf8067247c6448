//! One recoverer of one ledger: steps S0 to S7 of protocol 4.3 as a pure state machine.
//!
//! ```text
//!   ReadMeta ─► Mark (CAS epoch+1) ─► Seal ─► [grace] ─► Copy (D..T] ─► Length ─► Close (CAS) ─► done
//!      ▲            │ lost                                                          │ lost, unknown
//!      └────────────┘                                              re-read: adopt, rebase or follow
//! ```
//!
//! * [`seal`]: S2 to S4. [`copy`]: S5, and who stands in for members that are lost. [`force`]: what an operator may override
//!   (4.8).
//!
//! What must stay true: the ensemble sealed is the one frozen at S1 (H5); `T` comes from authoritative replies only, at
//! least `Qw - Qa + 1` of them (S3); no LAC is raised (W5); nothing is told to anyone before the closing CAS is known to have
//! succeeded (RC1); an unknown CAS is resolved by reading, never by assuming (M9).

mod copy;
mod event;
mod force;
mod position;
#[cfg(feature = "mutations")]
mod renamed;
mod seal;

use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_proto::ids::{EntryId, Member, SealEpoch};

pub use self::event::{Effect, Event, Finish, Stop};
use self::force::Force;
use self::position::Position;
pub use super::commit::CasResult;
use super::mutation::{Mutation, Mutations};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    ReadingMeta,
    Marking,
    Sealing,
    Copying,
    ReadingLength,
    Closing,
    Done,
}

/// The state of one recovery attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recovery {
    recoverer: String,
    mutations: Mutations,
    /// Random; every CAS of this attempt gets the next number (M9).
    op: u128,
    /// Where they began.
    first_op: u128,
    phase: Phase,
    meta: Option<(LedgerMeta, Version)>,
    positions: Vec<Position>,
    grace_started: bool,
    /// Others are being looked for, and who failed already.
    searching: bool,
    shunned: Vec<Member>,
    /// Sources that did not answer, and those whose bytes of an entry are bad.
    silent: Vec<Member>,
    corrupt: Vec<(Member, EntryId)>,
    /// Timers that run: for silent sources, and for copies beyond the ack quorum.
    pausing: bool,
    copy_grace_started: bool,
    /// `D` and `T` of S4.
    acknowledged: EntryId,
    end: EntryId,
    length: u64,
    force: Force,
}

impl Recovery {
    /// An attempt by `recoverer`; `op` is a fresh random number.
    pub fn new(recoverer: String, op: u128, mutations: Mutations) -> (Self, Vec<Effect>) {
        let recovery = Self {
            recoverer,
            mutations,
            op,
            first_op: op,
            phase: Phase::ReadingMeta,
            meta: None,
            positions: Vec::new(),
            grace_started: false,
            searching: false,
            shunned: Vec::new(),
            silent: Vec::new(),
            corrupt: Vec::new(),
            pausing: false,
            copy_grace_started: false,
            acknowledged: EntryId::NONE,
            end: EntryId::NONE,
            length: 0,
            force: Force::No,
        };
        (recovery, vec![Effect::ReadMeta])
    }

    /// Whether the attempt is over.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// The sealed metadata, while one is held.
    pub fn meta(&self) -> Option<&LedgerMeta> {
        self.meta.as_ref().map(|(meta, _)| meta)
    }

    /// The sealed metadata with the fragments that the close will give it: those who stand in hold the entries, too.
    pub fn final_meta(&self) -> Option<LedgerMeta> {
        let meta = self.meta()?;
        Some(LedgerMeta { fragments: self.final_fragments(meta), ..meta.clone() })
    }

    /// Handles one event. Events that no longer matter are ignored.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        match event {
            Event::MetaRead(read) => {
                let read = read.map(|read| *read);
                match self.phase {
                    Phase::ReadingMeta => self.mark(read),
                    Phase::Marking => self.resolve_mark(read),
                    Phase::Closing => self.resolve_close(read),
                    _ => Vec::new(),
                }
            }
            Event::CasDone(result) => match (&self.phase, result) {
                (Phase::Marking, CasResult::Applied(version)) => self.marked(version),
                (Phase::Closing, CasResult::Applied(_)) => self.closed(),
                (Phase::Closing, CasResult::Unknown)
                    if self.mutations.is(Mutation::AssumeApplied) =>
                {
                    self.closed()
                }
                (Phase::Marking | Phase::Closing, _) => vec![Effect::ReadMeta],
                _ => Vec::new(),
            },
            Event::Sealed { position, tail, max_lac, authoritative } => {
                self.sealed(position, tail, max_lac, authoritative)
            }
            Event::Stale if self.mutations.is(Mutation::IgnoreNewerRecoverer) => Vec::new(),
            Event::Stale => match self.phase {
                Phase::Sealing | Phase::Copying | Phase::ReadingLength => {
                    self.finish(Finish::Follow)
                }
                _ => Vec::new(),
            },
            Event::GraceOver => match self.phase {
                Phase::Sealing => self.fix_end(),
                _ => Vec::new(),
            },
            Event::DeadlineOver => self.deadline(),
            Event::Copied { target, tail } => self.copied(target, tail),
            Event::TargetFailed { target } => self.target_failed(target),
            Event::SealUnknown { position } => self.seal_unknown(position),
            Event::Found(found) => self.found(found),
            Event::SourceFailed { from, target, entry, corrupt } => {
                self.source_failed(from, target, entry, corrupt)
            }
            Event::CopyGraceOver => self.copy_grace_over(),
            Event::PauseOver => self.pause_over(),
            Event::LengthRead(length) => match self.phase {
                Phase::ReadingLength => {
                    self.length = length;
                    self.close()
                }
                _ => Vec::new(),
            },
            Event::EndFound { end, length } => match self.phase {
                Phase::ReadingLength => self.end_below(end, length),
                _ => Vec::new(),
            },
            Event::EndUnknown => match self.phase {
                Phase::ReadingLength => {
                    let end = self.end;
                    self.finish(Finish::Stopped(Stop::Unreadable(end)))
                }
                _ => Vec::new(),
            },
        }
    }

    fn held(&self) -> &(LedgerMeta, Version) {
        self.meta.as_ref().expect("held in every phase after ReadingMeta")
    }

    fn fragment_first(&self) -> EntryId {
        self.held().0.last_fragment().first_entry
    }

    fn finish(&mut self, finish: Finish) -> Vec<Effect> {
        self.phase = Phase::Done;
        vec![Effect::Finish(finish)]
    }

    /// S0 and S1.
    fn mark(&mut self, read: Option<(LedgerMeta, Version)>) -> Vec<Effect> {
        let Some((old, version)) = read else { return self.finish(Finish::Gone) };
        match old.state {
            LedgerState::Closed => return self.finish(Finish::Closed(Box::new(old))),
            LedgerState::Deleting => return self.finish(Finish::Gone),
            LedgerState::Open | LedgerState::InRecovery => {}
        }
        self.op = self.op.wrapping_add(1);
        let mut meta = old;
        meta.state = LedgerState::InRecovery;
        meta.seal_epoch = SealEpoch(meta.seal_epoch.0 + 1);
        meta.recoverer.clone_from(&self.recoverer);
        meta.last_op = self.op;
        self.meta = Some((meta.clone(), version));
        self.phase = Phase::Marking;
        vec![Effect::Cas { expected: version, meta: Box::new(meta) }]
    }

    /// Whether a CAS of this attempt made this value.
    fn is_ours(&self, meta: &LedgerMeta) -> bool {
        let number = meta.last_op.wrapping_sub(self.first_op);
        number > 0 && number <= self.op.wrapping_sub(self.first_op)
    }

    /// The mark's CAS was lost or is unknown: ours if `last_op` says so (M9). Also one whose outcome was unknown and
    /// that took place after it was repeated, or this attempt would wait for itself.
    fn resolve_mark(&mut self, read: Option<(LedgerMeta, Version)>) -> Vec<Effect> {
        match read {
            Some((meta, version))
                if meta.state == LedgerState::InRecovery && self.is_ours(&meta) =>
            {
                self.meta = Some((meta, version));
                self.marked(version)
            }
            // Somebody marked it in the meantime, so somebody is at work.
            Some((meta, _))
                if meta.state == LedgerState::InRecovery
                    && meta.seal_epoch >= self.held().0.seal_epoch =>
            {
                self.finish(Finish::Follow)
            }
            other => self.mark(other),
        }
    }

    fn find_length(&mut self) -> Vec<Effect> {
        if self.end == EntryId::NONE {
            self.length = 0;
            return self.close();
        }
        self.phase = Phase::ReadingLength;
        vec![Effect::ReadLength(self.end)]
    }

    /// S6: one CAS sets the end (M4).
    fn close(&mut self) -> Vec<Effect> {
        self.phase = Phase::Closing;
        self.op = self.op.wrapping_add(1);
        vec![Effect::Cas { expected: self.held().1, meta: Box::new(self.closed_meta()) }]
    }

    fn closed_meta(&self) -> LedgerMeta {
        let (mut meta, _) = self.held().clone();
        meta.fragments = self.final_fragments(&meta);
        // Only an operator's end lies in an earlier fragment.
        while meta.fragments.len() > 1 && self.end < meta.last_fragment().first_entry.prev() {
            meta.fragments.pop();
        }
        meta.state = LedgerState::Closed;
        meta.last_entry = Some(self.end);
        meta.length = self.length;
        meta.entries_crc = None;
        meta.close_kind = Some(self.close_kind());
        meta.last_op = self.op;
        meta
    }

    /// S7, best effort.
    fn closed(&mut self) -> Vec<Effect> {
        let meta = self.closed_meta();
        let members = meta.last_fragment().ensemble.clone();
        let mut effects = vec![Effect::TellClosed { members, last: self.end }];
        let lacking = self.lacking();
        if !lacking.is_empty() {
            effects.push(Effect::MarkUnder(lacking));
        }
        effects.extend(self.finish(Finish::Closed(Box::new(meta))));
        effects
    }

    /// The closing CAS was lost or is unknown: adopt, rebase or follow.
    fn resolve_close(&mut self, read: Option<(LedgerMeta, Version)>) -> Vec<Effect> {
        let Some((meta, version)) = read else {
            if self.mutations.is(Mutation::MakeKeyAgain) {
                // No key that exists has this version, so this asks for one that does not.
                let meta = Box::new(self.closed_meta());
                return vec![Effect::Cas { expected: Version(0), meta }];
            }
            return self.finish(Finish::Gone);
        };
        let ours = self.held().0.seal_epoch;
        match meta.state {
            LedgerState::Closed if self.mutations.is(Mutation::RewriteEnd) => {
                self.meta = Some((meta, version));
                self.close()
            }
            LedgerState::Closed => self.finish(Finish::Closed(Box::new(meta))),
            LedgerState::Deleting => self.finish(Finish::Gone),
            LedgerState::InRecovery if meta.seal_epoch == ours => {
                // A repair changed earlier fragments, or the CAS never arrived: build on what is there now.
                self.meta = Some((meta, version));
                self.close()
            }
            LedgerState::InRecovery | LedgerState::Open => self.finish(Finish::Follow),
        }
    }
}

#[cfg(test)]
mod tests;
