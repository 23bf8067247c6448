//! What is to be copied, and what becomes of it here: the source's topics beside what is at the target. Deciding is pure; looking
//! changes nothing anywhere.

use std::collections::BTreeMap;

use geminga_client::Client;
use geminga_serving::topics::config;

use super::checkpoint::Origin;
use super::keeper::{Keeper, Kept};
use super::source::{Bounds, Config, Metadata, Source, Topic};
use crate::exit::Failure;

/// Configs that are copied also where they are the source cluster's own: who writes and reads notices them.
const NOTICED: [&str; 3] = ["max.message.bytes", "retention.bytes", "retention.ms"];
/// Configs that would say something else here, and why.
const NOT_COPIED: [(&str, &str); 3] = [
    (
        "message.timestamp.type",
        "records that are copied keep the dates that readers of the source see: set it when the migration is done",
    ),
    ("follower.replication.throttled.replicas", "it names brokers of the source"),
    ("leader.replication.throttled.replicas", "it names brokers of the source"),
];

/// Which topics are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Empty: all that are not Kafka's own.
    pub(super) topics: Vec<String>,
    pub(super) exclude: Vec<String>,
}

/// What is to become of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is made.
    Create,
    /// It is there, and empty.
    Fill,
    /// It is there, and copying goes on; it may get more partitions.
    Resume,
    /// It is not copied.
    Refused(String),
}

/// A config that is not copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) why: String,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopicPlan {
    pub(super) topic: String,
    pub(super) origin: Origin,
    pub(super) partitions: u32,
    /// Source offsets from the starts to the ends: as many records, or more.
    pub(super) offsets: i64,
    pub(super) fate: Fate,
    pub(super) configs: BTreeMap<String, String>,
    pub(super) left_out: Vec<LeftOut>,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) cluster: String,
    pub(super) topics: Vec<TopicPlan>,
    /// By topic and partition.
    pub(super) bounds: BTreeMap<(String, u32), Bounds>,
    pub(super) kept: Kept,
}

/// What is at the target of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) partitions: u32,
    /// Whether no record was ever written to it.
    pub(super) empty: bool,
}

/// Looks at both clusters.
pub(super) async fn plan(
    source: &Source,
    client: &Client,
    keeper: &Keeper,
    wanted: &Wanted,
) -> Result<Plan, Failure> {
    let metadata = source.metadata(None).await?;
    let names = select(&metadata, wanted, keeper.name())?;
    let mut configs = source.configs(&names).await?;
    let bounds = source.bounds(&metadata, &names).await?;
    let kept = keeper.load().await?;
    let mut topics = Vec::new();
    for topic in names.iter().filter_map(|name| metadata.topics.get(name)) {
        let here = look(client, &topic.name).await?;
        let origin = Origin { cluster: metadata.cluster.clone(), topic: topic.id.clone() };
        let fate = decide(topic, &origin, here, &kept);
        let configs = configs.remove(&topic.name).unwrap_or_default();
        let (configs, left_out) = sort_out(&configs);
        let of = |((name, _), bounds): (&(String, u32), &Bounds)| {
            (*name == topic.name).then_some(bounds.end - bounds.start)
        };
        topics.push(TopicPlan {
            topic: topic.name.clone(),
            origin,
            partitions: count(topic),
            offsets: bounds.iter().filter_map(of).sum(),
            fate,
            configs,
            left_out,
        });
    }
    Ok(Plan { cluster: metadata.cluster, topics, bounds, kept })
}

/// How many partitions a topic has.
pub(super) fn count(topic: &Topic) -> u32 {
    u32::try_from(topic.leaders.len()).unwrap_or(u32::MAX)
}

fn select(metadata: &Metadata, wanted: &Wanted, own: &str) -> Result<Vec<String>, Failure> {
    for name in &wanted.topics {
        if !metadata.topics.contains_key(name) {
            return Err(Failure::new(format!(
                "the source has no topic `{name}`: name topics as it lists them"
            ))
            .because("UNKNOWN_TOPIC"));
        }
    }
    let named = |topic: &&Topic| match wanted.topics.is_empty() {
        // A Geminga may be a source as well.
        true => !topic.internal && !topic.name.starts_with("__") && topic.name != own,
        false => wanted.topics.contains(&topic.name),
    };
    let all = metadata.topics.values().filter(named).map(|topic| topic.name.clone());
    Ok(all.filter(|name| !wanted.exclude.contains(name)).collect())
}

