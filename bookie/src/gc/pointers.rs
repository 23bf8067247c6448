//! What is left here of ledgers whose entries were dropped, once they have no key: for which object, or that this bookie gave them up since
//! others had all of them.
//!
//! A ledger that was folded (protocol 7.9) is in a manifest, and its record here is of no use, until the metadata comes from a backup that
//! was made before the upload: then these records alone say which object to read, or that this bookie is no witness (6.8). So they stay
//! for as long as such a backup may be used, a week from the upload; where it is not known when that was, a week from when the key was seen
//! to be gone.
//!
//! After that the record of one that a manifest listed is spent. One that no manifest lists is absent: whether its key was removed or lost is
//! for a breaker to judge, which counts these alone (G2).
//!
//! Only in memory: what is forgotten by a restart is found again in manifests, or is kept longer.

use std::collections::BTreeMap;

use geminga_metastore::record::{LedgerMeta, QUARANTINE_MS};
use geminga_proto::ids::LedgerId;
use parking_lot::Mutex;

use super::judge::Fate;

/// What was found out of records. Of no more ledgers than are here.
#[derive(Debug, Default)]
pub(super) struct Pointers(Mutex<BTreeMap<LedgerId, Known>>);

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Until when it is kept, milliseconds since the Unix epoch.
    until: i64,
    /// Whether a manifest listed it.
    listed: bool,
}

impl Pointers {
    /// Forgets all but these.
    pub(super) fn keep(&self, is_wanted: impl Fn(LedgerId) -> bool) {
        self.0.lock().retain(|ledger, _| is_wanted(*ledger));
    }

    /// Whether it was found out before that a record stays for now: its key need not be read.
    pub(super) fn is_kept(&self, ledger: LedgerId, now_ms: i64) -> bool {
        self.0.lock().get(&ledger).is_some_and(|known| now_ms < known.until)
    }

    /// Whether a manifest was seen to list it before.
    pub(super) fn was_listed(&self, ledger: LedgerId) -> bool {
        self.0.lock().get(&ledger).is_some_and(|known| known.listed)
    }

    /// The fate of one that was looked up in manifests: with its metadata where one lists it.
    pub(super) fn found(&self, ledger: LedgerId, meta: Option<&LedgerMeta>, now_ms: i64) -> Fate {
        let mut all = self.0.lock();
        let object = meta.and_then(|meta| meta.tier.object());
        let since_upload = object.map(|object| object.at_ms.saturating_add(QUARANTINE_MS));
        let before = all.get(&ledger).map(|known| known.until);
        let until = since_upload.or(before).unwrap_or_else(|| now_ms.saturating_add(QUARANTINE_MS));
        all.insert(ledger, Known { until, listed: meta.is_some() });
        match (now_ms < until, meta.is_some()) {
            (true, _) => Fate::Kept,
            (false, true) => Fate::Spent,
            (false, false) => Fate::Absent,
        }
    }
}
