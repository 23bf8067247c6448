//! The producer's decisions against a broker that fails in every way a broker may: it refuses, for now or for good, it does
//! not know, it vanishes, and what it was doing goes on behind the client's back.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use geminga_runtime::SeededRandom;

use super::*;

const PARTITIONS: u32 = 3;
/// What a broker may refuse any batch with: of a topic that it does not know yet, of a log that does not open, or of bytes
/// that were changed on their way.
const FOR_GOOD: [Reason; 3] = [Reason::UnknownTopic, Reason::DataLoss, Reason::CorruptBatch];

fn rules() -> Rules {
    Rules {
        compression: Compression::None,
        batch_bytes: 200,
        linger: Duration::from_millis(5),
        in_flight: 3,
        delivery_timeout: Duration::from_secs(120),
        acks_none: false,
        idempotent: false,
    }
}

fn idempotent() -> Rules {
    Rules { idempotent: true, ..rules() }
}

fn core(rules: Rules) -> Core<u64> {
    Core::new(rules, Arc::new(SeededRandom::new(1)))
}

fn record(number: u64) -> Record {
    Record { value: Some(Bytes::copy_from_slice(&number.to_be_bytes())), ..Record::default() }
}

fn numbers(batch: &Bytes) -> Vec<u64> {
    let batch = geminga_records::Batch::parse(batch.clone()).unwrap();
    let records = decode(&batch, 1 << 20).unwrap();
    let number = |r: Record| u64::from_be_bytes(r.value.unwrap()[..].try_into().unwrap());
    records.into_iter().map(number).collect()
}

fn api(reason: Reason) -> ApiError {
    ApiError::new(reason, "on purpose")
}

fn lost() -> Error {
    Error::Unreachable { server: "h:1".to_owned(), why: "reset".to_owned() }
}

/// A stream as the broker sees it.
#[derive(Default)]
struct Stream {
    elements: VecDeque<Element>,
    failed: HashSet<u32>,
}

/// A core, the broker's logs, and what happened.
struct World {
    core: Core<u64>,
    random: SeededRandom,
    now: Instant,
    stream: Stream,
    /// Broken streams whose last elements are still worked on.
    zombies: Vec<Stream>,
    logs: BTreeMap<u32, Vec<u64>>,
    /// Of idempotent batches in each log: numbers, count, offset.
    known: BTreeMap<u32, Vec<(Sequence, usize, i64)>>,
    /// Records on their way on the current stream.
    out: BTreeMap<u32, Vec<u64>>,
    sent: BTreeMap<u32, Vec<u64>>,
    refused: BTreeSet<u64>,
    acked: BTreeMap<u64, (u32, i64)>,
    failed: BTreeSet<u64>,
    /// Of those, the ones that were said not to be written.
    unwritten: BTreeSet<u64>,
    /// In percent.
    faults: u64,
}

