//! Where entries are: for each ledger, runs of entries that one record holds (protocol 5.5). A run costs 24 bytes of memory,
//! whatever the size of its entries. It holds durable entries only, so what it does not know is not there.
//!
//! Runs of a ledger are sorted and never overlap: what is written later wins, and an older run keeps what is left of it. Beside
//! them stands what each segment is still needed for, so that a segment without a live run can be told (K9). Whoever looks
//! a run up also gets a pin on its segment, which keeps the file for as long as it is being read.

use std::collections::HashMap;
use std::sync::Arc;

use geminga_proto::ids::{EntryId, LedgerId};

use super::footer::Extent;
use super::format;

/// Where an `Entries` record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) segment: u32,
    /// Of the record in its file, bytes.
    pub(super) offset: u32,
    /// Of the whole record, bytes.
    pub(super) length: u32,
}

/// Consecutive entries inside one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: EntryId,
    pub(super) to: EntryId,
    pub(super) place: Place,
}

/// A segment's file is not removed while somebody holds one.
pub(super) type Pin = Arc<()>;

/// An answer of [`Index::find`].
#[derive(Debug, Default)]
pub(super) struct Located {
    pub(super) pieces: Vec<Piece>,
    /// Keep the files that the pieces are in.
    pub(super) pins: Vec<Pin>,
}

/// What a segment is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Live {
    /// Runs that point into it.
    pub(super) runs: u64,
    /// Bytes of the records that they point at. A record that two runs share counts twice.
    pub(super) bytes: u64,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    first: i64,
    count: u32,
    place: Place,
}

impl Run {
    fn last(&self) -> i64 {
        self.first + i64::from(self.count) - 1
    }

    /// The part of it that lies in `from..=to`.
    fn part(self, from: i64, to: i64) -> Option<Self> {
        let (first, last) = (self.first.max(from), self.last().min(to));
        let count = u32::try_from(last.checked_sub(first)? + 1).ok().filter(|count| *count > 0)?;
        Some(Self { first, count, ..self })
    }
}

#[derive(Debug, Default)]
struct Use {
    live: Live,
    pin: Pin,
}

/// The runs of all ledgers.
#[derive(Debug, Default)]
pub(super) struct Index {
    ledgers: HashMap<LedgerId, Vec<Run>>,
    segments: HashMap<u32, Use>,
}

impl Index {
    /// Most records of one answer: a read of tiny records is cut short rather than walk the whole ledger.
    const MAX_PIECES: usize = 1024;

    /// Adds a record's entries; `count` is at least 1.
    pub(super) fn insert(&mut self, ledger: LedgerId, first: EntryId, count: u32, place: Place) {
        let new = Run { first: first.0, count, place };
        let runs = self.ledgers.entry(ledger).or_default();
        if runs.len() == runs.capacity() {
            // Grows by an eighth: most of the memory of a full disk's index is here.
            runs.reserve_exact((runs.len() / 8).max(4));
        }
        count_in(&mut self.segments, &new);
        if runs.last().is_none_or(|last| last.last() < new.first) {
            runs.push(new);
            return;
        }
        let start = runs.partition_point(|run| run.last() < new.first);
        let end = runs.partition_point(|run| run.first <= new.last());
        let overlapped = &runs[start..end];
        // An older run that reaches out before or behind keeps that part.
        let before = overlapped.first().and_then(|run| run.part(i64::MIN, new.first - 1));
        let behind = overlapped.last().and_then(|run| run.part(new.last() + 1, i64::MAX));
        for part in before.iter().chain(&behind) {
            count_in(&mut self.segments, part);
        }
        for run in overlapped {
            count_out(&mut self.segments, run);
        }
        runs.splice(start..end, before.into_iter().chain([new]).chain(behind));
    }

    /// Forgets a ledger.
    pub(super) fn remove(&mut self, ledger: LedgerId) {
        for run in self.ledgers.remove(&ledger).unwrap_or_default() {
            count_out(&mut self.segments, &run);
        }
    }

    /// Bytes of the records that a ledger's runs point at.
    pub(super) fn bytes_of(&self, ledger: LedgerId) -> u64 {
        let runs = self.ledgers.get(&ledger);
        runs.map_or(0, |runs| runs.iter().map(|run| u64::from(run.place.length)).sum())
    }

    /// What a segment is needed for.
    pub(super) fn live(&self, segment: u32) -> Live {
        self.segments.get(&segment).map_or_else(Live::default, |used| used.live)
    }

    /// Points entries `first..` of a ledger at a copy of them, as far as they are still in segment `from`.
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

