//! A metadata store that a test takes away, or whose answers it holds or loses.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use geminga_metastore::{
    Error, LeaseId, MemoryStore, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Nobody answers, and nothing takes effect.
    Away,
    /// Nothing is answered, and nothing takes effect; a caller hears so after five seconds.
    Hang,
    /// The next transaction takes effect and its answer is lost; then all is well.
    LoseAnswer,
    /// The next transaction is lost with its answer; then all is well.
    LoseRequest,
}

/// A [`MemoryStore`] with faults. Cloning shares both.
#[derive(Debug, Clone)]
pub(crate) struct FaultyStore {
    store: MemoryStore,
    fault: Arc<Mutex<Fault>>,
    late: Arc<Mutex<Option<Arc<Notify>>>>,
    holds: Arc<watch::Sender<Holds>>,
}

/// Keys whose readers wait.
#[derive(Debug, Default)]
struct Holds {
    held: BTreeSet<String>,
    /// Those that were asked for while they were held, in that order.
    asked: Vec<String>,
}

impl FaultyStore {
    pub(crate) fn new(store: MemoryStore) -> Self {
        let fault = Arc::new(Mutex::new(Fault::None));
        Self { store, fault, late: Arc::default(), holds: Arc::default() }
    }

    /// Whoever reads one of these keys waits until it is let go.
    pub(crate) fn hold(&self, keys: impl Iterator<Item = String>) {
        self.holds.send_modify(|holds| holds.held.extend(keys));
    }

    /// Answers whoever waits for a key that is held.
    pub(crate) fn let_go(&self, key: &str) {
        self.holds.send_if_modified(|holds| holds.held.remove(key));
    }

    /// Waits until so many of the held keys were asked for; all that were, in that order.
    pub(crate) async fn asked(&self, least: usize) -> Vec<String> {
        let mut holds = self.holds.subscribe();
        let enough = holds.wait_for(|holds| holds.asked.len() >= least).await;
        enough.expect("the sender is here").asked.clone()
    }

    async fn pass(&self, key: &str) {
        let mut holds = self.holds.subscribe();
        self.holds.send_if_modified(|holds| {
            let held = holds.held.contains(key);
            if held {
                holds.asked.push(key.to_owned());
            }
            held
        });
        let _passed = holds.wait_for(|holds| !holds.held.contains(key)).await.is_ok();
    }

    /// The next key that is read is answered when this is told, with what stood there at first.
    pub(crate) fn answer_late(&self) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        *self.late.lock() = Some(Arc::clone(&told));
        told
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock() = fault;
    }

    async fn answer(&self) -> Result<(), Error> {
        let fault = *self.fault.lock();
        match fault {
            Fault::Hang => {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Err(Error::Unavailable("told so by the test, in time".to_owned()))
            }
            Fault::Away => Err(Error::Unavailable("told so by the test".to_owned())),
            Fault::None | Fault::LoseAnswer | Fault::LoseRequest => Ok(()),
        }
    }
}

#[async_trait]
impl MetaStore for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.answer().await?;
        self.pass(key).await;
        let found = self.store.get(key).await;
        let late = self.late.lock().take();
        if let Some(told) = late {
            told.notified().await;
        }
        found
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.answer().await?;
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.answer().await?;
        let fault = std::mem::replace(&mut *self.fault.lock(), Fault::None);
        let lost = || Error::Unknown("told so by the test".to_owned());
        match fault {
            Fault::LoseAnswer => self.store.txn(txn).await.and(Err(lost())),
            Fault::LoseRequest => Err(lost()),
            Fault::None | Fault::Away | Fault::Hang => self.store.txn(txn).await,
        }
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.answer().await?;
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.answer().await?;
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.answer().await?;
        self.store.revoke_lease(lease).await
    }
}
