//! How far the disks' logs have come, told to the metadata store every ten minutes and when the bookie stops (protocol
//! 5.7): a disk that is restored from a copy of the same boot has the right cookie and boot counter, and only this
//! mark tells that it lost what it had acknowledged since. Who was rolled back by less than the interval is not recognised.
//!
//! Owned by one task. Each put is guarded by the bookie's cookie, so that a former boot never lowers the mark of the present
//! one, and by the mark's own version.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{DiskWatermark, Watermark};
use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::BookieId;
use geminga_runtime::Tasks;

use crate::handle::BookieHandle;

/// Between marks.
const INTERVAL: Duration = Duration::from_secs(600);

/// The mark that stands; empty when none does.
///
/// # Errors
/// When the store does not answer, or the value is none.
pub(crate) async fn read(store: &dyn MetaStore, bookie: &BookieId) -> Result<Watermark, Error> {
    Ok(read_version(store, bookie).await?.map(|(mark, _)| mark).unwrap_or_default())
}

async fn read_version(
    store: &dyn MetaStore,
    bookie: &BookieId,
) -> Result<Option<(Watermark, Version)>, Error> {
    let key = keys::bookie_watermark(bookie);
    let Some(found) = store.get(&key).await? else { return Ok(None) };
    match Watermark::decode(&found.value) {
        Ok(mark) => Ok(Some((mark, found.version))),
        Err(invalid) => Err(Error::Corrupt { key, why: invalid.to_string() }),
    }
}

/// Keeps one bookie's mark.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) handle: BookieHandle,
    /// The version of this boot's cookie.
    pub(crate) cookie: Version,
}

impl Keeper {
    /// Writes marks until `tasks` stops.
    pub(crate) async fn run(self, tasks: Tasks) {
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                () = tokio::time::sleep(INTERVAL) => self.mark().await,
            }
        }
    }

    /// Writes the mark once, as far as the store answers. What is not written makes the mark coarser and nothing else.
    pub(crate) async fn mark(&self) {
        match self.try_mark().await {
            Ok(TxnOutcome::Committed(_)) => {}
            Ok(TxnOutcome::GuardFailed) => {
                tracing::warn!(
                    "the watermark of this bookie was not written: another boot of it has begun"
                );
            }
            Err(error) => tracing::warn!(%error, "the watermark of this bookie was not written"),
        }
    }

    async fn try_mark(&self) -> Result<TxnOutcome, Error> {
        let bookie = self.handle.id();
        let key = keys::bookie_watermark(bookie);
        let own = match read_version(&*self.store, bookie).await? {
            Some((_, version)) => Guard::Version(key.clone(), version),
            None => Guard::Absent(key.clone()),
        };
        let disk = |disk: &crate::ledger::DiskLedgers| DiskWatermark {
            incarnation: disk.member().incarnation,
            frame: disk.log().durable_frame(),
        };
        let mark = Watermark { disks: self.handle.disks().iter().map(disk).collect() };
        let cookie = Guard::Version(keys::bookie_cookie(bookie), self.cookie);
        self.store.txn(Txn::new().guard(cookie).guard(own).put(key, mark.encode())).await
    }
}
