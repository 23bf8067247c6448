//! The metadata register of one ledger: a value under compare-and-swap, whose key may be removed.

use geminga_ledger::core::recovery::CasResult;
use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_proto::ids::EntryId;

use crate::part::{Keep, Shelf};
use crate::symmetry::{Named, Names};

/// The register, and what it must never do again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Metadata {
    /// `None` before it is made and after it is removed.
    pub(crate) meta: Option<LedgerMeta>,
    pub(crate) version: Version,
    /// The end that was written first (I4).
    pub(crate) first_end: Option<EntryId>,
    /// Whether a value contradicted it later (I4, I5).
    pub(crate) went_back: bool,
    /// Whether the key was removed; it must never be there again (I16).
    pub(crate) removed: bool,
}

impl Keep for Metadata {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Metadata> = Shelf::new();
        &SHELF
    }
}

impl Named for Metadata {
    fn renamed(&self, names: &Names) -> Self {
        Self { meta: self.meta.as_ref().map(|meta| names.meta(meta)), ..self.clone() }
    }
}

impl Metadata {
    /// A key that is not there.
    pub(crate) fn absent() -> Self {
        Self { meta: None, version: Version(0), first_end: None, went_back: false, removed: false }
    }

    pub(crate) fn read(&self) -> Option<(LedgerMeta, Version)> {
        self.meta.clone().map(|meta| (meta, self.version))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.meta.as_ref().is_some_and(|meta| meta.state == LedgerState::Closed)
    }

    pub(crate) fn create(&mut self, meta: LedgerMeta) {
        self.version = Version(self.version.0 + 1);
        self.meta = Some(meta);
    }

    /// Version 0 asks for a key that is not there: no update of the production code does (M7).
    pub(crate) fn cas(&mut self, expected: Version, meta: LedgerMeta) -> CasResult {
        let Some(old) = &self.meta else {
            if expected == Version(0) {
                self.create(meta);
            }
            return CasResult::Lost;
        };
        if self.version != expected {
            return CasResult::Lost;
        }
        self.went_back |= meta.seal_epoch < old.seal_epoch
            || (old.state == LedgerState::Closed && meta != *old)
            || meta.validate().is_err()
            || self.first_end.is_some_and(|end| meta.last_entry != Some(end));
        self.first_end = self.first_end.or(meta.last_entry);
        self.create(meta);
        CasResult::Applied(self.version)
    }

    pub(crate) fn remove(&mut self) {
        self.meta = None;
        self.removed = true;
    }
}
