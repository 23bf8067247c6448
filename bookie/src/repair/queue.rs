//! Which marked ledger is repaired next: pure. Fewest copies first, then the oldest mark; one place is always kept for those with one
//! copy left, so that many that are merely short never starve the one that is nearly lost (6.9).
//!
//! * A mark that was tried and could not progress comes behind all that were not tried yet, and behind those that were tried longer ago,
//!   so that any number of them, waiting for a bookie or for a writer, never keep the others from their turn.
//! * A ledger of which an entry is lost comes last, takes one place at most, and never the one that is kept: nothing is saved by hurrying.
//! * A ledger that lacks nothing, whose copies are merely to be spread better, begins only while nothing else runs or could.

use std::collections::HashMap;
use std::time::Duration;

use geminga_metastore::record::Under;
use geminga_proto::ids::LedgerId;
use tokio::time::Instant;

/// Marks that are remembered as put off; beyond them the soonest are forgotten, and merely tried again.
const MAX_PUT_OFF: usize = 100_000;
/// Longest pause before a ledger is tried again.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Copies of a mark that does not say: a writer's, whose entries are on Qa members.
const UNSAID_COPIES: u32 = 2;

/// A marked ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) ledger: LedgerId,
    pub(super) copies: u32,
    /// Whether no copy is known of one of its entries.
    pub(super) lost: bool,
    /// Whether all copies are there, and are merely to move.
    pub(super) moves: bool,
    pub(super) created_ms: i64,
}

impl Marked {
    pub(super) fn of(mark: &Under) -> Self {
        let copies = mark.copies.unwrap_or(UNSAID_COPIES);
        let (lost, moves) = (mark.lost_entry.is_some(), mark.only_moves());
        Self { ledger: mark.ledger, copies, lost, moves, created_ms: mark.created_ms }
    }

    /// Whether it may take the place that is kept.
    fn is_urgent(self) -> bool {
        self.copies <= 1 && !self.lost && !self.moves
    }
}

#[derive(Debug, Clone, Copy)]
struct PutOff {
    until: Instant,
    /// When it was tried last.
    tried: Instant,
    /// How often it could not progress.
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
    pub(super) fn order(&self, marks: impl Iterator<Item = Marked>, now: Instant) -> Vec<Marked> {
        let mut due: Vec<(Option<Instant>, Marked)> = marks
            .filter_map(|mark| {
                let off = self.put_off.get(&mark.ledger);
                let waits = off.is_some_and(|off| off.until > now);
                let runs = self.running.iter().any(|running| running.ledger == mark.ledger);
                (!waits && !runs).then_some((off.map(|off| off.tried), mark))
            })
            .collect();
        due.sort_unstable_by_key(|(tried, mark)| {
            (mark.moves, mark.lost, *tried, mark.copies, mark.created_ms, mark.ledger)
        });
        due.into_iter().map(|(_, mark)| mark).collect()
    }

    /// Whether there is a place for it.
    pub(super) fn may_begin(&self, mark: Marked) -> bool {
        let others = self.running.iter().filter(|running| !running.is_urgent()).count();
        let lost = mark.lost && self.running.iter().any(|running| running.lost);
        if mark.moves {
            return self.running.is_empty();
        }
        !self.is_full() && !lost && (mark.is_urgent() || others + 1 < self.slots)
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
        let times = times.saturating_add(1);
        self.put_off(ledger, PutOff { until: now + pause, tried: now, times });
    }

    /// Somebody else repairs it.
    pub(super) fn taken(&mut self, ledger: LedgerId, pause: Duration, now: Instant) {
        let times = self.put_off.get(&ledger).map_or(0, |off| off.times);
        self.put_off(ledger, PutOff { until: now + pause, tried: now, times });
    }

    fn put_off(&mut self, ledger: LedgerId, off: PutOff) {
        if self.put_off.len() >= MAX_PUT_OFF && !self.put_off.contains_key(&ledger) {
            let soonest = self.put_off.iter().min_by_key(|(_, off)| off.until);
            if let Some(soonest) = soonest.map(|(ledger, _)| *ledger) {
                self.put_off.remove(&soonest);
            }
        }
        self.put_off.insert(ledger, off);
    }

    /// It is not marked any more.
    pub(super) fn unmarked(&mut self, ledger: LedgerId) {
        self.put_off.remove(&ledger);
    }

