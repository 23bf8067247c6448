//! The shards that this broker serves. One task per shard of the cluster waits until the shard is assigned to this broker,
//! opens it, replays it, serves it, and lets it go when it is assigned elsewhere; whatever ends it meanwhile, it is
//! opened again after a pause. Shards are opened when they are assigned, not when they are first asked, so that a
//! member finds its coordinator ready.
//!
//! ```text
//!   away ──assigned here──► opening ──replayed──► ready ──lost, failed──► opening (after a pause)
//!     ▲                        └──────────────────────┴──assigned elsewhere──┐
//!     └──────────────────────────────────────────────────────────────────────┘
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::ids::PartitionIndex;
use geminga_proto::murmur;
use geminga_proto::reason::ApiError;
use geminga_runtime::{Tasks, WallClock};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::limits;
use super::machine::{Config, Groups};
use super::metrics;
use super::refused::Refused;
use super::request::{Request, Respond};
use super::room::Room;
use super::view::{Owner, Placement, TopicView};
use crate::statelog::log::{Logs, OpenError};
use crate::statelog::shard::{Ended, Shard};

/// Requests that wait for one shard. Only commits are large; they are bounded by bytes as well.
const MAILBOX: usize = 256;
/// Bytes of large requests that one shard has accepted and not done with.
const ACCEPTED_BYTES: usize = 16 * limits::MAX_COMMIT_BYTES;
/// Bytes of large requests that wait until one shard accepts them.
const WAITING_BYTES: usize = ACCEPTED_BYTES;
/// Requests up to here do not count while they wait: they are a connection's own.
const SMALL_BYTES: usize = 4 * 1024;
/// Between attempts to open a shard: first, and doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A shard that is not ready this long after it was assigned here, or was lost, is not said to be loading any more: its clients
/// are to look for its coordinator again. Below the shortest session timeout of those who are told that all is well meanwhile,
/// so that nobody goes on working beside a coordinator that has given them up.
const LOADING: Duration = Duration::from_secs(5);
/// A request waits this long for a shard that is being taken over. Some clients tell their application of the second "not yet", or the
/// third, that comes at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// A shard that was served for this long starts again with the first pause.
const PROVEN: Duration = Duration::from_secs(10);

/// What the shards are built from.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Who owns which shard.
    pub placement: Arc<dyn Placement>,
    /// Opens shards.
    pub logs: Arc<dyn Logs>,
    /// Which topics exist.
    pub topics: Arc<dyn TopicView>,
    /// Dates commits.
    pub clock: Arc<dyn WallClock>,
    /// What an operator may tune.
    pub config: Config,
}

/// The shards as requests reach them; cheap to clone.
#[derive(Clone)]
pub struct Shards(Arc<Inner>);

struct Inner {
    parts: Parts,
    slots: Vec<Slot>,
}

struct Slot {
    state: watch::Sender<State>,
    /// Of commits until they are answered, of what classic members say until the shard has taken it in.
    bytes: Arc<Semaphore>,
    /// Of those that wait for that.
    waiting: Semaphore,
}

#[derive(Debug, Clone)]
enum State {
    /// Since when, where it is to be served here.
    Away(Option<Instant>),
    Ready(mpsc::Sender<Request>),
    Damaged(String),
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards")
            .field("shards", &self.0.slots.len())
            .field("ready", &self.ready())
            .finish()
    }
}

impl Shards {
    /// Serves whatever is assigned to this broker until `tasks` stops.
    pub fn start(parts: Parts, tasks: &Tasks) -> Self {
        let slot = |_| Slot {
            state: watch::Sender::new(State::Away(None)),
            bytes: Arc::new(Semaphore::new(ACCEPTED_BYTES)),
            waiting: Semaphore::new(WAITING_BYTES),
        };
        let slots = (0..parts.placement.shards()).map(slot).collect();
        let shards = Self(Arc::new(Inner { parts, slots }));
        for shard in 0..shards.0.parts.placement.shards() {
            let (keeper, cancelled) = (shards.clone(), tasks.cancelled());
            tasks.spawn("group shard", async move {
                tokio::select! {
                    () = cancelled => {}
                    () = Box::pin(keeper.keep(shard)) => {}
                }
                keeper.set(shard, State::Away(None));
            });
        }
        shards
    }

    /// The shard that holds a group.
    pub fn of(&self, group: &str) -> u32 {
        let shards = u32::try_from(self.0.slots.len()).unwrap_or(u32::MAX);
        murmur::bucket(group.as_bytes(), shards)
    }

