//! One recoverer of one ledger: steps S0 to S7 of protocol 4.3 as a pure state machine.
//!
//! ```text
//!   ReadMeta ─► Mark (CAS epoch+1) ─► Seal ─► [grace] ─► Copy (D..T] ─► Length ─► Close (CAS) ─► done
//!      ▲            │ lost                                                          │ lost, unknown
//!      └────────────┘                                              re-read: adopt, rebase or follow
//! ```
//!
//! What must stay true: the ensemble sealed is the one frozen at S1 (H5); `T` comes from authoritative replies only, at
//! least `Qw - Qa + 1` of them (S3); no LAC is raised (W5); nothing is told to anyone before the closing CAS is known to have
//! succeeded (RC1); an unknown CAS is resolved by reading, never by assuming (M9).

use geminga_metastore::Version;
use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState};
use geminga_proto::bookie::{Class, Code, WriteReply};
use geminga_proto::ids::{EntryId, Member, SealEpoch};

pub use super::commit::CasResult;
use super::mutation::{Mutation, Mutations};
use super::quorum;

/// What happens to a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The metadata, read linearizably (M8).
    MetaRead(Option<Box<(LedgerMeta, Version)>>),
    /// The last CAS ended.
    CasDone(CasResult),
    /// A position answered its seal.
    Sealed {
        /// Which.
        position: usize,
        /// Its final tail.
        tail: EntryId,
        /// The largest LAC that the writer told it.
        max_lac: EntryId,
        /// Whether it vouches for what it does not have.
        authoritative: bool,
    },
    /// A bookie knows a newer recoverer.
    Stale,
    /// The rest had its chance to answer (S3).
    GraceOver,
    /// The time for this attempt is over (S2).
    DeadlineOver,
    /// A copy went through up to `tail`, durably.
    Copied {
        /// Target.
        target: usize,
        /// Its tail now.
        tail: EntryId,
    },
    /// The target did not take the copy.
    TargetFailed {
        /// Target.
        target: usize,
    },
    /// The source could not deliver `entry` for that target.
    SourceFailed {
        /// Source.
        source: usize,
        /// Target that waits.
        target: usize,
        /// What it could not deliver.
        entry: EntryId,
        /// It holds the entry, but its bytes are bad; otherwise it did not answer.
        corrupt: bool,
    },
    /// The payload length up to the end.
    LengthRead(u64),
}

impl Event {
    /// The metadata, read linearizably.
    pub fn meta_read(read: Option<(LedgerMeta, Version)>) -> Self {
        Self::MetaRead(read.map(Box::new))
    }

    /// What a reply to a seal means; `None` = nothing: ask again.
    pub fn from_seal(position: usize, reply: &WriteReply) -> Option<Self> {
        match (reply.code, reply.code.class()) {
            (Code::StaleEpoch, _) => Some(Self::Stale),
            (_, Class::Positive) => Some(Self::Sealed {
                position,
                tail: reply.durable_tail,
                max_lac: reply.max_lac,
                authoritative: reply.authoritative,
            }),
            (_, Class::Negative | Class::Unknown | Class::Verdict) => None,
        }
    }

    /// What a reply to a recovery add means.
    pub fn from_recovery_add(target: usize, reply: &WriteReply) -> Self {
        match (reply.code, reply.code.class()) {
            (Code::StaleEpoch, _) => Self::Stale,
            (_, Class::Positive) => Self::Copied { target, tail: reply.durable_tail },
            (_, Class::Negative | Class::Unknown | Class::Verdict) => Self::TargetFailed { target },
        }
    }
}

/// What the task must do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read the metadata linearizably, then [`Event::MetaRead`].
    ReadMeta,
    /// Replace the metadata if its version is as expected, then [`Event::CasDone`].
    Cas {
        /// The version read.
        expected: Version,
        /// The new value; its `last_op` is ours.
        meta: Box<LedgerMeta>,
    },
    /// Seal at a position; repeat on *unknown* until answered, finished, or the deadline.
    Seal {
        /// Which.
        position: usize,
        /// Who.
        member: Member,
        /// The epoch.
        epoch: SealEpoch,
        /// The fragment sealed.
        fragment_first: EntryId,
    },
    /// Start the deadline of the attempt.
    StartDeadline,
    /// Start the grace for members that have not answered.
    StartGrace,
    /// Copy entries verbatim (D2) from one position to another by recovery adds.
    Copy {
        /// From.
        source: usize,
        /// To.
        target: usize,
        /// First entry.
        first: EntryId,
        /// Last entry.
        last: EntryId,
    },
    /// Read the cumulative length in the header of this entry; repeat until read or the deadline.
    ReadLength(EntryId),
    /// Over.
    Finish(Finish),
}

/// How a recovery ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The ledger is closed, by us or by someone else.
    Closed(Box<LedgerMeta>),
    /// The ledger is deleted or being deleted.
    Gone,
    /// A newer recoverer is at work: wait for `CLOSED`, start again if nothing happens.
    Follow,
    /// Not enough is known, or copies are missing: the ledger stays in recovery (4.8).
    Stopped(Stop),
}

