//! Bytes of the log on disk (protocol 5.2). Big-endian throughout.
//!
//! ```text
//! segment  header, 4 KiB | frame | frame | … | zeros
//! header   u64 magic | u16 version | 6 × 0 | u64 segment_seq | [16] cluster | [16] disk | u64 incarnation
//!          | u8 length of bookie id | [64] bookie id | zeros | u32 crc32c at 4092
//! frame    u32 magic | u32 length of body | u64 segment_seq | u64 frame_seq | u64 durable_upto | u32 crc32c | body
//!          | zeros up to the next 512
//! body     record, one or more, end to end
//! record   u8 kind | 3 × 0 | u32 length, this head included | u64 ledger | what the kind says:
//!   Entries    i64 fragment_first | i64 first | i64 lac | u32 count | u32 length of each | u32 crc32c | bytes of each
//!   Seal       u32 epoch            RunStart  i64 fragment_first
//!   Closed     i64 last             Tombstone nothing             Mark  u8 reason (ledger 0)
//!   Trimmed    [16] attempt          GivenUp   nothing
//! ```
//!
//! A frame's crc covers all of it but the crc and the zeros; the crc inside an `Entries` record covers the record up to there, so that
//! one record can be read without its frame (the entries carry digests of their own, D1). Both are seeded by the
//! disk's identity: neither a frame of another life nor bytes made by a client can pass for a frame of this log.
//! Sequence numbers inside the crc do the same for what an earlier use of the file left behind.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use super::Identity;
use crate::ledger::Record;

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: usize = 4096;
/// Frames begin at multiples of this.
pub(super) const ALIGNMENT: usize = 512;
/// Bytes of a frame before its body.
pub(super) const FRAME_HEAD_BYTES: usize = 36;
/// Most bytes of a frame's body. A request of the largest message fits: each of its entries may need two bytes more
/// here than there.
pub(super) const MAX_BODY_BYTES: usize = caps::MAX_FRAME_BYTES + caps::MAX_FRAME_BYTES / 32;

const SEGMENT_MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAL");
const FRAME_MAGIC: u32 = u32::from_be_bytes(*b"GmgF");
/// The version written today.
const VERSION: u16 = 1;
const RECORD_HEAD_BYTES: usize = 16;
/// An `Entries` record up to the lengths.
pub(super) const ENTRIES_HEAD_BYTES: usize = RECORD_HEAD_BYTES + 28;
const CRC_BYTES: usize = 4;

/// What a record is. Persisted, keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Entries = 1,
    Seal = 2,
    RunStart = 3,
    Closed = 4,
    Tombstone = 5,
    Mark = 6,
    Trimmed = 7,
    GivenUp = 8,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        let all = [
            Self::Entries,
            Self::Seal,
            Self::RunStart,
            Self::Closed,
            Self::Tombstone,
            Self::Mark,
            Self::Trimmed,
            Self::GivenUp,
        ];
        all.into_iter().find(|kind| *kind as u8 == value)
    }
}

/// Why a frame was written that holds no ledger's record: to vouch for the frame before it (K8). Persisted, keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Mark {
    /// The log was opened, and what was found is on stable storage.
    Opened = 1,
    /// Nothing was appended for a while.
    Idle = 2,
    /// The log was shut down in order.
    Shutdown = 3,
}

impl Mark {
    fn from_u8(value: u8) -> Option<Self> {
        [Self::Opened, Self::Idle, Self::Shutdown].into_iter().find(|mark| *mark as u8 == value)
    }
}

/// Start value of every crc of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    /// The seed of one life of one disk.
    pub(super) fn of(identity: &Identity) -> Self {
        let crc = crc32c::crc32c(identity.cluster.as_bytes());
        let crc = crc32c::crc32c_append(crc, identity.disk.as_bytes());
        Self(crc32c::crc32c_append(crc, &identity.incarnation.0.to_be_bytes()))
    }

    /// The crc of some bytes of this log.
    pub(super) fn crc(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// What is wrong with a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Its crc, or its magic.
    Damaged,
    /// Its version.
    Version(u16),
    /// It is whole, but belongs to something else.
    Foreign(&'static str),
}

/// A segment's header.
pub(super) fn encode_header(identity: &Identity, segment: u64) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER_BYTES);
    buffer.put_u64(SEGMENT_MAGIC);
    buffer.put_u16(VERSION);
    buffer.put_bytes(0, 6);
    buffer.put_u64(segment);
    buffer.put_slice(identity.cluster.as_bytes());
    buffer.put_slice(identity.disk.as_bytes());
    buffer.put_u64(identity.incarnation.0);
    let bookie = identity.bookie.as_str().as_bytes();
    buffer.put_u8(u8::try_from(bookie.len()).expect("a bookie id has at most 64 characters"));
    buffer.put_slice(bookie);
    buffer.put_bytes(0, HEADER_BYTES - CRC_BYTES - buffer.len());
    let crc = crc32c::crc32c(&buffer);
    buffer.put_u32(crc);
    buffer.freeze()
}

