//! Cuts stored entries into the batches that a reader gets: from the batch that contains the offset, whole batches only,
//! up to a number of bytes, the first one always. Pure; the batches are slices of the entries.

use bytes::Bytes;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};

use crate::partition::log::ReadEntry;

/// What one read gathers.
#[derive(Debug)]
pub(crate) struct Cut {
    batches: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
    next: Offset,
    full: bool,
}

impl Cut {
    /// An empty one that begins with the batch that contains `from`.
    pub(crate) fn new(from: Offset, max_bytes: usize) -> Self {
        Self { batches: Vec::new(), bytes: 0, max_bytes, next: from, full: false }
    }

    /// Where to read on: `from` at first, then the offset after the last batch.
    pub(crate) fn next(&self) -> Offset {
        self.next
    }

    /// Whether the next batch does not fit.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Batches so far.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Bytes that still fit; at least 1, so that it can be asked for.
    pub(crate) fn room(&self) -> usize {
        self.max_bytes.saturating_sub(self.bytes).max(1)
    }

    /// The batches, in order.
    pub(crate) fn into_batches(self) -> Vec<Bytes> {
        self.batches
    }

    /// Takes from the entry that contains [`Cut::next`] what fits. Does nothing once full.
    pub(crate) fn take(&mut self, entry: &ReadEntry) -> Result<(), ApiError> {
        if self.full {
            return Ok(());
        }
        // Offsets are dense: anything else would skip or repeat records.
        if !(entry.first_offset..entry.end()).contains(&self.next) {
            let why = format!("it holds {}..{}", entry.first_offset, entry.end());
            return Err(self.damaged(&why));
        }
        for batch in geminga_records::split(entry.payload.clone()) {
            let batch = batch.map_err(|error| self.damaged(&error.to_string()))?;
            let next = Offset(batch.header().next_offset());
            if next <= self.next {
                continue;
            }
            let len = batch.len();
            if !self.batches.is_empty() && self.bytes + len > self.max_bytes {
                self.full = true;
                return Ok(());
            }
            self.bytes += len;
            self.next = next;
            self.batches.push(batch.into_bytes());
        }
        self.full = self.bytes >= self.max_bytes;
        if self.next < entry.end() {
            return Err(self.damaged("its batches end early"));
        }
        Ok(())
    }

    fn damaged(&self, why: &str) -> ApiError {
        let why = format!("stored entry for offset {} cannot be used: {why}", self.next);
        ApiError::new(Reason::DataLoss, why)
    }
}

#[cfg(test)]
mod tests;