async fn look(client: &Client, topic: &str) -> Result<Option<Here>, Failure> {
    let described = match client.admin().describe_topic(topic).await {
        Ok(described) => described,
        Err(error) if error.reason() == geminga_client::Reason::UnknownTopic => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let partitions = described.topic.map_or(0, |topic| topic.partitions);
    let ends = client.admin().list_offsets(topic, &[], geminga_client::OffsetAt::Latest).await?;
    Ok(Some(Here { partitions, empty: ends.iter().all(|(_, end)| *end == 0) }))
}

/// What is to become of a topic.
fn decide(topic: &Topic, origin: &Origin, here: Option<Here>, kept: &Kept) -> Fate {
    let known = kept.range((topic.name.clone(), 0)..=(topic.name.clone(), u32::MAX)).next();
    let Some(here) = here else {
        return match known {
            None => Fate::Create,
            Some(_) => Fate::Refused(
                "it was copied before and is not here any more: delete the group of the migration to copy it anew, or choose another --name"
                    .to_owned(),
            ),
        };
    };
    if let Some((_, (checkpoint, _))) = known
        && checkpoint.origin != *origin
    {
        return Fate::Refused(
            "another topic of this name, or that of another cluster, was copied before: choose another --name, and delete the topic here"
                .to_owned(),
        );
    }
    let partitions = count(topic);
    let numbers = format!("{} partitions here and {partitions} at the source", here.partitions);
    match known {
        Some(_) if here.partitions <= partitions => Fate::Resume,
        None if !here.empty => Fate::Refused(
            "it has records here that this migration did not copy: delete it, or leave it out with --exclude".to_owned(),
        ),
        None if here.partitions == partitions => Fate::Fill,
        _ => Fate::Refused(format!(
            "it has {numbers}: keys would not keep their partitions. Make it with as many, or delete it"
        )),
    }
}

/// Which configs are copied, and which are not.
fn sort_out(configs: &[Config]) -> (BTreeMap<String, String>, Vec<LeftOut>) {
    let (mut copied, mut left_out) = (BTreeMap::new(), Vec::new());
    for Config { name, value, own } in configs {
        let known = config::lookup(name);
        let is_default = known.is_some_and(|known| known.default == value);
        if !own && (!NOTICED.contains(&name.as_str()) || is_default) {
            continue;
        }
        let why = match NOT_COPIED.iter().find(|(not, _)| not == name) {
            _ if is_default => None,
            Some((_, why)) => Some((*why).to_owned()),
            None if known.is_none() => Some("there is no such config here".to_owned()),
            None => config::check(name, value).err().map(|error| error.message),
        };
        match why {
            None => drop(copied.insert(name.clone(), value.clone())),
            Some(why) => {
                left_out.push(LeftOut { name: name.clone(), value: value.clone(), why });
            }
        }
    }
    (copied, left_out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::checkpoint::Checkpoint;
    use super::*;

    fn topic(partitions: usize) -> Topic {
        Topic { name: "t".into(), id: "id".into(), internal: false, leaders: vec![1; partitions] }
    }

    fn origin(cluster: &str) -> Origin {
        Origin { cluster: cluster.to_owned(), topic: "id".to_owned() }
    }

    #[test]
    fn nothing_is_copied_to_what_is_not_its_own() {
        let none = Kept::new();
        let origin_of = origin("a");
        let checkpoint =
            Checkpoint { source: 0, target: 0, producer: 1, sequence: 0, origin: origin("a") };
        let kept = Kept::from([(("t".to_owned(), 0), (checkpoint, Duration::ZERO))]);
        let here = |partitions, empty| Some(Here { partitions, empty });
        let fate = |here, kept: &Kept| decide(&topic(3), &origin_of, here, kept);
        assert_eq!(fate(None, &none), Fate::Create);
        assert_eq!(fate(here(3, true), &none), Fate::Fill);
        assert_eq!(fate(here(3, false), &kept), Fate::Resume);
        assert_eq!(fate(here(2, false), &kept), Fate::Resume, "the source has got one more");
        let refused = |fate| matches!(fate, Fate::Refused(_));
        assert!(refused(fate(here(3, false), &none)), "somebody else's records");
        assert!(refused(fate(here(2, true), &none)), "too few partitions");
        assert!(refused(fate(here(4, false), &kept)), "too many");
        assert!(refused(fate(None, &kept)), "it was deleted");
        assert!(
            refused(decide(&topic(3), &origin("b"), here(3, false), &kept)),
            "of another cluster"
        );
    }

    #[test]
    fn configs_are_copied_where_they_exist_here() {
        let config = |name: &str, value: &str, own| Config {
            name: name.to_owned(),
            value: value.to_owned(),
            own,
        };
        let (copied, left_out) = sort_out(&[
            config("cleanup.policy", "compact", true),
            config("compression.type", "zstd", true),
            config("flush.ms", "1000", false),
            config("max.message.bytes", "2000000", false),
            config("message.timestamp.type", "LogAppendTime", true),
            config("retention.ms", "604800000", false),
            config("retention.bytes", "-1", false),
            config("segment.bytes", "1048576", true),
            config("x.of.a.vendor", "1", true),
        ]);
        let names: Vec<_> = copied.keys().map(String::as_str).collect();
        assert_eq!(names, ["cleanup.policy", "max.message.bytes", "retention.ms", "segment.bytes"]);
        let names: Vec<_> = left_out.iter().map(|left| left.name.as_str()).collect();
        assert_eq!(names, ["compression.type", "message.timestamp.type", "x.of.a.vendor"]);
    }

    #[test]
    fn what_is_wanted_is_there() {
        let topic = |name: &str, internal| {
            (name.to_owned(), Topic { name: name.to_owned(), internal, ..topic(1) })
        };
        let topics = [
            topic("a", false),
            topic("b", false),
            topic("__x", false),
            topic("c", true),
            topic("own", false),
        ];
        let metadata = Metadata { topics: topics.into(), ..Metadata::default() };
        let select = |topics: &[&str], exclude: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            select(&metadata, &Wanted { topics: owned(topics), exclude: owned(exclude) }, "own")
        };
        assert_eq!(select(&[], &[]).unwrap(), ["a", "b"]);
        assert_eq!(select(&[], &["a"]).unwrap(), ["b"]);
        assert_eq!(select(&["c"], &[]).unwrap(), ["c"]);
        assert!(select(&["d"], &[]).is_err());
    }
}