impl World {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut core = core(rules);
        core.on_producer((7, 0));
        Self {
            core,
            random: SeededRandom::new(seed),
            now: Instant::now(),
            stream: Stream::default(),
            zombies: Vec::new(),
            logs: BTreeMap::new(),
            known: BTreeMap::new(),
            out: BTreeMap::new(),
            sent: BTreeMap::new(),
            refused: BTreeSet::new(),
            acked: BTreeMap::new(),
            failed: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            faults: 20,
        }
    }

    fn chance(&self, percent: u64) -> bool {
        self.random.below(100) < percent
    }

    fn finish(&mut self, done: Vec<Done<u64>>) {
        for (number, end) in done {
            match end {
                Ok(ack) => {
                    let place = (ack.partition, ack.offset.unwrap());
                    assert!(self.acked.insert(number, place).is_none(), "{number} ended twice");
                }
                Err(error) => {
                    match error {
                        Error::TimedOut { .. } | Error::InDoubt { .. } => {}
                        Error::Api(error) => {
                            let said = [Reason::InvalidRecord].iter().chain(&FOR_GOOD);
                            assert!(said.clone().any(|r| *r == error.reason), "{number}: {error}");
                            self.unwritten.insert(number);
                        }
                        other => panic!("{number}: {other}"),
                    }
                    assert!(self.failed.insert(number), "{number} ended twice");
                }
            }
        }
    }

    fn append(&mut self, number: u64) {
        let partition = self.random.below(u64::from(PARTITIONS)) as u32;
        let mut done = Vec::new();
        self.core
            .append(&Arc::from("t"), partition, &record(number), number, || self.now, &mut done)
            .unwrap();
        self.sent.entry(partition).or_default().push(number);
        self.finish(done);
    }

    fn collect(&mut self) {
        let mut done = Vec::new();
        let elements = self.core.collect(Way::Any, 1000, self.now, &mut done);
        self.finish(done);
        for element in elements {
            let out = self.out.entry(element.partition).or_default();
            let records = numbers(&element.batch);
            assert!(
                !element.restart || out.is_empty(),
                "a restart while {out:?} were on their way"
            );
            assert!(records.iter().all(|n| !out.contains(n)), "two attempts at one record");
            out.extend(records);
            self.stream.elements.push_back(element);
        }
    }

    /// The broker works on one element; what it answers, if anybody hears it.
    fn work(&mut self, zombie: Option<usize>) -> Option<(u64, Answer)> {
        let (refuse, unknown, written) =
            (self.chance(self.faults / 4), self.chance(self.faults), self.chance(50));
        let idempotent = self.core.rules.idempotent;
        // Without numbers, what follows a batch that is given up may be written before an earlier attempt at that.
        let for_good = (idempotent && self.chance(self.faults / 4))
            .then(|| FOR_GOOD[self.random.below(FOR_GOOD.len() as u64) as usize]);
        // It was submitted before the failure was known.
        let submitted = idempotent && self.chance(50);
        let stream = match zombie {
            Some(at) => &mut self.zombies[at],
            None => &mut self.stream,
        };
        let element = stream.elements.pop_front()?;
        let partition = element.partition;
        if element.restart {
            stream.failed.remove(&partition);
        }
        if stream.failed.contains(&partition) && !submitted {
            return Some((element.id, Err(api(Reason::PriorBatchFailed))));
        }
        let records = numbers(&element.batch);
        let log = self.logs.entry(partition).or_default();
        let base = log.len() as i64;
        let known = self.known.entry(partition).or_default();
        let sequence = numbers_of(&element.batch);
        let before = sequence.map_or(Ok(None), |sequence| judge(known, sequence, records.len()));
        let end = match () {
            // Whoever looks at it sees what is wrong with it.
            () if records.iter().any(|n| n % 61 == 60) => {
                self.refused.extend(records);
                Err(api(Reason::InvalidRecord))
            }
            () if for_good.is_some() => Err(api(for_good.unwrap())),
            () if before.is_err() => Err(api(before.unwrap_err())),
            () if refuse => Err(api(Reason::NotWritten)),
            () if before != Ok(None) => match unknown {
                true => Err(api(Reason::Unknown)),
                false => Ok((before.unwrap().unwrap(), 0)),
            },
            () if unknown && !written => Err(api(Reason::Unknown)),
            () => {
                known.extend(sequence.map(|sequence| (sequence, records.len(), base)));
                log.extend(records);
                if unknown { Err(api(Reason::Unknown)) } else { Ok((base, 0)) }
            }
        };
        if end.is_err() {
            stream.failed.insert(partition);
        }
        Some((element.id, end))
    }

    fn answer(&mut self) {
        let front = self.stream.elements.front().map(|e| (e.partition, numbers(&e.batch)));
        let Some((id, end)) = self.work(None) else { return };
        let (partition, records) = front.expect("it was there");
        self.out.entry(partition).or_default().retain(|n| !records.contains(n));
        let mut done = Vec::new();
        self.core.on_result(id, end, self.now, &mut done);
        self.finish(done);
    }

    fn lose(&mut self) {
        let stream = std::mem::take(&mut self.stream);
        self.zombies.push(stream);
        self.out.clear();
        let mut done = Vec::new();
        self.core.on_stream_lost(Way::Any, &lost(), self.now, &mut done);
        self.finish(done);
    }

    fn expire(&mut self) {
        let mut done = Vec::new();
        let stuck = self.core.expire(self.now, &mut done);
        self.finish(done);
        if !stuck.is_empty() {
            self.lose();
        }
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..6 => self.collect(),
            6..13 => self.answer(),
            13..16 => {
                let at = self.random.below(self.zombies.len() as u64) as usize;
                if at < self.zombies.len() {
                    self.work(Some(at));
                }
            }
            16 if self.chance(self.faults) => self.lose(),
            17 => self.expire(),
            _ => self.now += Duration::from_millis(self.random.below(40)),
        }
    }

    fn check(&self) {
        assert_eq!(self.core.pending(), 0);
        assert!(self.core.attempts.is_empty() && self.core.busy.is_empty());
        for (number, (partition, offset)) in &self.acked {
            let log = &self.logs[partition];
            assert_eq!(log[*offset as usize], *number, "the place of an acknowledged record");
        }
        for (partition, sent) in &self.sent {
            let mut seen = HashSet::new();
            let empty = Vec::new();
            let log = self.logs.get(partition).unwrap_or(&empty);
            if self.core.rules.idempotent {
                let once = log.iter().collect::<HashSet<_>>().len() == log.len();
                assert!(once, "twice in partition {partition}: {log:?}");
            }
            let first: Vec<u64> = log.iter().filter(|n| seen.insert(**n)).copied().collect();
            let ends = |n: &&u64| self.acked.contains_key(n) || seen.contains(*n);
            let expected: Vec<u64> = sent.iter().filter(ends).copied().collect();
            assert_eq!(first, expected, "order of first copies in partition {partition}");
            for number in sent {
                let ended = self.acked.contains_key(number) != self.failed.contains(number);
                assert!(ended, "{number} neither acknowledged nor refused, or both");
                let lied = self.unwritten.contains(number) && seen.contains(number);
                assert!(!lied, "{number} was said not to be written");
            }
        }
        if !self.core.rules.idempotent {
            assert!(self.unwritten.iter().all(|number| self.refused.contains(number)));
        }
    }
}

