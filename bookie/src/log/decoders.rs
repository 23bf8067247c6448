//! The decoders of what is on a disk, for fuzzing (feature `simulation`): each takes any bytes, and also what they would be
//! if their checksums were right, since damage that a crc notices never gets further. None may panic.

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::ids::{ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId, SealEpoch};

use super::Identity;
use super::footer::{Footer, TRAILER_BYTES, Trailer};
use super::format::{
    self, ENTRIES_HEAD_BYTES, FRAME_HEAD_BYTES, FrameHead, HEADER_BYTES, Mark, Seed,
};
use super::snapshot::Snapshot;
use crate::ledger::Record;

const SEGMENT: u64 = 9;
const CRC_BYTES: usize = 4;

fn identity() -> Identity {
    Identity {
        cluster: ClusterUuid::from_random(1),
        bookie: "bookie-1".parse().expect("a plain name"),
        incarnation: Incarnation(7),
        disk: DiskUuid::from_random(2),
    }
}

fn seed() -> Seed {
    Seed::of(&identity())
}

/// Puts the right crc behind `bytes[..at]`.
fn seal(bytes: &mut [u8], at: usize) {
    if let Some((covered, rest)) = bytes.split_at_mut_checked(at)
        && let Some(place) = rest.first_chunk_mut::<CRC_BYTES>()
    {
        *place = seed().crc(covered).to_be_bytes();
    }
}

/// Frames with one record of each kind, and a mark.
pub fn frame_seeds() -> Vec<Bytes> {
    let entries = vec![Bytes::from_static(b"first entry"), Bytes::from_static(b"second")];
    let records = [
        Record::RunStart { fragment_first: EntryId(2) },
        Record::Entries { fragment_first: EntryId(2), first: EntryId(2), entries, lac: EntryId(1) },
        Record::Seal { epoch: SealEpoch(3) },
        Record::Closed { last: EntryId(3) },
        Record::Trimmed { attempt: 7 << 70 | 5 },
        Record::GivenUp,
        Record::Tombstone,
    ];
    let mut parts = Vec::new();
    for record in records {
        parts.push(format::encode_record(LedgerId(0x17), &record, seed()));
        if let Record::Entries { entries, .. } = record {
            parts.extend(entries);
        }
    }
    let head = FrameHead { segment: SEGMENT, seq: 5, durable_upto: 4 };
    let encode = |parts| format::encode_frame(head, seed(), parts).concat().into();
    vec![encode(parts), encode(vec![format::encode_mark(Mark::Idle)])]
}

/// A frame, its body, and a body by itself.
pub fn frame(bytes: &[u8]) {
    let file = Bytes::copy_from_slice(bytes);
    if let Some(frame) = format::decode_frame(&file, 0, SEGMENT, seed()) {
        assert!(frame.head.durable_upto < frame.head.seq);
        body(&frame.body);
    }
    if bytes.len() > FRAME_HEAD_BYTES {
        body(&file.slice(FRAME_HEAD_BYTES..));
    }
}

/// Walks through a body; once more with the crc of its first record's head put right.
fn body(bytes: &Bytes) {
    let walk = |bytes: &Bytes| {
        if let Ok(placed) = format::decode_body(bytes, seed()) {
            let length: usize = placed.iter().map(|placed| placed.length).sum();
            assert_eq!(length, bytes.len(), "a body is its records");
        }
    };
    walk(bytes);
    let mut sealed = bytes.to_vec();
    let count = format::entries_count(bytes.get(..ENTRIES_HEAD_BYTES).unwrap_or_default());
    seal(&mut sealed, ENTRIES_HEAD_BYTES.saturating_add(count.saturating_mul(4)));
    walk(&sealed.into());
}

/// A segment's header.
pub fn header_seeds() -> Vec<Bytes> {
    vec![format::encode_header(&identity(), SEGMENT)]
}

/// See [`header_seeds`].
pub fn header(bytes: &[u8]) {
    let check = |bytes: &[u8]| format::check_header(bytes, &identity(), SEGMENT);
    if check(bytes).is_ok() {
        let whole = format::encode_header(&identity(), SEGMENT);
        assert_eq!(bytes.get(64..129), whole.get(64..129), "no other bookie's");
    }
    let mut sealed = bytes.to_vec();
    sealed.resize(HEADER_BYTES, 0);
    let (covered, crc) = sealed.split_at_mut(HEADER_BYTES - CRC_BYTES);
    crc.copy_from_slice(&crc32c::crc32c(covered).to_be_bytes());
    // Whatever it says now: a refusal or a header, no panic.
    let _ = check(&sealed);
}

/// A segment's footer.
pub fn footer_seeds() -> Vec<Bytes> {
    let items = Vec::new();
    let footer = Footer { segment: SEGMENT, first_frame: 5, last_frame: 8, end: 6144, items };
    let (_, empty) = footer.encode(seed(), 0);
    vec![empty]
}

/// The bytes are the end of a file: items, padding, trailer.
pub fn footer(bytes: &[u8]) {
    let decode = |bytes: &[u8]| {
        let from = bytes.len().checked_sub(TRAILER_BYTES)?;
        let trailer = Trailer::decode(&bytes[from..], SEGMENT, seed(), bytes.len() as u64 + 8192)?;
        let items = bytes.get(..trailer.items_bytes())?;
        trailer.footer(items, seed())
    };
    let _ = decode(bytes);
    let mut sealed = bytes.to_vec();
    let Some(from) = bytes.len().checked_sub(TRAILER_BYTES) else { return };
    // The crc of as many items as it says, where it says so; then that of the trailer.
    let count = sealed[from + 48..from + 52].first_chunk().map_or(0, |n| u32::from_be_bytes(*n));
    if let Some(items) = sealed.get(..(count as usize).saturating_mul(40).min(from)) {
        let crc = seed().crc(items).to_be_bytes();
        sealed[from + 52..from + 56].copy_from_slice(&crc);
    }
    seal(&mut sealed[from..], TRAILER_BYTES - CRC_BYTES);
    if let Some(footer) = decode(&sealed) {
        assert!(footer.items.len() * 40 <= bytes.len());
    }
}

/// A snapshot without ledgers; a file of the corpus has some.
pub fn snapshot_seeds() -> Vec<Bytes> {
    let mut bytes = BytesMut::new();
    bytes.put_slice(b"GEMINGAS");
    bytes.put_u16(1);
    bytes.put_bytes(0, 6);
    bytes.put_u64(3);
    bytes.put_u64(31);
    bytes.put_u32(1);
    bytes.put_u64(SEGMENT);
    bytes.put_u64(10);
    bytes.put_u64(19);
    bytes.put_u32(0);
    bytes.put_u64(0);
    bytes.put_u32(seed().crc(&bytes));
    vec![bytes.freeze()]
}

/// See [`snapshot_seeds`].
pub fn snapshot(bytes: &[u8]) {
    let _ = Snapshot::decode(bytes, seed());
    let mut sealed = bytes.to_vec();
    let Some(covered) = bytes.len().checked_sub(CRC_BYTES) else { return };
    seal(&mut sealed, covered);
    if let Some(snapshot) = Snapshot::decode(&sealed, seed()) {
        let again = Snapshot::decode(&snapshot.encode(seed()), seed());
        assert_eq!(again.as_ref(), Some(&snapshot), "what is read is what would be written");
    }
}
