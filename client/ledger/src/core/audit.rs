//! The full audit (protocol 6.8): what bookies and the object store hold against what the metadata says, after the metadata came from a
//! backup. A pure function of all three. It finds
//!
//! * ledgers that must be recovered, since nobody writes to them any more;
//! * ledgers whose entries bookies dropped for an object that the metadata does not know of;
//! * ledgers that only bookies know: quarantined, never deleted by metadata that cannot know them;
//! * ledgers that were deleted since, and those that are lost.
//!
//! Who did not answer vouches for nothing: what only such a bookie may hold is unverified, not lost. [`copies`] tells who holds what, also
//! beside the ensembles that the backup names.

mod copies;
mod listing;

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::Horizon;
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_proto::bookie::LocalLedger;
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

pub use self::copies::{Reach, is_whole, lacking, moved, reach};
pub use self::listing::{Doubt, Log, Uploads, doubt, unplaced};

/// A ledger as one disk has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub member: Member,
    /// What.
    pub local: LocalLedger,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The cluster, and how far its metadata knows ledgers.
    pub horizon: Horizon,
    /// The metadata of all ledgers.
    pub ledgers: BTreeMap<LedgerId, LedgerMeta>,
    /// What bookies hold.
    pub held: BTreeMap<LedgerId, Vec<Holder>>,
    /// Members of the metadata that did not answer.
    pub unanswered: BTreeSet<Member>,
    /// Who has the tombstones of ledgers that somebody should hold and nobody does ([`missing`]).
    pub tombstones: BTreeMap<LedgerId, Vec<Member>>,
    /// What is in the object store; `None` when nobody looked.
    pub uploads: Option<Uploads>,
    /// Whether what is not in it is in no object: nobody names another store, or somebody said that there is none. Which topics go to an
    /// object store, a backup does not say: that may have begun later.
    pub all_listed: bool,
}

impl View {
    /// One of nothing so far.
    pub fn new(horizon: Horizon) -> Self {
        Self {
            horizon,
            ledgers: BTreeMap::new(),
            held: BTreeMap::new(),
            unanswered: BTreeSet::new(),
            tombstones: BTreeMap::new(),
            uploads: None,
            all_listed: false,
        }
    }

    /// Who holds something of a ledger.
    pub fn holders(&self, ledger: LedgerId) -> &[Holder] {
        self.held.get(&ledger).map_or(&[], Vec::as_slice)
    }

    /// Whether a ledger that is not closed has no writer any more: one of a former epoch is gone, and whoever serves now began after the
    /// restore. Of the present epoch only what bookies know to be over.
    fn is_orphaned(&self, ledger: LedgerId) -> bool {
        let ended = |holder: &Holder| {
            holder.local.sealed_epoch > SealEpoch(0) || holder.local.closed.is_some()
        };
        ledger.cluster_epoch() < self.horizon.cluster.epoch
            || self.holders(ledger).iter().any(ended)
    }

    fn uploads_of(&self, ledger: LedgerId) -> Option<Vec<u128>> {
        let uploads = self.uploads.as_ref()?.of.get(&ledger)?;
        Some(uploads.iter().copied().collect())
    }
}

/// A ledger that is in an object which its metadata does not name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Which.
    pub ledger: LedgerId,
    /// The upload that bookies dropped their entries for; where none remembers, all that there are.
    pub attempts: Vec<u128>,
    /// The highest epoch that a bookie sealed it with.
    pub sealed_epoch: SealEpoch,
}

/// A ledger that only bookies know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stranger {
    /// Which.
    pub ledger: LedgerId,
    /// Who holds it.
    pub holders: Vec<Member>,
    /// The last entry that anybody holds.
    pub last: EntryId,
    /// Bytes of all copies.
    pub bytes: u64,
}

/// A ledger of which entries are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Which.
    pub ledger: LedgerId,
    /// The first entry that is missing, or in dispute.
    pub entry: EntryId,
    /// Others than its members that hold something of it.
    pub elsewhere: Vec<Member>,
    /// Whether members have its tombstone: it was deleted since the backup.
    pub deleted: bool,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Ledgers that were compared, known to the metadata or not.
    pub compared: u64,
    /// To be recovered.
    pub unclosed: Vec<LedgerId>,
    /// Open, deleted since the backup, and nobody holds an entry: to be closed as empty.
    pub ended: Vec<LedgerId>,
    /// Open, and entries are missing before others that are there: a recovery would close them below those.
    pub torn: Vec<Incomplete>,
    /// Open, and bookies were told an end that others hold entries behind, of which this is the first: two lives of the same backup ended it.
    pub disputed: Vec<Incomplete>,
    /// Closed, and held by others than its members: to name those.
    pub moved: Vec<LedgerId>,
    /// To be read from the object store.
    pub dropped: Vec<Dropped>,
    /// Perhaps in the object store, at which nobody looked.
    pub unseen: Vec<LedgerId>,
    /// Quarantined.
    pub strangers: Vec<Stranger>,
    /// Never handed out by this metadata: their ids would be given to others (I16).
    pub reused: Vec<LedgerId>,
    /// Closed, and lost or deleted since the backup.
    pub lost: Vec<Incomplete>,
    /// In an object that is not there any more: lost, or deleted since the backup.
    pub gone: Vec<LedgerId>,
    /// Ledgers in objects at which nobody looked.
    pub unlooked: u64,
    /// Perhaps lost: members did not answer.
    pub unverified: Vec<LedgerId>,
}

