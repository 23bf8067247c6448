//! The task that owns one open topic partition and its log's writer: it takes batches from the mailbox in order, gathers
//! them into entries, and answers when these are acknowledged. Everything else is decided in [`Queue`], and for batches of
//! idempotent producers in [`Producers`]: whatever leaves the queue unwritten is taken back there (P3).
//!
//! That a number is missing only the owner can say, and says so once that is proved ([`proofs`]).
//!
//! While storage stands still the log keeps what it has and goes on trying; senders are told that they do not know.
//!
//! It ends when the log is lost, or when it is told to close: intake stops at once, what is on its way gets a
//! moment to be acknowledged, and what is not by then has an unknown outcome.

mod proofs;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use geminga_proto::ids::{Offset, PartitionIndex, Term};
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::Batch;
use geminga_runtime::WallClock;
use geminga_runtime::requests::{self, Requests};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use proofs::Proofs;

use super::log::{Event, LogWriter, Lost, Roll, What};
use super::produce::{Durable, Gathered, Queue, Reply, unknown};
use super::producers::{Producers, Stamp, Verdict};
use super::{metrics, snapshot};
use crate::ownership::topology::Topic;
use crate::router::ActiveProducer;

/// Batches taken from the mailbox at once.
const TAKE: usize = 256;
/// A partition where nobody writes forgets silent producers, and so makes room for others', this often.
const SWEEP: Duration = Duration::from_secs(600);
/// A log that acknowledges nothing for so long stands still: what waits for it does not keep its messages any longer.
const STANDS_STILL: Duration = Duration::from_millis(500);

/// A batch with its place in the mailbox.
#[derive(Debug)]
pub(super) struct Submitted {
    pub(super) batch: Batch,
    pub(super) reply: Reply,
    /// Why the topic does not take it, unless it is in the log already: of idempotent producers' batches only.
    pub(super) objection: Option<ApiError>,
    /// [`Orders::refusals`] when it came.
    pub(super) refusals: u64,
}

/// How an open partition ended; everything that it had accepted is answered.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to.
    Closed(ApiError),
    /// Its log was lost; opening it again may help.
    Lost(ApiError),
}

/// How to close.
#[derive(Debug, Clone)]
pub(super) struct Closing {
    /// What is said to whoever comes late.
    pub(super) error: ApiError,
    /// Whether what was accepted is still written, or only what the log already has is waited for.
    pub(super) drain: bool,
    /// What is not acknowledged by then is given up.
    pub(super) deadline: Instant,
}

/// What others want of an owner besides batches. Each order stands until it is followed.
#[derive(Debug)]
pub(super) struct Orders {
    /// The topic as it is now.
    pub(super) topic: watch::Receiver<Arc<Topic>>,
    /// Begin a ledger, so that those before it can go.
    pub(super) anew: Arc<Notify>,
    /// End the open ledger if nothing is under way, so that it can go.
    pub(super) expired: Arc<Notify>,
    /// Say who writes.
    pub(super) producers: mpsc::Receiver<AskProducers>,
    /// How often batches were refused that had their place: what came before that and gets its place behind it may be of the same
    /// sender, who is to send again from the first of them (P5).
    pub(super) refusals: Arc<AtomicU64>,
}

/// Asks an owner who its idempotent producers are.
pub(super) type AskProducers = oneshot::Sender<Vec<ActiveProducer>>;

/// When the partitions of a topic roll.
pub(super) fn roll_of(topic: &Topic) -> Roll {
    let settings = &topic.settings;
    Roll { bytes: settings.segment_bytes, age: Duration::from_millis(settings.segment_ms) }
}

/// An open partition.
pub(super) struct Owner {
    writer: LogWriter,
    term: Term,
    queue: Queue<Reply>,
    mailbox: mpsc::Receiver<Submitted>,
    inbox: Vec<Submitted>,
    close: watch::Receiver<Option<Closing>>,
    orders: Orders,
    producers: Producers,
    proofs: Proofs,
    clock: Arc<dyn WallClock>,
    opened: Instant,
    /// When silent producers are forgotten next.
    sweep: Instant,
    times: Times,
    watched: Watched,
}

/// What is told where appending is slow.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) requests: Requests,
    pub(super) partition: PartitionIndex,
}

/// How long an owner waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// A sender waits no longer for an acknowledgement.
    pub(super) answer: Duration,
    /// An idempotent producer that appends nothing for so long is forgotten.
    pub(super) producer_expiry: Duration,
}

