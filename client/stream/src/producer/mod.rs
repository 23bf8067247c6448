//! The producer: records in, acknowledgements out. Senders put records into the shared [`core`] under a lock that is
//! never held across a wait; one task ([`task`]) moves elements and results between the core and its streams.
//!
//! Exactly once, in order: a record whose outcome is unknown is sent again under the same sequence number, which a partition
//! takes once ([`ProducerConfig::idempotence`]; without it, at least once). Records of one partition keep the order in
//! which they were sent. A record that is refused for good (too large, unknown topic) ends alone; later ones go on.

mod core;
mod partitioner;
mod task;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use geminga_proto::caps;
use geminga_records::{Compression, Record};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot, watch};
use tokio::time::Instant;

use self::core::{Core, Done, Rules, record_bytes};
use crate::client::Client;
use crate::error::Error;

pub use self::core::Ack;
pub(crate) use self::core::ProducerId;
pub use self::partitioner::{HashPartitioner, Partitioner, RoundRobinPartitioner};

/// What counts as done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Acks {
    /// On stable storage of the ack quorum.
    #[default]
    All,
    /// Sent. Records may be lost, and nobody is told.
    None,
}

/// Settings of a [`Producer`].
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// What counts as done. Default all.
    pub acks: Acks,
    /// How batches are compressed. Default not at all.
    pub compression: Compression,
    /// Most bytes of a batch before compression, unless one record alone is larger. Default 256 KiB, at most 16 MiB.
    pub batch_bytes: usize,
    /// How long a batch waits to become full. Default 5 ms.
    pub linger: Duration,
    /// Bytes of records that wait or are on their way; [`Producer::send`] waits for room. Default 32 MiB, at most 2 GiB.
    pub buffer_bytes: usize,
    /// Batches of one partition on their way at once, at least 1. Default 5, with idempotence at most 5: so many does a
    /// partition remember.
    pub in_flight: usize,
    /// Whether a partition takes each record once, however often it has to be sent; as Kafka's `enable.idempotence`. Default
    /// true. Has no effect with [`Acks::None`].
    pub idempotence: bool,
    /// How long a record is tried before it fails. Default 2 minutes.
    pub delivery_timeout: Duration,
    /// Chooses partitions. Default [`HashPartitioner`].
    pub partitioner: Arc<dyn Partitioner>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: Compression::None,
            batch_bytes: 256 * 1024,
            linger: Duration::from_millis(5),
            buffer_bytes: 32 * 1024 * 1024,
            in_flight: caps::PRODUCER_BATCHES,
            idempotence: true,
            delivery_timeout: Duration::from_secs(120),
            partitioner: Arc::new(HashPartitioner::default()),
        }
    }
}

/// A record to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `None`: the partitioner chooses.
    pub partition: Option<u32>,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says.
    pub value: Option<Bytes>,
    /// Names and values beside it.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch; `None` = now.
    pub timestamp_ms: Option<i64>,
}

impl Message {
    /// A value without a key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A value with a key: records of one key share a partition and keep their order.
    pub fn keyed(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::new(value) }
    }
}

/// Resolves when its record has ended. Dropping it does not take the record back.
#[derive(Debug)]
#[must_use = "a record is acknowledged when its delivery says so"]
pub struct Delivery(oneshot::Receiver<Result<Ack, Error>>);

impl Future for Delivery {
    type Output = Result<Ack, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| ended.unwrap_or(Err(Error::Closed)))
    }
}

type Callback = Box<dyn FnOnce(Result<Ack, Error>) + Send>;

/// Who is told how a record ended.
enum Tell {
    Delivery(oneshot::Sender<Result<Ack, Error>>),
    Callback(Callback),
}

