use geminga_records::{Compression, Sequence};
use proptest::prelude::*;

use super::*;
use crate::partition::samples::{batch_at, stamps};

const TERM: Term = Term(3);

/// A log that takes everything and acknowledges when told.
#[derive(Default)]
struct Rig {
    queue: Queue<usize>,
    pushed: Vec<i64>,
    next: i64,
    number: u64,
    stamped: Vec<(i64, i32)>,
    entries: Vec<usize>,
    acked: Vec<(Offset, usize)>,
}

impl Rig {
    fn push(&mut self, records: usize, bytes: usize) {
        let batch = batch_at(&vec![5; records], bytes, Compression::None);
        self.pushed.push(records as i64);
        self.queue.push(batch, None, self.pushed.len() - 1);
    }

    /// Sends what may leave; returns batches per entry.
    fn send(&mut self) -> Vec<usize> {
        let mut sent = Vec::new();
        while let Some(entry) = self.queue.gather(Offset(self.next), TERM, None, |_| true) {
            self.next += i64::from(entry.offset_count);
            self.number += 1;
            assert_eq!(entry.slots.bytes, entry.payload.len());
            assert_eq!(entry.max_timestamp, 5);
            let read = Payload::from(entry.payload.parts().to_vec());
            assert_eq!(entry.payload, read, "its checksum is that of its bytes");
            assert!(entry.slots.len() == 1 || entry.slots.bytes <= caps::ENTRY_GATHER_BYTES);
            sent.push(entry.slots.len());
            self.stamped.extend(stamps(entry.payload.parts()));
            self.queue.sent(self.number, Instant::now(), entry.slots);
        }
        self.entries.extend(&sent);
        sent
    }

    fn ack(&mut self, through: u64) {
        for Durable { base, answers, .. } in self.queue.acked(through) {
            self.acked.extend(answers.into_iter().map(|answer| (base, answer)));
        }
    }

    fn take_waiting(&mut self) -> Vec<usize> {
        self.queue.take_waiting().into_iter().flat_map(|(_, answers)| answers).collect()
    }
}

/// What is detached once is not copied again, also when some of it has left meanwhile.
#[test]
fn what_waits_is_detached_once() {
    let mut rig = Rig::default();
    let detach = |rig: &mut Rig| {
        rig.queue.detach();
        let waiting = rig.queue.waiting.iter();
        waiting.map(|waiting| waiting.batch.as_bytes().as_ptr()).collect::<Vec<_>>()
    };
    for _ in 0..EAGER_ENTRIES + 3 {
        rig.push(1, 10);
        rig.send();
    }
    let first = detach(&mut rig);
    assert_eq!(first.len(), 3);
    rig.push(1, 10);
    assert_eq!(detach(&mut rig)[..3], first);
    rig.ack(1);
    assert_eq!(rig.send(), [4]);
    for _ in 0..2 {
        rig.push(1, 10);
    }
    let second = detach(&mut rig);
    assert_eq!(detach(&mut rig), second);
    rig.take_waiting();
    rig.push(1, 10);
    let before = rig.queue.waiting[0].batch.as_bytes().as_ptr();
    assert_ne!(detach(&mut rig), [before], "a new one is copied");
}

#[test]
fn a_batch_leaves_at_once_and_gathers_company_only_while_the_log_is_busy() {
    let mut rig = Rig::default();
    for _ in 0..EAGER_ENTRIES {
        rig.push(1, 10);
        assert_eq!(rig.send(), [1]);
    }
    for _ in 0..7 {
        rig.push(1, 10);
        assert_eq!(rig.send(), [0; 0], "the log is busy");
    }
    rig.ack(1);
    assert_eq!(rig.send(), [7], "all that gathered leaves as one entry");
}

#[test]
fn a_full_entry_leaves_though_the_log_is_busy() {
    let mut rig = Rig::default();
    for _ in 0..EAGER_ENTRIES {
        rig.push(1, 10);
        rig.send();
    }
    rig.push(1, caps::ENTRY_GATHER_BYTES / 2);
    assert_eq!(rig.send(), [0; 0]);
    rig.push(1, caps::ENTRY_GATHER_BYTES / 2 + 1);
    assert_eq!(rig.send(), [1], "two do not fit into one entry; the rest waits for more");
    rig.push(1, caps::MAX_BATCH_BYTES / 2);
    rig.push(1, caps::MAX_BATCH_BYTES / 2);
    assert_eq!(rig.send(), [1, 1], "a large batch is an entry of its own");
    rig.ack(u64::MAX);
    assert_eq!(rig.send(), [1], "the window was full");
}

/// P6, P1: batches stay what they were but for base offset and term, which are assigned in order.
#[test]
fn batches_are_stamped_in_order() {
    let mut rig = Rig::default();
    rig.push(3, 10);
    rig.push(1, 10);
    rig.push(2, 10);
    rig.send();
    assert_eq!(rig.stamped, [(0, 3), (3, 3), (4, 3)]);
}

#[test]
fn what_the_log_has_is_told_apart_from_what_waits() {
    let mut rig = Rig::default();
    for _ in 0..EAGER_ENTRIES + 2 {
        rig.push(1, 10);
        rig.send();
    }
    rig.ack(1);
    assert_eq!(rig.acked, [(Offset(0), 0)]);
    assert_eq!(rig.queue.take_in_flight(), [1, 2, 3], "outcome unknown");
    assert_eq!(rig.take_waiting(), [4, 5], "certainly not written");
    assert!(rig.queue.is_idle());
    assert_eq!(rig.send(), [0; 0]);
}

