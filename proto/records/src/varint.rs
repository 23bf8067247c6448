//! Zig-zag variable-length integers, as in records: at most 5 bytes for 32 bits, 10 for 64.

use bytes::{Buf, BufMut};

use crate::error::BatchError;

const BAD: BatchError = BatchError::Records("a number does not end");

/// Appends `value`.
pub(crate) fn put_i64(out: &mut impl BufMut, value: i64) {
    let mut rest = (value << 1 ^ value >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.put_u8((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Appends `value`; the shortest form of both widths is the same.
pub(crate) fn put_i32(out: &mut impl BufMut, value: i32) {
    put_i64(out, i64::from(value));
}

/// Bytes that [`put_i64`] takes.
pub(crate) fn len_i64(value: i64) -> usize {
    let zigzag = (value << 1 ^ value >> 63).cast_unsigned();
    let bits = 64 - (zigzag | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Takes a number of 64 bits.
pub(crate) fn get_i64(bytes: &mut impl Buf) -> Result<i64, BatchError> {
    let mut zigzag = 0u64;
    for shift in (0..64).step_by(7) {
        if !bytes.has_remaining() {
            return Err(BAD);
        }
        let byte = bytes.get_u8();
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(BAD);
        }
        zigzag |= part << shift;
        if byte & 0x80 == 0 {
            return Ok((zigzag >> 1).cast_signed() ^ -((zigzag & 1).cast_signed()));
        }
    }
    Err(BAD)
}

/// Takes a number of 32 bits.
pub(crate) fn get_i32(bytes: &mut impl Buf) -> Result<i32, BatchError> {
    i32::try_from(get_i64(bytes)?).map_err(|_| BatchError::Records("a number is out of range"))
}

/// Takes a length: -1 is `None`; never more than what is there.
pub(crate) fn get_len(bytes: &mut impl Buf) -> Result<Option<usize>, BatchError> {
    match get_i32(bytes)? {
        -1 => Ok(None),
        len => match usize::try_from(len) {
            Ok(len) if len <= bytes.remaining() => Ok(Some(len)),
            _ => Err(BatchError::Records("a length goes beyond the end")),
        },
    }
}
