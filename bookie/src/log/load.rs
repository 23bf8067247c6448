//! Reads a segment's file when the log is opened: its footer if it has a good one, otherwise all of it.
//!
//! What the disk refuses to read is left out of a file, and remembered: the rest may do without it. Where it does not, nobody says
//! that a frame is missing or damaged, for it may be there: that is an error to try again, and no loss.

use std::io;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::error::OpenError;
use super::footer::{Extent, Footer, Item, TRAILER_BYTES, Trailer};
use super::format::{self, BadHeader, Frame, HEADER_BYTES, Seed};
use super::segment;
use super::{Identity, corrupt, io_error};
use crate::io::{Disk, DiskFile};
use crate::ledger::Record;

/// Larger than any segment that was ever written: a file is read into memory only below it.
const MAX_SEGMENT_BYTES: u64 = 2 << 30;
/// Read at a segment's end in one go: most footers are smaller.
const END_BYTES: u64 = 32 << 10;
/// Threads that read footers.
const THREADS: usize = 4;
/// A file that is not read in one go is read in such steps,
const STEP_BYTES: usize = 64 << 10;
/// and those in such: what one bad sector takes along.
const SMALL_STEP_BYTES: usize = 4 << 10;
/// So many of these may be refused: more is no bad place, but a disk that does not answer.
const MAX_REFUSED: usize = 256;

/// One segment's file in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) seq: u64,
    pub(super) bytes: Bytes,
    refused: Refused,
}

/// What of a file the disk refused to read: zeros stand in for it.
#[derive(Debug, Default)]
struct Refused {
    /// In order.
    places: Vec<Range<usize>>,
    why: Option<io::Error>,
}

impl Refused {
    fn overlaps(&self, place: Range<usize>) -> bool {
        self.places.iter().any(|one| one.start < place.end && place.start < one.end)
    }

    fn error(&self, seq: u64, offset: usize) -> OpenError {
        let what = format!(
            "read {} at byte {offset} (nothing is given up for that; should it stay so at the next start, replace the disk and start with --auto-heal, which has it restored from other bookies)",
            segment::file_name(seq)
        );
        let why = self.why.as_ref();
        let error = why.map_or_else(
            || io::Error::other("the disk refused"),
            |error| io::Error::new(error.kind(), error.to_string()),
        );
        OpenError::Io { what, error }
    }
}

impl Loaded {
    /// Reads the whole file, or what the disk gives of it. Blocks.
    pub(super) fn read(disk: &dyn Disk, identity: &Identity, seq: u64) -> Result<Self, OpenError> {
        let name = segment::file_name(seq);
        let read = || -> io::Result<Option<Self>> {
            let file = disk.open(&name)?;
            let size = file.size()?;
            match usize::try_from(size).ok().filter(|_| size <= MAX_SEGMENT_BYTES) {
                Some(size) => Self::of(&*file, seq, size).map(Some),
                None => Ok(None),
            }
        };
        let loaded = read().map_err(io_error("read", &name))?;
        let loaded =
            loaded.ok_or_else(|| corrupt(seq, 0, "the file is larger than any segment"))?;
        if loaded.refused.overlaps(0..HEADER_BYTES) {
            return Err(loaded.refused.error(seq, 0));
        }
        format::check_header(&loaded.bytes, identity, seq).map_err(|bad| match bad {
            BadHeader::Damaged => corrupt(seq, 0, "its header is not whole"),
            BadHeader::Version(version) => OpenError::Version { segment: seq, version },
            BadHeader::Foreign(what) => OpenError::Foreign { segment: seq, what },
        })?;
        Ok(loaded)
    }

    /// Reads a file of which it is known whose it is, or what the disk gives of it. Blocks.
    pub(super) fn read_known(disk: &dyn Disk, seq: u64) -> io::Result<Self> {
        let file = disk.open(&segment::file_name(seq))?;
        let size = file.size()?.min(MAX_SEGMENT_BYTES);
        Self::of(&*file, seq, usize::try_from(size).expect("a segment fits in memory"))
    }

