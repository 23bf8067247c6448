//! The task of one writer: takes appends, sends what the core says, feeds it what bookies and the metadata answer. Owns the
//! core, the entries in flight and every call that waits for an answer; so nothing can run between a change of the ensemble
//! that took place and the entries that follow it (W8).
//!
//! * [`health`]: who is too slow or away, and what the owner should know.
//! * [`ensemble`]: searches for others, changes of the ensemble, marks, and the close.
//! * [`registered`]: who is not registered any more, while nothing is written.

mod ensemble;
mod health;
mod registered;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_metastore::record::LedgerMeta;
use geminga_metastore::{MetaStore, Version};
use geminga_proto::bookie::{Class, Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Member, SealEpoch};
use geminga_runtime::{Random, Tasks, WallClock, requests};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::asks::Asks;
use super::change::{Changed, Found};
use super::close::CloseError;
use super::flight::Flight;
use super::watchdog::{Latencies, Watchdog};
use super::zones::Zones;
use super::{Append, Close, Command, Health, QUEUE, Writer};
use crate::config::Config;
use crate::connection::{Bookies, ConnectionLost};
use crate::core::mutation::Mutations;
use crate::core::quorum::Zone;
use crate::core::writer::{Effect, Event, Link, Outcome, Phase, Writer as Core};
use crate::metrics;
use crate::quarantine::Quarantine;

/// Everything that a writer is made from.
pub(crate) struct Setup {
    pub(crate) cluster: ClusterUuid,
    pub(crate) meta: LedgerMeta,
    pub(crate) version: Version,
    /// In which zone each member of its ensemble is, in their order; empty: it names none.
    pub(crate) zones: Vec<String>,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) bookies: Arc<dyn Bookies>,
    pub(crate) random: Arc<dyn Random>,
    /// Dates marks; never decides anything.
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) asks: Arc<Asks>,
    /// Bytes that all writers of the process may hold.
    pub(crate) outstanding: Arc<Semaphore>,
    pub(crate) config: Config,
    /// None but in tests.
    pub(crate) mutations: Mutations,
}

/// What an answer is the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Hello,
    Add,
    Lac,
    /// A `Hello` on a stream that goes on.
    Verify,
}

/// Named with the member that was asked: it may have left by now (W4).
type Answer = (Member, Ask, Result<WriteReply, ConnectionLost>);
type Closing = BoxFuture<'static, Result<LedgerMeta, CloseError>>;

struct Task {
    setup: Setup,
    /// The ledger as this writer knows it, and at which version.
    meta: LedgerMeta,
    version: Version,
    core: Core,
    zones: Zones,
    flight: Flight,
    /// Contiguous ranges to be sent, by position; sent together once no more commands wait.
    unsent: Vec<Option<(EntryId, EntryId)>>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    watchdogs: Vec<Watchdog>,
    latencies: Latencies,
    /// Since when the oldest entry that is not acknowledged is the oldest.
    head_since: Instant,
    lac: watch::Sender<EntryId>,
    health: watch::Sender<Health>,
    told_meta: watch::Sender<Arc<LedgerMeta>>,
    told_lac: EntryId,
    sent_at: Instant,
    bookies_changed: watch::Receiver<u64>,
    hunt: Option<BoxFuture<'static, Found>>,
    /// When to look for others again, where somebody is missing.
    hunt_at: Option<Instant>,
    change: Option<BoxFuture<'static, Changed>>,
    /// When the ensemble changed within the last minute.
    changed_at: VecDeque<Instant>,
    /// Who failed here a moment ago.
    shunned: VecDeque<(Member, Instant)>,
    marks: FuturesUnordered<BoxFuture<'static, ()>>,
    draining: Option<(Instant, Close)>,
    /// A bookie said that the ledger is sealed.
    sealed: bool,
    closing: Option<(Closing, oneshot::Sender<Result<LedgerMeta, CloseError>>)>,
}

