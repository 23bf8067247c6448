//! The thread that makes records durable: takes what is queued, writes it as one frame, syncs once, moves the durable
//! mark (protocol 5.3). No timer: what is appended during a flush is the next flush.
//!
//! One frame is in flight at a time, so `durable_upto` is always the frame before (K8 reads logs with more in flight,
//! too). Order of events per flush: written, synced, findable in the index, mark moved, room in the queue given back.
//!
//! Any error is final: the log is poisoned, and this thread ends (K6). It ends the same way if it panics.

use std::io::{self, IoSlice};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::caps;
use tokio::time::Instant;

use super::error::LogFailed;
use super::footer::{Extent, Item};
use super::format::{self, FrameHead, HEADER_BYTES, Mark, Seed};
use super::index::Place;
use super::metrics;
use super::mutation::Mutation;
use super::queue::{Queued, Work};
use super::segment::{self, Segment, Supply};
use super::{Durable, Lsn, Shared};

/// Where the log goes on.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) segment: Segment,
    /// Where the next frame begins, bytes.
    pub(super) offset: u64,
    /// Its number.
    pub(super) next_frame: u64,
}

/// The writer of one log; owned by its thread.
#[derive(Debug)]
pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    pub(super) supply: Supply,
    seed: Seed,
    at: Position,
    /// Whether the newest frame is a mark, so that no frame with records is without one that vouches for it.
    pub(super) vouched: bool,
}

/// A frame that is durable.
#[derive(Debug, Clone, Copy)]
struct Written {
    frame: u64,
    /// Where it begins in the segment, bytes.
    offset: u64,
    bytes: u64,
}

