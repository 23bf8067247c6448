//! Waiting for a state of another process. There is nothing to await in one that was not built to be watched, so
//! this asks again and again, in one place, under a deadline that only a broken test meets.

use std::thread;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until the answer is `Some`.
///
/// # Panics
/// When it is not within [`PATIENCE`]; the message says what was waited for.
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, ask)
}

/// As [`until`], with its own deadline.
///
/// # Panics
/// When it is not `Some` in time.
pub fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    // Counted in pauses, not by a clock: a machine that stops for a while does not fail the test.
    let tries = (patience.as_millis() / PAUSE.as_millis()).max(1);
    for _ in 0..tries {
        if let Some(answer) = ask() {
            return answer;
        }
        thread::sleep(PAUSE);
    }
    panic!("waited {patience:?} in vain: {what}");
}