/// Starts a writer's task and returns its handle.
pub(crate) fn start(tasks: &Tasks, setup: Setup) -> Writer {
    let first = setup.meta.last_fragment().first_entry;
    let mut zones = Zones::default();
    let places: Vec<Zone> = setup.zones.iter().map(|name| zones.number(name)).collect();
    let min_zones = setup.config.min_ack_zones;
    let (core, effects) = Core::new(&setup.meta, &places, min_zones, setup.mutations);
    let acknowledged = core.rule().zones;
    let fewer_zones = (acknowledged < min_zones).then_some(acknowledged);
    let mutations = setup.mutations;
    let (commands, queue) = mpsc::channel(QUEUE);
    let budget_bytes = setup.config.outstanding_bytes.min(Semaphore::MAX_PERMITS);
    let budget = Arc::new(Semaphore::new(budget_bytes));
    let total = Arc::clone(&setup.outstanding);
    let (lac, lac_seen) = watch::channel(core.lac());
    let (health, health_seen) = watch::channel(Health::Healthy);
    let (told_meta, meta_seen) = watch::channel(Arc::new(setup.meta.clone()));
    let (now, id, cluster) = (Instant::now(), setup.meta.id, setup.cluster);
    let positions = core.positions().len();
    let mut task = Task {
        meta: setup.meta.clone(),
        version: setup.version,
        bookies_changed: setup.bookies.changed(),
        setup,
        core,
        zones,
        flight: Flight::new(first),
        unsent: vec![None; positions],
        answers: FuturesUnordered::new(),
        watchdogs: (0..positions).map(|_| Watchdog::new(first.prev())).collect(),
        latencies: Latencies::default(),
        head_since: now,
        lac,
        health,
        told_meta,
        told_lac: first.prev(),
        sent_at: now,
        hunt: None,
        hunt_at: None,
        change: None,
        changed_at: VecDeque::new(),
        shunned: VecDeque::new(),
        marks: FuturesUnordered::new(),
        draining: None,
        sealed: false,
        closing: None,
    };
    task.note_registrations(&task.setup.bookies.live());
    task.carry_out(effects);
    let closer = Arc::clone(&budget);
    tasks.spawn("ledger writer", async move {
        task.run(queue, closer).await;
    });
    Writer {
        cluster,
        id,
        meta: meta_seen,
        fewer_zones,
        next: first,
        payload_bytes: 0,
        commands,
        budget,
        budget_bytes,
        total,
        mutations,
        lac: lac_seen,
        health: health_seen,
    }
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>, budget: Arc<Semaphore>) {
        let mut commands = Vec::with_capacity(256);
        let mut tick = tokio::time::interval(self.setup.config.idle_lac);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !matches!(self.core.phase(), Phase::Closed | Phase::Dead) {
            let idle = self.is_idle();
            let missing = self.is_hunting_due();
            let hunt_at = self.hunt_at.filter(|_| missing);
            let ask_at = self.next_ask();
            tokio::select! {
                biased;
                Some(answer) = self.answers.next() => self.on_answer(answer),
                Some(changed) = OptionFuture::from(self.change.as_mut()) => self.on_changed(changed),
                Some(found) = OptionFuture::from(self.hunt.as_mut()) => self.on_found(found),
                Some(result) = OptionFuture::from(self.closing.as_mut().map(|(closing, _)| closing)) => {
                    self.on_closed(result);
                }
                Some(()) = self.marks.next() => {}
                count = queue.recv_many(&mut commands, 256), if self.draining.is_none() && self.closing.is_none() => {
                    if count == 0 {
                        break;
                    }
                    for command in commands.drain(..) {
                        self.on_command(command);
                    }
                }
                Ok(()) = self.bookies_changed.changed() => self.on_bookies_changed(),
                Some(()) = OptionFuture::from(hunt_at.map(tokio::time::sleep_until)) => self.hunt_again(),
                Some(()) = OptionFuture::from(ask_at.map(tokio::time::sleep_until)) => self.ask_unregistered(),
                _ = tick.tick(), if !idle => self.on_tick(),
            }
            self.flush();
        }
        budget.close();
        queue.close();
        while let Ok(command) = queue.try_recv() {
            refuse(command);
        }
        self.finish_marks().await;
    }

    /// Nothing to time: no position is away, nothing is unacknowledged, and everybody knows the LAC.
    fn is_idle(&self) -> bool {
        let mut positions = self.core.positions().iter().zip(&self.watchdogs);
        let settled = positions.all(|(p, w)| {
            p.link == Link::Absent || (w.away_since.is_none() && p.acked >= self.core.lap())
        });
        settled && self.draining.is_none() && self.told_lac == self.core.lac()
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Append(append) => self.on_append(append),
            Command::Close(close) => {
                let deadline = Instant::now() + close.drain;
                self.draining = Some((deadline, close));
                self.close_when_drained();
            }
            Command::Verify => self.send_to_live(Ask::Verify, &WriteOp::Hello),
        }
    }

    fn on_append(&mut self, append: Append) {
        self.start_watch();
        let Ok((entry, effects)) = self.core.append() else {
            refuse(Command::Append(append));
            return;
        };
        let Append { position, bytes, permit, cause, done } = append;
        debug_assert_eq!(position.entry, entry, "the handle hands out the ids that are due");
        metrics::appended(bytes.len());
        self.flight.push(bytes, position.cumulative_length, (permit, cause), done);
        self.carry_out(effects);
    }

    fn on_answer(&mut self, (member, ask, answer): Answer) {
        // W4: what a former member says counts nothing.
        let Some(index) = self.core.index_of(&member) else { return };
        let sealed = |reply: &WriteReply| {
            reply.code.class() == Class::Verdict && reply.sealed_epoch > SealEpoch(0)
        };
        self.sealed |= ask != Ask::Lac && answer.as_ref().is_ok_and(sealed);
        let event = match (ask, answer) {
            (Ask::Lac, _) => return,
            (Ask::Verify, Ok(reply)) if sealed(&reply) => Event::Verdict { member },
            (Ask::Verify, _) => return,
            (Ask::Hello, Ok(reply)) => self.greeted(member, &reply),
            (Ask::Add, Ok(reply)) => self.added(index, member, &reply),
            (Ask::Hello | Ask::Add, Err(_)) => Event::Disconnected { member },
        };
        let acked = self.core.positions()[index].acked;
        let watchdog = &mut self.watchdogs[index];
        match &event {
            Event::Opened { .. } => watchdog.connected(),
            Event::Acked { durable_tail, .. } if *durable_tail > acked => {
                watchdog.moved(*durable_tail, &mut self.latencies);
            }
            Event::Verdict { member } => {
                tracing::info!(ledger = %self.meta.id, %member, "member says that this writer was deposed");
            }
            Event::Disconnected { member } => {
                if ask == Ask::Add && self.core.positions()[index].link != Link::Live {
                    // One broken connection ends many adds; the first has asked for another `Hello`.
                    return;
                }
                self.setup.quarantine.failed(&member.bookie, &self.setup.bookies.live());
            }
            _ => {}
        }
        let effects = self.core.step(event);
        self.carry_out(effects);
    }

    fn greeted(&self, member: Member, reply: &WriteReply) -> Event {
        if reply.code != Code::Ok {
            let ledger = self.meta.id;
            tracing::debug!(%ledger, %member, code = ?reply.code, detail = reply.detail, "member refused the writer");
        }
        Event::from_hello(member, reply)
    }

    /// What an answered add means. A disk that takes no new data is given up at once (2.5): it would only say so again.
    fn added(&mut self, index: usize, member: Member, reply: &WriteReply) -> Event {
        let event = Event::from_add(member, reply);
        if let Event::Disconnected { member } = &event
            && self.core.positions()[index].link == Link::Live
        {
            let ledger = self.meta.id;
            tracing::debug!(%ledger, %member, code = ?reply.code, detail = reply.detail, "member took no entries");
            self.watchdogs[index].refuses = true;
            if matches!(reply.code, Code::ReadOnly | Code::WrongIncarnation) {
                self.give_up(index);
            }
        }
        event
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Hello(index) => self.hello(index),
                Effect::Send { position, first, last } => {
                    let unsent = &mut self.unsent[position];
                    *unsent = match *unsent {
                        Some((from, to)) if to.next() == first => Some((from, last)),
                        _ => Some((first, last)),
                    };
                }
                Effect::Commit(lac) => {
                    self.flight.confirm(lac);
                    self.lac.send_replace(lac);
                    self.head_since = Instant::now();
                    self.close_when_drained();
                }
                Effect::Release(upto) => self.flight.release(upto),
                Effect::Search => self.start_hunt(),
                Effect::Change { first, ensemble } => self.start_change(first, ensemble),
                Effect::MarkUnder(members) => self.mark(members),
                Effect::CommitClose(last) => self.commit_close(last),
                Effect::Fail(outcome) => self.flight.fail(outcome),
                Effect::LeftOut(index) => self.left_out(index),
                // The health that is reported below says so, and says it once.
                Effect::QuorumLost | Effect::Roll => {}
            }
        }
        self.report_health();
    }

    fn hello(&mut self, index: usize) {
        let watchdog = &mut self.watchdogs[index];
        watchdog.away_since.get_or_insert_with(Instant::now);
        let config = &self.setup.config;
        let pause = match watchdog.attempts {
            0 => Duration::ZERO,
            n => config.retry_max.min(config.retry_min * 2u32.saturating_pow(n.min(16) - 1)),
        };
        watchdog.attempts += 1;
        self.unsent[index] = None;
        let request = self.request(index, WriteOp::Hello);
        let bookies = Arc::clone(&self.setup.bookies);
        let member = self.core.positions()[index].member.clone();
        let timeout = config.add_timeout;
        let answer = async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let reply = call(&*bookies, &member, request, timeout).await;
            (member, Ask::Hello, reply)
        };
        self.answers.push(answer.boxed());
    }

    fn request(&self, index: usize, op: WriteOp) -> WriteRequest {
        let scope = Scope {
            cluster: self.setup.cluster,
            ledger: self.meta.id,
            fragment_first: self.core.fragment_first(),
            epoch: SealEpoch(0),
            incarnation: self.core.positions()[index].member.incarnation,
        };
        WriteRequest { scope, op }
    }

    /// Sends what the core asked for since the last time, a few large requests per position.
    fn flush(&mut self) {
        for index in 0..self.unsent.len() {
            let Some((first, last)) = self.unsent[index].take() else { continue };
            let lac = self.core.lac();
            for (first, entries) in self.flight.chunks(first, last, self.setup.config.add_bytes) {
                let cause = self.flight.cause(first, entries.len());
                let count = i64::try_from(entries.len()).expect("fewer than 2^63 fit in memory");
                self.watchdogs[index].sent(EntryId(first.0 + count - 1));
                let add = WriteOp::Add { first, entries, lac };
                requests::caused_by(cause, || self.send(index, Ask::Add, add));
            }
            self.sent_at = Instant::now();
            self.told_lac = lac;
        }
    }

    fn send(&mut self, index: usize, ask: Ask, op: WriteOp) {
        let request = self.request(index, op);
        let member = self.core.positions()[index].member.clone();
        let answer = match self.setup.bookies.connection(&member.bookie) {
            Ok(connection) => {
                connection.write(request).map(move |reply| (member, ask, reply)).boxed()
            }
            Err(lost) => std::future::ready((member, ask, Err(lost))).boxed(),
        };
        self.answers.push(answer);
    }

    /// Sends to each position that streams.
    fn send_to_live(&mut self, ask: Ask, op: &WriteOp) {
        for index in 0..self.watchdogs.len() {
            if self.core.positions()[index].link == Link::Live {
                self.send(index, ask, op.clone());
            }
        }
    }
}

fn refuse(command: Command) {
    match command {
        Command::Append(append) => {
            let _gone = append.done.send(Outcome::NotWritten);
        }
        Command::Close(close) => {
            let _gone = close.done.send(Err(CloseError::Lost));
        }
        Command::Verify => {}
    }
}

async fn call(
    bookies: &dyn Bookies,
    member: &Member,
    request: WriteRequest,
    timeout: Duration,
) -> Result<WriteReply, ConnectionLost> {
    let reply = bookies.connection(&member.bookie)?.write(request);
    match tokio::time::timeout(timeout, reply).await {
        Ok(reply) => reply,
        Err(_) => Err(ConnectionLost {
            bookie: member.bookie.clone(),
            why: format!("no answer within {timeout:?}"),
        }),
    }
}

#[cfg(test)]
mod tests;
