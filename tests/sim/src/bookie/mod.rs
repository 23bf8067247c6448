//! A bookie: its disk, its identity, and, while it runs, a process.
//!
//! * [`process`]: the production log and ledger states, fed one request at a time. [`query`]: reads. [`upkeep`]: snapshots,
//!   and space given back.

mod process;
mod query;
mod upkeep;

use std::collections::BTreeSet;
use std::sync::Arc;

use geminga_bookie::io::MemoryDisk;
use geminga_bookie::ledger::Identity;
use geminga_bookie::log::{Config, Identity as LogIdentity, Log, OpenError};
use geminga_proto::bookie::{QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{DiskUuid, EntryId, Incarnation, LedgerId, Member};

use crate::context::{Context, Registered, cluster, member, note};
use crate::disk::SimDisk;
use crate::event::{BookieTimer, Caller, Client, Event, To};
use crate::schedule::{MS, Time};
use crate::store;
use crate::truth::Staged;
use process::Process;

/// A lease outlives its bookie for so long.
const LEASE: Time = 700 * MS;
/// How often a bookie looks for ledgers that were deleted.
const COLLECT_GAP: Time = 300 * MS;
/// How often it looks after its log.
const UPKEEP_GAP: Time = 150 * MS;

/// Why a bookie does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    /// It will be started.
    Stopped,
    /// It found damage and refuses; only a new disk helps.
    Refused,
}

/// One bookie, running or not.
#[derive(Debug)]
pub(crate) struct Bookie {
    pub(crate) index: usize,
    /// Changes with every stop, so that what belonged to a former process is recognised.
    life: u32,
    disk: SimDisk,
    incarnation: Incarnation,
    process: Option<Process>,
    down: Down,
    pub(crate) writable: bool,
    /// Bits of it were flipped.
    damaged: bool,
    /// How long a flush takes: from, to.
    pub(crate) flush: (Time, Time),
    /// What a stop left between the log's queue and its disk.
    staged: Vec<(LedgerId, Staged)>,
}

/// Flushes of a disk that is well.
pub(crate) const FAST: (Time, Time) = (100, 1_500);

impl Bookie {
    pub(crate) fn new(index: usize, context: &mut Context) -> Self {
        let incarnation = Incarnation(context.dice.next_u64());
        let bookie = Self {
            index,
            life: 1,
            disk: SimDisk::new(MemoryDisk::new()),
            incarnation,
            process: None,
            down: Down::Stopped,
            writable: true,
            damaged: false,
            flush: FAST,
            staged: Vec::new(),
        };
        bookie.start_after(0, context);
        bookie
    }

