//! Looks for rot (protocol 6.3): reads full segments one after the other, a frame at a time, and holds every frame and every
//! entry that lives against its checksum. What is bad is unknown from then on (K1); that it was held is not forgotten.
//!
//! One frame is in memory. Of a segment with a damaged frame, the records that its footer names behind that are read one by
//! one.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::{EntryId, LedgerId};

use super::catalogue::Full;
use super::error::{ReadError, UpkeepError};
use super::footer::{Extent, Item};
use super::format::{self, EntriesHead, FRAME_HEAD_BYTES, Frame, HEADER_BYTES};
use super::index::Piece;
use super::load;
use super::reclaim::failed;
use super::upkeep::blocking;
use super::{Log, Shared, metrics, segment};
use crate::io::DiskFile;

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

/// How far the segment that is being verified has been.
#[derive(Debug)]
pub(super) struct Cursor {
    seq: u64,
    full: Full,
    /// Where the next frame begins, bytes.
    offset: u64,
    /// Its number.
    frame: u64,
}

impl Cursor {
    fn new((seq, full): (u64, Full)) -> Self {
        Self { seq, full, offset: HEADER_BYTES as u64, frame: full.first_frame }
    }
}

impl Log {
    /// Verifies the next frames of full segments, in turn; `sound` judges an entry. Ends behind `max_bytes`, or with a
    /// segment. Nothing is read when there is none. One caller at a time; not cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`UpkeepError`]; the rest of the segment is looked at in the next round.
    pub async fn scrub(
        &self,
        max_bytes: u64,
        sound: impl Fn(LedgerId, EntryId, &Bytes) -> bool + Send + 'static,
    ) -> Result<Scrubbed, UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.scrub(max_bytes, &sound)).await
    }
}

/// Whether an error says that the disk cannot give back what was stored, as with a bad sector.
fn is_rot(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || rustix::io::Errno::from_io_error(error) == Some(rustix::io::Errno::IO)
}

/// One segment that is being verified.
struct Scrub<'a> {
    shared: &'a Shared,
    sound: &'a dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    file: Arc<dyn DiskFile>,
    seq: u64,
    done: Scrubbed,
}

