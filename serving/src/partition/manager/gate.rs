//! How many partitions are taken over at a time, and which first: after a broker's death many are asked for in the same
//! moment, and each costs the metadata store and the bookies a dozen requests. Those go first that most requests wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// How many requests wait for one partition. Shared by its place in the table, which counts, and the gate, which looks.
pub(super) type Demand = Arc<AtomicU64>;

/// The gate; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// In the order of their coming.
    waiting: Vec<(Demand, oneshot::Sender<Turn>)>,
}

/// One takeover's turn; the next one's begins when it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<Gate>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(gate) = self.0.take() {
            gate.next();
        }
    }
}

impl Gate {
    /// Lets `most` in at a time, at least one.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: most.max(1), waiting: Vec::new() })))
    }

    /// Waits for a turn. Cancel-safe: who goes away loses its place only.
    pub(super) async fn turn(&self, demand: &Demand) -> Turn {
        let answer = {
            let mut state = self.0.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            // Those that went away keep no place.
            state.waiting.retain(|(_, waiting)| !waiting.is_closed());
            let (turn, answer) = oneshot::channel();
            state.waiting.push((Arc::clone(demand), turn));
            answer
        };
        answer.await.expect("a turn comes to all that wait")
    }

    fn next(&self) {
        loop {
            let next = {
                let mut state = self.0.lock();
                let demand = |(demand, _): &(Demand, _)| demand.load(Ordering::Relaxed);
                // Of equals the first that came: `max_by_key` takes the last, so it is asked from behind.
                let places = state.waiting.iter().enumerate().rev();
                let Some(busiest) = places.max_by_key(|(_, w)| demand(w)).map(|(at, _)| at) else {
                    state.free += 1;
                    return;
                };
                state.waiting.remove(busiest).1
            };
            match next.send(Turn(Some(self.clone()))) {
                Ok(()) => return,
                // It went away. The turn comes back to be given to another one, not to be ended here.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn demand(requests: u64) -> Demand {
        Arc::new(AtomicU64::new(requests))
    }

    #[tokio::test]
    async fn the_busiest_of_those_that_wait_goes_first() {
        let gate = Gate::new(2);
        let (first, second) = (gate.turn(&demand(0)).await, gate.turn(&demand(0)).await);
        let demands = [demand(1), demand(3), demand(3), demand(2)];
        let mut waiting: Vec<_> = demands.iter().map(|d| Box::pin(gate.turn(d))).collect();
        for waits in &mut waiting {
            assert!(waits.now_or_never().is_none(), "two are in already");
        }
        // Asked for once more while it waits.
        demands[0].fetch_add(4, Ordering::Relaxed);
        let mut went = Vec::new();
        let mut turn = Some(first);
        while !waiting.is_empty() {
            drop(turn.take());
            let mut ready = None;
            for (at, waits) in waiting.iter_mut().enumerate() {
                if let Some(next) = waits.now_or_never() {
                    assert!(ready.replace((at, next)).is_none(), "one turn ended, one begins");
                }
            }
            let (at, next) = ready.expect("somebody's turn");
            drop(waiting.remove(at));
            went.push(at);
            turn = Some(next);
        }
        // Places in what was left each time: the first (5), then the second (3), the third (3), the last.
        assert_eq!(went, [0, 0, 0, 0]);
        drop((turn, second));
        assert_eq!(gate.0.lock().free, 2);
    }

    #[tokio::test]
    async fn who_goes_away_holds_nobody_up() {
        let gate = Gate::new(1);
        let first = gate.turn(&demand(0)).await;
        let (busy, quiet) = (demand(9), demand(1));
        let mut gone = Box::pin(gate.turn(&busy));
        let mut waits = Box::pin(gate.turn(&quiet));
        assert!((&mut gone).now_or_never().is_none() && (&mut waits).now_or_never().is_none());
        drop(gone);
        drop(first);
        drop(waits.now_or_never().expect("its turn"));
        // Given a turn, and gone before it was taken up.
        let first = gate.turn(&quiet).await;
        let mut gone = Box::pin(gate.turn(&busy));
        assert!((&mut gone).now_or_never().is_none());
        drop(first);
        drop(gone);
        assert_eq!(gate.0.lock().free, 1);
    }
}
