//! The first-contact check (K2, F5): a linearizable read of the ledger's metadata, judged by the core. At most so many at
//! a time, each under a deadline: a store that hangs makes answers `Busy`, and holds up only the ledgers that wait for it.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::LedgerMeta;
use geminga_metastore::{MetaStore, keys};
use geminga_proto::ids::{LedgerId, Member};
use tokio::sync::Semaphore;

use super::{Finding, judge};

/// Reads at a time, of one bookie.
const AT_ONCE: usize = 64;
/// How long one check may take, its wait for a turn included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Checks ledgers against the metadata. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Checker {
    store: Arc<dyn MetaStore>,
    turns: Arc<Semaphore>,
}

impl Checker {
    /// A checker that reads from `store`.
    pub(crate) fn new(store: Arc<dyn MetaStore>) -> Self {
        Self { store, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// What the metadata says about `member` writing to `ledger`. Cancel-safe.
    pub(crate) async fn check(&self, ledger: LedgerId, member: &Member) -> Finding {
        match tokio::time::timeout(TIMEOUT, self.read(ledger, member)).await {
            Ok(finding) => finding,
            Err(_) => {
                tracing::warn!(%ledger, "metadata was not read in time; the contact is put off");
                Finding::Unavailable
            }
        }
    }

    async fn read(&self, ledger: LedgerId, member: &Member) -> Finding {
        let Ok(_turn) = self.turns.acquire().await else { return Finding::Unavailable };
        let found = match self.store.get(&keys::ledger(ledger)).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%ledger, %error, "metadata could not be read; the contact is put off");
                return Finding::Unavailable;
            }
        };
        match found.map(|found| LedgerMeta::decode(ledger, &found.value)).transpose() {
            Ok(meta) => judge(meta.as_ref(), member),
            Err(error) => {
                tracing::error!(%ledger, %error, "metadata of a ledger is invalid");
                Finding::Unavailable
            }
        }
    }
}
