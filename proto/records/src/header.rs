//! The fixed part of a record batch, big-endian:
//!
//! ```text
//!   0  i64 base_offset (broker)  | i32 batch_length: bytes after it  | i32 leader_epoch (broker)
//!  16  i8  magic = 2             | u32 crc32c of byte 21 to the end
//!  21  i16 attributes            | i32 last_offset_delta
//!  27  i64 base_timestamp        | i64 max_timestamp
//!  43  i64 producer_id           | i16 producer_epoch                | i32 base_sequence
//!  57  i32 record_count          | 61 records, compressed as one
//! ```

use bytes::{Buf, BufMut};
use geminga_proto::caps;

use crate::compression::Compression;
use crate::error::BatchError;
use crate::producer::Sequence;

/// Bytes before the records.
pub const HEADER_BYTES: usize = 61;
/// Bytes up to and with `batch_length`, which counts those after it.
pub const LOG_OVERHEAD_BYTES: usize = 12;
/// Bytes that the broker writes: base offset, length and leader epoch.
pub const STAMPED_BYTES: usize = 16;
/// Fewest bytes after the length in any format: an empty message of format 0.
const MIN_MESSAGE_BYTES: i32 = 14;
/// Where the checksum lies.
pub(crate) const CRC_AT: usize = 17;
/// Where the bytes that it covers begin.
pub(crate) const CRC_FROM: usize = 21;
/// Where the producer's id, epoch and sequence number lie.
pub(crate) const PRODUCER_AT: usize = 43;
/// The format that is served.
pub(crate) const MAGIC: i8 = 2;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// The fixed part of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record; 0 until a broker stamps it.
    pub base_offset: i64,
    /// Bytes after this field.
    pub batch_length: i32,
    /// The term of the broker that stamped it; -1 before.
    pub leader_epoch: i32,
    /// The format: 2.
    pub magic: i8,
    /// CRC-32C of everything from `attributes` on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control.
    pub attributes: i16,
    /// Offset of the last record, from `base_offset`.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_timestamp: i64,
    /// The idempotent producer, or -1.
    pub producer_id: i64,
    /// Its epoch, or -1.
    pub producer_epoch: i16,
    /// Sequence number of the first record, or -1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

impl Header {
    /// Reads the fixed part from the first [`HEADER_BYTES`] of `bytes`, which may be the prefix of a batch. Checks
    /// format, length, counts and codec id; neither the checksum nor that the whole batch is there.
    ///
    /// # Errors
    /// `Truncated`, `Length`, `TooLarge`, `Magic`, `Count`, `TooManyRecords` or `Codec`.
    pub fn peek(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() <= STAMPED_BYTES {
            return Err(BatchError::Truncated { have: bytes.len(), want: HEADER_BYTES });
        }
        // Length and magic lie where all formats have them, so an old format is told from noise.
        let length = (&bytes[LOG_OVERHEAD_BYTES - 4..]).get_i32();
        if length < MIN_MESSAGE_BYTES {
            return Err(BatchError::Length(length));
        }
        let magic = bytes[STAMPED_BYTES].cast_signed();
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Truncated { have: bytes.len(), want: HEADER_BYTES });
        }
        let header = Self::read(bytes);
        header.check()?;
        Ok(header)
    }

    fn read(mut bytes: &[u8]) -> Self {
        Self {
            base_offset: bytes.get_i64(),
            batch_length: bytes.get_i32(),
            leader_epoch: bytes.get_i32(),
            magic: bytes.get_i8(),
            crc: bytes.get_u32(),
            attributes: bytes.get_i16(),
            last_offset_delta: bytes.get_i32(),
            base_timestamp: bytes.get_i64(),
            max_timestamp: bytes.get_i64(),
            producer_id: bytes.get_i64(),
            producer_epoch: bytes.get_i16(),
            base_sequence: bytes.get_i32(),
            record_count: bytes.get_i32(),
        }
    }

    fn check(&self) -> Result<(), BatchError> {
        let length = usize::try_from(self.batch_length)
            .map_err(|_| BatchError::Length(self.batch_length))?;
        if length < HEADER_BYTES - LOG_OVERHEAD_BYTES {
            return Err(BatchError::Length(self.batch_length));
        }
        let bytes = length + LOG_OVERHEAD_BYTES;
        if bytes > caps::MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { bytes, limit: caps::MAX_BATCH_BYTES });
        }
        // Compaction may leave fewer records than offsets, even none, but never more.
        let span = self.offset_count();
        if span < 1 || self.record_count < 0 || i64::from(self.record_count) > span {
            return Err(BatchError::Count { count: self.record_count, span });
        }
        if span > i64::from(caps::MAX_BATCH_RECORDS) {
            return Err(BatchError::TooManyRecords);
        }
        self.compression()?;
        Ok(())
    }

    /// Appends the fixed part as it is on the wire.
    pub(crate) fn write(&self, out: &mut impl BufMut) {
        out.put_i64(self.base_offset);
        out.put_i32(self.batch_length);
        out.put_i32(self.leader_epoch);
        out.put_i8(self.magic);
        out.put_u32(self.crc);
        out.put_i16(self.attributes);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.record_count);
    }

    /// The whole batch's size in bytes.
    pub fn total_bytes(&self) -> usize {
        // `check` has refused negative lengths.
        LOG_OVERHEAD_BYTES + usize::try_from(self.batch_length).unwrap_or(0)
    }

    /// Offsets that the batch takes: at least 1.
    pub fn offset_count(&self) -> i64 {
        i64::from(self.last_offset_delta) + 1
    }

    /// The offset after its last.
    pub fn next_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.offset_count())
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// `Codec` for an unknown id; a header that was read has a known one.
    pub fn compression(&self) -> Result<Compression, BatchError> {
        let id = u8::try_from(self.attributes & COMPRESSION_MASK).expect("three bits fit");
        Compression::from_id(id).ok_or(BatchError::Codec(id))
    }

    /// Whether the broker dated the records: then `max_timestamp` is the time of all.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// The idempotent producer's numbers, if it is one's.
    pub fn sequence(&self) -> Option<Sequence> {
        (self.producer_id >= 0).then_some(Sequence {
            producer_id: self.producer_id,
            epoch: self.producer_epoch,
            first: self.base_sequence,
        })
    }

    /// Whether the batch belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it is a marker that consumers skip.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The same header as of a producer that is in no transaction and has no numbers, with a checksum that no longer fits.
    pub(crate) fn anew(mut self) -> Self {
        self.base_offset = 0;
        self.leader_epoch = -1;
        self.attributes &= !TRANSACTIONAL;
        (self.producer_id, self.producer_epoch, self.base_sequence) = (-1, -1, -1);
        self
    }

    /// The same header for records dated by the broker, with a checksum that no longer fits.
    pub(crate) fn dated(mut self, now_ms: i64) -> Self {
        self.attributes |= LOG_APPEND_TIME;
        self.max_timestamp = now_ms;
        self
    }
}
