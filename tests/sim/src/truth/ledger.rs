//! One ledger: what its writer made and acknowledged, what its metadata says, and how the two may move.

use bytes::Bytes;
use geminga_metastore::record::{CloseKind, Fragment, LedgerMeta, LedgerState, Tier};
use geminga_proto::ids::{EntryId, LedgerId, Member};

use super::Truth;
use crate::coverage::Coverage;
use crate::payload::Payload;
use crate::store::{Change, Value};

/// A ledger as it is.
#[derive(Debug)]
pub(crate) struct LedgerTruth {
    /// The one before it in its chain (I13).
    previous: Option<LedgerId>,
    /// The metadata; none once the key is removed.
    pub(crate) meta: Option<LedgerMeta>,
    content: Vec<Bytes>,
    payloads: Vec<Payload>,
    /// Payload bytes up to and with each entry.
    lengths: Vec<u64>,
    /// Everything up to here was acknowledged.
    pub(crate) acked: EntryId,
    /// Where it ended, once it did (I4).
    pub(crate) end: Option<EntryId>,
    /// When its recovery began, an acknowledged entry had Qa copies of the Qw that it may have.
    thin: bool,
    /// In how many zones its acknowledgements are: as many as asked for, or as it began in.
    ack_zones: usize,
}

impl LedgerTruth {
    /// The metadata, unless the ledger is deleted or being deleted.
    pub(crate) fn live(&self) -> Option<&LedgerMeta> {
        self.meta.as_ref().filter(|meta| meta.state != LedgerState::Deleting)
    }

    /// The last entry that was made.
    pub(crate) fn pushed(&self) -> EntryId {
        EntryId(self.content.len() as i64 - 1)
    }

    /// What an entry holds, for ever (D3).
    pub(crate) fn content(&self, entry: EntryId) -> Option<&Bytes> {
        self.content.get(usize::try_from(entry.0).ok()?)
    }
}

impl Truth {
    /// A writer made an entry.
    pub(crate) fn appended(
        &mut self,
        ledger: LedgerId,
        entry: EntryId,
        bytes: Bytes,
        payload: Payload,
        cumulative: u64,
    ) {
        let Some(truth) = self.ledgers.get_mut(&ledger) else {
            return self.violated("M7", format!("ledger {ledger} is written without metadata"));
        };
        if entry != truth.pushed().next() {
            let detail = format!("ledger {ledger}: entry {entry} follows {}", truth.pushed());
            return self.violated("D3: ids are assigned once, in order", detail);
        }
        truth.content.push(bytes);
        truth.payloads.push(payload);
        truth.lengths.push(cumulative);
    }

    /// A writer acknowledged everything up to `lac` (I1, I3, I7, I10, I13).
    pub(crate) fn confirmed(&mut self, ledger: LedgerId, lac: EntryId, coverage: &mut Coverage) {
        let Some(truth) = self.ledgers.get(&ledger) else {
            return self.violated("M7", format!("ledger {ledger} is confirmed without metadata"));
        };
        if lac == truth.acked {
            return;
        }
        if lac < truth.acked || lac > truth.pushed() {
            let detail = format!("ledger {ledger}: LAC {lac} after {}", truth.acked);
            return self.violated("I7: acknowledged entries are a prefix", detail);
        }
        if let Some(end) = truth.end
            && lac > end
        {
            let detail = format!("ledger {ledger}: acknowledged {lac}, closed at {end}");
            return self.violated("I3: no acknowledgement beyond the end", detail);
        }
        if let Some(previous) = truth.previous.and_then(|id| self.ledgers.get(&id))
            && previous.end.is_none()
            && previous.acked != previous.pushed()
        {
            let detail = format!("ledger {ledger}: {lac}, while the one before is open");
            return self.violated("I13: ledgers are acknowledged in order", detail);
        }
        // A late acknowledgement at or below the end may outlive the copies: of a ledger that is deleted, or trimmed for its object,
        // which may happen while a writer is paused that was told of all its copies.
        let copied = |meta: &&LedgerMeta| !matches!(meta.tier, Tier::Trimmed(_));
        let Some(meta) = truth.live().filter(copied) else {
            self.ledgers.get_mut(&ledger).expect("found above").acked = lac;
            return;
        };
        let qa = usize::from(meta.qa);
        for entry in (truth.acked.0 + 1..=lac.0).map(EntryId) {
            let (had, _) = self.copies(ledger, &meta.fragment_of(entry).ensemble, entry);
            if had == qa {
                coverage.hit("ack: with exactly Qa copies");
            }
            if had < qa {
                let detail = format!("ledger {ledger}: entry {entry} has {had} copies");
                return self.violated("I10: acknowledged on Qa members of its fragment", detail);
            }
            let zones = self.zones_of_copies(ledger, entry);
            if zones < truth.ack_zones {
                let detail = format!("ledger {ledger}: entry {entry} is in {zones} zones");
                return self.violated("6.7: acknowledged in as many zones as asked for", detail);
            }
            if truth.ack_zones > 1 && usize::from(meta.qw) > truth.ack_zones {
                coverage.hit("ack: in two zones, of more copies than two");
            }
        }
        self.ledgers.get_mut(&ledger).expect("found above").acked = lac;
    }

