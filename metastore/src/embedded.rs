//! The store in one crash-safe file: for a cluster of one process. Reads come from memory; every change is committed to
//! the file before it is visible or answered. One thread owns the file; requests reach it through a bounded queue.
//!
//! Leases belong to a process life: what a former life had under a lease is dropped, in one revision, when the file is
//! opened. They end by the machine's clock, also where a test pauses tokio's. The file is locked; a second process is refused.
//!
//! When the file fails, what it holds is unknown: from then on the store answers nothing but [`Error::Unavailable`].

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::local::{self, Next};
use crate::store::{
    Error, KeyValue, LeaseId, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};
use crate::tree::{Prepared, Tree, Write};

mod file;

use file::File;
pub use file::OpenError;

/// Requests that wait for the owner of the file.
const QUEUE: usize = 1024;
/// How long the owner sleeps when there is neither a request nor a lease.
const IDLE: Duration = Duration::from_secs(3600);

/// A metadata store in one file. Cloning shares it; the file is closed with the last handle or watch.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Shared {
    tree: Mutex<Tree>,
    changed: watch::Sender<Revision>,
    /// Set once, when the owner ends.
    failed: watch::Sender<bool>,
}

/// The thread that owns the file; ends when the last handle drops the queue.
#[derive(Debug)]
struct Owner {
    requests: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has poisoned nothing but itself: every later request was refused.
            let _panicked = thread.join();
        }
    }
}

enum Request {
    Txn(Txn, oneshot::Sender<Result<TxnOutcome, Error>>),
    Revoke(LeaseId, oneshot::Sender<Result<(), Error>>),
    /// There is a new lease: it may end before all others.
    Granted,
}

impl EmbeddedStore {
    /// Opens the file, or makes it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (file, loaded) = File::open(path)?;
        let mut tree = Tree::new(loaded.revision);
        for KeyValue { key, value } in loaded.items {
            tree.restore(key, value);
        }
        let shared = Arc::new(Shared {
            changed: watch::Sender::new(tree.revision()),
            tree: Mutex::new(tree),
            failed: watch::Sender::new(false),
        });
        let mut worker = Worker { file, shared: Arc::clone(&shared) };
        let io = |why: String| OpenError::Io { path: path.display().to_string(), why };
        worker.drop_leased(loaded.leased).map_err(|error| io(error.to_string()))?;
        let (requests, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("metastore".to_owned())
            .spawn(move || worker.run(&queue))
            .map_err(|error| io(error.to_string()))?;
        let owner = Owner { requests: Some(requests), thread: Some(thread) };
        Ok(Self { shared, owner: Arc::new(owner) })
    }

    /// Reads a file that no process has open, without changing what it holds: for tools. Blocks.
    ///
    /// # Errors
    /// [`OpenError`]; also when there is no such file.
    pub fn read_file(path: &Path) -> Result<Range, OpenError> {
        let (_, loaded) = File::open_existing(path)?;
        Ok(Range { items: loaded.items, revision: loaded.revision, more: false })
    }

    /// Whether the file has failed, after which only a restart of the process helps.
    pub fn has_failed(&self) -> bool {
        *self.shared.failed.borrow()
    }

    /// Resolves when the file has failed. Cancel-safe.
    pub async fn failed(&self) {
        let mut failed = self.shared.failed.subscribe();
        // The sender lives as long as this handle.
        let _ended = failed.wait_for(|failed| *failed).await;
    }

    /// What is true now, unless the file failed.
    fn tree(&self) -> Result<MutexGuard<'_, Tree>, Error> {
        let tree = self.shared.tree.lock();
        if self.has_failed() { Err(failed()) } else { Ok(tree) }
    }

    /// Forgets history, so that watches that lag get a snapshot.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        self.shared.tree.lock().compact();
    }

    fn send(&self, request: Request) -> Result<(), TrySendError<Request>> {
        self.owner.requests.as_ref().expect("there until the last handle drops").try_send(request)
    }

    async fn ask<R>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<R, Error>>) -> Request,
    ) -> Result<R, Error> {
        let (answer, reply) = oneshot::channel();
        self.send(request(answer)).map_err(|error| match error {
            TrySendError::Full(_) => {
                Error::Unavailable("too many requests wait for its file".to_owned())
            }
            TrySendError::Disconnected(_) => failed(),
        })?;
        reply.await.unwrap_or_else(|_| Err(Error::Unknown("its file failed".to_owned())))
    }
}

fn failed() -> Error {
    Error::Unavailable("its file failed, restart the process".to_owned())
}

/// The file and its only writer.
struct Worker {
    file: File,
    shared: Arc<Shared>,
}

/// However the owner ends, by an error or a panic: nobody is told anything after it.
impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.failed.send_replace(true);
    }
}

