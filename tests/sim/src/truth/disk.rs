//! One life of one disk: what it holds on stable storage, what was said about that, and whether it is still so after a start.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_bookie::ledger::{LedgerState, Ranges, Tombstones};
use geminga_metastore::record::LedgerState as MetaState;
use geminga_proto::bookie::{Code, QueryReply, WriteReply};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

use super::Truth;
use crate::context::number;
use crate::coverage::Coverage;
use crate::event::{Ask, To};

/// A record on its way to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Staged {
    Entries(EntryId, EntryId),
    Seal(SealEpoch),
    Tombstone,
    /// An object has the entries instead.
    Trimmed,
    /// Others have all of them.
    GivenUp,
    Other,
}

#[derive(Debug, Default)]
struct Held {
    durable: Ranges,
    sealed: SealEpoch,
    deleted: bool,
    /// It vouches for nothing any more.
    given_up: bool,
}

/// What a disk-life promised.
#[derive(Debug, Default)]
pub(super) struct DiskTruth(BTreeMap<LedgerId, Held>);

impl DiskTruth {
    pub(super) fn holds(&self, ledger: LedgerId, entry: EntryId) -> bool {
        self.0.get(&ledger).is_some_and(|held| held.durable.contains(entry))
    }
}

impl Truth {
    fn held(&mut self, member: &Member, ledger: LedgerId) -> &mut Held {
        if !self.disks.contains_key(member) {
            self.disks.insert(member.clone(), DiskTruth::default());
        }
        self.disks.get_mut(member).expect("inserted above").0.entry(ledger).or_default()
    }

    /// A bookie takes entries in (I8, I9, I11). `tail` is what it had of the fragment before.
    pub(crate) fn accepted(
        &mut self,
        bookie: usize,
        to: &To,
        tail: EntryId,
        first: EntryId,
        entries: &[Bytes],
    ) {
        let ledger = to.ledger;
        if first != tail.next() {
            let detail = format!("bookie-{bookie}, ledger {ledger}: {first} after {tail}");
            return self.violated("I9: runs are contiguous", detail);
        }
        let sealed = self.seals.get(&(bookie, ledger)).copied().unwrap_or_default();
        let late = match to.ask {
            Ask::RecoveryAdd => to.epoch < sealed,
            // Into what does not change any more, sealed or not (6.5).
            Ask::RepairAdd => !self.is_immutable(ledger, to.fragment_first),
            _ => sealed > SealEpoch(0),
        };
        if late {
            let detail = format!("bookie-{bookie}, ledger {ledger}: {first} under seal {sealed}");
            return self.violated("I11: a seal that was answered holds", detail);
        }
        let truth = self.ledgers.get(&ledger);
        let differs = (first.0..)
            .map(EntryId)
            .zip(entries)
            .find(|(entry, bytes)| truth.and_then(|truth| truth.content(*entry)) != Some(bytes));
        if let Some((entry, _)) = differs {
            let detail = format!("bookie-{bookie}, ledger {ledger}: entry {entry}");
            self.violated("I8: all copies of an entry are equal", detail);
        }
    }

    /// Whether a fragment has its end for ever, as far as the metadata ever said.
    fn is_immutable(&self, ledger: LedgerId, first: EntryId) -> bool {
        let meta = self.ledgers.get(&ledger).and_then(|truth| truth.meta.as_ref());
        meta.is_none_or(|meta| {
            let open = matches!(meta.state, MetaState::Open | MetaState::InRecovery);
            !open || meta.last_fragment().first_entry != first
        })
    }

    /// The log says that a record is on stable storage.
    pub(crate) fn durable(&mut self, member: &Member, ledger: LedgerId, staged: Staged) {
        let held = self.held(member, ledger);
        match staged {
            Staged::Entries(first, last) => held.durable.insert(first, last),
            Staged::Seal(epoch) => held.sealed = held.sealed.max(epoch),
            Staged::Tombstone => {
                held.deleted = true;
                held.durable = Ranges::default();
            }
            Staged::Trimmed => held.durable = Ranges::default(),
            Staged::GivenUp => {
                held.given_up = true;
                held.durable = Ranges::default();
            }
            Staged::Other => {}
        }
    }

    /// A bookie answers a write (K3, F2, I6).
    pub(crate) fn replied(&mut self, member: &Member, to: &To, reply: &WriteReply) {
        let acked = self.ledgers.get(&to.ledger).map_or(EntryId::NONE, |truth| truth.acked);
        if reply.max_lac > acked {
            let detail = format!("{member}, ledger {}: {} of {acked}", to.ledger, reply.max_lac);
            return self.violated("I6: a LAC is something the writer acknowledged", detail);
        }
        if reply.code != Code::Ok || to.ask == Ask::Hint {
            return;
        }
        let held = self.held(member, to.ledger);
        if held.deleted {
            let detail = format!("{member}, ledger {}: {:?} is answered", to.ledger, to.ask);
            return self.violated("F4: a tombstone answers", detail);
        }
        if to.ask == Ask::Seal {
            // Promised by this answer; whether it is so shows after the next crash.
            held.sealed = held.sealed.max(reply.sealed_epoch);
        }
        let durable = held.durable.tail(to.fragment_first);
        if to.ask == Ask::Seal {
            let sealed = self.seals.entry((number(member), to.ledger)).or_default();
            *sealed = (*sealed).max(reply.sealed_epoch);
        }
        if reply.durable_tail > durable {
            let detail = format!(
                "{member}, ledger {}: says {}, has {durable}",
                to.ledger, reply.durable_tail
            );
            self.violated("K3: what is acknowledged is on stable storage", detail);
        }
    }

