//! What the commands print. The JSON's names are part of the command line's contract.

use serde::Serialize;

use super::offsets::{self, Fate as OffsetFate};
use super::plan::{self, Fate};
use super::run::Outcome;
use crate::view::{View, bytes, table};

/// What is to be copied.
#[derive(Debug, Serialize)]
pub(super) struct Plan {
    source_cluster: String,
    topics: Vec<Topic>,
}

#[derive(Debug, Serialize)]
struct Topic {
    topic: String,
    partitions: u32,
    /// As many records, or more.
    offsets: i64,
    /// `create`, `fill`, `resume` or `refused`.
    target: &'static str,
    /// Of one that is refused.
    why: String,
    configs: std::collections::BTreeMap<String, String>,
    not_copied: Vec<NotCopied>,
}

#[derive(Debug, Serialize)]
struct NotCopied {
    config: String,
    value: String,
    why: String,
}

impl From<&plan::Plan> for Plan {
    fn from(plan: &plan::Plan) -> Self {
        let topic = |topic: &plan::TopicPlan| {
            let (target, why) = match &topic.fate {
                Fate::Create => ("create", String::new()),
                Fate::Fill => ("fill", String::new()),
                Fate::Resume => ("resume", String::new()),
                Fate::Refused(why) => ("refused", why.clone()),
            };
            let left = |left: &plan::LeftOut| NotCopied {
                config: left.name.clone(),
                value: left.value.clone(),
                why: left.why.clone(),
            };
            Topic {
                topic: topic.topic.clone(),
                partitions: topic.partitions,
                offsets: topic.offsets,
                target,
                why,
                configs: topic.configs.clone(),
                not_copied: topic.left_out.iter().map(left).collect(),
            }
        };
        Self {
            source_cluster: plan.cluster.clone(),
            topics: plan.topics.iter().map(topic).collect(),
        }
    }
}

impl View for Plan {
    fn text(&self) -> String {
        let rows = self.topics.iter().map(|topic| {
            let configs: Vec<_> = topic.configs.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let configs = if configs.is_empty() { "-".to_owned() } else { configs.join(" ") };
            let numbers = [topic.partitions.to_string(), topic.offsets.to_string()];
            let [partitions, offsets] = numbers;
            [topic.topic.clone(), partitions, offsets, topic.target.to_owned(), configs]
        });
        let mut text = table(["TOPIC", "PARTITIONS", "OFFSETS", "TARGET", "CONFIGS"], rows);
        for topic in &self.topics {
            if !topic.why.is_empty() {
                text += &format!("\n{}: refused: {}", topic.topic, topic.why);
            }
            for NotCopied { config, value, why } in &topic.not_copied {
                text += &format!("\n{}: {config}={value} is not copied: {why}", topic.topic);
            }
        }
        text.trim_end().to_owned() + "\n"
    }
}

/// What is copied.
#[derive(Debug, Serialize)]
pub(super) struct Run {
    /// Whether it was stopped before its end.
    stopped: bool,
    records: u64,
    bytes: u64,
    partitions: Vec<Partition>,
}

#[derive(Debug, Serialize)]
struct Partition {
    topic: String,
    partition: u32,
    /// By this run.
    records: u64,
    /// Where the source goes on, and where the target ends.
    source_offset: i64,
    target_offset: i64,
    lag: i64,
    /// Offsets that the source deleted before they were copied.
    lost: i64,
    /// Why it goes no further; empty when it does.
    failed: String,
}

impl From<&Outcome> for Run {
    fn from(outcome: &Outcome) -> Self {
        let partition = |copying: &super::copying::Copying| Partition {
            topic: copying.topic.to_string(),
            partition: copying.partition,
            records: copying.records,
            source_offset: copying.checkpoint.source,
            target_offset: copying.checkpoint.target,
            lag: copying.lag(),
            lost: copying.lost,
            failed: copying.failed().unwrap_or_default().to_owned(),
        };
        Self {
            stopped: outcome.stopped,
            records: outcome.partitions.iter().map(|copying| copying.records).sum(),
            bytes: outcome.partitions.iter().map(|copying| copying.bytes).sum(),
            partitions: outcome.partitions.iter().map(partition).collect(),
        }
    }
}

impl View for Run {
    fn text(&self) -> String {
        let rows = self.partitions.iter().map(|p| {
            let name = format!("{}/{}", p.topic, p.partition);
            let numbers = [p.source_offset, p.target_offset, p.lag, p.lost].map(|n| n.to_string());
            let [source, target, lag, lost] = numbers;
            [name, p.records.to_string(), source, target, lag, lost]
        });
        let mut text = table(["PARTITION", "RECORDS", "SOURCE", "TARGET", "LAG", "LOST"], rows);
        for p in self.partitions.iter().filter(|p| !p.failed.is_empty()) {
            text += &format!("{}/{}: {}\n", p.topic, p.partition, p.failed);
        }
        text + &format!("{} records, {}\n", self.records, bytes(self.bytes))
    }
}

/// What became of committed offsets.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(super) struct Groups(Vec<Group>);

#[derive(Debug, Serialize)]
struct Group {
    group: String,
    /// At the source; empty where it does not say.
    source_state: String,
    /// Why nothing was set; empty when it was.
    refused: String,
    offsets: Vec<Offset>,
}

#[derive(Debug, Serialize)]
struct Offset {
    topic: String,
    partition: u32,
    source_offset: i64,
    /// The group's, here.
    target_offset: Option<i64>,
    /// `set`, `ahead` or `not copied`.
    state: &'static str,
}

impl From<&[offsets::Group]> for Groups {
    fn from(groups: &[offsets::Group]) -> Self {
        let offset = |row: &offsets::Row| {
            let (target_offset, state) = match row.fate {
                OffsetFate::Set(offset) => (Some(offset), "set"),
                OffsetFate::Ahead(offset) => (Some(offset), "ahead"),
                OffsetFate::NotCopied => (None, "not copied"),
            };
            let (topic, partition) = (row.topic.clone(), row.partition);
            Offset { topic, partition, source_offset: row.source, target_offset, state }
        };
        let group = |group: &offsets::Group| Group {
            group: group.group.clone(),
            source_state: group.state.clone(),
            refused: group.refused.clone().unwrap_or_default(),
            offsets: group.rows.iter().map(offset).collect(),
        };
        Self(groups.iter().map(group).collect())
    }
}

impl View for Groups {
    fn text(&self) -> String {
        let rows = self.0.iter().flat_map(|group| {
            group.offsets.iter().map(|offset| {
                let target = offset.target_offset.map_or("-".to_owned(), |at| at.to_string());
                [
                    group.group.clone(),
                    format!("{}/{}", offset.topic, offset.partition),
                    offset.source_offset.to_string(),
                    target,
                    offset.state.to_owned(),
                ]
            })
        });
        let mut text = table(["GROUP", "PARTITION", "SOURCE", "TARGET", "STATE"], rows);
        for group in &self.0 {
            if !group.refused.is_empty() {
                text += &format!("{}: {}\n", group.group, group.refused);
            }
            if !matches!(group.source_state.as_str(), "" | "Empty" | "Dead") {
                text += &format!(
                    "{}: it is {} at the source, so what it commits there from now on is not here\n",
                    group.group, group.source_state
                );
            }
        }
        text
    }
}