    fn of(file: &dyn DiskFile, seq: u64, size: usize) -> io::Result<Self> {
        let mut buffer = BytesMut::zeroed(size);
        let mut refused = Refused::default();
        if file.read_exact_at(0, &mut buffer).is_err() {
            for (number, step) in buffer.chunks_mut(STEP_BYTES).enumerate() {
                read_step(file, number * STEP_BYTES, step, &mut refused)?;
            }
        }
        Ok(Self { seq, bytes: buffer.freeze(), refused })
    }

    /// Why there is no whole frame at `offset`: the disk does not give all of it, or it is damaged.
    fn missing(&self, offset: usize, why: &'static str) -> OpenError {
        self.refused_at(offset).unwrap_or_else(|| corrupt(self.seq, offset, why))
    }

    /// Why a frame at `offset` may be there and was not read, if so.
    pub(super) fn refused_at(&self, offset: usize) -> Option<OpenError> {
        let head = self.bytes.get(offset..).unwrap_or_default();
        let bytes = format::frame_bytes_by(head).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = bytes.unwrap_or_default().max(format::FRAME_HEAD_BYTES);
        let refused = self.refused.overlaps(offset..offset + bytes);
        refused.then(|| self.refused.error(self.seq, offset))
    }

    /// Why what stands behind `offset` is not known, if it is not.
    pub(super) fn refused_behind(&self, offset: usize) -> Option<OpenError> {
        let behind = self.refused.overlaps(offset..self.bytes.len());
        behind.then(|| self.refused.error(self.seq, offset))
    }

    /// The frame at `offset`, if a whole one is there.
    pub(super) fn frame(&self, offset: usize, seed: Seed) -> Option<Frame> {
        format::decode_frame(&self.bytes, offset, self.seq, seed)
    }

    /// The frame at `offset`, of whatever segment; only for [`super::mutation::Mutation::TakeStaleFrames`].
    pub(super) fn any_frame(&self, offset: usize, seed: Seed) -> Option<Frame> {
        let segment = self.bytes.get(offset + 8..)?.first_chunk().copied()?;
        format::decode_frame(&self.bytes, offset, u64::from_be_bytes(segment), seed)
    }

    /// The records of a frame that begins at `offset`.
    pub(super) fn items(
        &self,
        offset: usize,
        frame: &Frame,
        seed: Seed,
    ) -> Result<Vec<Item>, OpenError> {
        items(self.seq, offset, frame, seed)
    }

    /// A footer made from frames `first..=last`, all of which must be there: it had been full when they were counted.
    pub(super) fn footer(&self, first: u64, last: u64, seed: Seed) -> Result<Footer, OpenError> {
        let (mut offset, mut items) = (HEADER_BYTES, Vec::new());
        for seq in first..=last {
            let frame = self.frame(offset, seed).filter(|frame| frame.head.seq == seq);
            let why = "a frame is missing that a snapshot says was on stable storage";
            let frame = frame.ok_or_else(|| self.missing(offset, why))?;
            items.extend(self.items(offset, &frame, seed)?);
            offset = frame.end;
        }
        let end = u32::try_from(offset.min(self.bytes.len())).expect("a segment is below 4 GiB");
        Ok(Footer { segment: self.seq, first_frame: first, last_frame: last, end, items })
    }

    /// Whether a whole frame at or behind `offset` vouches for frame `lost`.
    pub(super) fn vouches_for(&self, lost: u64, offset: usize, seed: Seed) -> bool {
        let mut at = offset;
        while at < self.bytes.len() {
            match self.frame(at, seed) {
                Some(frame) if frame.head.durable_upto >= lost => return true,
                Some(frame) => at = frame.end,
                None => at += format::ALIGNMENT,
            }
        }
        false
    }
}

