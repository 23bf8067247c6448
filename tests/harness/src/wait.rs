//! Waiting for a state of another process. There is nothing to await in one that was not built to be watched, so
//! this asks again and again, in one place, under a deadline that only a broken test meets.

#![allow(
    clippy::disallowed_methods,
    reason = "what is waited for runs in no runtime of this process"
)]

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(150);
const PAUSE: Duration = Duration::from_millis(20);
/// What one question counts for at most: a machine that stops for a while does not fail the test.
const LONGEST: Duration = Duration::from_secs(5);
/// It is asked so often at least: some questions take seconds.
const LEAST: u32 = 10;

/// Asks until the answer is `Some`.
///
/// # Panics
/// When it is not within [`PATIENCE`]; the message says what was waited for.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

/// As [`until`], with its own deadline.
///
/// # Panics
/// When it is not `Some` in time.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let (mut left, mut asked_for) = (patience, 0);
    loop {
        asked_for += 1;
        let asked = Instant::now();
        if let Some(answer) = ask() {
            return answer;
        }
        thread::sleep(PAUSE);
        left = left.saturating_sub(asked.elapsed().min(LONGEST));
        assert!(
            !left.is_zero() || asked_for < LEAST,
            "waited {patience:?} in vain, and asked {asked_for} times: {what}"
        );
    }
}
