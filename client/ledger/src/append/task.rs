//! The task of one writer: takes appends, sends what the core says, feeds it what bookies answer, and gives up on
//! positions that stay away. Owns the core, the entries in flight and every call that waits for an answer.

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_metastore::record::LedgerMeta;
use geminga_metastore::{MetaStore, Version};
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Member, SealEpoch};
use geminga_runtime::{Random, Tasks};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::close::{CloseError, ClosePlan};
use super::flight::Flight;
use super::{Append, Close, Command, Health, QUEUE, Writer};
use crate::config::Config;
use crate::connection::{Bookies, ConnectionLost};
use crate::core::writer::{Effect, Event, Link, Phase, Position as Place, Writer as Core};
use crate::metrics;

/// Everything that a writer is made from.
pub(crate) struct Setup {
    pub(crate) cluster: ClusterUuid,
    pub(crate) meta: LedgerMeta,
    pub(crate) version: Version,
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) bookies: Arc<dyn Bookies>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) config: Config,
}

/// What an answer is the answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Hello,
    Add,
    Lac,
}

type Answer = (usize, Ask, Result<WriteReply, ConnectionLost>);

/// When a position was last seen to do its part.
#[derive(Debug, Clone, Copy)]
struct Watchdog {
    /// Without a connection since.
    away_since: Option<Instant>,
    /// Failed attempts in a row.
    attempts: u32,
    /// It answers, but took nothing since it last moved: that it says hello once more is no progress.
    refuses: bool,
    /// The ack seen last, and when it moved or had nothing to do.
    acked: EntryId,
    moved_at: Instant,
}

type Closing = BoxFuture<'static, Result<LedgerMeta, CloseError>>;

struct Task {
    setup: Setup,
    core: Core,
    flight: Flight,
    /// Contiguous ranges to be sent, by position; sent together once no more commands wait.
    unsent: Vec<Option<(EntryId, EntryId)>>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    watchdogs: Vec<Watchdog>,
    lac: watch::Sender<EntryId>,
    health: watch::Sender<Health>,
    told_lac: EntryId,
    sent_at: Instant,
    draining: Option<(Instant, Close)>,
    closing: Option<(Closing, oneshot::Sender<Result<LedgerMeta, CloseError>>)>,
}

