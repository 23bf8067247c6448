//! The first-contact check (K2, F5, 6.5): a linearizable read of the ledger's metadata, judged by the core. At most so many at
//! a time, each under a deadline: a store that hangs makes answers `Busy`, and holds up only the ledgers that wait for it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{LedgerMeta, Under};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{EntryId, LedgerId, Member};
use tokio::sync::Semaphore;

use super::{Finding, judge, judge_repair};

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
        let read = async { Ok(judge(self.meta(ledger).await?.as_ref(), member)) };
        self.within(ledger, read).await
    }

    /// What the metadata says about a repair that brings `member` copies of the fragment that begins at `first`. Cancel-safe.
    pub(crate) async fn check_repair(
        &self,
        ledger: LedgerId,
        member: &Member,
        first: EntryId,
    ) -> Finding {
        let read = async {
            // The mark first: what it names may have been repaired since, and then the fragment names it no more.
            let mark = self.mark(ledger).await?;
            Ok(judge_repair(self.meta(ledger).await?.as_ref(), mark.as_ref(), member, first))
        };
        self.within(ledger, read).await
    }

    async fn within(
        &self,
        ledger: LedgerId,
        read: impl Future<Output = Result<Finding, Error>>,
    ) -> Finding {
        let turned = async {
            match self.turns.acquire().await {
                Ok(_turn) => read.await,
                Err(_) => Ok(Finding::Unavailable),
            }
        };
        match tokio::time::timeout(TIMEOUT, turned).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => {
                tracing::warn!(%ledger, %error, "metadata could not be read; the contact is put off");
                Finding::Unavailable
            }
            Err(_) => {
                tracing::warn!(%ledger, "metadata was not read in time; the contact is put off");
                Finding::Unavailable
            }
        }
    }

    async fn meta(&self, ledger: LedgerId) -> Result<Option<LedgerMeta>, Error> {
        let key = keys::ledger(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(None) };
        let meta = LedgerMeta::decode(ledger, &found.value);
        meta.map(Some).map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })
    }

    async fn mark(&self, ledger: LedgerId) -> Result<Option<Under>, Error> {
        let key = keys::under(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(None) };
        let mark = Under::decode(ledger, &found.value);
        mark.map(Some).map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })
    }
}
