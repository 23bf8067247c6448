//! One ledger entry: an immutable byte string made once by the writer and carried verbatim from then on
//! (protocol 1.5, D1-D3). Big-endian throughout.
//!
//! ```text
//!   0  u64 ledger_id            | u64 entry_id        | i64 lac_at_send     | u64 cumulative_length
//!  32  u32 payload_len          | u16 flags           | u8 kind             | u8 version
//!  40  i64 first_offset         | u32 offset_count    | u32 index_len (version 2)
//!  56  i64 max_timestamp        | i64 running_max_timestamp                 | u64 last_snapshot_entry
//!  80  index … | payload …
//!   n  u32 crc32c of everything before it, seeded with the cluster uuid
//! ```
//!
//! Version 2 has an index in front of its payload ([`Payload::with_index`]), counted in `payload_len`. Without one an entry
//! is of version 1, where `index_len` is reserved. Bookies copy the attributes into indexes and look at nothing else. The digest is keyed so that bytes of another
//! cluster never pass for ours.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::ids::{ClusterUuid, EntryId, LedgerId};
use crate::payload::Payload;
use crate::{caps, checksum};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 80;
/// Bytes after the payload.
pub const DIGEST_BYTES: usize = 4;
/// The version of an entry without an index.
pub const VERSION: u8 = 1;
/// The version of an entry with one.
pub const VERSION_INDEXED: u8 = 2;
/// `last_snapshot_entry` when this ledger holds no complete snapshot yet.
pub const NO_SNAPSHOT: u64 = u64::MAX;

/// What a payload is. Persisted, keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Record batches of one partition, end to end. The only kind that takes offsets.
    Batches = 1,
    /// One part of a snapshot.
    Snapshot = 2,
    /// A statelog's command.
    Command = 3,
    /// Nothing: proves that its writer still owns the log.
    Barrier = 4,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Batches),
            2 => Some(Self::Snapshot),
            3 => Some(Self::Command),
            4 => Some(Self::Barrier),
            _ => None,
        }
    }
}

/// What the layer above says about a payload; opaque to bookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What the payload is.
    pub kind: Kind,
    /// Offset of the first record; of the next record for kinds that take none.
    pub first_offset: i64,
    /// Offsets taken.
    pub offset_count: u32,
    /// Largest record timestamp in the payload, milliseconds; -1 when it has none.
    pub max_timestamp: i64,
    /// Largest record timestamp of the partition up to and with this entry, milliseconds.
    pub running_max_timestamp: i64,
    /// First part of the newest snapshot completed in this ledger before this entry, or [`NO_SNAPSHOT`].
    pub last_snapshot_entry: u64,
}

/// Where an entry stands; assigned by the ledger's writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The ledger.
    pub ledger: LedgerId,
    /// The entry's number in it.
    pub entry: EntryId,
    /// Last add confirmed when the entry was made. Verbatim ever after (D2, H6).
    pub lac: EntryId,
    /// Payload bytes of this ledger up to and with this entry.
    pub cumulative_length: u64,
}

/// A decoded entry. `index` and `payload` share the buffer it was decoded from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub position: Position,
    /// What it is.
    pub attributes: Attributes,
    /// Length of index and payload; larger than theirs together when only a prefix was read.
    pub payload_len: u32,
    /// Length of the index; larger than `index.len()` when only a prefix was read.
    pub index_len: u32,
    /// What a replay needs to know of the payload; empty in entries that have none.
    pub index: Bytes,
    /// The payload behind the index, or as much of it as was asked for.
    pub payload: Bytes,
}

/// Why bytes are not an entry. All of these mean *unknown* for the replica that sent them (protocol 3.4).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Too short, or lengths that contradict each other.
    #[error("entry is truncated: {have} bytes, expected {want}")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// A version or kind from the future.
    #[error("entry has unknown {what} {value}")]
    Unknown {
        /// Which field.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// The digest does not match.
    #[error("entry digest mismatch")]
    Digest,
    /// A good entry, but not the one asked for (D1: a misdirected read).
    #[error(
        "asked for entry {want_entry} of ledger {want_ledger}, got entry {got_entry} of ledger {got_ledger}"
    )]
    Misdirected {
        /// Asked for.
        want_ledger: LedgerId,
        /// Asked for.
        want_entry: EntryId,
        /// In the bytes.
        got_ledger: LedgerId,
        /// In the bytes.
        got_entry: EntryId,
    },
    /// Payload above the limit.
    #[error("entry payload of {0} bytes is above the limit of {max}", max = caps::MAX_ENTRY_BYTES)]
    TooLarge(usize),
}

