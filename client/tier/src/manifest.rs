//! The object that lists folded segments of one partition (protocol 7.9): for each what its two keys held. Big-endian.
//!
//! ```text
//! object  u64 magic | u16 version | u16 0 | u32 segments | [16] cluster | [16] topic | u32 partition | [16] attempt
//!         | segment | segment | … | u32 crc32c of all of it
//! segment u32 seq | u32 length | value of `segments/…` | u32 length | value of `ledgers/…`
//! ```
//!
//! Values are kept as they were, with the format numbers that they carry: what could be read in the metadata is read here. Metadata
//! names the object with its size and checksum and says which of its segments count; nothing is decoded that is not exactly that.

use std::ops::RangeInclusive;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_metastore::record::{LedgerMeta, LedgerState, ManifestPart, Segment, Tier};
use geminga_proto::ids::{ClusterUuid, LedgerId, Offset, PartitionIndex, TopicId};

use crate::error::{FormatError, ObjectError};
use crate::store::Store;

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAM");
/// The version written today.
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 68;
const CRC_BYTES: usize = 4;
/// The least that a segment takes.
const ITEM_BYTES: usize = 12;
const WHAT: &str = "the manifest";

/// Most segments of one object. A fold writes an object anew until it is full, and begins another then.
pub const MAX_SEGMENTS: usize = 4096;
/// Nothing larger is written, or read.
pub const MAX_MANIFEST_BYTES: usize = 12 << 20;

/// One segment that was folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldedSegment {
    /// Its place among the segments.
    pub seq: u32,
    /// As its key said; its end is known.
    pub segment: Segment,
    ledger: Bytes,
}

impl FoldedSegment {
    /// Of a segment whose end is known, and its ledger, which bookies have dropped.
    ///
    /// # Errors
    /// [`FormatError`] when it is otherwise.
    pub fn new(seq: u32, segment: Segment, meta: &LedgerMeta) -> Result<Self, FormatError> {
        let folded = Self { seq, segment, ledger: meta.encode() };
        folded.check(meta)?;
        Ok(folded)
    }

    /// Its ledger, as its key said.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn ledger(&self) -> Result<LedgerMeta, FormatError> {
        LedgerMeta::decode(self.segment.ledger, &self.ledger).map_err(|_| damaged("a ledger"))
    }

    /// Offset after its last record.
    pub fn end(&self) -> Offset {
        self.segment.end_offset.unwrap_or(self.segment.base_offset)
    }

    /// Bytes of its payloads.
    pub fn bytes(&self) -> u64 {
        self.segment.bytes.unwrap_or(0)
    }

    /// What it takes of an object.
    pub fn stored_bytes(&self) -> usize {
        ITEM_BYTES + self.segment.encode().len() + self.ledger.len()
    }

    fn check(&self, meta: &LedgerMeta) -> Result<(), FormatError> {
        let ends = self.segment.end_offset.is_some_and(|end| end >= self.segment.base_offset);
        let trimmed = meta.state == LedgerState::Closed && matches!(meta.tier, Tier::Trimmed(_));
        match ends && trimmed && meta.id == self.segment.ledger {
            true => Ok(()),
            false => Err(damaged("a segment that could not be folded")),
        }
    }
}

/// The segments of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentList {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The write that made the object.
    pub attempt: u128,
    segments: Vec<FoldedSegment>,
}

fn damaged(why: &'static str) -> FormatError {
    FormatError::Damaged { what: WHAT, why }
}

impl SegmentList {
    /// Of segments in log order.
    ///
    /// # Errors
    /// [`FormatError`] when they are none, too many, or not in order.
    pub fn new(
        cluster: ClusterUuid,
        (topic, partition): (TopicId, PartitionIndex),
        attempt: u128,
        segments: Vec<FoldedSegment>,
    ) -> Result<Self, FormatError> {
        let follows = |pair: &[FoldedSegment]| {
            pair[0].seq < pair[1].seq && pair[0].end() <= pair[1].segment.base_offset
        };
        if segments.is_empty() || segments.len() > MAX_SEGMENTS {
            return Err(damaged("the number of its segments"));
        }
        if !segments.windows(2).all(follows) {
            return Err(damaged("its segments do not follow one another"));
        }
        Ok(Self { cluster, topic, partition, attempt, segments })
    }

    /// All segments, whether they count or not.
    pub fn segments(&self) -> &[FoldedSegment] {
        &self.segments
    }

    /// Those that a part counts.
    pub fn of(&self, part: &ManifestPart) -> &[FoldedSegment] {
        let before = self.segments.partition_point(|found| found.seq < part.first_seq);
        let through = self.segments.partition_point(|found| found.seq <= part.last_seq);
        &self.segments[before..through.max(before)]
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let ledgers: usize = self.segments.iter().map(|found| found.ledger.len()).sum();
        ledgers + self.segments.len() * size_of::<FoldedSegment>() + size_of::<Self>()
    }

    /// What reading what metadata names takes in memory at most, its bytes and what they are decoded to.
    pub fn most_bytes(part: &ManifestPart) -> usize {
        let bytes = part.size.min(MAX_MANIFEST_BYTES as u64);
        let segments = (part.segments as usize).min(MAX_SEGMENTS);
        usize::try_from(bytes).unwrap_or(MAX_MANIFEST_BYTES) + segments * size_of::<FoldedSegment>()
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + self.bytes());
        out.put_u64(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(u32::try_from(self.segments.len()).expect("a few thousand"));
        out.put_slice(self.cluster.as_bytes());
        out.put_slice(self.topic.as_bytes());
        out.put_u32(self.partition.0);
        out.put_u128(self.attempt);
        for found in &self.segments {
            out.put_u32(found.seq);
            for value in [found.segment.encode(), found.ledger.clone()] {
                out.put_u32(u32::try_from(value.len()).expect("a value of the metadata"));
                out.put_slice(&value);
            }
        }
        let sum = crc32c::crc32c(&out);
        out.put_u32(sum);
        out.freeze()
    }

