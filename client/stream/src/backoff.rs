//! How long to wait before trying again: growing by half from a first pause to a longest one, and shortened by chance so that
//! many clients of one dead broker do not come back at one instant. Doubled pauses would let a client wait as long again as
//! a failover took.

use std::time::Duration;

use geminga_runtime::Random;

/// First pause. Also gives what is still on its way at a broken broker time to end before it is repeated.
const FIRST: Duration = Duration::from_millis(50);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// The pause after `failures` failures in a row (1 = the first).
pub(crate) fn pause(failures: u32, random: &dyn Random) -> Duration {
    let growths = failures.saturating_sub(1).min(8);
    let full = (FIRST * 3_u32.pow(growths) / 2_u32.pow(growths)).min(LONGEST);
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
            let full =
                FIRST.mul_f64(1.5_f64.powi(failures.saturating_sub(1).min(50).cast_signed()));
            assert!(
                pause >= FIRST / 2 && pause <= LONGEST && pause <= full,
                "{failures}: {pause:?}"
            );
        }
    }
}