    /// A recoverer says where a ledger ended (RC1).
    pub(crate) fn adopted(&mut self, ledger: LedgerId, end: Option<EntryId>) {
        let truth = self.ledgers.get(&ledger).and_then(|truth| truth.end);
        if end != truth {
            let detail = format!("ledger {ledger}: {end:?} is told, {truth:?} is true");
            self.violated("RC1: an end is told once it is in the metadata", detail);
        }
    }

    /// A transaction changed a ledger's key.
    pub(crate) fn changed(&mut self, change: &Change, chain: &[LedgerId], coverage: &mut Coverage) {
        match (&change.old, &change.new) {
            (None, Some(Value::Ledger(new))) => self.created(new, chain),
            (Some(Value::Ledger(old)), Some(Value::Ledger(new))) => {
                self.advanced(old, new, coverage);
            }
            (Some(Value::Ledger(old)), None) => {
                if old.state != LedgerState::Deleting {
                    self.violated(
                        "M6",
                        format!("ledger {}: removed while {:?}", old.id, old.state),
                    );
                }
                if let Some(truth) = self.ledgers.get_mut(&old.id) {
                    truth.meta = None;
                }
                coverage.hit("end: ledger deleted");
            }
            _ => {}
        }
    }

    fn created(&mut self, new: &LedgerMeta, chain: &[LedgerId]) {
        if let Err(error) = new.validate() {
            self.violated("I10: fragments are well-formed", error.to_string());
        }
        let truth = LedgerTruth {
            previous: chain.iter().rev().find(|id| **id != new.id).copied(),
            meta: Some(new.clone()),
            content: Vec::new(),
            payloads: Vec::new(),
            lengths: Vec::new(),
            acked: EntryId::NONE,
            end: None,
            thin: false,
            ack_zones: self.zones(new.fragments[0].ensemble.iter()).min(self.min_ack_zones),
        };
        if self.ledgers.insert(new.id, truth).is_some() {
            self.violated("I16: no resurrection", format!("ledger {} exists again", new.id));
        }
    }

    /// I4, I5, M2 to M6.
    fn advanced(&mut self, old: &LedgerMeta, new: &LedgerMeta, coverage: &mut Coverage) {
        let id = new.id;
        if let Err(error) = new.validate() {
            return self.violated("I10: fragments are well-formed", error.to_string());
        }
        let allowed = match (old.state, new.state) {
            (LedgerState::Open, LedgerState::Open | LedgerState::Closed) => {
                new.seal_epoch == old.seal_epoch
            }
            (LedgerState::Open, LedgerState::InRecovery) => {
                new.seal_epoch.0 == old.seal_epoch.0 + 1 && new.fragments == old.fragments
            }
            (LedgerState::InRecovery, LedgerState::InRecovery) => {
                new.seal_epoch.0 == old.seal_epoch.0 + 1 && new.fragments == old.fragments
            }
            (LedgerState::InRecovery, LedgerState::Closed) => new.seal_epoch == old.seal_epoch,
            (LedgerState::Closed, LedgerState::Closed | LedgerState::Deleting) => {
                new.last_entry == old.last_entry && new.length == old.length
            }
            _ => false,
        };
        if !allowed {
            let detail = format!("ledger {id}: {new:?} after {old:?}");
            return self.violated("I4, I5: states only advance", detail);
        }
        if old.state == LedgerState::Closed {
            self.kept(old, new);
            if let Some(truth) = self.ledgers.get_mut(&id) {
                truth.meta = Some(new.clone());
            }
            return;
        }
        let kept = old.fragments.len()
            - usize::from(
                old.fragments != new.fragments && {
                    let (old, new) = (old.last_fragment(), new.last_fragment());
                    old.first_entry == new.first_entry
                },
            );
        if new.fragments.get(..kept) != Some(&old.fragments[..kept]) {
            let detail = format!("ledger {id}: {:?} after {:?}", new.fragments, old.fragments);
            return self.violated("M3: only the last fragment changes", detail);
        }
        let Some(truth) = self.ledgers.get_mut(&id) else { return };
        truth.meta = Some(new.clone());
        let acked = truth.acked;
        if old.fragments != new.fragments {
            self.check_moved(new, acked, coverage);
        }
        if old.state == LedgerState::Open && new.state == LedgerState::InRecovery {
            let thin = self.is_thin(new, acked);
            self.ledgers.get_mut(&id).expect("found above").thin = thin;
        }
        if old.state != LedgerState::Closed && new.state == LedgerState::Closed {
            self.closed(new, coverage);
        }
    }

