//! One record batch as bytes, shared and never changed: what is stored is what the client sent.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use geminga_proto::checksum;

use crate::compression::Compression;
use crate::error::BatchError;
use crate::header::{CRC_AT, CRC_FROM, HEADER_BYTES, Header, PRODUCER_AT, STAMPED_BYTES};
use crate::producer::Sequence;

/// Exactly one record batch whose lengths and counts are consistent. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// Takes `bytes` as exactly one batch of at least one record and verifies its checksum.
    ///
    /// # Errors
    /// Anything of [`BatchError`] that concerns lengths, counts, format and checksum.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = Self::parse_stored(bytes)?;
        let header = &batch.header;
        if i64::from(header.record_count) != header.offset_count() {
            return Err(BatchError::Count {
                count: header.record_count,
                span: header.offset_count(),
            });
        }
        if crc32c::crc32c(&batch.bytes[CRC_FROM..]) != header.crc {
            return Err(BatchError::Checksum);
        }
        Ok(batch)
    }

    /// Takes `bytes` as exactly one batch without computing its checksum: for bytes that another digest covers,
    /// such as a ledger entry's.
    ///
    /// # Errors
    /// Anything of [`BatchError`] that concerns lengths, counts and format.
    pub fn parse_stored(bytes: Bytes) -> Result<Self, BatchError> {
        let header = Header::peek(&bytes)?;
        let want = header.total_bytes();
        if bytes.len() < want {
            return Err(BatchError::Truncated { have: bytes.len(), want });
        }
        if bytes.len() > want {
            return Err(BatchError::Trailing(bytes.len() - want));
        }
        Ok(Self { header, bytes })
    }

    pub(crate) fn built(header: Header, bytes: Bytes) -> Self {
        debug_assert_eq!(header.total_bytes(), bytes.len());
        Self { header, bytes }
    }

    /// Checks what the header of a client's batch may not say: a base offset, a control marker, a date of the broker's, half an
    /// idempotent producer's state. What is in it, [`crate::look_through`] sees.
    ///
    /// # Errors
    /// `NotProducible`, `Dated`.
    pub fn check_produced(&self) -> Result<(), BatchError> {
        let header = &self.header;
        let refused = if header.base_offset != 0 {
            Some("its base offset must be 0")
        } else if header.is_control() {
            Some("control batches are written by brokers only")
        } else if header.is_log_append_time() {
            return Err(BatchError::Dated);
        } else if header.producer_id >= 0 && (header.base_sequence < 0 || header.producer_epoch < 0)
        {
            Some("a producer id needs an epoch and a sequence number")
        } else {
            None
        };
        if let Some(what) = refused {
            return Err(BatchError::NotProducible(what));
        }
        Ok(())
    }

    /// Whether its records lie in it as they are.
    pub fn is_plain(&self) -> bool {
        self.header.compression().is_ok_and(|kind| kind == Compression::None)
    }

    /// Its fixed part.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its size in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The whole batch.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The whole batch.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The same batch in a buffer of its own, apart from whatever larger message it came in: for one that waits. One copy.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { header: self.header, bytes: Bytes::copy_from_slice(&self.bytes) }
    }

    /// The records as they are: compressed, if they are.
    pub(crate) fn records(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    /// The same batch at `base_offset`, written by the owner of term `leader_epoch`: a fresh head and the shared
    /// rest, to be laid end to end. No byte under the checksum changes, none is copied.
    pub fn stamp(&self, base_offset: i64, leader_epoch: i32) -> [Bytes; 2] {
        let mut head = BytesMut::with_capacity(STAMPED_BYTES);
        head.put_i64(base_offset);
        head.put_i32(self.header.batch_length);
        head.put_i32(leader_epoch);
        [head.freeze(), self.bytes.slice(STAMPED_BYTES..)]
    }

    /// CRC-32C of the second part of [`Batch::stamp`], as it follows from the batch's own.
    pub fn shared_checksum(&self) -> u32 {
        let (own, covered) = self.bytes[STAMPED_BYTES..].split_at(CRC_FROM - STAMPED_BYTES);
        checksum::join(checksum::append(0, own), self.header.crc, covered.len())
    }

    /// Whether its records are what its checksum says.
    ///
    /// # Errors
    /// `Checksum`.
    pub fn check_sum(&self) -> Result<(), BatchError> {
        match crc32c::crc32c(&self.bytes[CRC_FROM..]) == self.header.crc {
            true => Ok(()),
            false => Err(BatchError::Checksum),
        }
    }

    /// The same records in a buffer of their own, as a producer sends them that is in no transaction and has no numbers: at base
    /// offset 0, written by no owner yet. The new checksum follows from the old one, so that records are not read.
    #[must_use]
    pub fn anew(&self) -> Self {
        self.under(self.header.anew())
    }

    /// The same records in a buffer of their own, under a header that says their largest timestamp right, milliseconds; the new
    /// checksum as with [`Batch::anew`].
    #[must_use]
    pub fn with_max_timestamp(&self, max_timestamp: i64) -> Self {
        self.under(Header { max_timestamp, ..self.header })
    }

    /// The same records under another header, whose checksum follows from the old one.
    fn under(&self, mut header: Header) -> Self {
        let covered = self.bytes.len() - CRC_FROM;
        let rest = covered - (HEADER_BYTES - CRC_FROM);
        let head = |bytes: &[u8]| checksum::append(0, &bytes[CRC_FROM..HEADER_BYTES]);
        let records = checksum::join(head(&self.bytes), self.header.crc, rest);
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        header.write(&mut bytes);
        header.crc = checksum::join(head(&bytes), records, rest);
        bytes[CRC_AT..CRC_FROM].copy_from_slice(&header.crc.to_be_bytes());
        bytes.extend_from_slice(&self.bytes[HEADER_BYTES..]);
        Self { header, bytes: bytes.freeze() }
    }

    /// Makes it one of an idempotent producer. Changes the bytes where they are when nobody else holds them, else a copy; the
    /// new checksum follows from the old one, so that records are not read.
    pub fn set_sequence(&mut self, sequence: Sequence) {
        let covered = self.bytes.len() - CRC_FROM;
        let head = |bytes: &[u8]| checksum::append(0, &bytes[CRC_FROM..HEADER_BYTES]);
        let rest = covered - (HEADER_BYTES - CRC_FROM);
        // What the checksum of the records alone is.
        let records = checksum::join(head(&self.bytes), self.header.crc, rest);
        let bytes = std::mem::take(&mut self.bytes);
        let mut bytes = bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
        let mut at = &mut bytes[PRODUCER_AT..];
        at.put_i64(sequence.producer_id);
        at.put_i16(sequence.epoch);
        at.put_i32(sequence.first);
        let crc = checksum::join(head(&bytes), records, rest);
        bytes[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        self.header.crc = crc;
        self.header.producer_id = sequence.producer_id;
        self.header.producer_epoch = sequence.epoch;
        self.header.base_sequence = sequence.first;
        self.bytes = bytes.freeze();
    }

    /// The same batch dated by the broker (`message.timestamp.type=LogAppendTime`): one copy, a new checksum.
    #[must_use]
    pub fn with_log_append_time(&self, now_ms: i64) -> Self {
        let mut header = self.header.dated(now_ms);
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        header.write(&mut bytes);
        bytes.extend_from_slice(&self.bytes[HEADER_BYTES..]);
        header.crc = seal(&mut bytes);
        Self { header, bytes: bytes.freeze() }
    }
}

/// Computes the checksum of a batch's bytes and puts it into its place.
pub(crate) fn seal(bytes: &mut [u8]) -> u32 {
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[CRC_AT..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    crc
}

/// Batches laid end to end, as in a ledger entry or a fetch reply; see [`Batch::parse_stored`] for what is checked.
/// Ends after the first error. Empty bytes are no batches.
pub fn split(payload: Bytes) -> Split {
    Split { rest: payload }
}

/// See [`split`].
#[derive(Debug, Clone)]
pub struct Split {
    rest: Bytes,
}

impl Iterator for Split {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.rest.has_remaining() {
            return None;
        }
        let next = Header::peek(&self.rest).and_then(|header| {
            let want = header.total_bytes();
            if self.rest.len() < want {
                return Err(BatchError::Truncated { have: self.rest.len(), want });
            }
            Ok(Batch { header, bytes: self.rest.split_to(want) })
        });
        if next.is_err() {
            self.rest.clear();
        }
        Some(next)
    }
}