/// What a partition with all its memory says to a batch: its offset when it is there already.
fn judge(
    known: &[(Sequence, usize, i64)],
    sequence: Sequence,
    count: usize,
) -> Result<Option<i64>, Reason> {
    let Some((newest, ..)) = known.last() else {
        return if sequence.first == 0 { Ok(None) } else { Err(Reason::UnknownProducerId) };
    };
    if sequence.epoch < newest.epoch {
        return Err(Reason::InvalidProducerEpoch);
    }
    let same: Vec<_> = known.iter().filter(|(s, ..)| s.epoch == sequence.epoch).collect();
    let next: usize = same.iter().map(|(_, count, _)| count).sum();
    if sequence.first as usize == next {
        return Ok(None);
    }
    let found = same.iter().find(|(s, n, _)| (s.first, *n) == (sequence.first, count));
    found.map(|(.., base)| Some(*base)).ok_or(Reason::OutOfOrderSequence)
}

fn numbers_of(batch: &Bytes) -> Option<Sequence> {
    geminga_records::Batch::parse(batch.clone()).unwrap().header().sequence()
}

#[test]
fn at_least_once_in_order_whatever_the_broker_does() {
    let [acked, failed] = whatever_the_broker_does(&rules());
    assert!(acked > 10 * failed && failed > 0, "{acked} {failed}");
}

#[test]
fn exactly_once_in_order_whatever_the_broker_does() {
    let [acked, failed] = whatever_the_broker_does(&idempotent());
    assert!(acked > 2 * failed && failed > 1_000, "{acked} {failed}");
}

#[test]
fn exactly_once_in_order_also_when_deadlines_strike() {
    let delivery_timeout = Duration::from_secs(1);
    let ends = whatever_the_broker_does(&Rules { delivery_timeout, ..idempotent() });
    assert!(ends.iter().all(|count| *count > 10_000), "{ends:?}");
}

