//! A running bookie: the production log, stepped, and the production ledger states on it. Does what the owner of a shard does
//! in production: one request of a ledger at a time, effects in order, replies once the durable mark has passed them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use bytes::Bytes;
use geminga_bookie::io::{Disk, MemoryDisk};
use geminga_bookie::ledger::{
    Effect, Event, Finding, Identity, LedgerState, Record, Tombstones, judge, judge_repair,
};
use geminga_bookie::log::{Driver, Log, Lsn, ReadError, Stepped};
use geminga_metastore::record::LedgerState as MetaState;
use geminga_proto::bookie::{Code, WriteOp, WriteReply, WriteRequest};
use geminga_proto::entry;
use geminga_proto::ids::{EntryId, LedgerId};

use super::upkeep;
use crate::context::{Context, note};
use crate::event::{Ask, Caller, Host, To};
use crate::store::{self, Key};
use crate::truth::Staged;

/// One ledger.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: LedgerState,
    /// Where its last record ends in the log.
    pub(super) lsn: Lsn,
}

/// What waits for the disk.
#[derive(Debug)]
enum Waiting {
    Reply(To, WriteReply),
    Compare { to: To, first: EntryId, entries: Vec<Bytes>, equal: WriteReply },
}

/// What a comparison came to.
#[derive(Debug)]
enum Compared {
    Equal,
    Refused(WriteReply),
    /// What is stored has rotted; the answer when it cannot be stored again.
    Rotten(WriteReply),
}

/// Why the store was asked.
#[derive(Debug)]
enum Question {
    /// A first contact (K2, F5).
    Check(To, WriteRequest),
    /// Whether a ledger was deleted.
    Collect(LedgerId),
}

/// One life of a process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(super) bookie: usize,
    pub(super) me: Identity,
    pub(super) log: Log,
    driver: Driver,
    pub(super) ledgers: BTreeMap<LedgerId, Slot>,
    pub(super) tombstones: Tombstones,
    /// In the order of their places.
    waiting: VecDeque<(Lsn, Waiting)>,
    questions: BTreeMap<u64, Question>,
    /// Requests behind a first contact, by ledger.
    behind: BTreeMap<LedgerId, VecDeque<(To, WriteRequest)>>,
    staged: VecDeque<(Lsn, LedgerId, Staged)>,
    flush_planned: bool,
    flushes: u64,
    /// The last ledger that was asked about.
    collected: LedgerId,
    /// The upkeep that is half done.
    pub(super) upkeep: Option<upkeep::Waiting>,
}

impl Process {
    pub(super) fn new(bookie: usize, me: Identity, stepped: Stepped) -> Self {
        let slot = |state| Slot { state, lsn: Lsn::default() };
        let found = stepped.opened.ledgers.into_iter();
        Self {
            bookie,
            me,
            log: stepped.opened.log,
            driver: stepped.driver,
            ledgers: found.map(|(id, state)| (id, slot(state))).collect(),
            tombstones: stepped.opened.tombstones,
            waiting: VecDeque::new(),
            questions: BTreeMap::new(),
            behind: BTreeMap::new(),
            staged: VecDeque::new(),
            flush_planned: false,
            flushes: 0,
            collected: LedgerId(0),
            upkeep: None,
        }
    }

    /// What was appended and is not known to be durable.
    pub(super) fn into_staged(self) -> Vec<(LedgerId, Staged)> {
        self.staged.into_iter().map(|(_, ledger, staged)| (ledger, staged)).collect()
    }

    /// Something without a ledger is on its way to the disk.
    pub(super) fn stage(&mut self, lsn: Lsn, staged: Staged) {
        self.staged.push_back((lsn, LedgerId(0), staged));
    }

    pub(super) fn flushes(&self) -> u64 {
        self.flushes
    }