    /// How many shards are being served here.
    pub fn ready(&self) -> usize {
        let ready = |slot: &&Slot| matches!(*slot.state.borrow(), State::Ready(_));
        self.0.slots.iter().filter(ready).count()
    }

    /// The placement that the shards follow.
    pub fn placement(&self) -> &Arc<dyn Placement> {
        &self.0.parts.placement
    }

    /// Asks a shard of this broker. `bytes`: of a commit, 0 for anything small. Waits while its mailbox is full. When
    /// dropped, the request may have been taken all the same.
    ///
    /// # Errors
    /// NOT_OWNER and NOT_READY say that nothing was done, UNKNOWN that the shard moved before it proved its answer;
    /// else the group's own.
    pub async fn ask<T>(
        &self,
        shard: u32,
        bytes: usize,
        request: impl FnOnce(Respond<T>) -> Request,
    ) -> Result<T, ApiError> {
        let asked = async {
            let _room = self.room(shard, bytes).await?;
            let answer = self.send(shard, request).await?;
            let answer = answer.await.map_err(|_| Refused::Moved)?;
            answer.map_err(Refused::from)
        };
        asked.await.map_err(|refused| refused.into_api(shard))
    }

    /// Room for a request that keeps so many bytes; waits for it. Nothing else counts a large one while it waits, so only so much
    /// may: beyond, it is refused. Cancel-safe.
    pub(super) async fn room(&self, shard: u32, bytes: usize) -> Result<Room, Refused> {
        let wanted = u32::try_from(bytes.min(ACCEPTED_BYTES)).unwrap_or(u32::MAX);
        let Slot { bytes: room, waiting, .. } = self.slot(shard)?;
        if let Ok(permit) = Arc::clone(room).try_acquire_many_owned(wanted) {
            return Ok(permit.into());
        }
        let counted = if bytes <= SMALL_BYTES { 0 } else { wanted };
        let _waiting = waiting.try_acquire_many(counted).map_err(|_| Refused::Busy)?;
        let permit = Arc::clone(room).acquire_many_owned(wanted).await;
        Ok(permit.map_err(|_| Refused::Loading)?.into())
    }

    /// Sends a request to a shard of this broker; waits while its mailbox is full, and a moment while it is being taken over. The
    /// answer is dropped when the shard moves before it has proved it.
    pub(super) async fn send<T>(
        &self,
        shard: u32,
        request: impl FnOnce(Respond<T>) -> Request,
    ) -> Result<oneshot::Receiver<Result<T, super::types::Error>>, Refused> {
        let mailbox = self.mailbox_in_time(shard).await?;
        let (respond, answer) = oneshot::channel();
        mailbox.send(request(respond)).await.map_err(|_| Refused::Loading)?;
        Ok(answer)
    }

    /// Sends what does no harm when it is lost: nothing when the shard is away or its mailbox full.
    pub(super) fn hint(&self, shard: u32, request: Request) {
        if let Ok(mailbox) = self.mailbox(shard) {
            let _lost = mailbox.try_send(request);
        }
    }

    fn slot(&self, shard: u32) -> Result<&Slot, Refused> {
        self.0.slots.get(shard as usize).ok_or(Refused::NoShard)
    }

    fn mailbox(&self, shard: u32) -> Result<mpsc::Sender<Request>, Refused> {
        let slot = self.slot(shard)?;
        match self.0.parts.placement.owner(shard) {
            Owner::Local => {}
            Owner::Nobody => return Err(Refused::Nobody),
            Owner::Remote { broker, address } => {
                return Err(Refused::NotCoordinator { broker, address });
            }
        }
        match &*slot.state.borrow() {
            State::Ready(mailbox) => Ok(mailbox.clone()),
            State::Away(since) if self.is_loading(*since) => Err(Refused::Loading),
            State::Away(_) => Err(Refused::Unproved),
            State::Damaged(why) => Err(Refused::Damaged(why.clone())),
        }
    }

