//! The topic partitions that this broker owns. Each is opened on first use and closed when its assignment, its topic or
//! this broker's registration goes; a table of lives, one task each ([`life`]). Every request goes through here.
//!
//! * One opening at a time: whoever comes while a partition is opening waits for it; a failed one is answered from memory
//!   until its backoff has passed. A next life begins when the one before has ended.
//! * What is assigned here is read from the watched view, which may lag: taking over checks it against the store and seals
//!   what is open, so a wrong view costs time and never data (DESIGN 1).

mod gate;
mod handle;
mod handover;
mod life;
mod slot;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use geminga_metastore::{LeaseId, MetaStore};
use geminga_proto::ids::{Offset, PartitionIndex, Term, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::requests::Requests;
use geminga_runtime::{Tasks, WallClock};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use gate::Gate;
pub(super) use handle::Handle;
use life::Life;
use slot::{Phase, Slot};

use super::log::LogParts;
use super::looks::Looks;
use super::mutation::Mutations;
use super::produce::{LARGEST_COST, Opening};
use super::producers::Budget;
use super::task::Closing;
use super::{fetch, metrics, offsets, retention, size};
use crate::ownership::load::Carried;
use crate::ownership::registration::{Registration, Standing};
use crate::ownership::topology::{Topic, Topology};
use crate::router::{
    ActiveProducer, Appender, FoundOffset, LocalPartitions, OffsetAt, OpenOffsets, Read, ReadSpec,
    Router, check_partition, no_owner, not_owner,
};
use crate::topics::quorum::Quorum;

/// How long a request waits for a partition to open.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// How long what is on its way may take when a partition moves. The new owner seals the log, so nothing wrong is
/// acknowledged meanwhile; without it every move would leave unknown outcomes.
const MOVE_GRACE: Duration = Duration::from_secs(1);
/// Partitions that were not used for so long are closed when others need their place.
const QUIET: Duration = Duration::from_secs(60);
/// So many of them at a time.
const CLOSED_AT_ONCE: usize = 64;
/// How much longer than its deadline an end may take.
const END_SLACK: Duration = Duration::from_secs(1);

/// What an operator may tune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most partitions that are open at one time; beyond it those that nobody uses make room. Default 20,000.
    pub max_open: usize,
    /// Most partitions that are taken over at one time; those that most requests wait for go first. Default 64.
    pub max_opening: usize,
    /// Most bytes of batches accepted and not answered, for each partition. Default 32 MiB, minimum one batch.
    pub partition_queue_bytes: usize,
    /// The same for all partitions together. Default 512 MiB, minimum one batch.
    pub queue_bytes: usize,
    /// How often it is looked for records that a topic's retention gives up. Default 1 min.
    pub retention_interval: Duration,
    /// A batch that is not acknowledged by then is answered with an unknown outcome. Default 30 s, as Kafka's clients
    /// wait.
    pub answer_wait: Duration,
    /// An idempotent producer that appends nothing to a partition for so long is forgotten there, as with Kafka's
    /// `producer.id.expiration.ms`. A partition that moves counts from then on. Default 1 day.
    pub producer_expiry: Duration,
    /// Most idempotent producers that all partitions together remember, about half a KiB each; beyond it new ones are refused where
    /// nobody was silent for five minutes. Default 500,000.
    pub max_producers: usize,
    /// Whether batches are decompressed to look at every record as Kafka does, which costs what decompressing costs. Default: no, but
    /// where a topic asks for keys or has bounds of its own for times.
    pub strict_records: bool,
    /// Bytes that compressed batches may take while records in them are looked at, half of it for one before it is taken and half for one in
    /// the log, each of which may decompress to half of that; 2 MiB at least and 64 MiB at most. Default 64 MiB.
    pub looks_bytes: usize,
    /// None but in tests.
    pub(super) mutations: Mutations,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_open: 20_000,
            max_opening: 64,
            partition_queue_bytes: 32 * 1024 * 1024,
            queue_bytes: 512 * 1024 * 1024,
            retention_interval: Duration::from_secs(60),
            answer_wait: Duration::from_secs(30),
            producer_expiry: Duration::from_secs(24 * 3600),
            max_producers: 500_000,
            strict_records: false,
            looks_bytes: 64 * 1024 * 1024,
            mutations: Mutations::default(),
        }
    }
}

