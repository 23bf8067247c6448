//! How full a disk is, and what it still takes (protocol 5.8). Decided from what the file system says, with hysteresis; the log
//! adds that it went into its reserve.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::io::Space;

/// Points that usage must fall below a limit before it counts as below it.
const HYSTERESIS: u8 = 3;

/// What a disk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) enum Fullness {
    /// Everything.
    #[default]
    Normal,
    /// Everything; space is given back in a hurry.
    Warn,
    /// No new ledgers and no writer's entries; seals, recoverers' copies, tombstones, and what is moved.
    High,
    /// Seals and tombstones only, out of the log's reserve.
    Hard,
}

/// Where each begins, percent of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Space is given back in a hurry. Default 85.
    pub warn_percent: u8,
    /// The disk takes no new data. Default 90.
    pub read_only_percent: u8,
    /// Only seals and deletions go on. Default 96.
    pub hard_percent: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { warn_percent: 85, read_only_percent: 90, hard_percent: 96 }
    }
}

impl Fullness {
    /// What it is now; a disk that tells nothing stays as it is.
    #[must_use]
    pub(crate) fn next(self, space: Space, limits: Limits) -> Self {
        if space.total == 0 {
            return self;
        }
        let used = u128::from(space.total.saturating_sub(space.free)) * 100;
        let reached = |level: Self, percent: u8| {
            let percent = if self >= level { percent.saturating_sub(HYSTERESIS) } else { percent };
            used >= u128::from(space.total) * u128::from(percent)
        };
        let levels = [
            (Self::Hard, limits.hard_percent),
            (Self::High, limits.read_only_percent),
            (Self::Warn, limits.warn_percent),
        ];
        let highest = levels.into_iter().find(|(level, percent)| reached(*level, *percent));
        highest.map_or(Self::Normal, |(level, _)| level)
    }
}

impl Limits {
    /// Bytes that must go before space is not given back in a hurry any more.
    pub(crate) fn surplus(self, space: Space) -> u64 {
        let kept = u128::from(self.warn_percent.saturating_sub(HYSTERESIS));
        let kept = u64::try_from(u128::from(space.total) * kept / 100).unwrap_or(u64::MAX);
        space.total.saturating_sub(space.free).saturating_sub(kept)
    }
}

/// The fullness of one disk, told by who looks at it and read by who decides; clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gauge(Arc<AtomicU8>);

impl Gauge {
    /// Tells it.
    pub(crate) fn set(&self, fullness: Fullness) {
        self.0.store(fullness as u8, Ordering::Relaxed);
    }

    /// What was told last.
    pub(crate) fn get(&self) -> Fullness {
        match self.0.load(Ordering::Relaxed) {
            0 => Fullness::Normal,
            1 => Fullness::Warn,
            2 => Fullness::High,
            _ => Fullness::Hard,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_their_limit_and_fall_below_it() {
        use Fullness::{Hard, High, Normal, Warn};
        let next = |was: Fullness, used: u64| {
            was.next(Space { free: 100 - used, total: 100 }, Limits::default())
        };
        for (was, used, now) in [
            (Normal, 84, Normal),
            (Normal, 85, Warn),
            (Normal, 90, High),
            (Normal, 96, Hard),
            (Hard, 93, Hard),
            (Hard, 92, High),
            (High, 87, High),
            (High, 86, Warn),
            (Warn, 82, Warn),
            (Warn, 81, Normal),
            (Hard, 0, Normal),
        ] {
            assert_eq!(next(was, used), now, "{was:?} at {used} %");
        }
        assert_eq!(High.next(Space { free: 0, total: 0 }, Limits::default()), High);
    }

    #[test]
    fn as_much_goes_as_ends_the_hurry() {
        let surplus =
            |used: u64| Limits::default().surplus(Space { free: 1_000 - used, total: 1_000 });
        assert_eq!([850, 820, 100].map(surplus), [30, 0, 0]);
    }

    #[test]
    fn what_is_told_is_read() {
        let gauge = Gauge::default();
        for fullness in [Fullness::Warn, Fullness::Hard, Fullness::High, Fullness::Normal] {
            gauge.set(fullness);
            assert_eq!(gauge.clone().get(), fullness);
        }
    }
}
