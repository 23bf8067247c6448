//! Who may read the disk now. Few reads are under way at a time, so that adds, which wait for the same disk, are not held up by
//! readers that are behind; the rest stand in line, one line for each ledger, and the lines take turns: a ledger that is
//! asked for much waits behind itself. What is in memory needs no turn.
//!
//! Bounded: [`Turns::MAX_WAITING`] stand in line at most. When one more comes, the last of the longest line has to go, or the one that
//! comes if its own line is as long: whoever asks for little is never refused because others ask for much. Who went away stands in
//! no line. One lock, held for moments.

use std::collections::{BTreeSet, HashMap, VecDeque};
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
    of: HashMap<LedgerId, Line>,
    /// How long each line is.
    lengths: BTreeSet<(usize, LedgerId)>,
    /// Ledgers with a line, each once; the next to have a turn is in front.
    ring: VecDeque<LedgerId>,
    /// Numbers those who stand in line, in order.
    numbers: u64,
}

/// Those who wait for a turn to read one ledger, by their numbers.
type Line = VecDeque<(u64, oneshot::Sender<Turn>)>;

impl Turns {
    /// Most reads that stand in line for one disk.
    const MAX_WAITING: usize = 4096;

    /// So many at a time.
    pub(super) fn new(at_a_time: usize) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            free: at_a_time,
            waiting: 0,
            of: HashMap::new(),
            lengths: BTreeSet::new(),
            ring: VecDeque::new(),
            numbers: 0,
        })))
    }

    /// Waits for a turn to read this ledger. Cancel-safe.
    ///
    /// # Errors
    /// [`Crowded`], at once, or when others come who ask for less.
    pub(super) async fn take(&self, ledger: LedgerId) -> Result<Turn, Crowded> {
        let (number, turn) = {
            let mut lines = self.0.lock();
            if lines.free > 0 {
                lines.free -= 1;
                return Ok(Turn { turns: Some(self.clone()) });
            }
            lines.stand(ledger)?
        };
        let _standing = Standing { turns: self, ledger, number };
        turn.await.map_err(|_| Crowded)
    }

    /// Gives a turn that is over to whoever is next, or keeps it for who comes.
    fn pass_on(&self) {
        loop {
            let Some(next) = self.0.lock().next() else { return };
            let turn = Turn { turns: Some(self.clone()) };
            let Err(mut unwanted) = next.send(turn) else { return };
            // Gone in this moment: the turn is the next one's, and not this drop's to pass on.
            unwanted.turns = None;
        }
    }

    /// How many ledgers have a line.
    #[cfg(test)]
    pub(super) fn lines(&self) -> usize {
        self.0.lock().of.len()
    }
}

impl Lines {
    fn stand(&mut self, ledger: LedgerId) -> Result<(u64, oneshot::Receiver<Turn>), Crowded> {
        if self.waiting >= Turns::MAX_WAITING {
            let own = self.of.get(&ledger).map_or(0, VecDeque::len);
            let longest = self.lengths.last().filter(|(length, _)| *length > own + 1);
            let (_, longest) = *longest.ok_or(Crowded)?;
            // It does not become empty.
            self.change(longest, VecDeque::pop_back);
        }
        let (give, turn) = oneshot::channel();
        self.numbers += 1;
        let number = self.numbers;
        if !self.of.contains_key(&ledger) {
            self.ring.push_back(ledger);
        }
        self.change(ledger, |line| line.push_back((number, give)));
        Ok((number, turn))
    }

    /// Takes the next out of its line; counts the turn as free when there is none.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let Some(ledger) = self.ring.pop_front() else {
            self.free += 1;
            return None;
        };
        let next = self.change(ledger, VecDeque::pop_front);
        if self.of.contains_key(&ledger) {
            self.ring.push_back(ledger);
        }
        next.map(|(_, next)| next)
    }

    /// Takes one that went away out of its line, if it still stands there.
    fn leave(&mut self, ledger: LedgerId, number: u64) {
        let Some(line) = self.of.get(&ledger) else { return };
        if let Ok(at) = line.binary_search_by_key(&number, |(number, _)| *number) {
            self.change(ledger, |line| line.remove(at));
        }
        if !self.of.contains_key(&ledger) {
            self.ring.retain(|one| *one != ledger);
        }
    }

    /// Changes a line, and what hangs on its length, but for the ring, where an empty line may have a place.
    fn change<T>(&mut self, ledger: LedgerId, change: impl FnOnce(&mut Line) -> T) -> T {
        let line = self.of.entry(ledger).or_default();
        let before = line.len();
        let changed = change(line);
        let now = line.len();
        self.waiting = self.waiting + now - before;
        self.lengths.remove(&(before, ledger));
        if now > 0 {
            self.lengths.insert((now, ledger));
        } else {
            self.of.remove(&ledger);
        }
        metrics::reads_waiting(now as f64 - before as f64);
        changed
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.turns.take() {
            turns.pass_on();
        }
    }
}

/// One that stands in line, or has got its turn.
struct Standing<'a> {
    turns: &'a Turns,
    ledger: LedgerId,
    number: u64,
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.turns.0.lock().leave(self.ledger, self.number);
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

    /// Whoever asks for little finds room, however much another asks for; who goes away takes no room with him.
    #[test]
    fn a_ledger_that_is_asked_for_much_is_refused_itself() {
        let turns = Turns::new(1);
        let held = turns.take(LedgerId(1)).now_or_never().unwrap().unwrap();
        let mut greedy: Vec<_> = (0..Turns::MAX_WAITING).map(|_| ask(&turns, 1)).collect();
        let refused = turns.take(LedgerId(1)).now_or_never().unwrap();
        assert_eq!(refused.unwrap_err(), Crowded);
        let mut modest = ask(&turns, 2);
        let last = greedy.pop().unwrap().now_or_never().unwrap();
        assert_eq!(last.unwrap_err(), Crowded, "it had to go");
        assert_eq!(turns.0.lock().waiting, Turns::MAX_WAITING);
        drop(greedy.drain(1..));
        assert_eq!(turns.lines(), 2);
        assert_eq!(turns.0.lock().waiting, 2, "who went away is not waited for");
        let _more: Vec<_> = (0..100).map(|_| ask(&turns, 1)).collect();
        drop(held);
        drop(served(&mut greedy[0]).expect("it was first"));
        assert!(served(&mut modest).is_some());
    }
}
