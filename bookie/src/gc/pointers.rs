//! What is left here of ledgers whose entries were dropped for an object, once they have no key: which object that was.
//!
//! A ledger that was folded (protocol 7.9) is in a manifest, and its record here is of no use, until the metadata comes from a backup that
//! was made before the upload: then these records alone say which object to read (6.8). So they stay for as long as such a backup may
//! be used, a week from the upload; where it is not known when that was, a week from when the key was seen to be gone.
//!
//! Only in memory: what is forgotten by a restart is found again in manifests, or is kept longer.

use std::collections::BTreeMap;

use geminga_metastore::record::{LedgerMeta, QUARANTINE_MS};
use geminga_proto::ids::LedgerId;
use parking_lot::Mutex;

use super::judge::Fate;

/// Until when records are kept, milliseconds since the Unix epoch. Of no more ledgers than are here.
#[derive(Debug, Default)]
pub(super) struct Pointers(Mutex<BTreeMap<LedgerId, i64>>);

impl Pointers {
    /// Forgets all but these.
    pub(super) fn keep(&self, is_wanted: impl Fn(LedgerId) -> bool) {
        self.0.lock().retain(|ledger, _| is_wanted(*ledger));
    }

    /// Whether it was found out before that a record stays for now: its key need not be read.
    pub(super) fn is_kept(&self, ledger: LedgerId, now_ms: i64) -> bool {
        self.0.lock().get(&ledger).is_some_and(|until| now_ms < *until)
    }

    /// Whether it was found out before how long a record stays.
    pub(super) fn is_known(&self, ledger: LedgerId) -> bool {
        self.0.lock().contains_key(&ledger)
    }

    /// The fate of one that was looked up in manifests: with its metadata where one lists it.
    pub(super) fn found(&self, ledger: LedgerId, meta: Option<&LedgerMeta>, now_ms: i64) -> Fate {
        let uploaded_ms = meta.and_then(|meta| meta.tier.object()).map(|object| object.at_ms);
        let until = uploaded_ms.unwrap_or(now_ms).saturating_add(QUARANTINE_MS);
        self.0.lock().insert(ledger, until);
        if now_ms >= until { Fate::Spent } else { Fate::Kept }
    }
}
