//! The producer's decisions against a broker that fails in every way a broker may: it refuses, for now or for good, it does
//! not know, it vanishes, and what it was doing goes on behind the client's back.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::*;

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
