//! The store in one crash-safe file: for a cluster of one process. Reads come from memory; every change is committed to
//! the file before it is visible or answered. One thread owns the file; requests reach it through a bounded queue.
//!
//! Leases belong to a process life: what a former life had under a lease is dropped, in one revision, when the file is
//! opened. The file is locked; a second process is refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::local;
use crate::store::{
    Error, LeaseId, MetaStore, Range, Revision, Txn, TxnOutcome, Version, Versioned, WatchEvent,
    WatchStream,
};
use crate::tree::{Prepared, Tree};

/// Key → created, version, leased, value.
const ITEMS: TableDefinition<'_, &str, (i64, i64, bool, &[u8])> = TableDefinition::new("items");
/// `revision` and `format`.
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");
const FORMAT: i64 = 1;
/// Requests that wait for the owner of the file.
const QUEUE: usize = 1024;
/// A lease granted while the owner waits is noticed after so long at most.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop it, or choose another --data-dir")]
    InUse(String),
    /// Written by a newer version.
    #[error("{path} has format {format}: upgrade this process")]
    Format {
        /// The file.
        path: String,
        /// What it says.
        format: i64,
    },
    /// Anything else.
    #[error("{path} cannot be opened: {why}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
}

/// A metadata store in one file. Cloning shares it; the file is closed with the last handle.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Shared {
    tree: Mutex<Tree>,
    changed: watch::Sender<Revision>,
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
}

impl EmbeddedStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let name = path.display().to_string();
        let io = |why: &dyn std::fmt::Display| OpenError::Io {
            path: name.clone(),
            why: why.to_string(),
        };
        let database = Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(name.clone()),
            other => io(&other),
        })?;
        let (tree, leased) = load(&database)
            .map_err(|error| io(&error))?
            .map_err(|format| OpenError::Format { path: name.clone(), format })?;
        let shared = Arc::new(Shared {
            changed: watch::Sender::new(tree.revision()),
            tree: Mutex::new(tree),
        });
        let mut file = File { database, shared: Arc::clone(&shared) };
        file.drop_leased(leased).map_err(|error| io(&error))?;
        let (requests, queue) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("metastore".to_owned())
            .spawn(move || file.run(&queue))
            .map_err(|error| io(&error))?;
        let owner = Owner { requests: Some(requests), thread: Some(thread) };
        Ok(Self { shared, owner: Arc::new(owner) })
    }

    async fn ask<R>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<R, Error>>) -> Request,
    ) -> Result<R, Error> {
        let (answer, reply) = oneshot::channel();
        let requests = self.owner.requests.as_ref().expect("there until the last handle drops");
        requests.try_send(request(answer)).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(_) => {
                Error::Unavailable("its queue is full".to_owned())
            }
            std::sync::mpsc::TrySendError::Disconnected(_) => {
                Error::Unavailable("its file failed: restart the process".to_owned())
            }
        })?;
        reply.await.unwrap_or_else(|_| Err(Error::Unknown("its file failed".to_owned())))
    }
}

type Loaded = Result<(Tree, Vec<String>), i64>;

fn load(database: &Database) -> Result<Loaded, redb::Error> {
    let write = database.begin_write()?;
    {
        write.open_table(ITEMS)?;
        let mut numbers = write.open_table(NUMBERS)?;
        let format = numbers.get("format")?.map(|format| format.value());
        match format {
            None => {
                numbers.insert("format", FORMAT)?;
            }
            Some(FORMAT) => {}
            Some(other) => return Ok(Err(other)),
        }
    }
    write.commit()?;
    let read = database.begin_read()?;
    let revision =
        read.open_table(NUMBERS)?.get("revision")?.map_or(0, |revision| revision.value());
    let mut tree = Tree::new(Revision(revision));
    let mut leased = Vec::new();
    for item in read.open_table(ITEMS)?.iter()? {
        let (key, value) = item?;
        let (created, version, has_lease, value) = value.value();
        let value = Versioned {
            value: Bytes::copy_from_slice(value),
            version: Version(version),
            created: Revision(created),
        };
        tree.restore(key.value().to_owned(), value);
        if has_lease {
            leased.push(key.value().to_owned());
        }
    }
    Ok(Ok((tree, leased)))
}

