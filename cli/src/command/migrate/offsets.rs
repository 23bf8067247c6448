//! Committed offsets of groups: what they are at the source, what they become here. Deciding is pure.

use std::collections::BTreeMap;

use geminga_client::v1::CommitOffset;
use geminga_client::{Client, Reason};

use super::keeper::{Keeper, Kept};
use super::map::{Place, Translation};
use super::source::{Committed, Source};
use crate::exit::Failure;

/// Offsets of one commit.
const AT_ONCE: usize = 1_000;
/// Kafka keeps them as short; what is longer is left out.
const MOST_METADATA: usize = 4096;

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct How {
    /// Empty: all.
    pub(super) groups: Vec<String>,
    /// Say it only.
    pub(super) dry_run: bool,
    /// Also where the group is further here.
    pub(super) overwrite: bool,
}

/// What becomes of one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is this one here.
    Set(i64),
    /// The group is at this one here already, or further.
    Ahead(i64),
    /// The copy has not come to it yet.
    NotCopied,
}

/// One offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) source: i64,
    pub(super) metadata: String,
    pub(super) fate: Fate,
}

/// One group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) group: String,
    /// At the source, as it says; empty where it does not.
    pub(super) state: String,
    /// Of topics that are copied.
    pub(super) rows: Vec<Row>,
    /// Why nothing was set.
    pub(super) refused: Option<String>,
}

impl Group {
    /// Whether the copy has not come to some of its offsets.
    pub(super) fn waits(&self) -> bool {
        self.rows.iter().any(|row| row.fate == Fate::NotCopied)
    }
}

/// Translates, and sets what is to be set.
pub(super) async fn run(
    source: &Source,
    client: &Client,
    keeper: &Keeper,
    how: &How,
) -> Result<Vec<Group>, Failure> {
    let kept = keeper.load().await?;
    if kept.is_empty() {
        return Err(Failure::new(format!(
            "nothing was copied under the name of `{}` yet: `geminga migrate run` first",
            keeper.name()
        )));
    }
    let metadata = source.metadata(None).await?;
    let groups = wanted(source.groups(&metadata).await?, how, keeper.name())?;
    let mut committed = Vec::new();
    for (group, state) in groups {
        let mut offsets = source.committed(&group).await?;
        offsets.retain(|key, _| kept.contains_key(key));
        committed.push((group, state, offsets));
    }
    let translations = translate(keeper, committed.iter().map(|(_, _, offsets)| offsets)).await?;
    let mut done = Vec::new();
    for (group, state, offsets) in committed {
        if offsets.is_empty() {
            continue;
        }
        let here = match client.admin().fetch_offsets(&group, &[]).await {
            Ok(here) => here.into_iter().map(|o| ((o.topic, o.partition), o.offset)).collect(),
            Err(error) if error.reason() == Reason::UnknownGroup => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let rows = decide(offsets, &translations, &kept, &here, how.overwrite);
        let refused = if how.dry_run { None } else { set(client, &group, &rows).await? };
        done.push(Group { group, state, rows, refused });
    }
    Ok(done)
}

fn wanted(
    groups: Vec<(String, String)>,
    how: &How,
    own: &str,
) -> Result<Vec<(String, String)>, Failure> {
    for name in &how.groups {
        if !groups.iter().any(|(group, _)| group == name) {
            return Err(
                Failure::new(format!("the source has no group `{name}`")).because("UNKNOWN_GROUP")
            );
        }
    }
    let named = |group: &str| how.groups.is_empty() || how.groups.iter().any(|name| name == group);
    Ok(groups.into_iter().filter(|(group, _)| group != own && named(group)).collect())
}

/// What the places say of the offsets that groups have.
async fn translate(
    keeper: &Keeper,
    committed: impl Iterator<Item = &Committed>,
) -> Result<BTreeMap<(String, u32), Translation>, Failure> {
    let mut translations: BTreeMap<(String, u32), Translation> = BTreeMap::new();
    for (key, (offset, _)) in committed.flatten() {
        translations.entry(key.clone()).or_default().add(*offset);
    }
    keeper
        .places(|topic, partition, place| {
            if let Some(translation) = translations.get_mut(&(topic.to_owned(), partition)) {
                translation.place(place);
            }
        })
        .await?;
    Ok(translations)
}

fn decide(
    committed: Committed,
    translations: &BTreeMap<(String, u32), Translation>,
    kept: &Kept,
    here: &BTreeMap<(String, u32), i64>,
    overwrite: bool,
) -> Vec<Row> {
    let row = |(key, (source, metadata)): ((String, u32), (i64, String))| {
        let (checkpoint, _) = kept.get(&key)?;
        let copied = Place { source: checkpoint.source, target: checkpoint.target };
        let target = translations.get(&key)?.of(source, copied);
        let fate = match (target, here.get(&key)) {
            (None, _) => Fate::NotCopied,
            (Some(target), Some(at)) if *at >= target && !overwrite => Fate::Ahead(*at),
            (Some(target), _) => Fate::Set(target),
        };
        let (topic, partition) = key;
        Some(Row { topic, partition, source, metadata, fate })
    };
    committed.into_iter().filter_map(row).collect()
}

/// Sets what is to be set; says why not, where the group has members here.
async fn set(client: &Client, group: &str, rows: &[Row]) -> Result<Option<String>, Failure> {
    let offset = |row: &Row| match row.fate {
        Fate::Set(offset) => Some(CommitOffset {
            topic: row.topic.clone(),
            partition: row.partition,
            offset,
            leader_epoch: None,
            metadata: match row.metadata.len() > MOST_METADATA {
                true => String::new(),
                false => row.metadata.clone(),
            },
        }),
        Fate::Ahead(_) | Fate::NotCopied => None,
    };
    let offsets: Vec<_> = rows.iter().filter_map(offset).collect();
    for some in offsets.chunks(AT_ONCE) {
        match client.admin().commit_offsets(group, some.to_vec()).await {
            Ok(()) => {}
            Err(error) if error.reason() == Reason::GroupNotEmpty => {
                return Ok(Some(
                    "it has members here: stop them, and say --overwrite where they read already"
                        .to_owned(),
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::checkpoint::{Checkpoint, Origin};
    use super::*;

    #[test]
    fn an_offset_is_set_where_it_is_copied_and_the_group_is_not_further() {
        let key = |partition| ("t".to_owned(), partition);
        let checkpoint = Checkpoint {
            source: 50,
            target: 40,
            producer: 1,
            sequence: 0,
            origin: Origin::default(),
        };
        let kept: Kept = (0..4).map(|p| (key(p), (checkpoint.clone(), Duration::ZERO))).collect();
        let offsets = [30, 30, 30, 51];
        let mut translations = BTreeMap::new();
        let mut committed = Committed::new();
        for (partition, offset) in (0..).zip(offsets) {
            let mut translation = Translation::default();
            translation.add(offset);
            translation.place(Place { source: 10, target: 0 });
            translations.insert(key(partition), translation);
            committed.insert(key(partition), (offset, "m".to_owned()));
        }
        let here = BTreeMap::from([(key(1), 20), (key(2), 19)]);
        let fates = |overwrite| {
            let rows = decide(committed.clone(), &translations, &kept, &here, overwrite);
            rows.into_iter().map(|row| row.fate).collect::<Vec<_>>()
        };
        assert_eq!(fates(false), [Fate::Set(20), Fate::Ahead(20), Fate::Set(20), Fate::NotCopied]);
        assert_eq!(fates(true), [Fate::Set(20), Fate::Set(20), Fate::Set(20), Fate::NotCopied]);
    }
}