/// Ledgers of which nobody may hold what their members should, each with an entry of the fragment whose members are to be asked.
pub fn missing(view: &View) -> Vec<(LedgerId, EntryId)> {
    let of = |meta: &LedgerMeta| {
        let holders = view.holders(meta.id);
        let last = &meta.last_fragment().ensemble;
        match meta.state {
            LedgerState::Deleting => None,
            LedgerState::Closed if meta.tier.object().is_some() => None,
            LedgerState::Closed => copies::first_missing(meta, holders).map(|(_, entry)| entry),
            LedgerState::Open | LedgerState::InRecovery => {
                let holds = |member: &Member| holders.iter().any(|h| h.member == *member);
                let wanted = view.is_orphaned(meta.id) && !last.iter().all(holds);
                wanted.then_some(meta.last_fragment().first_entry)
            }
        }
    };
    view.ledgers.values().filter_map(|meta| Some((meta.id, of(meta)?))).collect()
}

/// Uploads that the metadata or bookies name in the store that was listed, and that the listing does not: they came after it, or are gone.
pub fn unlisted(view: &View) -> BTreeSet<(LedgerId, u128)> {
    let Some(uploads) = &view.uploads else { return BTreeSet::new() };
    let of = |meta: &LedgerMeta| {
        let object = meta.tier.object().filter(|object| object.bucket == uploads.bucket);
        let trimmed = view.holders(meta.id).iter().filter_map(|holder| holder.local.trimmed);
        let named = trimmed.chain(object.map(|object| object.attempt));
        let unlisted = named.filter(|attempt| !uploads.lists(meta.id, *attempt));
        unlisted.map(|attempt| (meta.id, attempt)).collect::<Vec<_>>()
    };
    view.ledgers.values().flat_map(of).collect()
}

/// Compares.
pub fn compare(view: &View) -> Report {
    let mut report = Report::default();
    for meta in view.ledgers.values() {
        report.compared += 1;
        look_at(view, meta, &mut report);
    }
    for (ledger, holders) in &view.held {
        if view.ledgers.contains_key(ledger) {
            continue;
        }
        report.compared += 1;
        if view.horizon.is_beyond(*ledger) {
            report.reused.push(*ledger);
        }
        let handed_out = ledger.cluster_epoch() == view.horizon.cluster.epoch;
        let dropped = holders.iter().all(|holder| holder.local.trimmed.is_some());
        if (handed_out && !view.horizon.is_beyond(*ledger)) || dropped {
            // It was made and deleted in this epoch, and bookies come to that; or nothing of it is here that could go: it may be folded,
            // and its object is the janitor's.
            continue;
        }
        let last = holders.iter().filter_map(|holder| holder.local.runs.last());
        report.strangers.push(Stranger {
            ledger: *ledger,
            holders: holders.iter().map(|holder| holder.member.clone()).collect(),
            last: last.map(|(_, last)| *last).max().unwrap_or(EntryId::NONE),
            bytes: holders.iter().map(|holder| holder.local.bytes).sum(),
        });
    }
    report
}

fn look_at(view: &View, meta: &LedgerMeta, report: &mut Report) {
    if meta.state == LedgerState::Deleting {
        return;
    }
    let (ledger, holders) = (meta.id, view.holders(meta.id));
    let known = meta.tier.object();
    let is_there = known.and_then(|object| view.uploads.as_ref()?.has(ledger, object));
    let attempts = holders.iter().filter_map(|holder| holder.local.trimmed);
    let others: BTreeSet<u128> =
        attempts.filter(|attempt| known.is_none_or(|known| known.attempt != *attempt)).collect();
    if !others.is_empty() && is_there != Some(true) {
        look_at_dropped(view, meta, others, report);
    } else if meta.state != LedgerState::Closed {
        if view.is_orphaned(ledger) {
            look_at_open(view, meta, report);
        }
    } else if known.is_some() {
        match is_there {
            Some(true) => {}
            None => report.unlooked += 1,
            // Bookies may have all of it still (T7).
            Some(false) => {
                let trimmed = matches!(meta.tier, Tier::Trimmed(_));
                if trimmed || copies::first_missing(meta, holders).is_some() {
                    report.gone.push(ledger);
                }
            }
        }
    } else if let Some((fragment, entry)) = copies::first_missing(meta, holders) {
        look_at_missing(view, meta, (fragment, entry), report);
    }
}

