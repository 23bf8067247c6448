//! CRC-32C of bytes whose parts have known checksums, without another look at them: the checksum of a record batch carries
//! over to the digest of the entry that holds it. What is derived is as good as what it was derived from: bytes that changed
//! in between fail the next check.
//!
//! A checksum is a polynomial over GF(2) modulo the one below, bits reversed; appending `n` bytes multiplies it by `x^8n`.

/// CRC-32C (Castagnoli), reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// `x^(8 * 2^k)` at place k: enough for any length in memory.
const POWERS: [u32; 64] = powers();

/// The checksum of `bytes` behind what `crc` is the checksum of. Start with 0, or with a key.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// [`append`] of `len` bytes whose own checksum, from 0, is `part`.
pub fn join(crc: u32, part: u32, len: usize) -> u32 {
    shift(crc, len) ^ part
}

/// `crc * x^8len`.
fn shift(crc: u32, len: usize) -> u32 {
    let mut product = crc;
    let mut rest = len;
    while rest != 0 {
        product = multiply(POWERS[rest.trailing_zeros() as usize], product);
        rest &= rest - 1;
    }
    product
}

const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
        bit >>= 1;
    }
    product
}

const fn powers() -> [u32; 64] {
    let mut powers = [0; 64];
    // x^8
    powers[0] = ONE >> 8;
    let mut k = 1;
    while k < powers.len() {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_derived_is_what_is_computed(
            before in proptest::collection::vec(any::<u8>(), 0..100),
            part in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let crc = append(7, &before);
            let computed = append(crc, &part);
            prop_assert_eq!(join(crc, append(0, &part), part.len()), computed);
        }
    }

    #[test]
    fn large_parts() {
        let part: Vec<u8> =
            (0..(17 << 20) + 5).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert_eq!(join(9, append(0, &part), part.len()), append(9, &part));
    }
}