    /// Bookies came or went: everything may be possible now. Whose turn it is stays: a bookie that comes and goes all the time would let
    /// those that wait for another go first for ever.
    pub(super) fn forget_pauses(&mut self, now: Instant) {
        for off in self.put_off.values_mut() {
            *off = PutOff { until: now, times: 0, tried: off.tried };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(ledger: u64, copies: u32, created_ms: i64) -> Marked {
        Marked { ledger: LedgerId(ledger), copies, lost: false, moves: false, created_ms }
    }

    fn order(queue: &Queue, marks: &[Marked]) -> Vec<u64> {
        let order = queue.order(marks.iter().copied(), Instant::now());
        order.iter().map(|mark| mark.ledger.0).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_go_first_and_have_a_place_of_their_own() {
        let mut queue = Queue::new(3);
        let marks = [mark(1, 2, 5), mark(2, 2, 3), mark(3, 1, 9), mark(4, 2, 1)];
        assert_eq!(order(&queue, &marks), [3, 4, 2, 1]);
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

    /// Ledgers of which an entry is lost have no copies left, and no hurry either.
    #[tokio::test(start_paused = true)]
    async fn what_is_lost_comes_last_and_takes_one_place() {
        let mut queue = Queue::new(3);
        let lost = |ledger| Marked { lost: true, ..mark(ledger, 0, 0) };
        let marks = [lost(1), lost(2), mark(3, 2, 9), mark(4, 1, 9)];
        assert_eq!(order(&queue, &marks), [4, 3, 1, 2]);
        queue.began(lost(1));
        assert!(!queue.may_begin(lost(2)));
        queue.began(mark(3, 2, 9));
        queue.done(LedgerId(1));
        queue.began(mark(5, 2, 9));
        assert!(!queue.may_begin(lost(2)), "the place is kept for others");
        assert!(queue.may_begin(mark(4, 1, 9)));
    }

    /// 6.7: what is merely to be spread better holds up nothing that is missing.
    #[tokio::test(start_paused = true)]
    async fn copies_move_while_nothing_else_is_to_be_done() {
        let mut queue = Queue::new(4);
        let moves = |ledger| Marked { moves: true, ..mark(ledger, 0, 0) };
        let lost = Marked { lost: true, ..mark(3, 0, 0) };
        let marks = [moves(1), moves(2), lost, mark(4, 3, 9)];
        assert_eq!(order(&queue, &marks), [4, 3, 1, 2]);
        queue.began(mark(4, 3, 9));
        assert!(!queue.may_begin(moves(1)));
        queue.done(LedgerId(4));
        assert!(queue.may_begin(moves(1)));
        queue.began(moves(1));
        assert!(!queue.may_begin(moves(2)), "one at a time");
        assert!(queue.may_begin(mark(4, 3, 9)));
    }

    /// 6.9: any number that wait for a bookie, for ever, and one that came last and could be repaired.
    #[tokio::test(start_paused = true)]
    async fn marks_that_cannot_progress_do_not_starve_others() {
        let (mut queue, pause) = (Queue::new(4), Duration::from_secs(2));
        let mut marks: Vec<Marked> = (0..1000).map(|ledger| mark(ledger, 1, 0)).collect();
        let mut turns = 0;
        for second in 0..3600 {
            if second == 1200 {
                marks.push(mark(5000, 2, 99));
            }
            for ledger in order(&queue, &marks).into_iter().take(3) {
                if ledger == 5000 {
                    turns += 1;
                }
                queue.again(LedgerId(ledger), pause, Instant::now());
            }
            assert!(turns > 0 || second <= 1200, "its turn did not come, second {second}");
            // A bookie that comes and goes makes everything due.
            if second % 10 == 0 {
                queue.forget_pauses(Instant::now());
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(turns > 1, "it had one turn only");
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_wait_is_tried_ever_more_rarely() {
        let mut queue = Queue::new(2);
        let (pause, marks) = (Duration::from_secs(5), [mark(1, 2, 0)]);
        for expected in [5, 10, 20, 40, 60, 60] {
            queue.again(LedgerId(1), pause, Instant::now());
            tokio::time::advance(Duration::from_secs(expected - 1)).await;
            assert!(order(&queue, &marks).is_empty(), "{expected}");
            tokio::time::advance(Duration::from_secs(1)).await;
            assert_eq!(order(&queue, &marks).len(), 1, "{expected}");
        }
        queue.again(LedgerId(1), pause, Instant::now());
        queue.forget_pauses(Instant::now());
        assert_eq!(order(&queue, &marks).len(), 1);
    }
}