/// What the partitions of a broker are made from.
#[derive(Debug, Clone)]
pub struct PartitionsParts {
    /// What their logs are made from.
    pub log: LogParts,
    /// Who owns what.
    pub topology: Topology,
    /// This broker.
    pub registration: Registration,
    /// Reaches the brokers that partitions are taken over from; `None`: they are not asked to let go first.
    pub router: Option<Router>,
    /// Of topics that do not say.
    pub default_quorum: Quorum,
    /// Dates records and what idempotent producers append, and says how old they are.
    pub clock: Arc<dyn WallClock>,
    /// Says which appends are slow.
    pub requests: Requests,
    /// Where their tasks run. Cancelling ends all at once; [`Partitions::shutdown`] before lets them drain.
    pub tasks: Tasks,
    /// Limits.
    pub config: Config,
}

type Key = (TopicId, PartitionIndex);

/// The partitions of this broker; cheap to clone.
#[derive(Clone)]
pub struct Partitions(Arc<Shared>);

struct Shared {
    log: LogParts,
    topology: Topology,
    registration: Registration,
    router: Option<Router>,
    default_quorum: Quorum,
    clock: Arc<dyn WallClock>,
    requests: Requests,
    tasks: Tasks,
    config: Config,
    /// Bytes accepted and not answered, of all partitions.
    room: Arc<Semaphore>,
    /// For looks into batches of all partitions.
    looks: Looks,
    /// Idempotent producers that are remembered, of all partitions.
    producers: Budget,
    /// Takeovers.
    gate: Gate,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    slots: HashMap<Key, Slot>,
    openings: u64,
    draining: bool,
}

impl Table {
    fn open(&mut self, key: Key, topic: &Arc<Topic>, term: Term) -> &Slot {
        self.openings += 1;
        let slot = Slot::new(Opening(self.openings), topic, term);
        let more = usize::from(!self.slots.contains_key(&key));
        metrics::observe_open(self.slots.len() + more);
        self.slots.entry(key).insert_entry(slot).into_mut()
    }

    fn make_room(&mut self, max_open: usize, now: Instant) -> Result<(), ApiError> {
        if self.slots.len() >= max_open {
            self.slots.retain(|_, slot| !slot.is_over(now));
        }
        if self.slots.len() < max_open {
            return Ok(());
        }
        if self.close_quiet(now) > 0 {
            let why = "partitions that nobody uses are closed to make room: try again";
            return Err(ApiError::new(Reason::NotReady, why));
        }
        let why = format!("this broker has {max_open} partitions open, its limit: add a broker");
        Err(ApiError::new(Reason::Overloaded, why))
    }

    /// Closes the partitions that were not used for longest, or waits for those that are closing; how many.
    fn close_quiet(&self, now: Instant) -> usize {
        let closing = |slot: &&Slot| matches!(*slot.phase.borrow(), Phase::Closing(_));
        let closing = self.slots.values().filter(closing).count();
        if closing > 0 {
            return closing;
        }
        let since = |(key, slot): (&Key, &Slot)| Some((slot.quiet_since()?, *key));
        let mut quiet: Vec<(Instant, Key)> = self.slots.iter().filter_map(since).collect();
        quiet.retain(|(since, _)| now.saturating_duration_since(*since) >= QUIET);
        quiet.sort_unstable_by_key(|(since, _)| *since);
        quiet.truncate(CLOSED_AT_ONCE);
        for (_, key) in &quiet {
            let slot = &self.slots[key];
            let why =
                format!("partition {} of {} made room for others: try again", key.1, slot.name);
            slot.close(moved(ApiError::new(Reason::NotReady, why)));
        }
        quiet.len()
    }
}

impl fmt::Debug for Partitions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.table.lock();
        f.debug_struct("Partitions")
            .field("slots", &table.slots.len())
            .field("draining", &table.draining)
            .finish_non_exhaustive()
    }
}

