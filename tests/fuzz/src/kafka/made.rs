//! Requests and answers that are made up: another codec, which others wrote from the same schemas, reads one from a source that
//! gives whatever is asked for, and writes what it read. No code of ours had a hand in it.
//!
//! The source cannot tell the length of an array from any other number, so it says small ones mostly. What cannot be a request
//! is refused by that codec while it reads, and another is made.

use bytes::{Buf, Bytes, BytesMut, TryGetError};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

/// Most bytes of one request.
const MOST_BYTES: usize = 16 * 1024;
/// What these requests come back with, and who sends them.
pub(super) const CORRELATION: i32 = 0x0102_0304;
pub(super) const CLIENT: &str = "another";

/// Where the fields of a request come from.
#[derive(Debug)]
pub(super) struct Source<'a> {
    /// What is chosen by. Without any more of them every array has one element and every text one letter.
    choices: &'a [u8],
    left: usize,
    /// A number goes on in the next byte; not in a third, or an array would be longer than memory.
    goes_on: bool,
}

impl<'a> Source<'a> {
    /// No choices: one of everything.
    pub(super) fn of(choices: &'a [u8]) -> Self {
        Self { choices, left: MOST_BYTES, goes_on: false }
    }

    /// The next choice; 0 where there are no more.
    fn choose(&mut self) -> u8 {
        let Some((choice, rest)) = self.choices.split_first() else { return 0 };
        self.choices = rest;
        *choice
    }

    fn bits(&mut self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|_| self.choose()))
    }

    fn take(&mut self, requested: usize) -> Result<(), TryGetError> {
        let available = self.left;
        self.left = available.checked_sub(requested).ok_or(TryGetError { requested, available })?;
        Ok(())
    }

    /// Of a number that may be a length: a small one, or `null`, or now and then whatever `odd` makes of 64 bits.
    fn small(&mut self, null: i64, odd: impl Fn(u64) -> i64) -> i64 {
        match self.choose() {
            0..150 => 1,
            150..205 => 2,
            205..222 => 0,
            222..233 => null,
            _ => odd(self.bits()),
        }
    }

    fn letter(&mut self) -> u8 {
        b'a' + self.choose() % 26
    }
}

/// The lowest bits.
fn narrow(bits: u64) -> u8 {
    bits.to_le_bytes()[0]
}

impl Buf for Source<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        &b"aaaaaaaa"[..self.left.min(8)]
    }

    fn advance(&mut self, count: usize) {
        self.left -= count;
    }

    fn try_copy_to_slice(&mut self, to: &mut [u8]) -> Result<(), TryGetError> {
        self.take(to.len())?;
        to.fill_with(|| self.letter());
        Ok(())
    }

    /// A truth, or a part of a number: compact lengths are one more than what they say.
    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        self.take(1)?;
        let said = self.small(-1, |bits| i64::from(narrow(bits))) + 1;
        let said = narrow(said.cast_unsigned());
        let byte = if self.goes_on { said & 0x7f } else { said };
        self.goes_on = byte >= 0x80;
        Ok(byte)
    }

    fn try_get_i8(&mut self) -> Result<i8, TryGetError> {
        self.take(1)?;
        Ok(narrow(self.small(-1, u64::cast_signed).cast_unsigned()).cast_signed())
    }

    fn try_get_i16(&mut self) -> Result<i16, TryGetError> {
        self.take(2)?;
        Ok(self.small(-1, u64::cast_signed) as i16)
    }

    /// None that is high: memory is taken for an array before its elements are there.
    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        self.take(4)?;
        Ok(self.small(-1, |bits| (bits as i32).min((bits % 1000) as i32).into()) as i32)
    }

    fn try_get_i64(&mut self) -> Result<i64, TryGetError> {
        self.take(8)?;
        Ok(self.bits().cast_signed())
    }
}

impl ByteBuf for Source<'_> {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        vec![b'a'; range.len()].into()
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        let mut bytes = vec![0; size];
        self.copy_to_slice(&mut bytes);
        bytes.into()
    }
}

/// A frame without its length, and where its body begins.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) frame: Bytes,
    pub(super) head: usize,
    /// As the other codec shows it.
    pub(super) shown: String,
}

/// A request of the other codec; none where the source gave what cannot be one.
pub(super) fn make<M>(key: i16, version: i16, source: Source<'_>) -> Option<Made>
where
    M: Decodable + Encodable + HeaderVersion + std::fmt::Debug,
{
    let mut frame = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(key)
        .with_request_api_version(version)
        .with_correlation_id(CORRELATION)
        .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
    header.encode(&mut frame, M::header_version(version)).expect("a header");
    write::<M>(version, source, frame)
}

/// The body of an answer of the other codec; none where the source gave what cannot be one.
#[cfg(test)]
pub(super) fn answer<M>(version: i16, source: Source<'_>) -> Option<Made>
where
    M: Decodable + Encodable + std::fmt::Debug,
{
    write::<M>(version, source, BytesMut::new())
}

/// Reads a message from the source and writes it behind what is there.
fn write<M>(version: i16, mut source: Source<'_>, mut frame: BytesMut) -> Option<Made>
where
    M: Decodable + Encodable + std::fmt::Debug,
{
    let message = M::decode(&mut source, version).ok()?;
    let head = frame.len();
    // What was said twice, such as a tag, is there once then; what cannot be said is no message.
    message.encode(&mut frame, version).ok()?;
    Some(Made { frame: frame.freeze(), head, shown: format!("{message:?}") })
}
