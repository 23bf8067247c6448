//! Where segments are in their logs, and what follows for a log whose beginning is gone: retention deletes there, so that what was deleted
//! since the backup is before what is left. What is missing further on is for a human.

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{LogStart, Segment, Topic};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::ids::{LedgerId, Offset, PartitionIndex, TopicId};

use crate::exit::Failure;

/// A part of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: Offset,
    /// Behind its last record.
    pub(super) to: Offset,
    /// Whether its records are.
    pub(super) is_there: bool,
}

/// All logs.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<(TopicId, PartitionIndex), Vec<Stretch>>);

impl Places {
    /// Adds a stretch, in whatever order.
    pub(super) fn add(&mut self, of: (TopicId, PartitionIndex), stretch: Stretch) {
        self.0.entry(of).or_default().push(stretch);
    }

    /// Adds all segments that have keys. A segment ends where the next begins; where the last one ends that is open, it begins.
    pub(super) async fn add_segments(
        &mut self,
        metadata: &dyn MetaStore,
        missing: &BTreeSet<LedgerId>,
    ) -> Result<(), Failure> {
        let mut segments: BTreeMap<_, Vec<Segment>> = BTreeMap::new();
        for item in metadata.range(keys::SEGMENTS, None, usize::MAX).await?.items {
            let Some(of) = keys::parse_segment_partition(&item.key) else { continue };
            let Ok(segment) = Segment::decode(&item.value.value) else { continue };
            segments.entry(of).or_default().push(segment);
        }
        for (of, segments) in segments {
            let nexts = segments.iter().skip(1).map(|next| Some(next.base_offset));
            for (segment, next) in segments.iter().zip(nexts.chain([None])) {
                let (from, end) = (segment.base_offset, segment.end_offset.or(next));
                let is_there = !missing.contains(&segment.ledger);
                self.add(of, Stretch { from, to: end.unwrap_or(from), is_there });
            }
        }
        Ok(())
    }

    /// The commands that follow, for topics that people know.
    pub(super) async fn follow(mut self, metadata: &dyn MetaStore) -> Result<Vec<String>, Failure> {
        let mut names = BTreeMap::new();
        for item in metadata.range(keys::TOPICS, None, usize::MAX).await?.items {
            let Some((_, name)) = keys::parse_topic(&item.key) else { continue };
            let Ok(topic) = Topic::decode(&item.value.value) else { continue };
            names.insert(topic.id, name.to_owned());
        }
        let mut commands = Vec::new();
        for ((topic, partition), stretches) in &mut self.0 {
            let Some(name) = names.get(topic) else { continue };
            let found = metadata.get(&keys::log_start(*topic, *partition)).await?;
            let start = found.and_then(|found| LogStart::decode(&found.value).ok());
            let start = start.map_or(Offset(0), |start| start.offset);
            if let Some(before) = first_left(start, stretches) {
                let partition = partition.0;
                commands.push(format!(
                    "geminga topic delete-records {name} --partition {partition} --before {before}"
                ));
            }
        }
        Ok(commands)
    }
}

/// Where a log begins that lacks its beginning; `None` when it does not.
fn first_left(start: Offset, stretches: &mut [Stretch]) -> Option<Offset> {
    stretches.sort_unstable_by_key(|stretch| (stretch.from, stretch.to));
    let left = stretches.iter().filter(|stretch| stretch.to > start);
    let gone = left.take_while(|stretch| !stretch.is_there);
    gone.map(|stretch| stretch.to).max().filter(|to| *to > start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(from: i64, to: i64, is_there: bool) -> Stretch {
        Stretch { from: Offset(from), to: Offset(to), is_there }
    }

    #[test]
    fn only_the_beginning_of_a_log_is_given_up() {
        let [gone, there] = [false, true];
        let mut log = [stretch(20, 30, gone), stretch(0, 10, gone), stretch(10, 20, gone)];
        assert_eq!(first_left(Offset(0), &mut log), Some(Offset(30)));
        let mut log = [stretch(0, 10, gone), stretch(10, 20, there), stretch(20, 30, gone)];
        assert_eq!(first_left(Offset(0), &mut log), Some(Offset(10)));
        // It began behind that anyway.
        assert_eq!(first_left(Offset(10), &mut log), None);
        let mut log = [stretch(0, 10, there), stretch(10, 20, gone)];
        assert_eq!(first_left(Offset(0), &mut log), None);
        // One without records at the beginning changes nothing.
        let mut log = [stretch(0, 0, there), stretch(0, 10, gone)];
        assert_eq!(first_left(Offset(0), &mut log), Some(Offset(10)));
        assert_eq!(first_left(Offset(0), &mut []), None);
    }
}
