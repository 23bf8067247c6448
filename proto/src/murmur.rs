//! Kafka's murmur2 hash: producers of any kind put a key into the same partition, brokers a group into the same shard.

const SEED: u32 = 0x9747_b28c;
const M: u32 = 0x5bd1_e995;
const R: u32 = 24;

/// The hash of `data`, bit for bit as Kafka's clients compute it.
pub fn murmur2(data: &[u8]) -> u32 {
    // Kafka's lengths are 32-bit; longer keys do not exist (a record is far smaller).
    let mut h = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (at, &byte) in rest.iter().enumerate() {
            h ^= u32::from(byte) << (8 * at);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// Which of `buckets` (partitions, shards) a key belongs to: Kafka's "to positive", then modulo. 0 when there is none.
pub fn bucket(key: &[u8], buckets: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff).checked_rem(buckets).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of Kafka's own tests.
    #[test]
    fn agrees_with_kafka() {
        let vectors: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn no_bucket_is_no_panic() {
        assert_eq!(bucket(b"abc", 0), 0);
        assert!(bucket(b"foobar", 12) < 12);
    }
}
