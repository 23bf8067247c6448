//! What segments the log has, and which frames are in them: the committer writes down here what became durable, and whoever
//! writes footers and snapshots reads it. The lock is held for moments only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::footer::{Footer, Item};
use super::snapshot::{KEPT, Listed};

/// Footers that wait to be written, at most. One that is dropped costs reading its segment's frames at the next opening.
const MAX_PENDING: usize = 8;

/// A segment that takes no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) first_frame: u64,
    pub(super) last_frame: u64,
    /// Where the frames end, bytes.
    pub(super) end: u32,
}

/// The segment that takes frames, from the first one that is durable on.
#[derive(Debug)]
struct Current {
    seq: u64,
    first_frame: u64,
    items: Vec<Item>,
}

/// The segments of one log.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    full: BTreeMap<u64, Full>,
    current: Option<Current>,
    durable_frame: u64,
    durable_bytes: u64,
    pending: VecDeque<Footer>,
    /// Segments that are not needed any more, with the number of the last listing that named them.
    retired: BTreeMap<u64, u64>,
    /// Segments that could not be read when they were to be emptied.
    put_off: BTreeSet<u64>,
    /// The segment that was scrubbed last.
    scrubbed: u64,
    /// How many listings were made, over all openings: a snapshot has the number of its listing.
    listings: u64,
    /// Listings of the snapshots that are kept.
    kept: VecDeque<u64>,
}

/// The log's segments at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    /// Counts listings.
    pub(super) number: u64,
    /// The newest durable frame.
    pub(super) durable_frame: u64,
    /// All segments with durable frames, in order.
    pub(super) segments: Vec<Listed>,
}

impl Catalogue {
    /// The catalogue of a log that has this many snapshots behind it.
    pub(super) fn after(snapshots: u64) -> Self {
        Self { listings: snapshots, ..Self::default() }
    }

    /// Takes in a segment that was found, with its footer if it has none yet on the disk.
    pub(super) fn found(&mut self, seq: u64, full: Full, unwritten: Option<Footer>) {
        self.full.insert(seq, full);
        self.pending.extend(unwritten);
        self.trim();
    }

    /// A frame of `bytes` in segment `seq` is durable, with these records.
    pub(super) fn frame(
        &mut self,
        seq: u64,
        frame: u64,
        bytes: u64,
        items: impl Iterator<Item = Item>,
    ) {
        let current = self.current.get_or_insert_with(|| Current {
            seq,
            first_frame: frame,
            items: Vec::new(),
        });
        current.items.extend(items);
        self.durable_frame = frame;
        self.durable_bytes += bytes;
    }

    /// The current segment takes no more frames; they end at `end`.
    pub(super) fn fill(&mut self, end: u32) {
        let Some(Current { seq, first_frame, items }) = self.current.take() else { return };
        let last_frame = self.durable_frame;
        self.full.insert(seq, Full { first_frame, last_frame, end });
        self.pending.push_back(Footer { segment: seq, first_frame, last_frame, end, items });
        self.trim();
    }

    fn trim(&mut self) {
        while self.pending.len() > MAX_PENDING {
            self.pending.pop_front();
        }
    }

    /// A footer to write.
    pub(super) fn take_footer(&mut self) -> Option<Footer> {
        self.pending.pop_front()
    }

    /// The newest durable frame.
    pub(super) fn durable_frame(&self) -> u64 {
        self.durable_frame
    }

    /// Bytes of frames that became durable since the log was opened.
    pub(super) fn durable_bytes(&self) -> u64 {
        self.durable_bytes
    }

    /// Segments below this one change no more.
    pub(super) fn full_below(&self) -> u64 {
        let behind = || self.full.keys().next_back().map_or(0, |last| last + 1);
        self.current.as_ref().map_or_else(behind, |current| current.seq)
    }

    /// The full segment behind the one that was scrubbed last, or the first again.
    pub(super) fn next_to_scrub(&mut self) -> Option<(u64, Full)> {
        let behind = self.full.range(self.scrubbed + 1..).next();
        let (seq, full) =
            behind.or_else(|| self.full.iter().next()).map(|(seq, full)| (*seq, *full))?;
        self.scrubbed = seq;
        Some((seq, full))
    }

    /// The segments that take no more frames, but for retired ones.
    pub(super) fn full(&self) -> Vec<(u64, Full)> {
        self.full.iter().map(|(seq, full)| (*seq, *full)).collect()
    }

    /// Those of them that may be emptied.
    pub(super) fn movable(&self) -> Vec<(u64, Full)> {
        let movable = self.full.iter().filter(|(seq, _)| !self.put_off.contains(seq));
        movable.map(|(seq, full)| (*seq, *full)).collect()
    }

    /// This one cannot be read now: others are emptied first.
    pub(super) fn put_off(&mut self, seq: u64) {
        self.put_off.insert(seq);
    }

    /// There is no other left: what was put off is tried again.
    pub(super) fn take_up(&mut self) {
        self.put_off.clear();
    }

    /// These are not needed for their entries any more. The one that holds the newest frame stays, until a frame of the next is
    /// durable: a listing without it would end before frames that a snapshot covers.
    pub(super) fn retire(&mut self, segments: &[u64]) {
        for seq in segments {
            if self.full.get(seq).is_some_and(|full| full.last_frame == self.durable_frame) {
                continue;
            }
            if self.full.remove(seq).is_some() {
                self.retired.insert(*seq, self.listings);
                self.pending.retain(|footer| footer.segment != *seq);
            }
        }
    }

    /// A snapshot with this listing is durable.
    pub(super) fn listed(&mut self, number: u64) {
        self.kept.push_back(number);
        while self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }

    /// Retired segments that no kept snapshot lists, so that all they hold is in each of those (K9). All of them when
    /// `uncovered`.
    pub(super) fn removable(&self, uncovered: bool) -> Vec<u64> {
        let oldest = self.kept.front().filter(|_| self.kept.len() == KEPT);
        let covered = |last: u64| oldest.is_some_and(|oldest| last < *oldest);
        let removable = self.retired.iter().filter(|(_, last)| uncovered || covered(**last));
        removable.map(|(seq, _)| *seq).collect()
    }

    /// A retired segment's file went.
    pub(super) fn removed(&mut self, seq: u64) {
        self.retired.remove(&seq);
    }

    /// How many retired segments are still there.
    pub(super) fn waiting(&self) -> usize {
        self.retired.len()
    }

    /// How many segments have frames.
    pub(super) fn len(&self) -> usize {
        self.full.len() + self.retired.len() + usize::from(self.current.is_some())
    }

    /// What there is now.
    pub(super) fn listing(&mut self) -> Listing {
        self.listings += 1;
        let full = self.full.iter().map(|(seq, full)| Listed {
            seq: *seq,
            first_frame: full.first_frame,
            last_frame: full.last_frame,
        });
        let last_frame = self.durable_frame;
        let current = self.current.as_ref().map(|current| Listed {
            seq: current.seq,
            first_frame: current.first_frame,
            last_frame,
        });
        let segments = full.chain(current).collect();
        Listing { number: self.listings, durable_frame: self.durable_frame, segments }
    }
}