enum Step {
    Close(Closing),
    Log(Event),
    Intake(usize),
    Altered,
    Anew,
    Expired,
    Say(AskProducers),
    Sweep,
    Overdue,
}

impl Owner {
    pub(super) fn new(
        writer: LogWriter,
        term: Term,
        mailbox: mpsc::Receiver<Submitted>,
        (close, orders): (watch::Receiver<Option<Closing>>, Orders),
        producers: Producers,
        clock: Arc<dyn WallClock>,
        (times, watched): (Times, Watched),
    ) -> Self {
        let (queue, inbox) = (Queue::default(), Vec::new());
        let (proofs, opened) = (Proofs::default(), Instant::now());
        Self {
            writer,
            term,
            queue,
            mailbox,
            inbox,
            close,
            orders,
            producers,
            proofs,
            clock,
            opened,
            sweep: opened + SWEEP,
            times,
            watched,
        }
    }

    /// Serves until the end.
    pub(super) async fn run(mut self) -> End {
        // It may have been altered while the log was taken over.
        self.orders.topic.mark_changed();
        loop {
            let waits = self.queue.waits_since().into_iter().chain(self.proofs.waits_since()).min();
            let overdue = waits.map(|since| since + self.times.answer);
            let sweep = self.producers.knows_any().then_some(self.sweep);
            let step = tokio::select! {
                biased;
                closing = closing(&mut self.close) => Step::Close(closing),
                Ok(()) = self.orders.topic.changed() => Step::Altered,
                () = self.orders.anew.notified() => Step::Anew,
                () = self.orders.expired.notified() => Step::Expired,
                Some(ask) = self.orders.producers.recv() => Step::Say(ask),
                () = until(sweep) => Step::Sweep,
                event = self.writer.event() => Step::Log(event),
                taken = self.mailbox.recv_many(&mut self.inbox, TAKE) => Step::Intake(taken),
                () = until(overdue) => Step::Overdue,
            };
            match step {
                Step::Close(closing) => return self.close(closing).await,
                Step::Log(event) => {
                    if let Err(lost) = self.on_event(event) {
                        return self.lost(&lost).await;
                    }
                }
                // Nobody can submit any more, so nobody waits for what is told.
                Step::Intake(0) => return End::Closed(gone()),
                Step::Intake(_) => self.on_intake(),
                Step::Altered => {
                    let roll = roll_of(&self.orders.topic.borrow_and_update());
                    self.writer.set_roll(roll);
                }
                Step::Anew => self.writer.begin_anew(),
                Step::Expired => self.writer.end_quiet(),
                // Who asked may have gone.
                Step::Say(ask) => drop(ask.send(self.producers.active())),
                Step::Sweep => {
                    self.expire();
                    self.sweep = Instant::now() + SWEEP;
                }
                Step::Overdue => self.on_overdue(),
            }
            self.send();
            if self.queue.stands_since().is_some_and(|since| since.elapsed() >= STANDS_STILL) {
                self.queue.detach();
            }
        }
    }

    fn on_intake(&mut self) {
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.drain(..).for_each(|submitted| self.accept(submitted));
        self.inbox = inbox;
    }

    /// Gives a batch its place, or answers it.
    fn accept(&mut self, Submitted { batch, reply, objection, refusals }: Submitted) {
        // Of idempotent producers, the numbers tell.
        let Some(stamp) = Stamp::of(batch.header()) else {
            if refusals == self.orders.refusals.load(Ordering::Relaxed) {
                self.queue.push(batch, None, reply);
            } else {
                reply.failed(not_written("an earlier batch was refused"));
            }
            return;
        };
        match self.producers.check(&stamp, self.now_ms()) {
            Verdict::Next => match objection {
                Some(error) => reply.failed(error),
                None => {
                    let ticket = self.queue.push(batch, Some(stamp), reply);
                    self.producers.assign(&stamp, ticket);
                }
            },
            Verdict::Committed(base_offset) => {
                let dated = self.producers.dated(&stamp);
                reply.duplicate(base_offset, dated);
            }
            Verdict::Assigned(ticket) => self.queue.follow(ticket, reply, Instant::now()),
            Verdict::Refused(refusal) if refusal.needs_proof() => {
                self.proofs.push(reply, refusal.error(&stamp));
            }
            Verdict::Refused(refusal) => reply.failed(refusal.error(&stamp)),
        }
    }