    /// The same; a shard that is being taken over is waited for ([`PATIENCE`]). Cancel-safe.
    async fn mailbox_in_time(&self, shard: u32) -> Result<mpsc::Sender<Request>, Refused> {
        let mut state = self.slot(shard)?.state.subscribe();
        let taken_over = async {
            loop {
                state.mark_unchanged();
                let is_coming = matches!(*state.borrow(), State::Away(Some(_)));
                match self.mailbox(shard) {
                    Err(Refused::Loading) if is_coming && state.changed().await.is_ok() => {}
                    found => return found,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, taken_over).await;
        // Looked at again: it is loading no longer than its lease, and than may be said (S2).
        found.unwrap_or_else(|_| self.mailbox(shard))
    }

    /// Whether a shard that is away since then may be said to be loading: nothing proves that it is still this broker's, as the
    /// log does once it is ready, so this holds for a moment only, and not beyond the lease that it was assigned by (S2).
    fn is_loading(&self, since: Option<Instant>) -> bool {
        let recent = since.is_none_or(|since| since.elapsed() < LOADING);
        recent && self.0.parts.placement.is_leased()
    }

    /// Whether a shard that is assigned to this broker is being served, or will be in a moment.
    pub(super) fn is_coming(&self, shard: u32) -> bool {
        self.slot(shard).is_ok_and(|slot| match &*slot.state.borrow() {
            State::Ready(_) => true,
            State::Away(since) => self.is_loading(*since),
            State::Damaged(_) => false,
        })
    }

    /// It is not served any more, or not yet; what was so before stays so.
    fn set_away(&self, shard: u32) {
        let before = self.0.slots[shard as usize].state.borrow().clone();
        let since = match before {
            State::Away(Some(since)) => since,
            State::Away(None) | State::Ready(_) | State::Damaged(_) => Instant::now(),
        };
        self.set(shard, State::Away(Some(since)));
    }

    fn set(&self, shard: u32, state: State) {
        metrics::serving(shard, matches!(state, State::Ready(_)));
        self.0.slots[shard as usize].state.send_replace(state);
    }

    async fn keep(&self, shard: u32) {
        let mut changed = self.0.parts.placement.changed();
        let mut pause = FIRST_PAUSE;
        loop {
            if !owned(&*self.0.parts.placement, &mut changed, shard, true).await {
                return;
            }
            if matches!(*self.0.slots[shard as usize].state.borrow(), State::Away(None)) {
                self.set_away(shard);
            }
            let since = Instant::now();
            let gone = owned(&*self.0.parts.placement, &mut changed, shard, false);
            let ended = tokio::select! {
                biased;
                goes_on = gone => {
                    self.set(shard, State::Away(None));
                    if !goes_on {
                        return;
                    }
                    tracing::info!(shard, "group shard is coordinated elsewhere now");
                    continue;
                }
                ended = self.serve(shard) => ended,
            };
            self.on_ended(shard, &ended);
            if since.elapsed() >= PROVEN {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One opening of a shard, from its takeover to its end.
    async fn serve(&self, shard: u32) -> Ended {
        let index = PartitionIndex(shard);
        let parts = &self.0.parts;
        let opened = match parts.logs.open(index).await {
            Ok(opened) => opened,
            Err(error) => return error.into(),
        };
        let (mailbox, requests) = mpsc::channel(MAILBOX);
        let (topics, clock) = (Arc::clone(&parts.topics), Arc::clone(&parts.clock));
        let world = topics.changed();
        let machine = Groups::new(shard, parts.config, topics, clock);
        match Shard::load(index, machine, opened, requests, world).await {
            Ok(loaded) => {
                self.set(shard, State::Ready(mailbox));
                loaded.run().await
            }
            Err(ended) => ended,
        }
    }

    fn on_ended(&self, shard: u32, ended: &Ended) {
        let damaged = match ended {
            Ended::Replay(error @ OpenError::Damaged { .. }) => {
                tracing::error!(shard, %error, "group shard cannot be served");
                Some(error.to_string())
            }
            Ended::Replay(OpenError::NotOwner(_) | OpenError::Unavailable(_))
            | Ended::Lost(_)
            | Ended::Released => {
                tracing::warn!(shard, reason = %ended, "group shard is opened again");
                None
            }
        };
        match damaged {
            Some(why) => self.set(shard, State::Damaged(why)),
            None => self.set_away(shard),
        }
    }
}

/// Waits until this broker is, or is not, assigned `shard`; false when nobody will ever say. Cancel-safe.
async fn owned(
    placement: &dyn Placement,
    changed: &mut watch::Receiver<u64>,
    shard: u32,
    wanted: bool,
) -> bool {
    loop {
        changed.mark_unchanged();
        if (placement.owner(shard) == Owner::Local) == wanted {
            return true;
        }
        if changed.changed().await.is_err() {
            return false;
        }
    }
}

#[cfg(test)]
mod tests;