/// Starts a writer's task and returns its handle.
pub(crate) fn start(tasks: &Tasks, setup: Setup) -> Writer {
    let fragment = setup.meta.last_fragment();
    let first = fragment.first_entry;
    let (core, effects) = Core::new(setup.meta.qa, first, &fragment.ensemble);
    let (commands, queue) = mpsc::channel(QUEUE);
    let budget_bytes = setup.config.outstanding_bytes.min(Semaphore::MAX_PERMITS);
    let budget = Arc::new(Semaphore::new(budget_bytes));
    let (lac, lac_seen) = watch::channel(core.lac());
    let (health, health_seen) = watch::channel(Health::Healthy);
    let (cluster, meta) = (setup.cluster, Arc::new(setup.meta.clone()));
    let now = Instant::now();
    let watchdog = Watchdog {
        away_since: Some(now),
        attempts: 0,
        refuses: false,
        acked: first.prev(),
        moved_at: now,
    };
    let positions = fragment.ensemble.len();
    let mut task = Task {
        setup,
        core,
        flight: Flight::new(first),
        unsent: vec![None; positions],
        answers: FuturesUnordered::new(),
        watchdogs: vec![watchdog; positions],
        lac,
        health,
        told_lac: first.prev(),
        sent_at: now,
        draining: None,
        closing: None,
    };
    task.carry_out(effects);
    let closer = Arc::clone(&budget);
    tasks.spawn("ledger writer", async move {
        task.run(queue).await;
        closer.close();
    });
    Writer {
        cluster,
        meta,
        next: first,
        payload_bytes: 0,
        commands,
        budget,
        budget_bytes,
        lac: lac_seen,
        health: health_seen,
    }
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut commands = Vec::with_capacity(256);
        let mut tick = tokio::time::interval(self.setup.config.idle_lac);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !matches!(self.core.phase(), Phase::Closed | Phase::Dead) {
            let idle = self.is_idle();
            tokio::select! {
                biased;
                Some(answer) = self.answers.next() => self.on_answer(answer),
                Some(result) = OptionFuture::from(self.closing.as_mut().map(|(closing, _)| closing)) => {
                    self.on_closed(result);
                }
                count = queue.recv_many(&mut commands, 256), if self.draining.is_none() && self.closing.is_none() => {
                    if count == 0 {
                        return;
                    }
                    for command in commands.drain(..) {
                        self.on_command(command);
                    }
                }
                _ = tick.tick(), if !idle => self.on_tick(),
            }
            self.flush();
        }
        queue.close();
        while let Ok(command) = queue.try_recv() {
            refuse(command);
        }
    }

    /// Nothing to time: no position is away, nothing is unacknowledged, and everybody knows the LAC.
    fn is_idle(&self) -> bool {
        let settled = |(p, w): (&Place, &Watchdog)| {
            p.link == Link::Absent || (w.away_since.is_none() && p.acked >= self.core.lap())
        };
        self.draining.is_none()
            && self.told_lac == self.core.lac()
            && self.core.positions().iter().zip(&self.watchdogs).all(settled)
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Append(append) => self.on_append(append),
            Command::Close(close) => {
                let deadline = Instant::now() + close.drain;
                self.draining = Some((deadline, close));
                self.close_when_drained();
            }
        }
    }

    fn on_append(&mut self, append: Append) {
        self.start_watch();
        let Ok((entry, effects)) = self.core.append() else {
            refuse(Command::Append(append));
            return;
        };
        let Append { position, bytes, permit, done } = append;
        debug_assert_eq!(position.entry, entry, "the handle hands out the ids that are due");
        metrics::appended(bytes.len());
        self.flight.push(bytes, position.cumulative_length, permit, done);
        self.carry_out(effects);
    }

    /// A position that had nothing to do until now is timed from now on: no tick looked at it while the ledger was idle.
    fn start_watch(&mut self) {
        let now = Instant::now();
        for (position, watchdog) in self.core.positions().iter().zip(&mut self.watchdogs) {
            if position.acked >= self.core.lap() {
                watchdog.acked = position.acked;
                watchdog.moved_at = now;
            }
        }
    }

    fn on_answer(&mut self, (index, ask, answer): Answer) {
        let member = self.core.positions()[index].member.clone();
        let event = match (ask, answer) {
            (Ask::Lac, _) => return,
            (Ask::Hello, Ok(reply)) => Event::from_hello(member, &reply),
            (Ask::Add, Ok(reply)) => self.added(index, member, &reply),
            (Ask::Hello | Ask::Add, Err(_)) => Event::Disconnected { member },
        };
        let acked = self.core.positions()[index].acked;
        let watchdog = &mut self.watchdogs[index];
        match &event {
            Event::Opened { .. } => {
                watchdog.away_since = None;
                if !watchdog.refuses {
                    watchdog.attempts = 0;
                    watchdog.moved_at = Instant::now();
                }
            }
            Event::Acked { durable_tail, .. } if *durable_tail > acked => {
                watchdog.refuses = false;
                watchdog.attempts = 0;
            }
            Event::Verdict => {
                tracing::info!(ledger = %self.setup.meta.id, position = index, "writer was deposed")
            }
            Event::Disconnected { .. }
                if ask == Ask::Add && self.core.positions()[index].link != Link::Live =>
            {
                // One broken connection ends many adds; the first has asked for another `Hello`.
                return;
            }
            _ => {}
        }
        let effects = self.core.step(event);
        self.carry_out(effects);
    }

    /// What an answered add means. A disk that takes no new data is given up at once where others suffice (2.5): it
    /// would only say so again.
    fn added(&mut self, index: usize, member: Member, reply: &WriteReply) -> Event {
        let event = Event::from_add(member, reply);
        if let Event::Disconnected { member } = &event
            && self.core.positions()[index].link == Link::Live
        {
            let ledger = self.setup.meta.id;
            tracing::debug!(%ledger, %member, code = ?reply.code, detail = reply.detail, "member took no entries");
            self.watchdogs[index].refuses = true;
            if reply.code == Code::ReadOnly {
                let effects = self.core.step(Event::GiveUp { member: member.clone() });
                self.carry_out(effects);
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
                    self.close_when_drained();
                }
                Effect::Release(upto) => self.flight.release(upto),
                Effect::CommitClose(last) => self.commit_close(last),
                Effect::Fail(outcome) => self.flight.fail(outcome),
                Effect::LeftOut(index) => {
                    let member = &self.core.positions()[index].member;
                    tracing::warn!(ledger = %self.setup.meta.id, %member, "member is left out of the ledger");
                    metrics::left_out();
                }
                // The health that is reported below says so, and says it once.
                Effect::QuorumLost => {}
            }
        }
        self.report_health();
    }

    fn report_health(&self) {
        let positions = self.core.positions();
        let takes = |(p, w): &(&Place, &Watchdog)| p.link == Link::Live && !w.refuses;
        let taking = positions.iter().zip(&self.watchdogs).filter(takes).count();
        let absent = positions.iter().any(|p| p.link == Link::Absent);
        let qa = usize::from(self.setup.meta.qa);
        let health = match self.core.phase() {
            Phase::Dead => Health::Dead,
            // A connection that is being made is not yet a loss: the watchdog decides.
            _ if taking < qa && self.away_too_long() => Health::QuorumLost,
            _ if absent => Health::Degraded,
            _ => Health::Healthy,
        };
        if self.health.send_if_modified(|now| std::mem::replace(now, health) != health) {
            tracing::info!(ledger = %self.setup.meta.id, ?health, "ledger health changed");
        }
    }

    fn away_too_long(&self) -> bool {
        let grace = self.setup.config.reconnect_grace;
        self.core.positions().iter().zip(&self.watchdogs).any(|(p, w)| {
            let since = if w.refuses { Some(w.moved_at) } else { w.away_since };
            p.link == Link::Absent || since.is_some_and(|since| since.elapsed() >= grace)
        })
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
            (index, Ask::Hello, call(&*bookies, &member, request, timeout).await)
        };
        self.answers.push(answer.boxed());
    }

    fn request(&self, index: usize, op: WriteOp) -> WriteRequest {
        let meta = &self.setup.meta;
        let scope = Scope {
            cluster: self.setup.cluster,
            ledger: meta.id,
            fragment_first: meta.last_fragment().first_entry,
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
            let member = self.core.positions()[index].member.clone();
            for (first, entries) in self.flight.chunks(first, last, self.setup.config.add_bytes) {
                let request = self.request(index, WriteOp::Add { first, entries, lac });
                self.send(index, &member, Ask::Add, request);
            }
            self.sent_at = Instant::now();
            self.told_lac = lac;
        }
    }

    fn send(&mut self, index: usize, member: &Member, ask: Ask, request: WriteRequest) {
        let answer = match self.setup.bookies.connection(&member.bookie) {
            Ok(connection) => {
                connection.write(request).map(move |reply| (index, ask, reply)).boxed()
            }
            Err(lost) => std::future::ready((index, ask, Err(lost))).boxed(),
        };
        self.answers.push(answer);
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        self.tell_lac(now);
        for index in 0..self.watchdogs.len() {
            if self.is_overdue(index, now) {
                let member = self.core.positions()[index].member.clone();
                let effects = self.core.step(Event::GiveUp { member });
                self.carry_out(effects);
            }
        }
        self.report_health();
        self.close_when_drained();
    }

    /// LAC travels with entries; when there are none it is told on its own (2.4).
    fn tell_lac(&mut self, now: Instant) {
        let lac = self.core.lac();
        if lac == self.told_lac || now - self.sent_at < self.setup.config.idle_lac {
            return;
        }
        self.told_lac = lac;
        for index in 0..self.watchdogs.len() {
            if self.core.positions()[index].link == Link::Live {
                let member = self.core.positions()[index].member.clone();
                let request = self.request(index, WriteOp::AdvanceLac(lac));
                self.send(index, &member, Ask::Lac, request);
            }
        }
    }

    /// Away beyond the grace, or answering and not moving, by itself or behind the others (2.6).
    fn is_overdue(&mut self, index: usize, now: Instant) -> bool {
        let config = &self.setup.config;
        let position = &self.core.positions()[index];
        let watchdog = &mut self.watchdogs[index];
        if position.link == Link::Absent {
            return false;
        }
        if position.acked > watchdog.acked || position.acked >= self.core.lap() {
            watchdog.acked = position.acked;
            watchdog.moved_at = now;
        }
        if let Some(since) = watchdog.away_since
            && !watchdog.refuses
        {
            return now - since >= config.reconnect_grace;
        }
        let limit =
            if position.acked < self.core.lac() { config.lag_limit } else { config.add_timeout };
        now - watchdog.moved_at >= limit
    }

    fn close_when_drained(&mut self) {
        let Some((deadline, _)) = &self.draining else { return };
        let drained = self.core.lac() == self.core.lap();
        if (drained || Instant::now() >= *deadline) && self.core.phase() == Phase::Running {
            let effects = self.core.step(Event::Close);
            self.carry_out(effects);
        }
    }

    fn commit_close(&mut self, last: EntryId) {
        let Some((_, close)) = self.draining.take() else { return };
        let plan = ClosePlan {
            meta: self.setup.meta.clone(),
            version: self.setup.version,
            last,
            totals: self.flight.confirmed(),
            op: self.setup.random.next_u128(),
        };
        let with = (close.with)(&plan.closed(&self.setup.meta));
        let store = Arc::clone(&self.setup.store);
        let commit = async move { plan.commit(&*store, &with).await }.boxed();
        self.closing = Some((commit, close.done));
    }

    fn on_closed(&mut self, result: Result<LedgerMeta, CloseError>) {
        let Some((_, done)) = self.closing.take() else { return };
        let event = if result.is_ok() { Event::CloseCommitted } else { Event::CloseLost };
        let effects = self.core.step(event);
        self.carry_out(effects);
        if let Ok(closed) = &result {
            self.tell_closed(closed);
        }
        let _gone = done.send(result);
    }

    /// Best effort: lets bookies finish the ledger.
    fn tell_closed(&mut self, closed: &LedgerMeta) {
        let Some(last) = closed.last_entry else { return };
        for index in 0..self.watchdogs.len() {
            if self.core.positions()[index].link == Link::Live {
                let member = self.core.positions()[index].member.clone();
                let request = self.request(index, WriteOp::Closed(last));
                self.send(index, &member, Ask::Lac, request);
            }
        }
    }
}

fn refuse(command: Command) {
    match command {
        Command::Append(append) => {
            let _gone = append.done.send(crate::core::writer::Outcome::NotWritten);
        }
        Command::Close(close) => {
            let _gone = close.done.send(Err(CloseError::Lost));
        }
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
