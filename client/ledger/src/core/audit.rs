//! The full audit (protocol 6.8): what bookies hold against what the metadata says, after the metadata came from a backup. A pure
//! function of both. It finds
//!
//! * ledgers that must be recovered, since nobody writes to them any more;
//! * ledgers whose entries bookies dropped for an object that the metadata does not know of;
//! * ledgers that only bookies know: quarantined, never deleted by metadata that cannot know them;
//! * ledgers whose entries no bookie has any more: they were deleted since, or are lost.
//!
//! Who did not answer vouches for nothing: what only such a bookie may hold is unverified, not lost.

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_proto::bookie::LocalLedger;
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

/// A ledger as one disk has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub member: Member,
    /// What.
    pub local: LocalLedger,
}

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// The present epoch.
    pub epoch: u16,
    /// The metadata of all ledgers.
    pub ledgers: BTreeMap<LedgerId, LedgerMeta>,
    /// What bookies hold.
    pub held: BTreeMap<LedgerId, Vec<Holder>>,
    /// Members of the metadata that did not answer.
    pub unanswered: BTreeSet<Member>,
}

/// A ledger that is to be recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclosed {
    /// Which.
    pub ledger: LedgerId,
    /// The highest epoch that a bookie sealed it with: a recovery needs a higher one.
    pub sealed_epoch: SealEpoch,
}

/// A ledger that is in an object which its metadata does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Which.
    pub ledger: LedgerId,
    /// The upload that bookies dropped their entries for.
    pub attempt: u128,
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

/// A closed ledger of which entries are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Which.
    pub ledger: LedgerId,
    /// The first entry that none of its members holds.
    pub entry: EntryId,
    /// Others that hold something of it: repair moved it to them after the backup.
    pub elsewhere: Vec<Member>,
}

/// What an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Ledgers that were compared, known to the metadata or not.
    pub compared: u64,
    /// To be recovered.
    pub unclosed: Vec<Unclosed>,
    /// To be read from the object store.
    pub dropped: Vec<Dropped>,
    /// Quarantined.
    pub strangers: Vec<Stranger>,
    /// Of the present epoch, and unknown to the metadata: their ids would be handed out again (I16).
    pub reused: Vec<LedgerId>,
    /// Lost, or deleted since the backup.
    pub lost: Vec<Incomplete>,
    /// Perhaps lost: members did not answer.
    pub unverified: Vec<LedgerId>,
}

/// Compares.
pub fn compare(view: &View) -> Report {
    let mut report = Report::default();
    let nobody = Vec::new();
    for (ledger, meta) in &view.ledgers {
        report.compared += 1;
        let holders = view.held.get(ledger).unwrap_or(&nobody);
        look_at(view, meta, holders, &mut report);
    }
    for (ledger, holders) in &view.held {
        if view.ledgers.contains_key(ledger) {
            continue;
        }
        report.compared += 1;
        if holders.iter().all(|holder| holder.local.trimmed.is_some()) {
            // Nothing of it is here that could go; it may be folded, and its object is the janitor's.
            continue;
        }
        if ledger.cluster_epoch() >= view.epoch {
            report.reused.push(*ledger);
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

fn look_at(view: &View, meta: &LedgerMeta, holders: &[Holder], report: &mut Report) {
    if meta.state == LedgerState::Deleting {
        return;
    }
    let ledger = meta.id;
    let sealed = holders.iter().map(|holder| holder.local.sealed_epoch).max();
    let sealed_epoch = sealed.unwrap_or(SealEpoch(0));
    if let Some(attempt) = holders.iter().find_map(|holder| holder.local.trimmed) {
        if meta.tier.object().map(|object| object.attempt) != Some(attempt) {
            report.dropped.push(Dropped { ledger, attempt, sealed_epoch });
        }
        return;
    }
    if meta.state != LedgerState::Closed {
        let ended = |holder: &Holder| {
            holder.local.sealed_epoch > SealEpoch(0) || holder.local.closed.is_some()
        };
        // A writer of a former epoch is gone: whoever serves now began after the restore.
        if ledger.cluster_epoch() < view.epoch || holders.iter().any(ended) {
            report.unclosed.push(Unclosed { ledger, sealed_epoch });
        }
        return;
    }
    if matches!(meta.tier, Tier::Offloaded(_) | Tier::Trimmed(_)) {
        return;
    }
    if let Some((fragment, entry)) = first_missing(meta, holders) {
        let ensemble = &meta.fragments[fragment].ensemble;
        if ensemble.iter().any(|member| view.unanswered.contains(member)) {
            report.unverified.push(ledger);
            return;
        }
        let elsewhere = holders.iter().map(|holder| &holder.member);
        let elsewhere = elsewhere.filter(|member| !ensemble.contains(member)).cloned().collect();
        report.lost.push(Incomplete { ledger, entry, elsewhere });
    }
}

/// The first entry of a closed ledger that no member of its fragment holds, and which fragment that is.
fn first_missing(meta: &LedgerMeta, holders: &[Holder]) -> Option<(usize, EntryId)> {
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let end = meta.fragment_end(index)?;
        let members = holders.iter().filter(|holder| fragment.ensemble.contains(&holder.member));
        let mut runs: Vec<_> = members.flat_map(|holder| holder.local.runs.clone()).collect();
        runs.sort_unstable();
        let mut next = fragment.first_entry;
        for (from, to) in runs {
            if from <= next {
                next = next.max(to.next());
            }
        }
        if next <= end {
            return Some((index, next));
        }
    }
    None
}

#[cfg(test)]
mod tests;
