//! The compare-and-swap by which a writer changes its ledger's metadata (protocol 1.4), as a pure state machine: rebuilt on
//! what is there now when it was lost to a repair of earlier fragments, resolved by reading when its outcome is unknown
//! (M9), given up when somebody else has the ledger. The old value is never sent again with a new version (merge rule).

use geminga_metastore::Version;
use geminga_metastore::record::{CloseKind, Fragment, LedgerMeta, LedgerState};
use geminga_proto::ids::EntryId;

use super::mutation::{Mutation, Mutations};

/// How a compare-and-swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CasResult {
    /// It took place, at this version.
    Applied(Version),
    /// The version had changed.
    Lost,
    /// Nobody knows (M9).
    Unknown,
}

/// What a writer changes. It alone changes the last fragment of an open ledger (M3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Update {
    /// Another ensemble from the fragment's first entry on (2.5).
    Ensemble(Fragment),
    /// The end (2.9).
    Close {
        /// The writer's LAC.
        last: EntryId,
        /// Payload bytes up to it.
        length: u64,
        /// Rolling digest up to it.
        entries_crc: u64,
    },
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Next {
    /// Replace the metadata if its version is as expected, then [`Commit::cas_done`].
    Cas {
        /// The version read.
        expected: Version,
        /// The new value.
        meta: Box<LedgerMeta>,
    },
    /// Read the metadata linearizably (M8), then [`Commit::read`].
    Read,
    /// It took place.
    Committed(Box<LedgerMeta>, Version),
    /// Somebody else has the ledger: it never will.
    Lost,
}

/// One update until its outcome is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit {
    update: Update,
    op: u128,
    /// The last fragment as this writer left it.
    believed: Fragment,
    sent: LedgerMeta,
    mutations: Mutations,
}

impl Commit {
    /// An update of `meta`, which this writer read or wrote at `version`. `op` is a fresh random number (M9).
    pub fn new(
        meta: &LedgerMeta,
        version: Version,
        update: Update,
        op: u128,
        mutations: Mutations,
    ) -> (Self, Next) {
        let believed = meta.last_fragment().clone();
        let mut commit = Self { update, op, believed, sent: meta.clone(), mutations };
        let next = commit.build(meta, version);
        (commit, next)
    }

    /// The same update over metadata that `meta` renames, and a fragment of it; for the model checker.
    #[cfg(feature = "mutations")]
    #[must_use]
    pub fn renamed(
        &self,
        fragment: &impl Fn(&Fragment) -> Fragment,
        meta: &impl Fn(&LedgerMeta) -> LedgerMeta,
    ) -> Self {
        let mut renamed = self.clone();
        renamed.believed = fragment(&self.believed);
        renamed.sent = meta(&self.sent);
        if let Update::Ensemble(change) = &mut renamed.update {
            *change = fragment(change);
        }
        renamed
    }

    /// The value that was sent last.
    pub fn sent(&self) -> &LedgerMeta {
        &self.sent
    }

    fn build(&mut self, base: &LedgerMeta, version: Version) -> Next {
        let mut meta = base.clone();
        meta.last_op = self.op;
        match &self.update {
            Update::Ensemble(fragment) => {
                // It holds no acknowledged entry, so its ensemble is replaced in place (2.5 step 3).
                let empty = meta.last_fragment().first_entry == fragment.first_entry;
                if empty && !self.mutations.is(Mutation::AppendEmptyFragment) {
                    meta.fragments.pop();
                }
                meta.fragments.push(fragment.clone());
            }
            Update::Close { last, length, entries_crc } => {
                meta.state = LedgerState::Closed;
                meta.last_entry = Some(*last);
                meta.length = *length;
                meta.entries_crc = Some(*entries_crc);
                meta.close_kind = Some(CloseKind::Writer);
            }
        }
        self.sent = meta.clone();
        Next::Cas { expected: version, meta: Box::new(meta) }
    }

    /// The swap ended. Only [`CasResult::Applied`] is certain; everything else is read.
    pub fn cas_done(&mut self, result: CasResult) -> Next {
        match result {
            CasResult::Applied(version) => Next::Committed(Box::new(self.sent.clone()), version),
            CasResult::Lost | CasResult::Unknown => Next::Read,
        }
    }

    /// The metadata as it is now; `None` when the key is gone (M7: never made again).
    pub fn read(&mut self, now: Option<(LedgerMeta, Version)>) -> Next {
        let Some((now, version)) = now else { return Next::Lost };
        if self.took_place(&now) {
            return Next::Committed(Box::new(now), version);
        }
        let open = now.state == LedgerState::Open || self.mutations.is(Mutation::WriteWhenNotOpen);
        if !open || *now.last_fragment() != self.believed {
            return Next::Lost;
        }
        if self.mutations.is(Mutation::ResendOldValue) {
            return Next::Cas { expected: version, meta: Box::new(self.sent.clone()) };
        }
        self.build(&now, version)
    }

    /// Ours by its operation, or, where a repair has written over it since, by what only this writer does.
    fn took_place(&self, now: &LedgerMeta) -> bool {
        if self.mutations.is(Mutation::ForgetOperation) {
            return false;
        }
        if now.last_op == self.op {
            return true;
        }
        match &self.update {
            Update::Ensemble(fragment) => {
                now.state == LedgerState::Open && now.last_fragment() == fragment
            }
            Update::Close { .. } => {
                now.state == LedgerState::Closed && now.close_kind == Some(CloseKind::Writer)
            }
        }
    }
}

#[cfg(test)]
mod tests;
