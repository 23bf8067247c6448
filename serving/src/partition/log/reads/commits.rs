//! How long commits take lately, and what waits to be committed: a count for each length of time, written by every log of a broker
//! and read by one task. Sixteen lengths to an octave, so that what it says is within a sixteenth.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

const PER_OCTAVE: usize = 16;
/// Up to 2^31 µs, more than half an hour: longer ones count as that.
const BUCKETS: usize = 32 * PER_OCTAVE;

/// See the module. What is counted wraps, which its reader does not mind. Cloning shares it.
#[derive(Clone)]
pub(super) struct Commits(Arc<Counts>);

struct Counts {
    took: [AtomicU32; BUCKETS],
    waiting: AtomicUsize,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

/// Something that was appended and waits to be committed, until this is dropped.
#[derive(Debug)]
pub(in crate::partition::log) struct Append {
    commits: Commits,
    at: Instant,
}

impl Append {
    /// When it was appended.
    pub(in crate::partition::log) fn at(&self) -> Instant {
        self.at
    }

    /// It is committed.
    pub(in crate::partition::log) fn committed(self) {
        self.commits.count(self.at.elapsed());
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        self.commits.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What was counted up to a moment.
#[derive(Debug, Clone)]
pub(super) struct Counted(Box<[u32; BUCKETS]>);

impl Commits {
    pub(super) fn new() -> Self {
        let took = [const { AtomicU32::new(0) }; BUCKETS];
        Self(Arc::new(Counts { took, waiting: AtomicUsize::new(0) }))
    }

    /// Something is appended now.
    pub(super) fn append(&self) -> Append {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Append { commits: self.clone(), at: Instant::now() }
    }

    fn count(&self, took: Duration) {
        self.0.took[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn counted(&self) -> Counted {
        Counted(Box::new(std::array::from_fn(|at| self.0.took[at].load(Ordering::Relaxed))))
    }
}

impl Counted {
    /// How many commits there were since `before`, and how long nine of ten took at most.
    pub(super) fn since(&self, before: &Self) -> (u32, Duration) {
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_time_is_told_within_a_sixteenth(us in 1u64..=u64::from(u32::MAX)) {
            let took = Duration::from_micros(us);
            let told = length(bucket(took));
            prop_assert!(told <= took && told * 17 / 16 + Duration::from_micros(1) >= took, "{told:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_appended_waits_until_it_is_committed_or_given_up() {
        let commits = Commits::new();
        let (before, first, second) = (commits.counted(), commits.append(), commits.append());
        tokio::time::sleep(Duration::from_millis(64)).await;
        assert_eq!(commits.waiting(), 2);
        first.committed();
        assert_eq!(commits.waiting(), 1);
        drop(second);
        assert_eq!(commits.waiting(), 0);
        assert_eq!(commits.counted().since(&before).0, 1);
    }

    #[test]
    fn what_nine_of_ten_took_since() {
        let commits = Commits::new();
        commits.count(Duration::from_secs(100_000));
        commits.count(Duration::ZERO);
        let before = commits.counted();
        assert_eq!(before.since(&before), (0, Duration::ZERO));
        for ms in (1..=19).chain([1_000]) {
            commits.count(Duration::from_millis(ms));
        }
        let (count, most) = commits.counted().since(&before);
        assert_eq!(count, 20);
        assert!((18_000..=19_000).contains(&most.as_micros()), "{most:?}");
    }
}