    /// Whether a flush is needed and has not been planned; it is now.
    pub(super) fn wants_flush(&mut self) -> bool {
        let wants = !self.flush_planned && !self.staged.is_empty();
        self.flush_planned |= wants;
        wants
    }

    pub(super) fn receive(&mut self, caller: Caller, request: WriteRequest, context: &mut Context) {
        let ask = match request.op {
            WriteOp::Hello => Ask::Hello,
            WriteOp::Add { .. } => Ask::Add,
            WriteOp::RecoveryAdd { .. } => Ask::RecoveryAdd,
            WriteOp::Seal => Ask::Seal,
            WriteOp::AdvanceLac(_) | WriteOp::Closed(_) => Ask::Hint,
            WriteOp::RepairAdd { .. } => Ask::RepairAdd,
            WriteOp::Tail => Ask::Tail,
        };
        let scope = request.scope;
        let to = To {
            caller,
            ask,
            ledger: scope.ledger,
            fragment_first: scope.fragment_first,
            epoch: scope.epoch,
        };
        self.request(to, request, context);
    }

    /// Only a seal goes ahead of a first contact.
    fn request(&mut self, to: To, request: WriteRequest, context: &mut Context) {
        match self.behind.get_mut(&to.ledger) {
            Some(behind) if to.ask != Ask::Seal => behind.push_back((to, request)),
            _ => self.step(to, Event::Request { to, request }, context),
        }
    }

    fn step(&mut self, to: To, event: Event<To>, context: &mut Context) {
        let ledger = to.ledger;
        let mut slot = self.ledgers.remove(&ledger).unwrap_or_else(|| {
            let mut state = LedgerState::unknown(ledger);
            if self.tombstones.contains(ledger) {
                state.apply(&Record::Tombstone);
            }
            Slot { state, lsn: Lsn::default() }
        });
        let tail = slot.state.held().tail(to.fragment_first);
        let effects = slot.state.step(&self.me, event);
        for effect in effects {
            match effect {
                Effect::Append(record) => self.append(&mut slot, &to, tail, record, context),
                Effect::ReplyNow(to, reply) => {
                    super::answer(self.bookie, &self.me, to, reply, context);
                }
                Effect::ReplyWhenDurable(to, reply) => {
                    self.waiting.push_back((slot.lsn, Waiting::Reply(to, reply)));
                }
                Effect::CheckMetadata(to, request) => self.check(to, request, context),
                Effect::Compare { to, first, entries, equal } => {
                    context.coverage.hit("bookie: duplicate add compared");
                    let compare = Waiting::Compare { to, first, entries, equal };
                    self.waiting.push_back((slot.lsn, compare));
                }
            }
        }
        if slot.state.is_known() && !slot.state.is_deleted() {
            self.ledgers.insert(ledger, slot);
        }
        let durable = self.log.durable().borrow().lsn;
        self.release(|waits| waits <= durable, context);
    }

    fn append(
        &mut self,
        slot: &mut Slot,
        to: &To,
        tail: EntryId,
        record: Record,
        context: &mut Context,
    ) {
        let staged = match &record {
            Record::Entries { first, entries, .. } => {
                context.truth.accepted(self.bookie, to, tail, *first, entries);
                Staged::Entries(*first, EntryId(first.0 + entries.len() as i64 - 1))
            }
            Record::Seal { epoch } => Staged::Seal(*epoch),
            Record::Tombstone => Staged::Tombstone,
            Record::Trimmed { .. } => Staged::Trimmed,
            Record::GivenUp => Staged::GivenUp,
            Record::RunStart { .. } | Record::Closed { .. } => Staged::Other,
        };
        // A log that failed takes nothing; its process is stopped with the flush that failed.
        if let Ok(lsn) = self.log.append_unreserved(to.ledger, record) {
            slot.lsn = lsn;
            self.staged.push_back((lsn, to.ledger, staged));
        }
    }

