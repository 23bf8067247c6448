//! The time that a machine lives in. It stands still while the log does: whoever waits for an answer that the log holds back
//! cannot be told anything and says nothing meanwhile, so that time must not count as their silence. Pure.
//!
//! ```text
//!   outside   ──appended──┬── PATIENCE ──┬───── the log stalls ─────┬──acknowledged──►
//!   machine   ────────────┴──────────────┤   (stands still)         ├────────────────►
//! ```

use std::collections::VecDeque;

/// An entry that is not acknowledged for longer has stalled, milliseconds. Below a quarter of the shortest session of a classic
/// member, which says nothing between the answer to one heartbeat and the next.
const PATIENCE_MS: u64 = 1_000;

/// The machine's clock. All times are milliseconds; `outside_ms` never goes back.
#[derive(Debug, Default)]
pub struct Clock {
    outside_ms: u64,
    now_ms: u64,
    /// Entries on their way, by number, and when they were appended. As many as the gate lets out.
    flying: VecDeque<(u64, u64)>,
}

impl Clock {
    /// The machine's time now.
    pub fn now_ms(&mut self, outside_ms: u64) -> u64 {
        let runs_until = self.stalls_at().map_or(outside_ms, |at| at.min(outside_ms));
        self.now_ms += runs_until.saturating_sub(self.outside_ms);
        self.outside_ms = self.outside_ms.max(outside_ms);
        self.now_ms
    }

    /// When the machine's time will be `at_ms`, outside: `None` while it stands still.
    pub fn outside(&self, at_ms: u64) -> Option<u64> {
        let stalls = self.stalls_at().is_some_and(|at| at <= self.outside_ms);
        (!stalls).then(|| self.outside_ms + at_ms.saturating_sub(self.now_ms))
    }

    /// An entry goes on its way.
    pub fn appended(&mut self, number: u64, outside_ms: u64) {
        self.now_ms(outside_ms);
        self.flying.push_back((number, self.outside_ms));
    }

    /// The log has all entries up to `through`.
    pub fn acked(&mut self, through: u64, outside_ms: u64) {
        self.now_ms(outside_ms);
        while self.flying.pop_front_if(|(number, _)| *number <= through).is_some() {}
    }

    fn stalls_at(&self) -> Option<u64> {
        self.flying.front().map(|(_, appended_ms)| appended_ms + PATIENCE_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_runs_while_the_log_does() {
        let mut clock = Clock::default();
        for round in 0..100 {
            clock.appended(round, round * 500);
            clock.acked(round, round * 500 + 499);
        }
        assert_eq!(clock.now_ms(60_000), 60_000);
        assert_eq!(clock.outside(61_000), Some(61_000));
    }

    #[test]
    fn time_stands_still_while_an_entry_waits_for_long() {
        let mut clock = Clock::default();
        clock.appended(1, 100);
        clock.appended(2, 5_000);
        assert_eq!(clock.now_ms(20_000), 1_100, "since an acknowledgement was due");
        assert_eq!(clock.outside(1_101), None);
        clock.acked(1, 20_000);
        assert_eq!(clock.now_ms(21_000), 1_100, "the next one waits as well");
        clock.acked(2, 21_000);
        assert_eq!(clock.now_ms(21_500), 1_600);
        assert_eq!(clock.outside(2_000), Some(21_900));
    }

    #[test]
    fn an_entry_that_goes_on_in_time_costs_nothing() {
        let mut clock = Clock::default();
        clock.appended(1, 0);
        assert_eq!(clock.now_ms(900), 900);
        assert_eq!(clock.outside(5_000), Some(5_000), "if the log goes on");
        clock.appended(2, 900);
        clock.acked(1, 999);
        assert_eq!(clock.now_ms(1_800), 1_800);
    }
}
