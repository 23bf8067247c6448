//! How long to wait before trying again: doubling from a first pause to a longest one, and shortened by chance so that
//! many clients of one dead broker do not come back at one instant.

use std::time::Duration;

use geminga_runtime::Random;

/// First pause. Also gives what is still on its way at a broken broker time to end before it is repeated.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause after `failures` failures in a row (1 = the first).
pub(crate) fn pause(failures: u32, random: &dyn Random) -> Duration {
    let doublings = failures.saturating_sub(1).min(10);
    let full = FIRST.saturating_mul(1 << doublings).min(LONGEST);
    let half = u64::try_from(full.as_micros() / 2).unwrap_or(u64::MAX);
    Duration::from_micros(half + random.below(half + 1))
}

#[cfg(test)]
mod tests {
    use geminga_runtime::SeededRandom;

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let random = SeededRandom::new(1);
        for failures in 0..100 {
            let pause = pause(failures, &random);
            let full = FIRST * 2_u32.pow(failures.saturating_sub(1).min(5));
            assert!(
                pause >= FIRST / 2 && pause <= LONGEST && pause <= full,
                "{failures}: {pause:?}"
            );
        }
    }
}
