//! What a listing of the object store says, and whether to believe it: what is missing from it is given up, so that the listing of a wrong
//! bucket would close ledgers as empty that are in another.
//!
//! An old backup names much that retention has deleted since. Retention deletes a log from its beginning: what is missing before the oldest
//! segment of its log that is listed says nothing about the store.

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{LedgerMeta, LedgerState, TierObject};
use geminga_proto::ids::{LedgerId, PartitionIndex, TopicId};

use super::View;

/// A partition's log.
pub type Log = (TopicId, PartitionIndex);

/// What is in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uploads {
    /// The store, as metadata calls it. Of what is in others nothing is known.
    pub bucket: String,
    /// Where in it was listed: keys of what is there begin with this and a `/`. Empty when all of it was.
    pub root: String,
    /// The uploads of each ledger.
    pub of: BTreeMap<LedgerId, BTreeSet<u128>>,
    /// The first offset of logs by what is listed of ledgers that the metadata does not know, as far as somebody looked ([`unplaced`]).
    pub begins: BTreeMap<Log, i64>,
}

/// Why a listing is not that of the cluster's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Nothing of this cluster is there.
    #[error("it holds no object of this cluster")]
    Empty,
    /// More than a tenth of what should be in it is not there (as G2).
    #[error(
        "of {named} segments that the metadata or bookies name in it, and that retention cannot have deleted, {lacking} are not there"
    )]
    Lacks {
        /// What is named.
        named: usize,
        /// What of that is not there.
        lacking: usize,
    },
}

impl Uploads {
    /// Whether what metadata refers to is there; `None` when it is in another store, or where nobody listed.
    pub fn has(&self, ledger: LedgerId, object: &TierObject) -> Option<bool> {
        let there = object.bucket == self.bucket && self.lists(ledger, object.attempt);
        (there || self.covers(&object.bucket, &object.key)).then_some(there)
    }

    /// Whether an object of this key would have been listed: another prefix of the bucket, or another directory, was not.
    pub fn covers(&self, bucket: &str, key: &str) -> bool {
        let below = |rest: &str| rest.starts_with('/');
        let root = &self.root;
        bucket == self.bucket && (root.is_empty() || key.strip_prefix(root).is_some_and(below))
    }

    /// Whether this upload of a ledger is there.
    pub(super) fn lists(&self, ledger: LedgerId, attempt: u128) -> bool {
        self.of.get(&ledger).is_some_and(|all| all.contains(&attempt))
    }

    /// Adds one that was found after the listing.
    pub fn add(&mut self, ledger: LedgerId, attempt: u128) {
        self.of.entry(ledger).or_default().insert(attempt);
    }
}

/// A ledger that should be in the store.
struct Named {
    log: Log,
    first_offset: i64,
    is_there: bool,
}

/// Ledgers that the metadata names in the store, or that bookies dropped for an upload: of one that the metadata names elsewhere, that
/// upload may be elsewhere, too. Not those that were being deleted.
fn named(view: &View, uploads: &Uploads) -> Vec<Named> {
    let of = |meta: &LedgerMeta| {
        let known = meta.tier.object();
        let is_elsewhere = known.is_some_and(|object| !uploads.covers(&object.bucket, &object.key));
        if is_elsewhere || meta.state == LedgerState::Deleting {
            return None;
        }
        let dropped = view.holders(meta.id).iter().filter_map(|holder| holder.local.trimmed);
        let mut attempts = dropped.chain(known.map(|object| object.attempt)).peekable();
        attempts.peek()?;
        Some(Named {
            log: (meta.custom.topic, PartitionIndex(meta.custom.partition)),
            first_offset: meta.custom.first_offset,
            is_there: attempts.any(|attempt| uploads.lists(meta.id, attempt)),
        })
    };
    view.ledgers.values().filter_map(of).collect()
}

/// Logs of which something is missing: where they begin in the store is to be found out, for what is missing before that may have been deleted.
pub fn unplaced(view: &View) -> BTreeSet<Log> {
    let Some(uploads) = &view.uploads else { return BTreeSet::new() };
    named(view, uploads).iter().filter(|named| !named.is_there).map(|named| named.log).collect()
}

/// Why nobody should go by what is missing in the listing, if somebody listed.
pub fn doubt(view: &View) -> Option<Doubt> {
    let uploads = view.uploads.as_ref()?;
    if uploads.of.is_empty() {
        return Some(Doubt::Empty);
    }
    let all = named(view, uploads);
    let mut begins = uploads.begins.clone();
    for Named { log, first_offset, .. } in all.iter().filter(|named| named.is_there) {
        let begin = begins.entry(*log).or_insert(*first_offset);
        *begin = (*begin).min(*first_offset);
    }
    let may_be_deleted =
        |named: &Named| begins.get(&named.log).is_some_and(|begin| named.first_offset < *begin);
    let counted = || all.iter().filter(|named| named.is_there || !may_be_deleted(named));
    let (named, lacking) = (counted().count(), counted().filter(|named| !named.is_there).count());
    (lacking * 10 > named).then_some(Doubt::Lacks { named, lacking })
}
