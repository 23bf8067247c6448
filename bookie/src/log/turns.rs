//! Who may read the disk now. Few reads are under way at a time, so that adds, which wait for the same disk, are not held up by
//! readers that are behind; the rest stand in line, one line for each ledger, and the lines take turns: a ledger that is
//! asked for much waits behind itself. What is in memory needs no turn.
//!
//! Bounded: [`Turns::MAX_WAITING`] stand in line at most. One lock, held for moments.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use geminga_proto::ids::LedgerId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::metrics;

/// The turns of one disk; cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Turns(Arc<Mutex<Lines>>);

/// Leave to read; the next in line gets it when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None`: it was handed on.
    turns: Option<Turns>,
}

/// More stand in line than may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crowded;

#[derive(Debug)]
struct Lines {
    free: usize,
    waiting: usize,
    of: HashMap<LedgerId, VecDeque<oneshot::Sender<Turn>>>,
    /// Ledgers with a line, each once; the next to have a turn is in front.
    ring: VecDeque<LedgerId>,
}

impl Turns {
    /// Most reads that stand in line for one disk.
    const MAX_WAITING: usize = 4096;

    /// So many at a time.
    pub(super) fn new(at_a_time: usize) -> Self {
        let (of, ring) = (HashMap::new(), VecDeque::new());
        Self(Arc::new(Mutex::new(Lines { free: at_a_time, waiting: 0, of, ring })))
    }

    /// Waits for a turn to read this ledger. Cancel-safe.
    ///
    /// # Errors
    /// [`Crowded`], at once.
    pub(super) async fn take(&self, ledger: LedgerId) -> Result<Turn, Crowded> {
        let turn = {
            let mut lines = self.0.lock();
            if lines.free > 0 {
                lines.free -= 1;
                return Ok(Turn { turns: Some(self.clone()) });
            }
            lines.stand(ledger)?
        };
        metrics::reads_waiting(1.0);
        let _shown = Shown;
        Ok(turn.await.expect("whoever has a turn gives it to the next in line"))
    }

    /// Gives a turn that is over to whoever is next, or keeps it for who comes.
    fn pass_on(&self) {
        loop {
            let Some(next) = self.0.lock().next() else { return };
            let turn = Turn { turns: Some(self.clone()) };
            let Err(mut unwanted) = next.send(turn) else { return };
            // Gone meanwhile: the turn is the next one's, and not this drop's to pass on.
            unwanted.turns = None;
        }
    }
}

impl Lines {
    fn stand(&mut self, ledger: LedgerId) -> Result<oneshot::Receiver<Turn>, Crowded> {
        if self.waiting >= Turns::MAX_WAITING {
            return Err(Crowded);
        }
        let (give, turn) = oneshot::channel();
        let line = self.of.entry(ledger).or_default();
        if line.is_empty() {
            self.ring.push_back(ledger);
        }
        line.push_back(give);
        self.waiting += 1;
        Ok(turn)
    }

    /// Takes the next out of its line; counts the turn as free when there is none.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let Some(ledger) = self.ring.pop_front() else {
            self.free += 1;
            return None;
        };
        let line = self.of.get_mut(&ledger).expect("a ledger in the ring has a line");
        let next = line.pop_front();
        if line.is_empty() {
            self.of.remove(&ledger);
        } else {
            self.ring.push_back(ledger);
        }
        self.waiting -= 1;
        next
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

/// One that stands in line, in the metric.
struct Shown;

impl Drop for Shown {
    fn drop(&mut self) {
        metrics::reads_waiting(-1.0);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    fn ask(turns: &Turns, ledger: u64) -> BoxFuture<'static, Result<Turn, Crowded>> {
        let turns = turns.clone();
        let mut asked = async move { turns.take(LedgerId(ledger)).await }.boxed();
        assert!((&mut asked).now_or_never().is_none(), "nobody is let in beyond the bound");
        asked
    }

    fn served(asked: &mut BoxFuture<'static, Result<Turn, Crowded>>) -> Option<Turn> {
        asked.now_or_never().map(Result::unwrap)
    }

    #[test]
    fn a_ledger_that_is_asked_for_much_waits_behind_itself() {
        let turns = Turns::new(1);
        let first = turns.take(LedgerId(1)).now_or_never().unwrap().unwrap();
        let mut greedy: Vec<_> = (0..100).map(|_| ask(&turns, 1)).collect();
        let mut modest = ask(&turns, 2);
        drop(first);
        let turn = served(&mut greedy[0]).expect("it was first");
        assert!(served(&mut modest).is_none());
        drop(turn);
        let turn = served(&mut modest).expect("before the ninety-nine");
        assert!(served(&mut greedy[1]).is_none());
        drop(turn);
        assert!(served(&mut greedy[1]).is_some());
    }

    #[test]
    fn a_turn_of_one_that_went_away_is_the_next_ones() {
        let turns = Turns::new(2);
        let held: Vec<_> =
            (0..2).map(|_| turns.take(LedgerId(1)).now_or_never().unwrap().unwrap()).collect();
        let mut asked: Vec<_> = (0..1000).map(|n| ask(&turns, n % 3)).collect();
        let mut last = asked.pop().unwrap();
        drop(asked);
        drop(held);
        assert!(served(&mut last).is_some());
        // One that got its turn and never looked gives it back.
        let held: Vec<_> =
            (0..2).map(|_| turns.take(LedgerId(1)).now_or_never().unwrap().unwrap()).collect();
        let unseen = ask(&turns, 1);
        drop(held);
        drop(unseen);
        let lines = turns.0.lock();
        assert_eq!((lines.free, lines.waiting, lines.of.len(), lines.ring.len()), (2, 0, 0, 0));
    }

    #[test]
    fn the_lines_are_bounded() {
        let turns = Turns::new(1);
        let _held = turns.take(LedgerId(1)).now_or_never().unwrap().unwrap();
        let _waiting: Vec<_> = (0..Turns::MAX_WAITING).map(|n| ask(&turns, n as u64)).collect();
        let refused = turns.take(LedgerId(1)).now_or_never().unwrap();
        assert_eq!(refused.unwrap_err(), Crowded);
    }
}
