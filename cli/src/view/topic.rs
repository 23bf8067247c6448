//! Topics, their partitions and segments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use geminga_proto::v1;
use serde::Serialize;

use super::{View, bytes, optional, table, time};

/// One topic in short.
#[derive(Debug, Serialize)]
pub(crate) struct Topic {
    name: String,
    topic_id: String,
    partitions: u32,
    write_quorum: u32,
    ack_quorum: u32,
    single_copy: bool,
    /// What Kafka clients are told.
    replication_factor: u32,
    configs: BTreeMap<String, String>,
    created_ms: i64,
}

impl Topic {
    fn copies(&self) -> String {
        if self.single_copy {
            "single copy".to_owned()
        } else {
            format!("{}/{}", self.write_quorum, self.ack_quorum)
        }
    }
}

impl From<v1::TopicSummary> for Topic {
    fn from(topic: v1::TopicSummary) -> Self {
        Self {
            name: topic.name,
            topic_id: topic.topic_id,
            partitions: topic.partitions,
            write_quorum: topic.write_quorum,
            ack_quorum: topic.ack_quorum,
            single_copy: topic.single_copy,
            replication_factor: topic.replication_factor,
            configs: topic.configs.into_iter().collect(),
            created_ms: topic.created_ms,
        }
    }
}

impl View for Topic {
    fn text(&self) -> String {
        let Self { name, partitions, .. } = self;
        let unit = if *partitions == 1 { "partition" } else { "partitions" };
        format!(
            "created topic {name}: {partitions} {unit}, {}\n",
            match self.single_copy {
                true => "single copy: the loss of one disk loses records".to_owned(),
                false => format!(
                    "{} copies, acknowledged when {} are on stable storage",
                    self.write_quorum, self.ack_quorum
                ),
            }
        )
    }
}

/// A topic as it is after an alteration.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Altered(Topic);

impl From<v1::TopicSummary> for Altered {
    fn from(topic: v1::TopicSummary) -> Self {
        Self(topic.into())
    }
}

impl View for Altered {
    fn text(&self) -> String {
        let Topic { name, partitions, configs, .. } = &self.0;
        let mut text = format!("altered topic {name}: {partitions} partitions\n");
        for (key, value) in configs {
            writeln!(text, "  {key}={value}").expect("a string takes it");
        }
        text
    }
}

/// One place in each of a topic's partitions.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Places(Vec<Place>);

#[derive(Debug, Serialize)]
struct Place {
    partition: u32,
    /// `None`: there is no such record.
    offset: Option<i64>,
    /// Of the record, where one was looked for by time.
    timestamp_ms: Option<i64>,
}

impl Places {
    /// Where one partition starts.
    pub(crate) fn start(partition: u32, offset: i64) -> Self {
        Self(vec![Place { partition, offset: Some(offset), timestamp_ms: None }])
    }
}

impl From<Vec<v1::PartitionOffset>> for Places {
    fn from(places: Vec<v1::PartitionOffset>) -> Self {
        let known = |number: i64| Some(number).filter(|number| *number >= 0);
        let place = |place: v1::PartitionOffset| Place {
            partition: place.partition,
            offset: known(place.offset),
            timestamp_ms: known(place.timestamp_ms),
        };
        Self(places.into_iter().map(place).collect())
    }
}

impl View for Places {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|place| {
            let at = place.timestamp_ms.map_or_else(|| "-".to_owned(), time);
            [place.partition.to_string(), optional(place.offset), at]
        });
        table(["PARTITION", "OFFSET", "TIME"], rows)
    }
}

/// All topics.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Topics(Vec<Topic>);

impl From<Vec<v1::TopicSummary>> for Topics {
    fn from(topics: Vec<v1::TopicSummary>) -> Self {
        Self(topics.into_iter().map(Topic::from).collect())
    }
}

impl View for Topics {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|topic| {
            [
                topic.name.clone(),
                topic.partitions.to_string(),
                topic.copies(),
                time(topic.created_ms),
            ]
        });
        table(["NAME", "PARTITIONS", "COPIES", "CREATED"], rows)
    }
}

/// One topic with its partitions.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    topic: Topic,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    partition: u32,
    owner_broker: Option<i32>,
    owner_address: Option<String>,
    term: i32,
    log_start_offset: Option<i64>,
    high_watermark: Option<i64>,
    /// One copy.
    size_bytes: Option<u64>,
    /// Older ones, which the metadata does not name one by one any more.
    folded_segments: u32,
    segments: Vec<Segment>,
}

#[derive(Debug, Serialize)]
struct Segment {
    ledger_id: String,
    base_offset: i64,
    term: i32,
    state: String,
    bookies: Vec<String>,
    degraded: bool,
}

impl From<v1::PartitionInfo> for Partition {
    fn from(info: v1::PartitionInfo) -> Self {
        let segment = |s: v1::SegmentInfo| Segment {
            ledger_id: s.ledger_id,
            base_offset: s.base_offset,
            term: s.term,
            state: s.state,
            bookies: s.bookies,
            degraded: s.degraded,
        };
        Self {
            partition: info.partition,
            owner_broker: Some(info.owner_broker).filter(|id| *id >= 0),
            owner_address: Some(info.owner_address).filter(|address| !address.is_empty()),
            term: info.term,
            log_start_offset: info.log_start_offset,
            high_watermark: info.high_watermark,
            size_bytes: info.size_bytes,
            folded_segments: info.folded_segments,
            segments: info.segments.into_iter().map(segment).collect(),
        }
    }
}

impl From<v1::DescribeTopicResponse> for Description {
    fn from(answer: v1::DescribeTopicResponse) -> Self {
        Self {
            topic: Topic::from(answer.topic.unwrap_or_default()),
            partitions: answer.partitions.into_iter().map(Partition::from).collect(),
        }
    }
}

impl View for Description {
    fn text(&self) -> String {
        let Topic { name, topic_id, configs, created_ms, .. } = &self.topic;
        let mut text = format!(
            "topic {name}: id {topic_id}, copies {}, created {}\n",
            self.topic.copies(),
            time(*created_ms)
        );
        for (key, value) in configs {
            writeln!(text, "  {key}={value}").expect("a string takes it");
        }
        let partitions = self.partitions.iter().map(|p| {
            [
                p.partition.to_string(),
                p.owner_address.clone().unwrap_or_else(|| "-".to_owned()),
                p.term.to_string(),
                optional(p.log_start_offset),
                optional(p.high_watermark),
                p.size_bytes.map_or_else(|| "-".to_owned(), bytes),
                p.segments.len().to_string(),
                p.folded_segments.to_string(),
            ]
        });
        let header = ["PARTITION", "OWNER", "TERM", "START", "END", "SIZE", "SEGMENTS", "FOLDED"];
        text = text + "\n" + &table(header, partitions);
        let segments: Vec<_> = self
            .partitions
            .iter()
            .flat_map(|p| p.segments.iter().map(move |s| (p.partition, s)))
            .map(|(partition, s)| {
                let degraded = if s.degraded { " (degraded)" } else { "" };
                [
                    partition.to_string(),
                    s.base_offset.to_string(),
                    s.ledger_id.clone(),
                    format!("{}{degraded}", s.state),
                    s.bookies.join(" "),
                ]
            })
            .collect();
        if !segments.is_empty() {
            let header = ["PARTITION", "FROM", "LEDGER", "STATE", "BOOKIES"];
            text = text + "\n" + &table(header, segments);
        }
        text
    }
}
