//! What `perf` writes and expects: bytes that follow from a seed and the record's number, so that a reader can judge
//! each record by itself. Byte 0..8 is the number, big-endian; the rest is a pseudo-random block, the same for all records
//! of a seed, every word of it changed by a pseudo-random word that belongs to the number. So no two records share a word,
//! nothing repeats that a compressor could find, and making a record costs little beside sending it.

/// Content of records of one size.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    seed: u64,
    /// As large as a record; its beginning, where the number goes, is not used.
    block: Vec<u8>,
}

/// Bytes of the number at the start, and of a word.
const WORD: usize = 8;
/// The increment of SplitMix64.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Content {
    /// `size` is at least 16: the command line holds that.
    pub(crate) fn new(seed: u64, size: u32) -> Self {
        let size = usize::try_from(size).expect("usize has at least 32 bits").max(2 * WORD);
        let words = (1..).map(|place: u64| mix(seed.wrapping_add(place.wrapping_mul(GAMMA))));
        let block = words.flat_map(u64::to_be_bytes).take(size).collect();
        Self { seed, block }
    }

    /// What every word of record `number` is changed by. Different for any two numbers.
    fn key(&self, number: u64) -> u64 {
        mix(mix(self.seed) ^ number.wrapping_mul(GAMMA))
    }

    /// The value of record `number`.
    pub(crate) fn value(&self, number: u64) -> Vec<u8> {
        let mut value = self.block.clone();
        let key = self.key(number).to_ne_bytes();
        let (words, rest) = value.as_chunks_mut::<WORD>();
        if let Some((head, words)) = words.split_first_mut() {
            *head = number.to_be_bytes();
            for word in words {
                *word = (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(key)).to_ne_bytes();
            }
        }
        for (byte, key) in rest.iter_mut().zip(key) {
            *byte ^= key;
        }
        value
    }

    /// The number of the record, when every byte is as it was written.
    pub(crate) fn number(&self, value: &[u8]) -> Option<u64> {
        if value.len() != self.block.len() {
            return None;
        }
        let (head, words, rest) = split(value)?;
        let (_, block, block_rest) = split(&self.block)?;
        let number = u64::from_be_bytes(*head);
        let key = self.key(number);
        let differ = words.iter().zip(block).fold(0, |differ, (word, block)| {
            differ | (u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(*block) ^ key)
        });
        let mut ends = rest.iter().zip(block_rest).zip(key.to_ne_bytes());
        (differ == 0 && ends.all(|((byte, block), key)| *byte == block ^ key)).then_some(number)
    }
}

type Word = [u8; WORD];

/// The number, the words behind it, and the bytes that make no word.
fn split(value: &[u8]) -> Option<(&Word, &[Word], &[u8])> {
    let (words, rest) = value.as_chunks::<WORD>();
    let (head, words) = words.split_first()?;
    Some((head, words, rest))
}

/// The output function of SplitMix64; a bijection.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which of the records `0..total` have been read.
#[derive(Debug)]
pub(crate) struct Tally {
    bits: Vec<u64>,
    total: u64,
    /// Records read for the first time.
    pub(crate) distinct: u64,
    /// Records read again.
    pub(crate) duplicates: u64,
    /// Records with other content than was written.
    pub(crate) wrong: u64,
}

impl Tally {
    /// Nothing read yet.
    pub(crate) fn new(total: u64) -> Self {
        let words =
            usize::try_from(total.div_ceil(64)).expect("the command line bounds the number");
        Self { bits: vec![0; words], total, distinct: 0, duplicates: 0, wrong: 0 }
    }

    /// Counts one record: `number` as [`Content::number`] found it.
    pub(crate) fn count(&mut self, number: Option<u64>) {
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
    pub(crate) fn missing(&self) -> u64 {
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

    /// What is written is what a compressor finds nothing in, and no record passes for another.
    #[test]
    fn records_share_nothing() {
        let content = Content::new(1, 1024);
        let values: Vec<Vec<u8>> = (0..64).map(|number| content.value(number)).collect();
        let mut words = std::collections::HashSet::new();
        for value in &values {
            assert!(value.chunks(WORD).all(|word| words.insert(word.to_owned())));
        }
        let mut swapped = values[1].clone();
        swapped[..WORD].copy_from_slice(&2_u64.to_be_bytes());
        assert_eq!(content.number(&swapped), None);
        let mut mixed = values[1].clone();
        mixed[WORD..512].copy_from_slice(&values[2][WORD..512]);
        assert_eq!(content.number(&mixed), None);
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
