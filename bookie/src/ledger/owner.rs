//! The owner of a shard's ledgers: one task feeds each of them its requests one at a time and carries the effects out in
//! order, so sealing and adding never race (F1). It waits for the disk and for metadata, but never for a peer.
//!
//! * A reply that must be durable is queued with its place in the log and leaves when the durable mark has passed it
//!   (K3, F2); one advance of the mark releases many.
//! * While a ledger's first contact is checked, its later requests wait in order behind it. Only a seal goes ahead: it needs
//!   no metadata, and fencing must not wait for a store that hangs.
//! * When the log fails, nothing is acknowledged any more: memory may be ahead of the disk (K6).
//! * A step that panics ends its ledger, loudly, and no other: what memory says of it is not to be trusted, so that it
//!   answers *unknown* until the process starts again from the log.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_proto::bookie::{Code, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId};
use geminga_runtime::Tasks;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::admit::log_bytes;
use super::check::Checker;
use super::compare::{Compare, Compared, Rotten};
use super::fullness::{Fullness, Gauge};
use super::reply::ReplyTo;
use super::table::Table;
use super::{Effect, Event, Finding, Identity, Record};
use crate::log::{Durable, Log, LogFailed, Lsn, Permit};
use crate::metrics;

/// Requests taken from the queue at a time.
const BATCH: usize = 64;

/// A request on its way to its ledger.
#[derive(Debug)]
pub(super) struct Job {
    /// Who gets the reply.
    pub(super) to: ReplyTo,
    /// What is asked; its entries are verified.
    pub(super) request: WriteRequest,
}

/// What is said for a ledger whose step panicked.
pub(super) const BROKEN: &str =
    "this bookie failed to handle the ledger: see its log, report the panic, restart it";

type Checked = (ReplyTo, WriteRequest, Finding);

/// A reply that waits for the disk.
#[derive(Debug)]
struct Unanswered {
    lsn: Lsn,
    to: ReplyTo,
    reply: WriteReply,
}

/// What an owner works with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) me: Identity,
    pub(super) log: Log,
    pub(super) table: Table,
    pub(super) fullness: Gauge,
    pub(super) checker: Checker,
    /// Bounds the comparisons of one disk.
    pub(super) comparing: Arc<Semaphore>,
}

/// Entries that rotted here and were sent again.
#[derive(Debug)]
struct Restore {
    to: ReplyTo,
    ledger: LedgerId,
    rotten: Rotten,
    /// The reply when they are stored again.
    equal: WriteReply,
}

/// What is dropped: metadata says so.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dropped {
    /// The ledger (F4).
    All,
    /// Its entries, which the object of this upload has up to `last` (7.4 step 8).
    Entries { last: EntryId, attempt: u128 },
    /// Nothing yet: whoever wants to give its copy up is about to look whether that is right (5.6).
    Nothing,
    /// Its copy, unless somebody sent something since [`Dropped::Nothing`].
    Copy,
}

/// A ledger whose data goes.
#[derive(Debug)]
pub(super) struct Deletion {
    pub(super) ledger: LedgerId,
    pub(super) what: Dropped,
    /// Hears where the last record about it stands in the log; nothing when there is nothing to delete.
    pub(super) done: oneshot::Sender<Result<Option<Lsn>, LogFailed>>,
}

pub(super) struct Owner {
    parts: Parts,
    jobs: mpsc::Receiver<Job>,
    deletions: mpsc::Receiver<Deletion>,
    durable: watch::Receiver<Durable>,
    unanswered: VecDeque<Unanswered>,
    checks: FuturesUnordered<BoxFuture<'static, Checked>>,
    compares: FuturesUnordered<BoxFuture<'static, Option<Restore>>>,
    /// Requests behind a check, by ledger; a ledger is in here for as long as its check runs.
    behind: HashMap<LedgerId, VecDeque<Job>>,
    failed: Option<LogFailed>,
}

impl Owner {
    pub(super) fn new(
        parts: Parts,
        jobs: mpsc::Receiver<Job>,
        deletions: mpsc::Receiver<Deletion>,
    ) -> Self {
        Self {
            durable: parts.log.durable(),
            parts,
            jobs,
            deletions,
            unanswered: VecDeque::new(),
            checks: FuturesUnordered::new(),
            compares: FuturesUnordered::new(),
            behind: HashMap::new(),
            failed: None,
        }
    }

