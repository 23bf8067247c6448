//! Carrying out what the core decides, and telling it what came of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use geminga_ledger::{AppendRefused, Health, Writer};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::entry;
use geminga_proto::ids::EntryId;
use geminga_runtime::requests;
use tokio::time::Instant;

use super::wake::Woke;
use super::{Current, LogHead, LogWriter, Unacked, live};
use crate::partition::log::core::{Effect, Input, Lacks, Submit};
use crate::partition::log::ledgers::{self, Done};
use crate::partition::log::opening::Stored;
use crate::partition::log::part::{self, Place};
use crate::partition::log::segments::Segment;
use crate::partition::log::{Event, Lost, ReadEntry, SnapshotWanted, What};

/// Between questions to the bookies while the metadata store is silent (DESIGN 6).
const VERIFY: Duration = Duration::from_secs(1);
/// A pause of the core doubles this often.
const MAX_DOUBLINGS: u32 = 4;

impl LogWriter {
    pub(super) fn on(&mut self, woke: Woke) {
        match woke {
            Woke::Stopped => self.lose(Lost::Stopping),
            Woke::Confirmed(lac) => {
                // First what may be read, then the high watermark that lets readers ask for it.
                self.segments.readable(lac);
                self.step(Input::Confirmed { lac });
            }
            Woke::Members(meta) => self.segments.refreshed(meta.id, meta),
            Woke::Health(health) => {
                self.sealed |= health == Health::Deposed;
                self.step(Input::Health(health));
            }
            Woke::Gone => {
                if let Some(current) = &mut self.current {
                    current.gone = true;
                }
                self.step(Input::Health(Health::Dead));
            }
            Woke::Done(done) => self.done(*done),
            Woke::Swept(swept) => {
                // It is tried again when the next ledger begins, or when retention looks.
                if let Err(error) = swept {
                    self.warn("dead segments were not removed", &error.to_string());
                }
            }
            Woke::Answered(Some(parts)) => self.answered(parts),
            Woke::Answered(None) => {
                self.lose(Lost::Failed("its owner gave no snapshot".to_owned()));
            }
            Woke::Ready => self.blocked = None,
            Woke::Live => {
                let live = live(&**self.opening.parts.ledgers.bookies());
                self.step(Input::LiveBookies(live));
            }
            Woke::Silence(silent) => self.verify_at = silent.then(Instant::now),
            Woke::Due => self.due(),
        }
        self.submit();
    }

