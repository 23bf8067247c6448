//! The groups of one shard: their cores, which run ahead, and the image of what is durable. Owned by the shard's task;
//! every answer passes the gate before it leaves (S2).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::caps;
use geminga_runtime::WallClock;

use super::core::{Change, Context, Effect, Event, Group, Reply, State, Token};
use super::image::{Image, offset_bytes};
use super::request::{Description, JoinAnswer, Request, Respond, Summary};
use super::types::{Assignment, Commit, Committed, Error, Kind, TopicPartition};
use super::view::TopicView;
use super::{limits, metrics, record};
use crate::statelog::machine::{Damaged, Machine, Output};

/// Groups looked after in one tick, so that requests are not kept waiting.
const TICK_GROUPS: usize = 64;
/// A tick that has emitted this much stops.
const TICK_BYTES: usize = 1024 * 1024;
/// Changes of topics within this time are looked at once, milliseconds.
const TOPICS_DEBOUNCE_MS: u64 = 200;

/// The groups of one shard.
#[derive(Debug)]
pub struct Groups {
    shard: u32,
    initial_delay_ms: u32,
    topics: Arc<dyn TopicView>,
    clock: Arc<dyn WallClock>,
    image: Image,
    groups: BTreeMap<Arc<str>, Slot>,
    /// (when, group), the same as in the slots.
    deadlines: BTreeSet<(u64, Arc<str>)>,
    recheck_topics_ms: Option<u64>,
    waiting: HashMap<Token, Waiting>,
    next_token: Token,
    members: usize,
}

#[derive(Debug, Default)]
struct Slot {
    group: Group,
    deadline_ms: Option<u64>,
}

/// A request that a core will answer.
#[derive(Debug)]
enum Waiting {
    Join(Respond<JoinAnswer>),
    Done(Respond<()>),
}

/// An answer on hold. What it says of offsets is read when it leaves, since only then they are durable.
#[derive(Debug)]
pub enum Held {
    /// To a join.
    Join(Arc<str>, Respond<JoinAnswer>, Result<Reply, Error>),
    /// To anything that is just done or refused.
    Done(Respond<()>, Result<(), Error>),
    /// To a description; lacks the offsets.
    Describe(Respond<Description>, Result<Description, Error>),
    /// To a list.
    List(Respond<Vec<Summary>>, Vec<Summary>),
}