/// How many records of 300 a seed were acknowledged, and how many were not.
fn whatever_the_broker_does(rules: &Rules) -> [usize; 2] {
    let mut ends = [0, 0];
    let start: u64 = std::env::var("GEMINGA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in start..start + 300 {
        println!("seed {seed}");
        let mut world = World::new(seed, rules.clone());
        for number in 0..300 {
            world.append(number);
            for _ in 0..world.random.below(5) {
                world.step();
            }
        }
        for _ in 0..500 {
            world.step();
        }
        world.faults = 0;
        world.zombies.clear();
        let mut steps = 0;
        while world.core.pending() > 0 || !world.core.busy.is_empty() {
            world.expire();
            world.collect();
            world.answer();
            world.now += Duration::from_millis(5);
            steps += 1;
            assert!(steps < 100_000, "it does not end");
        }
        world.check();
        ends[0] += world.acked.len();
        ends[1] += world.failed.len();
    }
    ends
}

/// One partition, one record a batch.
fn small() -> (Core<u64>, Instant) {
    (core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..rules() }), Instant::now())
}

fn fill(core: &mut Core<u64>, count: u64, now: Instant) {
    for number in 0..count {
        core.append(&Arc::from("t"), 0, &record(number), number, || now, &mut Vec::new()).unwrap();
    }
}

fn sent(core: &mut Core<u64>, now: Instant) -> Vec<(u64, Vec<u64>, bool)> {
    let elements = core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    elements.into_iter().map(|e| (e.id, numbers(&e.batch), e.restart)).collect()
}

#[test]
fn a_failure_stops_the_lane_until_all_answers_are_in() {
    let (mut core, mut now) = small();
    fill(&mut core, 5, now);
    let mut done = Vec::new();
    assert_eq!(
        sent(&mut core, now),
        [(1, vec![0], false), (2, vec![1], false), (3, vec![2], false)]
    );
    core.on_result(1, Err(api(Reason::NotReady)), now, &mut done);
    now += Duration::from_secs(5);
    assert!(core.ready(now).is_empty() && sent(&mut core, now).is_empty());
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert!(sent(&mut core, now).is_empty());
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert!(sent(&mut core, now).is_empty(), "it pauses first");
    let resume = core.ready_after(now).unwrap();
    assert!(resume > now && resume <= now + Duration::from_millis(50));
    let again = sent(&mut core, resume);
    assert_eq!(again, [(4, vec![0], true), (5, vec![1], false), (6, vec![2], false)]);
    core.on_result(4, Ok((10, 0)), now, &mut done);
    // An answer of the attempt before means nothing.
    core.on_result(1, Ok((0, 0)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.as_ref().unwrap().offset, Some(10));
    assert_eq!(sent(&mut core, now), [(7, vec![3], false)]);
}

#[test]
fn a_record_refused_for_good_ends_alone_and_at_once() {
    let (mut core, now) = small();
    fill(&mut core, 3, now);
    sent(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut done);
    assert_eq!(done.len(), 1);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(4, vec![1], true), (5, vec![2], false)]);
    assert_eq!(done.len(), 1);
}

#[test]
fn a_batch_too_large_is_sent_in_halves() {
    let mut core = core(Rules { linger: Duration::ZERO, batch_bytes: 1 << 20, ..rules() });
    let now = Instant::now();
    fill(&mut core, 3, now);
    let mut done = Vec::new();
    assert_eq!(sent(&mut core, now), [(1, vec![0, 1, 2], false)]);
    core.on_result(1, Err(api(Reason::MessageTooLarge)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(2, vec![0], true), (3, vec![1, 2], false)]);
    core.on_result(2, Ok((0, 0)), now, &mut done);
    core.on_result(3, Err(api(Reason::MessageTooLarge)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(4, vec![1], true), (5, vec![2], false)]);
    core.on_result(4, Err(api(Reason::MessageTooLarge)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(6, vec![2], true)]);
    core.on_result(6, Ok((1, 0)), now, &mut done);
    let ends: Vec<(u64, bool)> = done.iter().map(|(n, end)| (*n, end.is_ok())).collect();
    assert_eq!(ends, [(0, true), (1, false), (2, true)]);
    assert_eq!(core.pending(), 0);
}

