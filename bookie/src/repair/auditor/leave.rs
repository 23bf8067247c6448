//! The end of a decommission (protocol 6.6): the cookie goes only when two passes in a row found no ledger that names any life of the
//! bookie, and never before. Then its process stops by itself, and its directories are refused.

use std::collections::BTreeMap;

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, keys};
use geminga_proto::ids::BookieId;

use super::judge::Judgement;
use super::{Auditor, Term};

/// Passes in a row that must find nothing.
const PASSES: u32 = 2;

impl Auditor {
    /// Lets those go that nothing names any more.
    pub(super) async fn leave(
        &self,
        term: &mut Term,
        judgement: &Judgement,
        named: &BTreeMap<BookieId, u64>,
    ) -> Result<(), Error> {
        term.unnamed.retain(|bookie, _| judgement.draining.contains(bookie));
        for bookie in &judgement.draining {
            let passes = term.unnamed.entry(bookie.clone()).or_default();
            *passes = if named.contains_key(bookie) { 0 } else { *passes + 1 };
            if *passes >= PASSES {
                self.remove(bookie).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, bookie: &BookieId) -> Result<(), Error> {
        let (cookie, draining) = (keys::bookie_cookie(bookie), keys::bookie_draining(bookie));
        let Some(found) = self.store.get(&cookie).await? else { return Ok(()) };
        let Some(asked) = self.store.get(&draining).await? else { return Ok(()) };
        let txn = Txn::new()
            .guard(Guard::Version(cookie.clone(), found.version))
            .guard(Guard::Version(draining.clone(), asked.version))
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
