//! Answers where entries are, from the chunks of one ledger.

use geminga_proto::ids::EntryId;

use super::chunks::{Chunks, Loaded, Lookup};
use super::live::{Pin, Segments};
use super::run::{Piece, Run};
use crate::log::format;

/// Most records of one answer: a read of tiny records is cut short rather than walk the whole ledger.
const MAX_PIECES: usize = 1024;

/// Where entries are.
#[derive(Debug, Default)]
pub(in crate::log) struct Located {
    pub(in crate::log) pieces: Vec<Piece>,
    /// Keep the files that the pieces are in.
    pub(in crate::log) pins: Vec<Pin>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::log) struct Wanted {
    pub(in crate::log) from: EntryId,
    pub(in crate::log) to: EntryId,
    pub(in crate::log) max_bytes: usize,
}

/// An answer that grows.
struct Finding<'a> {
    segments: &'a Segments,
    to: i64,
    max_bytes: usize,
    next: i64,
    /// Bytes of entries that are sure to be in it.
    sure: usize,
    found: Located,
}

impl Finding<'_> {
    /// Whether a run that begins with `first` belongs to the answer.
    fn goes_on(&self, first: i64) -> bool {
        let pieces = self.found.pieces.len();
        let full = self.sure >= self.max_bytes && pieces > 0;
        first <= self.next && self.next <= self.to && !full && pieces < MAX_PIECES
    }

    fn take(&mut self, run: &Run) {
        let (from, to) = (EntryId(self.next), EntryId(run.last().min(self.to)));
        self.found.pieces.push(Piece { from, to, place: run.place });
        self.segments.pin(run.place.segment, &mut self.found.pins);
        if self.found.pieces.len() > 1 {
            // Of the first, only a part may be wanted.
            let head = format::entries_head_bytes(run.count as usize);
            self.sure += (run.place.length as usize).saturating_sub(head);
        }
        self.next = run.last() + 1;
    }
}

impl Chunks {
    /// The pieces that hold `from` and what follows it without a gap, up to `to`, or until they are sure to hold
    /// `max_bytes`. Empty when `from` is not there: what is not spanned by a chunk is not in it, on the disk or not.
    pub(super) fn find(
        &self,
        wanted: Wanted,
        loaded: &Loaded,
        segments: &Segments,
    ) -> Lookup<Located> {
        let Wanted { from: EntryId(next), to: EntryId(to), max_bytes } = wanted;
        if self.waits(next, to) {
            return Lookup::Unsettled;
        }
        let found = Located::default();
        let mut finding = Finding { segments, to, max_bytes, next, sure: 0, found };
        let start = self.chunks.partition_point(|chunk| chunk.last < next);
        for chunk in &self.chunks[start..] {
            if !finding.goes_on(chunk.first) {
                break;
            }
            let runs = match chunk.runs(loaded) {
                Ok(runs) => runs,
                Err(stored) => return Lookup::Stored(stored),
            };
            let begin = runs.partition_point(|run| run.last() < finding.next);
            for run in &runs[begin..] {
                if !finding.goes_on(run.first) {
                    return Lookup::Found(finding.found);
                }
                finding.take(run);
            }
        }
        Lookup::Found(finding.found)
    }
}
