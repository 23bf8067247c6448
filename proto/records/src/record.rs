//! Records: what lies inside a batch.
//!
//! ```text
//! varint length | i8 attributes | varlong timestamp delta | varint offset delta
//! varint key length, key | varint value length, value | varint headers { varint key length, key, varint value length, value }
//! ```

use bytes::{Buf, Bytes};
use geminga_proto::v1;

use crate::batch::Batch;
use crate::compression::Compression;
use crate::error::BatchError;
use crate::header::Header;
use crate::varint;

/// Fewest bytes that a record takes: seven numbers of one byte.
const MIN_RECORD_BYTES: usize = 7;
/// Most headers of a record that [`Records`] gives: one may take two bytes, and much more than that once it is read.
pub(crate) const MAX_HEADERS: usize = 10_000;

/// One record. Its parts share the buffer they were decoded from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Its place in the partition; ignored when a batch is built.
    pub offset: i64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says; `None` deletes the key where topics are compacted.
    pub value: Option<Bytes>,
    /// Names and values beside it, in order; a name may repeat. Names that are not UTF-8 are read with
    /// replacement characters, so that one careless writer does not make a log unreadable.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl From<v1::Record> for Record {
    fn from(record: v1::Record) -> Self {
        Self {
            offset: record.offset,
            timestamp: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(|h| (h.key, h.value)).collect(),
        }
    }
}

impl From<Record> for v1::Record {
    fn from(record: Record) -> Self {
        let header = |(key, value)| v1::Header { key, value };
        Self {
            key: record.key,
            value: record.value,
            timestamp_ms: record.timestamp,
            headers: record.headers.into_iter().map(header).collect(),
            offset: record.offset,
        }
    }
}

/// All records of `batch`, control records included, when they take at most `limit_bytes` decompressed.
///
/// # Errors
/// `Inflated` above the limit, `Decompress` or `Records` when they are not what the header says.
pub fn decode(batch: &Batch, limit_bytes: usize) -> Result<Vec<Record>, BatchError> {
    let header = batch.header();
    let records = header.compression()?.decompress(batch.records(), limit_bytes)?;
    // The count is the sender's word: room only for what the bytes can hold.
    let possible = records.len() / MIN_RECORD_BYTES;
    let count = usize::try_from(header.record_count).unwrap_or(0);
    let mut out = Vec::with_capacity(count.min(possible));
    for record in (Walk { keeps_headers: Some(usize::MAX), ..Walk::new(header, records) }) {
        out.push(record?.into());
    }
    Ok(out)
}

/// The records of a batch one after the other, control records included: of what they are made only one at a time takes memory, beside
/// the decompressed bytes that all of them share. After an error there is none any more.
#[derive(Debug)]
pub struct Records {
    walk: Walk<Bytes>,
    bytes: usize,
}

impl Records {
    /// Those of `batch`, when they take at most `limit_bytes` decompressed. While it runs, decompression may take as much again.
    ///
    /// # Errors
    /// `Inflated` above the limit, `Decompress` when the codec refuses them.
    pub fn open(batch: &Batch, limit_bytes: usize) -> Result<Self, BatchError> {
        let header = batch.header();
        let records = header.compression()?.decompress(batch.records(), limit_bytes)?;
        let bytes = records.len();
        let walk = Walk { keeps_headers: Some(MAX_HEADERS), ..Walk::new(header, records) };
        Ok(Self { walk, bytes })
    }

    /// How long all of them are, decompressed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.walk.next()?.map(Record::from))
    }
}

