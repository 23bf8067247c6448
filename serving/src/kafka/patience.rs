//! How long a client waits for what it asked of an API that changes things. What is not done by then is answered with
//! REQUEST_TIMED_OUT, as by Kafka: what had begun may yet be done, and what had not is not begun.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::error::{Code, Fault};

/// For a client that gives no time, or more.
const LONGEST: Duration = Duration::from_mins(5);
/// For who has room that others wait for.
const SHORT: Duration = Duration::from_secs(5);

/// The time that a request was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    end: Instant,
}

impl Patience {
    /// From now on; none, or less, is for clients that leave it to the broker.
    pub(super) fn of(timeout_ms: i32) -> Self {
        let given = u64::try_from(timeout_ms).ok().filter(|ms| *ms > 0);
        let given = given.map_or(LONGEST, Duration::from_millis).min(LONGEST);
        Self { end: Instant::now() + given }
    }

    /// Of what describes things: it holds room for its answer while it asks.
    pub(super) fn with_room() -> Self {
        Self { end: Instant::now() + SHORT }
    }

    /// How work ends that is begun and ended in time.
    ///
    /// # Errors
    /// Those of the work; REQUEST_TIMED_OUT.
    pub(super) async fn hold<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        if Instant::now() >= self.end {
            let why = "nothing was done before the request's time was over: ask again, for less";
            return Err(Fault::new(Code::REQUEST_TIMED_OUT, why));
        }
        timeout_at(self.end, work).await.unwrap_or_else(|_| {
            let why =
                "it was not done within the request's time, and may yet be: look whether it is";
            Err(Fault::new(Code::REQUEST_TIMED_OUT, why))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_late_is_said_to_be_and_what_has_not_begun_does_not_begin() {
        let (begun, patience) = (Instant::now(), Patience::of(300));
        assert_eq!(patience.hold(async { Ok(1) }).await, Ok(1));
        let late = patience.hold(pending::<Result<(), Fault>>()).await.unwrap_err();
        assert_eq!((late.code, begun.elapsed().as_millis()), (Code::REQUEST_TIMED_OUT, 300));
        let never = patience.hold(async { unreachable!("the time is over") as Result<(), Fault> });
        assert_eq!(never.await.unwrap_err().code, Code::REQUEST_TIMED_OUT);
        assert_eq!(begun.elapsed().as_millis(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_no_time_leaves_it_to_the_broker() {
        for given in [0, -1, i32::MIN, i32::MAX] {
            let (begun, patience) = (Instant::now(), Patience::of(given));
            assert!(patience.hold(pending::<Result<(), Fault>>()).await.is_err());
            assert_eq!(begun.elapsed(), LONGEST);
        }
    }
}