    /// A batch is answered: acknowledged at an offset, where the log was given it at a time, or not any more.
    fn tell_slow(&self, reply: &Reply, acked: Option<(Offset, Instant)>) {
        if !self.watched.requests.logs_slow() {
            return;
        }
        let took = reply.since().elapsed();
        let Some(left_out) = self.watched.requests.slow(took) else { return };
        let queued = acked.map(|(_, sent)| sent.saturating_duration_since(reply.since()));
        let stored = queued.map(|queued| took.saturating_sub(queued));
        let topic = Arc::clone(&self.orders.topic.borrow());
        tracing::warn!(
            request = reply.request().map(tracing::field::display),
            topic = topic.name,
            partition = %self.watched.partition,
            acknowledged = acked.is_some(),
            offset = acked.map(|(base, _)| base.0),
            bytes = reply.bytes(),
            took_ms = took.as_millis(),
            queue_ms = queued.map(millis),
            storage_ms = stored.map(millis),
            left_out,
            "slow append"
        );
    }

    /// Milliseconds since the opening.
    fn now_ms(&self) -> i64 {
        i64::try_from(self.opened.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn on_event(&mut self, event: Event) -> Result<(), Lost> {
        match event {
            Event::Acked { through, .. } => {
                let now_ms = self.now_ms();
                for Durable { base, stamp, dated, sent, answers } in self.queue.acked(through) {
                    if let Some(stamp) = stamp {
                        self.producers.commit(&stamp, base, now_ms);
                    }
                    for reply in answers {
                        self.tell_slow(&reply, Some((base, sent)));
                        reply.acked(base, dated);
                    }
                }
                self.proofs.acked(through);
                Ok(())
            }
            Event::Snapshot(wanted) => {
                self.expire();
                let opened_ms = self.clock.now_ms().saturating_sub(self.now_ms());
                wanted.answer(snapshot::encode(&self.producers, opened_ms));
                Ok(())
            }
            Event::Lost(lost) => Err(lost),
        }
    }

    /// Forgets silent producers. A successor may read of them in an older snapshot and know them for longer, which harms nobody:
    /// see [`Producers`]'s rule P4.
    fn expire(&mut self) {
        let after_ms = i64::try_from(self.times.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        self.producers.expire(self.now_ms(), after_ms);
    }

    /// Storage stands still. The log goes on trying, which may succeed when the senders have long gone. Who waits for a proof says
    /// nothing about batches, which may all be younger, nor they about it.
    fn on_overdue(&mut self) {
        let still = not_written("storage stands still");
        let answer = self.times.answer;
        if self.queue.waits_since().is_some_and(|since| since.elapsed() >= answer) {
            let overdue = self.queue.abandon();
            tracing::warn!(term = %self.term, batches = overdue.len(), "storage does not acknowledge batches");
            for reply in overdue {
                self.tell_slow(&reply, None);
                reply.failed(unknown("storage stood still for too long"));
            }
            self.refuse_queued(&still);
        }
        self.proofs.give_up(answer, &still);
    }

    /// Hands entries to the log while the window has room. While they would get no further, what waits is refused: it
    /// was not written, and its sender can tell its user so (protocol 2.9).
    fn send(&mut self) {
        if !self.writer.is_writable() {
            return self.refuse_waiting(&not_writable());
        }
        self.prove();
        while let Some(entry) = self.gather() {
            let what = What::Batches {
                offset_count: entry.offset_count,
                max_timestamp: entry.max_timestamp,
            };
            metrics::count_entry(entry.slots.len(), entry.slots.bytes);
            let cause = entry.slots.first_answer().and_then(Reply::request).cloned();
            let (writer, payload) = (&mut self.writer, entry.payload);
            match requests::caused_by(cause, || writer.append(what, payload)) {
                Ok(appended) => {
                    let now = Instant::now();
                    self.queue.sent(appended.number, now, entry.slots);
                }
                Err(error) => {
                    // Later batches would take the offsets of these: none may follow in this opening (P3). The log
                    // is closed, and its `Lost`, which comes next, says why.
                    let error = not_written(&error.to_string());
                    entry.slots.into_answers().for_each(|reply| reply.failed(error.clone()));
                    return self.refuse_waiting(&error);
                }
            }
        }
    }

    fn prove(&mut self) {
        if !self.proofs.wants_barrier() {
            return;
        }
        // A log that is closed says why next, and whoever waits is told then.
        if let Ok(appended) = self.writer.append(What::Barrier, Vec::new()) {
            self.proofs.sent(appended.number);
        }
    }

    fn gather(&mut self) -> Option<Gathered<Reply>> {
        let writer = &self.writer;
        let dates = self.orders.topic.borrow().settings.log_append_time;
        let dated = dates.then(|| self.clock.now_ms());
        self.queue.gather(writer.next_offset(), self.term, dated, |bytes| writer.has_room(bytes))
    }

    /// Intake has stopped: what was accepted is finished or given up.
    async fn close(mut self, closing: Closing) -> End {
        self.take_rest().await;
        if closing.drain {
            self.send();
        } else {
            self.refuse_queued(&closing.error);
            self.proofs.refuse_unsent(&closing.error);
        }
        let deadline = tokio::time::sleep_until(closing.deadline);
        tokio::pin!(deadline);
        while !self.queue.is_idle() || self.proofs.waits_since().is_some() {
            let event = tokio::select! {
                biased;
                event = self.writer.event() => event,
                () = &mut deadline => break,
            };
            if self.on_event(event).is_err() {
                break;
            }
            self.send();
        }
        self.give_up(&closing.error, "the partition was closed");
        // The next owner then has nothing to recover. Best effort, like all that could be done for it.
        let closed = tokio::time::timeout_at(closing.deadline, self.writer.close()).await;
        tracing::debug!(term = %self.term, in_time = closed.is_ok(), "partition left its log");
        End::Closed(closing.error)
    }

    async fn lost(mut self, lost: &Lost) -> End {
        let why = lost.to_string();
        tracing::warn!(term = %self.term, reason = why, "partition lost its log");
        let late = late(lost);
        self.take_rest().await;
        self.give_up(&late, &why);
        End::Lost(late)
    }

    /// Stops the intake and takes what was submitted before.
    async fn take_rest(&mut self) {
        self.mailbox.close();
        while let Some(submitted) = self.mailbox.recv().await {
            self.accept(submitted);
        }
    }

    /// Answers all that is left: what the log has may be written (P3), what waited is not.
    fn give_up(&mut self, late: &ApiError, why: &str) {
        for reply in self.queue.take_in_flight() {
            self.tell_slow(&reply, None);
            reply.failed(unknown(why));
        }
        self.refuse_waiting(late);
    }

    /// Refuses what the log does not have, and who waits for a proof.
    fn refuse_waiting(&mut self, error: &ApiError) {
        self.proofs.refuse(error);
        self.refuse_queued(error);
    }

    /// Refuses batches that the log does not have. Their sequence numbers are free again, the newest first (P3).
    fn refuse_queued(&mut self, error: &ApiError) {
        let refused = self.queue.take_waiting();
        if !refused.is_empty() {
            self.orders.refusals.fetch_add(1, Ordering::Relaxed);
        }
        for stamp in refused.iter().rev().filter_map(|(stamp, _)| stamp.as_ref()) {
            self.producers.take_back(stamp);
        }
        for reply in refused.into_iter().flat_map(|(_, replies)| replies) {
            self.tell_slow(&reply, None);
            reply.failed(error.clone());
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Resolves once the partition is told to close. Cancel-safe.
pub(super) async fn closing(close: &mut watch::Receiver<Option<Closing>>) -> Closing {
    match close.wait_for(Option::is_some).await {
        Ok(closing) => closing.clone().expect("waited for one"),
        // The partition's life holds the sender.
        Err(_) => Closing { error: gone(), drain: false, deadline: Instant::now() },
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn gone() -> ApiError {
    ApiError::new(Reason::ShuttingDown, "the broker is shutting down: ask another one")
}

/// While too few bookies, or no metadata, keep batches from being written (protocol 2.9).
fn not_writable() -> ApiError {
    let why = "too few bookies are live to keep the topic's promise, or no metadata for a new ledger: try again";
    ApiError::new(Reason::NotEnoughLiveBookies, why)
}

fn not_written(why: &str) -> ApiError {
    ApiError::new(Reason::NotWritten, format!("{why}: the batch was not written, send it again"))
}

/// What is said to whoever comes after the log was lost, or had only been waiting.
fn late(lost: &Lost) -> ApiError {
    match lost {
        Lost::Stopping => gone(),
        Lost::Deposed => {
            let why = "another broker has taken the partition over: ask for its owner again";
            ApiError::not_owner(why, None)
        }
        Lost::Failed(_) => not_written(&lost.to_string()),
    }
}
