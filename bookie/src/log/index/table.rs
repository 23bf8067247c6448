//! The runs of all ledgers, and which of them go to the disk when there are too many for memory. Knows no disk: what must be read or
//! written it hands out, and takes back.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use geminga_proto::ids::{EntryId, LedgerId};

use super::chunks::{Body, Change, Chunk, Chunks, Common, Loaded, Lookup, Queued, Settled};
use super::find::{Located, Wanted};
use super::live::{Live, Pin};
use super::run::{Piece, Place, Run};
use super::spill::{MAX_RUNS, Stored};
use crate::log::footer::Extent;

/// The runs of all ledgers.
#[derive(Debug, Default)]
pub(in crate::log) struct Table {
    ledgers: HashMap<LedgerId, Chunks>,
    common: Common,
    /// Ledgers with changes that were put off.
    unsettled: BTreeSet<LedgerId>,
    /// Chunks of ledgers that were removed; segments still count their runs, be it that nobody finds them any more.
    dead: Vec<Stored>,
}

/// A chunk that goes to the disk.
#[derive(Debug)]
pub(super) struct Victim {
    queued: Queued,
    /// Of the copy.
    pub(super) id: u64,
    pub(super) runs: Vec<Run>,
    /// The chunk before it, which is there already and has room for these.
    pub(super) before: Option<Stored>,
}

/// What is written down next.
#[derive(Debug)]
pub(super) enum Oldest {
    /// This one.
    Victim(Victim),
    /// Many have been passed over; others may want the table meanwhile.
    Passed,
    /// Nothing.
    Enough,
}

/// Most chunks that are passed over at a time.
const MAX_PASSED: usize = 1000;

impl Table {
    /// Adds a record's entries; `count` is at least 1.
    pub(in crate::log) fn insert(
        &mut self,
        ledger: LedgerId,
        first: EntryId,
        count: u32,
        place: Place,
    ) {
        let chunks = self.ledgers.entry(ledger).or_insert_with(|| Chunks::new(ledger));
        let change = Change::Insert(Run { first: first.0, count, place });
        if !chunks.change(change, &mut self.common) {
            self.unsettled.insert(ledger);
        }
    }

    /// Points entries `first..` of a ledger at a copy of them, as far as they are still in segment `from`.
    pub(in crate::log) fn relocate(
        &mut self,
        ledger: LedgerId,
        first: EntryId,
        count: u32,
        from: u32,
        to: Place,
    ) {
        let run = Run { first: first.0, count, place: to };
        self.change(ledger, Change::Move { run, from });
    }

    /// Drops what segment `segment` holds of entries `from..=to`.
    pub(super) fn forget(&mut self, ledger: LedgerId, from: EntryId, to: EntryId, segment: u32) {
        self.change(ledger, Change::Forget { from: from.0, to: to.0, segment });
    }

    fn change(&mut self, ledger: LedgerId, change: Change) {
        if let Some(chunks) = self.ledgers.get_mut(&ledger)
            && !chunks.change(change, &mut self.common)
        {
            self.unsettled.insert(ledger);
        }
    }

    /// Forgets a ledger. Segments are needed for its chunks on the disk until these were read ([`Table::bury`]).
    pub(in crate::log) fn remove(&mut self, ledger: LedgerId) {
        let Some(mut chunks) = self.ledgers.remove(&ledger) else { return };
        self.unsettled.remove(&ledger);
        let (spans, put_off) = chunks.overhead();
        self.common.spans -= spans;
        self.common.bytes -= put_off;
        for change in std::mem::take(&mut chunks.put_off) {
            if let Change::Insert(run) | Change::Move { run, .. } = change {
                self.common.segments.take(&run);
            }
        }
        for chunk in chunks.chunks {
            self.common.bytes -= chunk.memory();
            match chunk.body {
                Body::Memory(runs) => {
                    self.common.resident -= 1;
                    runs.iter().for_each(|run| self.common.segments.take(run));
                }
                Body::Disk(stored) => self.dead.push(stored),
            }
        }
    }

