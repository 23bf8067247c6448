//! Reads a segment's file when the log is opened: its footer if it has a good one, otherwise all of it.

use std::io;

use bytes::{Bytes, BytesMut};

use super::error::OpenError;
use super::footer::{Extent, Footer, Item, TRAILER_BYTES, Trailer};
use super::format::{self, BadHeader, Frame, HEADER_BYTES, Seed};
use super::segment;
use super::{Identity, corrupt, io_error};
use crate::io::Disk;
use crate::ledger::Record;

/// Larger than any segment that was ever written: a file is read into memory only below it.
const MAX_SEGMENT_BYTES: u64 = 2 << 30;
/// Read at a segment's end in one go: most footers are smaller.
const END_BYTES: u64 = 32 << 10;
/// Threads that read footers.
const THREADS: usize = 4;

/// One segment's file in memory.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) seq: u64,
    pub(super) bytes: Bytes,
}

impl Loaded {
    /// Reads the whole file. Blocks.
    pub(super) fn read(disk: &dyn Disk, identity: &Identity, seq: u64) -> Result<Self, OpenError> {
        let name = segment::file_name(seq);
        let read = || -> io::Result<Option<Bytes>> {
            let file = disk.open(&name)?;
            let size = file.size()?;
            if size > MAX_SEGMENT_BYTES {
                return Ok(None);
            }
            let size = usize::try_from(size).expect("a segment fits in memory");
            let mut buffer = BytesMut::zeroed(size);
            file.read_exact_at(0, &mut buffer)?;
            Ok(Some(buffer.freeze()))
        };
        let bytes = read().map_err(io_error("read", &name))?;
        let bytes = bytes.ok_or_else(|| corrupt(seq, 0, "the file is larger than any segment"))?;
        format::check_header(&bytes, identity, seq).map_err(|bad| match bad {
            BadHeader::Damaged => corrupt(seq, 0, "its header is not whole"),
            BadHeader::Version(version) => OpenError::Version { segment: seq, version },
            BadHeader::Foreign(what) => OpenError::Foreign { segment: seq, what },
        })?;
        Ok(Self { seq, bytes })
    }

    /// Reads a file of which it is known whose it is. Blocks.
    pub(super) fn read_known(disk: &dyn Disk, seq: u64) -> io::Result<Self> {
        let file = disk.open(&segment::file_name(seq))?;
        let size = file.size()?.min(MAX_SEGMENT_BYTES);
        let mut buffer = BytesMut::zeroed(usize::try_from(size).expect("a segment fits in memory"));
        file.read_exact_at(0, &mut buffer)?;
        Ok(Self { seq, bytes: buffer.freeze() })
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
            let frame = frame.ok_or_else(|| corrupt(self.seq, offset, why))?;
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
    let end = read(from, size)?;
    let trailer =
        Trailer::decode(end.get(end.len().checked_sub(TRAILER_BYTES)?..)?, seq, seed, size)?;
    let items_end = trailer.items_at + trailer.items_bytes() as u64;
    if trailer.items_at >= from {
        let at = usize::try_from(trailer.items_at - from).ok()?;
        return trailer.footer(end.get(at..at + trailer.items_bytes())?, seed);
    }
    trailer.footer(&read(trailer.items_at, items_end)?, seed)
}

/// The footers of several segments, in their order. Blocks.
pub(super) fn footers(disk: &dyn Disk, segments: &[u64], seed: Seed) -> Vec<Option<Footer>> {
    let share = segments.len().div_ceil(THREADS).max(1);
    std::thread::scope(|scope| {
        let read =
            |part: &[u64]| part.iter().map(|seq| footer(disk, *seq, seed)).collect::<Vec<_>>();
        let parts: Vec<_> =
            segments.chunks(share).map(|part| scope.spawn(move || read(part))).collect();
        let none = |part: &[u64]| vec![None; part.len()];
        let done = parts.into_iter().zip(segments.chunks(share));
        // A thread that panicked read nothing: the frames are read then.
        done.flat_map(|(thread, part)| thread.join().unwrap_or_else(|_| none(part))).collect()
    })
}
