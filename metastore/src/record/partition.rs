//! `partitions/<topic id>/<p>/term`, `…/log-start` and `segments/<topic id>/<p>/<seq>`: a partition as its owner keeps it.

use bytes::Bytes;
use geminga_proto::ids::{BrokerId, LedgerId, Offset, Term};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// Who opened the partition last. Changes only with the owner; absent = term 0, never opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionTerm {
    /// Only rises.
    pub term: Term,
    /// `None` = deleted topic.
    pub broker: Option<BrokerId>,
}

impl PartitionTerm {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let broker = self.broker.map_or(-1, |broker| broker.0);
        wire::TermRecord { format: FORMAT, term: self.term.0, broker }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid term.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::TermRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let broker = (record.broker >= 0).then_some(BrokerId(record.broker));
        Ok(Self { term: Term(record.term), broker })
    }
}

/// `moves/<topic id>/<p>`: that a partition is to have another owner, as the coordinator is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Who is to own it.
    pub to: BrokerId,
    /// Milliseconds since the Unix epoch.
    pub asked_ms: i64,
}

impl Move {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record =
            wire::MoveRecord { format: FORMAT, to_broker: self.to.0, asked_ms: self.asked_ms };
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
            wire::MoveRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.to_broker < 0 {
            return Err(Invalid::field("to_broker", format!("{} is negative", record.to_broker)));
        }
        Ok(Self { to: BrokerId(record.to_broker), asked_ms: record.asked_ms })
    }
}

/// The first offset that a partition still has; only rises. Absent = 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogStart {
    /// Never negative.
    pub offset: Offset,
}

impl LogStart {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        wire::LogStartRecord { format: FORMAT, offset: self.offset.0 }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid log start.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::LogStartRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.offset < 0 {
            return Err(Invalid::field("offset", format!("{} is negative", record.offset)));
        }
        Ok(Self { offset: Offset(record.offset) })
    }
}

/// One ledger's part of a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The ledger.
    pub ledger: LedgerId,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Term of the owner that created it.
    pub term: Term,
    /// Offset after its last record, once closed. A cache: the truth is in the ledger's last entry.
    pub end_offset: Option<Offset>,
    /// Largest record timestamp, once closed, milliseconds. A cache likewise.
    pub max_timestamp: Option<i64>,
    /// Bytes of its payloads, once closed. A cache of the ledger's length.
    pub bytes: Option<u64>,
}

impl Segment {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::SegmentRecord {
            format: FORMAT,
            ledger_id: self.ledger.0,
            base_offset: self.base_offset.0,
            term: self.term.0,
            end_offset: self.end_offset.map(|end| end.0),
            max_timestamp: self.max_timestamp,
            bytes: self.bytes,
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid segment.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::SegmentRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.base_offset < 0 {
            return Err(Invalid::field(
                "base_offset",
                format!("{} is negative", record.base_offset),
            ));
        }
        Ok(Self {
            ledger: LedgerId(record.ledger_id),
            base_offset: Offset(record.base_offset),
            term: Term(record.term),
            end_offset: record.end_offset.map(Offset),
            max_timestamp: record.max_timestamp,
            bytes: record.bytes,
        })
    }
}