impl Shared {
    fn scrub(
        &self,
        max_bytes: u64,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Scrubbed, UpkeepError> {
        let begun = self.scrubbing.lock().take();
        let next = || self.catalogue.lock().next_to_scrub().map(Cursor::new);
        let Some(mut cursor) = begun.or_else(next) else { return Ok(Scrubbed::default()) };
        // Not one whose space was given back meanwhile; the file is not removed before this is done.
        let Some(_pin) = self.index.read().pin_of(segment::short(cursor.seq)) else {
            return Ok(Scrubbed::default());
        };
        let name = segment::file_name(cursor.seq);
        let file = self.disk.open(&name).map_err(failed("open a segment"))?;
        let seq = cursor.seq;
        let mut scrub = Scrub { shared: self, sound, file, seq, done: Scrubbed::default() };
        let more = scrub.run(&mut cursor, max_bytes);
        metrics::scrubbed(&scrub.done);
        let more = more.map_err(failed("read a segment"))?;
        *self.scrubbing.lock() = more.then_some(cursor);
        Ok(scrub.done)
    }
}

impl Scrub<'_> {
    /// Whether the segment has more.
    fn run(&mut self, cursor: &mut Cursor, max_bytes: u64) -> io::Result<bool> {
        while self.done.bytes < max_bytes {
            let Some((frame, items)) = self.frame(cursor)? else {
                tracing::error!(segment = %segment::file_name(self.seq), offset = cursor.offset, frame = cursor.frame, "a frame of a full segment is damaged");
                self.done.damaged_frames = true;
                self.without_frames(cursor.offset)?;
                return Ok(false);
            };
            let body = cursor.offset + FRAME_HEAD_BYTES as u64;
            for item in items {
                let Item::Extent(extent) = item else { continue };
                let at =
                    usize::try_from(u64::from(extent.offset) - body).expect("within the frame");
                let record = frame.body.slice(at..at + extent.length as usize);
                for piece in self.pieces(&extent)? {
                    self.verify(&record, extent.ledger, piece);
                }
            }
            cursor.offset += frame.end as u64;
            cursor.frame += 1;
            if cursor.frame > cursor.full.last_frame {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The frame at the cursor, from its own first byte on, and what is in it; nothing when it is not whole.
    fn frame(&mut self, cursor: &Cursor) -> io::Result<Option<(Frame, Vec<Item>)>> {
        let size = self.file.size()?;
        let mut head = [0; FRAME_HEAD_BYTES];
        if size < cursor.offset + head.len() as u64 {
            return Ok(None);
        }
        if let Err(error) = self.file.read_exact_at(cursor.offset, &mut head) {
            return if is_rot(&error) { Ok(None) } else { Err(error) };
        }
        let Some(bytes) =
            format::frame_bytes_by(&head).filter(|bytes| cursor.offset + bytes <= size)
        else {
            return Ok(None);
        };
        let Some(whole) = self.read(cursor.offset, bytes)? else { return Ok(None) };
        let seed = self.shared.seed;
        let frame = format::decode_frame(&whole, 0, self.seq, seed)
            .filter(|frame| frame.head.seq == cursor.frame);
        let Some(frame) = frame else { return Ok(None) };
        let offset = usize::try_from(cursor.offset).expect("a segment is below 4 GiB");
        let items = load::items(self.seq, offset, &frame, seed);
        Ok(items.ok().map(|items| (frame, items)))
    }

    /// What is stored there; nothing when the disk has lost it.
    fn read(&mut self, offset: u64, bytes: u64) -> io::Result<Option<Bytes>> {
        let mut buffer = BytesMut::zeroed(usize::try_from(bytes).map_err(io::Error::other)?);
        self.done.bytes += bytes;
        match self.file.read_exact_at(offset, &mut buffer) {
            Ok(()) => Ok(Some(buffer.freeze())),
            Err(error) if is_rot(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Verifies what the footer says is behind `offset`, record by record.
    fn without_frames(&mut self, offset: u64) -> io::Result<()> {
        let footer = load::footer(&*self.shared.disk, self.seq, self.shared.seed);
        for item in footer.iter().flat_map(|footer| &footer.items) {
            let Item::Extent(extent) = item else { continue };
            let pieces = self.pieces(extent)?;
            if u64::from(extent.offset) < offset || pieces.is_empty() {
                continue;
            }
            let record = self.read(u64::from(extent.offset), u64::from(extent.length))?;
            let record = record.unwrap_or_default();
            for piece in pieces {
                self.verify(&record, extent.ledger, piece);
            }
        }
        Ok(())
    }

    /// What of an extent is still to be read from this segment.
    fn pieces(&self, extent: &Extent) -> io::Result<Vec<Piece>> {
        self.shared.index.pieces_in(segment::short(self.seq), extent)
    }

    /// Gives up the entries of a piece that are bad; `record` is what is stored at its place.
    fn verify(&mut self, record: &Bytes, ledger: LedgerId, piece: Piece) {
        let Some((first, entries)) = self.entries(record, ledger, piece) else {
            return self.give_up(ledger, piece, "its record is damaged");
        };
        let wanted = (first.0..).map(EntryId).zip(&entries);
        for (id, entry) in wanted.filter(|(id, _)| (piece.from..=piece.to).contains(id)) {
            if !(self.sound)(ledger, id, entry) {
                let bad = Piece { from: id, to: id, ..piece };
                self.give_up(ledger, bad, "an entry fails its digest");
            }
        }
    }

    fn give_up(&mut self, ledger: LedgerId, piece: Piece, why: &'static str) {
        let (segment, offset) = (self.seq, u64::from(piece.place.offset));
        self.shared.give_up(ledger, piece, &ReadError::Corrupt { segment, offset, why });
        self.done.bad.push((ledger, piece.from, piece.to));
    }

    /// The entries of a record, if it is the one that the index knows.
    fn entries(
        &self,
        record: &Bytes,
        ledger: LedgerId,
        piece: Piece,
    ) -> Option<(EntryId, Vec<Bytes>)> {
        let head = EntriesHead::decode(record, self.shared.seed).ok()?;
        let entries = head.split(record).ok()?;
        let last = EntryId(head.first.0 + i64::try_from(entries.len()).ok()? - 1);
        (head.ledger == ledger && head.first <= piece.from && piece.to <= last)
            .then_some((head.first, entries))
    }
}