    pub(super) fn step(&mut self, input: Input) {
        let effects = self.core.step(input);
        self.carry_out(effects);
    }

    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Create => {
                    let (opening, base) = (Arc::clone(&self.opening), self.core.high_watermark());
                    self.start(ledgers::create(opening, self.next_seq(), base).boxed());
                }
                Effect::Check => {
                    self.check = Some(ledgers::check(Arc::clone(&self.opening)).boxed());
                }
                Effect::Roll { drain } => {
                    let (opening, drain) = (Arc::clone(&self.opening), self.drain(drain));
                    let leaving = self.leave_for_step();
                    self.start(ledgers::roll(opening, leaving, drain).boxed());
                }
                Effect::Close { drain } => {
                    let (opening, drain) = (Arc::clone(&self.opening), self.drain(drain));
                    let leaving = self.leave_for_step();
                    self.start(ledgers::close(opening, leaving, drain).boxed());
                }
                Effect::Settle => {
                    self.forget_snapshot();
                    let opening = Arc::clone(&self.opening);
                    let current = self.current.as_mut().map(|current| {
                        current.writer = None;
                        current.gone = true;
                        current.ledger
                    });
                    self.start(ledgers::settle(opening, current, self.newest, self.sealed).boxed());
                }
                Effect::AskSnapshot => {
                    let (wanted, answer) = SnapshotWanted::new();
                    self.answer = Some(answer);
                    self.events.push_back(Event::Snapshot(wanted));
                }
                Effect::Acked { through, .. } => self.acked(through),
                Effect::RetryLater => {
                    let pause = self.opening.parts.config.retry_pause;
                    self.retry_at = Some(Instant::now() + pause);
                }
                Effect::Pause { doubled } => {
                    let pause = self.opening.parts.config.restore_pause;
                    let pause = pause * 2u32.pow(doubled.min(MAX_DOUBLINGS));
                    self.pause_at = Some(Instant::now() + pause);
                }
            }
        }
    }

    fn drain(&self, drain: bool) -> Duration {
        if drain { self.opening.parts.config.roll_drain } else { Duration::ZERO }
    }

    fn next_seq(&self) -> u32 {
        self.newest.map_or(0, |seq| seq + 1)
    }

    fn start(&mut self, step: futures::future::BoxFuture<'static, Done>) {
        debug_assert!(self.step.is_none(), "one step at a time");
        self.check = None;
        self.step = Some(step);
    }

    fn leave_for_step(&mut self) -> ledgers::Leaving {
        self.forget_snapshot();
        self.leave().expect("the core leaves only a ledger that is open")
    }

    /// A snapshot that was not written whole is asked for again at the head of the next ledger.
    fn forget_snapshot(&mut self) {
        self.answer = None;
        self.parts = Vec::new();
        self.blocked = None;
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Created(writer) => {
                self.step(Input::Created { lacks: lacks(&writer) });
                self.install(writer);
            }
            Done::Checked(answered) => {
                if let Err(why) = &answered {
                    self.warn(
                        "ledger is written on, since the metadata store does not answer",
                        why,
                    );
                }
                self.step(Input::Checked(answered.is_ok()));
            }
            Done::NotCreated(why) => {
                self.warn("no ledger could be created", &why);
                self.step(Input::NotCreated);
            }
            Done::Rolled { closed, writer } => {
                let last = self.left(closed);
                self.step(Input::Rolled { last, lacks: lacks(&writer) });
                self.install(writer);
            }
            Done::NotRolled { writer, why } => {
                self.warn("ledger was not rolled", &why);
                if let Some(current) = &mut self.current {
                    current.writer = Some(writer);
                }
                self.step(Input::NotRolled);
            }
            Done::Doubt(why) => {
                self.warn("ledgers are to be checked", &why);
                self.step(Input::Doubt);
            }
            Done::Settled { closed, found } => self.settled(closed, found),
            Done::NotSettled(why) => {
                self.warn("ledgers cannot be closed now", &why);
                self.step(Input::NotSettled);
            }
            Done::Lost(lost) => self.lose(lost),
        }
    }

    fn warn(&self, what: &str, why: &str) {
        let Self { opening, .. } = self;
        tracing::warn!(topic = opening.topic.name, partition = opening.partition.0, why, "{what}");
    }

    /// The current ledger was closed; returns its end.
    fn left(&mut self, closed: LedgerMeta) -> EntryId {
        let last = closed.last_entry.unwrap_or(EntryId::NONE);
        if let Some(current) = &self.current {
            self.segments.closed(current.seq, Arc::new(closed));
        }
        last
    }

    fn settled(&mut self, closed: Option<LedgerMeta>, found: Vec<(Stored, LedgerMeta)>) {
        let last = closed.map(|closed| self.left(closed));
        self.current = None;
        self.newest = found.last().map(|(stored, _)| stored.seq).or(self.newest);
        self.step(Input::Settled { last });
        for (stored, meta) in found {
            self.segments.opened(Segment {
                seq: stored.seq,
                ledger: stored.segment.ledger,
                base_offset: stored.segment.base_offset,
                end_offset: None,
                term: stored.segment.term,
                max_timestamp: Some(-1),
                bytes: Some(meta.length),
                readable: meta.last_entry,
                meta: Some(Arc::new(meta)),
            });
        }
    }

    /// The next ledger is open; everything before it is acknowledged.
    fn install(&mut self, writer: Box<Writer>) {
        let (seq, base_offset) = (self.next_seq(), self.core.high_watermark());
        self.segments.opened(Segment {
            seq,
            ledger: writer.id(),
            base_offset,
            end_offset: None,
            term: self.opening.term,
            max_timestamp: Some(-1),
            bytes: Some(0),
            meta: Some(writer.meta()),
            readable: Some(EntryId::NONE),
        });
        let since = Instant::now();
        let old_at = since.checked_add(self.roll.age);
        self.newest = Some(seq);
        self.sealed = false;
        self.current = Some(Current {
            seq,
            base_offset,
            ledger: writer.id(),
            meta: writer.meta_watch(),
            lac: writer.lac_watch(),
            health: writer.health(),
            writer: Some(writer),
            gone: false,
            since,
            old_at,
            max_timestamp: -1,
        });
    }

    fn answered(&mut self, mut parts: Vec<Bytes>) {
        if parts.is_empty() {
            parts.push(Bytes::new());
        }
        let count = u32::try_from(parts.len()).expect("fewer parts than 2^32 fit in memory");
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.parts = parts;
        self.step(Input::SnapshotAnswered { parts: count, bytes });
    }

    fn acked(&mut self, through: u64) {
        let mut entries = Vec::new();
        while let Some(acked) = self.payloads.pop_front_if(|p| p.number <= through) {
            acked.append.committed();
            let What::Batches { offset_count, max_timestamp } = acked.what else { continue };
            if let Some(current) = &mut self.current {
                current.max_timestamp = current.max_timestamp.max(max_timestamp);
            }
            let (first_offset, payload) = (acked.first_offset, acked.payload.into_body());
            entries.push(ReadEntry { first_offset, offset_count, max_timestamp, payload });
        }
        let high_watermark = self.core.high_watermark();
        self.segments.committed(entries, high_watermark);
        self.sweep_behind();
        if let Some(Event::Acked { through: last, high_watermark: end }) = self.events.back_mut() {
            (*last, *end) = (through, high_watermark);
        } else {
            self.events.push_back(Event::Acked { through, high_watermark });
        }
    }

    /// Whatever is acknowledged in a ledger comes after its head snapshot, so those before may go (P4).
    fn sweep_behind(&mut self) {
        let Some(current) = &self.current else { return };
        if self.segments.anchored(current.seq) && self.sweep.is_none() {
            let head = LogHead::new(Arc::clone(&self.opening), Arc::clone(&self.segments));
            self.sweep = Some(async move { head.remove_dead().await }.boxed());
        }
    }

    fn due(&mut self) {
        let now = Instant::now();
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.step(Input::RetryDue);
        }
        if self.verify_at.is_some_and(|at| at <= now) {
            self.verify_at = Some(now + VERIFY);
            if let Some(writer) = self.current.as_ref().and_then(|c| c.writer.as_ref()) {
                writer.verify();
            }
        }
        if self.pause_at.take_if(|at| *at <= now).is_some() {
            self.step(Input::PauseOver);
        }
        let old = self.current.as_mut().and_then(|c| c.old_at.take_if(|at| *at <= now));
        if old.is_some() {
            self.step(Input::AgeReached);
        }
        if self.idle_at <= now {
            self.idle_at = now + self.opening.parts.config.idle_close;
            self.step(Input::IdleReached);
        }
    }

    /// Gives the current ledger what the core says, until it takes no more. What an earlier one had taken, and ended without,
    /// is looked at first.
    pub(super) fn submit(&mut self) {
        while self.blocked.is_none()
            && let Some(submission) = self.core.next()
        {
            let (payload, cause) = match submission.what {
                Submit::Append(number) => {
                    let unacked = self.unacked(number);
                    if unacked.taken && !unacked.payload.is_intact() {
                        return self.lose(Lost::Failed(damaged_here()));
                    }
                    (std::mem::take(&mut unacked.payload), unacked.cause.clone())
                }
                Submit::Part { index, total } => {
                    let header = part::header(Place { index, total });
                    (vec![header, self.parts[index as usize].clone()].into(), None)
                }
            };
            let writer = self.current.as_mut().and_then(|current| current.writer.as_deref_mut());
            let writer = writer.expect("the core submits only to a ledger that is open");
            // The outcome is known from the LAC, or from the end of the closed ledger.
            let append = || writer.append(submission.attributes, &payload);
            let appended = requests::caused_by(cause, append);
            let (bytes, appended) =
                (payload.len(), appended.map(|(entry, bytes, _)| (entry, bytes)));
            if let Submit::Append(number) = submission.what {
                // What the ledger made of it is the one copy from now on.
                let copy = appended.as_ref().ok().and_then(|(_, bytes)| entry::payload(bytes));
                let unacked = self.unacked(number);
                unacked.taken |= copy.is_some();
                unacked.payload = match copy {
                    Some(copy) => payload.copied_to(copy),
                    None => payload,
                };
            }
            match appended {
                Ok((entry, _)) => self.step(Input::Submitted { entry }),
                Err(AppendRefused::Full) => self.blocked = Some(bytes),
                Err(AppendRefused::Ended) => self.step(Input::Health(Health::Dead)),
                Err(error @ AppendRefused::TooLarge) => {
                    self.lose(Lost::Failed(format!("a snapshot part: {error}")));
                    return;
                }
            }
        }
    }

    fn unacked(&mut self, number: u64) -> &mut Unacked {
        let first = self.payloads.front().expect("an unacknowledged append is kept").number;
        let index = usize::try_from(number - first).expect("within the unacknowledged appends");
        &mut self.payloads[index]
    }

    /// Ends the opening: nothing more is acknowledged.
    fn lose(&mut self, lost: Lost) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let Self { opening, .. } = self;
        let (topic, partition) = (&opening.topic.name, opening.partition.0);
        tracing::info!(topic, partition, term = opening.term.0, reason = %lost, "log is lost");
        (self.step, self.check, self.sweep) = (None, None, None);
        self.current = None;
        self.forget_snapshot();
        self.payloads.clear();
        self.events.push_back(Event::Lost(lost));
    }
}

/// What the ledger was begun without.
fn lacks(writer: &Writer) -> Lacks {
    Lacks { copies: writer.meta().degraded, zones: writer.fewer_zones() }
}

/// Bookies check what they are sent, so bytes that changed in this process are taken by none: the next ledger would end like
/// the last, and the one after it.
fn damaged_here() -> String {
    "an append no longer has the checksum that it came with, as bytes in this broker's memory have changed: look at the \
     memory of its machine"
        .to_owned()
}
