//! What an entry is to carry, before it is one: parts of many buffers, and the checksum of them all. In front of its body a
//! payload may have an *index*: what a replay needs to know of the body, so that it need not read that.

use bytes::{Bytes, BytesMut};

use crate::checksum;

/// What an entry is to carry: parts that are laid end to end, and their checksum, so that those which come with one need
/// not be read again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    parts: Vec<Bytes>,
    len: usize,
    crc: u32,
    index_len: usize,
}

impl Payload {
    /// A payload that begins with this index; its body is added behind.
    pub fn with_index(index: Bytes) -> Self {
        let mut payload = Self { index_len: index.len(), ..Self::default() };
        if !index.is_empty() {
            payload.push(index);
        }
        payload
    }

    /// Adds a part.
    pub fn push(&mut self, part: Bytes) {
        let crc = checksum::append(0, &part);
        self.push_known(part, crc);
    }

    /// Adds a part whose CRC-32C is known. A wrong one makes an entry that no bookie takes.
    pub fn push_known(&mut self, part: Bytes, crc: u32) {
        self.crc = checksum::join(self.crc, crc, part.len());
        self.len += part.len();
        self.parts.push(part);
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the index that it begins with.
    pub fn index_len(&self) -> usize {
        self.index_len
    }

    /// CRC-32C of all bytes, from 0.
    pub fn checksum(&self) -> u32 {
        self.crc
    }

    /// Whether the bytes have the checksum that they came with. Reads all of them.
    pub fn is_intact(&self) -> bool {
        let read = |crc, part: &Bytes| checksum::append(crc, part);
        self.parts.iter().fold(0, read) == self.crc
    }

    /// The parts.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// All bytes in one buffer, apart from whatever larger ones the parts were cut from; a single part is kept as it is.
    #[must_use]
    pub fn joined(self) -> Self {
        let Self { len, crc, index_len, .. } = self;
        Self { parts: vec![self.into_bytes()], len, crc, index_len }
    }

    /// [`Payload::joined`], as bytes.
    pub fn into_bytes(mut self) -> Bytes {
        if self.parts.len() == 1 {
            return self.parts.remove(0);
        }
        let mut joined = BytesMut::with_capacity(self.len);
        self.parts.iter().for_each(|part| joined.extend_from_slice(part));
        joined.freeze()
    }

    /// What is behind the index, in one buffer.
    pub fn into_body(self) -> Bytes {
        let index_len = self.index_len;
        let mut bytes = self.into_bytes();
        bytes.split_off(index_len)
    }

    /// The same payload in `copy`, which holds the same bytes.
    #[must_use]
    pub fn copied_to(self, copy: Bytes) -> Self {
        debug_assert_eq!(copy.len(), self.len, "a copy of all parts");
        Self { parts: vec![copy], ..self }
    }
}

impl From<Bytes> for Payload {
    fn from(part: Bytes) -> Self {
        let mut payload = Self::default();
        payload.push(part);
        payload
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(parts: Vec<Bytes>) -> Self {
        let mut payload = Self::default();
        parts.into_iter().for_each(|part| payload.push(part));
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What waits must not keep the message that it came in.
    #[test]
    fn a_joined_payload_holds_no_other_buffer() {
        let message = Bytes::from(vec![7; 1000]);
        let parts = vec![message.slice(10..20), message.slice(500..600)];
        let joined = Payload::from(parts).joined();
        assert_eq!((joined.len(), joined.parts().len()), (110, 1));
        assert_eq!(joined.checksum(), checksum::append(0, &[7; 110]));
        assert!(message.is_unique(), "nobody else holds the message");
        assert_eq!(joined.into_bytes(), vec![7; 110]);
    }

    #[test]
    fn bytes_that_changed_are_seen() {
        let parts = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let crc = |part: &Bytes| checksum::append(0, part);
        let mut payload = Payload::default();
        assert!(payload.is_intact());
        parts.iter().for_each(|part| payload.push_known(part.clone(), crc(part)));
        assert!(payload.is_intact() && payload.clone().joined().is_intact());
        payload.push_known(Bytes::from_static(b"thrEe"), crc(&Bytes::from_static(b"three")));
        assert!(!payload.is_intact() && !payload.joined().is_intact());
    }

    #[test]
    fn an_index_stands_before_the_body() {
        let mut payload = Payload::with_index(Bytes::from_static(b"index"));
        payload.push(Bytes::from_static(b"body"));
        assert_eq!((payload.len(), payload.index_len()), (9, 5));
        let joined = payload.clone().joined();
        assert_eq!((joined.index_len(), joined.clone().into_bytes()), (5, "indexbody".into()));
        assert_eq!(joined.into_body(), payload.into_body());
        assert_eq!(Payload::with_index(Bytes::new()), Payload::default());
    }

    #[test]
    fn nothing_is_a_payload() {
        let empty = Payload::default();
        assert!(empty.is_empty());
        assert_eq!(empty.joined().into_bytes(), Bytes::new());
    }
}
