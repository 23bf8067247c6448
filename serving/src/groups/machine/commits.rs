//! Commits of a shard's groups: what they must not hold, what the coordinator adds to them, and what of them is read.

use std::sync::Arc;

use geminga_proto::caps;

use super::answer::Waiting;
use super::{Groups, Held};
use crate::groups::classic::{CommitClassic, Each};
use crate::groups::core::Event;
use crate::groups::image::{GroupImage, offset_bytes};
use crate::groups::limits;
use crate::groups::request::{Fetched, Positions, Respond};
use crate::groups::types::{Assignment, Commit, Committed, Error, TopicPartition};
use crate::statelog::machine::Output;

impl Groups {
    pub(super) fn on_commit(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        mut commit: Commit,
        respond: Respond<()>,
        out: &mut Output<Held>,
    ) {
        if let Err(error) = self.prepare_commit(name, &mut commit) {
            out.held.push(Held::Done(respond, Err(error)));
            return;
        }
        let token = self.token(Waiting::Done(respond));
        self.step(now_ms, name, Event::Commit(token, commit), out);
    }

    pub(super) fn on_commit_classic(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        mut commit: CommitClassic,
        respond: Respond<Each>,
        out: &mut Output<Held>,
    ) {
        match self.prepare_classic(name, &mut commit) {
            Ok(each) => {
                let token = self.token(Waiting::Commit(respond, each));
                let CommitClassic { by, retention_ms: _, offsets } = commit;
                self.step(now_ms, name, Event::CommitClassic(token, by, offsets), out);
            }
            Err(error) => out.held.push(Held::Each(respond, Err(error))),
        }
    }

    /// Refuses what a commit must not hold, and adds what only the coordinator knows.
    fn prepare_commit(&self, name: &str, commit: &mut Commit) -> Result<(), Error> {
        self.may_exist(name)?;
        let limit = limits::MAX_COMMIT_OFFSETS;
        if commit.offsets.len() > limit {
            return Err(Error::Limit { what: "the number of offsets in a commit", limit });
        }
        for (tp, committed) in &commit.offsets {
            check_offset(tp, committed)?;
        }
        self.complete(None, &mut commit.offsets);
        self.check_growth(name, &commit.offsets)
    }

    /// Refuses what a commit must not hold: all of it, or single offsets; adds what only the coordinator knows.
    fn prepare_classic(&self, name: &str, commit: &mut CommitClassic) -> Result<Each, Error> {
        self.may_exist(name)?;
        if commit.by.generation >= 0 && !self.groups.contains_key(name) {
            return Err(Error::StaleGeneration { current: 0 });
        }
        let limit = limits::MAX_COMMIT_OFFSETS;
        if commit.offsets.len() > limit {
            return Err(Error::Limit { what: "the number of offsets in a commit", limit });
        }
        let each: Each = commit.offsets.iter().map(|(tp, c)| check_offset(tp, c)).collect();
        let mut ok = each.iter().map(Result::is_ok);
        commit.offsets.retain(|_| ok.next().unwrap_or(false));
        self.complete(commit.retention_ms, &mut commit.offsets);
        self.check_growth(name, &commit.offsets)?;
        Ok(each)
    }

    /// Adds what only the coordinator knows.
    fn complete(&self, retention_ms: Option<i64>, offsets: &mut [(TopicPartition, Committed)]) {
        let now_ms = self.clock.now_ms();
        for (tp, committed) in offsets {
            committed.committed_ms = now_ms;
            committed.topic_id = self.topics.topic(&tp.topic).map(|facts| facts.id);
            committed.expires_ms = retention_ms.map(|ms| now_ms.saturating_add(ms.max(0)));
        }
    }

