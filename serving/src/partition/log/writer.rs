//! Appending to an open log. Owned by one task.

use std::convert::Infallible;

use bytes::Bytes;
use geminga_proto::ids::Offset;

use super::{AppendError, Appended, Event, What};

/// The one writer of an open log. Dropping it gives the log up without sealing anything.
#[derive(Debug)]
pub struct LogWriter(Infallible);

impl LogWriter {
    /// What the next Batches append gets (P1: assigned, not reported).
    pub fn next_offset(&self) -> Offset {
        match self.0 {}
    }

    /// Whether `bytes` more may be appended within the bound on unacknowledged bytes; a payload above the whole
    /// bound goes alone. Changes only by [`LogWriter::event`], so an owner waits for room by waiting for events.
    pub fn has_room(&self, _bytes: usize) -> bool {
        match self.0 {}
    }

    /// Whether appends are on their way to storage. While false (too few bookies, or no metadata for a new ledger), take no new
    /// work: it would wait until storage is back. Changes only by [`LogWriter::event`].
    pub fn is_writable(&self) -> bool {
        match self.0 {}
    }

    /// Takes the next place in the log at once. Never waits and never refuses for want of room: see
    /// [`LogWriter::has_room`]. The parts of `payload` are laid end to end.
    ///
    /// # Errors
    /// [`AppendError`].
    pub fn append(&mut self, _what: What, _payload: Vec<Bytes>) -> Result<Appended, AppendError> {
        match self.0 {}
    }

    /// The next event; the log makes progress only while this is awaited. Cancel-safe. After [`Event::Lost`] it pends for ever.
    pub async fn event(&mut self) -> Event {
        match self.0 {}
    }
}
