//! A token bucket, kept as the time until which everything taken is paid for. It holds what one second fills, so that a
//! client that rested may burst that much, and no more.

use std::time::Duration;

/// What a bucket holds, as the time that fills it.
pub(super) const BURST: Duration = Duration::from_secs(1);
/// No debt is longer, so that arithmetic stays within its bounds; one message owes less at any rate that is of use.
const MOST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// See the module. Times are since a moment that lies a [`BURST`] before anything happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket {
    /// A second.
    rate: u64,
    /// Before now: there is that much left. After now: so long is owed.
    paid: Duration,
}

impl Bucket {
    /// A full one. `rate` is not 0.
    pub(super) fn new(rate: u64, now: Duration) -> Self {
        Self { rate: rate.max(1), paid: now.saturating_sub(BURST) }
    }

    /// Takes `amount` at a rate, which may be another one than before: what is owed stays the same amount. Returns how long
    /// nothing more may be taken.
    pub(super) fn charge(&mut self, rate: u64, amount: u64, now: Duration) -> Duration {
        let rate = rate.max(1);
        if rate != self.rate {
            let owed = nanos(self.debt(now)) * u128::from(self.rate) / u128::from(rate);
            self.paid = now + duration(owed).min(MOST);
            self.rate = rate;
        }
        let cost = duration(u128::from(amount) * 1_000_000_000 / u128::from(rate));
        let from = self.paid.max(now.saturating_sub(BURST));
        self.paid = from.saturating_add(cost).min(now + MOST);
        self.debt(now)
    }

    /// How long nothing more may be taken.
    pub(super) fn debt(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now)
    }
}

fn nanos(duration: Duration) -> u128 {
    duration.as_nanos()
}

fn duration(nanos: u128) -> Duration {
    u64::try_from(nanos).map_or(MOST, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Duration = BURST;

    #[test]
    fn what_rested_may_burst_for_a_second() {
        let mut bucket = Bucket::new(100, START);
        assert_eq!(bucket.charge(100, 100, START), Duration::ZERO);
        assert_eq!(bucket.charge(100, 50, START), Duration::from_millis(500));
        let later = START + Duration::from_secs(100);
        assert_eq!(bucket.charge(100, 100, later), Duration::ZERO, "no more than one second's");
        assert_eq!(bucket.charge(100, 1, later), Duration::from_millis(10));
    }

    #[test]
    fn another_rate_changes_how_long_the_same_debt_takes() {
        let mut bucket = Bucket::new(100, START);
        assert_eq!(bucket.charge(100, 1_100, START), Duration::from_secs(10));
        assert_eq!(bucket.charge(1_000, 0, START), Duration::from_secs(1));
        assert_eq!(bucket.charge(10, 0, START), Duration::from_secs(100));
        assert_eq!(bucket.charge(1, u64::MAX, START), MOST);
        assert_eq!(
            Bucket::new(0, START).charge(0, 1, START),
            Duration::ZERO,
            "nothing divides by 0"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// In any span of time a client that waits as it is told takes at most what the rate gives, one burst, and the
        /// message that it was found out by. And it is not told to wait for longer than it takes to pay.
        #[test]
        fn the_rate_is_kept_but_for_one_burst(
            rate in 1_u64..10_000_000,
            steps in prop::collection::vec((0_u64..20_000_000, 0_u64..3_000), 1..100),
        ) {
            let mut bucket = Bucket::new(rate, START);
            let (mut now, mut taken, mut largest, mut waited) = (START, 0_u128, 0_u64, Duration::ZERO);
            for (amount, rest_ms) in steps {
                let wait = bucket.charge(rate, amount, now);
                taken += u128::from(amount);
                largest = largest.max(amount);
                waited += wait;
                let paid = (now - START + wait + BURST).as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(taken <= paid + 100, "{taken} of {paid}, which nobody has paid for");
                let given = (now - START + BURST).as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(taken <= given + u128::from(largest) + 100, "{taken} of {given}");
                now += wait + Duration::from_millis(rest_ms);
            }
            let needed = taken * 1_000_000_000 / u128::from(rate);
            prop_assert!(waited.as_nanos() <= needed, "it waited {waited:?} for {needed} ns");
        }
    }
}