/// Why a recovery stopped short of closing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stop {
    /// These members must answer before the tail is known or copied.
    Missing(Vec<Member>),
    /// The writer acknowledged entries that no answering member holds: more copies are lost than Qa allows.
    AcknowledgedLost {
        /// The writer's LAC.
        acknowledged: EntryId,
        /// The longest tail.
        tail: EntryId,
    },
    /// Members hold this entry but none can deliver its bytes.
    Unreadable(EntryId),
}

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

/// What is known of one position.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Position {
    /// Its durable tail, once sealed; raised by copies.
    tail: Option<EntryId>,
    max_lac: Option<EntryId>,
    authoritative: bool,
    /// Sources that failed to serve this target.
    bad_sources: Vec<usize>,
    /// A copy is under way.
    copying: bool,
    /// The target refused; it is not tried again in this attempt.
    failed: bool,
    /// It holds this entry with bad bytes.
    corrupt_at: Option<EntryId>,
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
    /// `D` and `T` of S4.
    acknowledged: EntryId,
    end: EntryId,
    length: u64,
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
            acknowledged: EntryId::NONE,
            end: EntryId::NONE,
            length: 0,
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
                (Phase::Marking | Phase::Closing, _) => vec![Effect::ReadMeta],
                _ => Vec::new(),
            },
            Event::Sealed { position, tail, max_lac, authoritative } => {
                self.sealed(position, tail, max_lac, authoritative)
            }
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
            Event::TargetFailed { target } => {
                self.positions[target].copying = false;
                self.positions[target].failed = true;
                self.go_on_copying()
            }
            Event::SourceFailed { source, target, entry, corrupt } => {
                self.source_failed(source, target, entry, corrupt)
            }
            Event::LengthRead(length) => match self.phase {
                Phase::ReadingLength => {
                    self.length = length;
                    self.close()
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

    /// S2: seal the frozen ensemble.
    fn marked(&mut self, version: Version) -> Vec<Effect> {
        self.phase = Phase::Sealing;
        let (meta, held_version) = self.meta.as_mut().expect("held since the mark was built");
        *held_version = version;
        let fragment = meta.last_fragment();
        self.positions = vec![Position::default(); fragment.ensemble.len()];
        let seal = |(position, member): (usize, &Member)| Effect::Seal {
            position,
            member: member.clone(),
            epoch: meta.seal_epoch,
            fragment_first: fragment.first_entry,
        };
        let mut effects = vec![Effect::StartDeadline];
        effects.extend(fragment.ensemble.iter().enumerate().map(seal));
        if self.enough_seals() {
            // Only with a mutation: an ensemble of one less than nobody.
            effects.extend(self.fix_end());
        }
        effects
    }

    fn authoritative(&self) -> impl Iterator<Item = &Position> {
        self.positions.iter().filter(|p| p.authoritative && p.tail.is_some())
    }

    fn enough_seals(&self) -> bool {
        let (meta, _) = self.held();
        let mut have = self.authoritative().count();
        if self.mutations.is(Mutation::SealWithOneLess) {
            have += 1;
        }
        quorum::covered(meta.qw, meta.qa, have)
    }

    /// S3: a reply counts when it is authoritative; a late one may still become the target of a copy.
    fn sealed(
        &mut self,
        index: usize,
        tail: EntryId,
        max_lac: EntryId,
        authoritative: bool,
    ) -> Vec<Effect> {
        if !matches!(self.phase, Phase::Sealing | Phase::Copying)
            || self.positions[index].tail.is_some()
        {
            return Vec::new();
        }
        let position = &mut self.positions[index];
        position.tail = Some(tail);
        position.max_lac = Some(max_lac);
        position.authoritative = authoritative;
        if self.phase == Phase::Copying {
            return self.go_on_copying();
        }
        if self.positions.iter().all(|p| p.tail.is_some()) && self.enough_seals() {
            return self.fix_end();
        }
        if self.enough_seals() && !self.grace_started {
            self.grace_started = true;
            return vec![Effect::StartGrace];
        }
        Vec::new()
    }

    /// S4: the end is the longest authoritative tail; what the writer is known to have acknowledged needs no copy.
    fn fix_end(&mut self) -> Vec<Effect> {
        let floor = self.fragment_first().prev();
        self.end = self.authoritative().filter_map(|p| p.tail).fold(floor, EntryId::max);
        self.acknowledged =
            self.authoritative().filter_map(|p| p.max_lac).fold(floor, EntryId::max);
        if self.acknowledged > self.end {
            let stop = Stop::AcknowledgedLost { acknowledged: self.acknowledged, tail: self.end };
            return self.finish(Finish::Stopped(stop));
        }
        self.phase = Phase::Copying;
        self.go_on_copying()
    }

    /// How many members hold everything up to the end.
    fn complete_copies(&self) -> usize {
        self.positions.iter().filter(|p| p.tail.is_some_and(|tail| tail >= self.end)).count()
    }

    /// Whether the end is readable from Qa members: nothing above the acknowledged part, or copied (S5).
    fn readable(&self) -> bool {
        self.end == self.acknowledged
            || quorum::acknowledged(self.held().0.qa, self.complete_copies())
    }

    /// S5: starts copies that can start, and goes on when nothing is left to wait for.
    fn go_on_copying(&mut self) -> Vec<Effect> {
        if self.phase != Phase::Copying {
            return Vec::new();
        }
        let mut effects = Vec::new();
        if self.end > self.acknowledged {
            for target in 0..self.positions.len() {
                effects.extend(self.start_copy(target));
            }
        }
        let busy = self.positions.iter().any(|p| p.copying);
        if !busy && self.readable() {
            effects.extend(self.find_length());
        }
        effects
    }

    /// Contiguity: a lagging member is filled from its own tail on (4.3).
    fn start_copy(&mut self, target: usize) -> Option<Effect> {
        let end = self.end;
        let position = &self.positions[target];
        let tail = position.tail.filter(|tail| *tail < end)?;
        if position.copying || position.failed {
            return None;
        }
        let can_serve = |(index, source): &(usize, &Position)| {
            source.tail.is_some_and(|t| t >= end) && !position.bad_sources.contains(index)
        };
        let (source, _) = self.positions.iter().enumerate().find(can_serve)?;
        self.positions[target].copying = true;
        Some(Effect::Copy { source, target, first: tail.next(), last: end })
    }

    fn copied(&mut self, target: usize, tail: EntryId) -> Vec<Effect> {
        let position = &mut self.positions[target];
        position.copying = false;
        position.tail = position.tail.max(Some(tail));
        self.go_on_copying()
    }

    fn source_failed(
        &mut self,
        source: usize,
        target: usize,
        entry: EntryId,
        corrupt: bool,
    ) -> Vec<Effect> {
        self.positions[target].copying = false;
        self.positions[target].bad_sources.push(source);
        if corrupt {
            self.positions[source].corrupt_at = Some(entry);
        }
        if let Some(effects) = self.end_below_unreadable(entry) {
            return effects;
        }
        self.go_on_copying()
    }

    /// Unreadable content: the ledger may end below an entry that nobody can deliver only if coverage says that it
    /// was never acknowledged (4.3, last paragraph).
    fn end_below_unreadable(&mut self, entry: EntryId) -> Option<Vec<Effect>> {
        if self.phase != Phase::Copying || entry <= self.acknowledged || entry > self.end {
            return None;
        }
        let holders = || self.positions.iter().filter(|p| p.tail.is_some_and(|tail| tail >= entry));
        if !holders().all(|p| p.corrupt_at.is_some_and(|at| at <= entry)) {
            return None;
        }
        let without =
            self.authoritative().filter(|p| p.tail.is_some_and(|tail| tail < entry)).count();
        let (meta, _) = self.held();
        if !quorum::covered(meta.qw, meta.qa, without) {
            return Some(self.finish(Finish::Stopped(Stop::Unreadable(entry))));
        }
        self.end = entry.prev();
        for position in &mut self.positions {
            position.bad_sources.clear();
        }
        Some(self.go_on_copying())
    }

    fn deadline(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Copying if self.readable() => self.find_length(),
            Phase::Sealing if self.enough_seals() => self.fix_end(),
            Phase::Sealing | Phase::Copying => {
                let missing = self.missing();
                self.finish(Finish::Stopped(Stop::Missing(missing)))
            }
            Phase::ReadingLength => {
                let end = self.end;
                self.finish(Finish::Stopped(Stop::Unreadable(end)))
            }
            Phase::ReadingMeta | Phase::Marking | Phase::Closing | Phase::Done => Vec::new(),
        }
    }

    /// Members without an authoritative answer, or that did not take their copy.
    fn missing(&self) -> Vec<Member> {
        let ensemble = &self.held().0.last_fragment().ensemble;
        let lacks = |p: &Position| !p.authoritative || p.failed || p.tail.is_none();
        ensemble
            .iter()
            .zip(&self.positions)
            .filter(|(_, p)| lacks(p))
            .map(|(m, _)| m.clone())
            .collect()
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
        meta.state = LedgerState::Closed;
        meta.last_entry = Some(self.end);
        meta.length = self.length;
        meta.entries_crc = None;
        meta.close_kind = Some(CloseKind::Recovered);
        meta.last_op = self.op;
        meta
    }

    fn closed(&mut self) -> Vec<Effect> {
        let meta = self.closed_meta();
        self.finish(Finish::Closed(Box::new(meta)))
    }

    /// The closing CAS was lost or is unknown: adopt, rebase or follow.
    fn resolve_close(&mut self, read: Option<(LedgerMeta, Version)>) -> Vec<Effect> {
        let Some((meta, version)) = read else { return self.finish(Finish::Gone) };
        let ours = self.held().0.seal_epoch;
        match meta.state {
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