/// One record's waiter, and its share of the buffer: permits of [`Shared::room`], given back by [`Shared::tell`].
pub(crate) struct Waiter {
    tell: Tell,
    room: u32,
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

/// What senders and the task share.
#[derive(Debug)]
pub(crate) struct Shared {
    client: Client,
    core: Mutex<Core<Waiter>>,
    /// Wakes the task.
    wake: Notify,
    /// Whether every record has ended, for those who flush.
    empty: watch::Sender<bool>,
    /// Senders have gone: finish what is there.
    closing: AtomicBool,
    /// Bytes that records may still take of the buffer.
    room: Semaphore,
    topics: Mutex<HashMap<Arc<str>, Arc<Known>>>,
}

/// A topic that was asked for. Senders share this and acknowledgements the name, so that they do not contend for one count
/// of references.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    partitions: u32,
}

/// Sends records. See the [module](self) for what it promises. Dropping it lets what it holds be sent in the
/// background; [`Producer::close`] waits for that.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    config: ProducerConfig,
    /// Bytes of the buffer.
    capacity: u32,
    /// Closed when the task has ended.
    ended: watch::Receiver<()>,
}

impl Producer {
    pub(crate) fn start(client: &Client, config: ProducerConfig) -> Self {
        let idempotent = config.idempotence && config.acks == Acks::All;
        let most = if idempotent { caps::PRODUCER_BATCHES } else { usize::MAX };
        let rules = Rules {
            compression: config.compression,
            batch_bytes: config.batch_bytes.clamp(1, caps::MAX_BATCH_BYTES),
            linger: config.linger,
            in_flight: config.in_flight.clamp(1, most),
            delivery_timeout: config.delivery_timeout,
            acks_none: config.acks == Acks::None,
            idempotent,
        };
        let capacity = u32::try_from(config.buffer_bytes.clamp(1, 1 << 31)).unwrap_or(1 << 31);
        let shared = Arc::new(Shared {
            client: client.clone(),
            core: Mutex::new(Core::new(rules, Arc::clone(&client.config().random))),
            wake: Notify::new(),
            empty: watch::Sender::new(true),
            closing: AtomicBool::new(false),
            room: Semaphore::new(usize::try_from(capacity).unwrap_or(usize::MAX)),
            topics: Mutex::default(),
        });
        let (end, ended) = watch::channel(());
        let task = task::run(Arc::clone(&shared), end);
        client.tasks().spawn("producer", task);
        Self { shared, config, capacity, ended }
    }

    /// How many partitions `topic` has; remembered.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`; what [`Admin::partitions`](crate::Admin::partitions) fails with.
    pub async fn partitions(&self, topic: &str) -> Result<u32, Error> {
        Ok(self.topic(topic).await?.partitions)
    }

    async fn topic(&self, topic: &str) -> Result<Arc<Known>, Error> {
        let known = self.shared.topics.lock().get(topic).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        self.shared.client.directory().follow(topic);
        let partitions = self.shared.client.admin().partitions(topic).await?;
        let known = Arc::new(Known { name: Arc::from(topic), partitions });
        self.shared.topics.lock().insert(Arc::clone(&known.name), Arc::clone(&known));
        Ok(known)
    }

    /// Gives a record to the producer, and waits while its buffer is full. Records that one task sends one after the
    /// other keep their order within each partition.
    ///
    /// Cancel-safe: when dropped before it is ready, the record was not taken.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`; a record too large for any batch; `Closed`. What happens later is the
    /// [`Delivery`]'s.
    pub async fn send(&self, topic: &str, message: Message) -> Result<Delivery, Error> {
        let (sender, receiver) = oneshot::channel();
        self.put(topic, message, Tell::Delivery(sender)).await?;
        Ok(Delivery(receiver))
    }

    /// [`Producer::send`] with a callback in place of a future. It must not block: it runs on the task that sends.
    ///
    /// # Errors
    /// As [`Producer::send`]; then the callback is not called.
    pub async fn send_with(
        &self,
        topic: &str,
        message: Message,
        callback: impl FnOnce(Result<Ack, Error>) + Send + 'static,
    ) -> Result<(), Error> {
        self.put(topic, message, Tell::Callback(Box::new(callback))).await
    }

