//! The first step of a ledger's end (protocol 7.8 (2)): its metadata becomes a tombstone, which bookies find by
//! themselves and then free what they hold.

use bytes::Bytes;
use geminga_metastore::record::Deleting;
use geminga_metastore::{Error as MetaError, Guard, Txn, TxnOutcome, keys};
use geminga_proto::ids::LedgerId;

use crate::client::LedgerClient;
use crate::core::removal::{NotClosed, tombstone};

/// Why a ledger is not being deleted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// Only what has an end can be deleted (1.3).
    #[error("ledger {0} is not closed: recover it first")]
    NotClosed(LedgerId),
    /// The metadata store did not do it.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

/// What begins a closed ledger's end, as a part of a transaction: two guards and two puts. `None` = the ledger is gone, or
/// deleted already, and will never be anything else (M6). A transaction of unknown outcome is followed by asking again.
pub(crate) async fn part(
    client: &LedgerClient,
    ledger: LedgerId,
) -> Result<Option<Txn>, DeleteError> {
    let Some((meta, version)) = client.metadata(ledger).await? else { return Ok(None) };
    let dead = tombstone(meta, client.parts.random.next_u128());
    let Some(meta) = dead.map_err(|NotClosed| DeleteError::NotClosed(ledger))? else {
        return Ok(None);
    };
    let (key, mark) = (keys::ledger(ledger), keys::deleting(ledger));
    let since: Bytes = Deleting { since_ms: client.parts.clock.now_ms() }.encode();
    // Nothing but a restored store has a mark beside a closed ledger; it must not keep the ledger for ever.
    let of_mark = match client.parts.store.get(&mark).await? {
        Some(found) => Guard::Version(mark.clone(), found.version),
        None => Guard::Absent(mark.clone()),
    };
    let guarded = Txn::new().guard(Guard::Version(key.clone(), version)).guard(of_mark);
    Ok(Some(guarded.put(key, meta.encode()).put(mark, since)))
}

/// Marks a closed ledger as deleted; one that is gone, or deleted already, is left as it is. Cancel-safe: a second call
/// finishes what a dropped one began.
pub(crate) async fn delete(client: &LedgerClient, ledger: LedgerId) -> Result<(), DeleteError> {
    while let Some(txn) = part(client, ledger).await? {
        match client.parts.store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => return Ok(()),
            // Whatever changed meanwhile, or took place after all (M9), the next look tells.
            Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
