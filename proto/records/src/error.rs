//! Why bytes are not a batch that can be taken. [`BatchError::kind`] is what callers branch on.

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};

/// What a [`BatchError`] means for the request that carried the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Damaged on its way: the sender's own copy may be good.
    Corrupt,
    /// Well-formed, but not allowed.
    Invalid,
    /// Above a limit.
    TooLarge,
    /// A format or codec that is not read here.
    Unsupported,
}

/// Why bytes are not a batch that can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says it has.
    #[error("record batch is cut short: {have} bytes of {want}")]
    Truncated {
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        want: usize,
    },
    /// Bytes after the end of the one batch that was expected.
    #[error("{0} bytes follow the record batch: send exactly one batch")]
    Trailing(usize),
    /// A length that no batch has.
    #[error("record batch says it is {0} bytes long")]
    Length(i32),
    /// An old or future format.
    #[error("record batch has format {0}: only format 2 is served")]
    Magic(i8),
    /// The bytes are not what their writer checksummed.
    #[error("record batch does not match its checksum")]
    Checksum,
    /// No records, or a count that its offsets contradict.
    #[error("record batch counts {count} records but its offsets span {span}")]
    Count {
        /// Records, as the header says.
        count: i32,
        /// Offsets, as the header says.
        span: i64,
    },
    /// A codec id without a codec.
    #[error("record batch is compressed with unknown codec {0}")]
    Codec(u8),
    /// Records that do not fill the batch as its header says.
    #[error("records do not add up: {0}")]
    Records(&'static str),
    /// The codec refuses the bytes.
    #[error("records cannot be decompressed: {0}")]
    Decompress(String),
    /// Something that only a broker writes.
    #[error("record batch is not a client's: {0}")]
    NotProducible(&'static str),
    /// A date that only a broker gives.
    #[error("record batch is not a client's: its timestamp type must be CreateTime")]
    Dated,
    /// The batch itself above the limit.
    #[error("record batch of {bytes} bytes is above the limit of {limit}: send smaller batches")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// Most that is taken.
        limit: usize,
    },
    /// Too many records in one batch.
    #[error("record batch of more than {max} records: send smaller batches", max = caps::MAX_BATCH_RECORDS)]
    TooManyRecords,
    /// More headers of one record than [`Records`](crate::Records) gives.
    #[error("a record has more than {max} headers: take the batch as it is", max = crate::record::MAX_HEADERS)]
    TooManyHeaders,
    /// What it decompresses to is above the limit.
    #[error("records decompress to more than {0} bytes: send smaller batches")]
    Inflated(usize),
}

impl BatchError {
    /// What it means for the request.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Truncated { .. } | Self::Length(_) | Self::Checksum | Self::Decompress(_) => {
                Kind::Corrupt
            }
            Self::Trailing(_)
            | Self::Count { .. }
            | Self::Records(_)
            | Self::NotProducible(_)
            | Self::Dated => Kind::Invalid,
            Self::TooLarge { .. }
            | Self::TooManyRecords
            | Self::TooManyHeaders
            | Self::Inflated(_) => Kind::TooLarge,
            Self::Magic(_) | Self::Codec(_) => Kind::Unsupported,
        }
    }

    /// The public API's reason for it. A format that is not served is the sender's mistake, so `INVALID_RECORD`.
    pub fn reason(&self) -> Reason {
        match (self, self.kind()) {
            (Self::Dated, _) => Reason::InvalidTimestamp,
            (_, Kind::Corrupt) => Reason::CorruptBatch,
            (_, Kind::Invalid | Kind::Unsupported) => Reason::InvalidRecord,
            (_, Kind::TooLarge) => Reason::MessageTooLarge,
        }
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