    /// Runs until `tasks` stops, and then until all that was accepted is answered. A failed log stops `tasks`: the process must
    /// restart through the checks of a boot (K6).
    pub(super) async fn run(mut self, tasks: Tasks) {
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        let (mut batch, mut open, mut stopping) = (Vec::with_capacity(BATCH), true, false);
        while open || !self.is_idle() {
            tokio::select! {
                biased;
                changed = self.durable.changed(), if self.failed.is_none() => self.on_durable(changed.is_ok()),
                Some((to, request, finding)) = self.checks.next() => {
                    self.on_checked(to, request, finding).await;
                }
                Some(compared) = self.compares.next() => {
                    if let Some(restore) = compared {
                        self.restore(restore).await;
                    }
                }
                // Few, and they give space back: never behind a queue that does not empty (K10).
                Some(deletion) = self.deletions.recv(), if open => self.on_deletion(deletion).await,
                count = self.jobs.recv_many(&mut batch, BATCH), if open => {
                    open = count > 0;
                    for job in batch.drain(..) {
                        self.on_job(job).await;
                    }
                }
                () = &mut cancelled, if !stopping => {
                    stopping = true;
                    self.jobs.close();
                }
            }
            if self.failed.is_some() {
                tasks.cancel();
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.unanswered.is_empty() && self.checks.is_empty() && self.compares.is_empty()
    }

    /// The durable mark moved, or its log is gone.
    fn on_durable(&mut self, there: bool) {
        let durable = self.durable.borrow_and_update().clone();
        while let Some(first) = self.unanswered.pop_front_if(|first| first.lsn <= durable.lsn) {
            first.to.send(first.reply);
        }
        if let Some(failed) = durable.failed.or((!there).then_some(LogFailed::Closed)) {
            self.fail(failed);
        }
    }

    /// Nothing that is not durable yet ever will be.
    fn fail(&mut self, failed: LogFailed) {
        if self.failed.is_none() {
            tracing::error!(member = %self.parts.me.member, %failed, "the log of this disk failed; nothing is acknowledged any more");
            self.failed = Some(failed.clone());
        }
        for waiting in self.unanswered.drain(..) {
            waiting.to.send(io_error(&failed));
        }
    }

    async fn on_job(&mut self, job: Job) {
        let ledger = job.request.scope.ledger;
        match self.behind.get_mut(&ledger) {
            Some(waiting) if !matches!(job.request.op, WriteOp::Seal) => waiting.push_back(job),
            _ => {
                let bytes = log_room(&job.request.op);
                let event = Event::Request { to: (), request: job.request };
                self.step(ledger, bytes, job.to, event).await;
            }
        }
    }

    /// Appends a tombstone, or that the entries are elsewhere, in the order of the ledger's records (F1, F4).
    async fn on_deletion(&mut self, Deletion { ledger, what, done }: Deletion) {
        let largest = [Record::Closed { last: EntryId(0) }, Record::Trimmed { attempt: 0 }];
        let mutations = self.parts.me.mutations;
        let result = match self.reserve(largest.iter().map(Log::cost).sum()).await {
            Ok(mut room) => self.parts.table.lock().step(ledger, |slot| {
                if slot.broken || !slot.state.is_known() {
                    return Ok(None);
                }
                let records = match what {
                    Dropped::All => slot.state.delete().into_iter().collect(),
                    Dropped::Entries { last, attempt } => slot.state.trim(last, attempt),
                    Dropped::Nothing => {
                        return Ok(slot.state.begin_to_give_up().then_some(slot.lsn));
                    }
                    Dropped::Copy => slot.state.give_up(mutations).into_iter().collect(),
                };
                let mut placed = None;
                for mut record in records {
                    slot.lsn = append(&self.parts.log, ledger, &mut record, room.as_mut())?;
                    placed = Some(slot.lsn);
                }
                Ok(placed)
            }),
            Err(failed) => Err(failed),
        };
        if let Err(failed) = &result {
            self.fail(failed.clone());
        }
        if done.send(result).is_err() {
            tracing::debug!(%ledger, "whoever deletes a ledger is gone");
        }
    }

    /// Stores entries again that rotted (D3: it is the same content). The ledger's state does not change: they were held all
    /// the time.
    async fn restore(&mut self, Restore { to, ledger, rotten, equal }: Restore) {
        let Rotten { first, sent, refusal } = rotten;
        if self.failed.is_some() || self.fullness() == Fullness::Hard {
            return to.send(refusal);
        }
        let mut room = match self.reserve(log_bytes(&sent)).await {
            Ok(room) => room,
            Err(failed) => return to.send(io_error(&failed)),
        };
        let last = EntryId(first.0 + sent.len() as i64 - 1);
        let mut record =
            Record::Entries { fragment_first: first, first, entries: sent, lac: EntryId::NONE };
        let parts = &self.parts;
        let stored = parts.table.lock().step(ledger, |slot| {
            let held = slot.state.held().tail(first) >= last;
            if slot.broken || slot.state.is_deleted() || !held {
                return Ok(None);
            }
            slot.lsn = append(&parts.log, ledger, &mut record, room.as_mut())?;
            Ok(Some(slot.lsn))
        });
        match stored {
            Ok(Some(lsn)) => {
                tracing::info!(%ledger, first = first.0, last = last.0, "entries that had rotted were restored");
                metrics::restored();
                self.reply_when_durable(lsn, to, equal);
            }
            Ok(None) => to.send(refusal),
            Err(failed) => {
                to.send(io_error(&failed));
                self.fail(failed);
            }
        }
    }

    /// How full the disk is; the log knows first when it goes into its reserve.
    fn fullness(&self) -> Fullness {
        if self.parts.log.is_scarce() { Fullness::Hard } else { self.parts.fullness.get() }
    }

    /// A check came back: its request first, then what waited behind it, until one of these needs a check of its own.
    async fn on_checked(&mut self, to: ReplyTo, request: WriteRequest, finding: Finding) {
        let ledger = request.scope.ledger;
        let mut waiting = self.behind.remove(&ledger).unwrap_or_default();
        // Admission is a record of its own, in front of the request's.
        let bytes = log_room(&WriteOp::Seal) + log_room(&request.op);
        self.step(ledger, bytes, to, Event::Checked { to: (), request, finding }).await;
        while let Some(job) = waiting.pop_front() {
            self.on_job(job).await;
            if let Some(behind) = self.behind.get_mut(&ledger) {
                behind.append(&mut waiting);
            }
        }
    }

    /// One step of one ledger: room in the log first, then decision and appends in one piece, so that whoever looks at the
    /// ledger sees both or neither.
    async fn step(&mut self, ledger: LedgerId, bytes: usize, to: ReplyTo, event: Event<()>) {
        let mut room = match self.reserve(bytes).await {
            Ok(room) => room,
            Err(failed) => {
                self.fail(failed.clone());
                return to.send(io_error(&failed));
            }
        };
        let fullness = self.fullness();
        if fullness == Fullness::Hard && brings_copies(&event) {
            let full = "the disk is full: only seals and deletions go on";
            return to.send(WriteReply::refusal(Code::ReadOnly, full));
        }
        let parts = &mut self.parts;
        parts.me.writable = fullness < Fullness::High;
        let mut failed = None;
        let stepped = parts.table.lock().step(ledger, |slot| {
            if slot.broken {
                return None;
            }
            let decide = AssertUnwindSafe(|| slot.state.step(&parts.me, event));
            let Ok(mut effects) = catch_unwind(decide) else {
                slot.broken = true;
                return None;
            };
            effects.retain_mut(|effect| match effect {
                Effect::Append(record) if failed.is_none() => {
                    match append(&parts.log, ledger, record, room.as_mut()) {
                        Ok(lsn) => slot.lsn = lsn,
                        Err(error) => failed = Some(error),
                    }
                    false
                }
                Effect::Append(_) => false,
                _ => true,
            });
            Some((effects, slot.lsn))
        });
        if let Some(failed) = failed {
            self.fail(failed);
        }
        let Some((effects, lsn)) = stepped else { return to.send(broken(ledger)) };
        // What is not moved to a reply is said by the type: one event, one who asks, one answer.
        let mut to = Some(to);
        for effect in effects {
            if let Some(to) = to.take() {
                self.carry_out(ledger, lsn, to, effect);
            }
        }
    }

    /// Waits for room in the log, and answers meanwhile what has become durable.
    async fn reserve(&mut self, bytes: usize) -> Result<Option<Permit>, LogFailed> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if bytes == 0 {
            return Ok(None);
        }
        let log = self.parts.log.clone();
        let room = log.reserve(bytes);
        tokio::pin!(room);
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room.map(Some),
                changed = self.durable.changed(), if self.failed.is_none() => self.on_durable(changed.is_ok()),
            }
        }
    }

    fn carry_out(&mut self, ledger: LedgerId, lsn: Lsn, to: ReplyTo, effect: Effect<()>) {
        match effect {
            Effect::Append(_) => unreachable!("appended with the step"),
            // The ledger may be ahead of a log that failed: what it says is not to be told.
            Effect::ReplyNow((), reply) | Effect::ReplyWhenDurable((), reply)
                if self.failed.is_some() && reply.code == Code::Ok =>
            {
                to.send(io_error(self.failed.as_ref().expect("checked by the guard")));
            }
            Effect::ReplyNow((), reply) => to.send(reply),
            Effect::ReplyWhenDurable((), reply) => self.reply_when_durable(lsn, to, reply),
            Effect::CheckMetadata((), request) => self.check(ledger, to, request),
            Effect::Compare { to: (), first, entries, equal } => {
                self.compare(ledger, lsn, to, first, entries, equal);
            }
        }
    }

    fn reply_when_durable(&mut self, lsn: Lsn, mut to: ReplyTo, reply: WriteReply) {
        to.placed();
        if self.durable.borrow().lsn >= lsn {
            to.send(reply);
        } else {
            self.unanswered.push_back(Unanswered { lsn, to, reply });
        }
    }

    fn check(&mut self, ledger: LedgerId, to: ReplyTo, request: WriteRequest) {
        self.behind.entry(ledger).or_default();
        let (checker, member) = (self.parts.checker.clone(), self.parts.me.member.clone());
        let check = async move {
            let finding = match request.op {
                WriteOp::RepairAdd { .. } => {
                    checker.check_repair(ledger, &member, request.scope.fragment_first).await
                }
                _ => checker.check(ledger, &member).await,
            };
            (to, request, finding)
        };
        self.checks.push(check.boxed());
    }

    fn compare(
        &mut self,
        ledger: LedgerId,
        lsn: Lsn,
        to: ReplyTo,
        first: EntryId,
        sent: Vec<Bytes>,
        equal: WriteReply,
    ) {
        let compare = Compare {
            cluster: self.parts.me.cluster,
            log: self.parts.log.clone(),
            turns: Arc::clone(&self.parts.comparing),
            ledger,
            lsn,
            first,
            sent,
        };
        let done = async move {
            match compare.run().await {
                Compared::Equal => to.send(equal),
                Compared::Refused(reply) => to.send(reply),
                Compared::Rotten(rotten) => return Some(Restore { to, ledger, rotten, equal }),
            }
            None
        };
        self.compares.push(done.boxed());
    }
}