    /// M5, I15: repairs change one place, and leave no fewer copies; tiering changes none. What objects must hold is checked beside
    /// the object store.
    fn kept(&mut self, old: &LedgerMeta, new: &LedgerMeta) {
        let id = new.id;
        let fragments = old.fragments.iter().zip(&new.fragments);
        let same_firsts = old.fragments.len() == new.fragments.len()
            && fragments.clone().all(|(old, new)| old.first_entry == new.first_entry);
        let places = |(old, new): (&Fragment, &Fragment)| {
            old.ensemble.iter().zip(&new.ensemble).filter(|(old, new)| old != new).count()
        };
        let changed: usize = fragments.map(places).sum();
        let tier_stays = old.tier == new.tier;
        if !same_firsts || changed > 1 || (changed == 1 && !tier_stays) {
            let detail = format!("ledger {id}: {new:?} after {old:?}");
            return self.violated("M5: one place at a time", detail);
        }
        if matches!(old.tier, Tier::Trimmed(_)) && !tier_stays {
            let detail = format!("ledger {id}: {:?} after {:?}", new.tier, old.tier);
            return self.violated("7.2: trimmed is for good", detail);
        }
        if let (Tier::Uploading { attempt, .. }, Some(object)) = (&old.tier, new.tier.object())
            && *attempt != object.attempt
        {
            let detail = format!("ledger {id}: {:?} after {:?}", new.tier, old.tier);
            return self.violated("7.4 step 6: published under its own claim", detail);
        }
        if changed == 0 || new.tier.object().is_some() {
            return;
        }
        let last = new.last_entry.unwrap_or(EntryId::NONE);
        for entry in (0..=last.0).map(EntryId) {
            let (before, _) = self.copies(id, &old.fragment_of(entry).ensemble, entry);
            let (after, _) = self.copies(id, &new.fragment_of(entry).ensemble, entry);
            if after < before.min(usize::from(new.qa)) {
                let detail = format!("ledger {id}: entry {entry} had {before} copies, has {after}");
                return self.violated("I15: a repair leaves no fewer copies", detail);
            }
        }
    }

    /// I10: what was acknowledged has its copies in whatever fragment the metadata now gives it.
    fn check_moved(&mut self, new: &LedgerMeta, acked: EntryId, coverage: &mut Coverage) {
        let first = new.last_fragment().first_entry;
        coverage.hit(match (new.state, first > acked) {
            (LedgerState::Open, _) => "writer: ensemble changed",
            _ => "recovery: ensemble changed",
        });
        for entry in (first.0..=acked.0).map(EntryId) {
            let (had, _) = self.copies(new.id, &new.last_fragment().ensemble, entry);
            if had < usize::from(new.qa) {
                let detail = format!("ledger {}: entry {entry} moved with {had} copies", new.id);
                return self.violated("I10: acknowledged on Qa members of its fragment", detail);
            }
        }
    }

    /// Whether an acknowledged entry has exactly Qa copies where its ensemble has more members.
    fn is_thin(&self, meta: &LedgerMeta, acked: EntryId) -> bool {
        let qa = usize::from(meta.qa);
        meta.qa < meta.qw
            && (0..=acked.0)
                .map(EntryId)
                .any(|entry| self.copies(meta.id, &meta.fragment_of(entry).ensemble, entry).0 == qa)
    }

    /// I1 and I2 where the end is written, and what the end means for producers.
    fn closed(&mut self, meta: &LedgerMeta, coverage: &mut Coverage) {
        let id = meta.id;
        let end = meta.last_entry.unwrap_or(EntryId::NONE);
        let Some(truth) = self.ledgers.get_mut(&id) else { return };
        if truth.acked > end {
            let detail = format!("ledger {id}: acknowledged {}, closed at {end}", truth.acked);
            return self.violated("I1: nothing acknowledged is beyond the end", detail);
        }
        if end > truth.pushed() {
            let detail = format!("ledger {id}: closed at {end}, written {}", truth.pushed());
            return self.violated("I4: the end is an entry", detail);
        }
        truth.end = Some(end);
        let count = usize::try_from(end.0 + 1).expect("an end is at least -1");
        let length = truth.lengths[..count].last().copied().unwrap_or(0);
        if meta.length != length {
            let detail = format!("ledger {id}: length {} is {length}", meta.length);
            return self.violated("1.2: the length counts payload bytes up to the end", detail);
        }
        coverage.hit(match meta.close_kind {
            Some(CloseKind::Writer) => "end: ledger closed by its writer",
            _ => "end: ledger closed by its recoverer",
        });
        if truth.thin {
            coverage.hit("end: entry with Qa copies recovered");
        }
        let payloads = truth.payloads[..count].to_vec();
        self.settle(id, &payloads);
        self.check_readable(meta, end);
    }

    /// I2: every entry has Qa copies, but for those that were on disks that are lost.
    fn check_readable(&mut self, meta: &LedgerMeta, end: EntryId) {
        for entry in (0..=end.0).map(EntryId) {
            let members: &[Member] = &meta.fragment_of(entry).ensemble;
            let (had, _) = self.copies(meta.id, members, entry);
            let lost = members.iter().filter(|member| self.is_lost(member)).count();
            let qa = usize::from(meta.qa);
            if had + lost < qa || (had == 0 && lost < qa) {
                let detail = format!("ledger {}: entry {entry} has {had} copies", meta.id);
                return self.violated("I2: a closed ledger is readable from Qa members", detail);
            }
        }
    }
}