/// Checks that `bytes`, the first of a file, are the header of this segment of this log.
pub(super) fn check_header(
    bytes: &[u8],
    identity: &Identity,
    segment: u64,
) -> Result<(), BadHeader> {
    let bytes = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
    let (covered, mut crc) = bytes.split_at(HEADER_BYTES - CRC_BYTES);
    if crc32c::crc32c(covered) != crc.get_u32() {
        return Err(BadHeader::Damaged);
    }
    let expected = encode_header(identity, segment);
    let same = |range: std::ops::Range<usize>| bytes[range.clone()] == expected[range];
    let version = u16::from_be_bytes([bytes[8], bytes[9]]);
    match () {
        () if !same(0..8) => Err(BadHeader::Damaged),
        () if version != VERSION => Err(BadHeader::Version(version)),
        () if !same(24..40) => Err(BadHeader::Foreign("cluster")),
        () if !same(64..129) => Err(BadHeader::Foreign("bookie")),
        () if !same(40..56) => Err(BadHeader::Foreign("disk")),
        () if !same(56..64) => Err(BadHeader::Foreign("incarnation")),
        () if !same(16..24) => Err(BadHeader::Foreign("place in the log")),
        () => Ok(()),
    }
}

/// Sequence numbers of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHead {
    /// The segment it stands in.
    pub(super) segment: u64,
    /// Its number, from 1, dense over all segments.
    pub(super) seq: u64,
    /// Highest frame known durable when this one was built; below `seq`.
    pub(super) durable_upto: u64,
}

/// A frame as found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) head: FrameHead,
    pub(super) body: Bytes,
    /// Where the next frame begins.
    pub(super) end: usize,
}

/// Bytes that a frame takes in the file.
pub(super) fn frame_bytes(body: usize) -> usize {
    (FRAME_HEAD_BYTES + body).next_multiple_of(ALIGNMENT)
}

/// Puts a frame around the parts of a body: what to write, end to end.
pub(super) fn encode_frame(head: FrameHead, seed: Seed, body: Vec<Bytes>) -> Vec<Bytes> {
    let length: usize = body.iter().map(Bytes::len).sum();
    debug_assert!(length <= MAX_BODY_BYTES, "checked before it is queued");
    let mut buffer = BytesMut::with_capacity(FRAME_HEAD_BYTES);
    buffer.put_u32(FRAME_MAGIC);
    buffer.put_u32(u32::try_from(length).expect("a body is at most MAX_BODY_BYTES"));
    buffer.put_u64(head.segment);
    buffer.put_u64(head.seq);
    buffer.put_u64(head.durable_upto);
    let crc = seed.crc(&buffer);
    let crc = body.iter().fold(crc, |crc, part| crc32c::crc32c_append(crc, part));
    buffer.put_u32(crc);
    let padding = frame_bytes(length) - FRAME_HEAD_BYTES - length;
    let mut parts = Vec::with_capacity(body.len() + 2);
    parts.push(buffer.freeze());
    parts.extend(body);
    parts.push(Bytes::from_static(&[0; ALIGNMENT]).slice(..padding));
    parts
}

/// Bytes that a frame of this head takes in the file, if it can be one's.
pub(super) fn frame_bytes_by(mut head: &[u8]) -> Option<u64> {
    let magic = head.try_get_u32().ok()?;
    let length = head.try_get_u32().ok()? as usize;
    (magic == FRAME_MAGIC && length <= MAX_BODY_BYTES).then(|| frame_bytes(length) as u64)
}

/// The frame of `segment` at `offset` of a file's bytes; `None` when there is none that is whole.
pub(super) fn decode_frame(file: &Bytes, offset: usize, segment: u64, seed: Seed) -> Option<Frame> {
    let mut head = file.get(offset..)?.get(..FRAME_HEAD_BYTES)?;
    let covered = &head[..FRAME_HEAD_BYTES - CRC_BYTES];
    if head.get_u32() != FRAME_MAGIC {
        return None;
    }
    let length = head.get_u32() as usize;
    let head_numbers =
        FrameHead { segment: head.get_u64(), seq: head.get_u64(), durable_upto: head.get_u64() };
    if length > MAX_BODY_BYTES
        || head_numbers.segment != segment
        || head_numbers.durable_upto >= head_numbers.seq
    {
        return None;
    }
    let start = offset + FRAME_HEAD_BYTES;
    let body = file.get(start..start + length)?;
    let crc = crc32c::crc32c_append(seed.crc(covered), body);
    (crc == head.get_u32()).then(|| Frame {
        head: head_numbers,
        body: file.slice(start..start + length),
        end: offset + frame_bytes(length),
    })
}

