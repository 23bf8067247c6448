//! `manifests/<topic id>/<p>`: the segments of a partition that were folded (protocol 7.9). What is known of each stands in objects,
//! the *parts*; here is where those are and what they come to, so that nobody fetches one to see that it holds nothing for him.
//!
//! ```text
//!   part (seq 1..=4096) | part (4097..=8192) | … | segments/<…>/<seq> of those that were not folded
//!   ──────────────► log order; the first segment key comes after the last part
//! ```
//!
//! Written by whoever folds, guarded by its own version and those of the keys that it removes. An object never changes; a part
//! may count less of it than it lists.

use bytes::Bytes;
use geminga_proto::ids::{LedgerId, Offset};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// Most parts of one manifest: more would not fit into a value.
pub const MAX_PARTS: usize = 256;
/// Most objects that are remembered after no part names them any more.
pub const MAX_FORMER: usize = 256;

/// One object, and what counts of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestPart {
    /// The write that made it; it is in the key.
    pub attempt: u128,
    /// The store: the part of its URL up to the key.
    pub bucket: String,
    /// Its name there.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Checksum of all of it.
    pub crc: u32,
    /// The first segment that counts.
    pub first_seq: u32,
    /// The last one.
    pub last_seq: u32,
    /// How many count.
    pub segments: u32,
    /// Offset of the first one's first record.
    pub base_offset: Offset,
    /// Offset after the last one's last record.
    pub end_offset: Offset,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The lowest of their ledgers' ids.
    pub lowest_ledger: LedgerId,
    /// The highest.
    pub highest_ledger: LedgerId,
}

/// An object that no part names any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerManifest {
    /// The write that made it.
    pub attempt: u128,
    /// Since when, milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// What was folded of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Manifest {
    /// In log order, without overlap.
    pub parts: Vec<ManifestPart>,
    /// Segments below this number were given up. Only rises.
    pub dropped_before: u64,
    /// Of these the objects are removed. Only rises, and never above `dropped_before`.
    pub removed_before: u64,
    /// For those who still read by an older value, or by a backup of one.
    pub former: Vec<FormerManifest>,
}

impl Manifest {
    /// The last segment that was folded.
    pub fn last_seq(&self) -> Option<u32> {
        self.parts.last().map(|part| part.last_seq)
    }

    /// Where what is folded ends.
    pub fn end_offset(&self) -> Option<Offset> {
        self.parts.last().map(|part| part.end_offset)
    }

    /// Parts that hold a segment which was not given up.
    pub fn live(&self) -> impl DoubleEndedIterator<Item = &ManifestPart> {
        self.parts.iter().filter(|part| u64::from(part.last_seq) >= self.dropped_before)
    }

