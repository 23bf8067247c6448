//! The store in memory: for tests and simulation. Leases end by tokio's clock, which tests pause. Nothing survives.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::local::{self, Next};
use crate::store::{
    Error, LeaseId, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};
use crate::tree::Tree;

/// A metadata store that lives as long as its last handle. Cloning shares it.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tree: Mutex<Tree>,
    changed: watch::Sender<Revision>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let start = Revision(0);
        let inner =
            Inner { tree: Mutex::new(Tree::new(start)), changed: watch::Sender::new(start) };
        Self { inner: Arc::new(inner) }
    }

    /// Runs `work` on what is true now: leases that have ended are gone.
    fn with<R>(&self, work: impl FnOnce(&mut Tree) -> R) -> R {
        let mut tree = self.inner.tree.lock();
        for lease in tree.expired(Instant::now()) {
            end(&mut tree, lease);
        }
        let result = work(&mut tree);
        let revision = tree.revision();
        drop(tree);
        self.inner.changed.send_if_modified(|seen| std::mem::replace(seen, revision) != revision);
        result
    }

    /// Forgets history, so that watches that lag get a snapshot.
    #[cfg(test)]
    pub(crate) fn compact(&self) {
        self.with(Tree::compact);
    }
}

fn end(tree: &mut Tree, lease: LeaseId) {
    if let Some(prepared) = tree.prepare_end(lease) {
        tree.apply(prepared);
    }
    tree.forget(lease);
}

impl local::Source for MemoryStore {
    fn next_event(&self, prefix: &str, seen: Option<Revision>) -> Next {
        self.with(|tree| match tree.next_event(prefix, seen) {
            Some((event, now)) => Next::Event(event, now),
            None => Next::Nothing(tree.revision(), tree.next_expiry()),
        })
    }

    fn changed(&self) -> watch::Receiver<Revision> {
        self.inner.changed.subscribe()
    }
}

#[async_trait]
impl MetaStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        Ok(self.with(|tree| tree.get(key)))
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        Ok(self.with(|tree| tree.range(prefix, after, limit)))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.with(|tree| match tree.prepare(&txn)? {
            None => Ok(TxnOutcome::GuardFailed),
            Some(prepared) => {
                let revision = prepared.revision;
                tree.apply(prepared);
                Ok(TxnOutcome::Committed(revision))
            }
        })
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        Ok(local::watch(self.clone(), prefix, from))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let lease = LeaseId(local::next_lease());
        self.with(|tree| tree.grant(lease, ttl, Instant::now()));
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.with(|tree| tree.keep_alive(lease, Instant::now()))
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.with(|tree| end(tree, lease));
        Ok(())
    }
}
