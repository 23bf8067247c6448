//! One partition: what was sent to it, how that ended, what readers saw at which offset, and what its log holds in the end.
//!
//! A record is *known* when its `produce` line came before and the hashes agree; only then does it count as seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::history::Content;
use crate::violation::{Property, Violation};

/// How a record ended for its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nobody was told.
    Open,
    Acked {
        line: u64,
        offset: Option<u64>,
    },
    InDoubt,
    Refused {
        line: u64,
    },
}

/// A record that was sent.
#[derive(Debug)]
struct Sent {
    line: u64,
    hash: Box<str>,
    outcome: Outcome,
    /// Where the final reading found it first, and in which line.
    read: Option<(u64, u64)>,
    /// It found it again: then its acknowledgement may have meant either place.
    doubled: bool,
}

/// What is at an offset, as the first who saw it says.
#[derive(Debug, Clone, Copy)]
struct Seen {
    producer: usize,
    seq: usize,
    line: u64,
    /// The final reading saw it as well.
    read: bool,
}

#[derive(Debug, Default)]
struct Producer {
    name: String,
    sent: Vec<Sent>,
    /// The last of them that the final reading came by, and its line.
    read: Option<(usize, u64)>,
}

/// The log's bounds at the end, and how far it was read.
#[derive(Debug, Clone, Copy)]
struct Log {
    line: u64,
    start: u64,
    end: u64,
    next: u64,
    /// The line of the last record that was read.
    last: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Partition {
    numbers: HashMap<String, usize>,
    producers: Vec<Producer>,
    seen: BTreeMap<u64, Seen>,
    log: Option<Log>,
}

impl Partition {
    pub(crate) fn produce(&mut self, line: u64, content: &Content) -> Result<(), String> {
        let producer = match self.numbers.get(&content.producer) {
            Some(number) => *number,
            None => {
                let name = content.producer.clone();
                self.producers.push(Producer { name: name.clone(), ..Producer::default() });
                self.numbers.insert(name, self.producers.len() - 1);
                self.producers.len() - 1
            }
        };
        let sent = &mut self.producers[producer].sent;
        if content.seq != sent.len() as u64 {
            return Err(format!(
                "record {} of {} follows {} others: numbers of one producer in one partition have no gaps",
                content.seq,
                content.producer,
                sent.len()
            ));
        }
        let hash = content.hash.clone().into_boxed_str();
        sent.push(Sent { line, hash, outcome: Outcome::Open, read: None, doubled: false });
        Ok(())
    }

    pub(crate) fn ack(
        &mut self,
        line: u64,
        producer: &str,
        seq: u64,
        offset: Option<u64>,
    ) -> Result<(), String> {
        self.end_record(producer, seq, Outcome::Acked { line, offset })
    }

    pub(crate) fn fail(
        &mut self,
        line: u64,
        producer: &str,
        seq: u64,
        in_doubt: bool,
    ) -> Result<(), String> {
        let outcome = if in_doubt { Outcome::InDoubt } else { Outcome::Refused { line } };
        self.end_record(producer, seq, outcome)
    }

    fn end_record(&mut self, producer: &str, seq: u64, outcome: Outcome) -> Result<(), String> {
        let sent =
            self.find(producer, seq).map(|(producer, seq)| &mut self.producers[producer].sent[seq]);
        match sent {
            None => Err(format!("record {seq} of {producer} was never sent")),
            Some(sent) if sent.outcome != Outcome::Open => {
                Err(format!("record {seq} of {producer} has ended before"))
            }
            Some(sent) => {
                sent.outcome = outcome;
                Ok(())
            }
        }
    }

    fn find(&self, producer: &str, seq: u64) -> Option<(usize, usize)> {
        let producer = *self.numbers.get(producer)?;
        let seq = usize::try_from(seq).ok()?;
        self.producers[producer].sent.get(seq).map(|_| (producer, seq))
    }

    /// Somebody was given a record.
    pub(crate) fn fetch(
        &mut self,
        line: u64,
        offset: u64,
        content: &Content,
        into: &mut Vec<Violation>,
    ) {
        self.observe(line, offset, content, false, into);
    }

    /// The record's place among those that were sent, when it is known and nobody saw anything else at `offset`.
    fn observe(
        &mut self,
        line: u64,
        offset: u64,
        content: &Content,
        read: bool,
        into: &mut Vec<Violation>,
    ) -> Option<(usize, usize)> {
        let Content { producer, seq, hash } = content;
        let found = self.find(producer, *seq);
        let Some((number, index)) = found else {
            let what =
                format!("at offset {offset} is record {seq} of {producer}, which nobody sent");
            into.push(Violation::new(Property::Content, what, [line]));
            return None;
        };
        let sent = &self.producers[number].sent[index];
        if *sent.hash != **hash {
            let what = format!("at offset {offset} is record {seq} of {producer} with other bytes");
            into.push(Violation::new(Property::Content, what, [sent.line, line]));
            return None;
        }
        let new = Seen { producer: number, seq: index, line, read };
        let seen = self.seen.entry(offset).or_insert(new);
        if (seen.producer, seen.seq) != (number, index) {
            let what = format!("at offset {offset} was another record before");
            into.push(Violation::new(Property::Content, what, [seen.line, line]));
            return None;
        }
        seen.read |= read;
        found
    }

