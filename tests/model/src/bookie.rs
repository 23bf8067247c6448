//! One bookie: the production ledger state over a log whose tail is not yet on stable storage. Its name is not part of it, so
//! that bookies in the same state are equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_bookie::ledger::{Effect, Event, Finding, Identity, LedgerState, Record, judge};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, Incarnation, LedgerId, SealEpoch};

use crate::part::{Keep, Shelf};

/// Who asked, and what kind of request it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) client: usize,
    pub(crate) ask: Ask,
    /// The life of the bookie that was asked (W4).
    pub(crate) incarnation: Incarnation,
    /// The fragment that the request named.
    pub(crate) fragment_first: EntryId,
}

/// The kind of a request, which decides what its reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Ask {
    Hello,
    Add,
    Seal,
    RecoveryAdd,
}

impl Ask {
    fn of(op: &WriteOp) -> Self {
        match op {
            WriteOp::Hello => Self::Hello,
            WriteOp::Add { .. } => Self::Add,
            WriteOp::Seal => Self::Seal,
            WriteOp::RecoveryAdd { .. } => Self::RecoveryAdd,
            WriteOp::AdvanceLac(_) | WriteOp::Closed(_) => unreachable!("the model sends no hints"),
            WriteOp::RepairAdd { .. } | WriteOp::Tail => unreachable!("the model repairs nothing"),
        }
    }
}

/// A bookie and its log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bookie {
    /// Which of its lives it lives.
    pub(crate) life: u64,
    state: LedgerState,
    log: Vec<Record>,
    synced: usize,
    /// Replies that wait for the log to be durable up to a length.
    waiting: Vec<(usize, Caller, WriteReply)>,
    /// Metadata checks under way, with what was read.
    checks: Vec<(Caller, WriteRequest, Finding)>,
    /// The highest seal it answered (I11), of which fragment, and the tail it then vouched for (I12).
    answered: Option<(SealEpoch, EntryId, EntryId)>,
    /// The same over all lives.
    ever_answered: SealEpoch,
    /// Whether it took an entry from somebody whom a seal of any of its lives shuts out (I11), ...
    pub(crate) broke_seal: bool,
    /// ... or one of this life, so that a tail grew that it had vouched for (I12).
    pub(crate) broke_tail: bool,
    /// Whether it took an entry that leaves a gap (I9).
    pub(crate) left_gap: bool,
}

impl Keep for Bookie {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Bookie> = Shelf::new();
        &SHELF
    }
}

/// What leaves a bookie.
pub(crate) type Replies = Vec<(Caller, WriteReply)>;

impl Bookie {
    pub(crate) fn new(life: u64, ledger: LedgerId) -> Self {
        Self {
            life,
            state: LedgerState::unknown(ledger),
            log: Vec::new(),
            synced: 0,
            waiting: Vec::new(),
            checks: Vec::new(),
            answered: None,
            ever_answered: SealEpoch(0),
            broke_seal: false,
            broke_tail: false,
            left_gap: false,
        }
    }

    /// Everything is lost; another life begins.
    pub(crate) fn wipe(&mut self) {
        let Self { broke_seal, broke_tail, left_gap, ever_answered, .. } = *self;
        let next = Self::new(self.life + 1, self.state.id());
        *self = Self { broke_seal, broke_tail, left_gap, ever_answered, ..next };
    }

    pub(crate) fn receive(
        &mut self,
        me: &Identity,
        client: usize,
        request: WriteRequest,
        meta: Option<&LedgerMeta>,
    ) -> Replies {
        let Scope { incarnation, fragment_first, .. } = request.scope;
        let to = Caller { client, ask: Ask::of(&request.op), incarnation, fragment_first };
        let epoch = request.scope.epoch;
        let effects = self.state.step(me, Event::Request { to, request });
        self.carry_out(me, epoch, effects, meta)
    }

    pub(crate) fn has_check(&self) -> bool {
        !self.checks.is_empty()
    }

    /// The answer of the oldest metadata check arrives: what was read then, not what is true now.
    pub(crate) fn finish_check(&mut self, me: &Identity, meta: Option<&LedgerMeta>) -> Replies {
        let (to, request, finding) = self.checks.remove(0);
        let epoch = request.scope.epoch;
        let effects = self.state.step(me, Event::Checked { to, request, finding });
        self.carry_out(me, epoch, effects, meta)
    }