#[test]
fn nothing_is_tried_for_ever() {
    let (mut core, now) = small();
    fill(&mut core, 2, now);
    sent(&mut core, now);
    let late = core.overdue_at().unwrap();
    assert_eq!(late, now + rules().delivery_timeout);
    let mut done = Vec::new();
    assert!(core.expire(late, &mut done).is_empty(), "its answer may yet come");
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|(_, end)| matches!(end, Err(Error::TimedOut { .. }))));
    assert!(core.ready(late).is_empty(), "two attempts could be open otherwise");
    assert_eq!((core.pending(), core.overdue_at()), (0, Some(late + STUCK)));
    let late = late + STUCK;
    assert!(!core.expire(late, &mut done).is_empty(), "a stream that does not answer is given up");
    core.on_stream_lost(Way::Any, &lost(), late, &mut Vec::new());
    assert!(core.expire(late, &mut done).is_empty());
    assert_eq!((done.len(), core.overdue_at()), (2, None));
    // What comes later starts again.
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent(&mut core, late + Duration::from_secs(5)), [(3, vec![9], true)]);
}

#[test]
fn a_partition_that_takes_too_long_disturbs_no_other_and_repeats_nothing() {
    let (mut core, now) = small();
    fill(&mut core, 2, now);
    sent(&mut core, now);
    let late = core.overdue_at().unwrap();
    let mut done = Vec::new();
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    core.append(&Arc::from("t"), 1, &record(10), 10, || late, &mut done).unwrap();
    assert!(core.expire(late, &mut done).is_empty());
    let told: Vec<u64> = done.drain(..).map(|(number, _)| number).collect();
    assert_eq!(told, [0, 1]);
    let other = sent(&mut core, late + rules().linger);
    assert!(other.iter().any(|(_, numbers, _)| numbers == &[10]), "{other:?}");
    core.on_result(1, Err(api(Reason::Unknown)), late, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), late, &mut done);
    assert!(done.is_empty(), "they have been told");
    for (id, numbers, _) in &other {
        let end = if numbers == &[9] { Err(api(Reason::PriorBatchFailed)) } else { Ok((0, 0)) };
        core.on_result(*id, end, late, &mut done);
    }
    let next = sent(&mut core, late + Duration::from_secs(5));
    assert_eq!(
        next.iter().map(|(_, n, restart)| (&n[..], *restart)).collect::<Vec<_>>(),
        [(&[9][..], true)]
    );
}

#[test]
fn what_cannot_be_sent_waits_and_says_why_at_the_end() {
    for acks_none in [false, true] {
        let mut core = core(Rules { acks_none, batch_bytes: 1, ..rules() });
        let now = Instant::now();
        fill(&mut core, 2, now);
        core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
        assert!(core.ready(now).is_empty(), "a broker that is away is not asked all the time");
        assert!(!core.ready(core.ready_after(now).unwrap()).is_empty());
        let mut done = Vec::new();
        assert!(core.expire(core.overdue_at().unwrap(), &mut done).is_empty());
        assert_eq!((done.len(), core.pending()), (2, 0));
        assert!(done.iter().all(|(_, end)| end.as_ref().unwrap_err().is_unreachable()));
    }
}