impl Groups {
    /// A shard without groups. `initial_delay_ms`: how long an empty group waits for more members.
    pub fn new(
        shard: u32,
        initial_delay_ms: u32,
        topics: Arc<dyn TopicView>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            shard,
            initial_delay_ms,
            topics,
            clock,
            image: Image::default(),
            groups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            recheck_topics_ms: None,
            waiting: HashMap::new(),
            next_token: 0,
            members: 0,
        }
    }

    fn token(&mut self, waiting: Waiting) -> Token {
        self.next_token += 1;
        self.waiting.insert(self.next_token, waiting);
        self.next_token
    }

    /// Steps a group that exists or is to exist, and does what follows.
    fn step(&mut self, now_ms: u64, name: &Arc<str>, event: Event, out: &mut Output<Held>) {
        let slot = self.groups.entry(name.clone()).or_default();
        let (topics, before) = (self.topics.clone(), slot.group.len());
        let partitions = move |topic: &str| topics.topic(topic).map_or(0, |facts| facts.partitions);
        let context =
            Context { now_ms, partitions: &partitions, initial_delay_ms: self.initial_delay_ms };
        let effects = slot.group.step(context, event);
        self.members = self.members + slot.group.len() - before;
        self.schedule(name);
        for effect in effects {
            self.on_effect(name, effect, out);
        }
        metrics::groups(self.shard, self.groups.len());
        metrics::members(self.shard, self.members);
    }

    /// Keeps the deadline index in step with the group, and drops a group that is no more.
    fn schedule(&mut self, name: &Arc<str>) {
        let Some(slot) = self.groups.get_mut(name) else { return };
        if let Some(old) = slot.deadline_ms.take() {
            self.deadlines.remove(&(old, name.clone()));
        }
        if slot.group.state() == State::Dead || slot.group.is_blank() {
            self.groups.remove(name);
            return;
        }
        slot.deadline_ms = slot.group.next_deadline();
        self.deadlines.extend(slot.deadline_ms.map(|at| (at, name.clone())));
    }

    fn on_effect(&mut self, name: &Arc<str>, effect: Effect, out: &mut Output<Held>) {
        match effect {
            Effect::Persist(change) => {
                match &change {
                    Change::Generation(generation) => {
                        metrics::rebalanced();
                        tracing::info!(
                            group = %name,
                            generation = generation.generation,
                            members = generation.members.len(),
                            "group rebalanced"
                        );
                    }
                    Change::Offsets(offsets) => metrics::committed(offsets.len()),
                    Change::Deleted => tracing::info!(group = %name, "group deleted"),
                }
                out.commands.push(record::encode(name, &change));
            }
            Effect::Reply(token, reply) => match self.waiting.remove(&token) {
                Some(Waiting::Join(respond)) => {
                    out.held.push(Held::Join(name.clone(), respond, reply));
                }
                Some(Waiting::Done(respond)) => {
                    out.held.push(Held::Done(respond, reply.map(|_| ())));
                }
                None => debug_assert!(false, "a core answers each request once"),
            },
        }
    }

    /// Whether a group of this name may be made.
    fn may_exist(&self, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::Invalid("group name must not be empty"));
        }
        let limit = caps::MAX_GROUP_NAME_BYTES;
        if name.len() > limit {
            return Err(Error::Limit { what: "bytes of a group name", limit });
        }
        let limit = caps::MAX_GROUPS_PER_SHARD;
        if !self.groups.contains_key(name) && self.groups.len() >= limit {
            return Err(Error::Limit { what: "the number of groups of one shard", limit });
        }
        Ok(())
    }

    /// Refuses what a commit must not hold, and adds what only the coordinator knows.
    fn prepare_commit(&self, name: &str, commit: &mut Commit) -> Result<(), Error> {
        self.may_exist(name)?;
        let limit = limits::MAX_COMMIT_OFFSETS;
        if commit.offsets.len() > limit {
            return Err(Error::Limit { what: "the number of offsets in a commit", limit });
        }
        let now_ms = self.clock.now_ms();
        let mut bytes = 0;
        for (tp, committed) in &mut commit.offsets {
            check_offset(tp, committed)?;
            bytes += tp.topic.len() + committed.metadata.len();
            committed.committed_ms = now_ms;
            committed.topic_id = self.topics.topic(&tp.topic).map(|facts| facts.id);
        }
        let limit = limits::MAX_COMMIT_BYTES;
        if bytes > limit {
            return Err(Error::Limit { what: "bytes of names and metadata in a commit", limit });
        }
        self.check_growth(name, &commit.offsets)
    }

    /// Limits of what a group and the shard hold, judged by what is durable: a little more may be on its way.
    fn check_growth(
        &self,
        name: &str,
        offsets: &[(TopicPartition, Committed)],
    ) -> Result<(), Error> {
        let group = self.image.group(name);
        let is_new = |tp: &TopicPartition| group.is_none_or(|g| !g.offsets().contains_key(tp));
        let new = offsets.iter().filter(|(tp, _)| is_new(tp)).count();
        let bytes: usize = offsets.iter().map(|(tp, c)| offset_bytes(tp, c)).sum();
        let limit = limits::MAX_GROUP_OFFSETS;
        if group.map_or(0, |g| g.offsets().len()) + new > limit {
            return Err(Error::Limit { what: "the number of offsets of a group", limit });
        }
        let limit = limits::MAX_GROUP_OFFSET_BYTES;
        if group.map_or(0, super::image::GroupImage::offset_bytes) + bytes > limit {
            return Err(Error::Limit { what: "bytes of committed offsets of a group", limit });
        }
        let limit = limits::MAX_SHARD_OFFSETS;
        if self.image.offsets() + new > limit {
            return Err(Error::Limit { what: "the number of offsets of one shard", limit });
        }
        Ok(())
    }

    /// The committed offset, unless it belongs to a deleted topic of the same name.
    fn current<'a>(&self, tp: &TopicPartition, committed: &'a Committed) -> Option<&'a Committed> {
        let now = self.topics.topic(&tp.topic).map(|facts| facts.id);
        let other = matches!((now, committed.topic_id), (Some(now), Some(then)) if now != then);
        (!other).then_some(committed)
    }

    fn offsets_of(&self, name: &str, assigned: &Assignment) -> Vec<(TopicPartition, Committed)> {
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

    fn summary(name: &Arc<str>, group: &Group) -> Summary {
        Summary {
            group: name.clone(),
            state: group.state().as_str(),
            members: group.len(),
            generation: group.generation(),
            protocol: group.kind().map_or("", Kind::as_str),
        }
    }

    fn describe(&self, name: &Arc<str>) -> Result<Description, Error> {
        let slot = self.groups.get(name).ok_or(Error::UnknownGroup)?;
        Ok(Description {
            summary: Self::summary(name, &slot.group),
            members: slot.group.members().collect(),
            offsets: Vec::new(),
        })
    }

    fn on_join(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        join: super::types::Join,
        respond: Respond<JoinAnswer>,
        out: &mut Output<Held>,
    ) {
        if let Err(error) = self.may_exist(name) {
            out.held.push(Held::Join(name.clone(), respond, Err(error)));
            return;
        }
        let token = self.token(Waiting::Join(respond));
        self.step(now_ms, name, Event::Join(token, join), out);
    }

    /// A call that only an existing group can do.
    fn on_existing(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        respond: Respond<()>,
        missing: Error,
        event: impl FnOnce(Token) -> Event,
        out: &mut Output<Held>,
    ) {
        if !self.groups.contains_key(name) {
            out.held.push(Held::Done(respond, Err(missing)));
            return;
        }
        let token = self.token(Waiting::Done(respond));
        self.step(now_ms, name, event(token), out);
    }

    fn on_commit(
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

    fn recheck_topics(&mut self, now_ms: u64, out: &mut Output<Held>) {
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            self.step(now_ms, &name, Event::TopicsChanged, out);
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
        return Err(Error::Limit { what: "bytes of commit metadata", limit });
    }
    Ok(())
}

impl Machine for Groups {
    type Request = Request;
    type Held = Held;

    const MAX_STEP_BYTES: usize = limits::MAX_COMMAND_BYTES + TICK_BYTES;

    fn load(&mut self, part: &[u8]) -> Result<(), Damaged> {
        self.image.load(part).map_err(|error| Damaged(error.to_string()))
    }

    fn apply(&mut self, command: &[u8]) -> Result<(), Damaged> {
        self.image.apply(command).map_err(|error| Damaged(error.to_string()))
    }

    fn replayed(&mut self, now_ms: u64) {
        for (name, image) in self.image.groups() {
            let has_offsets = !image.offsets().is_empty();
            let group = Group::restore(&image.generation, has_offsets, now_ms);
            self.members += group.len();
            self.groups.insert(name.clone(), Slot { group, deadline_ms: None });
        }
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            self.schedule(&name);
        }
        self.world_changed(now_ms);
    }

    fn request(&mut self, now_ms: u64, request: Request, out: &mut Output<Held>) {
        match request {
            Request::Join(name, join, respond) => self.on_join(now_ms, &name, join, respond, out),
            Request::Heartbeat(name, caller, generation, respond) => {
                let event = |token| Event::Heartbeat(token, caller, generation);
                self.on_existing(now_ms, &name, respond, Error::UnknownMember, event, out);
            }
            Request::Leave(name, caller, respond) => {
                let event = |token| Event::Leave(token, caller);
                self.on_existing(now_ms, &name, respond, Error::UnknownMember, event, out);
            }
            Request::Commit(name, commit, respond) => {
                self.on_commit(now_ms, &name, commit, respond, out);
            }
            Request::Describe(name, respond) => {
                out.held.push(Held::Describe(respond, self.describe(&name)));
            }
            Request::Delete(name, respond) => {
                self.on_existing(now_ms, &name, respond, Error::UnknownGroup, Event::Delete, out);
            }
            Request::List(respond) => {
                let list = self.groups.iter().map(|(name, slot)| Self::summary(name, &slot.group));
                out.held.push(Held::List(respond, list.collect()));
            }
        }
    }

    fn tick(&mut self, now_ms: u64, out: &mut Output<Held>) {
        if self.recheck_topics_ms.take_if(|at| *at <= now_ms).is_some() {
            self.recheck_topics(now_ms, out);
        }
        for _ in 0..TICK_GROUPS {
            let Some((at, name)) = self.deadlines.first().cloned() else { return };
            let emitted: usize = out.commands.iter().map(Bytes::len).sum();
            if at > now_ms || emitted > TICK_BYTES {
                return;
            }
            self.step(now_ms, &name, Event::Tick, out);
        }
    }

    fn next_deadline(&self) -> Option<u64> {
        let group = self.deadlines.first().map(|(at, _)| *at);
        group.into_iter().chain(self.recheck_topics_ms).min()
    }

    fn world_changed(&mut self, now_ms: u64) {
        self.recheck_topics_ms.get_or_insert(now_ms + TOPICS_DEBOUNCE_MS);
    }

    /// A caller that has gone away needs no answer, so failures to send are ignored.
    fn release(&mut self, held: Held) {
        match held {
            Held::Join(name, respond, reply) => {
                let answer = reply.map(|reply| match reply {
                    Reply::Joined(joined) => {
                        let offsets = self.offsets_of(&name, &joined.assigned);
                        JoinAnswer::Joined(joined, offsets)
                    }
                    Reply::Wait | Reply::Done => JoinAnswer::Wait,
                });
                let _ = respond.send(answer);
            }
            Held::Done(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::Describe(respond, answer) => {
                let answer = answer.map(|mut description| {
                    let group = self.image.group(&description.summary.group);
                    let all = group.into_iter().flat_map(|g| g.offsets());
                    let current =
                        all.filter_map(|(tp, c)| Some((tp.clone(), self.current(tp, c)?.clone())));
                    description.offsets = current.collect();
                    description
                });
                let _ = respond.send(answer);
            }
            Held::List(respond, answer) => {
                let _ = respond.send(Ok(answer));
            }
        }
    }

    fn snapshot(&self) -> Vec<Bytes> {
        self.image.snapshot()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        metrics::groups(self.shard, 0);
        metrics::members(self.shard, 0);
    }
}

#[cfg(test)]
mod tests;