/// Offset and timestamp of the first record at or after `timestamp_ms`, when the records take at most `limit_bytes`
/// decompressed. Takes that much memory and no more, and the time to decompress them.
///
/// # Errors
/// As [`decode`]; what is wrong after the record is not looked at.
pub fn find_since(
    batch: &Batch,
    timestamp_ms: i64,
    limit_bytes: usize,
) -> Result<Option<(i64, i64)>, BatchError> {
    let header = batch.header();
    let records = header.compression()?.decompress(batch.records(), limit_bytes)?;
    for record in Walk::new(header, &records[..]) {
        let record = record?;
        if record.timestamp >= timestamp_ms {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

/// What is seen of a record that stays in its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glance {
    /// Its place in the batch, from 0.
    pub place: u32,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Whether it has a key; an empty one is one.
    pub has_key: bool,
}

/// Goes through all records of `batch`, when those that are compressed take at most `limit_bytes` decompressed, and checks that they
/// fill it as its header says. Plain ones cost no memory; others as much as they take, and the time to decompress them.
///
/// # Errors
/// As [`decode`]. What was seen until then was seen.
pub fn look_through(
    batch: &Batch,
    limit_bytes: usize,
    mut see: impl FnMut(Glance),
) -> Result<(), BatchError> {
    let header = batch.header();
    let records = match header.compression()? {
        Compression::None => batch.records(),
        codec => codec.decompress(batch.records(), limit_bytes)?,
    };
    for (place, record) in (0..).zip(Walk::new(header, &records[..])) {
        let record = record?;
        see(Glance { place, timestamp: record.timestamp, has_key: record.key.is_some() });
    }
    Ok(())
}

/// Bytes that records are taken from: owned ones share their buffer with the records, borrowed ones cost nothing.
pub(crate) trait Source: Buf + Default {
    /// Takes the first `len` bytes, which are there.
    fn cut(&mut self, len: usize) -> Self;
}

impl Source for Bytes {
    fn cut(&mut self, len: usize) -> Self {
        self.split_to(len)
    }
}

impl Source for &[u8] {
    fn cut(&mut self, len: usize) -> Self {
        let (head, rest) = self.split_at(len);
        *self = rest;
        head
    }
}

/// A record as it lies in a batch.
pub(crate) struct Raw<B> {
    offset: i64,
    timestamp: i64,
    key: Option<B>,
    value: Option<B>,
    headers: Vec<(B, Option<B>)>,
}

#[cfg(test)]
impl<B> Raw<B> {
    /// Room for so many headers was made.
    pub(crate) fn kept_headers(&self) -> usize {
        self.headers.capacity()
    }
}

impl From<Raw<Bytes>> for Record {
    fn from(raw: Raw<Bytes>) -> Self {
        let name = |name: Bytes| String::from_utf8_lossy(&name).into_owned();
        Self {
            offset: raw.offset,
            timestamp: raw.timestamp,
            key: raw.key,
            value: raw.value,
            headers: raw.headers.into_iter().map(|(key, value)| (name(key), value)).collect(),
        }
    }
}

/// Goes through decompressed records and checks that they fill the batch as its header says.
#[derive(Debug)]
pub(crate) struct Walk<B> {
    header: Header,
    rest: B,
    left: i32,
    last_delta: i32,
    /// Most headers that a record may have, which are kept then; `None`: however many there are, they take no memory.
    keeps_headers: Option<usize>,
}

impl<B: Source> Walk<B> {
    /// Sees all of a record but its headers.
    pub(crate) fn new(header: &Header, records: B) -> Self {
        let left = header.record_count;
        Self { header: *header, rest: records, left, last_delta: -1, keeps_headers: None }
    }

    fn take(&mut self) -> Result<Raw<B>, BatchError> {
        let len = varint::get_len(&mut self.rest)?
            .ok_or(BatchError::Records("a record has a negative length"))?;
        let mut bytes = self.rest.cut(len);
        let (delta, record) = take_record(&self.header, &mut bytes, self.keeps_headers)?;
        if delta <= self.last_delta || delta > self.header.last_offset_delta {
            return Err(BatchError::Records("offsets do not rise within the batch"));
        }
        self.last_delta = delta;
        Ok(record)
    }
}

impl<B: Source> Iterator for Walk<B> {
    type Item = Result<Raw<B>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = std::mem::take(&mut self.rest);
            let more = BatchError::Records("bytes follow the last record");
            return rest.has_remaining().then_some(Err(more));
        }
        self.left -= 1;
        let next = self.take();
        if next.is_err() {
            self.left = 0;
            self.rest = B::default();
        }
        Some(next)
    }
}

fn take_record<B: Source>(
    header: &Header,
    bytes: &mut B,
    keeps_headers: Option<usize>,
) -> Result<(i32, Raw<B>), BatchError> {
    if !bytes.has_remaining() {
        return Err(BatchError::Records("a record is empty"));
    }
    let _attributes = bytes.get_i8();
    let timestamp_delta = varint::get_i64(bytes)?;
    let delta = varint::get_i32(bytes)?;
    let key = take_bytes(bytes)?;
    let value = take_bytes(bytes)?;
    let headers = take_headers(bytes, keeps_headers)?;
    if bytes.has_remaining() {
        return Err(BatchError::Records("a record is longer than its parts"));
    }
    let timestamp = if header.is_log_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.saturating_add(timestamp_delta)
    };
    let offset = header.base_offset.saturating_add(i64::from(delta));
    Ok((delta, Raw { offset, timestamp, key, value, headers }))
}

fn take_bytes<B: Source>(bytes: &mut B) -> Result<Option<B>, BatchError> {
    Ok(varint::get_len(bytes)?.map(|len| bytes.cut(len)))
}

fn take_headers<B: Source>(
    bytes: &mut B,
    keeps: Option<usize>,
) -> Result<Vec<(B, Option<B>)>, BatchError> {
    let count = usize::try_from(varint::get_i32(bytes)?)
        .map_err(|_| BatchError::Records("a negative count of headers"))?;
    // A header takes two bytes at least.
    if count > bytes.remaining() / 2 {
        return Err(BatchError::Records("more headers than bytes for them"));
    }
    if keeps.is_some_and(|most| count > most) {
        return Err(BatchError::TooManyHeaders);
    }
    let mut headers = Vec::with_capacity(keeps.map_or(0, |_| count));
    for _ in 0..count {
        let key = take_bytes(bytes)?.ok_or(BatchError::Records("a header has no name"))?;
        let value = take_bytes(bytes)?;
        if keeps.is_some() {
            headers.push((key, value));
        }
    }
    Ok(headers)
}
