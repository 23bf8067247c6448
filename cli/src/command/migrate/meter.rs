//! What a run tells while it goes on, and how fast it may go.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::copying::Copying;
use super::source::MOST_BYTES;

/// The same complaint is not made again within this time.
const QUIET: Duration = Duration::from_secs(60);

/// Less is not fetched at once, however slow it is to be.
const LEAST_BYTES: u64 = 16 * 1024;

/// Counts what is copied and what is not yet.
#[derive(Debug, Default)]
pub(super) struct Meter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Records, bytes and lag by partition.
    partitions: BTreeMap<(String, u32), (u64, u64, i64)>,
    said: BTreeMap<String, Instant>,
}

/// All together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) lag: i64,
}

impl Meter {
    /// How some partitions are doing.
    pub(super) fn note(&self, partitions: &[Copying]) {
        let mut state = self.state.lock();
        for copying in partitions {
            let key = (copying.topic.to_string(), copying.partition);
            state.partitions.insert(key, (copying.records, copying.bytes, copying.lag()));
        }
    }

    /// How all are doing.
    pub(super) fn totals(&self) -> Totals {
        let state = self.state.lock();
        state.partitions.values().fold(Totals::default(), |sum, (records, bytes, lag)| Totals {
            records: sum.records + records,
            bytes: sum.bytes + bytes,
            lag: sum.lag + lag,
        })
    }

    /// Says something that a person should know of, if it was not said just now.
    pub(super) fn say(&self, what: &str) {
        let mut state = self.state.lock();
        state.said.retain(|_, at| at.elapsed() < QUIET);
        if state.said.insert(what.to_owned(), Instant::now()).is_none() {
            self.tell(what);
        }
    }

    /// Says how it is doing.
    pub(super) fn tell(&self, what: &str) {
        // Nobody reads it where standard error is gone.
        let _ = writeln!(std::io::stderr(), "{what}");
    }
}

/// Bytes a second, of all lanes together.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<u64>,
    /// When the next bytes may be fetched, microseconds since the start.
    next: AtomicU64,
    start: Instant,
}

impl Pace {
    /// No faster than so many bytes a second.
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, next: AtomicU64::new(0), start: Instant::now() }
    }

    /// How much to fetch at once: a moment's worth, so that it goes evenly.
    pub(super) fn piece(&self) -> u64 {
        self.rate.map_or(MOST_BYTES, |rate| (rate / 4).clamp(LEAST_BYTES, MOST_BYTES))
    }

    /// So many bytes were fetched: waits until more may be, or until the run is to stop.
    pub(super) async fn wait(&self, bytes: usize, mut stop: watch::Receiver<bool>) {
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else { return };
        let costs = u64::try_from(bytes as u128 * 1_000_000 / u128::from(rate)).unwrap_or(u64::MAX);
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        let due = |next: u64| next.max(now).saturating_add(costs);
        let before =
            self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, |next| Some(due(next)));
        let until = self.start + Duration::from_micros(due(before.unwrap_or(0)));
        tokio::select! {
            () = sleep_until(until) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        let (_keep, stop) = watch::channel(false);
        let pace = Pace::new(Some(1_000));
        let begin = Instant::now();
        for _ in 0..4 {
            pace.wait(500, stop.clone()).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 2);
        let (_keep, stop) = watch::channel(true);
        pace.wait(1 << 30, stop).await;
        assert_eq!(begin.elapsed().as_secs(), 2);
        Pace::new(None).wait(1 << 30, watch::channel(false).1).await;
    }
}
