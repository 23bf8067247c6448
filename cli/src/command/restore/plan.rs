//! The logs that objects make up: a pure function of what was read of them. Each partition's segments in the order of its log, and
//! what is doubled, missing or contradictory in it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use geminga_proto::ids::{ClusterUuid, LedgerId, TopicId};
use geminga_tier::Surveyed;
use serde::Serialize;

use super::survey::{Broken, Survey};
use crate::view::View;

/// A topic that objects hold.
#[derive(Debug)]
pub(super) struct TopicLog<'a> {
    pub(super) cluster: ClusterUuid,
    pub(super) id: TopicId,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) partitions: BTreeMap<u32, Log<'a>>,
}

/// One partition of it.
#[derive(Debug, Default)]
pub(super) struct Log<'a> {
    /// In the order of the log; each ledger once.
    pub(super) segments: Vec<&'a Surveyed>,
    /// Other objects of the same ledgers with the same content, from uploads that were taken over.
    pub(super) duplicates: u64,
    /// Ledgers that were uploaded with different ends: two histories of them.
    pub(super) conflicts: Vec<Conflict>,
}

/// Two uploads of one ledger that are not the same: it was closed once, and once more by metadata that went back to before that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Conflict {
    pub(super) ledger_id: String,
    /// Their keys, and the offset behind the last record of each.
    pub(super) objects: Vec<(String, i64)>,
}

/// A range of offsets, the last one not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Offsets {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl<'a> Log<'a> {
    /// What no segment holds, between the first and the last.
    pub(super) fn gaps(&self) -> Vec<Offsets> {
        self.joints().filter(|joint| joint.from < joint.to).collect()
    }

    /// What two segments hold: histories that contradict each other.
    pub(super) fn overlaps(&self) -> Vec<Offsets> {
        let over = self.joints().filter(|joint| joint.from > joint.to);
        over.map(|Offsets { from, to }| Offsets { from: to, to: from }).collect()
    }

    /// From the end of each segment to the begin of the next.
    fn joints(&self) -> impl Iterator<Item = Offsets> + '_ {
        self.segments
            .windows(2)
            .map(|two| Offsets { from: two[0].end_offset, to: two[1].header.custom.first_offset })
    }

    /// The segments after the last gap.
    pub(super) fn unbroken(&self) -> &[&'a Surveyed] {
        let breaks = |two: &[&Surveyed]| two[0].end_offset != two[1].header.custom.first_offset;
        let last = self.segments.windows(2).rposition(breaks);
        &self.segments[last.map_or(0, |at| at + 1)..]
    }

    fn offsets(&self) -> Offsets {
        let first = self.segments.first().map_or(0, |first| first.header.custom.first_offset);
        Offsets { from: first, to: self.segments.last().map_or(first, |last| last.end_offset) }
    }
}

/// All topics, by cluster and id.
pub(super) fn topics(objects: &[Surveyed]) -> Vec<TopicLog<'_>> {
    let mut ledgers: BTreeMap<(ClusterUuid, TopicId, u32, LedgerId), Vec<&Surveyed>> =
        BTreeMap::new();
    for object in objects {
        let custom = &object.header.custom;
        let key = (object.header.cluster, custom.topic, custom.partition, object.header.ledger);
        ledgers.entry(key).or_default().push(object);
    }
    let mut topics: BTreeMap<(ClusterUuid, TopicId), TopicLog<'_>> = BTreeMap::new();
    for ((cluster, id, partition, _), mut same) in ledgers {
        // Those that have the same content are as good as each other; the same one each time. Which of others is right nobody knows here:
        // the longer one has records in the place of which another history may have others.
        same.sort_unstable_by_key(|object| object.at.attempt);
        let conflict = same.iter().any(|object| !object.is_same(same[0]));
        let custom = &same[0].header.custom;
        let topic = topics.entry((cluster, id)).or_insert_with(|| TopicLog {
            cluster,
            id,
            namespace: &custom.namespace,
            name: &custom.name,
            partitions: BTreeMap::new(),
        });
        let log = topic.partitions.entry(partition).or_default();
        log.segments.push(same[0]);
        if conflict {
            let object = |one: &&Surveyed| (one.at.key.clone(), one.end_offset);
            let ledger_id = same[0].header.ledger.to_string();
            let objects = same.iter().map(object).collect();
            log.conflicts.push(Conflict { ledger_id, objects });
        } else {
            log.duplicates += same.len() as u64 - 1;
        }
    }
    for topic in topics.values_mut() {
        for log in topic.partitions.values_mut() {
            // A ledger without records begins where its successor does. One owner's ids rise; of two owners the later has the
            // higher term.
            log.segments.sort_unstable_by_key(|object| {
                let custom = &object.header.custom;
                (custom.first_offset, object.end_offset, custom.term, object.header.ledger)
            });
        }
    }
    topics.into_values().collect()
}

