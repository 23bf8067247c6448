//! The index answers what it would if it were all in memory, whatever of it is on the disk.

use std::collections::BTreeMap;

use geminga_runtime::{Random, SeededRandom, SystemRandom};

use super::*;
use crate::io::{FaultyDisk, MemoryDisk, Op};
use crate::log::tests::identity;

use model::Model;

mod bounds;
mod model;

const LEDGER: LedgerId = LedgerId(1);

fn index(disk: impl Disk, limit: usize) -> Index {
    Index::new(Arc::new(disk), Seed::of(&identity()), limit)
}

fn place(number: u32) -> Place {
    Place { segment: number / 8, offset: number, length: 106 }
}

fn wanted(from: i64, to: i64, max_bytes: usize) -> Wanted {
    Wanted { from: EntryId(from), to: EntryId(to), max_bytes }
}

fn found(index: &Index, from: i64, to: i64, max_bytes: usize) -> Vec<(i64, i64, u32)> {
    let found = index.find(LEDGER, wanted(from, to, max_bytes)).unwrap();
    found.pieces.iter().map(|piece| (piece.from.0, piece.to.0, piece.place.offset)).collect()
}

/// In memory, and all on the disk.
fn limits() -> [usize; 2] {
    [usize::MAX, 0]
}

#[test]
fn finds_up_to_a_gap_or_the_budget() {
    for limit in limits() {
        let index = index(MemoryDisk::new(), limit);
        for (first, count, number) in [(0, 3, 1), (3, 2, 2), (5, 1, 3), (8, 1, 4)] {
            index.write().insert(LEDGER, EntryId(first), count, place(number));
        }
        index.tidy();
        assert_eq!(found(&index, 1, 100, 1000), [(1, 2, 1), (3, 4, 2), (5, 5, 3)]);
        assert_eq!(found(&index, 1, 3, 1000), [(1, 2, 1), (3, 3, 2)]);
        assert_eq!(found(&index, 1, 100, 50), [(1, 2, 1), (3, 4, 2)]);
        assert_eq!(found(&index, 1, 100, 0), [(1, 2, 1)]);
        assert_eq!(found(&index, 6, 100, 1000), []);
        assert_eq!(found(&index, 8, 100, 0), [(8, 8, 4)]);
        assert_eq!(found(&index, 9, 100, 1000), []);
        index.write().remove(LEDGER);
        assert_eq!(found(&index, 1, 100, 1000), []);
    }
}

#[test]
fn entries_move_only_from_where_they_were() {
    for limit in limits() {
        let index = index(MemoryDisk::new(), limit);
        index.write().insert(LEDGER, EntryId(0), 10, place(8));
        index.write().insert(LEDGER, EntryId(4), 2, place(16));
        index.tidy();
        index.write().relocate(LEDGER, EntryId(0), 8, 1, place(24));
        assert_eq!(found(&index, 0, 100, 10_000), [(0, 3, 24), (4, 5, 16), (6, 7, 24), (8, 9, 8)]);
        index.tidy();
        index.write().relocate(LedgerId(9), EntryId(0), 8, 1, place(24));
        assert_eq!(found(&index, 6, 100, 10_000), [(6, 7, 24), (8, 9, 8)]);
        index.forget(LEDGER, EntryId(2), EntryId(6), 3);
        assert_eq!(found(&index, 0, 100, 10_000), [(0, 1, 24)]);
        assert_eq!(found(&index, 4, 100, 10_000), [(4, 5, 16)]);
        assert_eq!(found(&index, 6, 100, 10_000), []);
        assert_eq!(found(&index, 7, 100, 10_000), [(7, 7, 24), (8, 9, 8)]);
        let pin = index.read().pin_of(1).unwrap();
        assert!(!index.write().release(1), "entries 8 and 9 are in it");
        index.write().remove(LEDGER);
        index.tidy();
        assert!(!index.write().release(1), "somebody reads it");
        drop(pin);
        assert!(index.write().release(1) && index.write().release(1));
    }
}