    /// Chunks of ledgers that were removed, which are to be read and given to [`Table::bury`], or else to [`Table::unearth`].
    pub(super) fn take_dead(&mut self) -> Vec<Stored> {
        std::mem::take(&mut self.dead)
    }

    /// Nothing is needed for these runs any more.
    pub(super) fn bury(&mut self, runs: &[Run]) {
        runs.iter().for_each(|run| self.common.segments.take(run));
    }

    /// It could not be read.
    pub(super) fn unearth(&mut self, dead: Stored) {
        self.dead.push(dead);
    }

    /// A ledger with changes that were put off, behind `after`.
    pub(super) fn unsettled(&self, after: Option<LedgerId>) -> Option<LedgerId> {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.unsettled.range((behind, Bound::Unbounded)).next().copied()
    }

    /// Makes a ledger's changes that were put off, until one needs a chunk that is on the disk, and no more than a few at a time.
    pub(super) fn settle(&mut self, ledger: LedgerId) -> Settled {
        let Some(chunks) = self.ledgers.get_mut(&ledger) else { return Settled::All };
        let settled = chunks.settle(&mut self.common);
        if settled == Settled::All {
            self.unsettled.remove(&ledger);
        }
        settled
    }

    /// A chunk that was read from the disk is in memory again. False when it is not there any more.
    pub(super) fn restore(&mut self, ledger: LedgerId, stored: Stored, runs: Vec<Run>) -> bool {
        let chunks = self.ledgers.get_mut(&ledger);
        chunks.is_some_and(|chunks| chunks.restore(stored, runs, &mut self.common))
    }

    /// Whether a chunk is still on the disk, and of use.
    pub(super) fn holds(&self, ledger: LedgerId, stored: Stored) -> bool {
        let chunks = self.ledgers.get(&ledger);
        chunks.is_some_and(|chunks| (0..chunks.chunks.len()).any(|at| chunks.holds(at, stored)))
    }

    /// The oldest chunk in memory, if there is more in memory than `limit` bytes; `left` turns are taken, at most. One that has
    /// grown since its last turn is passed over until the next.
    pub(super) fn oldest(&mut self, limit: usize, left: &mut usize) -> Oldest {
        for _ in 0..MAX_PASSED {
            if *left == 0 || self.memory() <= limit {
                return Oldest::Enough;
            }
            *left -= 1;
            let Some(queued) = self.common.order.pop_front() else { return Oldest::Enough };
            let Some((chunks, at)) = self.position(queued) else { continue };
            let Body::Memory(runs) = &chunks.chunks[at].body else { continue };
            if runs.len() != queued.runs {
                self.common.order.push_back(Queued { runs: runs.len(), ..queued });
                continue;
            }
            let before = at.checked_sub(1).map(|before| &chunks.chunks[before].body);
            let before = before.and_then(|body| match body {
                Body::Disk(stored) => Some(*stored),
                Body::Memory(_) => None,
            });
            let before = before.filter(|stored| stored.runs as usize + runs.len() <= MAX_RUNS);
            let runs = runs.clone();
            return Oldest::Victim(Victim { queued, id: self.common.next_id(), runs, before });
        }
        Oldest::Passed
    }

    fn position(&self, queued: Queued) -> Option<(&Chunks, usize)> {
        let chunks = self.ledgers.get(&queued.ledger)?;
        let at = chunks.chunks.partition_point(|chunk| chunk.first < queued.first);
        (chunks.chunks.get(at)?.id == queued.id).then_some((chunks, at))
    }

