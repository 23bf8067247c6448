//! What a listing of the object store says, and whether to believe it: what is missing from it is given up, so that the listing of a wrong
//! bucket would close ledgers as empty that are in another.

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{LedgerMeta, TierObject};
use geminga_proto::ids::LedgerId;

/// What is in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uploads {
    /// The store, as metadata calls it. Of what is in others nothing is known.
    pub bucket: String,
    /// The uploads of each ledger.
    pub of: BTreeMap<LedgerId, BTreeSet<u128>>,
}

/// Why a listing is not that of the cluster's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Nothing of this cluster is there.
    #[error("it holds no object of this cluster")]
    Empty,
    /// More than a tenth of what the metadata names in it is not there (as G2).
    #[error("of {named} objects that the metadata names in it, {lacking} are not there")]
    Lacks {
        /// What the metadata names.
        named: usize,
        /// What of that is not there.
        lacking: usize,
    },
}

impl Uploads {
    /// Whether what metadata refers to is there; `None` when it is in another store.
    pub fn has(&self, ledger: LedgerId, object: &TierObject) -> Option<bool> {
        (object.bucket == self.bucket).then(|| self.lists(ledger, object.attempt))
    }

    /// Whether this upload of a ledger is there.
    pub(super) fn lists(&self, ledger: LedgerId, attempt: u128) -> bool {
        self.of.get(&ledger).is_some_and(|all| all.contains(&attempt))
    }

    /// Adds one that was found after the listing.
    pub fn add(&mut self, ledger: LedgerId, attempt: u128) {
        self.of.entry(ledger).or_default().insert(attempt);
    }

    /// Why nobody should go by what is missing here.
    pub fn doubt<'a>(&self, ledgers: impl Iterator<Item = &'a LedgerMeta>) -> Option<Doubt> {
        if self.of.is_empty() {
            return Some(Doubt::Empty);
        }
        let objects = ledgers.filter_map(|meta| self.has(meta.id, meta.tier.object()?));
        let there: Vec<bool> = objects.collect();
        let (named, lacking) = (there.len(), there.iter().filter(|there| !**there).count());
        (lacking * 10 > named).then_some(Doubt::Lacks { named, lacking })
    }
}