    /// A bookie answers a read (K1, I6, I8).
    pub(crate) fn read(
        &mut self,
        member: &Member,
        ledger: LedgerId,
        from: EntryId,
        reply: &QueryReply,
    ) {
        let Some(truth) = self.ledgers.get(&ledger) else { return };
        if reply.lac > truth.acked {
            let detail = format!("{member}, ledger {ledger}: {} of {}", reply.lac, truth.acked);
            return self.violated("I6: a LAC is something the writer acknowledged", detail);
        }
        let held = self.disks.get(member).and_then(|disk| disk.0.get(&ledger));
        let holds = held.is_some_and(|held| held.durable.contains(from) && !held.deleted);
        if matches!(reply.code, Code::NoSuchEntry | Code::NoSuchLedger)
            && holds
            && !self.is_lost(member)
        {
            let detail = format!("{member}, ledger {ledger}: entry {from} {:?}", reply.code);
            return self.violated("K1: absence is said of what is there", detail);
        }
        let mut good = (from.0..).map(EntryId).zip(&reply.entries);
        if !good.all(|(entry, bytes)| truth.content(entry) == Some(bytes)) {
            let detail = format!("{member}, ledger {ledger}: from {from}");
            self.violated("I8: all copies of an entry are equal", detail);
        }
    }

    /// A log was opened: everything that was promised is there (K5, I11, I12), on a damaged disk, too, or it must not open (K8).
    /// What was staged and survived is from now on promised as well.
    pub(crate) fn restarted(
        &mut self,
        member: &Member,
        found: &BTreeMap<LedgerId, LedgerState>,
        tombstones: &Tombstones,
        staged: &[(LedgerId, Staged)],
        coverage: &mut Coverage,
    ) {
        let promised = self.disks.entry(member.clone()).or_default();
        let mut broken = None;
        for (ledger, held) in &promised.0 {
            let state = found.get(ledger);
            // What was trimmed is in its object, and promised by nobody here.
            let deleted = tombstones.contains(*ledger);
            let trimmed = state.is_some_and(|state| state.trimmed().is_some());
            let given_up = state.is_some_and(LedgerState::is_given_up);
            // What was about to go may have gone.
            let goes = given_up && staged.contains(&(*ledger, Staged::GivenUp));
            let sealed = state.map_or(SealEpoch(0), LedgerState::sealed_epoch);
            let whole = |(first, last): &(EntryId, EntryId)| {
                state.is_some_and(|state| state.held().tail(*first) >= *last)
            };
            if held.deleted && !deleted {
                broken = Some(("F4: a tombstone stays", format!("{member}, ledger {ledger}")));
            } else if sealed < held.sealed && !deleted {
                let detail =
                    format!("{member}, ledger {ledger}: {sealed}, answered {}", held.sealed);
                broken = Some(("I11: a seal that was answered holds", detail));
            } else if held.given_up && !given_up && !deleted {
                broken = Some(("K1: what was given up stays so", format!("{member}, {ledger}")));
            } else if !deleted && !trimmed && !goes && !held.durable.runs().iter().all(whole) {
                let now = state.map(|state| state.held().runs());
                let detail = format!(
                    "{member}, ledger {ledger}: {now:?}, promised {:?}",
                    held.durable.runs()
                );
                broken = Some(("K5, I12: a tail that was reported stays", detail));
            }
        }
        if let Some((invariant, detail)) = broken {
            return self.violated(invariant, detail);
        }
        for (ledger, staged) in staged {
            let Staged::Entries(first, last) = staged else { continue };
            let survived =
                found.get(ledger).is_some_and(|state| state.held().tail(*first) >= *last);
            coverage.hit(match survived {
                true => "disk: unsynced entries survived",
                false => "disk: unsynced entries lost",
            });
        }
        for (ledger, state) in found {
            let held = self.held(member, *ledger);
            held.given_up |= state.is_given_up();
            if state.trimmed().is_some() || state.is_given_up() {
                held.durable = Ranges::default();
            }
            for (first, last) in state.held().runs() {
                held.durable.insert(*first, *last);
            }
            held.sealed = held.sealed.max(state.sealed_epoch());
        }
        let promised = self.disks.entry(member.clone()).or_default();
        for (_, held) in promised.0.iter_mut().filter(|(ledger, _)| tombstones.contains(**ledger)) {
            held.deleted = true;
        }
    }
}