    /// Drops what segment `segment` holds of entries `from..=to`.
    pub(super) fn forget(&mut self, ledger: LedgerId, from: EntryId, to: EntryId, segment: u32) {
        for part in self.parts(ledger, from.0, to.0, segment) {
            // Cut out: what is left on both sides stays.
            self.insert(ledger, EntryId(part.first), part.count, part.place);
            let runs = self.ledgers.get_mut(&ledger).expect("it was just added to");
            let at = runs.partition_point(|run| run.first < part.first);
            count_out(&mut self.segments, &runs.remove(at));
        }
    }

    /// The pieces of an extent that are still to be read from its segment.
    pub(super) fn pieces_in(&self, segment: u32, extent: &Extent) -> Vec<Piece> {
        let last = extent.first.0 + i64::from(extent.count) - 1;
        let parts = self.parts(extent.ledger, extent.first.0, last, segment).into_iter();
        let parts = parts.filter(|part| part.place.offset == extent.offset);
        let piece = |part: Run| Piece {
            from: EntryId(part.first),
            to: EntryId(part.last()),
            place: part.place,
        };
        parts.map(piece).collect()
    }

    /// The parts of runs that lie in `from..=to` and in a segment.
    fn parts(&self, ledger: LedgerId, from: i64, to: i64, segment: u32) -> Vec<Run> {
        let Some(runs) = self.ledgers.get(&ledger) else { return Vec::new() };
        let start = runs.partition_point(|run| run.last() < from);
        let overlapping = runs[start..].iter().take_while(|run| run.first <= to);
        let here = overlapping.filter(|run| run.place.segment == segment);
        here.filter_map(|run| run.part(from, to)).collect()
    }

    /// Keeps a segment's file.
    pub(super) fn pin_of(&self, segment: u32) -> Option<Pin> {
        Some(Arc::clone(&self.segments.get(&segment)?.pin))
    }

    /// Forgets a segment that nothing points into; false when something does, or somebody reads it.
    pub(super) fn release(&mut self, segment: u32) -> bool {
        let Some(used) = self.segments.get(&segment) else { return true };
        let free = used.live.runs == 0 && Arc::strong_count(&used.pin) == 1;
        if free {
            self.segments.remove(&segment);
        }
        free
    }

    /// Gives back memory that was taken ahead; for an index that was just built.
    pub(super) fn shrink(&mut self) {
        self.ledgers.values_mut().for_each(Vec::shrink_to_fit);
        self.ledgers.shrink_to_fit();
    }

    /// Bytes of memory that the runs take.
    pub(super) fn memory(&self) -> usize {
        let runs: usize = self.ledgers.values().map(Vec::capacity).sum();
        let ledger = size_of::<LedgerId>() + size_of::<Vec<Run>>();
        let segment = size_of::<u32>() + size_of::<Use>() + 2 * size_of::<usize>();
        runs * size_of::<Run>()
            + self.ledgers.capacity() * ledger
            + self.segments.capacity() * segment
    }

