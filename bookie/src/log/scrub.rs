//! Looks for rot (protocol 6.3): reads full segments one after the other, and holds every frame and every entry that lives
//! against its checksum. What is bad is unknown from then on (K1); that it was held is not forgotten.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::{EntryId, LedgerId};

use super::error::{ReadError, UpkeepError};
use super::footer::Item;
use super::format::EntriesHead;
use super::index::Piece;
use super::load::{self, Loaded};
use super::reclaim::failed;
use super::upkeep::blocking;
use super::{Log, Shared, metrics, segment};

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// Entries that are bad: ledger, first, last.
    pub bad: Vec<(LedgerId, EntryId, EntryId)>,
    /// Whether a frame is damaged, be it that what it held is not needed any more.
    pub damaged_frames: bool,
}

impl Log {
    /// Verifies the next full segment, in turn; `sound` judges an entry. Nothing is read when there is none. One caller at a
    /// time; not cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`UpkeepError`]; the segment is looked at again in the next round.
    pub async fn scrub(
        &self,
        sound: impl Fn(LedgerId, EntryId, &Bytes) -> bool + Send + 'static,
    ) -> Result<Scrubbed, UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.scrub(&sound)).await
    }
}

impl Shared {
    fn scrub(
        &self,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Scrubbed, UpkeepError> {
        let Some((seq, full)) = self.catalogue.lock().next_to_scrub() else {
            return Ok(Scrubbed::default());
        };
        let Some(_pin) = self.index.read().pin_of(segment::short(seq)) else {
            return Ok(Scrubbed::default());
        };
        let loaded = Loaded::read_known(&*self.disk, seq).map_err(failed("read a segment"))?;
        let mut scrubbed = Scrubbed { bytes: loaded.bytes.len() as u64, ..Scrubbed::default() };
        let footer = match loaded.footer(full.first_frame, full.last_frame, self.seed) {
            Ok(footer) => Some(footer),
            Err(error) => {
                tracing::error!(%error, "a full segment is damaged");
                scrubbed.damaged_frames = true;
                load::footer(&*self.disk, seq, self.seed)
            }
        };
        for item in footer.iter().flat_map(|footer| &footer.items) {
            let Item::Extent(extent) = item else { continue };
            let pieces = self.index.read().pieces_in(segment::short(seq), extent);
            for piece in pieces {
                self.verify(&loaded, extent.ledger, piece, sound, &mut scrubbed.bad);
            }
        }
        metrics::scrubbed(&scrubbed);
        Ok(scrubbed)
    }

    /// Gives up the entries of a piece that are bad.
    fn verify(
        &self,
        loaded: &Loaded,
        ledger: LedgerId,
        piece: Piece,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
        bad: &mut Vec<(LedgerId, EntryId, EntryId)>,
    ) {
        let mut give_up = |from: EntryId, to: EntryId, why: &'static str| {
            let (segment, offset) = (loaded.seq, u64::from(piece.place.offset));
            let error = ReadError::Corrupt { segment, offset, why };
            self.give_up(ledger, Piece { from, to, ..piece }, &error);
            bad.push((ledger, from, to));
        };
        let Some((first, entries)) = self.entries(loaded, ledger, piece) else {
            return give_up(piece.from, piece.to, "its record is damaged");
        };
        let wanted = (first.0..).map(EntryId).zip(&entries);
        for (id, entry) in wanted.filter(|(id, _)| (piece.from..=piece.to).contains(id)) {
            if !sound(ledger, id, entry) {
                give_up(id, id, "an entry fails its digest");
            }
        }
    }

    /// The entries of a record, if it is the one that the index knows.
    fn entries(
        &self,
        loaded: &Loaded,
        ledger: LedgerId,
        piece: Piece,
    ) -> Option<(EntryId, Vec<Bytes>)> {
        let (at, length) = (piece.place.offset as usize, piece.place.length as usize);
        let record = loaded.bytes.get(at..at.checked_add(length)?)?;
        let head = EntriesHead::decode(record, self.seed).ok()?;
        let entries = head.split(&loaded.bytes.slice(at..at + length)).ok()?;
        let last = EntryId(head.first.0 + i64::try_from(entries.len()).ok()? - 1);
        (head.ledger == ledger && head.first <= piece.from && piece.to <= last)
            .then_some((head.first, entries))
    }
}
