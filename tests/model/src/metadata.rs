//! The metadata register: one ledger's value under compare-and-swap.

use geminga_ledger::core::recovery::CasResult;
use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_proto::ids::EntryId;

/// The register, and what it must never do again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Metadata {
    pub(crate) meta: LedgerMeta,
    pub(crate) version: Version,
    /// The end that was written first (I4).
    pub(crate) first_end: Option<EntryId>,
    /// Whether a value contradicted it later (I4, I5).
    pub(crate) went_back: bool,
}

impl Metadata {
    pub(crate) fn new(meta: LedgerMeta) -> Self {
        Self { meta, version: Version(1), first_end: None, went_back: false }
    }

    pub(crate) fn cas(&mut self, expected: Version, meta: LedgerMeta) -> CasResult {
        if self.version != expected {
            return CasResult::Lost;
        }
        self.went_back |= meta.seal_epoch < self.meta.seal_epoch
            || (self.meta.state == LedgerState::Closed && meta != self.meta)
            || self.first_end.is_some_and(|end| meta.last_entry != Some(end));
        self.first_end = self.first_end.or(meta.last_entry);
        self.version = Version(self.version.0 + 1);
        self.meta = meta;
        CasResult::Applied(self.version)
    }
}
