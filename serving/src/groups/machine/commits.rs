//! Commits of a shard's groups: what they must not hold, what the coordinator adds to them, and what of them is read.

use std::sync::Arc;

use geminga_proto::caps;

use super::answer::Waiting;
use super::{Groups, Held};
use crate::groups::classic::{CommitClassic, Each};
use crate::groups::core::Event;
use crate::groups::image::{GroupImage, offset_bytes};
use crate::groups::limits;
use crate::groups::request::{Fetched, Respond};
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
        let is_new = |tp: &TopicPartition| group.is_none_or(|g| !g.offsets().contains_key(tp));
        let new = offsets.iter().filter(|(tp, _)| is_new(tp)).count();
        let bytes: usize = offsets.iter().map(|(tp, c)| offset_bytes(tp, c)).sum();
        let limit = limits::MAX_GROUP_OFFSETS;
        if group.map_or(0, |g| g.offsets().len()) + new > limit {
            return Err(Error::Limit { what: "the number of offsets of a group", limit });
        }
        let limit = limits::MAX_GROUP_OFFSET_BYTES;
        if group.map_or(0, GroupImage::offset_bytes) + bytes > limit {
            return Err(Error::Limit { what: "bytes of committed offsets of a group", limit });
        }
        let limit = limits::MAX_SHARD_OFFSETS;
        if self.image.offsets() + new > limit {
            return Err(Error::Limit { what: "the number of offsets of one shard", limit });
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

    /// What is committed of the partitions named, or of all that have something.
    pub(super) fn fetched(&self, name: &str, wanted: Option<Vec<TopicPartition>>) -> Fetched {
        let group = self.image.group(name);
        match wanted {
            Some(wanted) => {
                let find =
                    |tp: &TopicPartition| self.current(tp, group?.offsets().get(tp)?).cloned();
                wanted
                    .into_iter()
                    .map(|tp| {
                        let found = find(&tp);
                        (tp, found)
                    })
                    .collect()
            }
            None => {
                let all = group.into_iter().flat_map(|g| g.offsets());
                all.filter_map(|(tp, c)| Some((tp.clone(), Some(self.current(tp, c)?.clone()))))
                    .collect()
            }
        }
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
