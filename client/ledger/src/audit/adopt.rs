//! Names those who hold a closed ledger as its members, where repair had moved its copies in a life that the metadata has lost (6.8).
//!
//! Under the ledger's repair lock: a bookie gives a copy up that no place names only while it has that lock (5.6). So everybody is asked once
//! more behind the taking of it, and the swap is guarded by it: what is named here was there since, and stays.

use std::time::Duration;

use futures::{StreamExt, stream};
use geminga_metastore::record::{Holder as LockHolder, LedgerMeta, UnderReason};
use geminga_metastore::{
    Error as MetaError, Guard, LeaseId, Revision, Txn, TxnOutcome, Version, keys,
};
use geminga_proto::ids::LedgerId;

use super::AT_ONCE;
use crate::attempts::Attempts;
use crate::client::LedgerClient;
use crate::core::audit::{self, Holder};
use crate::under::mark_under;

/// Longer than all holders take to answer or not.
const LOCKED_FOR: Duration = Duration::from_secs(120);
/// How often a lock that somebody has is tried.
const LOCK_ATTEMPTS: u32 = 12;
/// Who has it, for people who look.
const NAME: &str = "cluster-audit";

/// Why nobody was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// Somebody has its lock, or took it meanwhile.
    #[error("a bookie repairs it at this moment: run this again")]
    Busy,
    /// Those who held it when all disks were asked do not any more, or do not answer now.
    #[error("those who held it do not say so any more: run this again when all bookies answer")]
    Gone,
    /// The metadata store did not do it.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

impl LedgerClient {
    /// Makes those who hold the entries of a closed ledger its members, in the places of some that hold nothing (M5), and marks it for
    /// repair. `None`: it is gone. Cancel-safe, but for the mark; a lock that is left ends by itself.
    ///
    /// # Errors
    /// [`AdoptError`].
    pub async fn adopt_moved(
        &self,
        ledger: LedgerId,
        holders: &[Holder],
    ) -> Result<Option<LedgerMeta>, AdoptError> {
        let lease = self.parts.store.grant_lease(LOCKED_FOR).await?;
        let adopted = self.adopt_under(lease, ledger, holders).await;
        // The lock goes with it.
        if let Err(error) = self.parts.store.revoke_lease(lease).await {
            tracing::debug!(%ledger, %error, "a lock was not given back; it ends with its lease");
        }
        adopted
    }

    async fn adopt_under(
        &self,
        lease: LeaseId,
        ledger: LedgerId,
        holders: &[Holder],
    ) -> Result<Option<LedgerMeta>, AdoptError> {
        let store = &*self.parts.store;
        let lock = self.lock(ledger, lease).await?;
        let holders: Vec<Holder> = stream::iter(holders)
            .map(|holder| async move {
                let found = super::one(self, &holder.member, ledger).await.unwrap_or_default();
                let member = holder.member.clone();
                found.into_iter().next().map(|local| Holder { member, local })
            })
            .buffered(AT_ONCE)
            .filter_map(|holder| async move { holder })
            .collect()
            .await;
        let meta = loop {
            let Some((meta, version)) = self.metadata(ledger).await? else { return Ok(None) };
            let Some(fragments) = audit::moved(&meta, &holders) else {
                match audit::is_whole(&meta, &holders) {
                    true => break meta,
                    false => return Err(AdoptError::Gone),
                }
            };
            let last_op = self.parts.random.next_u128();
            let moved = LedgerMeta { fragments, last_op, ..meta };
            let (key, lock_key) = (keys::ledger(ledger), keys::under_lock(ledger));
            let txn = Txn::new()
                .guard(Guard::Version(key.clone(), version))
                .guard(Guard::Version(lock_key.clone(), lock))
                .put(key, moved.encode());
            match store.txn(txn).await {
                Ok(TxnOutcome::Committed(_)) => break moved,
                // What stands now tells (M9).
                Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let held = store.get(&lock_key).await?;
            if held.is_none_or(|held| held.version != lock) {
                return Err(AdoptError::Busy);
            }
        };
        let lacking = audit::lacking(&meta, &holders);
        if !lacking.is_empty() {
            let now_ms = self.parts.clock.now_ms();
            mark_under(store, ledger, &lacking, UnderReason::Behind, now_ms).await?;
        }
        Ok(Some(meta))
    }

    async fn lock(&self, ledger: LedgerId, lease: LeaseId) -> Result<Version, AdoptError> {
        let key = keys::under_lock(ledger);
        let holder = LockHolder { bookie: NAME.parse().expect("letters and a dash") };
        let mut attempts = Attempts::of(&self.parts.config, LOCK_ATTEMPTS);
        loop {
            let txn = Txn::new().guard(Guard::Absent(key.clone())).put_leased(
                &key,
                holder.encode(),
                lease,
            );
            // Of an unknown outcome the lease's end is the end, too.
            if let TxnOutcome::Committed(Revision(at)) = self.parts.store.txn(txn).await? {
                return Ok(Version(at));
            }
            if !attempts.again().await {
                return Err(AdoptError::Busy);
            }
        }
    }
}

#[cfg(test)]
mod tests;
