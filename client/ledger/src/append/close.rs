//! The transaction that closes a ledger by its writer (2.9), with the merge rule and unknown outcomes (1.4, M9).

use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState};
use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::EntryId;

use super::flight::Totals;

/// Why a close did not take place, or is not known to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// A recoverer or a deletion came first, or the caller's guards no longer hold: the writer was deposed.
    #[error("the ledger was taken over: this writer has been deposed")]
    Lost,
    /// Nobody knows: recover the ledger to find out.
    #[error("whether the ledger was closed is unknown: recover it")]
    Unknown,
}

/// What to commit.
pub(super) struct ClosePlan {
    pub(super) meta: LedgerMeta,
    pub(super) version: Version,
    pub(super) last: EntryId,
    pub(super) totals: Totals,
    pub(super) op: u128,
}

impl ClosePlan {
    /// The closed value, built on `base` so that a repair of earlier fragments is kept (merge rule).
    pub(super) fn closed(&self, base: &LedgerMeta) -> LedgerMeta {
        LedgerMeta {
            state: LedgerState::Closed,
            last_entry: Some(self.last),
            length: self.totals.length,
            entries_crc: Some(self.totals.entries_crc),
            close_kind: Some(CloseKind::Writer),
            last_op: self.op,
            ..base.clone()
        }
    }

    /// Commits, with the caller's part.
    pub(super) async fn commit(
        mut self,
        store: &dyn MetaStore,
        with: &Txn,
    ) -> Result<LedgerMeta, CloseError> {
        let key = keys::ledger(self.meta.id);
        loop {
            let closed = self.closed(&self.meta);
            let txn = Txn::new()
                .guard(Guard::Version(key.clone(), self.version))
                .put(&key, closed.encode());
            match store.txn(txn.and(with.clone())).await {
                Ok(TxnOutcome::Committed(_)) => return Ok(closed),
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
                Err(error) => {
                    // Certainly not applied; but as long as it can be neither closed nor read, the writer has no say.
                    tracing::warn!(ledger = %self.meta.id, %error, "ledger could not be closed");
                    return Err(CloseError::Unknown);
                }
            }
            let (now, version) = read(store, &self.meta).await?;
            if now.last_op == self.op {
                return Ok(now);
            }
            // Closed by somebody at the same end is as good for the entries, but the caller's part was not made.
            if now.state != LedgerState::Open || now.last_fragment() != self.meta.last_fragment() {
                return Err(CloseError::Lost);
            }
            if version == self.version {
                // Ours alone would have matched: a guard of the caller's failed, or nothing arrived (M9).
                if !still_unknown(store, with).await? {
                    return Err(CloseError::Lost);
                }
            }
            (self.meta, self.version) = (now, version);
        }
    }
}

async fn read(
    store: &dyn MetaStore,
    meta: &LedgerMeta,
) -> Result<(LedgerMeta, Version), CloseError> {
    let read = store.get(&keys::ledger(meta.id)).await.map_err(|_| CloseError::Unknown)?;
    let Some(found) = read else { return Err(CloseError::Lost) };
    let now = LedgerMeta::decode(meta.id, &found.value).map_err(|error| {
        tracing::error!(ledger = %meta.id, %error, "ledger metadata cannot be read");
        CloseError::Unknown
    })?;
    Ok((now, found.version))
}

/// Whether the caller's guards still hold, so that the transaction is worth another try.
async fn still_unknown(store: &dyn MetaStore, with: &Txn) -> Result<bool, CloseError> {
    for guard in &with.guards {
        let (Guard::Absent(key) | Guard::Version(key, _) | Guard::Created(key, _)) = guard;
        let found = store.get(key).await.map_err(|_| CloseError::Unknown)?;
        let holds = match (guard, found) {
            (Guard::Absent(_), found) => found.is_none(),
            (Guard::Version(_, version), Some(found)) => found.version == *version,
            (Guard::Created(_, created), Some(found)) => found.created == *created,
            (_, None) => false,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}
