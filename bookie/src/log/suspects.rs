//! Records that the disk refused to read, and what came of asking again. Rule S1: a refused read is no rot.
//!
//! Owner: the search for rot, which writes; reads look. A refusal is no rot: a cable, a controller or a volume that is away for
//! a while refuses everything, and gives all of it back. So nothing is given up for one: the index goes on to point at the
//! record, which keeps its segment (K9). It is asked for again. Where the disk has refused one record for [`PATIENCE`], while it read
//! others, readers hear that it is damaged and its ledger is marked, so that it is restored; what is sent again takes its
//! place in the index. Bounded; what has no room is found again in the next round.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::footer::Extent;
use super::index::Piece;
use super::metrics;

/// So long a record is refused before it counts as damaged, and after it each time before it is asked for again.
pub(super) const PATIENCE: Duration = Duration::from_secs(600);
/// Most records that are remembered.
const MAX_SUSPECTS: usize = 1024;

/// The records of one log that were refused.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// By segment and offset.
    places: BTreeMap<(u32, u32), Suspect>,
    /// Reads of the disk that worked.
    good: u64,
}

#[derive(Debug)]
struct Suspect {
    extent: Extent,
    asked: Instant,
    /// Reads that had worked when it was refused first, or last when none has worked since.
    good: u64,
    /// Its time is over.
    damaged: bool,
}

impl Suspects {
    /// The disk read something.
    pub(super) fn read(&mut self) {
        self.good += 1;
    }

    /// The disk refused this record of a segment.
    pub(super) fn refused(&mut self, segment: u32, extent: Extent, now: Instant) {
        let before = self.len();
        if before < MAX_SUSPECTS {
            let new = Suspect { extent, asked: now, good: self.good, damaged: false };
            self.places.entry((segment, extent.offset)).or_insert(new);
        }
        metrics::refused_records(before, self.len());
    }

    /// The disk refused it once more; whether it counts as damaged.
    pub(super) fn refused_again(&mut self, segment: u32, offset: u32) -> bool {
        let Some(suspect) = self.places.get_mut(&(segment, offset)) else { return false };
        // While it reads nothing at all, that says nothing about this record.
        suspect.damaged |= self.good > suspect.good;
        suspect.damaged
    }

    /// It was read, or nobody needs it any more.
    pub(super) fn clear(&mut self, segment: u32, offset: u32) {
        let before = self.len();
        self.places.remove(&(segment, offset));
        metrics::refused_records(before, self.len());
    }

    /// A segment's file goes.
    pub(super) fn forget(&mut self, segment: u32) {
        let before = self.len();
        self.places.retain(|(one, _), _| *one != segment);
        metrics::refused_records(before, self.len());
    }

    /// A record that is to be asked for again, by its segment.
    pub(super) fn due(&mut self, now: Instant) -> Option<(u32, Extent)> {
        let due = |suspect: &Suspect| now.duration_since(suspect.asked) >= PATIENCE;
        let ((segment, _), suspect) = self.places.iter_mut().find(|(_, one)| due(one))?;
        suspect.asked = now;
        Some((*segment, suspect.extent))
    }

    /// Whether this record is remembered.
    pub(super) fn contains(&self, segment: u32, offset: u32) -> bool {
        self.places.contains_key(&(segment, offset))
    }

    /// The first of these pieces whose record counts as damaged.
    pub(super) fn damaged<'a>(&self, pieces: &'a [Piece]) -> Option<&'a Piece> {
        pieces.iter().find(|piece| {
            let key = (piece.place.segment, piece.place.offset);
            self.places.get(&key).is_some_and(|suspect| suspect.damaged)
        })
    }

    /// How many are remembered.
    fn len(&self) -> usize {
        self.places.len()
    }
}

impl Drop for Suspects {
    fn drop(&mut self) {
        metrics::refused_records(self.len(), 0);
    }
}

#[cfg(test)]
mod tests {
    use geminga_proto::ids::{EntryId, LedgerId};

    use super::*;

    fn extent(offset: u32) -> Extent {
        let (ledger, first) = (LedgerId(1), EntryId(0));
        Extent { ledger, first, count: 1, lac: EntryId::NONE, offset, length: 100 }
    }

    #[test]
    fn one_record_is_damaged_only_where_others_are_read() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        suspects.read();
        suspects.refused(3, extent(4096), now);
        assert_eq!(suspects.due(now), None, "not at once");
        assert_eq!(suspects.due(now + PATIENCE), Some((3, extent(4096))));
        assert_eq!(suspects.due(now + PATIENCE), None, "once each time");
        assert!(!suspects.refused_again(3, 4096), "the disk refuses everything");
        suspects.read();
        assert!(suspects.refused_again(3, 4096));
        assert_eq!(suspects.due(now + 2 * PATIENCE), Some((3, extent(4096))), "again and again");
        suspects.clear(3, 4096);
        assert_eq!((suspects.len(), suspects.refused_again(3, 4096)), (0, false));
    }

    #[test]
    fn the_records_are_bounded_and_go_with_their_segment() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        for offset in 0..2 * MAX_SUSPECTS as u32 {
            suspects.refused(offset % 2, extent(offset), now);
        }
        assert_eq!(suspects.len(), MAX_SUSPECTS);
        suspects.forget(1);
        assert_eq!(suspects.len(), MAX_SUSPECTS / 2);
        assert!(suspects.contains(0, 0) && !suspects.contains(1, 1));
    }
}
