//! Appending to an open log: carries out what the core ([`super::core`]) decides. Owned by one task and driven by it: work
//! goes on while [`LogWriter::event`] is awaited. Holds the payloads of unacknowledged appends, the current ledger's
//! writer, and at most one step under way that changes ledgers.

mod carry;
mod wake;

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_ledger::{Bookies, Health, Writer, takers};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, LedgerId, Offset};
use geminga_proto::payload::Payload;
use geminga_runtime::requests::{self, RequestId};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::core::{Core, Input, Live, Policy, Start};
use super::head::{HeadError, LogHead};
use super::ledgers::{self, Done, Leaving};
use super::opening::Opening;
use super::reads::Append;
use super::segments::Segments;
use super::{AppendError, Appended, Event, Roll, What};

/// Most unacknowledged appends that [`LogWriter::has_room`] allows; statelogs count on fewer.
const MAX_OUTSTANDING_ENTRIES: usize = 8_192;

/// The one writer of an open log. Dropping it gives the log up without closing anything.
pub struct LogWriter {
    opening: Arc<Opening>,
    roll: Roll,
    core: Core,
    segments: Arc<Segments>,
    /// The newest segment.
    newest: Option<u32>,
    /// Of unacknowledged appends, in order.
    payloads: VecDeque<Unacked>,
    current: Option<Current>,
    /// What changes ledgers, while it does.
    step: Option<BoxFuture<'static, Done>>,
    /// Asks the metadata store whether it answers, before a step.
    check: Option<BoxFuture<'static, Done>>,
    /// Removes segments that nothing needs any more, while it does.
    sweep: Option<BoxFuture<'static, Result<usize, HeadError>>>,
    answer: Option<oneshot::Receiver<Vec<Bytes>>>,
    /// The snapshot that is being written.
    parts: Vec<Bytes>,
    /// The ledger takes no more until it has room for so many bytes.
    blocked: Option<usize>,
    retry_at: Option<Instant>,
    pause_at: Option<Instant>,
    idle_at: Instant,
    live: watch::Receiver<u64>,
    /// Whether the metadata store is silent.
    silence: watch::Receiver<bool>,
    /// When to ask the bookies whether the current ledger was sealed, while the metadata store is silent.
    verify_at: Option<Instant>,
    /// A bookie says that somebody else sealed the current ledger.
    sealed: bool,
    stopped: BoxFuture<'static, ()>,
    /// Not yet given to the owner.
    events: VecDeque<Event>,
    ended: bool,
}

/// Kept for resubmission (P3) and for readers.
struct Unacked {
    number: u64,
    what: What,
    first_offset: Offset,
    /// In one buffer of its own between calls.
    payload: Payload,
    /// It waits to be committed.
    append: Append,
    /// A ledger has taken it, and may have ended without it.
    taken: bool,
    /// The request that it was made for, where that is known: of its first batch.
    cause: Option<RequestId>,
}

/// The ledger that is written to.
struct Current {
    seq: u32,
    base_offset: Offset,
    ledger: LedgerId,
    /// `None` while a step has it.
    writer: Option<Box<Writer>>,
    /// Readers of the ledger ask its present members.
    meta: watch::Receiver<Arc<LedgerMeta>>,
    lac: watch::Receiver<EntryId>,
    health: watch::Receiver<Health>,
    /// The writer's task is gone: there is nothing more to follow.
    gone: bool,
    /// Since when it is open.
    since: Instant,
    /// When to roll by age; `None` once said.
    old_at: Option<Instant>,
    /// Largest record timestamp acknowledged in this ledger.
    max_timestamp: i64,
}

impl fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWriter")
            .field("topic", &self.opening.topic.name)
            .field("partition", &self.opening.partition)
            .field("term", &self.opening.term)
            .field("core", &self.core)
            .finish_non_exhaustive()
    }
}

impl LogWriter {
    pub(super) fn new(
        opening: Arc<Opening>,
        roll: Roll,
        start: Start,
        newest: Option<u32>,
        segments: Arc<Segments>,
    ) -> Self {
        let config = &opening.parts.config;
        let policy = Policy {
            roll_bytes: roll.bytes,
            snapshot_bytes: config.snapshot_bytes,
            snapshot_entries: config.snapshot_entries,
            snapshot_often_entries: config.snapshot_often_entries,
            write_quorum: usize::from(opening.quorum.write),
            ack_quorum: usize::from(opening.quorum.ack),
            mutations: config.mutations,
        };
        let bookies = opening.parts.ledgers.bookies();
        let live = bookies.changed();
        let core = Core::new(policy, start, self::live(&**bookies));
        let silence = opening.parts.silence.clone();
        let verify_at = silence.borrow().then(Instant::now);
        Self {
            roll,
            core,
            segments,
            newest,
            payloads: VecDeque::new(),
            current: None,
            step: None,
            check: None,
            sweep: None,
            answer: None,
            parts: Vec::new(),
            blocked: None,
            retry_at: None,
            pause_at: None,
            idle_at: Instant::now() + config.idle_close,
            live,
            silence,
            verify_at,
            sealed: false,
            stopped: opening.parts.tasks.cancelled().boxed(),
            events: VecDeque::new(),
            ended: false,
            opening,
        }
    }