    /// Limits of what a group and the shard hold, judged by what is durable: a little more may be on its way.
    fn check_growth(
        &self,
        name: &str,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<(), Error> {
        let names = |(tp, c): &(TopicPartition, Committed)| tp.topic.len() + c.metadata.len();
        let limit = limits::MAX_COMMIT_BYTES;
        if offsets.iter().map(names).sum::<usize>() > limit {
            return Err(Error::Limit { what: "bytes of names and metadata in a commit", limit });
        }
        let group = self.image.group(name);
        // Of an offset that takes the place of another only what it is longer than that.
        let former = |tp: &TopicPartition| group.and_then(|group| group.offsets().get(tp));
        let new = offsets.iter().filter(|(tp, _)| former(tp).is_none()).count();
        let freed = |tp: &TopicPartition| former(tp).map_or(0, |was| offset_bytes(tp, was));
        let grows =
            |(tp, c): &(TopicPartition, Committed)| offset_bytes(tp, c).saturating_sub(freed(tp));
        let bytes: usize = offsets.iter().map(grows).sum();
        let limit = limits::MAX_GROUP_OFFSETS;
        if new > 0 && group.map_or(0, |g| g.offsets().len()) + new > limit {
            return Err(Error::Limit { what: "the number of offsets of a group", limit });
        }
        let limit = limits::MAX_GROUP_OFFSET_BYTES;
        if bytes > 0 && group.map_or(0, GroupImage::offset_bytes) + bytes > limit {
            return Err(Error::Limit { what: "bytes of committed offsets of a group", limit });
        }
        let limit = limits::MAX_SHARD_OFFSETS;
        if new > 0 && self.image.offsets() + new > limit {
            return Err(Error::Limit { what: "the number of offsets of one shard", limit });
        }
        let limit = self.config.offset_bytes;
        if bytes > 0 && self.image.offset_bytes() + bytes > limit {
            return Err(Error::Limit { what: "bytes of committed offsets of one shard", limit });
        }
        Ok(())
    }

    /// The committed offset, unless it belongs to a deleted topic of the same name.
    pub(super) fn current<'a>(
        &self,
        tp: &TopicPartition,
        committed: &'a Committed,
    ) -> Option<&'a Committed> {
        let now = self.topics.topic(&tp.topic).map(|facts| facts.id);
        let other = matches!((now, committed.topic_id), (Some(now), Some(then)) if now != then);
        (!other).then_some(committed)
    }

    pub(super) fn offsets_of(
        &self,
        name: &str,
        assigned: &Assignment,
    ) -> Vec<(TopicPartition, Committed)> {
        let Some(group) = self.image.group(name) else { return Vec::new() };
        let wanted = assigned.iter().flat_map(|(topic, partitions)| {
            let tp = |&partition| TopicPartition { topic: topic.clone(), partition };
            partitions.iter().map(tp)
        });
        wanted
            .filter_map(|tp| {
                let committed = self.current(&tp, group.offsets().get(&tp)?)?.clone();
                Some((tp, committed))
            })
            .collect()
    }

    /// What is committed of the partitions named, each of which counts once, or of all; nothing is made of more than `most` bytes.
    pub(super) fn fetched(
        &self,
        name: &str,
        wanted: Option<Vec<TopicPartition>>,
        most: usize,
    ) -> Fetched {
        let Some(group) = self.image.group(name) else { return Fetched::These(Vec::new(), 0) };
        let mut found: Vec<(&TopicPartition, &Committed)> = match &wanted {
            Some(wanted) => {
                wanted.iter().filter_map(|tp| group.offsets().get_key_value(tp)).collect()
            }
            None => group.offsets().iter().collect(),
        };
        found.retain(|(tp, committed)| self.current(tp, committed).is_some());
        if wanted.is_some() {
            found.sort_unstable_by_key(|(tp, _)| *tp);
            found.dedup_by_key(|(tp, _)| *tp);
        }
        let bytes = found.iter().map(|(tp, committed)| offset_bytes(tp, committed)).sum();
        if bytes > most {
            return Fetched::Larger(bytes);
        }
        let found = found.into_iter().map(|(tp, committed)| (tp.clone(), committed.clone()));
        Fetched::These(found.collect(), bytes)
    }

    /// How far the groups behind a name have come; no group is begun when there are `most` offsets.
    pub(super) fn positions(&self, after: Option<&Arc<str>>, most: usize) -> Positions {
        let (mut found, mut offsets) = (Positions::default(), 0);
        for (name, group) in self.image.groups_after(after) {
            if offsets >= most {
                found.more = true;
                return found;
            }
            let current = group.offsets().iter().filter(|(tp, c)| self.current(tp, c).is_some());
            let positions: Vec<_> = current.map(|(tp, c)| (tp.clone(), c.offset)).collect();
            offsets += positions.len().max(1);
            found.groups.push((name.clone(), positions));
        }
        found
    }
}

fn check_offset(tp: &TopicPartition, committed: &Committed) -> Result<(), Error> {
    if committed.offset < 0 {
        return Err(Error::Invalid("a committed offset must not be negative"));
    }
    if tp.topic.is_empty() || tp.topic.len() > caps::MAX_TOPIC_NAME_BYTES {
        return Err(Error::Invalid("a commit names an impossible topic"));
    }
    let limit = caps::MAX_COMMIT_METADATA_BYTES;
    if committed.metadata.len() > limit {
        return Err(Error::MetadataTooLarge { limit });
    }
    Ok(())
}
