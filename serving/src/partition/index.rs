//! The index of a Batches entry: what a takeover must know of the batches of idempotent producers in it, so that it need not
//! read them (P4). Entries without such batches have none. Big-endian; persisted, keep stable.
//!
//! ```text
//!   0  u16 format | u16 reserved | u32 count
//!   8  count times, in order:
//!      u32 offset of its first record, from the entry's | i64 producer_id | i16 epoch | i16 attributes
//!      i32 sequence number of its first record | u32 records | i64 max_timestamp
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_records::Sequence;

use super::producers::Stamp;

/// The format written today.
const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 8;
const ROW_BYTES: usize = 32;

/// Why an index cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Of a later release.
    #[error("an index of batches has format {0}, this broker knows {FORMAT}: upgrade it")]
    Newer(u16),
    /// Not an index.
    #[error("an index of batches of {0} bytes does not decode")]
    Malformed(usize),
}

/// The index of these batches, each with the place of its first record; empty when there are none.
pub(super) fn encode(rows: &[(u32, Stamp)]) -> Bytes {
    if rows.is_empty() {
        return Bytes::new();
    }
    let mut out = BytesMut::with_capacity(HEADER_BYTES + rows.len() * ROW_BYTES);
    out.put_u16(FORMAT);
    out.put_u16(0);
    out.put_u32(u32::try_from(rows.len()).expect("an entry has room for fewer"));
    for (place, stamp) in rows {
        out.put_u32(*place);
        out.put_i64(stamp.sequence.producer_id);
        out.put_i16(stamp.sequence.epoch);
        out.put_i16(stamp.attributes);
        out.put_i32(stamp.sequence.first);
        out.put_u32(stamp.count);
        out.put_i64(stamp.max_timestamp);
    }
    out.freeze()
}

/// Reads what [`encode`] made.
///
/// # Errors
/// [`Error`].
pub(super) fn decode(mut bytes: &[u8]) -> Result<Vec<(u32, Stamp)>, Error> {
    let malformed = Error::Malformed(bytes.len());
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    if bytes.len() < HEADER_BYTES {
        return Err(malformed);
    }
    match bytes.get_u16() {
        FORMAT => {}
        0 => return Err(malformed),
        newer => return Err(Error::Newer(newer)),
    }
    let _reserved = bytes.get_u16();
    let count = bytes.get_u32() as usize;
    if bytes.len() != count.saturating_mul(ROW_BYTES) {
        return Err(malformed);
    }
    let row = |mut row: &[u8]| {
        let place = row.get_u32();
        let (producer_id, epoch, attributes) = (row.get_i64(), row.get_i16(), row.get_i16());
        let sequence = Sequence { producer_id, epoch, first: row.get_i32() };
        let (count, max_timestamp) = (row.get_u32(), row.get_i64());
        (place, Stamp { sequence, count, attributes, max_timestamp })
    };
    Ok(bytes.chunks_exact(ROW_BYTES).map(row).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stamp() -> Stamp {
        let sequence = Sequence { producer_id: 0x0102, epoch: 3, first: 4 };
        Stamp { sequence, count: 5, attributes: 6, max_timestamp: 7 }
    }

    #[test]
    fn golden_format_1() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let rows = [(9, stamp())];
        let golden =
            "00010000000000010000000900000000000001020003000600000004000000050000000000000007";
        assert_eq!(hex(&encode(&rows)), golden);
        assert_eq!(decode(&encode(&rows)), Ok(rows.to_vec()));
        assert_eq!(encode(&[]), Bytes::new());
        assert_eq!(decode(&[]), Ok(Vec::new()));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = encode(&[(0, stamp()), (5, stamp())]);
        assert_eq!(decode(&good[..good.len() - 1]), Err(Error::Malformed(good.len() - 1)));
        let mut newer = good.to_vec();
        newer[1] = 2;
        assert_eq!(decode(&newer), Err(Error::Newer(2)));
        assert_eq!(decode(&[0; 8]), Err(Error::Malformed(8)));
        assert_eq!(decode(&[0, 1, 0, 0, 255, 255, 255, 255]), Err(Error::Malformed(8)));
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&noise);
        }
    }
}