fn digest_seed(cluster: ClusterUuid) -> u32 {
    checksum::append(0, cluster.as_bytes())
}

/// Digest of an entry's header and payload.
fn digest(cluster: ClusterUuid, covered: &[u8]) -> u32 {
    checksum::append(digest_seed(cluster), covered)
}

/// Makes the byte string. This is the one copy of a record batch between socket and log: it turns many small buffers into
/// one that every replica shares. The digest follows from the payload's checksum: whoever checks it checks this copy, too.
///
/// # Errors
/// [`Error::TooLarge`] when the parts together exceed the limit.
pub fn encode(
    cluster: ClusterUuid,
    position: Position,
    attributes: Attributes,
    payload: &Payload,
) -> Result<Bytes, Error> {
    let len = payload.len();
    if len > caps::MAX_ENTRY_BYTES {
        return Err(Error::TooLarge(len));
    }
    let payload_len = u32::try_from(len).expect("the limit fits in 32 bits");
    let mut out = BytesMut::with_capacity(HEADER_BYTES + len + DIGEST_BYTES);
    let index_len = u32::try_from(payload.index_len()).expect("within the payload");
    put_header(&mut out, position, attributes, [payload_len, index_len]);
    let header = digest(cluster, &out);
    for part in payload.parts() {
        out.extend_from_slice(part);
    }
    out.put_u32(checksum::join(header, payload.checksum(), len));
    Ok(out.freeze())
}

fn put_header(
    out: &mut BytesMut,
    position: Position,
    attributes: Attributes,
    [payload_len, index_len]: [u32; 2],
) {
    out.put_u64(position.ledger.0);
    out.put_i64(position.entry.0);
    out.put_i64(position.lac.0);
    out.put_u64(position.cumulative_length);
    out.put_u32(payload_len);
    out.put_u16(0);
    out.put_u8(attributes.kind as u8);
    out.put_u8(if index_len > 0 { VERSION_INDEXED } else { VERSION });
    out.put_i64(attributes.first_offset);
    out.put_u32(attributes.offset_count);
    out.put_u32(index_len);
    out.put_i64(attributes.max_timestamp);
    out.put_i64(attributes.running_max_timestamp);
    out.put_u64(attributes.last_snapshot_entry);
}

/// The lengths are those of index and payload together, and of the index.
fn take_header(mut bytes: &[u8]) -> Result<(Position, Attributes, [u32; 2]), Error> {
    if bytes.len() < HEADER_BYTES {
        return Err(Error::Truncated { have: bytes.len(), want: HEADER_BYTES });
    }
    let position = Position {
        ledger: LedgerId(bytes.get_u64()),
        entry: EntryId(bytes.get_i64()),
        lac: EntryId(bytes.get_i64()),
        cumulative_length: bytes.get_u64(),
    };
    let payload_len = bytes.get_u32();
    let _flags = bytes.get_u16();
    let kind = bytes.get_u8();
    let version = bytes.get_u8();
    if !matches!(version, VERSION | VERSION_INDEXED) {
        return Err(Error::Unknown { what: "version", value: version });
    }
    let kind = Kind::from_u8(kind).ok_or(Error::Unknown { what: "kind", value: kind })?;
    let first_offset = bytes.get_i64();
    let offset_count = bytes.get_u32();
    let index_len = bytes.get_u32();
    let index_len = match version {
        VERSION => 0,
        // Without an index it would be of version 1: an entry has one encoding (D3).
        VERSION_INDEXED if index_len == 0 => {
            return Err(Error::Unknown { what: "version", value: version });
        }
        _ => index_len,
    };
    if index_len > payload_len {
        return Err(Error::Truncated { have: payload_len as usize, want: index_len as usize });
    }
    let attributes = Attributes {
        kind,
        first_offset,
        offset_count,
        max_timestamp: bytes.get_i64(),
        running_max_timestamp: bytes.get_i64(),
        last_snapshot_entry: bytes.get_u64(),
    };
    Ok((position, attributes, [payload_len, index_len]))
}

/// The position and attributes without a look at payload or digest; for indexes, over bytes already verified.
///
/// # Errors
/// [`Error::Truncated`] or [`Error::Unknown`].
pub fn peek(bytes: &[u8]) -> Result<(Position, Attributes), Error> {
    take_header(bytes).map(|(position, attributes, _)| (position, attributes))
}