#[test]
fn answers_are_given_up_together_and_entries_are_not() {
    let mut rig = Rig::default();
    for _ in 0..EAGER_ENTRIES {
        rig.push(1, 10);
        rig.send();
    }
    assert!(rig.queue.waits_since().is_some());
    assert_eq!(rig.queue.abandon(), [0, 1, 2, 3]);
    assert_eq!(rig.queue.waits_since(), None);
    rig.push(1, 10);
    assert_eq!(rig.send(), [0; 0], "the log is as busy as before");
    rig.ack(1);
    assert!(rig.acked.is_empty(), "nobody is told twice");
    assert_eq!(rig.send(), [1]);
    rig.ack(u64::MAX);
    assert_eq!(rig.acked, [(Offset(4), 4)]);
}

/// P2: followers share the fate of what they follow, wherever it is.
#[test]
fn followers_wait_for_the_batch_that_they_follow() {
    let mut rig = Rig::default();
    for _ in 0..EAGER_ENTRIES + 2 {
        rig.push(1, 10);
        rig.send();
    }
    let now = Instant::now();
    for (ticket, answer) in [(1, 101), (1, 201), (2, 102), (4, 104)] {
        rig.queue.follow(Ticket(ticket), answer, now);
    }
    rig.ack(2);
    let at = Offset(1);
    assert_eq!(rig.acked, [(Offset(0), 0), (at, 1), (at, 101), (at, 201)]);
    assert_eq!(rig.queue.abandon(), [2, 3, 102], "104 follows one that waits");
    assert_eq!(rig.queue.waits_since(), None);
    let later = now + std::time::Duration::from_secs(9);
    rig.queue.follow(Ticket(3), 103, later);
    assert_eq!(rig.queue.waits_since(), Some(later), "not since its entry was sent");
    let refused = rig.queue.take_waiting();
    assert_eq!(refused, [(None, vec![4, 104]), (None, vec![5])]);
    rig.acked.clear();
    rig.ack(u64::MAX);
    assert_eq!(rig.acked, [(Offset(3), 103)]);
    assert!(rig.queue.followers.is_empty() && rig.queue.is_idle());
}

/// P4: an entry says in front which batches of idempotent producers it holds, and where.
#[test]
fn entries_begin_with_an_index_of_idempotent_batches() {
    let mut queue = Queue::default();
    let mut stamps = Vec::new();
    for (number, records) in (0..).zip([2, 1, 3]) {
        let mut batch = batch_at(&vec![5; records], 10, Compression::None);
        if number != 1 {
            let sequence = Sequence { producer_id: 7, epoch: 0, first: number };
            batch.set_sequence(sequence);
            let place = if number == 0 { 0 } else { 3 };
            stamps.push((place, Stamp::of(batch.header()).unwrap()));
        }
        queue.push(batch.clone(), Stamp::of(batch.header()), number);
    }
    let entry = queue.gather(Offset(100), TERM, None, |_| true).unwrap();
    let index = index::encode(&stamps);
    assert_eq!(entry.payload.index_len(), index.len());
    assert_eq!(entry.payload.parts()[0], index);
    let bases: Vec<i64> = stamps_of(&entry.payload).into_iter().map(|(base, _)| base).collect();
    assert_eq!(bases, [100, 102, 103]);
    queue.sent(1, Instant::now(), entry.slots);
    let durable: Vec<_> = queue.acked(1).into_iter().map(|d| (d.base, d.stamp)).collect();
    let [first, third] = [stamps[0].1, stamps[1].1];
    let expected = [(Offset(100), Some(first)), (Offset(102), None), (Offset(103), Some(third))];
    assert_eq!(durable, expected);
}

fn stamps_of(payload: &Payload) -> Vec<(i64, i32)> {
    stamps(&[payload.clone().into_body()])
}

#[test]
fn nothing_leaves_without_room_in_the_log() {
    let mut rig = Rig::default();
    rig.push(1, 10);
    assert!(rig.queue.gather(Offset(0), TERM, None, |_| false).is_none());
    assert_eq!(rig.send(), [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize, usize),
    Send,
    Ack(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![4 => 1usize..2_000, 1 => 50_000usize..300_000];
    prop_oneof![
        4 => (1usize..4, size).prop_map(|(records, bytes)| Step::Push(records, bytes / records)),
        2 => Just(Step::Send),
        1 => (0u64..4).prop_map(Step::Ack),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens, batches are answered in the order they were pushed in, each at the sum of the records before
    /// it, none twice, none left out.
    #[test]
    fn order_and_offsets_hold(steps in proptest::collection::vec(step(), 1..80)) {
        let mut rig = Rig::default();
        for step in steps {
            match step {
                Step::Push(records, bytes) => rig.push(records, bytes),
                Step::Send => { rig.send(); }
                Step::Ack(more) => {
                    let through = (rig.acked_entries() + more).min(rig.number);
                    rig.ack(through);
                }
            }
        }
        // Drain.
        loop {
            rig.ack(u64::MAX);
            if rig.send().is_empty() {
                break;
            }
        }
        let mut base = 0;
        let expected: Vec<_> = rig.pushed.iter().enumerate().map(|(i, records)| {
            let at = (Offset(base), i);
            base += records;
            at
        }).collect();
        prop_assert_eq!(&rig.acked, &expected);
        let bases: Vec<_> = expected.iter().map(|(at, _)| (at.0, TERM.0)).collect();
        prop_assert_eq!(&rig.stamped, &bases);
        prop_assert!(rig.queue.is_idle());
    }
}

impl Rig {
    /// Entries acknowledged so far, by the batches that were.
    fn acked_entries(&self) -> u64 {
        let (mut left, mut entries) = (self.acked.len(), 0);
        for batches in &self.entries {
            if left < *batches {
                break;
            }
            left -= batches;
            entries += 1;
        }
        entries
    }
}