/// Poisons the log if its thread ends in a panic.
struct PoisonOnPanic(Arc<Shared>);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("the committer panicked");
        }
    }
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, supply: Supply, at: Position) -> Self {
        Self { seed: shared.seed, shared, supply, at, vouched: true }
    }

    /// Runs until the queue is closed and empty, or the log fails.
    pub(super) fn run(mut self) {
        let guard = PoisonOnPanic(Arc::clone(&self.shared));
        if let Err(error) = self.serve() {
            self.poison(&error);
        }
        drop(guard);
    }

    /// K6: an error is final.
    pub(super) fn poison(&self, error: &io::Error) {
        let segment = self.at.segment.seq;
        self.shared.poison(&format!("cannot write log segment {segment:016x}: {error}"));
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let idle = (!self.vouched).then_some(self.shared.config.idle_mark);
            let work = self.shared.queue.take(caps::MAX_FLUSH_BYTES, idle);
            if self.carry_out(work)?.is_break() {
                return Ok(());
            }
        }
    }

    /// Does one piece of work; breaks when it was the last.
    pub(super) fn carry_out(&mut self, work: Work) -> io::Result<ControlFlow<()>> {
        match work {
            Work::Records(records, last) => self.commit(records, last)?,
            Work::Idle => self.mark(Mark::Idle)?,
            Work::Closed => {
                match self.shared.queue.stopped() {
                    // Nothing is vouched for any more.
                    Some(failed @ LogFailed::Poisoned(_)) => self.shared.end(failed),
                    _ => {
                        self.mark(Mark::Shutdown)?;
                        self.shared.end(LogFailed::Closed);
                    }
                }
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn commit(&mut self, records: Vec<Queued>, last: Lsn) -> io::Result<()> {
        let started = Instant::now();
        let mut body = Vec::with_capacity(records.len() * 2);
        for record in &records {
            body.push(record.head.clone());
            body.extend(record.entries.iter().cloned());
        }
        let bytes: usize = records.iter().map(|record| record.bytes).sum();
        let written = self.write_frame(body, bytes)?;
        self.vouched = false;
        metrics::flushed(bytes, started.elapsed());
        let permits = self.publish(records, written);
        self.shared.durable.send_replace(Durable { lsn: last, failed: None });
        drop(permits);
        Ok(())
    }

    /// Lets readers find what is durable now; the permits of the records.
    fn publish(&self, records: Vec<Queued>, written: Written) -> Vec<super::Permit> {
        let mut permits = Vec::with_capacity(records.len());
        let mut items = Vec::with_capacity(records.len());
        let mut offset = written.offset + format::FRAME_HEAD_BYTES as u64;
        let segment = segment::short(self.at.segment.seq);
        let mut index = self.shared.index.write();
        let mut window = self.shared.window.lock();
        for record in records {
            match record.item {
                Item::Extent(extent) => {
                    let offset = u32::try_from(offset).expect("a segment is below 4 GiB");
                    let place = Place { segment, offset, length: extent.length };
                    let Extent { ledger, first, count, .. } = extent;
                    if let Some(from) = record.moved_from {
                        index.relocate(ledger, first, count, from, place);
                    } else {
                        index.insert(ledger, first, count, place);
                        window.insert(place, first, record.entries);
                    }
                    items.push(Item::Extent(Extent { offset, ..extent }));
                }
                Item::Record(ledger, what) => {
                    if what.drops_entries() {
                        index.remove(ledger);
                    }
                    items.push(Item::Record(ledger, what));
                }
            }
            offset += record.bytes as u64;
            permits.push(record.permit);
        }
        drop((index, window));
        self.note(written, items);
        permits
    }

    fn note(&self, written: Written, items: Vec<Item>) {
        let Written { frame, bytes, .. } = written;
        let mut catalogue = self.shared.catalogue.lock();
        catalogue.frame(self.at.segment.seq, frame, bytes, items.into_iter());
    }

    /// Writes a frame without records, which vouches for the one before it.
    pub(super) fn mark(&mut self, mark: Mark) -> io::Result<()> {
        let body = format::encode_mark(mark);
        let bytes = body.len();
        let written = self.write_frame(vec![body], bytes)?;
        self.note(written, Vec::new());
        self.vouched = true;
        Ok(())
    }

    /// Makes one frame durable.
    fn write_frame(&mut self, body: Vec<Bytes>, bytes: usize) -> io::Result<Written> {
        let length = format::frame_bytes(bytes) as u64;
        if self.at.offset + length > self.at.segment.bytes && self.at.offset > HEADER_BYTES as u64 {
            // All frames of this segment are durable: nothing is in flight when the next begins.
            let next = self.supply.next()?;
            let end = u32::try_from(self.at.offset).expect("a segment is below 4 GiB");
            self.shared.catalogue.lock().fill(end);
            self.at.segment = next;
            self.at.offset = HEADER_BYTES as u64;
            metrics::segments_added(1);
        }
        let head = FrameHead {
            segment: self.at.segment.seq,
            seq: self.at.next_frame,
            durable_upto: self.at.next_frame - 1,
        };
        let parts = format::encode_frame(head, self.seed, body);
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        self.at.segment.file.write_all_at(self.at.offset, &slices)?;
        self.sync()?;
        let written = Written { frame: head.seq, offset: self.at.offset, bytes: length };
        self.at.offset += length;
        self.at.next_frame += 1;
        Ok(written)
    }

    /// Makes what was written durable, or fails for good: after an error nobody knows what a second sync means (K6).
    fn sync(&self) -> io::Result<()> {
        let (file, mutations) = (&self.at.segment.file, &self.shared.config.mutations);
        if mutations.is(Mutation::SkipSync) {
            return Ok(());
        }
        let started = Instant::now();
        let synced = file.sync_data();
        if synced.is_err() && mutations.is(Mutation::RetrySync) {
            return file.sync_data();
        }
        metrics::synced(started.elapsed());
        synced
    }
}

impl Shared {
    /// K6: nothing is acknowledged any more.
    fn poison(&self, why: &str) {
        tracing::error!(why, "the log failed; the bookie must restart");
        let failed = LogFailed::Poisoned(why.into());
        self.queue.fail(failed.clone());
        self.durable.send_modify(|durable| durable.failed = Some(failed));
    }

    /// Nothing more will come, and everything that was appended is durable, or nobody can say so.
    fn end(&self, why: LogFailed) {
        self.durable.send_modify(|durable| durable.failed = Some(why));
    }
}