impl Partitions {
    /// Starts without any open partition and follows ownership until `tasks` stops.
    pub fn start(parts: PartitionsParts) -> Self {
        let PartitionsParts {
            log,
            topology,
            registration,
            router,
            default_quorum,
            clock,
            requests,
            tasks,
            mut config,
        } = parts;
        // Below the largest batch it could never be sent.
        config.partition_queue_bytes = config.partition_queue_bytes.max(LARGEST_COST);
        let room = Arc::new(Semaphore::new(config.queue_bytes.max(LARGEST_COST)));
        let producers = Budget::new(config.max_producers);
        let looks = Looks::new(config.looks_bytes);
        let gate = Gate::new(config.max_opening);
        let table = Mutex::default();
        let partitions = Self(Arc::new(Shared {
            log,
            topology,
            registration,
            router,
            default_quorum,
            clock,
            requests: requests.apart(),
            tasks,
            config,
            room,
            looks,
            producers,
            gate,
            table,
        }));
        let (follower, cancelled) = (partitions.clone(), partitions.0.tasks.cancelled());
        partitions.0.tasks.spawn("partition ownership", async move {
            tokio::select! {
                () = cancelled => {}
                () = follower.follow() => {}
            }
        });
        let keeper = partitions.clone();
        let (every, cancelled) = (keeper.0.config.retention_interval, keeper.0.tasks.cancelled());
        partitions.0.tasks.spawn("retention", async move {
            tokio::select! {
                () = cancelled => {}
                () = retention::task::run(keeper, every) => {}
            }
        });
        partitions
    }

    /// Topic partitions that are assigned to this broker, as far as it knows.
    pub(super) fn owned(&self) -> Vec<(TopicId, PartitionIndex)> {
        if !self.0.registration.is_registered() {
            return Vec::new();
        }
        let owned = self.0.topology.owned_by(self.0.registration.id());
        owned.into_iter().map(|(topic, partition, _)| (topic, partition)).collect()
    }