    pub(crate) fn member(&self) -> Member {
        member(self.index, self.incarnation)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// It found damage, and waits for another disk.
    pub(crate) fn has_refused(&self) -> bool {
        self.process.is_none() && self.down == Down::Refused
    }

    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn timer(&self, after: Time, timer: BookieTimer, context: &mut Context) {
        let event = Event::Bookie { bookie: self.index, life: self.life, timer };
        context.schedule.after(after, event);
    }

    pub(crate) fn start_after(&self, after: Time, context: &mut Context) {
        self.timer(after, BookieTimer::Start, context);
    }

    pub(crate) fn on_timer(&mut self, life: u32, timer: BookieTimer, context: &mut Context) {
        if life != self.life {
            return;
        }
        match timer {
            BookieTimer::Start => self.start(context),
            BookieTimer::Flush => self.flush(context),
            BookieTimer::Idle(flushes) => self.idle(flushes, context),
            BookieTimer::Collect => self.collect(context),
            BookieTimer::Upkeep => self.look(context),
        }
    }

    /// Opens the log as a process does that starts.
    fn start(&mut self, context: &mut Context) {
        if self.process.is_some() {
            return;
        }
        let identity = LogIdentity {
            cluster: cluster(),
            bookie: self.member().bookie,
            incarnation: self.incarnation,
            disk: DiskUuid::from_random(u128::from(self.incarnation.0)),
        };
        let config = Config {
            segment_bytes: 16 << 10,
            prefill_bytes: 16 << 10,
            window_bytes: 8 << 10,
            // Nearly all of it is on the disk.
            index_bytes: 1 << 10,
            mutations: context.settings.log_mutations,
            ..Config::default()
        };
        let member = self.member();
        match Log::open_stepped(Arc::new(self.disk.clone()), identity, config) {
            Ok(stepped) => {
                note!(context, "{member} starts");
                let staged = std::mem::take(&mut self.staged);
                let (found, deleted) = (&stepped.opened.ledgers, &stepped.opened.tombstones);
                let coverage = &mut context.coverage;
                context.truth.restarted(&member, found, deleted, &staged, coverage);
                let me = Identity {
                    cluster: cluster(),
                    member: member.clone(),
                    authoritative: true,
                    writable: self.writable,
                    mutations: context.settings.bookie_mutations,
                };
                self.process = Some(Process::new(self.index, me, stepped));
                self.register(context);
                self.timer(COLLECT_GAP, BookieTimer::Collect, context);
                self.timer(UPKEEP_GAP, BookieTimer::Upkeep, context);
            }
            Err(error) => self.not_started(&error, context),
        }
    }

    fn not_started(&mut self, error: &OpenError, context: &mut Context) {
        let member = self.member();
        note!(context, "{member} does not start: {error}");
        self.life += 1;
        if let Some(after) = self.disk.after_cut() {
            context.coverage.hit("disk: power cut while opening");
            self.disk = after;
        }
        match error {
            OpenError::Io { .. } => {
                let pause = context.dice.range(20, 200) * MS;
                self.start_after(pause, context);
            }
            OpenError::Corrupt { .. } if self.damaged => {
                context.coverage.hit("disk: log refused after rot");
                self.down = Down::Refused;
            }
            other => {
                let detail = format!("{member}: {other}");
                context.truth.violated("K8: a crash is not taken for damage", detail);
            }
        }
    }

    /// Tells placement that it is there.
    pub(crate) fn register(&self, context: &mut Context) {
        if self.process.is_some() {
            let registered = Registered { member: self.member(), writable: self.writable };
            context.registry.insert(self.index, registered);
        }
    }

    /// The process is gone; its lease runs out later. What was queued and not written is gone with it.
    fn stop(&mut self, context: &mut Context) {
        if let Some(process) = self.process.take() {
            self.staged = process.into_staged();
            let event = Event::LeaseOver { bookie: self.index, life: self.life + 1 };
            context.schedule.after(LEASE, event);
        }
        self.life += 1;
        self.down = Down::Stopped;
    }

    /// Its lease is over, unless it came back.
    pub(crate) fn lease_over(&self, life: u32, context: &mut Context) {
        if self.process.is_none() && life <= self.life {
            context.registry.remove(&self.index);
        }
    }

    /// The process is killed; what it wrote is in the page cache.
    pub(crate) fn kill(&mut self, context: &mut Context) {
        self.stop(context);
        note!(context, "bookie-{} is killed", self.index);
    }

    /// Power goes: what was not synced survives as it happens.
    pub(crate) fn lose_power(&mut self, context: &mut Context) {
        self.stop(context);
        let seed = context.dice.next_u64();
        self.disk = self.disk.cut(seed);
        note!(context, "bookie-{} loses power", self.index);
    }

    /// A new disk in a new life.
    pub(crate) fn wipe(&mut self, context: &mut Context) {
        let old = self.member();
        self.stop(context);
        self.staged.clear();
        context.truth.lose(&old);
        context.registry.remove(&self.index);
        self.disk = SimDisk::new(MemoryDisk::new());
        self.incarnation = Incarnation(context.dice.next_u64());
        self.damaged = false;
        let new = self.member();
        note!(context, "{old} is wiped and comes as {new}");
    }

    /// Flips bits of what is not written to any more. False when there is nothing yet.
    pub(crate) fn rot(&mut self, context: &mut Context) -> bool {
        let disk = self.disk.memory();
        let running = self.process.is_some() && !self.disk.is_off();
        let mut settled = process::settled(disk, running);
        if context.dice.chance(400) {
            // What no snapshot covers yet.
            settled.retain(|(name, ..)| name.ends_with(".log"));
            settled.drain(..settled.len().saturating_sub(2));
        }
        let Some((name, from, to)) = context.dice.pick_any(settled.into_iter()) else {
            return false;
        };
        let bytes = (1 + context.dice.below(64)).min(to - from);
        let offset = from + context.dice.below(to - from - bytes + 1);
        disk.damage(&name, offset, bytes);
        self.damaged = true;
        let member = self.member();
        context.truth.lose(&member);
        note!(context, "{member}: {bytes} bytes of {name} rot at {offset}");
        true
    }

    /// The log failed under the process: it stops, and is started again (K6).
    fn fail(&mut self, why: &std::io::Error, context: &mut Context) {
        note!(context, "bookie-{} fails: {why}", self.index);
        let mut pause = context.dice.range(10, 300) * MS;
        self.stop(context);
        if let Some(after) = self.disk.after_cut() {
            self.disk = after;
            pause += 100 * MS;
        }
        self.start_after(pause, context);
    }

    fn flush(&mut self, context: &mut Context) {
        let Some(process) = &mut self.process else { return };
        let (from, to) = self.flush;
        match process.flush(context) {
            Ok(more) => {
                let flushes = process.flushes();
                if more {
                    let delay = context.dice.range(from, to);
                    self.timer(delay, BookieTimer::Flush, context);
                } else {
                    self.timer(1000 * MS, BookieTimer::Idle(flushes), context);
                }
            }
            Err(error) => self.fail(&error, context),
        }
    }

    fn idle(&mut self, flushes: u64, context: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if process.flushes() == flushes
            && let Err(error) = process.mark_idle()
        {
            self.fail(&error, context);
        }
    }

    /// Plans a flush if one is needed and none is planned.
    fn flush_soon(&mut self, context: &mut Context) {
        let (from, to) = self.flush;
        if self.process.as_mut().is_some_and(Process::wants_flush) {
            let delay = context.dice.range(from, to);
            self.timer(delay, BookieTimer::Flush, context);
        }
    }

    pub(crate) fn on_request(
        &mut self,
        caller: Caller,
        request: WriteRequest,
        context: &mut Context,
    ) {
        let Some(process) = &mut self.process else {
            return context.reset(caller, self.index);
        };
        process.receive(caller, request, context);
        self.flush_soon(context);
    }

    pub(crate) fn on_query(
        &mut self,
        caller: Caller,
        request: &QueryRequest,
        context: &mut Context,
    ) {
        if let Some(process) = &mut self.process {
            let reply = process.answer(request, self.damaged, context);
            context.query_reply(caller, self.index, reply);
        }
    }

    /// The store answered a check or a collection; `None` = not in time.
    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&store::Reply>,
        context: &mut Context,
    ) {
        let Some(process) = &mut self.process else { return };
        process.on_store(call, reply, context);
        self.flush_soon(context);
    }