/// The records of a frame that begins at `offset` of a segment.
pub(super) fn items(
    segment: u64,
    offset: usize,
    frame: &Frame,
    seed: Seed,
) -> Result<Vec<Item>, OpenError> {
    let body = offset + format::FRAME_HEAD_BYTES;
    let placed = format::decode_body(&frame.body, seed)
        .map_err(|malformed| corrupt(segment, offset, malformed.0))?;
    let mut items = Vec::with_capacity(placed.len());
    for placed in placed {
        let format::Item::Ledger { ledger, record } = placed.item else { continue };
        items.push(match record {
            Record::Entries { first, entries, lac, .. } if !entries.is_empty() => {
                let fits = "a segment is smaller than 4 GiB";
                Item::Extent(Extent {
                    ledger,
                    first,
                    count: u32::try_from(entries.len()).expect(fits),
                    lac,
                    offset: u32::try_from(body + placed.offset).expect(fits),
                    length: u32::try_from(placed.length).expect(fits),
                })
            }
            record => Item::Record(ledger, record),
        });
    }
    Ok(items)
}

/// A segment's footer; `None` when there is none that is whole, or it cannot be read. Blocks.
pub(super) fn footer(disk: &dyn Disk, seq: u64, seed: Seed) -> Option<Footer> {
    let file = disk.open(&segment::file_name(seq)).ok()?;
    let size = file.size().ok()?;
    let from = size.saturating_sub(END_BYTES);
    let read = |from: u64, to: u64| {
        let bytes = usize::try_from(to.checked_sub(from)?).ok()?;
        let mut buffer = vec![0; bytes];
        file.read_exact_at(from, &mut buffer).ok()?;
        Some(buffer)
    };
    // Where a part of that is refused the trailer may not be.
    let trailer_at = size.checked_sub(TRAILER_BYTES as u64)?;
    let (from, end) = match read(from, size) {
        Some(end) => (from, end),
        None => (trailer_at, read(trailer_at, size)?),
    };
    let trailer =
        Trailer::decode(end.get(end.len().checked_sub(TRAILER_BYTES)?..)?, seq, seed, size)?;
    let items_end = trailer.items_at + trailer.items_bytes() as u64;
    if trailer.items_at >= from {
        let at = usize::try_from(trailer.items_at - from).ok()?;
        return trailer.footer(end.get(at..at + trailer.items_bytes())?, seed);
    }
    trailer.footer(&read(trailer.items_at, items_end)?, seed)
}

/// Gives the footers of segments to `take`, in order. A few are in memory at a time, each with as many items as its segment may have,
/// and the disk is not read while one is taken: a simulated one fails the same calls each time. Blocks.
pub(super) fn footers<E>(
    disk: &dyn Disk,
    segments: &[u64],
    seed: Seed,
    mut take: impl FnMut(usize, Option<Footer>) -> Result<(), E>,
) -> Result<(), E> {
    let mut number = 0;
    for some in segments.chunks(THREADS) {
        let read: Vec<Option<Footer>> = std::thread::scope(|scope| {
            let readers: Vec<_> =
                some.iter().map(|seq| scope.spawn(move || footer(disk, *seq, seed))).collect();
            // A thread that panicked read nothing: the frames are read then.
            readers.into_iter().map(|reader| reader.join().unwrap_or(None)).collect()
        });
        for footer in read {
            take(number, footer)?;
            number += 1;
        }
    }
    Ok(())
}

/// Reads one step of a file, and leaves out what the disk refuses of it.
fn read_step(
    file: &dyn DiskFile,
    at: usize,
    step: &mut [u8],
    refused: &mut Refused,
) -> io::Result<()> {
    if file.read_exact_at(at as u64, step).is_ok() {
        return Ok(());
    }
    for (number, small) in step.chunks_mut(SMALL_STEP_BYTES).enumerate() {
        let from = at + number * SMALL_STEP_BYTES;
        if let Err(error) = file.read_exact_at(from as u64, small) {
            if refused.places.len() >= MAX_REFUSED {
                return Err(error);
            }
            small.fill(0);
            refused.places.push(from..from + small.len());
            refused.why = Some(error);
        }
    }
    Ok(())
}