    /// Whether an object may list it.
    pub fn may_hold(&self, ledger: LedgerId) -> bool {
        let holds =
            |part: &ManifestPart| (part.lowest_ledger..=part.highest_ledger).contains(&ledger);
        self.parts.iter().any(holds)
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::ManifestRecord {
            format: FORMAT,
            parts: self.parts.iter().map(part_to_wire).collect(),
            dropped_before: self.dropped_before,
            removed_before: self.removed_before,
            former: self
                .former
                .iter()
                .map(|former| wire::FormerManifest {
                    attempt: attempt_to_wire(former.attempt),
                    since_ms: former.since_ms,
                })
                .collect(),
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::ManifestRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let parts = record.parts.into_iter().map(part_from_wire).collect::<Result<Vec<_>, _>>()?;
        for pair in parts.windows(2) {
            if pair[1].first_seq <= pair[0].last_seq || pair[1].base_offset < pair[0].end_offset {
                return Err(Invalid::field("parts", "they do not follow one another"));
            }
        }
        if record.removed_before > record.dropped_before {
            return Err(Invalid::field("removed_before", "above dropped_before"));
        }
        let former = |former: wire::FormerManifest| {
            let attempt = attempt_from_wire(&former.attempt)?;
            Ok(FormerManifest { attempt, since_ms: former.since_ms })
        };
        Ok(Self {
            parts,
            dropped_before: record.dropped_before,
            removed_before: record.removed_before,
            former: record.former.into_iter().map(former).collect::<Result<_, Invalid>>()?,
        })
    }
}

fn attempt_to_wire(attempt: u128) -> Bytes {
    Bytes::copy_from_slice(&attempt.to_be_bytes())
}

fn attempt_from_wire(bytes: &[u8]) -> Result<u128, Invalid> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Invalid::field("attempt", "not 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

fn part_to_wire(part: &ManifestPart) -> wire::ManifestPart {
    wire::ManifestPart {
        attempt: attempt_to_wire(part.attempt),
        bucket: part.bucket.clone(),
        key: part.key.clone(),
        size: part.size,
        crc: part.crc,
        first_seq: part.first_seq,
        last_seq: part.last_seq,
        segments: part.segments,
        base_offset: part.base_offset.0,
        end_offset: part.end_offset.0,
        bytes: part.bytes,
        lowest_ledger: part.lowest_ledger.0,
        highest_ledger: part.highest_ledger.0,
    }
}

fn part_from_wire(part: wire::ManifestPart) -> Result<ManifestPart, Invalid> {
    let part = ManifestPart {
        attempt: attempt_from_wire(&part.attempt)?,
        bucket: part.bucket,
        key: part.key,
        size: part.size,
        crc: part.crc,
        first_seq: part.first_seq,
        last_seq: part.last_seq,
        segments: part.segments,
        base_offset: Offset(part.base_offset),
        end_offset: Offset(part.end_offset),
        bytes: part.bytes,
        lowest_ledger: LedgerId(part.lowest_ledger),
        highest_ledger: LedgerId(part.highest_ledger),
    };
    let offsets = Offset(0) <= part.base_offset && part.base_offset <= part.end_offset;
    if part.segments == 0 || part.first_seq > part.last_seq || !offsets {
        return Err(Invalid::field("parts", "numbers that contradict each other"));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first_seq: u32, base: i64) -> ManifestPart {
        ManifestPart {
            attempt: 7 + u128::from(first_seq),
            bucket: "memory://".to_owned(),
            key: "a/b".to_owned(),
            size: 10,
            crc: 5,
            first_seq,
            last_seq: first_seq + 9,
            segments: 10,
            base_offset: Offset(base),
            end_offset: Offset(base + 100),
            bytes: 1000,
            lowest_ledger: LedgerId(u64::from(first_seq) * 10),
            highest_ledger: LedgerId(u64::from(first_seq) * 10 + 50),
        }
    }

    fn manifest() -> Manifest {
        Manifest {
            parts: vec![part(1, 0), part(20, 100)],
            dropped_before: 11,
            removed_before: 3,
            former: vec![FormerManifest { attempt: 3, since_ms: 99 }],
        }
    }

    #[test]
    fn a_manifest_is_read_back() {
        let written = manifest();
        assert_eq!(Manifest::decode(&written.encode()), Ok(written.clone()));
        assert_eq!(Manifest::decode(&Manifest::default().encode()), Ok(Manifest::default()));
        assert_eq!(written.last_seq(), Some(29));
        assert_eq!(written.live().map(|part| part.first_seq).collect::<Vec<_>>(), [20]);
        assert!(written.may_hold(LedgerId(10)) && !written.may_hold(LedgerId(61)));
    }

    #[test]
    fn broken_values_are_refused() {
        let breaks: [fn(&mut Manifest); 6] = [
            |m| m.parts[0].segments = 0,
            |m| m.parts[0].first_seq = 11,
            |m| m.parts[1].first_seq = 10,
            |m| m.parts[1].base_offset = Offset(99),
            |m| m.parts[0].base_offset = Offset(-1),
            |m| m.removed_before = 12,
        ];
        for (i, break_it) in breaks.iter().enumerate() {
            let mut broken = manifest();
            break_it(&mut broken);
            assert!(Manifest::decode(&broken.encode()).is_err(), "break {i}");
        }
        assert!(Manifest::decode(b"?").is_err());
        let newer = wire::ManifestRecord { format: 9, ..wire::ManifestRecord::default() };
        assert_eq!(Manifest::decode(&newer.encode_to_vec()), Err(Invalid::Format(9)));
    }

    /// As many parts as there may be fit into a value, with long names.
    #[test]
    fn the_largest_manifest_fits_into_a_value() {
        let long = |n: usize| ManifestPart {
            key: "k".repeat(1000),
            bucket: "b".repeat(100),
            ..part(20 * n as u32 + 1, 100 * n as i64)
        };
        let former = FormerManifest { attempt: u128::MAX, since_ms: i64::MAX };
        let largest = Manifest {
            parts: (0..MAX_PARTS).map(long).collect(),
            former: vec![former; MAX_FORMER],
            ..Manifest::default()
        };
        assert!(largest.encode().len() < geminga_proto::caps::MAX_METADATA_VALUE_BYTES);
    }
}
