//! The index as it would be with all the memory in the world: every run of a ledger in one list. What it answers is what
//! [`super::Index`] must answer.

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::log::format;
use crate::log::index::live::Live;
use crate::log::index::run::Run;

#[derive(Debug, Default)]
pub(super) struct Model {
    ledgers: HashMap<LedgerId, Vec<Run>>,
}

impl Model {
    pub(super) fn insert(&mut self, ledger: LedgerId, first: EntryId, count: u32, place: Place) {
        let new = Run { first: first.0, count, place };
        let runs = self.ledgers.entry(ledger).or_default();
        let start = runs.partition_point(|run| run.last() < new.first);
        let end = runs.partition_point(|run| run.first <= new.last());
        let overlapped = &runs[start..end];
        // An older run that reaches out before or behind keeps that part.
        let before = overlapped.first().and_then(|run| run.part(i64::MIN, new.first - 1));
        let behind = overlapped.last().and_then(|run| run.part(new.last() + 1, i64::MAX));
        runs.splice(start..end, before.into_iter().chain([new]).chain(behind));
    }

    pub(super) fn remove(&mut self, ledger: LedgerId) {
        self.ledgers.remove(&ledger);
    }

    pub(super) fn bytes_of(&self, ledger: LedgerId) -> u64 {
        let runs = self.ledgers.get(&ledger);
        runs.map_or(0, |runs| runs.iter().map(|run| u64::from(run.place.length)).sum())
    }

    /// Of every segment that is needed.
    pub(super) fn live(&self) -> BTreeMap<u32, Live> {
        let mut counted: BTreeMap<u32, Live> = BTreeMap::new();
        for run in self.ledgers.values().flatten() {
            let live = counted.entry(run.place.segment).or_default();
            live.runs += 1;
            live.bytes += u64::from(run.place.length);
        }
        counted
    }

    pub(super) fn relocate(
        &mut self,
        ledger: LedgerId,
        first: EntryId,
        count: u32,
        from: u32,
        to: Place,
    ) {
        let last = first.0 + i64::from(count) - 1;
        for part in self.parts(ledger, first.0, last, from) {
            self.insert(ledger, EntryId(part.first), part.count, to);
        }
    }

    pub(super) fn forget(&mut self, ledger: LedgerId, from: EntryId, to: EntryId, segment: u32) {
        for part in self.parts(ledger, from.0, to.0, segment) {
            // Cut out: what is left on both sides stays.
            self.insert(ledger, EntryId(part.first), part.count, part.place);
            let runs = self.ledgers.get_mut(&ledger).unwrap();
            let at = runs.partition_point(|run| run.first < part.first);
            runs.remove(at);
        }
    }

    pub(super) fn pieces_in(&self, segment: u32, extent: &Extent) -> Vec<Piece> {
        let last = extent.first.0 + i64::from(extent.count) - 1;
        let parts = self.parts(extent.ledger, extent.first.0, last, segment).into_iter();
        parts.filter(|part| part.place.offset == extent.offset).map(Run::piece).collect()
    }

    fn parts(&self, ledger: LedgerId, from: i64, to: i64, segment: u32) -> Vec<Run> {
        let Some(runs) = self.ledgers.get(&ledger) else { return Vec::new() };
        let overlapping = runs.iter().filter(|run| run.last() >= from && run.first <= to);
        let here = overlapping.filter(|run| run.place.segment == segment);
        here.filter_map(|run| run.part(from, to)).collect()
    }

    pub(super) fn find(&self, ledger: LedgerId, wanted: Wanted) -> Vec<Piece> {
        let mut found: Vec<Piece> = Vec::new();
        let Some(runs) = self.ledgers.get(&ledger) else { return found };
        let Wanted { from, to, max_bytes } = wanted;
        let start = runs.partition_point(|run| run.last() < from.0);
        let (mut next, mut sure) = (from.0, 0);
        for run in &runs[start..] {
            let full = sure >= max_bytes && !found.is_empty();
            if run.first > next || next > to.0 || full || found.len() == 1024 {
                break;
            }
            let last = run.last().min(to.0);
            found.push(Piece { from: EntryId(next), to: EntryId(last), place: run.place });
            if found.len() > 1 {
                let head = format::entries_head_bytes(run.count as usize);
                sure += (run.place.length as usize).saturating_sub(head);
            }
            next = run.last() + 1;
        }
        found
    }

    /// A run, if there is any: ledger, first entry, how many, place.
    pub(super) fn any(&self, random: &dyn Random) -> Option<(LedgerId, EntryId, u32, Place)> {
        let all: BTreeMap<_, _> =
            self.ledgers.iter().filter(|(_, runs)| !runs.is_empty()).collect();
        let at = random.below((all.len() as u64).max(1)) as usize;
        let (ledger, runs) = all.into_iter().nth(at)?;
        let run = runs[random.below(runs.len() as u64) as usize];
        Some((*ledger, EntryId(run.first), run.count, run.place))
    }
}
