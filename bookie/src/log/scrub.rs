//! Looks for rot (protocol 6.3): reads full segments one after the other, a frame at a time, and holds every frame and every
//! entry that lives against its checksum. What is bad is unknown from then on (K1); that it was held is not forgotten.
//!
//! Bad is what was read and is wrong, or what its file is too short for. What the disk refuses to read is not known to be bad
//! and stays as it is (S1, [`super::suspects`]): when the disk answers again all of it may be there.
//!
//! One frame is in memory. Of a segment with a frame that is damaged or refused, the records that its footer names behind that are
//! read one by one.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::{EntryId, LedgerId};
use tokio::time::Instant;

use super::catalogue::Full;
use super::error::{ReadError, UpkeepError};
use super::footer::{Extent, Item};
use super::format::{self, EntriesHead, FRAME_HEAD_BYTES, Frame, HEADER_BYTES};
use super::index::Piece;
use super::load;
use super::reclaim::failed;
use super::upkeep::blocking;
use super::{Log, Mutation, Shared, metrics, segment};
use crate::io::DiskFile;

/// So many records of a segment may be refused, one after the other, before the rest is left for another round: it is the disk
/// then, and each refusal may take it half a minute.
const MAX_REFUSED: usize = 4;
/// So many records that were refused before are asked for again in one go, if the disk gives them.
const MAX_RETRIED: usize = 8;

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// Entries that are bad: ledger, first, last.
    pub bad: Vec<(LedgerId, EntryId, EntryId)>,
    /// Whether a frame is damaged, be it that what it held is not needed any more.
    pub damaged_frames: bool,
    /// Reads that the disk refused.
    pub refused: u64,
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

/// Why there is nothing to verify.
#[derive(Debug)]
enum Unread {
    /// The file ends before.
    Short,
    /// The disk refused: what is stored there is not known.
    Refused(io::Error),
}

/// What stands at the cursor.
#[derive(Debug)]
enum Looked {
    /// A frame, from its own first byte on, and what is in it.
    Whole(Frame, Vec<Item>),
    /// None that is whole.
    Damaged,
    /// The disk does not say.
    Refused(io::Error),
}

/// One segment that is being verified.
struct Scrub<'a> {
    shared: &'a Shared,
    sound: &'a dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    file: Arc<dyn DiskFile>,
    seq: u64,
    /// Records that were refused, one after the other.
    refused: usize,
    done: Scrubbed,
}

