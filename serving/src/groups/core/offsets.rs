//! Committed offsets, as both kinds of groups see them: who may commit, which offsets are in use, and from when on the
//! others age. The offsets themselves are in the durable image.

use std::sync::Arc;

use super::{Change, Effect, Group, Reply, State, Token, Topics};
use crate::groups::classic::Identity;
use crate::groups::consumer_protocol::CONSUMER;
use crate::groups::types::{
    Caller, Commit, CommitBy, Committed, Error, Kind, Spoken, TopicPartition,
};

/// Which of a group's offsets are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    /// Those of these topics.
    Topics(Topics),
    /// All of them, as far as anybody can tell.
    All,
}

impl InUse {
    /// Whether the offsets of a topic are in use.
    pub fn has(&self, topic: &str) -> bool {
        match self {
            Self::Topics(topics) => topics.contains(topic),
            Self::All => true,
        }
    }
}

impl Group {
    pub(super) fn on_commit(
        &mut self,
        now_ms: u64,
        token: Token,
        commit: Commit,
        out: &mut Vec<Effect>,
    ) {
        let allowed = self.may_commit(now_ms, &commit);
        let spoken = |by: CommitBy| {
            let CommitBy { caller: Caller { member, session }, sequence, .. } = by;
            (member, Spoken { session, sequence })
        };
        self.commit(allowed, token, commit.offsets, commit.by.map(spoken), out);
    }

    pub(super) fn on_commit_classic(
        &mut self,
        now_ms: u64,
        token: Token,
        by: &Identity,
        offsets: Vec<(TopicPartition, Committed)>,
        out: &mut Vec<Effect>,
    ) {
        let allowed = self.may_commit_classic(now_ms, by);
        self.commit(allowed, token, offsets, None, out);
    }

    fn commit(
        &mut self,
        allowed: Result<(), Error>,
        token: Token,
        offsets: Vec<(TopicPartition, Committed)>,
        by: Option<(Arc<str>, Spoken)>,
        out: &mut Vec<Effect>,
    ) {
        if allowed.is_ok() && !offsets.is_empty() {
            self.has_offsets = true;
            out.push(Effect::Persist(Change::Offsets(offsets, by)));
        }
        out.push(Effect::Reply(token, allowed.map(|()| Reply::Done)));
    }

    pub(super) fn on_delete_offsets(
        &mut self,
        token: Token,
        offsets: Vec<TopicPartition>,
        out: &mut Vec<Effect>,
    ) {
        // What members do with their offsets is only known where they are consumers.
        if self.kind == Some(Kind::Classic) && self.protocol_type() != CONSUMER {
            out.push(Effect::Reply(token, Err(Error::NotEmpty)));
            return;
        }
        let in_use = self.in_use();
        let free = |tp: &TopicPartition| !in_use.has(&tp.topic);
        let each = offsets.iter().map(|tp| free(tp).then_some(()).ok_or(Error::SubscribedTopic));
        let each = each.collect();
        let mut forgotten: Vec<_> = offsets.into_iter().filter(free).collect();
        forgotten.sort_unstable();
        forgotten.dedup();
        if !forgotten.is_empty() {
            out.push(Effect::Persist(Change::Forgotten(forgotten)));
        }
        out.push(Effect::Reply(token, Ok(Reply::Each(each))));
    }

    pub(super) fn on_expired(
        &mut self,
        offsets: Vec<TopicPartition>,
        all: bool,
        out: &mut Vec<Effect>,
    ) {
        self.has_offsets &= !all;
        if !offsets.is_empty() {
            out.push(Effect::Persist(Change::Forgotten(offsets)));
        }
    }

    /// Which offsets somebody reads on from.
    pub fn in_use(&self) -> InUse {
        match self.kind {
            None => InUse::Topics(Topics::new()),
            Some(Kind::Stream) => {
                let topics = self.streams.values().flat_map(|member| member.topics.iter().cloned());
                InUse::Topics(topics.collect())
            }
            Some(Kind::Classic) => self.classic.topics().map_or(InUse::All, InUse::Topics),
        }
    }

    /// From when on an offset ages that is not in use, milliseconds since the Unix epoch; `None`: none does while the
    /// group is between generations. Where members read and went, it is when the last one did, so that a consumer
    /// that stops for a while finds its offsets however old they are.
    pub fn ages_from(&self, committed_ms: i64) -> Option<i64> {
        match self.state {
            State::Empty if self.generation > 0 => Some(committed_ms.max(self.since_ms)),
            State::Empty | State::Stable => Some(committed_ms),
            State::PreparingRebalance { .. } | State::CompletingRebalance | State::Dead => None,
        }
    }
}
