//! Makes a batch of records.

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::caps;

use crate::batch::{Batch, seal};
use crate::compression::Compression;
use crate::error::BatchError;
use crate::header::{HEADER_BYTES, Header, LOG_OVERHEAD_BYTES, MAGIC};
use crate::record::Record;
use crate::varint;

/// Bytes that every batch has room for.
const MIN_ROOM: usize = 1024;

/// Gathers records for one batch. Records are laid out as they come; [`Builder::finish`] compresses and seals.
#[derive(Debug, Clone)]
pub struct Builder {
    compression: Compression,
    /// Room for the header, then the records.
    buffer: BytesMut,
    count: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: (i64, i16, i32),
}

impl Builder {
    /// An empty batch.
    pub fn new(compression: Compression) -> Self {
        Self::with_room(compression, 0)
    }

    /// An empty batch with room for about `bytes`, so that it need not grow on the way there. It takes more all the same.
    pub fn with_room(compression: Compression, bytes: usize) -> Self {
        let room = bytes.clamp(MIN_ROOM, caps::MAX_BATCH_BYTES);
        let mut buffer = BytesMut::with_capacity(room);
        buffer.put_bytes(0, HEADER_BYTES);
        Self {
            compression,
            buffer,
            count: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            producer: (-1, -1, -1),
        }
    }

    /// Makes it a batch of an idempotent producer.
    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, header included, before compression.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no record yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one record and returns its place in the batch.
    ///
    /// # Errors
    /// `TooManyRecords` or `TooLarge`, before anything is added: finish this batch and begin another, unless it is
    /// empty.
    pub fn push(&mut self, record: &Record) -> Result<u32, BatchError> {
        if self.count >= caps::MAX_BATCH_RECORDS {
            return Err(BatchError::TooManyRecords);
        }
        let base_timestamp = if self.count == 0 { record.timestamp } else { self.base_timestamp };
        // Timestamps are the caller's: any two must do.
        let timestamp_delta = record.timestamp.wrapping_sub(base_timestamp);
        let body = body_bytes(record, timestamp_delta, self.count);
        let bytes = self.buffer.len() + body + 5;
        if bytes > caps::MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { bytes, limit: caps::MAX_BATCH_BYTES });
        }
        self.buffer.reserve(body + 5);
        varint::put_i64(&mut self.buffer, body as i64);
        put_body(&mut self.buffer, record, timestamp_delta, self.count);
        if self.count == 0 {
            self.base_timestamp = record.timestamp;
            self.max_timestamp = record.timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(record.timestamp);
        self.count += 1;
        Ok(self.count - 1)
    }

    /// The finished batch, at base offset 0.
    ///
    /// # Errors
    /// `Count` when there is no record; `TooLarge` when compression made it larger than the limit.
    pub fn finish(self) -> Result<Batch, BatchError> {
        let Self { compression, mut buffer, count, base_timestamp, max_timestamp, producer } = self;
        if count == 0 {
            return Err(BatchError::Count { count: 0, span: 0 });
        }
        if compression != Compression::None {
            let records = buffer.split_off(HEADER_BYTES);
            compression.compress(&records, &mut buffer);
        }
        let bytes = buffer.len();
        if bytes > caps::MAX_BATCH_BYTES {
            return Err(BatchError::TooLarge { bytes, limit: caps::MAX_BATCH_BYTES });
        }
        let count = i32::try_from(count).expect("within MAX_BATCH_RECORDS");
        let mut header = Header {
            base_offset: 0,
            batch_length: i32::try_from(bytes - LOG_OVERHEAD_BYTES)
                .expect("within MAX_BATCH_BYTES"),
            leader_epoch: -1,
            magic: MAGIC,
            crc: 0,
            attributes: i16::from(compression.id()),
            last_offset_delta: count - 1,
            base_timestamp,
            max_timestamp,
            producer_id: producer.0,
            producer_epoch: producer.1,
            base_sequence: producer.2,
            record_count: count,
        };
        header.write(&mut &mut buffer[..HEADER_BYTES]);
        header.crc = seal(&mut buffer);
        Ok(Batch::built(header, buffer.freeze()))
    }
}

/// One batch of `records`, at base offset 0.
///
/// # Errors
/// `Count` without records; `TooManyRecords` or `TooLarge` above the limits.
pub fn encode(records: &[Record], compression: Compression) -> Result<Batch, BatchError> {
    let mut builder = Builder::new(compression);
    for record in records {
        builder.push(record)?;
    }
    builder.finish()
}

fn part_bytes(part: Option<&Bytes>) -> usize {
    part.map_or(1, |bytes| varint::len_i64(bytes.len() as i64) + bytes.len())
}

fn body_bytes(record: &Record, timestamp_delta: i64, place: u32) -> usize {
    let headers: usize = record
        .headers
        .iter()
        .map(|(key, value)| {
            varint::len_i64(key.len() as i64) + key.len() + part_bytes(value.as_ref())
        })
        .sum();
    1 + varint::len_i64(timestamp_delta)
        + varint::len_i64(i64::from(place))
        + part_bytes(record.key.as_ref())
        + part_bytes(record.value.as_ref())
        + varint::len_i64(record.headers.len() as i64)
        + headers
}

fn put_part(out: &mut BytesMut, part: Option<&[u8]>) {
    match part {
        None => varint::put_i32(out, -1),
        Some(bytes) => {
            varint::put_i64(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

fn put_body(out: &mut BytesMut, record: &Record, timestamp_delta: i64, place: u32) {
    out.put_i8(0);
    varint::put_i64(out, timestamp_delta);
    varint::put_i64(out, i64::from(place));
    put_part(out, record.key.as_deref());
    put_part(out, record.value.as_deref());
    varint::put_i64(out, record.headers.len() as i64);
    for (key, value) in &record.headers {
        put_part(out, Some(key.as_bytes()));
        put_part(out, value.as_deref());
    }
}
