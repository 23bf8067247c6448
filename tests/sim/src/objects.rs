//! The object store: what was published, by ledger and upload. It answers late, not at all (a 503, or a reply that is lost), and now and
//! then keeps less than it was sent.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_bookie::tiering::core::Seen;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::LedgerId;

use crate::context::Context;
use crate::schedule::{MS, Time};

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// What was sent, entry by entry.
    entries: Vec<Bytes>,
    size: u64,
}

/// The store itself.
#[derive(Debug, Default)]
pub(crate) struct Objects(BTreeMap<(LedgerId, u128), Object>);

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Good,
    /// It does not take place, and nobody knows.
    Refused,
    /// It takes place, and nobody knows.
    ReplyLost,
    /// What is stored ends early.
    Truncated,
}

impl Objects {
    /// Whether an object that metadata names is all of the ledger.
    pub(crate) fn is_whole(
        &self,
        meta: &LedgerMeta,
        content: impl Fn(i64) -> Option<Bytes>,
    ) -> bool {
        let Some(named) = meta.tier.object() else { return false };
        let Some(object) = self.0.get(&(meta.id, named.attempt)) else { return false };
        let count = meta.last_entry.map_or(0, |last| last.next().0);
        object.size == named.size
            && object.entries.len() as i64 == count
            && (0..count)
                .zip(&object.entries)
                .all(|(id, bytes)| content(id).as_ref() == Some(bytes))
    }

    pub(crate) fn seen(&self, ledger: LedgerId, attempt: u128) -> Option<Seen> {
        let object = self.0.get(&(ledger, attempt))?;
        Some(Seen { size: object.size, etag: format!("{attempt:x}") })
    }

    /// Publishes what was sent; an object is never written over (T1).
    pub(crate) fn publish(
        &mut self,
        (ledger, attempt): (LedgerId, u128),
        mut entries: Vec<Bytes>,
        size: u64,
        fate: Fate,
    ) {
        let cut = fate == Fate::Truncated;
        if cut {
            entries.pop();
        }
        let size = if cut { size / 2 } else { size };
        self.0.entry((ledger, attempt)).or_insert(Object { entries, size });
    }

    /// What was given up may be gone.
    pub(crate) fn remove(&mut self, ledger: LedgerId, attempt: u128) {
        self.0.remove(&(ledger, attempt));
    }
}

impl Context {
    /// How long a call to the object store takes.
    pub(crate) fn object_delay(&self) -> Time {
        match self.dice.chance(50) {
            true => self.dice.range(100, 900) * MS,
            false => self.dice.range(2, 20) * MS,
        }
    }

    /// What becomes of a call to the object store; `writes`: it may end early.
    pub(crate) fn object_fate(&mut self, writes: bool) -> Fate {
        if self.healing {
            return Fate::Good;
        }
        let (fate, name) = match self.dice.below(20) {
            0 => (Fate::Refused, "fault: object store refuses"),
            1 => (Fate::ReplyLost, "fault: object store's reply lost"),
            2 if writes => (Fate::Truncated, "fault: object truncated"),
            _ => return Fate::Good,
        };
        self.coverage.hit(name);
        fate
    }
}
