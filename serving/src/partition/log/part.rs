//! The payload of a snapshot entry: one part of a snapshot with its place among the parts (P4). Big-endian.
//!
//! ```text
//!   0  u8 version | u8 flags (1 = end marker) | u16 reserved | u32 index | u32 total
//!  12  the part …
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes before the part.
pub(super) const HEADER_BYTES: usize = 12;
/// The version written today.
const VERSION: u8 = 1;
/// On the last part: with it the snapshot counts.
const END: u8 = 1;

/// One part's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::partition) struct Place {
    /// From 0.
    pub(in crate::partition) index: u32,
    /// How many parts there are.
    pub(in crate::partition) total: u32,
}

impl Place {
    /// Whether the snapshot is complete with this part.
    pub(super) fn is_end(self) -> bool {
        self.index + 1 == self.total
    }
}

/// Why a payload is not a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a snapshot part that does not decode: {0}")]
pub(in crate::partition) struct Invalid(&'static str);

/// What stands before the part.
pub(in crate::partition) fn header(place: Place) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES);
    out.put_u8(VERSION);
    out.put_u8(if place.is_end() { END } else { 0 });
    out.put_u16(0);
    out.put_u32(place.index);
    out.put_u32(place.total);
    out.freeze()
}

/// Takes a payload apart, or a prefix of one.
pub(in crate::partition) fn decode(payload: &Bytes) -> Result<(Place, Bytes), Invalid> {
    if payload.len() < HEADER_BYTES {
        return Err(Invalid("too short"));
    }
    let mut head = &payload[..HEADER_BYTES];
    if head.get_u8() != VERSION {
        return Err(Invalid("unknown version: upgrade this process"));
    }
    let flags = head.get_u8();
    let _reserved = head.get_u16();
    let place = Place { index: head.get_u32(), total: head.get_u32() };
    if place.index >= place.total {
        return Err(Invalid("index beyond the number of parts"));
    }
    if (flags & END != 0) != place.is_end() {
        return Err(Invalid("end marker at the wrong place"));
    }
    Ok((place, payload.slice(HEADER_BYTES..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payload(place: Place, part: &[u8]) -> Bytes {
        [&header(place)[..], part].concat().into()
    }

    #[test]
    fn golden_version_1() {
        let hex = |bytes: Bytes| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let golden = [(0, 2, "010000000000000000000002ab"), (1, 2, "010100000000000100000002ab")];
        for (index, total, expected) in golden {
            let bytes = payload(Place { index, total }, &[0xab]);
            assert_eq!(hex(bytes.clone()), expected);
            let decoded = decode(&bytes).unwrap();
            assert_eq!(decoded, (Place { index, total }, Bytes::from_static(&[0xab])));
        }
    }

    #[test]
    fn what_is_no_part_is_refused() {
        let good = payload(Place { index: 1, total: 2 }, b"x");
        for (at, value) in [(0, 2), (1, 0), (7, 2), (11, 0), (11, 9)] {
            let mut bad = good.to_vec();
            bad[at] = value;
            assert!(decode(&bad.into()).is_err(), "byte {at} = {value}");
        }
        assert!(decode(&good.slice(..HEADER_BYTES - 1)).is_err());
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&noise.into());
        }
    }
}
