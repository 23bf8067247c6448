//! What `perf` writes and expects: bytes that follow from a seed and the record's number, so that a reader can judge
//! each record by itself. Byte 0..8 is the number, big-endian; the rest is pseudo-random.

/// Content of records of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Content {
    seed: u64,
    size: usize,
}

/// Bytes of the number at the start.
const NUMBER_BYTES: usize = 8;

impl Content {
    /// `size` is at least 16: the command line holds that.
    pub(super) fn new(seed: u64, size: u32) -> Self {
        let size = usize::try_from(size).expect("usize has at least 32 bits");
        Self { seed, size: size.max(2 * NUMBER_BYTES) }
    }

    /// The value of record `number`.
    pub(super) fn value(&self, number: u64) -> Vec<u8> {
        let mut value = Vec::with_capacity(self.size);
        value.extend_from_slice(&number.to_be_bytes());
        let mut words = Words::new(self.seed, number);
        while value.len() < self.size {
            let word = words.next().to_be_bytes();
            let take = word.len().min(self.size - value.len());
            value.extend_from_slice(&word[..take]);
        }
        value
    }

    /// The number of the record, when every byte is as it was written.
    pub(super) fn number(&self, value: &[u8]) -> Option<u64> {
        if value.len() != self.size {
            return None;
        }
        let (number, rest) = value.split_first_chunk::<NUMBER_BYTES>()?;
        let number = u64::from_be_bytes(*number);
        let mut words = Words::new(self.seed, number);
        let same = rest.chunks(NUMBER_BYTES).all(|chunk| {
            let word = words.next().to_be_bytes();
            *chunk == word[..chunk.len()]
        });
        same.then_some(number)
    }
}

/// SplitMix64.
struct Words(u64);

impl Words {
    fn new(seed: u64, number: u64) -> Self {
        Self(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Which of the records `0..total` have been read.
#[derive(Debug)]
pub(super) struct Tally {
    bits: Vec<u64>,
    total: u64,
    /// Records read for the first time.
    pub(super) distinct: u64,
    /// Records read again.
    pub(super) duplicates: u64,
    /// Records with other content than was written.
    pub(super) wrong: u64,
}

impl Tally {
    /// Nothing read yet.
    pub(super) fn new(total: u64) -> Self {
        let words =
            usize::try_from(total.div_ceil(64)).expect("the command line bounds the number");
        Self { bits: vec![0; words], total, distinct: 0, duplicates: 0, wrong: 0 }
    }

    /// Counts one record: `number` as [`Content::number`] found it.
    pub(super) fn count(&mut self, number: Option<u64>) {
        let place = number.filter(|n| *n < self.total).and_then(|n| {
            let word = usize::try_from(n / 64).ok()?;
            Some((word, 1_u64 << (n % 64)))
        });
        match place {
            None => self.wrong += 1,
            Some((word, bit)) if self.bits[word] & bit != 0 => self.duplicates += 1,
            Some((word, bit)) => {
                self.bits[word] |= bit;
                self.distinct += 1;
            }
        }
    }

    /// Records that were not read.
    pub(super) fn missing(&self) -> u64 {
        self.total - self.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        for size in [16, 17, 100, 1024] {
            let content = Content::new(7, size);
            let value = content.value(3);
            assert_eq!(value.len(), usize::try_from(size).unwrap());
            assert_eq!(content.number(&value), Some(3));
            for place in 0..value.len() {
                let mut changed = value.clone();
                changed[place] ^= 1;
                assert_eq!(content.number(&changed), None, "byte {place} of {size}");
            }
            assert_eq!(content.number(&value[1..]), None);
            assert_eq!(Content::new(8, size).number(&value), None);
        }
    }

    #[test]
    fn a_tally_tells_lost_from_repeated_from_wrong() {
        let mut tally = Tally::new(70);
        for number in [Some(0), Some(69), Some(0), Some(70), None] {
            tally.count(number);
        }
        let counts = (tally.distinct, tally.duplicates, tally.wrong, tally.missing());
        assert_eq!(counts, (2, 1, 2, 68));
    }
}
