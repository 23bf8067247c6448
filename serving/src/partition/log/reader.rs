//! Reading what is committed: recent entries from memory, older ones from ledgers.

use std::convert::Infallible;

use geminga_proto::ids::Offset;
use tokio::sync::watch;

use super::{Ends, ReadEntry};

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {asked} is not in {}..={}", .ends.log_start, .ends.high_watermark)]
    OutOfRange {
        /// Asked for.
        asked: Offset,
        /// What can be read.
        ends: Ends,
    },
    /// No replica can deliver it now; try again.
    #[error("records cannot be read now: {0}")]
    Unavailable(String),
    /// Committed entries that no replica has, or that do not decode (RD3).
    #[error("stored records are damaged: {0}")]
    Damaged(String),
}

/// Reads one opening's log. Cheap to clone; stays readable after the opening ended, up to what was committed then.
#[derive(Debug, Clone)]
pub struct LogReader(Infallible);

impl LogReader {
    /// The ends of what can be read.
    pub fn ends(&self) -> Ends {
        match self.0 {}
    }

    /// Follows the high watermark (P1).
    pub fn watch(&self) -> watch::Receiver<Offset> {
        match self.0 {}
    }

    /// Whole Batches entries from the one that contains `from`, about `max_bytes` of payload: at least one below the high
    /// watermark, none at it. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        _from: Offset,
        _max_bytes: usize,
    ) -> Result<Vec<ReadEntry>, ReadError> {
        match self.0 {}
    }

    /// The first Batches entry with a record of `timestamp_ms` or later. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn by_time(&self, _timestamp_ms: i64) -> Result<Option<ReadEntry>, ReadError> {
        match self.0 {}
    }
}
