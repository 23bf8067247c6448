//! The transaction that closes a ledger by its writer (2.9), together with the caller's part. What to send, and what became
//! of it, is the core's to say ([`Commit`]); here the calls are made, and the caller's guards looked at.

use geminga_metastore::record::LedgerMeta;
use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::LedgerId;

use crate::core::commit::{CasResult, Commit, Next};

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

/// Commits a close, with the caller's part.
pub(super) async fn commit(
    store: &dyn MetaStore,
    ledger: LedgerId,
    (mut commit, mut next): (Commit, Next),
    with: &Txn,
) -> Result<LedgerMeta, CloseError> {
    let key = keys::ledger(ledger);
    let mut sent = None;
    loop {
        next = match next {
            Next::Cas { expected, meta } => {
                // Ours alone would have matched: a guard of the caller's failed, or nothing arrived (M9).
                if sent.replace(expected) == Some(expected) && !still_holds(store, with).await? {
                    return Err(CloseError::Lost);
                }
                let txn = Txn::new()
                    .guard(Guard::Version(key.clone(), expected))
                    .put(&key, meta.encode());
                match store.txn(txn.and(with.clone())).await {
                    Ok(TxnOutcome::Committed(revision)) => {
                        commit.cas_done(CasResult::Applied(Version(revision.0)))
                    }
                    Ok(TxnOutcome::GuardFailed) => commit.cas_done(CasResult::Lost),
                    Err(Error::Unknown(_)) => commit.cas_done(CasResult::Unknown),
                    Err(error) => {
                        // Certainly not applied; but as long as it can be neither closed nor read, the writer has no say.
                        tracing::warn!(%ledger, %error, "ledger could not be closed");
                        return Err(CloseError::Unknown);
                    }
                }
            }
            Next::Read => {
                let read = read_meta(store, ledger).await.map_err(|error| {
                    tracing::warn!(%ledger, %error, "metadata of a ledger could not be read");
                    CloseError::Unknown
                })?;
                commit.read(read)
            }
            Next::Committed(closed, _) => return Ok(*closed),
            Next::Lost => return Err(CloseError::Lost),
        }
    }
}

/// A ledger's metadata, read linearizably (M8).
pub(super) async fn read_meta(
    store: &dyn MetaStore,
    ledger: LedgerId,
) -> Result<Option<(LedgerMeta, Version)>, Error> {
    let key = keys::ledger(ledger);
    let Some(found) = store.get(&key).await? else { return Ok(None) };
    let meta = LedgerMeta::decode(ledger, &found.value)
        .map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })?;
    Ok(Some((meta, found.version)))
}

/// Whether the caller's guards still hold, so that the transaction is worth another try.
async fn still_holds(store: &dyn MetaStore, with: &Txn) -> Result<bool, CloseError> {
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
