//! The task that owns one shard: it feeds the log to the machine and the machine to the log, and nothing else. One
//! opening of the log is one life of this task; when the log is lost, all state and every waiting answer is dropped.
//!
//! ```text
//!   mailbox ──► machine.request ──► commands ──► log.append
//!                      └─► held answers ─► gate ◄── Acked ── log.event
//!                                           └─► machine.apply, then machine.release
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use geminga_proto::ids::PartitionIndex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::clock::Clock;
use super::gate::Gate;
use super::log::{Append, Closed, Event, Log, Lost, OpenError, Opened, Replay};
use super::machine::{Machine, Output};

/// Requests taken from the mailbox at once.
const BATCH: usize = 256;

/// Why a shard stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// Its log is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
    /// It could not be replayed.
    #[error(transparent)]
    Replay(#[from] OpenError),
    /// Nobody can ask it anything any more: the shard was given up.
    #[error("the shard was given up")]
    Released,
}

/// A shard that is being served.
pub struct Shard<M: Machine> {
    machine: M,
    log: Box<dyn Log>,
    gate: Gate<M::Held>,
    /// Appended and not acknowledged: what to apply when it is.
    unapplied: VecDeque<(u64, Bytes)>,
    mailbox: mpsc::Receiver<M::Request>,
    /// Taken from the mailbox, not yet handled.
    inbox: VecDeque<M::Request>,
    world: watch::Receiver<u64>,
    start: Instant,
    clock: Clock,
    shard: PartitionIndex,
}

impl<M: Machine> Shard<M> {
    /// Replays the log into `machine`. `world` ticks when something changed that the machine looks at.
    ///
    /// # Errors
    /// [`Ended::Replay`].
    pub async fn load(
        shard: PartitionIndex,
        mut machine: M,
        opened: Opened,
        mailbox: mpsc::Receiver<M::Request>,
        world: watch::Receiver<u64>,
    ) -> Result<Self, Ended> {
        let start = Instant::now();
        let Opened { term, mut replay, log } = opened;
        let (mut parts, mut commands) = (0u64, 0u64);
        while let Some(step) = replay.next().await {
            let taken = match step? {
                Replay::SnapshotPart(part) => {
                    parts += 1;
                    machine.load(&part)
                }
                Replay::Command(command) => {
                    commands += 1;
                    machine.apply(&command)
                }
            };
            taken.map_err(|damaged| OpenError::Damaged { shard, what: damaged.0 })?;
        }
        tracing::info!(%shard, %term, parts, commands, took_ms = start.elapsed().as_millis(), "statelog replayed");
        let (gate, unapplied, inbox) = (Gate::default(), VecDeque::new(), VecDeque::new());
        let clock = Clock::default();
        let mut shard =
            Self { machine, log, gate, unapplied, mailbox, inbox, world, start, clock, shard };
        let now_ms = shard.now_ms();
        shard.machine.replayed(now_ms);
        Ok(shard)
    }

    /// Serves until the log is lost or the shard is given up.
    pub async fn run(mut self) -> Ended {
        loop {
            let Err(ended) = self.turn().await else { continue };
            tracing::info!(shard = %self.shard, reason = %ended, "statelog stopped");
            return ended;
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        self.now_ms();
        let deadline = self.machine.next_deadline().and_then(|at| self.clock.outside(at));
        let deadline = deadline.map(|at| self.start + Duration::from_millis(at));
        let has_room = self.gate.has_room(M::MAX_STEP_BYTES);
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            event = self.log.event() => self.on_event(event)?,
            () = until(deadline), if has_room => self.on_tick()?,
            changed = self.world.changed() => match changed {
                Ok(()) => {
                    let now_ms = self.now_ms();
                    self.machine.world_changed(now_ms);
                }
                Err(_) => return Err(Ended::Lost(Lost::Stopping)),
            },
            taken = self.mailbox.recv_many(&mut batch, BATCH), if has_room && self.inbox.is_empty() => {
                if taken == 0 {
                    return Err(Ended::Released);
                }
                self.inbox.extend(batch);
            },
        }
        self.work_off()?;
        Ok(())
    }

    /// Handles what was taken from the mailbox while there is room. All of it arrived before anything that is
    /// appended here, so one entry at the end serves it all.
    fn work_off(&mut self) -> Result<(), Ended> {
        let mut out = Output::default();
        let mut appended = false;
        while self.gate.has_room(M::MAX_STEP_BYTES) {
            let Some(request) = self.inbox.pop_front() else { break };
            let now_ms = self.now_ms();
            self.machine.request(now_ms, request, &mut out);
            appended |= self.put(&mut out)?;
        }
        self.serve(appended)
    }

    /// What lies in the mailbox comes first: it was said before the time was up, however late this tick is.
    fn on_tick(&mut self) -> Result<(), Ended> {
        while self.inbox.len() < BATCH {
            let Ok(request) = self.mailbox.try_recv() else { break };
            self.inbox.push_back(request);
        }
        self.work_off()?;
        if !self.inbox.is_empty() || !self.gate.has_room(M::MAX_STEP_BYTES) {
            return Ok(());
        }
        let mut out = Output::default();
        let now_ms = self.now_ms();
        self.machine.tick(now_ms, &mut out);
        let appended = self.put(&mut out)?;
        self.serve(appended)
    }

    /// Appends the commands of a step, then holds its answers: they leave after all of them.
    fn put(&mut self, out: &mut Output<M::Held>) -> Result<bool, Ended> {
        let appended = !out.commands.is_empty();
        for command in out.commands.drain(..) {
            let bytes = command.len();
            let number = self.append(Append::Command(command.clone()))?;
            self.gate.appended(number, bytes);
            self.unapplied.push_back((number, command));
        }
        for held in out.held.drain(..) {
            self.gate.hold(held);
        }
        Ok(appended)
    }

    fn serve(&mut self, appended: bool) -> Result<(), Ended> {
        if appended {
            self.gate.serve();
        } else if self.gate.wants_barrier() {
            let number = self.append(Append::Barrier)?;
            self.gate.barrier_appended(number);
        }
        Ok(())
    }

    fn append(&mut self, what: Append) -> Result<u64, Ended> {
        let closed = |Closed| Ended::Lost(Lost::Failed(Closed.to_string()));
        let number = self.log.append(what).map_err(closed)?;
        self.clock.appended(number, self.outside_ms());
        Ok(number)
    }

    fn on_event(&mut self, event: Event) -> Result<(), Ended> {
        match event {
            Event::Acked { through } => self.on_acked(through),
            Event::Snapshot(wanted) => {
                wanted.answer(self.machine.snapshot());
                Ok(())
            }
            Event::Lost(lost) => Err(lost.into()),
        }
    }

    fn on_acked(&mut self, through: u64) -> Result<(), Ended> {
        self.clock.acked(through, self.outside_ms());
        while let Some((_, command)) = self.unapplied.pop_front_if(|(number, _)| *number <= through)
        {
            let damaged = |damaged: super::machine::Damaged| OpenError::Damaged {
                shard: self.shard,
                what: damaged.0,
            };
            self.machine.apply(&command).map_err(damaged)?;
        }
        for held in self.gate.acked(through) {
            self.machine.release(held);
        }
        // Answers that came while a barrier was on its way wait for the next one.
        self.serve(false)
    }

    /// The machine's time.
    fn now_ms(&mut self) -> u64 {
        self.clock.now_ms(self.outside_ms())
    }

    fn outside_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