#[test]
fn a_message_keeps_to_its_size_unless_one_batch_is_larger() {
    let mut core =
        core(Rules { batch_bytes: 1, linger: Duration::ZERO, in_flight: 100, ..rules() });
    let now = Instant::now();
    for (number, size) in [10, 10, 2_000, 10].into_iter().enumerate() {
        let record = Record { value: Some(vec![0; size].into()), ..Record::default() };
        core.append(&Arc::from("t"), 0, &record, number as u64, || now, &mut Vec::new()).unwrap();
    }
    let mut counts = Vec::new();
    while !core.ready(now).is_empty() {
        counts.push(core.collect(Way::Any, 1_000, now, &mut Vec::new()).len());
    }
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn batches_wait_to_become_full_but_not_for_long() {
    let mut core = core(rules());
    let now = Instant::now();
    fill(&mut core, 1, now);
    assert!(core.ready(now).is_empty());
    assert_eq!(core.ready_after(now), Some(now + rules().linger));
    assert!(sent(&mut core, now).is_empty());
    assert_eq!(sent(&mut core, now + rules().linger), [(1, vec![0], false)]);
    fill(&mut core, 1, now);
    core.set_flush(true);
    assert_eq!(sent(&mut core, now), [(2, vec![0], false)]);
    core.set_flush(false);
    let mut appended = Vec::new();
    for number in 0..12 {
        let topic = Arc::from("t");
        let now = now + Duration::from_millis(1);
        appended.push(
            core.append(&topic, 1, &record(number), number, || now, &mut Vec::new()).unwrap(),
        );
    }
    let full: Vec<bool> = appended.iter().map(|a| a.sealed).collect();
    assert!(full.contains(&true) && appended[0].wake && !appended[1].wake, "{appended:?}");
}

#[test]
fn without_acks_a_record_ends_when_it_is_sent() {
    let mut core = core(Rules { acks_none: true, batch_bytes: 1, ..rules() });
    let now = Instant::now();
    fill(&mut core, 5, now);
    let mut done = Vec::new();
    let elements = core.collect(Way::Any, 1 << 20, now, &mut done);
    assert_eq!(elements.len(), 5);
    assert!(
        elements.iter().all(|element| element.restart),
        "a failure nobody hears of is not the end"
    );
    assert!(done.iter().all(|(_, end)| end.as_ref().is_ok_and(|ack| ack.offset.is_none())));
    assert_eq!(core.pending(), 0);
}

#[test]
fn no_lane_starves() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..rules() });
    let now = Instant::now();
    for partition in [0, 1, 0, 1, 0, 1] {
        core.append(&Arc::from("t"), partition, &record(0), 0, || now, &mut Vec::new()).unwrap();
    }
    let mut lanes = Vec::new();
    for _ in 0..4 {
        lanes.extend(
            core.collect(Way::Any, 1, now, &mut Vec::new()).into_iter().map(|e| e.partition),
        );
    }
    assert!(lanes.contains(&0) && lanes.contains(&1), "{lanes:?}");
}

#[test]
fn a_closed_core_holds_and_takes_nothing() {
    let (mut core, now) = small();
    fill(&mut core, 3, now);
    let mut done = Vec::new();
    core.close(&Error::Closed, &mut done);
    assert_eq!((done.len(), core.pending()), (3, 0));
    let refused = core.append(&Arc::from("t"), 0, &record(1), 1, || now, &mut done);
    assert_eq!(refused.unwrap_err().1, Error::Closed);
}

/// One partition, one record a batch, with numbers: epoch and first of each element.
fn small_idempotent() -> (Core<u64>, Instant) {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    core.on_producer((7, 0));
    (core, Instant::now())
}

fn sent_numbers(core: &mut Core<u64>, now: Instant) -> Vec<(u64, i16, i32)> {
    let elements = core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    let numbers = elements.into_iter().map(|element| {
        let sequence = numbers_of(&element.batch).unwrap();
        assert_eq!(sequence.producer_id, 7);
        (element.id, sequence.epoch, sequence.first)
    });
    numbers.collect()
}

#[test]
fn numbers_follow_each_other_and_stay_when_a_batch_is_sent_again() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 5, now);
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1), (3, 0, 2)]);
    let mut done = Vec::new();
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::Unknown)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(4, 0, 1), (5, 0, 2), (6, 0, 3)]);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(7, 0, 1), (8, 0, 2), (9, 0, 3)]);
}

#[test]
fn nothing_is_sent_without_a_producer_id() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    let now = Instant::now();
    assert!(!core.wants_producer(now), "there is nothing to send");
    fill(&mut core, 1, now);
    assert!(core.wants_producer(now) && core.ready(now).is_empty());
    assert!(core.collect(Way::Any, 1 << 20, now, &mut Vec::new()).is_empty());
    core.on_no_producer(&lost(), now);
    assert!(!core.wants_producer(now), "a broker that is away is not asked all the time");
    let at = core.ready_after(now).unwrap();
    assert!(at > now && core.wants_producer(at));
    let mut done = Vec::new();
    core.expire(core.overdue_at().unwrap(), &mut done);
    assert!(done.remove(0).1.unwrap_err().is_unreachable());
    fill(&mut core, 1, at);
    core.on_producer((7, 3));
    assert_eq!(sent_numbers(&mut core, at), [(1, 3, 0)]);
}