    /// The bounds of the log, before it is read.
    pub(crate) fn log(&mut self, line: u64, start: u64, end: u64) -> Result<(), String> {
        if self.log.is_some() {
            return Err("the bounds of this log were told before".to_owned());
        }
        if start > end {
            return Err(format!("a log from {start} to {end}"));
        }
        self.log = Some(Log { line, start, end, next: start, last: line });
        Ok(())
    }

    /// The next record of the final reading.
    pub(crate) fn read(
        &mut self,
        line: u64,
        offset: u64,
        content: &Content,
        into: &mut Vec<Violation>,
    ) -> Result<(), String> {
        let Some(log) = &mut self.log else {
            return Err("the log is read before its bounds are told".to_owned());
        };
        if offset != log.next {
            let what = format!("offset {offset} comes where {} is due", log.next);
            into.push(Violation::new(Property::Dense, what, [log.last, line]));
        }
        (log.next, log.last) = (offset.saturating_add(1), line);
        let Some((number, index)) = self.observe(line, offset, content, true, into) else {
            return Ok(());
        };
        let producer = &mut self.producers[number];
        let sent = &mut producer.sent[index];
        let name = &producer.name;
        if let Outcome::Refused { line: refused } = sent.outcome {
            let what = format!("record {index} of {name} was refused, and is at offset {offset}");
            into.push(Violation::new(Property::Refused, what, [refused, line]));
        }
        if let Some((first, first_line)) = sent.read {
            let what = format!("record {index} of {name} is at offsets {first} and {offset}");
            into.push(Violation::new(Property::Duplicated, what, [first_line, line]));
            sent.doubled = true;
            return Ok(());
        }
        sent.read = Some((offset, line));
        match producer.read {
            Some((before, before_line)) if before > index => {
                let what = format!("record {before} of {name} is before its record {index}");
                into.push(Violation::new(Property::Order, what, [before_line, line]));
            }
            _ => producer.read = Some((index, line)),
        }
        Ok(())
    }

    /// The offsets that a group had to get: from the start of the log to its end.
    pub(crate) fn bounds(&self) -> Option<std::ops::Range<u64>> {
        self.log.map(|log| log.start..log.end)
    }

    /// The line in which the final reading saw this offset.
    pub(crate) fn line_of(&self, offset: u64) -> Option<u64> {
        self.seen.get(&offset).map(|seen| seen.line)
    }

    /// All lines were read, and these clients had died. How many records were on their way then.
    pub(crate) fn finish(
        &self,
        dead: &BTreeSet<String>,
        into: &mut Vec<Violation>,
    ) -> Result<u64, String> {
        let Some(log) = self.log else {
            return Err("records were sent to it, and its log was not read at the end".to_owned());
        };
        if log.next < log.end {
            let what =
                format!("the log ends at {}, and could be read to {} only", log.end, log.next);
            into.push(Violation::new(Property::Dense, what, [log.line, log.last]));
        }
        let mut open_at_death = 0;
        for producer in &self.producers {
            let died = dead.contains(&producer.name);
            for (seq, sent) in producer.sent.iter().enumerate() {
                into.extend(sent.judge(seq, &producer.name, log.start));
                if sent.outcome != Outcome::Open {
                    continue;
                }
                open_at_death += u64::from(died);
                if !died {
                    let what = format!("nobody told {} how its record {seq} ended", producer.name);
                    into.push(Violation::new(Property::Untold, what, [sent.line]));
                }
            }
        }
        let gone = self.seen.range(log.start..).filter(|(_, seen)| !seen.read);
        for (offset, seen) in gone {
            let name = &self.producers[seen.producer].name;
            let what = format!(
                "a group was given record {} of {name} at offset {offset}, where the log does not have it",
                seen.seq
            );
            into.push(Violation::new(Property::Content, what, [seen.line]));
        }
        Ok(open_at_death)
    }

    /// How many records were sent, acknowledged, refused, left in doubt or open, and read at the end.
    pub(crate) fn counts(&self) -> [u64; 5] {
        let mut counts = [0; 5];
        for sent in self.producers.iter().flat_map(|producer| &producer.sent) {
            counts[0] += 1;
            let which = match sent.outcome {
                Outcome::Acked { .. } => 1,
                Outcome::Refused { .. } => 2,
                Outcome::Open | Outcome::InDoubt => 3,
            };
            counts[which] += 1;
            counts[4] += u64::from(sent.read.is_some());
        }
        counts
    }
}

impl Sent {
    /// Whether what its producer was told holds.
    fn judge(&self, seq: usize, producer: &str, log_start: u64) -> Option<Violation> {
        let Outcome::Acked { line, offset } = self.outcome else { return None };
        // Retention or an operator gave it up.
        if offset.is_some_and(|offset| offset < log_start) {
            return None;
        }
        match (offset, self.read) {
            (_, None) => {
                let place = offset.map(|offset| format!(" at offset {offset}")).unwrap_or_default();
                let what = format!("record {seq} of {producer} was acknowledged{place}");
                Some(Violation::new(Property::Lost, what, [self.line, line]))
            }
            (Some(offset), Some((read, read_line))) if offset != read && !self.doubled => {
                let what = format!(
                    "record {seq} of {producer} was acknowledged at offset {offset} and is at {read}"
                );
                Some(Violation::new(Property::Content, what, [line, read_line]))
            }
            _ => None,
        }
    }
}