/// A record for the log: its head, after which come its entries.
pub(super) fn encode_record(ledger: LedgerId, record: &Record, seed: Seed) -> Bytes {
    let mut buffer = BytesMut::with_capacity(64);
    match record {
        Record::Entries { fragment_first, first, entries, lac } => {
            let head = entries_head_bytes(entries.len());
            let length = head + entries.iter().map(Bytes::len).sum::<usize>();
            buffer.reserve(head);
            put_head(&mut buffer, Kind::Entries, length, ledger);
            buffer.put_i64(fragment_first.0);
            buffer.put_i64(first.0);
            buffer.put_i64(lac.0);
            buffer.put_u32(u32::try_from(entries.len()).expect("fewer entries than bytes"));
            for entry in entries {
                buffer.put_u32(u32::try_from(entry.len()).expect("checked before it is queued"));
            }
            let crc = seed.crc(&buffer);
            buffer.put_u32(crc);
        }
        Record::Seal { epoch } => {
            put_head(&mut buffer, Kind::Seal, RECORD_HEAD_BYTES + 4, ledger);
            buffer.put_u32(epoch.0);
        }
        Record::RunStart { fragment_first } => {
            put_head(&mut buffer, Kind::RunStart, RECORD_HEAD_BYTES + 8, ledger);
            buffer.put_i64(fragment_first.0);
        }
        Record::Closed { last } => {
            put_head(&mut buffer, Kind::Closed, RECORD_HEAD_BYTES + 8, ledger);
            buffer.put_i64(last.0);
        }
        Record::Trimmed { attempt } => {
            put_head(&mut buffer, Kind::Trimmed, RECORD_HEAD_BYTES + 16, ledger);
            buffer.put_u128(*attempt);
        }
        Record::GivenUp => put_head(&mut buffer, Kind::GivenUp, RECORD_HEAD_BYTES, ledger),
        Record::Tombstone => put_head(&mut buffer, Kind::Tombstone, RECORD_HEAD_BYTES, ledger),
    }
    buffer.freeze()
}

/// A mark.
pub(super) fn encode_mark(mark: Mark) -> Bytes {
    let mut buffer = BytesMut::with_capacity(RECORD_HEAD_BYTES + 1);
    put_head(&mut buffer, Kind::Mark, RECORD_HEAD_BYTES + 1, LedgerId(0));
    buffer.put_u8(mark as u8);
    buffer.freeze()
}

/// Bytes of a record as it stands in a body.
pub(super) fn record_bytes(record: &Record) -> usize {
    match record {
        Record::Entries { entries, .. } => {
            entries_head_bytes(entries.len()) + entries.iter().map(Bytes::len).sum::<usize>()
        }
        Record::RunStart { .. } | Record::Closed { .. } => RECORD_HEAD_BYTES + 8,
        Record::Seal { .. } => RECORD_HEAD_BYTES + 4,
        Record::Trimmed { .. } => RECORD_HEAD_BYTES + 16,
        Record::GivenUp | Record::Tombstone => RECORD_HEAD_BYTES,
    }
}

/// Bytes of an `Entries` record before its entries.
pub(super) fn entries_head_bytes(count: usize) -> usize {
    ENTRIES_HEAD_BYTES + 4 * count + CRC_BYTES
}

/// How many entries the fixed part of an `Entries` head names; not checked yet.
pub(super) fn entries_count(fixed: &[u8]) -> usize {
    fixed.get(ENTRIES_HEAD_BYTES - 4..).map_or(0, |mut count| count.get_u32() as usize)
}

fn put_head(buffer: &mut BytesMut, kind: Kind, length: usize, ledger: LedgerId) {
    buffer.put_u8(kind as u8);
    buffer.put_bytes(0, 3);
    buffer.put_u32(u32::try_from(length).expect("checked before it is queued"));
    buffer.put_u64(ledger.0);
}

/// What a body holds, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A ledger's record.
    Ledger { ledger: LedgerId, record: Record },
    /// Nothing.
    Mark(Mark),
}

