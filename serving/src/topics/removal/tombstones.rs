//! The end of deleted ledgers (protocol 7.8 (5), (6)): a week after a ledger became a tombstone its metadata goes, with the mark.
//! By then every bookie that lives has dropped it; one that comes back later finds no such ledger, and drops what it has unless
//! that is so much that metadata looks lost rather than deleted (G2). What was marked under `under/` goes when its ledger is gone.
//!
//! One clock dates a tombstone and another one says how old it is. If either is wrong, a tombstone still stands for a day by a clock
//! that never jumps: that of the broker which removes it, and which saw it all the while ([`Looks`]).

use std::collections::VecDeque;
use std::time::Duration;

use geminga_metastore::record::{Deleting, LedgerMeta, LedgerState};
use geminga_metastore::{Error, Guard, KeyValue, Revision, Txn, TxnOutcome, keys};
use geminga_proto::caps;
use geminga_proto::ids::LedgerId;
use tokio::time::Instant;

use super::task::Worker;

/// How long a tombstone stands, in milliseconds.
const STANDS_MS: i64 = 7 * 24 * 3_600_000;
/// What was not seen for so long does not go, whatever it says of itself.
const SEEN: Duration = Duration::from_secs(24 * 3_600);
/// Looks that are remembered: one an hour, and some more.
const LOOKS: usize = 32;
/// Marks listed at a time: each needs two guards and two deletes, beside the guard of the office.
const PAGE: usize = (caps::MAX_METADATA_TXN_OPS - 1) / 4;

/// Whether a tombstone has stood for long enough. A date in the future is a wrong clock's, and counts when it has come.
fn is_over(mark: Deleting, now_ms: i64) -> bool {
    now_ms.saturating_sub(mark.since_ms) >= STANDS_MS
}

/// How far the metadata store had come when this broker looked, the oldest look first.
#[derive(Debug, Default)]
pub(super) struct Looks(VecDeque<(Instant, Revision)>);

impl Looks {
    /// The store has come to `revision` by `now`. What was written up to the revision that is returned has stood for a day since.
    pub(super) fn look(&mut self, revision: Revision, now: Instant) -> Option<Revision> {
        if self.0.len() == LOOKS {
            // Of looks that come too fast the second is dropped, so that the oldest still grow old.
            self.0.remove(1);
        }
        self.0.push_back((now, revision));
        let old = |(at, _): &&(Instant, Revision)| now.saturating_duration_since(*at) >= SEEN;
        let seen = self.0.iter().rev().find(old).copied()?;
        self.0.retain(|look| *look >= seen);
        Some(seen.1)
    }
}

impl Worker {
    /// How far the store has come.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(super) async fn revision(&self) -> Result<Revision, Error> {
        Ok(self.store.range(keys::DELETING, None, 1).await?.revision)
    }

    /// Looks, also where this broker is not the coordinator, and may be tomorrow; and removes what has stood for long enough,
    /// where it is: how many ledgers' metadata, and marks. Cancel-safe: the next call goes on.
    ///
    /// # Errors
    /// [`Error`] of the metadata store; what was removed is removed.
    pub(super) async fn look_after_tombstones(
        &self,
        looks: &mut Looks,
        office: Option<Revision>,
        now_ms: i64,
    ) -> Result<(usize, usize), Error> {
        let seen = looks.look(self.revision().await?, Instant::now());
        let (Some(office), Some(seen)) = (office, seen) else { return Ok((0, 0)) };
        let buried = self.bury(office, seen, now_ms).await?;
        Ok((buried, self.unmark(office).await?))
    }

    /// Removes marks of under-replication whose ledgers are gone; how many. Cancel-safe: the next call goes on.
    ///
    /// # Errors
    /// [`Error`] of the metadata store; what was removed is removed.
    pub(super) async fn unmark(&self, office: Revision) -> Result<usize, Error> {
        let (mut removed, mut after) = (0, None::<String>);
        loop {
            let page = self.store.range(keys::UNDER, after.as_deref(), PAGE).await?;
            let mut txn = Txn::new().guard(Guard::Created(keys::COORDINATOR.to_owned(), office));
            for item in &page.items {
                let Some(ledger) = keys::parse_under(&item.key) else { continue };
                let key = keys::ledger(ledger);
                if self.store.get(&key).await?.is_none() {
                    // Ids are never used again: what is gone stays gone.
                    let own = Guard::Version(item.key.clone(), item.value.version);
                    txn = txn.guard(Guard::Absent(key)).guard(own).delete(&item.key);
                }
            }
            if !txn.ops.is_empty() {
                let count = txn.ops.len();
                match self.store.txn(txn).await {
                    Ok(TxnOutcome::Committed(_)) => removed += count,
                    // Deposed, or somebody added to one of them: the next round looks again.
                    Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => return Ok(removed),
                    Err(error) => return Err(error),
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(removed);
            }
        }
    }

    /// Removes tombstones that have stood for a week, of those written up to `seen`; how many. Cancel-safe: the next call goes on.
    ///
    /// # Errors
    /// [`Error`] of the metadata store; what was removed is removed.
    pub(super) async fn bury(
        &self,
        office: Revision,
        seen: Revision,
        now_ms: i64,
    ) -> Result<usize, Error> {
        let (mut buried, mut after) = (0, None::<String>);
        loop {
            let page = self.store.range(keys::DELETING, after.as_deref(), PAGE).await?;
            let mut txn = Txn::new().guard(Guard::Created(keys::COORDINATOR.to_owned(), office));
            for item in &page.items {
                if item.value.version.0 <= seen.0
                    && let Some(part) = self.burial(item, now_ms).await?
                {
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
            // Its object goes first, or nothing would lead to it any more (7.8 (3)): bookies see to that.
            Some(found) if has_object(ledger, &found.value) => {
                tracing::debug!(%ledger, "a deleted ledger's object is still there");
                return Ok(None);
            }
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

fn has_object(ledger: LedgerId, value: &[u8]) -> bool {
    LedgerMeta::decode(ledger, value).is_ok_and(|meta| meta.tier.object().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_a_day_ago_has_stood_for_a_day() {
        let (mut looks, start) = (Looks::default(), Instant::now());
        let at = |hours: u64| start + Duration::from_secs(hours * 3_600);
        for hour in 0..24 {
            assert_eq!(looks.look(Revision(100 + hour as i64), at(hour)), None);
        }
        for hour in 24..60 {
            let seen = Revision(100 + hour as i64 - 24);
            assert_eq!(looks.look(Revision(100 + hour as i64), at(hour)), Some(seen));
            assert!(looks.0.len() <= LOOKS);
        }
        // Looks that come often neither push the oldest out nor make it older.
        let mut looks = Looks::default();
        for second in 0..86_400 {
            assert_eq!(looks.look(Revision(7), start + Duration::from_secs(second)), None);
        }
        assert_eq!(looks.look(Revision(9), at(24)), Some(Revision(7)));
    }
}