/// What a scan prints.
#[derive(Debug, Serialize)]
pub(super) struct Scan {
    /// Whether objects were read as a whole.
    verified: bool,
    topics: Vec<TopicFound>,
    broken: Vec<BrokenObject>,
    /// Objects that are no segments.
    other_objects: u64,
}

#[derive(Debug, Serialize)]
struct TopicFound {
    cluster: String,
    topic_id: String,
    namespace: String,
    topic: String,
    partitions: Vec<PartitionFound>,
}

#[derive(Debug, Serialize)]
struct PartitionFound {
    partition: u32,
    segments: usize,
    bytes: u64,
    first_offset: i64,
    end_offset: i64,
    duplicates: u64,
    gaps: Vec<Offsets>,
    overlaps: Vec<Offsets>,
    conflicts: Vec<Conflict>,
}

#[derive(Debug, Serialize)]
struct BrokenObject {
    key: String,
    why: String,
}

impl Scan {
    /// Of everything that was read.
    pub(super) fn of(survey: &Survey) -> Self {
        let partition = |(partition, log): (&u32, &Log<'_>)| PartitionFound {
            partition: *partition,
            segments: log.segments.len(),
            bytes: log.segments.iter().map(|segment| segment.at.size).sum(),
            first_offset: log.offsets().from,
            end_offset: log.offsets().to,
            duplicates: log.duplicates,
            gaps: log.gaps(),
            overlaps: log.overlaps(),
            conflicts: log.conflicts.clone(),
        };
        let topic = |topic: TopicLog<'_>| TopicFound {
            cluster: topic.cluster.to_string(),
            topic_id: topic.id.to_string(),
            namespace: topic.namespace.to_owned(),
            topic: topic.name.to_owned(),
            partitions: topic.partitions.iter().map(partition).collect(),
        };
        let broken =
            |broken: &Broken| BrokenObject { key: broken.key.clone(), why: broken.why.clone() };
        Self {
            verified: survey.verified,
            topics: topics(&survey.objects).into_iter().map(topic).collect(),
            broken: survey.broken.iter().map(broken).collect(),
            other_objects: survey.others,
        }
    }
}