    /// From all bytes of an object.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let (have, want) = (bytes.len() as u64, (HEAD_BYTES + CRC_BYTES) as u64);
        if have < want {
            return Err(FormatError::Truncated { what: WHAT, have, want });
        }
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(damaged("its length"));
        }
        let covered = bytes.slice(..bytes.len() - CRC_BYTES);
        let mut rest = covered.clone();
        if rest.get_u64() != MAGIC {
            return Err(damaged("its magic"));
        }
        if crc32c::crc32c(&covered) != (&bytes[covered.len()..]).get_u32() {
            return Err(damaged("its checksum"));
        }
        match rest.get_u16() {
            VERSION => {}
            newer => return Err(FormatError::Version(newer)),
        }
        rest.advance(2);
        let count = rest.get_u32() as usize;
        let id = |rest: &mut Bytes| rest.split_to(16);
        let cluster = ClusterUuid::from_slice(&id(&mut rest)).ok_or(damaged("the cluster"))?;
        let topic = TopicId::from_slice(&id(&mut rest)).ok_or(damaged("the topic"))?;
        let (partition, attempt) = (PartitionIndex(rest.get_u32()), rest.get_u128());
        // What its length does not explain, or nobody would have written, is not made room for.
        if count > MAX_SEGMENTS.min(rest.len() / ITEM_BYTES) {
            return Err(damaged("the number of its segments"));
        }
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(take(&mut rest).ok_or(damaged("a segment"))?);
        }
        if !rest.is_empty() {
            return Err(damaged("its length"));
        }
        for found in &segments {
            found.check(&found.ledger()?)?;
        }
        Self::new(cluster, (topic, partition), attempt, segments)
    }

    /// Reads what metadata names, all of it and nothing else.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read(
        store: &Store,
        cluster: ClusterUuid,
        (topic, partition): (TopicId, PartitionIndex),
        part: &ManifestPart,
    ) -> Result<Self, ObjectError> {
        if part.size > MAX_MANIFEST_BYTES as u64 || part.segments as usize > MAX_SEGMENTS {
            return Err(damaged("its length").into());
        }
        let bytes = store.read_at(&part.bucket, &part.key, 0..part.size).await?;
        if crc32c::crc32c(&bytes) != part.crc {
            return Err(damaged("it is not the object that metadata names").into());
        }
        let list = Self::decode(&bytes)?;
        let same = list.cluster == cluster
            && (list.topic, list.partition, list.attempt) == (topic, partition, part.attempt);
        if !same || list.of(part).len() != part.segments as usize {
            return Err(damaged("it is another partition's, or lacks segments").into());
        }
        Ok(list)
    }

    /// Writes the object; a part of metadata that counts all of it. Nobody sees it before metadata names it, which is not before it
    /// was [read](Self::read) back, as everybody will read it. An error says nothing about whether it was written: it is garbage
    /// then, and never written to again.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn write(&self, store: &Store) -> Result<ManifestPart, ObjectError> {
        let bytes = self.encode();
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(damaged("its length").into());
        }
        let key = store.manifest_key(self.cluster, self.topic, self.partition, self.attempt);
        let whole = ManifestPart {
            attempt: self.attempt,
            bucket: store.bucket().to_owned(),
            key: key.clone(),
            size: bytes.len() as u64,
            crc: crc32c::crc32c(&bytes),
            ..self.counted(0..=u32::MAX).ok_or(damaged("the number of its segments"))?
        };
        store.upload(&key).complete(bytes).await?;
        Ok(whole)
    }

    /// What those of its segments come to whose numbers are in `seqs`; `None` when there are none. Where the object is, is left empty.
    pub fn counted(&self, seqs: RangeInclusive<u32>) -> Option<ManifestPart> {
        let of = || self.segments.iter().filter(|found| seqs.contains(&found.seq));
        let (first, last) = (of().next()?, of().next_back()?);
        let ledgers = || of().map(|found| found.segment.ledger);
        Some(ManifestPart {
            attempt: self.attempt,
            bucket: String::new(),
            key: String::new(),
            size: 0,
            crc: 0,
            first_seq: first.seq,
            last_seq: last.seq,
            segments: u32::try_from(of().count()).expect("a few thousand"),
            base_offset: first.segment.base_offset,
            end_offset: last.end(),
            bytes: of().map(FoldedSegment::bytes).sum(),
            lowest_ledger: ledgers().min().unwrap_or(LedgerId(0)),
            highest_ledger: ledgers().max().unwrap_or(LedgerId(0)),
        })
    }
}

/// One segment off the front.
fn take(rest: &mut Bytes) -> Option<FoldedSegment> {
    let seq = rest.try_get_u32().ok()?;
    let mut value = || {
        let length = rest.try_get_u32().ok()? as usize;
        (length <= rest.len()).then(|| rest.split_to(length))
    };
    let (segment, ledger) = (value()?, value()?);
    Some(FoldedSegment { seq, segment: Segment::decode(&segment).ok()?, ledger })
}

#[cfg(test)]
mod tests;