    fn check(&mut self, to: To, request: WriteRequest, context: &mut Context) {
        self.behind.entry(to.ledger).or_default();
        let call = self.ask(to.ledger, context);
        self.questions.insert(call, Question::Check(to, request));
    }

    /// The ledger, and its mark, for repairs go by that as well.
    fn ask(&self, ledger: LedgerId, context: &mut Context) -> u64 {
        let get = store::Request::Get(vec![Key::Ledger(ledger), Key::Under(ledger)]);
        context.ask_store(Host::Bookie(self.bookie), super::client(self.bookie), get)
    }

    /// Asks about the next of its ledgers whether it was deleted.
    pub(super) fn collect(&mut self, context: &mut Context) {
        let next = self.ledgers.range(LedgerId(self.collected.0 + 1)..).next().map(|(id, _)| *id);
        self.collected = next.unwrap_or_default();
        if let Some(ledger) = next {
            let call = self.ask(ledger, context);
            self.questions.insert(call, Question::Collect(ledger));
        }
    }

    pub(super) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&store::Reply>,
        context: &mut Context,
    ) {
        let read = match reply {
            Some(store::Reply::Read(values)) => Some(store::ledger(values.first())),
            _ => None,
        };
        let mark = match reply {
            Some(store::Reply::Read(values)) => store::under(values.get(1)).map(|(mark, _)| mark),
            _ => None,
        };
        match self.questions.remove(&call) {
            Some(Question::Check(to, request)) => {
                let meta = read.as_ref().map(|read| read.as_ref().map(|(meta, _)| meta));
                let finding = match meta {
                    Some(meta) if to.ask == Ask::RepairAdd => {
                        judge_repair(meta, mark.as_ref(), &self.me.member, to.fragment_first)
                    }
                    Some(meta) => judge(meta, &self.me.member),
                    None => Finding::Unavailable,
                };
                if matches!(finding, Finding::Ended(_) | Finding::Gone | Finding::NotMember) {
                    context.coverage.hit("bookie: contact refused by the metadata");
                }
                let mut behind = self.behind.remove(&to.ledger).unwrap_or_default();
                self.step(to, Event::Checked { to, request, finding }, context);
                while let Some((to, request)) = behind.pop_front() {
                    self.request(to, request, context);
                    if let Some(again) = self.behind.get_mut(&to.ledger) {
                        again.append(&mut behind);
                    }
                }
            }
            Some(Question::Collect(ledger)) => {
                let gone = |meta: Option<&geminga_metastore::record::LedgerMeta>| {
                    meta.is_none_or(|meta| meta.state == MetaState::Deleting)
                };
                if read.is_some_and(|read| gone(read.as_ref().map(|(meta, _)| meta))) {
                    self.bury(ledger, context);
                }
            }
            None => {}
        }
    }

    /// A tombstone takes a ledger's place (F4).
    fn bury(&mut self, ledger: LedgerId, context: &mut Context) {
        let Some(mut slot) = self.ledgers.remove(&ledger) else { return };
        let Some(record) = slot.state.delete() else { return };
        self.tombstones.insert(ledger);
        if let Ok(lsn) = self.log.append_unreserved(ledger, record) {
            self.staged.push_back((lsn, ledger, Staged::Tombstone));
        }
        context.coverage.hit("bookie: ledger deleted");
        note!(context, "bookie-{} buries {ledger}", self.bookie);
    }

    /// The ledgers of which it holds entries.
    pub(super) fn held_ledgers(&self) -> BTreeSet<LedgerId> {
        let held = self.ledgers.iter().filter(|(_, slot)| !slot.state.held().runs().is_empty());
        held.map(|(ledger, _)| *ledger).collect()
    }

    /// An object takes the place of a ledger's entries (7.4 step 8).
    pub(super) fn trim(&mut self, ledger: LedgerId, last: EntryId, attempt: u128) {
        let Some(slot) = self.ledgers.get_mut(&ledger) else { return };
        for record in slot.state.trim(last, attempt) {
            let staged = match record {
                Record::Trimmed { .. } => Staged::Trimmed,
                _ => Staged::Other,
            };
            if let Ok(lsn) = self.log.append_unreserved(ledger, record) {
                slot.lsn = lsn;
                self.staged.push_back((lsn, ledger, staged));
            }
        }
    }

    /// Its copy of a ledger may go (5.6).
    pub(super) fn begin_to_give_up(&mut self, ledger: LedgerId) -> bool {
        self.ledgers.get_mut(&ledger).is_some_and(|slot| slot.state.begin_to_give_up())
    }

    /// The last entry of a ledger that is known of here: held, confirmed or told as its end.
    pub(super) fn reach(&self, ledger: LedgerId) -> EntryId {
        let Some(Slot { state, .. }) = self.ledgers.get(&ledger) else { return EntryId::NONE };
        let held = state.held().runs().last().map_or(EntryId::NONE, |(_, last)| *last);
        held.max(state.max_lac()).max(state.closed().unwrap_or(EntryId::NONE))
    }

    /// Its copy goes, since others have all of it.
    pub(super) fn give_up(&mut self, ledger: LedgerId) -> bool {
        let Some(slot) = self.ledgers.get_mut(&ledger) else { return false };
        let Some(record) = slot.state.give_up(self.me.mutations) else { return false };
        if let Ok(lsn) = self.log.append_unreserved(ledger, record) {
            slot.lsn = lsn;
            self.staged.push_back((lsn, ledger, Staged::GivenUp));
        }
        true
    }

    /// One flush; whether more is queued. An error is final (K6).
    pub(super) fn flush(&mut self, context: &mut Context) -> io::Result<bool> {
        self.driver.flush()?;
        self.flushes += 1;
        // In production a thread does this meanwhile.
        if self.flushes.is_multiple_of(8) {
            self.driver.prepare_segment()?;
        }
        let durable = self.log.durable().borrow().lsn;
        note!(context, "bookie-{} is durable up to {}", self.bookie, durable.0);
        while let Some((lsn, ledger, staged)) = self.staged.pop_front_if(|first| first.0 <= durable)
        {
            // What was promised before entries went is judged by what there was then, in the order of the log.
            if matches!(staged, Staged::Tombstone | Staged::Trimmed | Staged::GivenUp) {
                self.release(|waits| waits < lsn, context);
            }
            context.truth.durable(&self.me.member, ledger, staged);
        }
        self.release(|waits| waits <= durable, context);
        if let Err(error) = self.go_on(context) {
            note!(context, "bookie-{}: {error}", self.bookie);
        }
        self.flush_planned = !self.staged.is_empty();
        Ok(self.flush_planned)
    }

    pub(super) fn mark_idle(&mut self) -> io::Result<bool> {
        self.driver.mark_idle()
    }

    /// Answers what waited for records that are durable now.
    fn release(&mut self, durable: impl Fn(Lsn) -> bool, context: &mut Context) {
        // A reply without a record of its own may stand behind one that waits longer.
        let mut rest = VecDeque::with_capacity(self.waiting.len());
        for (lsn, waiting) in std::mem::take(&mut self.waiting) {
            if !durable(lsn) {
                rest.push_back((lsn, waiting));
                continue;
            }
            let (to, reply) = match waiting {
                Waiting::Reply(to, reply) => (to, reply),
                Waiting::Compare { to, first, entries, equal } => {
                    match self.compare(to.ledger, first, &entries) {
                        Compared::Equal => (to, equal),
                        Compared::Refused(reply) => (to, reply),
                        Compared::Rotten(refusal) => {
                            match self.restore(to.ledger, first, entries) {
                                Some(lsn) => {
                                    rest.push_back((lsn, Waiting::Reply(to, equal)));
                                    continue;
                                }
                                None => (to, refusal),
                            }
                        }
                    }
                }
            };
            super::answer(self.bookie, &self.me, to, reply, context);
        }
        self.waiting = rest;
    }

    fn compare(&self, ledger: LedgerId, first: EntryId, sent: &[Bytes]) -> Compared {
        let rotten = |why: String| Compared::Rotten(WriteReply::refusal(Code::Corrupt, why));
        for (entry, sent) in (first.0..).map(EntryId).zip(sent) {
            match self.log.read_blocking(ledger, entry, entry, 1) {
                Ok(stored) if stored.first() == Some(sent) => {}
                Ok(stored) => {
                    let whole = stored.first().map(|stored| {
                        entry::decode_expecting(self.me.cluster, ledger, entry, stored)
                    });
                    return match whole {
                        Some(Ok(_)) => Compared::Refused(WriteReply::refusal(
                            Code::Conflict,
                            "stored with other content",
                        )),
                        _ => rotten(format!("entry {entry} is damaged")),
                    };
                }
                Err(error @ (ReadError::Absent | ReadError::Corrupt { .. })) => {
                    return rotten(error.to_string());
                }
                Err(error) => {
                    let reply = WriteReply::refusal(Code::IoError, error.to_string());
                    return Compared::Refused(reply);
                }
            }
        }
        Compared::Equal
    }

    /// Stores entries again that rotted: they passed their digest, and their names stand for one content (D3). Where that is.
    fn restore(&mut self, ledger: LedgerId, first: EntryId, sent: Vec<Bytes>) -> Option<Lsn> {
        let last = EntryId(first.0 + sent.len() as i64 - 1);
        let slot = self.ledgers.get_mut(&ledger)?;
        if slot.state.is_deleted() || slot.state.held().tail(first) < last {
            return None;
        }
        let record =
            Record::Entries { fragment_first: first, first, entries: sent, lac: EntryId::NONE };
        let lsn = self.log.append_unreserved(ledger, record).ok()?;
        slot.lsn = lsn;
        self.staged.push_back((lsn, ledger, Staged::Entries(first, last)));
        Some(lsn)
    }
}