/// Checks lengths and digest and returns the parts; `bytes` is kept, not copied.
///
/// # Errors
/// Anything of [`Error`] but `Misdirected` and `TooLarge`.
pub fn decode(cluster: ClusterUuid, bytes: &Bytes) -> Result<Entry, Error> {
    let (position, attributes, [payload_len, index_len]) = take_header(bytes)?;
    let end = HEADER_BYTES + payload_len as usize;
    if bytes.len() != end + DIGEST_BYTES {
        return Err(Error::Truncated { have: bytes.len(), want: end + DIGEST_BYTES });
    }
    let stored = (&bytes[end..]).get_u32();
    if stored != digest(cluster, &bytes[..end]) {
        return Err(Error::Digest);
    }
    let payload = bytes.slice(HEADER_BYTES..end);
    Ok(Entry::of(position, attributes, [payload_len, index_len], payload))
}

impl Entry {
    /// `payload`: the index and what is behind it, or a prefix of both.
    fn of(
        position: Position,
        attributes: Attributes,
        [payload_len, index_len]: [u32; 2],
        mut payload: Bytes,
    ) -> Self {
        let index = payload.split_to(payload.len().min(index_len as usize));
        Self { position, attributes, payload_len, index_len, index, payload }
    }
}

/// [`decode`], and the check of D1 that this is the entry that was asked for.
///
/// # Errors
/// Anything of [`Error`] but `TooLarge`.
pub fn decode_expecting(
    cluster: ClusterUuid,
    ledger: LedgerId,
    entry: EntryId,
    bytes: &Bytes,
) -> Result<Entry, Error> {
    let decoded = decode(cluster, bytes)?;
    expect(ledger, entry, &decoded.position)?;
    Ok(decoded)
}

/// Cuts a stored entry down to its header and the first `prefix_bytes` of index and payload, without digest (the bookie has
/// verified the whole). Replaying batch headers reads megabytes this way, not gigabytes.
///
/// # Errors
/// [`Error::Truncated`] or [`Error::Unknown`].
pub fn prefix(bytes: &Bytes, prefix_bytes: u32) -> Result<Bytes, Error> {
    let (_, _, [payload_len, _]) = take_header(bytes)?;
    let end = HEADER_BYTES + payload_len.min(prefix_bytes) as usize;
    if bytes.len() < end {
        return Err(Error::Truncated { have: bytes.len(), want: end });
    }
    Ok(bytes.slice(..end))
}

/// Decodes what [`prefix`] made.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Unknown`] or [`Error::Misdirected`].
pub fn decode_prefix(ledger: LedgerId, entry: EntryId, bytes: &Bytes) -> Result<Entry, Error> {
    let (position, attributes, [payload_len, index_len]) = take_header(bytes)?;
    expect(ledger, entry, &position)?;
    let end = bytes.len().min(HEADER_BYTES + payload_len as usize);
    let payload = bytes.slice(HEADER_BYTES..end);
    Ok(Entry::of(position, attributes, [payload_len, index_len], payload))
}

fn expect(ledger: LedgerId, entry: EntryId, got: &Position) -> Result<(), Error> {
    if got.ledger == ledger && got.entry == entry {
        return Ok(());
    }
    Err(Error::Misdirected {
        want_ledger: ledger,
        want_entry: entry,
        got_ledger: got.ledger,
        got_entry: got.entry,
    })
}

/// Index and payload of an encoded entry, whose buffer they share.
pub fn payload(bytes: &Bytes) -> Option<Bytes> {
    let end = bytes.len().checked_sub(DIGEST_BYTES)?;
    (end >= HEADER_BYTES).then(|| bytes.slice(HEADER_BYTES..end))
}

/// The digest an encoded entry carries: names its content (D3), and chains into a ledger's `entries_crc`.
pub fn stored_digest(bytes: &[u8]) -> Option<u32> {
    let at = bytes.len().checked_sub(DIGEST_BYTES)?;
    (at >= HEADER_BYTES).then(|| (&bytes[at..]).get_u32())
}