    /// What follows from a request of this epoch, which is 0 for a writer's.
    fn carry_out(
        &mut self,
        me: &Identity,
        epoch: SealEpoch,
        effects: Vec<Effect<Caller>>,
        meta: Option<&LedgerMeta>,
    ) -> Replies {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Append(record) => self.append(record, epoch),
                Effect::ReplyNow(to, reply) => replies.push((to, reply)),
                Effect::ReplyWhenDurable(to, reply) => {
                    self.waiting.push((self.log.len(), to, reply))
                }
                Effect::CheckMetadata(to, request) => {
                    let finding = judge(meta, &me.member);
                    self.checks.push((to, request, finding));
                }
                Effect::Compare { to, first, entries, equal } => {
                    let same = entries
                        .iter()
                        .zip(first.0..)
                        .all(|(sent, id)| self.stored(EntryId(id)) == Some(sent));
                    let reply = if same {
                        equal
                    } else {
                        WriteReply::refusal(Code::Conflict, "other content")
                    };
                    self.waiting.push((self.log.len(), to, reply));
                }
            }
        }
        replies.extend(self.release());
        self.note(&replies);
        replies
    }

    fn append(&mut self, record: Record, epoch: SealEpoch) {
        if let Record::Entries { fragment_first, first, .. } = &record {
            let durable = self.durable_seal();
            let answered = self.answered.map_or(durable, |(answered, ..)| durable.max(answered));
            self.broke_seal |= epoch < answered.max(self.ever_answered);
            self.broke_tail |= epoch < answered;
            let before = first.prev();
            self.left_gap |= *first > *fragment_first && self.stored(before).is_none();
        }
        self.log.push(record);
    }

    /// Replies whose records are durable by now.
    fn release(&mut self) -> Replies {
        let synced = self.synced;
        let ready = self.waiting.iter().take_while(|(at, ..)| *at <= synced).count();
        self.waiting.drain(..ready).map(|(_, to, reply)| (to, reply)).collect()
    }

    fn note(&mut self, replies: &Replies) {
        for (to, reply) in replies {
            if to.ask == Ask::Seal && reply.code == Code::Ok {
                let answer = (reply.sealed_epoch, to.fragment_first, reply.durable_tail);
                self.answered = self.answered.max(Some(answer));
                self.ever_answered = self.ever_answered.max(reply.sealed_epoch);
            }
        }
    }

    pub(crate) fn can_sync(&self) -> bool {
        self.synced < self.log.len()
    }

    pub(crate) fn sync(&mut self) -> Replies {
        self.synced = self.log.len();
        let replies = self.release();
        self.note(&replies);
        self.merge();
        replies
    }

    /// Whether everything that it took is on stable storage.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.log.len() && self.waiting.is_empty() && self.checks.is_empty()
    }

    /// Brings what is on stable storage into one form: in which order and in which pieces it came there is of no consequence
    /// any more, since a crash keeps all of it. An answer that it bears out can be forgotten, too, unless a wipe may take it
    /// away: from then on what is on stable storage is the witness of I11 and I12, and asks for as much.
    pub(crate) fn forget_history(&mut self, wipes: bool) {
        let mut durable = LedgerState::unknown(self.state.id());
        let (mut entries, mut seal) = (BTreeMap::new(), None);
        for record in &self.log[..self.synced] {
            durable.apply(record);
            match record {
                Record::Entries { first, entries: held, .. } => {
                    entries.extend((first.0..).zip(held.iter().cloned()));
                }
                Record::Seal { epoch } => seal = seal.max(Some(*epoch)),
                Record::RunStart { .. } => {}
                Record::Closed { .. }
                | Record::Trimmed { .. }
                | Record::GivenUp
                | Record::Tombstone => return,
            }
        }
        let mut log = vec![Record::RunStart { fragment_first: EntryId(0) }];
        log.truncate(self.synced);
        for (entry, bytes) in entries {
            let (entry, lac) = (EntryId(entry), durable.max_lac());
            match log.last_mut() {
                Some(Record::Entries { first, entries, .. })
                    if first.0 + entries.len() as i64 == entry.0 =>
                {
                    entries.push(bytes);
                }
                _ => log.push(Record::Entries {
                    fragment_first: entry,
                    first: entry,
                    entries: vec![bytes],
                    lac,
                }),
            }
        }
        log.extend(seal.map(|epoch| Record::Seal { epoch }));
        let (before, after) = (self.synced, log.len());
        log.extend(self.log.drain(..).skip(before));
        (self.log, self.synced) = (log, after);
        self.waiting.iter_mut().for_each(|(at, ..)| *at = *at + after - before);
        let borne_out = self.answered.is_none_or(|(epoch, first, tail)| {
            durable.sealed_epoch() >= epoch && durable.held().tail(first) >= tail
        });
        if borne_out && !wipes && seal.unwrap_or_default() >= self.ever_answered {
            (self.answered, self.ever_answered) = (None, SealEpoch(0));
        }
    }

    /// How entries came together is of no consequence once they are durable: states that differ in nothing else are one.
    fn merge(&mut self) {
        let before = self.log.len();
        let mut merged: Vec<Record> = Vec::with_capacity(before);
        for record in self.log.drain(..) {
            match (merged.last_mut(), record) {
                (
                    Some(Record::Entries { fragment_first, first, entries, lac }),
                    Record::Entries {
                        fragment_first: fragment,
                        first: next,
                        entries: more,
                        lac: told,
                    },
                ) if *fragment_first == fragment && first.0 + entries.len() as i64 == next.0 => {
                    entries.extend(more);
                    *lac = (*lac).max(told);
                }
                (_, record) => merged.push(record),
            }
        }
        self.log = merged;
        let gone = before - self.log.len();
        self.synced -= gone;
        self.waiting.iter_mut().for_each(|(at, ..)| *at -= gone);
    }

    /// Power is lost and returns: what was not synced is gone, the rest is replayed.
    pub(crate) fn crash(&mut self) {
        self.log.truncate(self.synced);
        self.waiting.clear();
        self.checks.clear();
        let mut state = LedgerState::unknown(self.state.id());
        for record in &self.log {
            state.apply(record);
        }
        self.state = state;
    }

    /// The last entry that it holds.
    pub(crate) fn last(&self) -> EntryId {
        self.state.held().last()
    }

    /// An entry as stored, synced or not.
    pub(crate) fn stored(&self, entry: EntryId) -> Option<&Bytes> {
        Self::find(&self.log, entry)
    }

    /// An entry on stable storage.
    pub(crate) fn durable(&self, entry: EntryId) -> Option<&Bytes> {
        Self::find(&self.log[..self.synced], entry)
    }

    fn find(log: &[Record], entry: EntryId) -> Option<&Bytes> {
        log.iter().find_map(|record| match record {
            Record::Entries { first, entries, .. } => {
                let at = usize::try_from(entry.0 - first.0).ok()?;
                entries.get(at)
            }
            _ => None,
        })
    }

    /// The highest seal on stable storage.
    pub(crate) fn durable_seal(&self) -> SealEpoch {
        let seals = self.log[..self.synced].iter().filter_map(|record| match record {
            Record::Seal { epoch } => Some(*epoch),
            _ => None,
        });
        seals.max().unwrap_or_default()
    }

    pub(crate) fn max_lac(&self) -> EntryId {
        self.state.max_lac()
    }

    /// I11: what it answered about its seal still holds, and so does what is on stable storage.
    pub(crate) fn keeps_its_seal(&self) -> bool {
        let sealed = self.state.sealed_epoch();
        sealed >= self.durable_seal() && self.answered.is_none_or(|(epoch, ..)| sealed >= epoch)
    }

    /// I12: under the same seal the tail never shrinks below what was reported, nor does what is on stable storage.
    pub(crate) fn keeps_its_tail(&self) -> bool {
        let held = self.state.held();
        let holds = |record: &Record| match record {
            Record::Entries { first, entries, .. } => {
                (first.0..).take(entries.len()).all(|entry| held.contains(EntryId(entry)))
            }
            _ => true,
        };
        self.log[..self.synced].iter().all(holds)
            && self.answered.is_none_or(|(_, first, tail)| held.tail(first) >= tail)
    }
}
