//! When something is due, told to some hundredths of a millisecond: the timers of the runtime know milliseconds, and a disk is done before
//! that.

use std::num::NonZeroU64;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// See the [module](self). The thread that waits ends with it.
#[derive(Debug)]
pub(super) struct Ticks {
    due: Option<mpsc::Receiver<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticks {
    /// `count` moments, `rate` a second, from `begin` on.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(begin: Instant, count: u64, rate: NonZeroU64) -> std::io::Result<Self> {
        // Whoever does not come for one in time gets those behind it late, and as of when they were due.
        let (tell, due) = mpsc::channel(1);
        let thread =
            std::thread::Builder::new().name("perf ticks".to_owned()).spawn(move || {
                for number in 0..count {
                    let at = begin + Duration::from_secs_f64(number as f64 / rate.get() as f64);
                    std::thread::sleep(at.saturating_duration_since(Instant::now()));
                    if tell.blocking_send(at).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self { due: Some(due), thread: Some(thread) })
    }

    /// When the next was due, once it is. `None` after the last. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Instant> {
        self.due.as_mut()?.recv().await
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        self.due = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and ends at the next moment at the latest.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn they_come_when_they_are_due() {
        let begin = Instant::now();
        let mut ticks = Ticks::start(begin, 5, NonZeroU64::new(200).unwrap()).unwrap();
        for number in 0..5 {
            let due = ticks.next().await.unwrap();
            assert_eq!(due, begin + Duration::from_millis(5) * number);
            assert!(due <= Instant::now());
        }
        assert_eq!(ticks.next().await, None);
    }
}