    /// A topic of records; statelogs look after themselves.
    pub(super) fn topic(&self, topic: TopicId) -> Option<Arc<Topic>> {
        self.0.topology.topic_by_id(topic).filter(|topic| !topic.is_internal())
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    /// The newest date that anybody else noted and that speaks for or against this machine's clock, milliseconds since the Unix epoch:
    /// when topics were made, and other brokers began.
    pub(super) fn known_ms(&self) -> Option<i64> {
        let (topology, me) = (&self.0.topology, self.0.registration.id());
        // Internal topics have no date.
        let topics = topology.topics().into_iter().filter(|topic| !topic.is_internal());
        let topics = topics.map(|topic| topic.created_ms);
        let others = topology.brokers().into_iter().filter(|broker| broker.id != me);
        let started = others.map(|broker| broker.started_ms);
        retention::dating::witness(self.now_ms(), topics, started)
    }

    /// What logs are made from.
    pub(super) fn log(&self) -> &LogParts {
        &self.0.log
    }

    pub(super) fn store(&self) -> &dyn MetaStore {
        &*self.0.log.store
    }

    /// Bytes that compressed batches may take now, since records in them are looked at.
    pub(crate) fn looks_bytes(&self) -> usize {
        self.0.looks.used()
    }

    /// Whether a partition is open here.
    pub fn is_open(&self, topic: TopicId, partition: PartitionIndex) -> bool {
        self.open_now((topic, partition)).is_some()
    }

    /// Stops taking batches, waits for at most `drain` until what was accepted is acknowledged, and closes everything. Reads
    /// end as well. Nothing is opened any more.
    pub async fn shutdown(&self, drain: Duration) {
        let deadline = Instant::now() + drain;
        let closing = Closing { error: shutting_down(), drain: true, deadline };
        let ending: Vec<_> = {
            let mut table = self.0.table.lock();
            table.draining = true;
            let close = |slot: &Slot| {
                slot.close(closing.clone());
                slot.phase.subscribe()
            };
            table.slots.values().map(close).collect()
        };
        let all = futures::future::join_all(ending.into_iter().map(ended));
        if tokio::time::timeout_at(deadline + END_SLACK, all).await.is_err() {
            tracing::warn!("partitions were still closing at the deadline of the shutdown");
        }
    }

    pub(super) fn open_now(&self, key: Key) -> Option<Arc<Handle>> {
        let table = self.0.table.lock();
        match &*table.slots.get(&key)?.phase.borrow() {
            Phase::Open(handle) => Some(Arc::clone(handle)),
            Phase::Opening | Phase::Closing(_) | Phase::Ended(_) | Phase::Failed { .. } => None,
        }
    }

    /// The open partition; opens it when need be. Cancel-safe: an opening goes on for the next one who asks.
    pub(super) async fn open(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<Arc<Handle>, ApiError> {
        check_partition(topic, partition.0)?;
        let open = async {
            loop {
                let mut phase = self.slot(topic, partition)?;
                let seen = phase.wait_for(|phase| !matches!(phase, Phase::Opening)).await;
                match seen.map(|phase| phase.clone()) {
                    Ok(Phase::Open(handle)) => {
                        handle.touch();
                        return Ok(handle);
                    }
                    Ok(Phase::Failed { error, .. }) => return Err(error),
                    Ok(Phase::Opening | Phase::Closing(_) | Phase::Ended(_)) | Err(_) => {
                        ended(phase).await;
                    }
                }
            }
        };
        tokio::time::timeout(OPEN_WAIT, open).await.unwrap_or_else(|_| {
            let why = format!("partition {partition} of {} is being opened: try again", topic.name);
            Err(ApiError::new(Reason::NotReady, why))
        })
    }

    /// The life that serves a partition, or a new one.
    fn slot(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<watch::Receiver<Phase>, ApiError> {
        let key = (topic.id, partition);
        let term = self.assigned(key, &topic.name)?;
        let now = Instant::now();
        let (life, phase) = {
            let mut table = self.0.table.lock();
            if table.draining {
                return Err(shutting_down());
            }
            let failures = match table.slots.get(&key) {
                None => {
                    table.make_room(self.0.config.max_open, now)?;
                    0
                }
                Some(slot) if slot.is_over(now) => slot.failures(),
                // What failed under an earlier term says nothing about this one.
                Some(slot) if slot.term < term && slot.failures() > 0 => 0,
                Some(slot) => {
                    if slot.term < term {
                        slot.close(moved(reopening(&topic.name, partition)));
                    }
                    slot.demand.fetch_add(1, Ordering::Relaxed);
                    return Ok(slot.phase.subscribe());
                }
            };
            // As it is now: what is altered from here on `review` passes on.
            let now = self.0.topology.topic_by_id(topic.id);
            let topic = &now.unwrap_or_else(|| Arc::clone(topic));
            let slot = table.open(key, topic, term);
            let life = Life {
                partitions: self.clone(),
                key,
                topic: Arc::clone(topic),
                altered: Arc::clone(&slot.topic),
                term,
                opening: slot.opening,
                failures,
                demand: Arc::clone(&slot.demand),
                phase: Arc::clone(&slot.phase),
                close: Arc::clone(&slot.close),
            };
            (life, slot.phase.subscribe())
        };
        // Without the lock, which a life takes at its end: a runtime that shuts down ends it at once.
        self.0.tasks.spawn("partition", life.run());
        Ok(phase)
    }

    /// The term under which a partition is this broker's, as far as it knows.
    fn assigned(&self, (topic, partition): Key, name: &str) -> Result<Term, ApiError> {
        if self.0.topology.topic_by_id(topic).is_none() {
            let why = format!("topic {name} was deleted: create it again");
            return Err(ApiError::new(Reason::UnknownTopic, why));
        }
        let Some(owner) = self.0.topology.owner(topic, partition) else {
            return Err(no_owner(name, partition));
        };
        if owner.broker != self.0.registration.id() {
            return Err(match owner.address {
                Some(address) => not_owner(name, partition, address),
                None => no_owner(name, partition),
            });
        }
        if !self.0.registration.is_registered() {
            return Err(no_owner(name, partition));
        }
        Ok(owner.term)
    }

    /// Called by a life at its end. What failed stays until its backoff has passed and it is asked for, or goes.
    fn forget_ended(&self, key: Key, opening: Opening) {
        let mut table = self.0.table.lock();
        let over = |slot: &Slot| slot.opening == opening && slot.failures() == 0;
        if table.slots.get(&key).is_some_and(over) {
            table.slots.remove(&key);
        }
        metrics::observe_open(table.slots.len());
    }

    async fn follow(&self) {
        let mut topology = self.0.topology.changed();
        let mut standing = self.0.registration.watch();
        let mut lease = lease_of(*standing.borrow_and_update());
        loop {
            let changed = tokio::select! {
                changed = topology.changed() => changed,
                changed = standing.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            let now = lease_of(*standing.borrow_and_update());
            // Another lease: the registration was gone in between (see `Registration::watch`).
            let interrupted = now.is_none() || now != lease;
            lease = now;
            self.review(interrupted);
        }
    }

    /// Closes what is not this broker's any more.
    fn review(&self, interrupted: bool) {
        let mut table = self.0.table.lock();
        table.slots.retain(|key, slot| {
            let assigned = self.assigned(*key, &slot.name);
            let why = match assigned {
                Err(error) => error,
                Ok(_) if interrupted => no_owner(&slot.name, key.1),
                Ok(term) if term > slot.term => reopening(&slot.name, key.1),
                Ok(_) => {
                    if let Some(topic) = self.0.topology.topic_by_id(key.0) {
                        slot.follow(topic);
                    }
                    return true;
                }
            };
            slot.close(moved(why));
            slot.failures() == 0
        });
    }
}

#[async_trait]
impl LocalPartitions for Partitions {
    fn open_offsets(&self, topic: TopicId, partition: PartitionIndex) -> Option<OpenOffsets> {
        let ends = self.open_now((topic, partition))?.reader.ends();
        Some(OpenOffsets { log_start: ends.log_start, high_watermark: ends.high_watermark })
    }

    fn known_bytes(&self, topic: TopicId, partition: PartitionIndex) -> Option<u64> {
        self.open_now((topic, partition))?.reader.known_bytes()
    }

    fn end(&self, topic: TopicId, partition: PartitionIndex) -> Option<watch::Receiver<Offset>> {
        Some(self.open_now((topic, partition))?.reader.watch())
    }

    async fn find_offset(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError> {
        let handle = self.open(&topic, partition).await?;
        offsets::find(&handle, at).await
    }

    async fn delete_records(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        let handle = self.open(&topic, partition).await?;
        offsets::delete_before(&handle, before).await
    }

    async fn end_of_term(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError> {
        let handle = self.open(&topic, partition).await?;
        handle.reader.end_of_term(term).await.map_err(|error| fetch::read_error(&error))
    }

    async fn size(&self, topic: TopicId, partition: PartitionIndex) -> Result<u64, ApiError> {
        let open = self.open_now((topic, partition));
        Ok(size::of(self.store(), open.as_deref(), topic, partition).await?)
    }

    async fn producers(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<Vec<ActiveProducer>, ApiError> {
        self.open(&topic, partition).await?.producers().await
    }

    async fn read(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError> {
        let reading = async {
            let handle = self.open(&topic, partition).await?;
            let read = fetch::read(&handle, spec).await?;
            Ok((handle, read))
        };
        let read: Result<_, ApiError> = reading.await;
        let (handle, read) = read.inspect_err(|error| metrics::count_failed_fetch(error.reason))?;
        handle.carry(read.batches.iter().map(Bytes::len).sum());
        Ok(read)
    }

    async fn appender(
        &self,
        topic: Arc<Topic>,
        partition: PartitionIndex,
    ) -> Result<Arc<dyn Appender>, ApiError> {
        Ok(self.open(&topic, partition).await?)
    }
}

impl Carried for Partitions {
    fn carried(&self) -> Vec<(Key, u64)> {
        let open = |(key, slot): (&Key, &Slot)| match &*slot.phase.borrow() {
            Phase::Open(handle) => Some((*key, handle.carried())),
            Phase::Opening | Phase::Closing(_) | Phase::Ended(_) | Phase::Failed { .. } => None,
        };
        self.0.table.lock().slots.iter().filter_map(open).collect()
    }
}

/// Resolves when a life is over. Cancel-safe.
async fn ended(mut phase: watch::Receiver<Phase>) {
    let over = |phase: &Phase| matches!(phase, Phase::Ended(_) | Phase::Failed { .. });
    // The sender goes after the end only.
    let _over = phase.wait_for(over).await.is_err();
}

fn moved(error: ApiError) -> Closing {
    Closing { error, drain: false, deadline: Instant::now() + MOVE_GRACE }
}

fn reopening(topic: &str, partition: PartitionIndex) -> ApiError {
    let why = format!("partition {partition} of {topic} begins a new term: try again");
    ApiError::new(Reason::NotReady, why)
}

fn shutting_down() -> ApiError {
    ApiError::new(Reason::ShuttingDown, "the broker is shutting down: ask another one")
}

fn lease_of(standing: Standing) -> Option<LeaseId> {
    match standing {
        Standing::Registered { lease } => Some(lease),
        Standing::Lost | Standing::Left => None,
    }
}

#[cfg(test)]
mod tests;
