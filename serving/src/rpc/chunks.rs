//! What one read of a partition brought, cut into pieces for the client. A piece is not larger than the room there is, but
//! for a single batch, or record, that is larger by itself. Batches are taken apart one at a time, when their records are
//! to be sent: a small batch may decompress to a large one, and one read may bring many of them.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use geminga_proto::caps;
use geminga_proto::v1;
use geminga_proto::v1::partition_data::Data;
use geminga_records::{Batch, BatchError, decode};

use crate::router::Read;

/// Largest piece that is not a single batch or record: well below what clients take as one message.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Most bytes that one batch may inflate to.
const INFLATED_BYTES: usize = 4 * caps::MAX_BATCH_BYTES;

/// One piece.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chunk {
    /// The records, as the client wants them.
    pub(super) data: Data,
    /// What they cost.
    pub(super) bytes: usize,
    /// Where the next piece begins.
    pub(super) next_offset: i64,
}

/// What was read and not yet sent.
#[derive(Debug)]
pub(super) struct Chunks {
    format: v1::Format,
    /// Records before it are left out of the first batch.
    from: i64,
    batches: VecDeque<Bytes>,
    /// Of the batch that was taken apart last, with what each costs.
    records: VecDeque<(v1::Record, usize)>,
    /// End of that batch.
    records_end: i64,
    next_offset: i64,
    pub(super) high_watermark: i64,
    pub(super) log_start: i64,
}

impl Chunks {
    /// What was read for a reader that stands at `from`.
    pub(super) fn new(read: Read, from: i64, format: v1::Format) -> Self {
        Self {
            format,
            from,
            batches: read.batches.into(),
            records: VecDeque::new(),
            records_end: from,
            next_offset: read.next_offset.0,
            high_watermark: read.high_watermark.0,
            log_start: read.log_start.0,
        }
    }

    /// Where the reader stands once all of it is sent.
    pub(super) fn end(&self) -> i64 {
        self.next_offset
    }

    /// Whether all of it is sent.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.records.is_empty()
    }

    /// Whether a batch is half sent: the next piece costs no decoding.
    pub(super) fn is_open(&self) -> bool {
        !self.records.is_empty()
    }

    /// The next piece; `None` when there was nothing for the reader in the rest.
    ///
    /// # Errors
    /// A stored batch that cannot be taken apart.
    pub(super) fn next(&mut self, room: usize) -> Result<Option<Chunk>, BatchError> {
        let room = room.min(CHUNK_BYTES);
        match self.format {
            v1::Format::Records => self.next_records(room),
            v1::Format::Batches => self.next_batches(room),
        }
    }

    fn next_batches(&mut self, room: usize) -> Result<Option<Chunk>, BatchError> {
        let Some(first) = self.batches.pop_front() else { return Ok(None) };
        let (mut bytes, mut end) = (first.len(), end_of(&first)?);
        let mut taken = vec![first];
        while let Some(next) = self.batches.pop_front_if(|next| bytes + next.len() <= room) {
            (bytes, end) = (bytes + next.len(), end_of(&next)?);
            taken.push(next);
        }
        let data = match taken.as_slice() {
            [one] => one.clone(),
            many => {
                let mut all = BytesMut::with_capacity(bytes);
                many.iter().for_each(|batch| all.extend_from_slice(batch));
                all.freeze()
            }
        };
        let next_offset = if self.is_empty() { self.next_offset } else { end };
        Ok(Some(Chunk { data: Data::Batches(data), bytes, next_offset }))
    }

    fn next_records(&mut self, room: usize) -> Result<Option<Chunk>, BatchError> {
        let (mut bytes, mut records) = (0, Vec::new());
        loop {
            if self.records.is_empty() && !self.open_batch()? {
                break;
            }
            let fits = |(_, cost): &mut (v1::Record, usize)| bytes + *cost <= room;
            let next = if records.is_empty() {
                self.records.pop_front()
            } else {
                self.records.pop_front_if(fits)
            };
            let Some((record, cost)) = next else { break };
            bytes += cost;
            records.push(record);
        }
        let Some(last) = records.last() else { return Ok(None) };
        let next_offset = match (self.records.is_empty(), self.batches.is_empty()) {
            (false, _) => last.offset + 1,
            (true, false) => self.records_end,
            (true, true) => self.next_offset,
        };
        Ok(Some(Chunk { data: Data::Records(v1::Records { records }), bytes, next_offset }))
    }

    /// Takes batches apart until one has a record for the reader; false when none has.
    fn open_batch(&mut self) -> Result<bool, BatchError> {
        while let Some(bytes) = self.batches.pop_front() {
            let batch = Batch::parse_stored(bytes)?;
            self.records_end = batch.header().next_offset();
            if batch.header().is_control() {
                continue;
            }
            let from = self.from;
            let records = decode(&batch, INFLATED_BYTES)?.into_iter().filter(|r| r.offset >= from);
            self.records = records.map(|record| costed(record.into())).collect();
            if !self.records.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn end_of(batch: &Bytes) -> Result<i64, BatchError> {
    Ok(Batch::parse_stored(batch.clone())?.header().next_offset())
}

/// A record with what it adds to the encoded `Records`: clients count these bytes when they grant credit anew.
fn costed(record: v1::Record) -> (v1::Record, usize) {
    let cost = prost::encoding::message::encoded_len(1, &record);
    (record, cost)
}

#[cfg(test)]
mod tests;
