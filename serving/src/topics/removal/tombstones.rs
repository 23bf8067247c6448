//! The end of deleted ledgers (protocol 7.8 (5), (6)): a week after a ledger became a tombstone its metadata goes, with the mark.
//! By then every bookie that lives has dropped it; one that comes back later finds no such ledger, and drops what it has unless
//! that is so much that metadata looks lost rather than deleted (G2).

use geminga_metastore::record::{Deleting, LedgerMeta, LedgerState};
use geminga_metastore::{Error, Guard, KeyValue, Revision, Txn, TxnOutcome, keys};
use geminga_proto::caps;
use geminga_proto::ids::LedgerId;

use super::task::Worker;

/// How long a tombstone stands, in milliseconds.
const STANDS_MS: i64 = 7 * 24 * 3_600_000;
/// Marks listed at a time: each needs two guards and two deletes, beside the guard of the office.
const PAGE: usize = (caps::MAX_METADATA_TXN_OPS - 1) / 4;

/// Whether a tombstone has stood for long enough. A date in the future is a wrong clock's, and counts when it has come.
fn is_over(mark: Deleting, now_ms: i64) -> bool {
    now_ms.saturating_sub(mark.since_ms) >= STANDS_MS
}

impl Worker {
    /// Removes tombstones that have stood for a week; how many. Cancel-safe: the next call goes on.
    ///
    /// # Errors
    /// [`Error`] of the metadata store; what was removed is removed.
    pub(super) async fn bury(&self, office: Revision, now_ms: i64) -> Result<usize, Error> {
        let (mut buried, mut after) = (0, None::<String>);
        loop {
            let page = self.store.range(keys::DELETING, after.as_deref(), PAGE).await?;
            let mut txn = Txn::new().guard(Guard::Created(keys::COORDINATOR.to_owned(), office));
            for item in &page.items {
                if let Some(part) = self.burial(item, now_ms).await? {
                    txn = txn.and(part);
                }
            }
            if !txn.ops.is_empty() {
                let count = txn.ops.len() / 2;
                match self.store.txn(txn).await {
                    Ok(TxnOutcome::Committed(_)) => buried += count,
                    // Deposed, or somebody looked at one of them: the next round looks again.
                    Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => return Ok(buried),
                    Err(error) => return Err(error),
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(buried);
            }
        }
    }

    async fn burial(&self, mark: &KeyValue, now_ms: i64) -> Result<Option<Txn>, Error> {
        let over = Deleting::decode(&mark.value.value).is_ok_and(|mark| is_over(mark, now_ms));
        let Some(ledger) = keys::parse_deleting(&mark.key).filter(|_| over) else {
            return Ok(None);
        };
        let key = keys::ledger(ledger);
        let of_ledger = match self.store.get(&key).await? {
            None => Guard::Absent(key.clone()),
            Some(found) if is_tombstone(ledger, &found.value) => {
                Guard::Version(key.clone(), found.version)
            }
            // Only a store that was restored has a mark beside a ledger that lives.
            Some(_) => return Ok(None),
        };
        let of_mark = Guard::Version(mark.key.clone(), mark.value.version);
        let txn = Txn::new().guard(of_ledger).guard(of_mark);
        Ok(Some(txn.delete(key).delete(&mark.key)))
    }
}

fn is_tombstone(ledger: LedgerId, value: &[u8]) -> bool {
    LedgerMeta::decode(ledger, value).is_ok_and(|meta| meta.state == LedgerState::Deleting)
}