    /// What the next Batches append gets (P1: assigned, not reported).
    pub fn next_offset(&self) -> Offset {
        self.core.next_offset()
    }

    /// Whether `bytes` more may be appended within the bound on unacknowledged bytes; a payload above the whole
    /// bound goes alone. Changes only by [`LogWriter::event`], so an owner waits for room by waiting for events.
    pub fn has_room(&self, bytes: usize) -> bool {
        let (outstanding, appends) = self.core.outstanding();
        let max_bytes = self.opening.parts.config.outstanding_bytes;
        appends == 0
            || (outstanding.saturating_add(bytes) <= max_bytes && appends < MAX_OUTSTANDING_ENTRIES)
    }

    /// Whether appends are on their way to storage. While false (too few bookies, or no metadata for a new ledger), take no new
    /// work: it would wait until storage is back. Changes only by [`LogWriter::event`].
    pub fn is_writable(&self) -> bool {
        !self.ended && self.core.is_writable()
    }

    /// Takes the next place in the log at once. Never waits and never refuses for want of room: see
    /// [`LogWriter::has_room`].
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(
        &mut self,
        what: What,
        payload: impl Into<Payload>,
    ) -> Result<Appended, AppendError> {
        if self.ended {
            return Err(AppendError::Closed);
        }
        let payload = payload.into();
        if payload.len() > caps::MAX_ENTRY_BYTES {
            return Err(AppendError::TooLarge);
        }
        let (appended, effects) = self.core.append(what, payload.len());
        let Appended { number, first_offset } = appended;
        let append = self.opening.parts.reads.append();
        self.idle_at = append.at() + self.opening.parts.config.idle_close;
        let cause = requests::current();
        self.payloads.push_back(Unacked {
            number,
            what,
            first_offset,
            payload,
            append,
            taken: false,
            cause,
        });
        self.carry_out(effects);
        self.submit();
        self.detach(number);
        Ok(appended)
    }

    /// Rolls by this from now on, the current ledger too.
    pub fn set_roll(&mut self, roll: Roll) {
        if self.ended || roll == self.roll {
            return;
        }
        self.roll = roll;
        if let Some(current) = &mut self.current {
            current.old_at = current.since.checked_add(roll.age);
        }
        self.step(Input::RollBytes(roll.bytes));
        self.submit();
    }

    /// Begins a ledger where none is open and nothing waits for one, so that those before it, of which nothing is wanted any
    /// more, can go. No effect otherwise.
    pub fn begin_anew(&mut self) {
        if self.core.is_between_ledgers() {
            // Refused only when the log is closed, and then it is too late for this.
            let _ = self.append(What::Barrier, Payload::default());
        }
    }

    /// Ends the open ledger if nothing is under way, as if it had been idle for long. No effect otherwise.
    pub fn end_quiet(&mut self) {
        self.step(Input::IdleReached);
    }

    /// A payload that no ledger took at once has to wait apart from whatever larger message its parts came in.
    fn detach(&mut self, number: u64) {
        if let Some(last) = self.payloads.back_mut()
            && last.number == number
            && last.payload.parts().len() > 1
        {
            last.payload = std::mem::take(&mut last.payload).joined();
        }
    }

    /// The next event; the log makes progress only while this is awaited. Cancel-safe. After [`Event::Lost`] it pends for ever.
    pub async fn event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if self.ended {
                return std::future::pending().await;
            }
            let woke = self.wake().await;
            self.on(woke);
        }
    }

    /// Closes the current ledger where nothing is outstanding, so that the next owner has nothing to recover. Best effort.
    pub async fn close(mut self) {
        if self.ended || self.core.outstanding().1 > 0 || self.step.is_some() {
            return;
        }
        if let Some(leaving) = self.leave() {
            let opening = Arc::clone(&self.opening);
            let drain = opening.parts.config.roll_drain;
            let done = ledgers::close(opening, leaving, drain).await;
            tracing::debug!(topic = self.opening.topic.name, ?done, "log closed");
        }
    }

    /// Takes the current ledger's writer for a step that leaves it.
    fn leave(&mut self) -> Option<Leaving> {
        let ends = ledgers::Ends {
            offset: self.core.high_watermark(),
            max_timestamp: self.current.as_ref()?.max_timestamp,
            rest: self.core.ends(),
        };
        let current = self.current.as_mut()?;
        let writer = current.writer.take()?;
        Some(Leaving { seq: current.seq, base_offset: current.base_offset, writer, ends })
    }
}

/// The bookies that a new ledger is placed on.
fn live(bookies: &dyn Bookies) -> Live {
    let registered = bookies.live();
    let takers = || takers(&registered);
    let zones: BTreeSet<&str> = takers().map(|bookie| bookie.zone.as_str()).collect();
    Live { bookies: takers().count(), zones: zones.len() }
}