/// Where bits of a disk may flip: files and the bytes of them, from and to. Not in the newest whole frame, because nothing
/// vouches for it yet: it would be taken for a torn one, and rightly (K8). Which one that is is only sure while the process runs:
/// what stopped may have left a part of another behind it.
pub(super) fn settled(disk: &MemoryDisk, running: bool) -> Vec<(String, usize, usize)> {
    let mut names = disk.list().unwrap_or_default();
    names.sort_unstable();
    let mut segments = names.iter().filter(|name| name.ends_with(".log")).rev();
    // One may have been made ahead of need and be empty.
    let newest: Vec<String> = segments.by_ref().take(2).cloned().collect();
    let mut settled = Vec::new();
    for name in names {
        let Ok(bytes) = read(disk, &name) else { continue };
        let end = match newest.contains(&name) {
            false => bytes.len(),
            true if running => last_frame(&bytes),
            true => 0,
        };
        settled.push((name, 0, end));
    }
    settled.retain(|(_, from, to)| from < to);
    settled
}

fn read(disk: &MemoryDisk, name: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(name)?;
    let mut bytes = vec![0; file.size()? as usize];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

/// Where the last frame of a segment that is being written begins; 0 when there is none.
fn last_frame(segment: &[u8]) -> usize {
    // A file that was used before has frames of that use behind its own.
    let number = segment.get(16..24);
    let own = |sector: &[u8]| sector.starts_with(FRAME_MAGIC) && sector.get(8..16) == number;
    let newest = segment.chunks(SECTOR).enumerate().rev().find(|(_, sector)| own(sector));
    newest.map_or(0, |(at, _)| at * SECTOR)
}

/// How a frame begins, at a multiple of [`SECTOR`].
const FRAME_MAGIC: &[u8] = b"GmgF";
const SECTOR: usize = 512;