/// The file and its only writer.
struct File {
    database: Database,
    shared: Arc<Shared>,
}

impl File {
    fn run(mut self, queue: &Receiver<Request>) {
        loop {
            let expiry = self.shared.tree.lock().next_expiry();
            let wait = expiry.map_or(Duration::from_secs(3600), |at| {
                at.saturating_duration_since(Instant::now())
            });
            let handled = match queue.recv_timeout(wait) {
                Ok(Request::Txn(txn, answer)) => self.txn(&txn, answer),
                Ok(Request::Revoke(lease, answer)) => {
                    let ended = self.end(lease);
                    let ok = ended.is_ok();
                    let _gone = answer.send(ended.map_err(|error| unknown(&error)));
                    ok
                }
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let expired = self.shared.tree.lock().expired(Instant::now());
            let ended = expired.into_iter().try_for_each(|lease| self.end(lease));
            if !handled || ended.is_err() {
                // What the file holds now is unknown: nobody gets another answer until it is opened again.
                tracing::error!("the metadata file failed; restart the process");
                return;
            }
        }
    }

    /// Returns false when the file failed.
    fn txn(&mut self, txn: &Txn, answer: oneshot::Sender<Result<TxnOutcome, Error>>) -> bool {
        let prepared = self.shared.tree.lock().prepare(txn);
        let (result, ok) = match prepared {
            Err(error) => (Err(error), true),
            Ok(None) => (Ok(TxnOutcome::GuardFailed), true),
            Ok(Some(prepared)) => {
                let revision = prepared.revision;
                match self.commit(prepared) {
                    Ok(()) => (Ok(TxnOutcome::Committed(revision)), true),
                    Err(error) => (Err(unknown(&error)), false),
                }
            }
        };
        let _gone = answer.send(result);
        ok
    }

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
        let gone = |key| crate::tree::Write { key, value: None, lease: None };
        let writes = keys.into_iter().map(gone).collect();
        let revision = Revision(self.shared.tree.lock().revision().0 + 1);
        self.commit(Prepared { revision, writes })
    }

    /// Durable first, then visible.
    fn commit(&mut self, prepared: Prepared) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut items = write.open_table(ITEMS)?;
            for change in &prepared.writes {
                match &change.value {
                    Some(value) => {
                        let stored = (
                            value.created.0,
                            value.version.0,
                            change.lease.is_some(),
                            value.value.as_ref(),
                        );
                        items.insert(change.key.as_str(), stored)?;
                    }
                    None => {
                        items.remove(change.key.as_str())?;
                    }
                }
            }
            write.open_table(NUMBERS)?.insert("revision", prepared.revision.0)?;
        }
        write.commit()?;
        let revision = prepared.revision;
        self.shared.tree.lock().apply(prepared);
        self.shared.changed.send_replace(revision);
        Ok(())
    }
}

fn unknown(error: &redb::Error) -> Error {
    Error::Unknown(error.to_string())
}

impl local::Source for EmbeddedStore {
    fn next_event(
        &self,
        prefix: &str,
        seen: Option<Revision>,
    ) -> Result<(WatchEvent, Revision), Option<Instant>> {
        // The owner ends leases by itself, so there is nothing to wait for but the next revision.
        self.shared.tree.lock().next_event(prefix, seen).ok_or(None)
    }

    fn changed(&self) -> watch::Receiver<Revision> {
        self.shared.changed.subscribe()
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        Ok(self.shared.tree.lock().get(key))
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        Ok(self.shared.tree.lock().range(prefix, after, limit))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.ask(|answer| Request::Txn(txn, answer)).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        Ok(local::watch(self.clone(), prefix, from))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let lease = LeaseId(local::next_lease());
        self.shared.tree.lock().grant(lease, ttl, Instant::now());
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.shared.tree.lock().keep_alive(lease, Instant::now())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|answer| Request::Revoke(lease, answer)).await
    }
}