/// Whether a step would store a recoverer's or a repair's entries.
fn brings_copies(event: &Event<()>) -> bool {
    let (Event::Request { request, .. } | Event::Checked { request, .. }) = event;
    matches!(request.op, WriteOp::RecoveryAdd { .. } | WriteOp::RepairAdd { .. })
}

/// Bytes of the log's queue that a request's own record takes at most; 0 when it makes none.
fn log_room(op: &WriteOp) -> usize {
    match op {
        WriteOp::Add { entries, .. }
        | WriteOp::RecoveryAdd { entries, .. }
        | WriteOp::RepairAdd { entries, .. } => log_bytes(entries),
        // The largest of the records without entries.
        WriteOp::Seal | WriteOp::Closed(_) => Log::cost(&Record::Closed { last: EntryId::NONE }),
        WriteOp::Hello | WriteOp::AdvanceLac(_) | WriteOp::Tail => 0,
    }
}

/// Appends a record out of the room that was reserved.
fn append(
    log: &Log,
    ledger: LedgerId,
    record: &mut Record,
    room: Option<&mut Permit>,
) -> Result<Lsn, LogFailed> {
    // What is left behind is never looked at.
    let record = std::mem::replace(record, Record::Tombstone);
    let room = room.expect("room was reserved for each record of the step");
    let permit = room.split(Log::cost(&record));
    log.append(ledger, record, permit)
}

/// What a ledger whose step panicked answers: *unknown*, for the bookie's own fault must never count as a negative (K1).
fn broken(ledger: LedgerId) -> WriteReply {
    tracing::error!(%ledger, "a step of this ledger panicked; it answers nothing until this bookie is restarted");
    metrics::ledger_broken();
    WriteReply::refusal(Code::IoError, BROKEN)
}

pub(super) fn io_error(failed: &LogFailed) -> WriteReply {
    WriteReply::refusal(Code::IoError, failed.to_string())
}
