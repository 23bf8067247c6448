//! Records on their way to the disk: appended by many, taken by the committer, in one order. Bounded by bytes: room is
//! reserved before a record is appended and given back when it is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::LogFailed;
use super::footer::Item;
use super::{Lsn, Permit};

/// A record that waits to be written.
#[derive(Debug)]
pub(super) struct Queued {
    /// What it holds; where it stands is not known yet.
    pub(super) item: Item,
    /// The segment that its entries are moved from, if they are.
    pub(super) moved_from: Option<u32>,
    /// Encoded, before the entries.
    pub(super) head: Bytes,
    /// Empty unless it is an `Entries` record.
    pub(super) entries: Vec<Bytes>,
    /// Head and entries.
    pub(super) bytes: usize,
    /// Room in the queue, given back when this is dropped.
    pub(super) permit: Permit,
}

/// What the committer does next.
#[derive(Debug)]
pub(super) enum Work {
    /// Write these; the last one's place.
    Records(Vec<Queued>, Lsn),
    /// Nothing came for the given time.
    Idle,
    /// Everything is written and nothing more will come.
    Closed,
}

/// The queue of one log.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    work: Condvar,
    room: Arc<Semaphore>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Queued>,
    tail: Lsn,
    stopped: Option<LogFailed>,
}

impl Queue {
    /// A queue for `bytes` that are not durable yet.
    pub(super) fn new(bytes: usize) -> Self {
        let most = Semaphore::MAX_PERMITS.min(u32::MAX as usize);
        let capacity = bytes.clamp(1, most);
        Self {
            state: Mutex::default(),
            work: Condvar::new(),
            room: Arc::new(Semaphore::new(capacity)),
            capacity,
        }
    }

    /// Waits for room. Cancel-safe.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, LogFailed> {
        let bytes = bytes.clamp(1, self.capacity);
        let bytes = u32::try_from(bytes).expect("a queue's capacity fits");
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        // The room is closed after the reason is known.
        room.map_err(|_| self.stopped().unwrap_or(LogFailed::Closed))
    }

    /// Appends; the place of the record.
    pub(super) fn push(&self, record: Queued) -> Result<Lsn, LogFailed> {
        let mut state = self.state.lock();
        if let Some(why) = &state.stopped {
            return Err(why.clone());
        }
        state.tail.0 += 1;
        state.records.push_back(record);
        let tail = state.tail;
        drop(state);
        self.work.notify_one();
        Ok(tail)
    }

    /// The place of the newest record.
    pub(super) fn tail(&self) -> Lsn {
        self.state.lock().tail
    }

    /// Why nothing is taken any more.
    pub(super) fn stopped(&self) -> Option<LogFailed> {
        self.state.lock().stopped.clone()
    }

    /// Blocks until there is work. Takes up to `max_bytes`, one record at least; gives up after `idle`.
    pub(super) fn take(&self, max_bytes: usize, idle: Option<Duration>) -> Work {
        let mut state = self.state.lock();
        let nothing = |state: &mut State| state.records.is_empty() && state.stopped.is_none();
        match idle {
            Some(idle) => {
                if self.work.wait_while_for(&mut state, nothing, idle).timed_out() {
                    return Work::Idle;
                }
            }
            None => self.work.wait_while(&mut state, nothing),
        }
        Self::take_now(&mut state, max_bytes).unwrap_or(Work::Closed)
    }

    /// [`Queue::take`] for a caller that does not wait: nothing when there is no work.
    #[cfg(feature = "simulation")]
    pub(super) fn try_take(&self, max_bytes: usize) -> Option<Work> {
        Self::take_now(&mut self.state.lock(), max_bytes)
    }

    fn take_now(state: &mut State, max_bytes: usize) -> Option<Work> {
        if state.records.is_empty() {
            return None;
        }
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(record) = state.records.front() {
            if !taken.is_empty() && bytes + record.bytes > max_bytes {
                break;
            }
            bytes += record.bytes;
            taken.extend(state.records.pop_front());
        }
        let last = Lsn(state.tail.0 - state.records.len() as u64);
        Some(Work::Records(taken, last))
    }

    /// Takes nothing more; what was appended is still written.
    pub(super) fn close(&self) {
        self.stop(LogFailed::Closed);
    }

    /// Takes nothing more, and drops what was not taken.
    pub(super) fn fail(&self, why: LogFailed) {
        let dropped = {
            let mut state = self.state.lock();
            state.stopped = Some(why);
            std::mem::take(&mut state.records)
        };
        drop(dropped);
        self.room.close();
        self.work.notify_all();
    }

    fn stop(&self, why: LogFailed) {
        self.state.lock().stopped.get_or_insert(why);
        self.room.close();
        self.work.notify_all();
    }
}
