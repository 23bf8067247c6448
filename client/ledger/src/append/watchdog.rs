//! When a position was last seen to do its part, and how long adds take (2.6).

use std::collections::VecDeque;
use std::time::Duration;

use geminga_proto::ids::EntryId;
use tokio::time::Instant;

use crate::quarantine::Registration;

/// Times one position.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Without a connection since.
    pub(super) away_since: Option<Instant>,
    /// Failed attempts in a row.
    pub(super) attempts: u32,
    /// It answers, but took nothing since it last moved: that it says hello once more is no progress.
    pub(super) refuses: bool,
    /// The ack seen last, and when it moved or had nothing to do.
    acked: EntryId,
    moved_at: Instant,
    /// When it was given up last: others are not looked for in a tight loop.
    given_up_at: Option<Instant>,
    /// What its bookie was registered as, if it was, when it was left out.
    pub(super) left_out_as: Option<Registration>,
    /// While it is not registered: when it is to be asked whether it is there.
    pub(super) ask_at: Option<Instant>,
    /// The last entry of each request without an answer, and when it was sent.
    sent: VecDeque<(EntryId, Instant)>,
}

impl Watchdog {
    /// Of a position that has acknowledged up to `acked`, and is not connected.
    pub(super) fn new(acked: EntryId) -> Self {
        let now = Instant::now();
        Self {
            away_since: Some(now),
            attempts: 0,
            refuses: false,
            acked,
            moved_at: now,
            given_up_at: None,
            left_out_as: None,
            ask_at: None,
            sent: VecDeque::new(),
        }
    }

    /// It acknowledged up to `acked`; `idle`: there is nothing that it could still take.
    pub(super) fn look(&mut self, acked: EntryId, idle: bool, now: Instant) {
        if acked > self.acked || idle {
            self.acked = acked;
            self.moved_at = now;
        }
    }

    /// It says hello.
    pub(super) fn connected(&mut self) {
        self.away_since = None;
        self.sent.clear();
        if !self.refuses {
            self.attempts = 0;
            self.moved_at = Instant::now();
        }
    }

    /// It took entries.
    pub(super) fn moved(&mut self, tail: EntryId, latencies: &mut Latencies) {
        self.refuses = false;
        self.attempts = 0;
        while let Some((_, at)) = self.sent.pop_front_if(|(last, _)| *last <= tail) {
            latencies.record(at.elapsed());
        }
    }

    /// Entries up to `last` are on their way.
    pub(super) fn sent(&mut self, last: EntryId) {
        self.sent.push_back((last, Instant::now()));
    }

    /// How long it has been without a connection, or, connected, without taking what it has to.
    pub(super) fn away(&self, now: Instant) -> Option<Duration> {
        self.away_since.filter(|_| !self.refuses).map(|since| now - since)
    }

    /// How long it has not moved.
    pub(super) fn stuck(&self, now: Instant) -> Duration {
        now - self.moved_at
    }

    /// Whether it may be given up now, which is noted.
    pub(super) fn give_up(&mut self, pause: Duration, now: Instant) -> bool {
        if self.given_up_at.is_some_and(|at| now - at < pause) {
            return false;
        }
        self.given_up_at = Some(now);
        true
    }
}

/// Samples before a percentile says something.
const ENOUGH: u64 = 1000;
/// Old samples count half beyond so many.
const MANY: u64 = 16_384;

/// How long adds take: counts by powers of two of a millisecond.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    counts: [u64; 24],
    total: u64,
}

impl Latencies {
    fn record(&mut self, took: Duration) {
        let bucket = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - bucket.leading_zeros()) as usize;
        self.counts[bucket.min(self.counts.len() - 1)] += 1;
        self.total += 1;
        if self.total >= MANY {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// An upper bound of the 99.9th percentile; zero while too little is known.
    pub(super) fn p999(&self) -> Duration {
        if self.total < ENOUGH {
            return Duration::ZERO;
        }
        let mut above = 0;
        for (bucket, count) in self.counts.iter().enumerate().rev() {
            above += count;
            if above * 1000 > self.total {
                return Duration::from_millis(1 << bucket);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_is_bounded_from_above_and_needs_samples() {
        let mut latencies = Latencies::default();
        for _ in 0..999 {
            latencies.record(Duration::from_millis(3));
        }
        assert_eq!(latencies.p999(), Duration::ZERO);
        latencies.record(Duration::from_millis(900));
        assert_eq!(latencies.p999(), Duration::from_millis(4));
        latencies.record(Duration::from_millis(900));
        assert_eq!(latencies.p999(), Duration::from_millis(1024));
        for _ in 0..10 * MANY {
            latencies.record(Duration::ZERO);
        }
        assert_eq!(latencies.p999(), Duration::from_millis(1), "the past is forgotten");
    }
}