    /// A chunk, and the one before it if there was one, is on the disk as `stored`. What is of no use there any more: that
    /// one, or `stored` itself when the chunk is not as it was.
    pub(super) fn stored(&mut self, victim: &Victim, stored: Stored) -> Option<Stored> {
        let unchanged = self.position(victim.queued).filter(|(chunks, at)| {
            let same =
                matches!(&chunks.chunks[*at].body, Body::Memory(runs) if *runs == victim.runs);
            let before = victim.before;
            same && before.is_none_or(|before| *at > 0 && chunks.holds(at - 1, before))
        });
        let Some((_, at)) = unchanged else {
            self.put_back(victim);
            return Some(stored);
        };
        let chunks = self.ledgers.get_mut(&victim.queued.ledger)?;
        let chunk = &mut chunks.chunks[at];
        self.common.bytes -= chunk.memory();
        self.common.resident -= 1;
        *chunk = Chunk { id: stored.id, body: Body::Disk(stored), ..*chunk };
        if victim.before.is_some() {
            let before = chunks.chunks.remove(at - 1);
            chunks.chunks[at - 1].first = before.first;
        }
        victim.before
    }

    /// A chunk stays in memory.
    pub(super) fn put_back(&mut self, victim: &Victim) {
        self.common.order.push_back(victim.queued);
    }

    /// How many chunks have a turn.
    pub(super) fn turns(&self) -> usize {
        self.common.order.len()
    }

    /// Forgets turns of chunks that are gone, when these are most of all.
    pub(super) fn trim_turns(&mut self) {
        if self.common.order.len() > 2 * self.common.resident + 64 {
            let mut order = std::mem::take(&mut self.common.order);
            order.retain(|queued| self.position(*queued).is_some());
            order.shrink_to_fit();
            self.common.order = order;
        }
    }

    /// Bytes of the records that a ledger's runs point at.
    pub(in crate::log) fn bytes_of(&self, ledger: LedgerId) -> u64 {
        self.ledgers.get(&ledger).map_or(0, |chunks| chunks.bytes)
    }

    /// What a segment is needed for. While something was put off it may differ, but for this: no segment with a live run is without
    /// one.
    pub(in crate::log) fn live(&self, segment: u32) -> Live {
        self.common.segments.live(segment)
    }

    /// Keeps a segment's file.
    pub(in crate::log) fn pin_of(&self, segment: u32) -> Option<Pin> {
        self.common.segments.pin_of(segment)
    }

    /// Forgets a segment that nothing points into; false when something does, or somebody reads it.
    pub(in crate::log) fn release(&mut self, segment: u32) -> bool {
        self.common.segments.release(segment)
    }

    /// See [`Index::find`](super::Index::find).
    pub(super) fn find(
        &self,
        ledger: LedgerId,
        wanted: Wanted,
        loaded: &Loaded,
    ) -> Lookup<Located> {
        let Some(chunks) = self.ledgers.get(&ledger) else {
            return Lookup::Found(Located::default());
        };
        chunks.find(wanted, loaded, &self.common.segments)
    }

    /// The pieces of an extent that are still to be read from its segment.
    pub(super) fn pieces_in(
        &self,
        segment: u32,
        extent: &Extent,
        loaded: &Loaded,
    ) -> Lookup<Vec<Piece>> {
        let last = extent.first.0 + i64::from(extent.count) - 1;
        let Some(chunks) = self.ledgers.get(&extent.ledger) else {
            return Lookup::Found(Vec::new());
        };
        let parts = match chunks.parts(extent.first.0, last, segment, loaded) {
            Lookup::Found(parts) => parts.into_iter(),
            Lookup::Stored(stored) => return Lookup::Stored(stored),
            Lookup::Unsettled => return Lookup::Unsettled,
        };
        let here = parts.filter(|part| part.place.offset == extent.offset);
        Lookup::Found(here.map(Run::piece).collect())
    }

    /// Gives back memory that was taken ahead; for an index that was just built.
    pub(super) fn shrink(&mut self) {
        self.ledgers.shrink_to_fit();
        self.common.order.shrink_to_fit();
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.common.bytes + self.fixed()
    }

    /// Those of them that stay, whatever is written down.
    pub(super) fn fixed(&self) -> usize {
        let ledger = size_of::<LedgerId>() + size_of::<Chunks>() + 1;
        self.common.spans
            + self.ledgers.capacity() * ledger
            + self.common.segments.memory()
            + self.common.order.capacity() * size_of::<Queued>()
            + self.dead.capacity() * size_of::<Stored>()
    }
}