/// A recoverer's copy may overlap what the bookie held from a later fragment (I9).
#[test]
fn the_newer_record_wins() {
    let seed = SystemRandom.next_u64();
    println!("seed {seed}");
    let random = SeededRandom::new(seed);
    for round in 0..100 {
        let index = index(MemoryDisk::new(), limits()[round % 2]);
        let mut model = BTreeMap::new();
        for number in 0..20 {
            let (first, count) = (random.below(60) as i64, 1 + random.below(20) as u32);
            index.write().insert(LEDGER, EntryId(first), count, place(number));
            if random.below(3) == 0 {
                index.tidy();
            }
            model.extend((first..first + i64::from(count)).map(|entry| (entry, number)));
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

/// K1: whoever has read a part of the index before it changed does not answer from that.
#[test]
fn what_was_read_before_a_change_is_not_used_after_it() {
    let index = index(MemoryDisk::new(), 0);
    index.write().insert(LEDGER, EntryId(0), 2, place(0));
    index.tidy();
    let read = |loaded: &mut Loaded| match index.read().find(LEDGER, wanted(0, 9, 9), loaded) {
        Lookup::Stored(stored) => Some(stored),
        Lookup::Found(_) | Lookup::Unsettled => None,
    };
    let mut loaded = Loaded::new();
    let stored = read(&mut loaded).unwrap();
    loaded.insert(stored.id, index.spill.read(stored).unwrap());
    assert_eq!(read(&mut loaded), None, "it is what is asked for");
    // Read into memory by a change that turns out to be none, and grown there.
    index.forget(LEDGER, EntryId(0), EntryId(0), 7);
    index.write().insert(LEDGER, EntryId(2), 2, place(1));
    index.tidy();
    assert!(read(&mut loaded).is_some());
    assert_eq!(found(&index, 0, 9, 1000), [(0, 1, 0), (2, 3, 1)]);
}

/// An index on a disk that fails now and then, and what it must answer.
struct Both {
    disk: FaultyDisk,
    index: Index,
    model: Model,
    /// Records that were written.
    records: u32,
    /// The last entry of each ledger.
    last: BTreeMap<LedgerId, i64>,
    /// How often nothing was known.
    unknown: usize,
}

impl Both {
    fn new(limit: usize) -> Self {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let index = index(disk.clone(), limit);
        let (model, last) = (Model::default(), BTreeMap::new());
        Self { disk, index, model, records: 0, last, unknown: 0 }
    }

    fn next_place(&mut self, random: &dyn Random) -> Place {
        self.records += 1;
        let length = 200 + random.below(100) as u32;
        Place { segment: self.records / 32, offset: self.records, length }
    }

    fn insert(&mut self, ledger: LedgerId, first: i64, count: u32, random: &dyn Random) {
        let place = self.next_place(random);
        self.index.write().insert(ledger, EntryId(first), count, place);
        self.model.insert(ledger, EntryId(first), count, place);
        let last = self.last.entry(ledger).or_insert(-1);
        *last = (*last).max(first + i64::from(count) - 1);
    }

    fn append(&mut self, random: &dyn Random) {
        let ledger = LedgerId(1 + random.below(4));
        for _ in 0..random.below(150) {
            let gap = i64::from(random.below(20) == 0);
            let first = self.last.get(&ledger).copied().unwrap_or(-1) + 1 + gap;
            self.insert(ledger, first, 1 + random.below(3) as u32, random);
        }
    }

    fn change(&mut self, random: &dyn Random) {
        let Some((ledger, first, count, place)) = self.model.any(random) else { return };
        match random.below(20) {
            0 => {
                self.index.write().remove(ledger);
                self.model.remove(ledger);
                self.last.remove(&ledger);
            }
            1..6 => self.insert(ledger, first.0, 1 + random.below(200) as u32, random),
            6..14 => {
                let to = self.next_place(random);
                self.index.write().relocate(ledger, first, count + 3, place.segment, to);
                self.model.relocate(ledger, first, count + 3, place.segment, to);
            }
            _ => {
                let to = EntryId(first.0 + random.below(4) as i64);
                self.index.forget(ledger, first, to, place.segment);
                self.model.forget(ledger, first, to, place.segment);
            }
        }
    }

    /// Asks for anything: the answer is the model's, or there is none because the disk fails.
    fn ask(&mut self, random: &dyn Random) {
        let ledger = LedgerId(1 + random.below(5));
        let last = self.last.get(&ledger).copied().unwrap_or(10);
        let from = random.below(last.unsigned_abs() + 3) as i64;
        let most = [0, 5_000, 100_000, usize::MAX][random.below(4) as usize];
        let wanted = wanted(from, from + random.below(2000) as i64 - 5, most);
        let expected = self.model.find(ledger, wanted);
        match self.index.find(ledger, wanted) {
            Ok(located) => {
                assert_eq!(located.pieces, expected, "{ledger} {wanted:?}");
                assert_eq!(located.pins.is_empty(), expected.is_empty());
            }
            Err(_) => self.unknown += 1,
        }
        if let Some(located) = self.index.find_in_memory(ledger, wanted) {
            assert_eq!(located.pieces, expected, "{ledger} {wanted:?}");
        }
        let Some((ledger, first, count, Place { segment, offset, length })) =
            self.model.any(random)
        else {
            return;
        };
        let extent = Extent { ledger, first, count: count + 5, lac: first, offset, length };
        let expected = self.model.pieces_in(segment, &extent);
        match self.index.pieces_in(segment, &extent) {
            Ok(pieces) => assert_eq!(pieces, expected),
            Err(_) => self.unknown += 1,
        }
    }

    /// K9: no segment that is needed counts as one that is not, and in the end all is counted as it is.
    fn assert_counted(&self, exactly: bool) {
        let (table, expected) = (self.index.read(), self.model.live());
        for segment in 0..=self.records / 32 {
            let live = table.live(segment);
            let needed = expected.get(&segment).copied().unwrap_or_default();
            if exactly {
                assert_eq!(live, needed, "segment {segment}");
            }
            assert!(live.runs > 0 || needed.runs == 0, "segment {segment}");
        }
        for ledger in (0..6).map(LedgerId).filter(|_| exactly) {
            assert_eq!(table.bytes_of(ledger), self.model.bytes_of(ledger));
        }
    }
}

/// Memory does not grow with what is stored, also where every ledger gets a little all the time.
#[test]
fn memory_is_bounded() {
    const LEDGERS: u64 = 200;
    let limit = 128 << 10;
    let index = index(MemoryDisk::new(), limit);
    for round in 0..100 {
        for ledger in (1..=LEDGERS).map(LedgerId) {
            for first in (10 * round..10 * round + 10).map(EntryId) {
                let offset = u32::try_from(first.0).unwrap();
                let place = Place { segment: offset / 10, offset, length: 106 };
                index.write().insert(ledger, first, 1, place);
            }
        }
        index.tidy();
        let memory = index.memory();
        assert!(memory <= limit, "{memory} bytes after {} runs", 2_000 * (round + 1));
    }
    assert_eq!(found(&index, 0, 2000, usize::MAX).len(), 1000);
    assert!(index.memory() > limit / 2, "what fits stays");
    (1..=LEDGERS).for_each(|ledger| index.write().remove(LedgerId(ledger)));
    index.tidy();
    assert!((0..100).all(|segment| index.write().release(segment)), "all of it is given back");
    assert!(index.memory() < limit / 2, "{} bytes for nothing", index.memory());
}

/// K1, K9: whatever comes, goes, moves, rots and is written down, and however the disk fails meanwhile.
#[test]
fn what_is_on_the_disk_is_as_good_as_in_memory() {
    let seed = SystemRandom.next_u64();
    println!("seed {seed}");
    let random = SeededRandom::new(seed);
    let (mut unknown, mut loads) = (0, 0);
    for round in 0..40 {
        let limit = [0, 8 << 10, 64 << 10][round % 3];
        let mut both = Both::new(limit);
        for _ in 0..60 {
            match random.below(8) {
                0..2 => both.append(&random),
                2..6 => both.change(&random),
                6 => {
                    both.index.tidy();
                    loads += usize::from(both.index.read().turns() == 0);
                }
                _ => {
                    let op = if random.below(4) == 0 { Op::Write } else { Op::Read };
                    both.disk.fail(op, random.below(4), io::ErrorKind::Other);
                }
            }
            both.assert_counted(false);
            both.ask(&random);
        }
        // What failed before is made up for.
        for _ in 0..3 {
            both.index.tidy();
        }
        both.assert_counted(true);
        unknown += both.unknown;
        for _ in 0..50 {
            both.ask(&random);
        }
    }
    assert!(unknown > 0 && loads > 0, "{unknown} {loads}");
}