/// Without the batch that is refused for good none behind it can have been written.
#[test]
fn behind_a_batch_that_is_refused_for_good_a_new_epoch_begins() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1), (3, 0, 2)]);
    let mut done = Vec::new();
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::InvalidRecord)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done.len(), 2);
    assert_eq!(sent_numbers(&mut core, now), [(4, 1, 0), (5, 1, 1)]);
}

/// One that was submitted before the failure of another was known misses that one's number: no loss.
#[test]
fn a_number_missed_behind_a_batch_that_is_refused_for_good_is_no_loss() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut done);
    assert!(sent_numbers(&mut core, now).is_empty(), "its answer is about its first numbers");
    core.on_result(2, Err(api(Reason::OutOfOrderSequence)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
}

/// The first four of five records, of which the first three are in doubt and on their way again as 4, 5 and 6.
fn in_doubt() -> (Core<u64>, Instant) {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(4, 0, 0), (5, 0, 1), (6, 0, 2)]);
    (core, now)
}

fn ends_in_doubt(done: &[Done<u64>]) -> Vec<u64> {
    let ended = done.iter().map(|(number, end)| {
        assert!(matches!(end, Err(Error::InDoubt { .. })), "{end:?}");
        *number
    });
    ended.collect()
}

/// That an attempt is refused for good does not say what became of the one before it.
#[test]
fn what_is_in_doubt_behind_a_batch_that_is_refused_in_doubt_ends_with_it() {
    let (mut core, now) = in_doubt();
    let mut done = Vec::new();
    core.on_result(4, Err(api(Reason::MessageTooLarge)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(ends_in_doubt(&done), [0, 1, 2]);
    assert_eq!(sent_numbers(&mut core, now), [(7, 1, 0)], "the fourth was never sent");
    assert_eq!(core.pending(), 1);
}

/// A broker that does not know the topic yet, or cannot open its log, may do so later: then the numbers tell.
#[test]
fn what_is_in_doubt_is_repeated_in_time_although_it_is_refused_for_good() {
    for reason in FOR_GOOD {
        let (mut core, now) = in_doubt();
        let mut done = Vec::new();
        core.on_result(4, Err(api(reason)), now, &mut done);
        core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
        core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
        assert!(done.is_empty() && core.ready(now).is_empty(), "it pauses");
        let now = now + Duration::from_secs(5);
        assert_eq!(sent_numbers(&mut core, now), [(7, 0, 0), (8, 0, 1), (9, 0, 2)]);
        core.on_result(7, Ok((0, 0)), now, &mut done);
        assert_eq!(done.len(), 1);
        // Not for ever: when nobody waits for it any more, it is not sent again.
        let late = core.overdue_at().unwrap();
        done.clear();
        core.expire(late, &mut done);
        core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
        core.on_result(8, Err(api(reason)), late, &mut done);
        core.on_result(9, Err(api(Reason::PriorBatchFailed)), late, &mut done);
        assert_eq!(done.len(), 3);
        assert_eq!(sent_numbers(&mut core, late), [(10, 1, 0)]);
    }
}

/// It was answered, and not written, before its stream broke: its number is missing.
#[test]
fn what_leaves_with_its_stream_leaves_a_new_epoch_behind() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    let later = now + Duration::from_secs(10);
    core.append(&Arc::from("t"), 0, &record(1), 1, || later, &mut Vec::new()).unwrap();
    sent_numbers(&mut core, later);
    let late = now + rules().delivery_timeout;
    let mut done = Vec::new();
    core.expire(late, &mut done);
    assert_eq!(done.len(), 1);
    core.on_result(1, Err(api(Reason::OutOfOrderSequence)), late, &mut done);
    core.on_stream_lost(Way::Any, &lost(), late, &mut done);
    let late = late + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, late), [(3, 1, 0)]);
    assert_eq!(done.len(), 1);
}

