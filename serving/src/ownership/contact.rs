//! How well this process can reach the metadata store: when it last did, and since when without a gap. Written by the
//! keep-alive of the registration; read by whoever must tell a silent store from a dead broker (DESIGN 6).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Keep-alives of a lease are sent this many times in its time to live.
pub const KEEP_ALIVES_PER_TTL: u32 = 3;

/// Contact with the metadata store, as its answers to keep-alives show it.
#[derive(Debug)]
pub struct Contact {
    ttl: Duration,
    state: Mutex<State>,
    silent: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    last: Instant,
    unbroken_since: Instant,
}

impl Contact {
    /// Contact made at `now` for the first time. `ttl`: of the lease that is kept alive.
    pub fn new(ttl: Duration, now: Instant) -> Self {
        let state = Mutex::new(State { last: now, unbroken_since: now });
        Self { ttl, state, silent: watch::Sender::new(false) }
    }

    /// An answer arrived at `now` to a request sent at `sent`.
    pub fn answered(&self, sent: Instant, now: Instant) {
        let mut state = self.state.lock();
        if sent.saturating_duration_since(state.last) > self.gap() {
            state.unbroken_since = now;
        }
        state.last = state.last.max(sent);
        self.silent.send_if_modified(|silent| std::mem::replace(silent, false));
    }

    /// A request got no answer in time.
    pub fn unanswered(&self) {
        self.silent.send_if_modified(|silent| !std::mem::replace(silent, true));
    }

    /// Follows whether the store is silent: the newest request got no answer. An owner asks its bookies then (DESIGN 6).
    pub fn silence(&self) -> watch::Receiver<bool> {
        self.silent.subscribe()
    }

    /// When the last request was sent that the store answered.
    pub fn last(&self) -> Instant {
        self.state.lock().last
    }

    /// A gap is longer than the interval of keep-alives, with room for slow answers, and shorter than any pause of
    /// the store that ends a kept-alive lease: that takes the time to live less one interval.
    fn gap(&self) -> Duration {
        self.ttl / 2
    }

    /// Whether a lease that ended just now was not ended by a pause of the store: there was contact without a gap for
    /// a whole time to live, up to now. A keep-alive that is answered first thing after a pause does not hide it.
    pub fn proves_no_pause(&self, now: Instant) -> bool {
        let state = *self.state.lock();
        now.saturating_duration_since(state.last) <= self.gap()
            && now.saturating_duration_since(state.unbroken_since) >= self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_pause_spoils_the_proof_for_a_time_to_live() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let contact = Contact::new(6 * SECOND, start);
        assert!(!contact.proves_no_pause(at(1)), "it was not watched for long enough");
        for second in [2, 4, 6] {
            contact.answered(at(second), at(second));
        }
        assert!(contact.proves_no_pause(at(8)));
        assert!(!contact.proves_no_pause(at(10)), "the last answer is too old");
        // The store was paused from 6 to 11; a keep-alive sent at 10 is answered before anything else.
        contact.answered(at(10), at(11));
        assert_eq!(contact.last(), at(10));
        assert!(!contact.proves_no_pause(at(11)));
        for second in [12, 14, 16] {
            contact.answered(at(second), at(second));
            assert!(!contact.proves_no_pause(at(second)));
        }
        assert!(contact.proves_no_pause(at(17)));
    }
}
