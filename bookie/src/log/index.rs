//! Where entries are: for each ledger, runs of entries that one record holds (protocol 5.5). A run costs some 40 bytes
//! of memory, whatever the size of its entries. It holds durable entries only, so what it does not know is not there.
//!
//! Runs of a ledger never overlap: what is written later wins, and an older run keeps what is left of it.

use std::collections::{BTreeMap, HashMap};

use geminga_proto::ids::{EntryId, LedgerId};

/// Where an `Entries` record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) segment: u64,
    /// Of the record in its file, bytes.
    pub(super) offset: u64,
    /// Of the whole record, bytes.
    pub(super) length: u32,
    /// Of the part before the entries, bytes.
    pub(super) head: u32,
}

/// Consecutive entries inside one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from: EntryId,
    pub(super) to: EntryId,
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    last: i64,
    place: Place,
}

/// The runs of all ledgers.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<LedgerId, BTreeMap<i64, Run>>);

impl Index {
    /// Most records of one answer: a read of tiny records is cut short rather than walk the whole ledger.
    const MAX_PIECES: usize = 1024;

    /// Adds a record's entries; `count` is at least 1.
    pub(super) fn insert(&mut self, ledger: LedgerId, first: EntryId, count: usize, place: Place) {
        let count = i64::try_from(count).expect("a record holds fewer entries than bytes");
        let (first, last) = (first.0, first.0 + count - 1);
        let runs = self.0.entry(ledger).or_default();
        // An older run that reaches in from before keeps its beginning, and its end when it reaches out behind.
        if let Some((_, older)) = runs.range_mut(..first).next_back()
            && older.last >= first
        {
            let reached = *older;
            older.last = first - 1;
            if reached.last > last {
                runs.insert(last + 1, reached);
            }
        }
        while let Some((&begin, &older)) = runs.range(first..=last).next() {
            runs.remove(&begin);
            if older.last > last {
                runs.insert(last + 1, older);
            }
        }
        runs.insert(first, Run { last, place });
    }

    /// Forgets a ledger.
    pub(super) fn remove(&mut self, ledger: LedgerId) {
        self.0.remove(&ledger);
    }

    /// The pieces that hold `from` and what follows it without a gap, up to `to`, or until they are sure to hold
    /// `max_bytes`. Empty when `from` is not there.
    pub(super) fn find(
        &self,
        ledger: LedgerId,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Vec<Piece> {
        let Some(runs) = self.0.get(&ledger) else { return Vec::new() };
        let Some((&start, _)) = runs.range(..=from.0).next_back() else { return Vec::new() };
        let (mut next, mut sure) = (from.0, 0);
        let mut pieces = Vec::new();
        for (&begin, run) in runs.range(start..) {
            if begin > next
                || run.last < next
                || next > to.0
                || (sure >= max_bytes && !pieces.is_empty())
                || pieces.len() == Self::MAX_PIECES
            {
                break;
            }
            let last = run.last.min(to.0);
            pieces.push(Piece { from: EntryId(next), to: EntryId(last), place: run.place });
            if pieces.len() > 1 {
                // Of the first, only a part may be wanted.
                sure += (run.place.length - run.place.head) as usize;
            }
            next = run.last + 1;
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use geminga_runtime::{Random, SeededRandom, SystemRandom};

    use super::*;

    const LEDGER: LedgerId = LedgerId(1);

    fn place(number: u64) -> Place {
        Place { segment: 1, offset: number, length: 100, head: 50 }
    }

    fn found(index: &Index, from: i64, to: i64, max_bytes: usize) -> Vec<(i64, i64, u64)> {
        let pieces = index.find(LEDGER, EntryId(from), EntryId(to), max_bytes);
        pieces.iter().map(|piece| (piece.from.0, piece.to.0, piece.place.offset)).collect()
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

    /// A recoverer's copy may overlap what the bookie held from a later fragment (I9).
    #[test]
    fn the_newer_record_wins() {
        let seed = SystemRandom.next_u64();
        println!("seed {seed}");
        let random = SeededRandom::new(seed);
        for _ in 0..200 {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            for number in 0..20 {
                let (first, count) = (random.below(60) as i64, 1 + random.below(20) as usize);
                index.insert(LEDGER, EntryId(first), count, place(number));
                for entry in first..first + count as i64 {
                    model.insert(entry, number);
                }
            }
            for from in 0..90 {
                let held = (from..).take_while(|entry| model.contains_key(entry));
                let expected: Vec<_> = held.map(|entry| (entry, model[&entry])).collect();
                let pieces = found(&index, from, 1000, usize::MAX).into_iter();
                let actual: Vec<_> = pieces
                    .flat_map(|(from, to, number)| (from..=to).map(move |entry| (entry, number)))
                    .collect();
                assert_eq!(actual, expected, "from {from}");
            }
        }
    }
}