/// Rolls one entry's digest into a ledger's `entries_crc`; start from 0.
pub fn roll_digest(entries_crc: u64, stored_digest: u32) -> u64 {
    let mut chained = [0; 12];
    chained[..8].copy_from_slice(&entries_crc.to_be_bytes());
    chained[8..].copy_from_slice(&stored_digest.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&chained)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cluster() -> ClusterUuid {
        ClusterUuid::from_random(7)
    }

    fn sample(entry: i64) -> (Position, Attributes) {
        let position = Position {
            ledger: LedgerId(42),
            entry: EntryId(entry),
            lac: EntryId(entry - 1),
            cumulative_length: 99,
        };
        let attributes = Attributes {
            kind: Kind::Batches,
            first_offset: 1000,
            offset_count: 3,
            max_timestamp: 5,
            running_max_timestamp: 6,
            last_snapshot_entry: NO_SNAPSHOT,
        };
        (position, attributes)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(
            index in proptest::collection::vec(any::<u8>(), 0..50),
            payload in proptest::collection::vec(any::<u8>(), 0..500),
            cut in 0u32..600,
        ) {
            let (position, attributes) = sample(3);
            let (index, payload) = (Bytes::from(index), Bytes::from(payload));
            let mut both = Payload::with_index(index.clone());
            both.push(payload.clone());
            let bytes = encode(cluster(), position, attributes, &both).unwrap();
            prop_assert_eq!(super::payload(&bytes), Some(both.clone().into_bytes()));
            let entry = decode_expecting(cluster(), LedgerId(42), EntryId(3), &bytes).unwrap();
            prop_assert_eq!((&entry.index, &entry.payload), (&index, &payload));
            prop_assert_eq!(entry.position, position);
            prop_assert_eq!(entry.attributes, attributes);
            let cut_bytes = prefix(&bytes, cut).unwrap();
            let short = decode_prefix(LedgerId(42), EntryId(3), &cut_bytes).unwrap();
            let read = [&short.index[..], &short.payload[..]].concat();
            prop_assert_eq!(&read[..], &both.clone().into_bytes()[..both.len().min(cut as usize)]);
            prop_assert_eq!(short.payload_len as usize, both.len());
            prop_assert_eq!(short.index_len as usize, index.len());
        }

        #[test]
        fn a_flipped_bit_is_seen(at in 0usize..120, bit in 0u8..8) {
            let (position, attributes) = sample(3);
            let bytes = encode(cluster(), position, attributes, &Bytes::from(vec![1u8; 36]).into()).unwrap();
            let mut broken = bytes.to_vec();
            broken[at] ^= 1 << bit;
            prop_assert!(decode(cluster(), &Bytes::from(broken)).is_err());
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(cluster(), &Bytes::from(noise)).is_err());
        }
    }

    /// Parts with and without a known checksum make the same entry; a wrong checksum makes one that is refused.
    #[test]
    fn a_payload_is_its_bytes_however_it_was_cut() {
        let (position, attributes) = sample(3);
        let (first, second) = (Bytes::from_static(b"one "), Bytes::from_static(b"two"));
        let mut parts = Payload::default();
        parts.push(first.clone());
        parts.push_known(second.clone(), checksum::append(0, &second));
        let whole = encode(cluster(), position, attributes, &Bytes::from_static(b"one two").into());
        assert_eq!(encode(cluster(), position, attributes, &parts), whole);
        assert_eq!(encode(cluster(), position, attributes, &parts.joined()), whole);
        let mut wrong = Payload::default();
        wrong.push_known(first, 1);
        let wrong = encode(cluster(), position, attributes, &wrong).unwrap();
        assert_eq!(decode(cluster(), &wrong), Err(Error::Digest));
    }

    #[test]
    fn another_cluster_or_entry_is_refused() {
        let (position, attributes) = sample(3);
        let bytes = encode(cluster(), position, attributes, &Payload::default()).unwrap();
        assert_eq!(decode(ClusterUuid::from_random(8), &bytes), Err(Error::Digest));
        assert!(matches!(
            decode_expecting(cluster(), LedgerId(42), EntryId(4), &bytes),
            Err(Error::Misdirected { .. })
        ));
    }

    /// The layout of version 1, byte by byte: what is stored today must stay readable.
    #[test]
    fn golden_version_1() {
        let (position, attributes) = sample(1);
        let bytes =
            encode(cluster(), position, attributes, &Bytes::from_static(b"gem").into()).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN);
    }

    /// The layout of version 2: the same with an index.
    #[test]
    fn golden_version_2() {
        let (position, attributes) = sample(1);
        let mut payload = Payload::with_index(Bytes::from_static(b"idx"));
        payload.push(Bytes::from_static(b"gem"));
        let bytes = encode(cluster(), position, attributes, &payload).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN_INDEXED);
        let mut longer = bytes.to_vec();
        longer[52..56].copy_from_slice(&7u32.to_be_bytes());
        assert_eq!(decode(cluster(), &longer.into()), Err(Error::Truncated { have: 6, want: 7 }));
    }

    const GOLDEN_INDEXED: &str = "000000000000002a000000000000000100000000000000000000000000000063000000060000010200000000000003e8\
        000000030000000300000000000000050000000000000006ffffffffffffffff69647867656df07ca2af";
    const GOLDEN: &str = "000000000000002a000000000000000100000000000000000000000000000063000000030000010100000000000003e8\
        000000030000000000000000000000050000000000000006ffffffffffffffff67656d582af433";
}