    /// Asks the store about a ledger that it holds.
    fn collect(&mut self, context: &mut Context) {
        if let Some(process) = &mut self.process {
            process.collect(context);
            self.timer(COLLECT_GAP, BookieTimer::Collect, context);
        }
    }

    /// Keeps its log in order.
    fn look(&mut self, context: &mut Context) {
        if let Some(process) = &mut self.process {
            process.look(context);
            self.timer(UPKEEP_GAP, BookieTimer::Upkeep, context);
            self.flush_soon(context);
        }
        self.notice_power_cut(context);
    }

    /// A process does not outlive the power of its machine.
    pub(crate) fn notice_power_cut(&mut self, context: &mut Context) {
        if self.process.is_some() && self.disk.is_off() {
            self.fail(&std::io::Error::other("power was lost"), context);
        }
    }

    pub(crate) fn set_writable(&mut self, writable: bool, context: &mut Context) {
        self.writable = writable;
        if let Some(process) = &mut self.process {
            process.me.writable = writable;
        }
        self.register(context);
    }

    /// The ledgers of which it holds entries.
    pub(crate) fn held_ledgers(&self) -> BTreeSet<LedgerId> {
        self.process.as_ref().map(Process::held_ledgers).unwrap_or_default()
    }

    /// Drops its copy of a ledger for the object of an upload.
    pub(crate) fn trim(
        &mut self,
        ledger: LedgerId,
        last: EntryId,
        attempt: u128,
        context: &mut Context,
    ) {
        if let Some(process) = &mut self.process {
            process.trim(ledger, last, attempt);
            self.flush_soon(context);
        }
    }

    /// Announces that its copy of a ledger may go; false where there is none.
    pub(crate) fn begin_to_give_up(&mut self, ledger: LedgerId) -> bool {
        self.process.as_mut().is_some_and(|process| process.begin_to_give_up(ledger))
    }

    /// The last entry of a ledger that it knows of.
    pub(crate) fn reach(&self, ledger: LedgerId) -> EntryId {
        self.process.as_ref().map_or(EntryId::NONE, |process| process.reach(ledger))
    }

    /// Gives its copy of a ledger up, unless somebody sent entries since that was announced.
    pub(crate) fn give_up(&mut self, ledger: LedgerId, context: &mut Context) -> bool {
        let given_up = self.process.as_mut().is_some_and(|process| process.give_up(ledger));
        self.flush_soon(context);
        given_up
    }

    /// What it can deliver of a closed ledger's entries, for the last check.
    pub(crate) fn read_all(&self, ledger: LedgerId) -> Vec<(i64, bytes::Bytes)> {
        self.process.as_ref().map(|process| process.read_all(ledger)).unwrap_or_default()
    }
}

/// Answers a write, and notes what was said.
fn answer(bookie: usize, me: &Identity, to: To, reply: WriteReply, context: &mut Context) {
    context.truth.replied(&me.member, &to, &reply);
    let refused = match reply.code {
        geminga_proto::bookie::Code::Sealed => Some("bookie: writer refused by a seal"),
        geminga_proto::bookie::Code::StaleEpoch => Some("bookie: stale epoch refused"),
        geminga_proto::bookie::Code::WrongIncarnation => Some("bookie: old incarnation refused"),
        geminga_proto::bookie::Code::OutOfOrder => Some("bookie: out of order"),
        _ => None,
    };
    if let Some(name) = refused {
        context.coverage.hit(name);
    }
    note!(
        context,
        "bookie-{bookie} answers {:?} on {}: {:?} {} epoch {}",
        to.ask,
        to.ledger,
        reply.code,
        reply.durable_tail,
        reply.sealed_epoch
    );
    context.reply(to.caller, bookie, reply);
}

/// The store's part that a bookie calls from.
fn client(bookie: usize) -> Client {
    Client::Bookie(bookie)
}
