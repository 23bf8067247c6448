//! What consumers write into a classic group's opaque bytes, as far as tools and the expiry of offsets want to know it:
//! which topics a member subscribes to, and which partitions it is assigned. Bytes that are something else are no
//! error; nothing is decided by them but which offsets are still in use.
//!
//! ```text
//!   subscription = version i16, topics [string], …        assignment = version i16, [topic string, partitions [i32]], …
//! ```

use std::sync::Arc;

use super::types::Assignment;

/// The family of protocols that consumers follow.
pub(crate) const CONSUMER: &str = "consumer";

/// The topics that a consumer subscribes to; `None` when these are not the bytes of a consumer.
pub(crate) fn subscription(metadata: &[u8]) -> Option<Vec<Arc<str>>> {
    let mut rest = Rest(metadata);
    rest.version()?;
    let count = rest.count(2)?;
    (0..count).map(|_| rest.string()).collect()
}

/// The partitions that a consumer is assigned; `None` when these are not the bytes of a consumer. No bytes at all: none.
pub(crate) fn assignment(bytes: &[u8]) -> Option<Assignment> {
    let mut assigned = Assignment::new();
    if bytes.is_empty() {
        return Some(assigned);
    }
    let mut rest = Rest(bytes);
    rest.version()?;
    for _ in 0..rest.count(6)? {
        let topic = rest.string()?;
        let count = rest.count(4)?;
        let partitions: Option<Vec<u32>> = (0..count).map(|_| rest.partition()).collect();
        assigned.entry(topic).or_default().extend(partitions?);
    }
    for partitions in assigned.values_mut() {
        partitions.sort_unstable();
        partitions.dedup();
    }
    Some(assigned)
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// Versions only ever add to the end, so any is readable.
    fn version(&mut self) -> Option<()> {
        let version = i16::from_be_bytes(self.take(2)?.try_into().ok()?);
        (version >= 0).then_some(())
    }

    fn int(&mut self) -> Option<i32> {
        Some(i32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn partition(&mut self) -> Option<u32> {
        u32::try_from(self.int()?).ok()
    }

    /// A number of elements of at least `smallest` bytes; never more than the rest can hold.
    fn count(&mut self, smallest: usize) -> Option<usize> {
        let count = usize::try_from(self.int()?).ok()?;
        (count <= self.0.len() / smallest).then_some(count)
    }

    fn string(&mut self) -> Option<Arc<str>> {
        let length = i16::from_be_bytes(self.take(2)?.try_into().ok()?);
        let bytes = self.take(usize::try_from(length).ok()?)?;
        std::str::from_utf8(bytes).ok().map(Into::into)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A subscription of version 1: topics, no user data, nothing owned.
    pub(crate) fn subscribed(topics: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0, 1];
        bytes.extend(u32::try_from(topics.len()).unwrap().to_be_bytes());
        for topic in topics {
            bytes.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            bytes.extend(topic.as_bytes());
        }
        bytes.extend([0xff; 4]);
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn what_consumers_write_is_read() {
        let bytes = subscribed(&["t", "orders"]);
        assert_eq!(subscription(&bytes), Some(vec!["t".into(), "orders".into()]));
        // Version 0; topic "t", partitions 2 and 0; user data null.
        let bytes =
            [0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 255, 255, 255, 255];
        let assigned = assignment(&bytes).unwrap();
        assert_eq!(assigned, Assignment::from([("t".into(), vec![0, 2])]));
        assert_eq!(assignment(&[]), Some(Assignment::new()));
    }

    #[test]
    fn other_bytes_are_not_mistaken() {
        assert_eq!(subscription(b""), None);
        assert_eq!(subscription(b"connect"), None);
        // Claims more topics than there are bytes.
        assert_eq!(subscription(&[0, 0, 0x7f, 255, 255, 255, 0, 0]), None);
        assert_eq!(subscription(&[255, 255, 0, 0, 0, 0]), None, "a negative version");
        assert_eq!(assignment(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 255, 0, 0, 0]), None);
    }

    proptest! {
        #[test]
        fn noise_is_no_panic(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = subscription(&noise);
            let _ = assignment(&noise);
        }
    }
}
