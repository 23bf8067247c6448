//! What of some batches may be sent when, and what became of them. Pure: elements out, results in.
//!
//! Of each partition, with `ended <= sent`: batches before `ended` have their ends, those before `sent` are on their way,
//! [`IN_FLIGHT`] at most: so many does a partition remember of a producer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;

use super::{ReadyBatch, Written};
use crate::error::Error;

/// Batches of one partition on their way at once.
const IN_FLIGHT: usize = caps::PRODUCER_BATCHES;
/// A broker that does not know a topic, or a partition of it, may only be behind: it is asked so many times.
const UNKNOWN_TRIES: u32 = 12;

type Key = (Arc<str>, u32);

/// The partitions that something was sent to on a stream.
pub(super) type Begun = BTreeSet<Key>;

/// The batches of one partition.
#[derive(Debug, Default)]
struct Line {
    /// Which of all.
    batches: Vec<usize>,
    sent: usize,
    ended: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Round<'a> {
    batches: &'a [ReadyBatch],
    ends: Vec<Option<Written>>,
    lines: BTreeMap<Key, Line>,
    /// Elements on their way, by their ids: whose line.
    flying: HashMap<u64, Key>,
    left: usize,
    unknown: u32,
}

impl<'a> Round<'a> {
    pub(super) fn new(batches: &'a [ReadyBatch]) -> Self {
        let mut lines: BTreeMap<Key, Line> = BTreeMap::new();
        for (index, batch) in batches.iter().enumerate() {
            let key = (Arc::clone(&batch.topic), batch.partition);
            lines.entry(key).or_default().batches.push(index);
        }
        let ends = batches.iter().map(|_| None).collect();
        let left = batches.len();
        Self { batches, ends, lines, flying: HashMap::new(), left, unknown: 0 }
    }

    /// Whether every batch has its end.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Batches without an end.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether something may be sent.
    pub(super) fn has_ready(&self) -> bool {
        self.lines.values().any(Line::has_ready)
    }

    /// Takes what may be sent, until it has so many bytes.
    pub(super) fn collect(
        &mut self,
        bytes: usize,
        next_id: &mut u64,
        begun: &mut Begun,
    ) -> Vec<v1::ProduceElement> {
        let mut elements = Vec::new();
        let mut taken = 0;
        for (key, line) in &mut self.lines {
            while line.has_ready() {
                let batch = &self.batches[line.batches[line.sent]];
                if taken > 0 && taken + batch.batch.len() > bytes {
                    return elements;
                }
                taken += batch.batch.len();
                line.sent += 1;
                *next_id += 1;
                self.flying.insert(*next_id, key.clone());
                elements.push(v1::ProduceElement {
                    id: *next_id,
                    topic: batch.topic.as_ref().to_owned(),
                    partition: Some(batch.partition),
                    data: Some(v1::produce_element::Data::Batch(batch.batch.clone())),
                    acks: v1::Acks::All.into(),
                    restart: begun.insert(key.clone()),
                    // It stands in the batch.
                    producer: None,
                });
            }
        }
        elements
    }

    /// What a server says of an element.
    ///
    /// # Errors
    /// That the stream is no good any more, and everything without an end has to be sent again.
    pub(super) fn on_result(
        &mut self,
        result: v1::ProduceResult,
        begun: &mut Begun,
    ) -> Result<(), Error> {
        // One of a line that was refused meanwhile.
        let Some(key) = self.flying.remove(&result.id) else { return Ok(()) };
        let error = result.error.as_ref().map(ApiError::from_proto);
        let end = match error {
            None => Ok(Some(result.base_offset)),
            Some(error) if error.reason == Reason::DuplicateSequence => Ok(None),
            Some(error) if self.is_tried_again(&error) => return Err(error.into()),
            Some(error) => Err(Error::from(error)),
        };
        let Some(line) = self.lines.get_mut(&key) else { return Ok(()) };
        // Results of a partition come in the order of its elements.
        let mut endings = 1;
        if end.is_err() {
            endings = line.batches.len() - line.ended;
            line.sent = line.batches.len();
            self.flying.retain(|_, of| *of != key);
            begun.remove(&key);
        }
        for _ in 0..endings {
            self.ends[line.batches[line.ended]] = Some(end.clone());
            line.ended += 1;
            self.left -= 1;
        }
        Ok(())
    }

    fn is_tried_again(&mut self, error: &ApiError) -> bool {
        match error.reason {
            Reason::UnknownTopic | Reason::UnknownPartition => {
                self.unknown += 1;
                self.unknown < UNKNOWN_TRIES
            }
            reason => reason.retriable(),
        }
    }

    /// Whatever has no end is sent again.
    pub(super) fn again(&mut self) {
        self.flying.clear();
        for line in self.lines.values_mut() {
            line.sent = line.ended;
        }
    }

    /// Whatever has no end has this one.
    pub(super) fn give_up(&mut self, last: &Error, after: Duration) {
        let error = match last {
            Error::Closed => Error::Closed,
            last => Error::TimedOut { after, last: Box::new(last.clone()) },
        };
        for end in self.ends.iter_mut().filter(|end| end.is_none()) {
            *end = Some(Err(error.clone()));
        }
        self.left = 0;
    }

    /// What became of each batch.
    pub(super) fn into_ends(self) -> Vec<Written> {
        self.ends.into_iter().map(|end| end.unwrap_or(Err(Error::Closed))).collect()
    }
}

impl Line {
    fn has_ready(&self) -> bool {
        self.sent < self.batches.len() && self.sent - self.ended < IN_FLIGHT
    }
}
