//! Which marked ledger is repaired next: pure. Fewest copies first, then the oldest mark; one place is always kept for those with one
//! copy left, so that many that are merely short never starve the one that is nearly lost (6.9).

use std::collections::HashMap;
use std::time::Duration;

use geminga_metastore::record::Under;
use geminga_proto::ids::LedgerId;
use tokio::time::Instant;

/// Marks that are remembered as put off; beyond them the soonest are forgotten, and merely tried again.
const MAX_PUT_OFF: usize = 10_000;
/// Longest pause before a ledger is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Copies of a mark that does not say: a writer's, whose entries are on Qa members.
const UNSAID_COPIES: u32 = 2;

/// A marked ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) ledger: LedgerId,
    pub(super) copies: u32,
    pub(super) created_ms: i64,
}

impl Marked {
    pub(super) fn of(mark: &Under) -> Self {
        let copies = mark.copies.unwrap_or(UNSAID_COPIES);
        Self { ledger: mark.ledger, copies, created_ms: mark.created_ms }
    }

    /// Whether it may take the place that is kept.
    fn is_urgent(self) -> bool {
        self.copies <= 1
    }
}

#[derive(Debug, Clone, Copy)]
struct PutOff {
    until: Instant,
    times: u32,
}

/// What runs, and what waits.
#[derive(Debug)]
pub(super) struct Queue {
    slots: usize,
    running: Vec<Marked>,
    put_off: HashMap<LedgerId, PutOff>,
}

impl Queue {
    /// `slots` places, at least two.
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: slots.max(2), running: Vec::new(), put_off: HashMap::new() }
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.running.len() >= self.slots
    }

    /// What to begin now, most urgent first; the caller tries one after the other until [`Queue::may_begin`] says no.
    pub(super) fn order(&self, mut marks: Vec<Marked>, now: Instant) -> Vec<Marked> {
        marks.retain(|mark| {
            let off = self.put_off.get(&mark.ledger).is_some_and(|off| off.until > now);
            !off && self.running.iter().all(|running| running.ledger != mark.ledger)
        });
        marks.sort_by_key(|mark| (mark.copies, mark.created_ms, mark.ledger));
        marks
    }

    /// Whether there is a place for it.
    pub(super) fn may_begin(&self, mark: Marked) -> bool {
        let others = self.running.iter().filter(|running| !running.is_urgent()).count();
        !self.is_full() && (mark.is_urgent() || others + 1 < self.slots)
    }

    pub(super) fn began(&mut self, mark: Marked) {
        self.running.push(mark);
    }

    /// It ended and needs no more.
    pub(super) fn done(&mut self, ledger: LedgerId) {
        self.running.retain(|running| running.ledger != ledger);
        self.put_off.remove(&ledger);
    }

    /// It ended and is to be tried again, later each time.
    pub(super) fn again(&mut self, ledger: LedgerId, pause: Duration, now: Instant) {
        self.running.retain(|running| running.ledger != ledger);
        let times = self.put_off.get(&ledger).map_or(0, |off| off.times);
        let pause = MAX_PAUSE.min(pause * 2u32.saturating_pow(times.min(10)));
        if self.put_off.len() >= MAX_PUT_OFF {
            let soonest = self.put_off.iter().min_by_key(|(_, off)| off.until);
            if let Some(soonest) = soonest.map(|(ledger, _)| *ledger) {
                self.put_off.remove(&soonest);
            }
        }
        self.put_off.insert(ledger, PutOff { until: now + pause, times: times + 1 });
    }

    /// Bookies came or went: everything may be possible now.
    pub(super) fn forget_pauses(&mut self) {
        self.put_off.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(ledger: u64, copies: u32, created_ms: i64) -> Marked {
        Marked { ledger: LedgerId(ledger), copies, created_ms }
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_go_first_and_have_a_place_of_their_own() {
        let mut queue = Queue::new(3);
        let marks = vec![mark(1, 2, 5), mark(2, 2, 3), mark(3, 1, 9), mark(4, 2, 1)];
        let order = queue.order(marks.clone(), Instant::now());
        let order: Vec<u64> = order.iter().map(|mark| mark.ledger.0).collect();
        assert_eq!(order, [3, 4, 2, 1]);
        // Two of three places for those with two copies; the third is kept.
        for ledger in [1, 2] {
            assert!(queue.may_begin(mark(ledger, 2, 0)));
            queue.began(mark(ledger, 2, 0));
        }
        assert!(!queue.may_begin(mark(4, 2, 1)));
        assert!(queue.may_begin(mark(3, 1, 9)));
        queue.began(mark(3, 1, 9));
        assert!(!queue.may_begin(mark(9, 0, 0)), "full is full");
        queue.done(LedgerId(1));
        assert!(queue.may_begin(mark(4, 2, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_wait_is_tried_ever_more_rarely() {
        let mut queue = Queue::new(2);
        let (pause, marks) = (Duration::from_secs(5), vec![mark(1, 2, 0)]);
        for expected in [5, 10, 20, 40, 60, 60] {
            queue.again(LedgerId(1), pause, Instant::now());
            let almost = Instant::now() + Duration::from_secs(expected - 1);
            assert!(queue.order(marks.clone(), almost).is_empty(), "{expected}");
            tokio::time::advance(Duration::from_secs(expected)).await;
            assert_eq!(queue.order(marks.clone(), Instant::now()).len(), 1, "{expected}");
        }
        queue.again(LedgerId(1), pause, Instant::now());
        queue.forget_pauses();
        assert_eq!(queue.order(marks, Instant::now()).len(), 1);
    }
}
