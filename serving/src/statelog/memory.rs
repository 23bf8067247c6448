//! A log in memory for tests: acknowledges at once or when told, can be taken over, and keeps snapshots as P4 asks.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use geminga_proto::ids::{PartitionIndex, Term};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::log::{
    Append, Closed, Event, Log, Logs, Lost, OpenError, Opened, Replay, SnapshotWanted,
};

/// One shard's log, shared by all its openings.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryLog {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    term: i32,
    /// Acknowledges only while false.
    paused: bool,
    /// Opening is refused.
    unavailable: bool,
    snapshot: Vec<Bytes>,
    commands: Vec<Bytes>,
    barriers: usize,
    /// Ask for a snapshot after this many commands.
    snapshot_every: Option<usize>,
}

impl MemoryLog {
    pub(crate) fn pause(&self, paused: bool) {
        self.state.lock().paused = paused;
        self.changed.notify_waiters();
    }

    pub(crate) fn set_unavailable(&self, unavailable: bool) {
        self.state.lock().unavailable = unavailable;
    }

    /// The opening at work now is over, as if another broker had taken the shard.
    pub(crate) fn depose(&self) {
        self.state.lock().term += 1;
        self.changed.notify_waiters();
    }

    pub(crate) fn snapshot_every(&self, commands: usize) {
        self.state.lock().snapshot_every = Some(commands);
    }

    /// (snapshot parts, commands since, barriers ever).
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let state = self.state.lock();
        (state.snapshot.len(), state.commands.len(), state.barriers)
    }
}

#[async_trait]
impl Logs for MemoryLog {
    async fn open(&self, _: PartitionIndex) -> Result<Opened, OpenError> {
        let mut state = self.state.lock();
        if state.unavailable {
            return Err(OpenError::Unavailable("told so by the test".to_owned()));
        }
        state.term += 1;
        let parts = state.snapshot.iter().cloned().map(Replay::SnapshotPart);
        let replay: Vec<_> =
            parts.chain(state.commands.iter().cloned().map(Replay::Command)).collect();
        let opening = Opening {
            log: self.clone(),
            term: state.term,
            appended: Vec::new(),
            acked: 0,
            snapshot: None,
            snapshot_due: true,
        };
        Ok(Opened {
            term: Term(state.term),
            replay: futures::stream::iter(replay.into_iter().map(Ok)).boxed(),
            log: Box::new(opening),
        })
    }
}

struct Opening {
    log: MemoryLog,
    term: i32,
    appended: Vec<Append>,
    acked: usize,
    snapshot: Option<oneshot::Receiver<Vec<Bytes>>>,
    snapshot_due: bool,
}

impl Opening {
    /// What can be said at once.
    fn poll(&mut self) -> Option<Event> {
        let mut state = self.log.state.lock();
        if state.term != self.term {
            return Some(Event::Lost(Lost::Deposed));
        }
        if let Some(answer) = self.snapshot.as_mut() {
            state.snapshot = answer.try_recv().ok()?;
            state.commands.clear();
            self.snapshot = None;
        }
        if self.snapshot_due || state.snapshot_every.is_some_and(|n| state.commands.len() >= n) {
            self.snapshot_due = false;
            let (wanted, answer) = SnapshotWanted::new();
            self.snapshot = Some(answer);
            return Some(Event::Snapshot(wanted));
        }
        if state.paused || self.acked == self.appended.len() {
            return None;
        }
        match &self.appended[self.acked] {
            Append::Command(command) => state.commands.push(command.clone()),
            Append::Barrier => state.barriers += 1,
        }
        self.acked += 1;
        Some(Event::Acked { through: self.acked as u64 })
    }
}

#[async_trait]
impl Log for Opening {
    fn append(&mut self, what: Append) -> Result<u64, Closed> {
        if self.log.state.lock().term != self.term {
            return Err(Closed);
        }
        self.appended.push(what);
        Ok(self.appended.len() as u64)
    }

    async fn event(&mut self) -> Event {
        loop {
            let notify = self.log.changed.clone();
            let changed = notify.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.poll() {
                Some(event) => return event,
                // An answered snapshot is seen on the next turn: the shard answers before it waits again.
                None => changed.await,
            }
        }
    }
}
