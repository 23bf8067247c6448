//! Withholds what a statelog says until the log proves it (S2, S3): the state runs ahead of the log, its outputs never
//! do. Pure.
//!
//! A held output is released once an entry appended *after* it was held is acknowledged. Entries become durable in
//! order, so everything that the output rests on is then durable too, and this broker still owned the log after the
//! request arrived. One entry serves all that wait; while a barrier is on its way, later outputs wait for the next.

use std::collections::VecDeque;

use super::log::{MAX_OUTSTANDING_BYTES, MAX_OUTSTANDING_ENTRIES};

/// Outputs of type `H` on hold.
#[derive(Debug)]
pub struct Gate<H> {
    /// Not yet behind any entry.
    unserved: Vec<H>,
    /// Appended and not acknowledged: number, bytes, and what it releases. Numbers ascend.
    outstanding: VecDeque<(u64, usize, Vec<H>)>,
    outstanding_bytes: usize,
    barrier: Option<u64>,
}

impl<H> Default for Gate<H> {
    fn default() -> Self {
        Self {
            unserved: Vec::new(),
            outstanding: VecDeque::new(),
            outstanding_bytes: 0,
            barrier: None,
        }
    }
}

impl<H> Gate<H> {
    /// Whether an entry of `bytes` may be appended within what a log accepts.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.outstanding.len() + 2 <= MAX_OUTSTANDING_ENTRIES
            && self.outstanding_bytes + bytes <= MAX_OUTSTANDING_BYTES
    }

    /// Holds an output.
    pub fn hold(&mut self, output: H) {
        self.unserved.push(output);
    }

    /// Notes an entry on its way. Outputs held so far stay unserved until [`Gate::serve`].
    pub fn appended(&mut self, number: u64, bytes: usize) {
        debug_assert!(self.outstanding.back().is_none_or(|(last, ..)| *last < number));
        self.outstanding.push_back((number, bytes, Vec::new()));
        self.outstanding_bytes += bytes;
    }

    /// Puts every unserved output behind the newest entry, which must have been appended after all of their requests
    /// arrived.
    pub fn serve(&mut self) {
        let Some((_, _, behind)) = self.outstanding.back_mut() else { return };
        behind.append(&mut self.unserved);
    }

    /// Whether outputs wait that only a barrier would serve, and none is on its way.
    pub fn wants_barrier(&self) -> bool {
        !self.unserved.is_empty() && self.barrier.is_none()
    }

    /// Notes a barrier on its way and puts every unserved output behind it.
    pub fn barrier_appended(&mut self, number: u64) {
        self.barrier = Some(number);
        self.appended(number, 0);
        self.serve();
    }

    /// Takes the acknowledgement of all entries up to `through`; returns what it releases, oldest first.
    pub fn acked(&mut self, through: u64) -> Vec<H> {
        let mut released = Vec::new();
        while let Some((_, bytes, behind)) =
            self.outstanding.pop_front_if(|(number, ..)| *number <= through)
        {
            self.outstanding_bytes -= bytes;
            released.extend(behind);
        }
        self.barrier.take_if(|number| *number <= through);
        released
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_barrier_serves_all_that_wait() {
        let mut gate = Gate::default();
        gate.hold("a");
        gate.hold("b");
        assert!(gate.wants_barrier());
        gate.barrier_appended(1);
        gate.hold("late");
        assert!(!gate.wants_barrier(), "one barrier at a time");
        assert_eq!(gate.acked(1), ["a", "b"]);
        assert!(gate.wants_barrier());
        gate.barrier_appended(2);
        assert_eq!(gate.acked(2), ["late"]);
        assert!(!gate.wants_barrier());
    }

    #[test]
    fn a_command_serves_as_well() {
        let mut gate = Gate::default();
        gate.barrier_appended(1);
        gate.hold("read");
        gate.appended(2, 10);
        gate.hold("reply");
        gate.serve();
        assert_eq!(gate.acked(1), Vec::<&str>::new());
        assert_eq!(gate.acked(2), ["read", "reply"]);
    }

    #[test]
    fn room_is_bounded_and_comes_back() {
        let mut gate = Gate::<()>::default();
        gate.appended(1, MAX_OUTSTANDING_BYTES);
        assert!(!gate.has_room(1));
        gate.acked(1);
        assert!(gate.has_room(MAX_OUTSTANDING_BYTES));
    }

    proptest! {
        /// Whatever the order of things: no output leaves before an entry that was appended after it was held.
        #[test]
        fn nothing_leaves_early(steps in proptest::collection::vec(0u8..4, 1..200)) {
            let mut gate = Gate::default();
            let (mut appended, mut acked, mut held, mut out) = (0u64, 0u64, 0usize, 0usize);
            for step in steps {
                match step {
                    // An output remembers how many entries there were before it.
                    0 => { gate.hold(appended); held += 1; }
                    1 => { appended += 1; gate.appended(appended, 1); gate.serve(); }
                    2 => if gate.wants_barrier() { appended += 1; gate.barrier_appended(appended); },
                    _ => {
                        acked = (acked + 1).min(appended);
                        for before in gate.acked(acked) {
                            prop_assert!(before < acked);
                            out += 1;
                        }
                    }
                }
            }
            while gate.wants_barrier() || acked < appended {
                if gate.wants_barrier() { appended += 1; gate.barrier_appended(appended); }
                acked = appended;
                out += gate.acked(acked).len();
            }
            prop_assert_eq!(out, held, "everything leaves in the end");
        }
    }
}