/// An item and where it stands in its body, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) item: Item,
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// Bytes that do not make a record. Says which part does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// Takes a body apart. Entries are slices of it.
pub(super) fn decode_body(body: &Bytes, seed: Seed) -> Result<Vec<Placed>, Malformed> {
    let mut placed = Vec::new();
    let mut offset = 0;
    while offset < body.len() {
        let mut head =
            body.get(offset..offset + RECORD_HEAD_BYTES).ok_or(Malformed("a record's head"))?;
        let kind = Kind::from_u8(head.get_u8()).ok_or(Malformed("a record's kind"))?;
        head.advance(3);
        let length = head.get_u32() as usize;
        if length < RECORD_HEAD_BYTES || length > body.len() - offset {
            return Err(Malformed("a record's length"));
        }
        let ledger = LedgerId(head.get_u64());
        let item = decode_record(kind, ledger, body.slice(offset..offset + length), seed)?;
        placed.push(Placed { item, offset, length });
        offset += length;
    }
    Ok(placed)
}

fn decode_record(
    kind: Kind,
    ledger: LedgerId,
    bytes: Bytes,
    seed: Seed,
) -> Result<Item, Malformed> {
    let mut rest = &bytes[RECORD_HEAD_BYTES..];
    let exactly = |length: usize| {
        (bytes.len() == RECORD_HEAD_BYTES + length).then_some(()).ok_or(Malformed("its length"))
    };
    let record = match kind {
        Kind::Entries => {
            let head = EntriesHead::decode(&bytes, seed)?;
            let entries = head.split(&bytes)?;
            let (fragment_first, first, lac) = (head.fragment_first, head.first, head.lac);
            Record::Entries { fragment_first, first, entries, lac }
        }
        Kind::Seal => {
            exactly(4)?;
            Record::Seal { epoch: SealEpoch(rest.get_u32()) }
        }
        Kind::RunStart => {
            exactly(8)?;
            Record::RunStart { fragment_first: EntryId(rest.get_i64()) }
        }
        Kind::Closed => {
            exactly(8)?;
            Record::Closed { last: EntryId(rest.get_i64()) }
        }
        Kind::Trimmed => {
            exactly(16)?;
            Record::Trimmed { attempt: rest.get_u128() }
        }
        Kind::GivenUp => {
            exactly(0)?;
            Record::GivenUp
        }
        Kind::Tombstone => {
            exactly(0)?;
            Record::Tombstone
        }
        Kind::Mark => {
            exactly(1)?;
            let mark = Mark::from_u8(rest.get_u8()).ok_or(Malformed("a mark's reason"))?;
            return Ok(Item::Mark(mark));
        }
    };
    Ok(Item::Ledger { ledger, record })
}

/// The part of an `Entries` record before its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntriesHead {
    pub(super) ledger: LedgerId,
    pub(super) fragment_first: EntryId,
    pub(super) first: EntryId,
    pub(super) lac: EntryId,
    /// Length of each entry, bytes.
    pub(super) lengths: Vec<u32>,
}

impl EntriesHead {
    /// From the start of a record; more may follow.
    pub(super) fn decode(bytes: &[u8], seed: Seed) -> Result<Self, Malformed> {
        let fixed = bytes.get(..ENTRIES_HEAD_BYTES).ok_or(Malformed("an entries head"))?;
        let mut head = fixed;
        if head.get_u8() != Kind::Entries as u8 {
            return Err(Malformed("a record's kind"));
        }
        head.advance(7);
        let ledger = LedgerId(head.get_u64());
        let (fragment_first, first) = (EntryId(head.get_i64()), EntryId(head.get_i64()));
        let lac = EntryId(head.get_i64());
        let count = head.get_u32() as usize;
        let lengths = bytes[ENTRIES_HEAD_BYTES..].chunks_exact(4);
        if lengths.len() <= count {
            return Err(Malformed("the number of entries"));
        }
        let covered = &bytes[..ENTRIES_HEAD_BYTES + 4 * count];
        let mut crc = &bytes[covered.len()..covered.len() + CRC_BYTES];
        if seed.crc(covered) != crc.get_u32() {
            return Err(Malformed("the crc of an entries head"));
        }
        let end = i64::try_from(count).ok().and_then(|count| first.0.checked_add(count));
        if first.0 < 0 || end.is_none_or(|end| end == i64::MAX) {
            return Err(Malformed("an entry id"));
        }
        let lengths = lengths.take(count).map(|mut length| length.get_u32()).collect();
        Ok(Self { ledger, fragment_first, first, lac, lengths })
    }

    /// Entries of the whole record.
    pub(super) fn split(&self, record: &Bytes) -> Result<Vec<Bytes>, Malformed> {
        let mut rest = record.slice(entries_head_bytes(self.lengths.len())..);
        let total: u64 = self.lengths.iter().map(|length| u64::from(*length)).sum();
        if total != rest.len() as u64 {
            return Err(Malformed("the lengths of entries"));
        }
        Ok(self.lengths.iter().map(|length| rest.split_to(*length as usize)).collect())
    }
}

#[cfg(test)]
mod tests;