fn dropped(view: &View, ledger: LedgerId, attempts: Vec<u128>) -> Dropped {
    let sealed = view.holders(ledger).iter().map(|holder| holder.local.sealed_epoch).max();
    Dropped { ledger, attempts, sealed_epoch: sealed.unwrap_or(SealEpoch(0)) }
}

/// What becomes of a ledger whose entries bookies dropped for uploads that the metadata does not name. Where no upload is there any more,
/// it was deleted since, and these bookies have not come to it.
fn look_at_dropped(view: &View, meta: &LedgerMeta, attempts: BTreeSet<u128>, report: &mut Report) {
    let ledger = meta.id;
    let Some(uploads) = &view.uploads else {
        report.dropped.push(dropped(view, ledger, attempts.into_iter().collect()));
        return;
    };
    let listed: Vec<u128> =
        attempts.iter().copied().filter(|one| uploads.lists(ledger, *one)).collect();
    if !listed.is_empty() {
        report.dropped.push(dropped(view, ledger, listed));
    } else if let Some(attempts) = view.uploads_of(ledger) {
        report.dropped.push(dropped(view, ledger, attempts));
    } else if meta.state != LedgerState::Closed && is_held(view, ledger) {
        // Some have dropped it, others not yet: what they hold is what there is, and decides.
        look_at_copies(view, meta, report);
    } else if meta.state != LedgerState::Closed {
        let list = if view.all_listed { &mut report.ended } else { &mut report.unseen };
        list.push(ledger);
    } else if copies::first_missing(meta, view.holders(ledger)).is_none() {
        // Its members have all of it still.
    } else if moved(meta, view.holders(ledger)).is_some() {
        report.moved.push(ledger);
    } else {
        let list = if view.all_listed { &mut report.gone } else { &mut report.unseen };
        list.push(ledger);
    }
}

fn is_held(view: &View, ledger: LedgerId) -> bool {
    view.holders(ledger).iter().any(|holder| !holder.local.runs.is_empty())
}

/// What becomes of a ledger that has no end and no writer. One that has a tombstone was closed and deleted, or folded, since.
fn look_at_open(view: &View, meta: &LedgerMeta, report: &mut Report) {
    let ledger = meta.id;
    let deleted = view.tombstones.contains_key(&ledger);
    if deleted && let Some(attempts) = view.uploads_of(ledger) {
        report.dropped.push(dropped(view, ledger, attempts));
    } else if deleted && !view.all_listed {
        report.unseen.push(ledger);
    } else if deleted && !is_held(view, ledger) {
        report.ended.push(ledger);
    } else {
        look_at_copies(view, meta, report);
    }
}

/// What becomes of an open ledger by what bookies hold of it.
fn look_at_copies(view: &View, meta: &LedgerMeta, report: &mut Report) {
    let (ledger, holders) = (meta.id, view.holders(meta.id));
    let deleted = view.tombstones.contains_key(&ledger);
    let Reach { missing, beyond, .. } = reach(meta, holders);
    let elsewhere = copies::elsewhere(&meta.last_fragment().ensemble, holders);
    let at = |entry| Incomplete { ledger, entry, elsewhere, deleted };
    match (missing, beyond) {
        (Some(entry), _) => report.torn.push(at(entry)),
        (None, Some(entry)) => report.disputed.push(at(entry)),
        (None, None) => report.unclosed.push(ledger),
    }
}

/// What becomes of a closed ledger that its members do not have all of.
fn look_at_missing(
    view: &View,
    meta: &LedgerMeta,
    (fragment, entry): (usize, EntryId),
    report: &mut Report,
) {
    let (ledger, holders) = (meta.id, view.holders(meta.id));
    let ensemble = &meta.fragments[fragment].ensemble;
    let deleted = view.tombstones.contains_key(&ledger);
    if let Some(attempts) = view.uploads_of(ledger) {
        report.dropped.push(dropped(view, ledger, attempts));
    } else if moved(meta, holders).is_some() {
        report.moved.push(ledger);
    } else if deleted && !view.all_listed {
        report.unseen.push(ledger);
    } else if !deleted && ensemble.iter().any(|member| view.unanswered.contains(member)) {
        report.unverified.push(ledger);
    } else {
        let elsewhere = copies::elsewhere(ensemble, holders);
        report.lost.push(Incomplete { ledger, entry, elsewhere, deleted });
    }
}

#[cfg(test)]
mod tests;
