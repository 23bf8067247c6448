//! Whether this machine's wall clock can be believed when it says how old records are. A wrong one gives up what is still wanted,
//! which nothing brings back; so a clock that may be wrong gives up nothing by age for an hour, in which whoever keeps the time can
//! set it right. That is so when it
//!
//! * jumped against the monotonic clock between two looks, back to the right time as well;
//! * says, when the broker starts, that nothing was noted in the cluster for long: no topic made, no other broker begun. Either all
//!   was quiet, and nothing is lost but the hour, or the clock is ahead.
//!
//! One wrong date must not vouch for a wrong clock: see [`witness`].

use std::time::Duration;

use tokio::time::Instant;

/// Dates that differ by no more agree.
const AGREES: Duration = Duration::from_secs(600);
/// For so long a clock that may be wrong is not believed.
const DISBELIEF: Duration = Duration::from_secs(3_600);

/// The newest date that says something about a clock that shows `wall_ms`; all are milliseconds since the Unix epoch. `made`: when
/// topics were made. `started`: when other brokers began.
///
/// A date ahead of the clock is left out: it was noted by a clock that was ahead, and would vouch for any other that is, up to that
/// day. So is that of a broker which began within the last hour: whatever set this clock wrong may have set that one's as well,
/// and where brokers are started one after another each would vouch for the next.
pub(in crate::partition) fn witness(
    wall_ms: i64,
    made: impl Iterator<Item = i64>,
    started: impl Iterator<Item = i64>,
) -> Option<i64> {
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let latest = wall_ms.saturating_add(ms(AGREES));
    let settled = wall_ms.saturating_sub(ms(DISBELIEF));
    let made = made.filter(|at| *at <= latest);
    made.chain(started.filter(|at| *at <= settled)).max()
}

/// What is known of the clock.
#[derive(Debug, Default)]
pub(super) struct Dating {
    /// Both clocks at the last look.
    last: Option<(Instant, i64)>,
    /// Nothing is given up by age before this.
    until: Option<Instant>,
}

impl Dating {
    /// Takes a look; whether the wall clock, `wall_ms`, can be believed. `known_ms`: the newest date that anybody noted, for the
    /// first look.
    pub(super) fn believes(
        &mut self,
        now: Instant,
        wall_ms: i64,
        known_ms: impl FnOnce() -> Option<i64>,
    ) -> bool {
        let drift_ms = match self.last.replace((now, wall_ms)) {
            None => known_ms().map_or(0, |known_ms| wall_ms.saturating_sub(known_ms)),
            Some((then, then_ms)) => {
                let passed = i64::try_from(now.saturating_duration_since(then).as_millis());
                wall_ms.saturating_sub(then_ms).saturating_sub(passed.unwrap_or(i64::MAX))
            }
        };
        if u128::from(drift_ms.unsigned_abs()) > AGREES.as_millis() {
            tracing::warn!(
                drift_ms,
                "the clock of this machine jumped, or nothing happened for long before this start: nothing is given up by age for \
                 an hour; if the clock is wrong, set it before"
            );
            self.until = Some(now + DISBELIEF);
        }
        self.until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_is_not_believed_for_a_while() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut dating = Dating::default();
        let mut believes = |seconds, wall_ms| dating.believes(at(seconds), wall_ms, || Some(0));
        assert!(believes(0, 0));
        assert!(believes(60, 61_000), "a little ahead");
        assert!(!believes(120, 1_000_000_000), "ahead");
        assert!(!believes(180, 1_000_060_000), "it still is");
        assert!(believes(120 + 3_600, 1_003_600_000), "it stays like that");
        assert!(!believes(3_800, 0), "behind");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_far_ahead_from_the_start_is_not_believed_for_a_while() {
        let (start, year_ms) = (Instant::now(), 365 * 86_400_000);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let ahead = |known_ms| {
            let mut dating = Dating::default();
            let mut believes =
                |s: u64| dating.believes(at(s), year_ms + s as i64 * 1_000, || known_ms);
            [0, 3_599, 3_600].map(&mut believes)
        };
        assert_eq!(ahead(Some(0)), [false, false, true]);
        assert_eq!(ahead(Some(year_ms - 600_000)), [true; 3]);
        assert_eq!(ahead(Some(year_ms + 600_000)), [true; 3]);
        assert_eq!(ahead(Some(i64::MAX)), [false, false, true], "one of the two is wrong");
        assert_eq!(ahead(None), [true; 3], "there is nothing to give up");
        // Set right meanwhile: an hour from then.
        let mut dating = Dating::default();
        assert!(!dating.believes(at(0), year_ms, || Some(0)));
        assert!(!dating.believes(at(60), 60_000, || None));
        assert!(!dating.believes(at(3_600), 3_600_000, || None));
        assert!(dating.believes(at(3_660), 3_660_000, || None));
    }

    #[test]
    fn no_wrong_date_vouches_for_a_wrong_clock() {
        const HOUR: i64 = 3_600_000;
        let newest = |wall_ms, made: &[i64], started: &[i64]| {
            witness(wall_ms, made.iter().copied(), started.iter().copied())
        };
        let wrong = 365 * 24 * HOUR;
        // A topic that was made by a clock in the far future, once.
        assert_eq!(newest(wrong, &[5, i64::MAX], &[3]), Some(5));
        assert_eq!(newest(wrong, &[wrong + 600_000], &[]), Some(wrong + 600_000), "it agrees");
        // The broker before this one was started with the same wrong time.
        assert_eq!(newest(wrong, &[5], &[7, wrong - 60_000, wrong + 1]), Some(7));
        assert_eq!(newest(wrong, &[], &[wrong - HOUR]), Some(wrong - HOUR));
        assert_eq!(newest(i64::MIN, &[i64::MIN], &[i64::MAX]), Some(i64::MIN));
        assert_eq!(newest(5, &[], &[]), None);
    }
}
