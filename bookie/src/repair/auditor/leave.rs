//! The end of a decommission (protocol 6.6): the cookie goes only when two passes in a row found no ledger that names any life of the
//! bookie, and never before. Then its process stops by itself, and its directories are refused.
//!
//! Trimmed ledgers may name it for ever: they are read from their objects only, their objects are removed by their own keys, and these go
//! by time. But a copy whose object is missing may be the last of its ledger, and only the bookie knows whether it has one. So it leaves
//! when it says that it looked at all that it holds, and has none. One that is not there, and cannot, stays until all objects were there of
//! which it may have copies ([`vouch`](super::vouch)); one that is there and does not, since it does not tier, is of an older version or cannot
//! reach the object store, stays.
//!
//! A pass says something only about a bookie that takes no new data: none begins on it behind the pass. The second one
//! begins a while after the first has ended, so that writers that chose the bookie before that are through.

use geminga_metastore::record::LiveBookie;
use geminga_metastore::{Error, Guard, Txn, TxnOutcome, keys};
use geminga_proto::ids::BookieId;
use tokio::time::Instant;

use super::judge::Judgement;
use super::pass::Found;
use super::vouch::Vouched;
use super::{Auditor, Term};

/// Passes in a row that must find nothing.
const PASSES: u32 = 2;

/// Passes in a row that found no ledger of a bookie that is to leave.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unnamed {
    passes: u32,
    /// When the last of them that counts had ended.
    at: Instant,
}

impl Auditor {
    /// Lets those go that nothing names any more, after a pass that began at `begun`.
    pub(super) async fn leave(
        &self,
        term: &mut Term,
        judgement: &Judgement,
        found: &Found,
        begun: Instant,
    ) -> Result<(), Error> {
        term.unnamed.retain(|bookie, _| judgement.draining.contains(bookie));
        term.vouched.retain(|bookie, _| judgement.draining.contains(bookie));
        for bookie in &judgement.draining {
            // What cannot be read may name anybody.
            let named = found.unread_ledgers > 0 || found.named.contains_key(bookie);
            let vouched = term.vouched.entry(bookie.clone()).or_default();
            let quiet = if named {
                *vouched = Vouched::default();
                None
            } else {
                self.may_go(bookie, found, vouched).await?
            };
            let Some(quiet) = quiet else {
                term.unnamed.remove(bookie);
                continue;
            };
            let now = Instant::now();
            match term.unnamed.get_mut(bookie) {
                None => {
                    term.unnamed.insert(bookie.clone(), Unnamed { passes: 1, at: now });
                }
                // Too soon to tell anything new.
                Some(before) if begun < before.at + self.config.open_grace => {}
                Some(before) => *before = Unnamed { passes: before.passes + 1, at: now },
            }
            if term.unnamed.get(bookie).is_some_and(|unnamed| unnamed.passes >= PASSES) {
                self.remove(bookie, quiet).await?;
            }
        }
        Ok(())
    }

    /// What must stay so, when the bookie takes no new data now, and has no copy that an object is missing of: it says so itself, or no
    /// ledger is in objects only that could be, or all of these were there.
    async fn may_go(
        &self,
        bookie: &BookieId,
        pass: &Found,
        vouched: &mut Vouched,
    ) -> Result<Option<Guard>, Error> {
        let key = keys::bookie_live(bookie);
        let Some(found) = self.store.get(&key).await? else {
            let unasked = self.may_hold_last(bookie, pass, vouched).await?;
            return Ok((!unasked).then_some(Guard::Absent(key)));
        };
        // Whoever is there can say it itself, once it has looked; what was found out in its absence is of no use for its next one.
        *vouched = Vouched::default();
        let Ok(live) = LiveBookie::decode(&found.value) else { return Ok(None) };
        if live.disks.iter().any(|disk| disk.writable) {
            tracing::info!(%bookie, "a bookie that is to leave takes new data yet");
            return Ok(None);
        }
        if let Some(ledgers) = live.objects_missing.filter(|ledgers| *ledgers > 0) {
            tracing::error!(%bookie, ledgers, "a bookie that is to leave holds copies of trimmed ledgers whose objects are missing, and stays: bring the objects back");
            return Ok(None);
        }
        if live.objects_missing.is_none() && self.is_beside_objects(bookie, pass).await? {
            tracing::info!(%bookie, "a bookie that is to leave stays until it says that it looked at its copies of ledgers that are in the object store only: give it the cluster's object store, or stop it for good, and the auditor looks in its place");
            return Ok(None);
        }
        Ok(Some(Guard::Version(key, found.version)))
    }

    /// Whether a bookie that does not say what it has may have the last copy of a ledger whose object is missing.
    async fn may_hold_last(
        &self,
        bookie: &BookieId,
        pass: &Found,
        vouched: &mut Vouched,
    ) -> Result<bool, Error> {
        let beside = self.is_beside_objects(bookie, pass).await?;
        let holds = beside && !self.vouches(bookie, vouched).await?;
        if holds {
            tracing::info!(%bookie, "a bookie that is to leave stays until it says that it looked at its copies of ledgers that are in the object store only, or until the auditor found all their objects: start it with the cluster's object store, unless it is lost");
        }
        Ok(holds)
    }

    /// Whether it may have copies of ledgers that are in the object store only.
    async fn is_beside_objects(&self, bookie: &BookieId, pass: &Found) -> Result<bool, Error> {
        Ok(pass.trimmed.contains(bookie)
            || !self.store.range(keys::MANIFESTS, None, 1).await?.items.is_empty())
    }

    async fn remove(&self, bookie: &BookieId, quiet: Guard) -> Result<(), Error> {
        let (cookie, draining) = (keys::bookie_cookie(bookie), keys::bookie_draining(bookie));
        let Some(found) = self.store.get(&cookie).await? else { return Ok(()) };
        let Some(asked) = self.store.get(&draining).await? else { return Ok(()) };
        let txn = Txn::new()
            .guard(Guard::Version(cookie.clone(), found.version))
            .guard(Guard::Version(draining.clone(), asked.version))
            .guard(quiet)
            .delete(cookie)
            .delete(draining)
            .delete(keys::bookie_absent(bookie))
            .delete(keys::bookie_watermark(bookie));
        if let TxnOutcome::Committed(_) = self.store.txn(txn).await? {
            tracing::info!(%bookie, "decommissioned: no ledger names this bookie any more");
        }
        Ok(())
    }
}