impl Shared {
    fn scrub(
        &self,
        max_bytes: u64,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Scrubbed, UpkeepError> {
        let mut done = Scrubbed::default();
        self.ask_again(sound, &mut done)?;
        let begun = self.scrubbing.lock().take();
        let next = || self.catalogue.lock().next_to_scrub().map(Cursor::new);
        let Some(mut cursor) = begun.or_else(next) else { return Ok(done) };
        // Not one whose space was given back meanwhile; the file is not removed before this is done.
        let Some(_pin) = self.index.read().pin_of(segment::short(cursor.seq)) else {
            return Ok(done);
        };
        let mut scrub = self.scrub_of(cursor.seq, sound)?;
        let more = scrub.run(&mut cursor, max_bytes);
        metrics::scrubbed(&scrub.done);
        let more = more.map_err(failed("read a segment"))?;
        *self.scrubbing.lock() = more.then_some(cursor);
        done.add(scrub.done);
        Ok(done)
    }

    fn scrub_of<'a>(
        &'a self,
        seq: u64,
        sound: &'a dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Scrub<'a>, UpkeepError> {
        let file = self.disk.open(&segment::file_name(seq)).map_err(failed("open a segment"))?;
        Ok(Scrub { shared: self, sound, file, seq, refused: 0, done: Scrubbed::default() })
    }

    /// Asks for records again that were refused a while ago, until one is refused.
    fn ask_again(
        &self,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
        done: &mut Scrubbed,
    ) -> Result<(), UpkeepError> {
        for _ in 0..MAX_RETRIED {
            let due = self.suspects.lock().due(Instant::now());
            let Some((short, extent)) = due else { return Ok(()) };
            let Some(_pin) = self.index.read().pin_of(short) else {
                self.suspects.lock().forget(short);
                continue;
            };
            let mut scrub = self.scrub_of(u64::from(short), sound)?;
            let asked = scrub.ask_again(&extent);
            metrics::scrubbed(&scrub.done);
            let given = asked.map_err(failed("read a segment"))?;
            done.add(scrub.done);
            if !given {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl Scrubbed {
    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.bad.extend(other.bad);
        self.damaged_frames |= other.damaged_frames;
        self.refused += other.refused;
    }
}

impl Scrub<'_> {
    /// Whether the segment has more.
    fn run(&mut self, cursor: &mut Cursor, max_bytes: u64) -> io::Result<bool> {
        while self.done.bytes < max_bytes {
            let (frame, items) = match self.frame(cursor)? {
                Looked::Whole(frame, items) => (frame, items),
                Looked::Damaged => {
                    tracing::error!(segment = %segment::file_name(self.seq), offset = cursor.offset, frame = cursor.frame, "a frame of a full segment is damaged");
                    self.done.damaged_frames = true;
                    self.without_frames(cursor.offset, None)?;
                    return Ok(false);
                }
                Looked::Refused(error) => {
                    tracing::warn!(segment = %segment::file_name(self.seq), offset = cursor.offset, frame = cursor.frame, %error, "the disk refused to read a frame of a full segment; nothing of it is given up");
                    self.without_frames(cursor.offset, Some(error))?;
                    return Ok(false);
                }
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

    /// What stands at the cursor.
    fn frame(&mut self, cursor: &Cursor) -> io::Result<Looked> {
        let read = |unread| match unread {
            Unread::Short => Looked::Damaged,
            Unread::Refused(error) => Looked::Refused(error),
        };
        let head = match self.read(cursor.offset, FRAME_HEAD_BYTES as u64)? {
            Ok(head) => head,
            Err(unread) => return Ok(read(unread)),
        };
        let Some(bytes) = format::frame_bytes_by(&head) else { return Ok(Looked::Damaged) };
        let whole = match self.read(cursor.offset, bytes)? {
            Ok(whole) => whole,
            Err(unread) => return Ok(read(unread)),
        };
        let seed = self.shared.seed;
        let frame = format::decode_frame(&whole, 0, self.seq, seed)
            .filter(|frame| frame.head.seq == cursor.frame);
        let Some(frame) = frame else { return Ok(Looked::Damaged) };
        let offset = usize::try_from(cursor.offset).expect("a segment is below 4 GiB");
        let items = load::items(self.seq, offset, &frame, seed);
        Ok(items.map_or(Looked::Damaged, |items| Looked::Whole(frame, items)))
    }

    /// What is stored there. Fails only where the file itself does not answer.
    fn read(&mut self, offset: u64, bytes: u64) -> io::Result<Result<Bytes, Unread>> {
        if self.file.size()? < offset + bytes {
            return Ok(Err(Unread::Short));
        }
        let mut buffer = BytesMut::zeroed(usize::try_from(bytes).map_err(io::Error::other)?);
        self.done.bytes += bytes;
        match self.file.read_exact_at(offset, &mut buffer) {
            Ok(()) => {
                self.refused = 0;
                self.shared.suspects.lock().read();
                Ok(Ok(buffer.freeze()))
            }
            Err(error) => {
                self.done.refused += 1;
                let rot = self.shared.config.mutations.is(Mutation::TakeRefusalForRot);
                Ok(Err(if rot { Unread::Short } else { Unread::Refused(error) }))
            }
        }
    }

    /// Verifies what the footer says is behind `offset`, record by record; `refused` is why the frames cannot be read.
    fn without_frames(&mut self, offset: u64, refused: Option<io::Error>) -> io::Result<()> {
        let footer = load::footer(&*self.shared.disk, self.seq, self.shared.seed);
        let Some(footer) = footer else { return refused.map_or(Ok(()), Err) };
        for item in &footer.items {
            let Item::Extent(extent) = item else { continue };
            let pieces = self.pieces(extent)?;
            if u64::from(extent.offset) < offset || pieces.is_empty() {
                continue;
            }
            // Those are asked for by themselves, each in its time.
            if self.shared.suspects.lock().contains(segment::short(self.seq), extent.offset) {
                continue;
            }
            if let Err(error) = self.record(extent, pieces)? {
                self.shared.suspects.lock().refused(
                    segment::short(self.seq),
                    *extent,
                    Instant::now(),
                );
                self.refused += 1;
                if self.refused >= MAX_REFUSED {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Verifies a record that lives in `pieces`, unless the disk refuses it.
    fn record(&mut self, extent: &Extent, pieces: Vec<Piece>) -> io::Result<io::Result<()>> {
        let record = match self.read(u64::from(extent.offset), u64::from(extent.length))? {
            Ok(record) => record,
            Err(Unread::Short) => Bytes::new(),
            Err(Unread::Refused(error)) => return Ok(Err(error)),
        };
        for piece in pieces {
            self.verify(&record, extent.ledger, piece);
        }
        Ok(Ok(()))
    }

    /// Asks once more for a record that the disk refused; whether it did not refuse it again.
    fn ask_again(&mut self, extent: &Extent) -> io::Result<bool> {
        let (short, Extent { ledger, offset, .. }) = (segment::short(self.seq), *extent);
        let pieces = self.pieces(extent)?;
        let asked = if pieces.is_empty() { Ok(()) } else { self.record(extent, pieces)? };
        let Err(error) = asked else {
            self.shared.suspects.lock().clear(short, offset);
            return Ok(true);
        };
        if self.shared.suspects.lock().refused_again(short, offset) {
            tracing::error!(%ledger, first = extent.first.0, count = extent.count, segment = %segment::file_name(self.seq), offset, %error, "the disk goes on refusing to read stored entries while it reads others; they are unknown here until they are restored from other bookies: look after the disk");
            self.shared.note_damaged(ledger);
        }
        Ok(false)
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