/// What is on its way in the former epoch is acknowledged first, or sent again as it was.
#[test]
fn epochs_are_not_mixed_on_the_way() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 3, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    // One fits into the message.
    let first = core.collect(Way::Any, 1, now, &mut Vec::new());
    assert_eq!(first.len(), 1);
    assert!(core.lanes[0].renumber(1));
    assert!(core.ready(now).is_empty(), "the first is of the former epoch");
    core.on_result(first[0].id, Ok((0, 0)), now, &mut Vec::new());
    assert_eq!(sent_numbers(&mut core, now), [(5, 1, 0), (6, 1, 1)]);
}

#[test]
fn a_producer_that_is_not_known_any_more_begins_a_new_epoch() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    let mut done = Vec::new();
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1)]);
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::UnknownProducerId)), now, &mut done);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
    assert_eq!(done.len(), 1, "it was certainly not written, and is sent");
}

/// A record whose fate nobody can find out any more is not written twice.
#[test]
fn what_is_in_doubt_with_a_producer_that_is_not_known_ends() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    let mut done = Vec::new();
    sent_numbers(&mut core, now);
    core.on_result(4, Err(api(Reason::UnknownProducerId)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    let ended: Vec<u64> = done.iter().map(|(number, _)| *number).collect();
    assert_eq!(ended, [0, 1, 2]);
    assert!(done.iter().all(|(_, end)| matches!(end, Err(Error::InDoubt { .. }))));
    assert_eq!(sent_numbers(&mut core, now), [(7, 1, 0)], "the fourth was never sent");
    assert_eq!(core.pending(), 1);
}

/// A number that the broker misses, of a batch that was acknowledged, is a loss: it is not passed over in silence.
#[test]
fn a_gap_at_the_broker_is_told() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::OutOfOrderSequence)), now, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.as_ref().unwrap_err().reason(), Reason::OutOfOrderSequence);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
}

/// When nobody waits for it any more, it is still sent until its fate is known: what comes after it needs its numbers.
#[test]
fn what_is_in_doubt_keeps_its_place_beyond_its_time() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let late = now + rules().delivery_timeout;
    let mut done = Vec::new();
    assert!(core.expire(late, &mut done).is_empty());
    assert_eq!((done.len(), core.pending()), (1, 0));
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent_numbers(&mut core, late), [(2, 0, 0), (3, 0, 1)]);
    assert!(core.expire(late, &mut done).is_empty(), "this attempt is young");
    assert_eq!(core.overdue_at(), Some(late + STUCK));
    core.on_result(2, Ok((0, 0)), late, &mut done);
    core.on_result(3, Ok((1, 0)), late, &mut done);
    assert_eq!(done.len(), 2);
    assert!(core.busy.is_empty());
}

/// One that was certainly not written goes when its time is over; its numbers are not used again.
#[test]
fn what_was_not_written_leaves_a_new_epoch_behind() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::NotWritten)), now, &mut done);
    let late = now + rules().delivery_timeout;
    core.expire(late, &mut done);
    assert_eq!(done.len(), 1);
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent_numbers(&mut core, late), [(2, 1, 0)]);
}

#[test]
fn a_new_id_is_asked_for_when_the_epochs_of_one_are_used_up() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    let now = Instant::now();
    core.on_producer((6, i16::MAX));
    fill(&mut core, 2, now);
    core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut Vec::new());
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut Vec::new());
    assert!(core.wants_producer(now) && core.ready(now).is_empty());
    core.on_producer((7, 0));
    assert_eq!(sent_numbers(&mut core, now), [(3, 0, 0)]);
}

/// Who has written under the same id since is left alone.
#[test]
fn a_fenced_producer_takes_a_new_id() {
    let (mut core, now) = small_idempotent();
    core.on_producer((6, 0));
    fill(&mut core, 1, now);
    core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    core.on_result(1, Err(api(Reason::InvalidProducerEpoch)), now, &mut Vec::new());
    assert!(core.wants_producer(now));
    core.on_producer((7, 0));
    assert_eq!(sent_numbers(&mut core, now), [(2, 0, 0)]);
}

#[test]
fn a_batch_written_long_ago_is_acknowledged_without_its_place() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::DuplicateSequence)), now, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done[0].1.as_ref().unwrap().offset, None);
    assert_eq!(sent_numbers(&mut core, now), [(3, 0, 1)]);
}