    async fn put(&self, topic: &str, message: Message, to: Tell) -> Result<(), Error> {
        let topic = self.topic(topic).await?;
        let record = Record {
            offset: 0,
            timestamp: message
                .timestamp_ms
                .unwrap_or_else(|| self.shared.client.config().clock.now_ms()),
            key: message.key,
            value: message.value,
            headers: message.headers,
        };
        let bytes = u32::try_from(record_bytes(&record)).unwrap_or(u32::MAX).min(self.capacity);
        let room = self.shared.room.acquire_many(bytes).await.map_err(|_| Error::Closed)?;
        if self.ended.has_changed().is_err() {
            return Err(Error::Closed);
        }
        // Given back by whoever tells the waiter.
        room.forget();
        self.append(&topic, message.partition, &record, Waiter { tell: to, room: bytes })
    }

    fn append(
        &self,
        topic: &Known,
        partition: Option<u32>,
        record: &Record,
        waiter: Waiter,
    ) -> Result<(), Error> {
        let &Known { ref name, partitions } = topic;
        let mut done = Vec::new();
        let mut core = self.shared.core.lock();
        let partition = partition.unwrap_or_else(|| {
            self.config.partitioner.partition(name, record.key.as_deref(), partitions)
        });
        if partition >= partitions {
            drop(core);
            self.shared.give_back(waiter.room);
            let message = format!("topic `{name}` has partitions 0 to {}", partitions - 1);
            let reason = geminga_proto::reason::Reason::UnknownPartition;
            return Err(geminga_proto::reason::ApiError::new(reason, message).into());
        }
        let appended = core.append(name, partition, record, waiter, Instant::now, &mut done);
        // Nothing else comes near the end of what is pending.
        if core.pending() <= 1 || !done.is_empty() {
            self.shared.note(&core);
        }
        drop(core);
        self.shared.tell(done);
        // The waiter is dropped outside of the lock as well.
        let appended = appended.map_err(|(waiter, error)| {
            self.shared.give_back(waiter.room);
            error
        })?;
        if appended.enough {
            self.config.partitioner.batch_full(name, partition, partitions);
        }
        if appended.wake {
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Sends what there is without waiting for full batches, and waits until every record has ended, also those that
    /// others send meanwhile. Cancel-safe.
    pub async fn flush(&self) {
        self.shared.core.lock().set_flush(true);
        self.shared.wake.notify_one();
        let mut empty = self.shared.empty.subscribe();
        // The sender lives in `shared`.
        drop(empty.wait_for(|empty| *empty).await);
        self.shared.core.lock().set_flush(false);
    }

    /// Flushes, and waits until the server has seen the end of the stream: with [`Acks::None`] that is when
    /// everything has arrived. Later sends fail with `Closed`.
    pub async fn close(self) {
        self.shared.room.close();
        self.shared.begin_closing();
        let mut ended = self.ended.clone();
        // Nothing is ever sent: this ends when the task has dropped its end.
        while ended.changed().await.is_ok() {}
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

impl Shared {
    /// Tells everyone how their records ended, and gives their room back. Never called under the lock, since callbacks
    /// are foreign code.
    fn tell(&self, done: Vec<Done<Waiter>>) {
        let mut room = 0;
        for (waiter, end) in done {
            room += usize::try_from(waiter.room).unwrap_or(usize::MAX);
            match waiter.tell {
                Tell::Callback(callback) => callback(end),
                // Nobody has to wait.
                Tell::Delivery(sender) => drop(sender.send(end)),
            }
        }
        if room > 0 {
            self.room.add_permits(room);
        }
    }

    /// Gives back the room of a record that was not taken.
    fn give_back(&self, room: u32) {
        self.room.add_permits(usize::try_from(room).unwrap_or(usize::MAX));
    }

    /// Lets those who flush know what has become of the core, which the caller has locked.
    fn note(&self, core: &Core<Waiter>) {
        let empty = core.pending() == 0;
        if *self.empty.borrow() != empty {
            self.empty.send_replace(empty);
        }
    }

    fn begin_closing(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.core.lock().set_flush(true);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests;
