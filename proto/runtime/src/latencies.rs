//! How long something takes lately: a count for each length of time, written by many and read by whoever asks what was since. Sixteen
//! lengths to an octave, so that what it says is within a sixteenth.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const PER_OCTAVE: usize = 16;
/// Up to 2^31 µs, more than half an hour: longer ones count as that.
const BUCKETS: usize = 32 * PER_OCTAVE;

/// See the module. What is counted wraps, which its reader does not mind.
pub struct Latencies([AtomicU32; BUCKETS]);

/// What was counted up to a moment.
#[derive(Debug, Clone)]
pub struct Counted(Box<[u32; BUCKETS]>);

impl Default for Latencies {
    fn default() -> Self {
        Self([const { AtomicU32::new(0) }; BUCKETS])
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latencies").finish_non_exhaustive()
    }
}

impl Latencies {
    /// One took so long.
    pub fn count(&self, took: Duration) {
        self.0[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// All until now.
    pub fn counted(&self) -> Counted {
        Counted(Box::new(std::array::from_fn(|at| self.0[at].load(Ordering::Relaxed))))
    }
}

impl Counted {
    /// How many there were since `before`, and how long nine of ten took at most.
    #[must_use]
    pub fn since(&self, before: &Self) -> (u32, Duration) {
        let each = |at: usize| self.0[at].wrapping_sub(before.0[at]);
        let all = (0..BUCKETS).map(each).fold(0, u32::saturating_add);
        let mut below = 0u32;
        let most = (0..BUCKETS).find(|at| {
            below = below.saturating_add(each(*at));
            below > all - all.div_ceil(10)
        });
        (all, most.map_or(Duration::ZERO, length))
    }
}

/// Of a number with `e` binary digits behind its first one: `e` octaves, and the next four digits.
fn bucket(took: Duration) -> usize {
    let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
    let octave = us.ilog2() as usize;
    let within = ((u64::from(us) * PER_OCTAVE as u64) >> octave) as usize - PER_OCTAVE;
    octave * PER_OCTAVE + within
}

/// The shortest time of a bucket.
fn length(bucket: usize) -> Duration {
    let within = (PER_OCTAVE + bucket % PER_OCTAVE) as u64;
    Duration::from_micros((within << (bucket / PER_OCTAVE)) / PER_OCTAVE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_within_a_sixteenth() {
        let random = crate::SeededRandom::new(1);
        for _ in 0..100_000 {
            // Of all orders of magnitude alike.
            let us = crate::Random::next_u64(&random) >> (32 + crate::Random::below(&random, 32));
            let took = Duration::from_micros(us.max(1));
            let told = length(bucket(took));
            assert!(told <= took && told * 17 / 16 + Duration::from_micros(1) >= took, "{told:?}");
        }
    }

    #[test]
    fn what_nine_of_ten_took_since() {
        let latencies = Latencies::default();
        latencies.count(Duration::from_secs(100_000));
        latencies.count(Duration::ZERO);
        let before = latencies.counted();
        assert_eq!(before.since(&before), (0, Duration::ZERO));
        for ms in (1..=19).chain([1_000]) {
            latencies.count(Duration::from_millis(ms));
        }
        let (count, most) = latencies.counted().since(&before);
        assert_eq!(count, 20);
        assert!((18_000..=19_000).contains(&most.as_micros()), "{most:?}");
    }
}