impl View for Scan {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |what: std::fmt::Arguments<'_>| {
            writeln!(text, "{what}").expect("memory takes it");
        };
        for topic in &self.topics {
            let TopicFound { cluster, topic_id, namespace, topic, partitions } = topic;
            line(format_args!("{namespace}/{topic}  id {topic_id}  cluster {cluster}"));
            for found in partitions {
                let PartitionFound { partition, segments, bytes, first_offset, .. } = found;
                line(format_args!(
                    "  {partition}  offsets {first_offset} to {} in {segments} segments, {bytes} bytes, {} duplicates",
                    found.end_offset, found.duplicates
                ));
                for (what, ranges) in [("missing", &found.gaps), ("doubled", &found.overlaps)] {
                    for Offsets { from, to } in ranges {
                        line(format_args!("     {what}: {from} to {to}"));
                    }
                }
                for Conflict { ledger_id, objects } in &found.conflicts {
                    for (key, end) in objects {
                        line(format_args!(
                            "     two histories of {ledger_id}: up to {end} in {key}"
                        ));
                    }
                }
            }
        }
        for BrokenObject { key, why } in &self.broken {
            line(format_args!("BROKEN {key}: {why}"));
        }
        let (topics, others) = (self.topics.len(), self.other_objects);
        line(format_args!("{topics} topics; {others} other objects"));
        if !self.verified {
            line(format_args!("Only the ends of objects were read: --verify reads all."));
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use geminga_metastore::record::{Custom, TierObject};
    use geminga_proto::ids::EntryId;
    use geminga_tier::format::{Footer, Header};

    use super::*;

    /// A segment of partition 0 of topic 1.
    pub(crate) fn segment(ledger: u64, attempt: u128, offsets: (i64, i64), term: i32) -> Surveyed {
        let custom = Custom {
            topic: TopicId::from_random(1),
            namespace: "default".to_owned(),
            name: "flights".to_owned(),
            partition: 0,
            first_offset: offsets.0,
            term,
        };
        let cluster = ClusterUuid::from_random(2);
        let at = TierObject {
            attempt,
            bucket: "file://".to_owned(),
            key: format!("{ledger}/{attempt}"),
            size: 1_000,
            entries: 1,
            object_crc: 0,
            etag: String::new(),
            index_place: 900,
            at_ms: 5,
        };
        let ledger = LedgerId(ledger);
        let header =
            Header { cluster, attempt, ledger, qw: 3, qa: 2, last_entry: EntryId(0), custom };
        let footer = Footer {
            index_place: 900,
            index_length: 4,
            index_crc: 0,
            entries: 1,
            last_entry: EntryId(0),
            length: 800,
            entries_crc: 7,
            object_crc: 0,
        };
        Surveyed { at, header, footer, end_offset: offsets.1, running_max_timestamp: 9 }
    }

    /// An object of a ledger of the same cluster that cannot be read.
    pub(crate) fn broken(ledger: LedgerId) -> Broken {
        let cluster = ClusterUuid::from_random(2);
        Broken { key: "k".to_owned(), cluster, ledger, why: "bad".to_owned() }
    }

    fn log_of(objects: &[Surveyed]) -> (Vec<u64>, u64, Vec<Offsets>, Vec<Offsets>, usize) {
        let topics = topics(objects);
        let log = &topics[0].partitions[&0];
        let ids = log.segments.iter().map(|segment| segment.header.ledger.0).collect();
        (ids, log.duplicates, log.gaps(), log.overlaps(), log.unbroken().len())
    }

    #[test]
    fn segments_stand_in_the_order_of_their_log() {
        let objects = [
            segment(9, 1, (20, 30), 2),
            segment(2, 1, (0, 10), 1),
            // Without a record: before the one that begins at the same offset.
            segment(8, 1, (10, 10), 1),
            segment(3, 1, (10, 20), 2),
        ];
        assert_eq!(log_of(&objects), (vec![2, 8, 3, 9], 0, vec![], vec![], 4));
    }

    #[test]
    fn what_is_doubled_missing_or_contradictory_is_told() {
        let doubled = [segment(2, 2, (0, 10), 1), segment(2, 1, (0, 10), 1)];
        assert_eq!(log_of(&doubled), (vec![2], 1, vec![], vec![], 1));
        assert_eq!(topics(&doubled)[0].partitions[&0].segments[0].at.attempt, 1);
        let gap = [segment(2, 1, (0, 10), 1), segment(3, 1, (15, 20), 1)];
        let missing = Offsets { from: 10, to: 15 };
        assert_eq!(log_of(&gap), (vec![2, 3], 0, vec![missing], vec![], 1));
        let fork = [segment(2, 1, (0, 10), 1), segment(3, 1, (5, 20), 1)];
        let twice = Offsets { from: 5, to: 10 };
        assert_eq!(log_of(&fork), (vec![2, 3], 0, vec![], vec![twice], 1));
    }

    /// A ledger that was closed twice: which upload is right cannot be told from the objects.
    #[test]
    fn uploads_with_different_ends_are_a_conflict() {
        let mut twice = vec![segment(2, 1, (0, 10), 1), segment(2, 2, (0, 8), 1)];
        twice[1].footer.last_entry = EntryId(5);
        let topics = topics(&twice);
        let log = &topics[0].partitions[&0];
        assert_eq!((log.duplicates, log.conflicts.len()), (0, 1));
        assert_eq!(log.conflicts[0].objects, [("2/1".to_owned(), 10), ("2/2".to_owned(), 8)]);
        let objects = twice.clone();
        let survey = Survey { objects, ..Survey::default() };
        let text = Scan::of(&survey).text();
        assert!(text.contains("two histories of 0000000000000002: up to 8 in 2/2"), "{text}");
    }

    #[test]
    fn a_scan_is_lines_for_people() {
        let survey = Survey {
            objects: vec![segment(2, 1, (0, 10), 1), segment(3, 1, (15, 20), 1)],
            broken: vec![broken(LedgerId(9))],
            others: 1,
            verified: false,
        };
        let text = Scan::of(&survey).text();
        assert!(text.contains("default/flights"), "{text}");
        assert!(text.contains("offsets 0 to 20 in 2 segments"), "{text}");
        assert!(text.contains("missing: 10 to 15"), "{text}");
        assert!(text.contains("BROKEN k: bad"), "{text}");
    }
}
