//! What an idempotent producer says about a batch, as it stands in the batch's header: its id, its epoch, and the numbers of
//! its records. Numbers count the records of one producer, epoch and partition from 0; after `i32::MAX` comes 0.

/// Whose batch it is, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// The producer's id.
    pub producer_id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// Number of the first record.
    pub first: i32,
}

/// The number `count` records after `sequence`; both are at least 0.
pub fn sequence_after(sequence: i32, count: u32) -> i32 {
    // Numbers are 31 bits wide: the sign bit is what overflows into.
    sequence.wrapping_add(count.cast_signed()) & i32::MAX
}

/// How many records after `from` the number `to` comes; below 2^31.
pub fn sequence_distance(from: i32, to: i32) -> u32 {
    (to.wrapping_sub(from) & i32::MAX).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_wrap_as_in_kafka() {
        assert_eq!(sequence_after(0, 3), 3);
        assert_eq!(sequence_after(i32::MAX - 1, 1), i32::MAX);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
        assert_eq!(sequence_distance(i32::MAX, 0), 1);
        assert_eq!(sequence_distance(5, 4), i32::MAX.cast_unsigned());
    }

    proptest! {
        #[test]
        fn a_distance_is_what_was_added(from in 0..=i32::MAX, count in 0..=i32::MAX.cast_unsigned()) {
            let to = sequence_after(from, count);
            prop_assert!(to >= 0);
            prop_assert_eq!(sequence_distance(from, to), count);
        }
    }
}
