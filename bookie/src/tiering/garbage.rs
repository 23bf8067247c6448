//! Which objects may be removed: pure (protocol 7.5, 7.8 (3)). Whoever removes them reads the metadata linearizably first, for each object
//! on its own (M8); what is found to be garbage stays garbage, so that it may be removed at any time after.

use geminga_metastore::record::{LedgerMeta, LedgerState, TierObject};

use super::{Mutation, Mutations};

/// What refers to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Its ledger does, or may.
    Kept,
    /// Its ledger names another upload, which was published.
    Superseded,
    /// There is no such ledger, and no manifest that could list it.
    Absent,
}

/// The fate of the object of an upload, by the metadata of its ledger.
pub fn of_named(meta: &LedgerMeta, attempt: u128, mutations: Mutations) -> Fate {
    // Only an object that was published in its place makes one superfluous. A ledger that names none may have named this
    // one before its metadata was restored from a backup, when no bookie has a copy any more.
    let superseded = match meta.tier.object() {
        Some(published) => published.attempt != attempt,
        None => mutations.is(Mutation::SweepUnnamed),
    };
    if superseded { Fate::Superseded } else { Fate::Kept }
}

/// The fate of an object whose ledger has no metadata, and is not known to be listed by a manifest: one that cannot be read may
/// list it.
pub fn of_absent(may_be_listed: bool) -> Fate {
    if may_be_listed { Fate::Kept } else { Fate::Absent }
}

/// The object that goes with a ledger that is being deleted, before its metadata does.
pub fn of_deleted(meta: &LedgerMeta) -> Option<&TierObject> {
    meta.tier.object().filter(|_| meta.state == LedgerState::Deleting)
}