impl Worker {
    fn run(mut self, queue: &Receiver<Request>) {
        if let Err(error) = self.serve(queue) {
            // What the file holds now is unknown: nobody gets another answer until it is opened again. The
            // requests that still wait are answered by the end of their queue.
            tracing::error!(%error, "the metadata file failed; restart the process");
        }
    }

    /// Serves until the last handle is gone, or the file fails.
    fn serve(&mut self, queue: &Receiver<Request>) -> Result<(), redb::Error> {
        loop {
            let expiry = self.shared.tree.lock().next_expiry();
            let wait = expiry.map_or(IDLE, |at| at.saturating_duration_since(Instant::now()));
            let request = match queue.recv_timeout(wait) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            // First, so that no request meets a lease that has ended.
            self.end_expired()?;
            match request {
                Some(Request::Txn(txn, answer)) => self.txn(&txn, answer)?,
                Some(Request::Revoke(lease, answer)) => self.revoke(lease, answer)?,
                Some(Request::Granted) | None => {}
            }
        }
    }

    fn end_expired(&mut self) -> Result<(), redb::Error> {
        let expired = self.shared.tree.lock().expired(Instant::now());
        expired.into_iter().try_for_each(|lease| self.end(lease))
    }

    fn txn(
        &mut self,
        txn: &Txn,
        answer: oneshot::Sender<Result<TxnOutcome, Error>>,
    ) -> Result<(), redb::Error> {
        let judged = self.shared.tree.lock().prepare(txn);
        let result = match judged {
            Err(error) => Err(error),
            Ok(None) => Ok(TxnOutcome::GuardFailed),
            Ok(Some(prepared)) => {
                let revision = prepared.revision;
                if let Err(error) = self.commit(prepared) {
                    let _gone = answer.send(Err(Error::Unknown(error.to_string())));
                    return Err(error);
                }
                Ok(TxnOutcome::Committed(revision))
            }
        };
        // Whoever asked may have gone: the outcome is unknown to them (M9).
        let _gone = answer.send(result);
        Ok(())
    }

    fn revoke(
        &mut self,
        lease: LeaseId,
        answer: oneshot::Sender<Result<(), Error>>,
    ) -> Result<(), redb::Error> {
        if let Err(error) = self.end(lease) {
            let _gone = answer.send(Err(Error::Unknown(error.to_string())));
            return Err(error);
        }
        let _gone = answer.send(Ok(()));
        Ok(())
    }

    /// Removes a lease and its keys. Nobody can bind another key to it meanwhile: this is the only writer.
    fn end(&mut self, lease: LeaseId) -> Result<(), redb::Error> {
        let prepared = self.shared.tree.lock().prepare_end(lease);
        if let Some(prepared) = prepared {
            self.commit(prepared)?;
        }
        self.shared.tree.lock().forget(lease);
        Ok(())
    }

    fn drop_leased(&mut self, keys: Vec<String>) -> Result<(), redb::Error> {
        if keys.is_empty() {
            return Ok(());
        }
        let gone = |key| Write { key, value: None, lease: None };
        let writes = keys.into_iter().map(gone).collect();
        let revision = Revision(self.shared.tree.lock().revision().0 + 1);
        self.commit(Prepared { revision, writes })
    }

    /// Durable first, then visible. After an error the store has failed, before anybody is told.
    fn commit(&mut self, prepared: Prepared) -> Result<(), redb::Error> {
        if prepared.writes.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.commit(&prepared) {
            self.shared.failed.send_replace(true);
            return Err(error);
        }
        let revision = prepared.revision;
        self.shared.tree.lock().apply(prepared);
        self.shared.changed.send_replace(revision);
        Ok(())
    }
}

impl local::Source for EmbeddedStore {
    fn next_event(&self, prefix: &str, seen: Option<Revision>) -> Next {
        let tree = self.shared.tree.lock();
        match tree.next_event(prefix, seen) {
            Some((event, now)) => Next::Event(event, now),
            // The owner ends leases by itself, so there is nothing to wait for but the next revision.
            None => Next::Nothing(tree.revision(), None),
        }
    }

    fn changed(&self) -> watch::Receiver<Revision> {
        self.shared.changed.subscribe()
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        Ok(self.tree()?.get(key))
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        Ok(self.tree()?.range(prefix, after, limit))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.ask(|answer| Request::Txn(txn, answer)).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        Ok(local::watch(self.clone(), prefix, from))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let lease = LeaseId(local::next_lease());
        self.tree()?.grant(lease, ttl, Instant::now());
        match self.send(Request::Granted) {
            // A full queue keeps the owner busy: it looks at the leases with every request.
            Ok(()) | Err(TrySendError::Full(_)) => Ok(lease),
            Err(TrySendError::Disconnected(_)) => Err(failed()),
        }
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.tree()?.keep_alive(lease, Instant::now())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|answer| Request::Revoke(lease, answer)).await
    }
}

#[cfg(test)]
mod tests;