    /// The pieces that hold `from` and what follows it without a gap, up to `to`, or until they are sure to hold
    /// `max_bytes`. Empty when `from` is not there.
    pub(super) fn find(
        &self,
        ledger: LedgerId,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Located {
        let mut found = Located::default();
        let Some(runs) = self.ledgers.get(&ledger) else { return found };
        let start = runs.partition_point(|run| run.last() < from.0);
        let (mut next, mut sure) = (from.0, 0);
        for run in &runs[start..] {
            let full = sure >= max_bytes && !found.pieces.is_empty();
            if run.first > next || next > to.0 || full || found.pieces.len() == Self::MAX_PIECES {
                break;
            }
            let last = run.last().min(to.0);
            found.pieces.push(Piece { from: EntryId(next), to: EntryId(last), place: run.place });
            self.pin(run.place.segment, &mut found.pins);
            if found.pieces.len() > 1 {
                // Of the first, only a part may be wanted.
                let head = format::entries_head_bytes(run.count as usize);
                sure += (run.place.length as usize).saturating_sub(head);
            }
            next = run.last() + 1;
        }
        found
    }

    fn pin(&self, segment: u32, pins: &mut Vec<Pin>) {
        let Some(used) = self.segments.get(&segment) else { return };
        if pins.last().is_none_or(|last| !Arc::ptr_eq(last, &used.pin)) {
            pins.push(Arc::clone(&used.pin));
        }
    }
}

fn count_in(segments: &mut HashMap<u32, Use>, run: &Run) {
    let live = &mut segments.entry(run.place.segment).or_default().live;
    live.runs += 1;
    live.bytes += u64::from(run.place.length);
}

fn count_out(segments: &mut HashMap<u32, Use>, run: &Run) {
    let used = segments.get_mut(&run.place.segment).expect("each run was counted in");
    used.live.runs -= 1;
    used.live.bytes -= u64::from(run.place.length);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use geminga_runtime::{Random, SeededRandom, SystemRandom};

    use super::*;

    const LEDGER: LedgerId = LedgerId(1);

    fn place(number: u32) -> Place {
        Place { segment: number / 8, offset: number, length: 106 }
    }

    fn found(index: &Index, from: i64, to: i64, max_bytes: usize) -> Vec<(i64, i64, u32)> {
        let found = index.find(LEDGER, EntryId(from), EntryId(to), max_bytes);
        found.pieces.iter().map(|piece| (piece.from.0, piece.to.0, piece.place.offset)).collect()
    }

    #[test]
    fn finds_up_to_a_gap_or_the_budget() {
        let mut index = Index::default();
        index.insert(LEDGER, EntryId(0), 3, place(1));
        index.insert(LEDGER, EntryId(3), 2, place(2));
        index.insert(LEDGER, EntryId(5), 1, place(3));
        index.insert(LEDGER, EntryId(8), 1, place(4));
        assert_eq!(found(&index, 1, 100, 1000), [(1, 2, 1), (3, 4, 2), (5, 5, 3)]);
        assert_eq!(found(&index, 1, 3, 1000), [(1, 2, 1), (3, 3, 2)]);
        assert_eq!(found(&index, 1, 100, 50), [(1, 2, 1), (3, 4, 2)]);
        assert_eq!(found(&index, 1, 100, 0), [(1, 2, 1)]);
        assert_eq!(found(&index, 6, 100, 1000), []);
        assert_eq!(found(&index, 8, 100, 0), [(8, 8, 4)]);
        assert_eq!(found(&index, 9, 100, 1000), []);
        index.remove(LEDGER);
        assert_eq!(found(&index, 1, 100, 1000), []);
    }

    /// K9: what a segment is needed for is told from the runs that are left, whatever came and went.
    fn assert_counted(index: &Index) {
        let mut counted: HashMap<u32, Live> = HashMap::new();
        for run in index.ledgers.values().flatten() {
            let live = counted.entry(run.place.segment).or_default();
            live.runs += 1;
            live.bytes += u64::from(run.place.length);
        }
        for segment in index.segments.keys() {
            assert_eq!(index.live(*segment), counted.remove(segment).unwrap_or_default());
        }
        assert!(counted.is_empty());
    }

    #[test]
    fn entries_move_only_from_where_they_were() {
        let mut index = Index::default();
        index.insert(LEDGER, EntryId(0), 10, place(8));
        index.insert(LEDGER, EntryId(4), 2, place(16));
        index.relocate(LEDGER, EntryId(0), 8, 1, place(24));
        assert_eq!(found(&index, 0, 100, 10_000), [(0, 3, 24), (4, 5, 16), (6, 7, 24), (8, 9, 8)]);
        index.relocate(LedgerId(9), EntryId(0), 8, 1, place(24));
        assert_eq!(found(&index, 6, 100, 10_000), [(6, 7, 24), (8, 9, 8)]);
        index.forget(LEDGER, EntryId(2), EntryId(6), 3);
        assert_eq!(found(&index, 0, 100, 10_000), [(0, 1, 24)]);
        assert_eq!(found(&index, 4, 100, 10_000), [(4, 5, 16)]);
        assert_eq!(found(&index, 6, 100, 10_000), []);
        assert_eq!(found(&index, 7, 100, 10_000), [(7, 7, 24), (8, 9, 8)]);
        assert_counted(&index);
        let pin = index.pin_of(1).unwrap();
        assert!(!index.release(1), "entries 8 and 9 are in it");
        index.remove(LEDGER);
        assert!(!index.release(1), "somebody reads it");
        drop(pin);
        assert!(index.release(1) && index.release(1));
    }

    #[test]
    fn a_run_takes_24_bytes() {
        assert_eq!(size_of::<Run>(), 24);
    }

    /// A recoverer's copy may overlap what the bookie held from a later fragment (I9).
    #[test]
    fn the_newer_record_wins() {
        let seed = SystemRandom.next_u64();
        println!("seed {seed}");
        let random = SeededRandom::new(seed);
        for _ in 0..200 {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for number in 0..20 {
                let (first, count) = (random.below(60) as i64, 1 + random.below(20) as u32);
                index.insert(LEDGER, EntryId(first), count, place(number));
                for entry in first..first + i64::from(count) {
                    model.insert(entry, number);
                }
            }
            assert_counted(&index);
            for from in 0..90 {
                let held = (from..).take_while(|entry| model.contains_key(entry));
                let expected: Vec<_> = held.map(|entry| (entry, model[&entry])).collect();
                let pieces = found(&index, from, 1000, usize::MAX).into_iter();
                let actual: Vec<_> = pieces
                    .flat_map(|(from, to, number)| (from..=to).map(move |entry| (entry, number)))
                    .collect();
                assert_eq!(actual, expected, "from {from}");
            }
            index.remove(LEDGER);
            assert_counted(&index);
        }
    }
}
