//! The snapshot of a topic partition (P4): what its owner must know besides the batches themselves. There is nothing yet
//! but the format's number: it stands in every ledger from the first release on, so that the state of idempotent
//! producers can be added as a next format that tells itself apart.
//!
//! ```text
//!   part 1 of 1:  u16 format
//! ```

use bytes::{BufMut, Bytes, BytesMut};

/// Persisted: keep stable.
const FORMAT: u16 = 1;

/// Why a stored snapshot cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Of a later release.
    #[error("producer state has format {0}, this broker knows {FORMAT}: upgrade it")]
    Newer(u16),
    /// Not a snapshot.
    #[error("producer state is {0} bytes long and does not decode")]
    Malformed(usize),
}

/// The state as a snapshot's parts.
pub(super) fn encode() -> Vec<Bytes> {
    let mut part = BytesMut::with_capacity(2);
    part.put_u16(FORMAT);
    vec![part.freeze()]
}

/// Checks one part that was read back.
pub(super) fn decode(part: &[u8]) -> Result<(), Error> {
    let Some((format, rest)) = part.split_first_chunk() else {
        return Err(Error::Malformed(part.len()));
    };
    match u16::from_be_bytes(*format) {
        FORMAT if rest.is_empty() => Ok(()),
        0 | FORMAT => Err(Error::Malformed(part.len())),
        newer => Err(Error::Newer(newer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_format_1() {
        assert_eq!(encode(), [Bytes::from_static(&[0, 1])]);
        assert_eq!(decode(&encode()[0]), Ok(()));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(decode(&[0, 2, 9, 9]), Err(Error::Newer(2)));
        for bad in [&[][..], &[0], &[0, 0], &[0, 1, 0]] {
            assert_eq!(decode(bad), Err(Error::Malformed(bad.len())));
        }
    }
}
