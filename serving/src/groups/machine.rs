//! The groups of one shard: their cores, which run ahead, and the image of what is durable. Owned by the shard's task;
//! every answer passes the gate before it leaves (S2).

mod answer;
mod classic;
mod commits;
mod expiry;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::caps;
use geminga_runtime::WallClock;

pub use self::answer::Held;
use self::answer::Waiting;
use self::expiry::Expiry;
use super::core::{Change, Context, Effect, Event, Group, Rooms, State, Token};
use super::image::Image;
use super::request::{Description, JoinAnswer, Request, Respond, Summary};
use super::types::Error;
use super::view::TopicView;
use super::{limits, metrics, record};
use crate::statelog::machine::{Damaged, Machine, Output};

/// Groups looked after in one tick, so that requests are not kept waiting.
const TICK_GROUPS: usize = 64;
/// A tick that has emitted this much stops.
const TICK_BYTES: usize = 1024 * 1024;
/// Changes of topics within this time are looked at once, milliseconds.
const TOPICS_DEBOUNCE_MS: u64 = 200;

/// What an operator may tune of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long an empty group waits for more members before its first generation, milliseconds.
    pub initial_delay_ms: u32,
    /// How long committed offsets are kept that nobody uses, milliseconds.
    pub offsets_retention_ms: i64,
    /// Most bytes of what the members of all groups of one shard say of themselves, and as many of what they are assigned. They
    /// are in memory twice: as requests see them, and as they are durable.
    pub member_bytes: usize,
    /// Most bytes of the committed offsets of all groups of one shard.
    pub offset_bytes: usize,
}

/// The groups of one shard.
#[derive(Debug)]
pub struct Groups {
    shard: u32,
    config: Config,
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
    /// Bytes of what all members say, and of what they are assigned.
    bytes: (usize, usize),
    /// Commands of a group that were emitted and are not in the image yet.
    unapplied: HashMap<Arc<str>, usize>,
    expiry: Expiry,
}

#[derive(Debug, Default)]
struct Slot {
    group: Group,
    deadline_ms: Option<u64>,
    /// As counted after its last step.
    bytes: (usize, usize),
}

impl Groups {
    /// A shard without groups.
    pub fn new(
        shard: u32,
        config: Config,
        topics: Arc<dyn TopicView>,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        Self {
            shard,
            config,
            topics,
            clock,
            image: Image::default(),
            groups: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            recheck_topics_ms: None,
            waiting: HashMap::new(),
            next_token: 0,
            members: 0,
            bytes: (0, 0),
            unapplied: HashMap::new(),
            expiry: Expiry::default(),
        }
    }

    fn token(&mut self, waiting: Waiting) -> Token {
        self.next_token += 1;
        self.waiting.insert(self.next_token, waiting);
        self.next_token
    }

    /// Steps a group that exists or is to exist, and does what follows. Those who went away meanwhile do not count any
    /// more.
    fn step(&mut self, now_ms: u64, name: &Arc<str>, event: Event, out: &mut Output<Held>) {
        self.drop_gone(now_ms, name, out);
        self.step_once(now_ms, name, event, out);
    }

    fn step_once(&mut self, now_ms: u64, name: &Arc<str>, event: Event, out: &mut Output<Held>) {
        let slot = self.groups.entry(name.clone()).or_default();
        let (topics, before) = (self.topics.clone(), slot.group.len());
        let partitions = move |topic: &str| topics.topic(topic).map_or(0, |facts| facts.partitions);
        let context = Context {
            now_ms,
            wall_ms: self.clock.now_ms(),
            partitions: &partitions,
            initial_delay_ms: self.config.initial_delay_ms,
            rooms: Rooms::left(self.config.member_bytes, self.bytes),
        };
        let recount = event.may_change_members();
        let effects = slot.group.step(context, event);
        self.members = self.members + slot.group.len() - before;
        if recount {
            let (said, assigned) = std::mem::replace(&mut slot.bytes, slot.group.bytes());
            self.bytes.0 = self.bytes.0 + slot.bytes.0 - said;
            self.bytes.1 = self.bytes.1 + slot.bytes.1 - assigned;
        }
        self.schedule(name);
        for effect in effects {
            self.on_effect(name, effect, out);
        }
        metrics::groups(self.shard, self.groups.len());
        metrics::members(self.shard, self.members);
        metrics::held(self.shard, self.bytes, self.image.offset_bytes());
    }

    /// Keeps the deadline index in step with the group, and drops a group that is no more.
    fn schedule(&mut self, name: &Arc<str>) {
        let Some(slot) = self.groups.get_mut(name) else { return };
        if let Some(old) = slot.deadline_ms.take() {
            self.deadlines.remove(&(old, name.clone()));
        }
        if slot.group.state() == State::Dead || slot.group.is_blank() {
            self.bytes = (self.bytes.0 - slot.bytes.0, self.bytes.1 - slot.bytes.1);
            self.groups.remove(name);
            return;
        }
        slot.deadline_ms = slot.group.next_deadline();
        self.deadlines.extend(slot.deadline_ms.map(|at| (at, name.clone())));
    }

    fn on_effect(&mut self, name: &Arc<str>, effect: Effect, out: &mut Output<Held>) {
        match effect {
            Effect::Persist(change) => {
                note(name, &change);
                *self.unapplied.entry(name.clone()).or_default() += 1;
                out.commands.push(record::encode(name, &change));
            }
            Effect::Reply(token, reply) => match self.waiting.remove(&token) {
                Some(waiting) => out.held.extend(waiting.hold(name, reply)),
                None => debug_assert!(false, "a core answers each request once"),
            },
        }
    }

    /// Whether a group of this name may be made.
    fn may_exist(&self, name: &str) -> Result<(), Error> {
        let limit = caps::MAX_GROUP_NAME_BYTES;
        if name.is_empty() || name.len() > limit {
            return Err(Error::GroupName { limit });
        }
        let limit = caps::MAX_GROUPS_PER_SHARD;
        if !self.groups.contains_key(name) && self.groups.len() >= limit {
            return Err(Error::Limit { what: "the number of groups of one shard", limit });
        }
        Ok(())
    }

    fn summary(name: &Arc<str>, group: &Group) -> Summary {
        Summary {
            group: name.clone(),
            phase: group.state().phase(),
            members: group.len(),
            generation: group.generation(),
            kind: group.kind(),
            protocol_type: group.protocol_type().to_owned(),
        }
    }

    fn describe(&self, name: &Arc<str>) -> Result<Description, Error> {
        let slot = self.groups.get(name).ok_or(Error::UnknownGroup)?;
        Ok(Description {
            summary: Self::summary(name, &slot.group),
            protocol: slot.group.protocol().clone(),
            members: slot.group.members(),
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

    fn recheck_topics(&mut self, now_ms: u64, out: &mut Output<Held>) {
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            self.step_once(now_ms, &name, Event::TopicsChanged, out);
        }
    }
}

fn note(group: &str, change: &Change) {
    match change {
        Change::Generation(generation) => {
            // A classic generation is written once more with its assignment.
            if generation.classic.as_ref().is_some_and(|c| c.assigned) {
                return;
            }
            metrics::rebalanced();
            let (generation, members) = (generation.generation, generation.members.len());
            tracing::info!(%group, generation, members, "group rebalanced");
        }
        Change::Offsets(offsets, _) if offsets.is_empty() => {}
        Change::Offsets(offsets, _) => metrics::committed(offsets.len()),
        Change::Forgotten(offsets) => {
            tracing::info!(%group, offsets = offsets.len(), "committed offsets forgotten");
        }
        Change::Deleted => tracing::info!(%group, "group deleted"),
    }
}

impl Machine for Groups {
    type Request = Request;
    type Held = Held;

    const MAX_STEP_BYTES: usize = limits::MAX_COMMAND_BYTES + TICK_BYTES;

    fn load(&mut self, part: &[u8]) -> Result<(), Damaged> {
        self.image.load(part).map_err(|error| Damaged(error.to_string()))
    }

    fn apply(&mut self, command: &[u8]) -> Result<(), Damaged> {
        let group = self.image.apply(command).map_err(|error| Damaged(error.to_string()))?;
        if let Some(left) = self.unapplied.get_mut(&group) {
            *left -= 1;
            if *left == 0 {
                self.unapplied.remove(&group);
            }
        }
        Ok(())
    }

    fn replayed(&mut self, now_ms: u64) {
        for (name, image) in self.image.groups() {
            let has_offsets = !image.offsets().is_empty();
            let group = Group::restore(&image.generation, has_offsets, now_ms);
            self.members += group.len();
            let bytes = group.bytes();
            self.bytes = (self.bytes.0 + bytes.0, self.bytes.1 + bytes.1);
            self.groups.insert(name.clone(), Slot { group, deadline_ms: None, bytes });
        }
        let names: Vec<_> = self.groups.keys().cloned().collect();
        for name in names {
            self.schedule(&name);
        }
        self.world_changed(now_ms);
        self.expiry.start(now_ms);
    }

    fn request(&mut self, now_ms: u64, request: Request, out: &mut Output<Held>) {
        match request {
            // Late as they come, they would only disturb whoever has asked again, perhaps elsewhere.
            Request::Join(_, _, respond) if respond.is_closed() => {}
            Request::Commit(_, _, respond) if respond.is_closed() => {}
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
            Request::DescribeMembers(name, respond) => {
                out.held.push(Held::DescribeMembers(respond, self.describe(&name)));
            }
            Request::Delete(name, respond) => {
                self.on_existing(now_ms, &name, respond, Error::UnknownGroup, Event::Delete, out);
            }
            Request::List(respond) => {
                let list = self.groups.iter().map(|(name, slot)| Self::summary(name, &slot.group));
                out.held.push(Held::List(respond, list.collect()));
            }
            Request::JoinClassic(name, join, room, respond) => {
                room.leave();
                self.on_join_classic(now_ms, &name, join, respond, out);
            }
            Request::SyncClassic(name, sync, room, respond) => {
                room.leave();
                self.on_sync(now_ms, &name, sync, respond, out);
            }
            Request::HeartbeatClassic(name, by, respond) => {
                let event = |token| Event::HeartbeatClassic(token, by);
                self.on_existing(now_ms, &name, respond, Error::UnknownMember, event, out);
            }
            Request::LeaveClassic(name, members, respond) => {
                self.on_leave_classic(now_ms, &name, members, respond, out);
            }
            Request::CommitClassic(name, commit, respond) => {
                self.on_commit_classic(now_ms, &name, commit, respond, out);
            }
            Request::FetchOffsets(name, wanted, most, respond) => {
                out.held.push(Held::Offsets(name, wanted, most, respond));
            }
            Request::Positions(after, most, respond) => {
                // Not proved by the log, which would be written to for it: whoever measures needs no more.
                let _ = respond.send(Ok(self.positions(after.as_ref(), most)));
            }
            Request::DeleteOffsets(name, offsets, respond) => {
                self.on_delete_offsets(now_ms, &name, offsets, respond, out);
            }
            Request::Gone(name) => self.drop_gone(now_ms, &name, out),
        }
    }

    fn tick(&mut self, now_ms: u64, out: &mut Output<Held>) {
        if self.recheck_topics_ms.take_if(|at| *at <= now_ms).is_some() {
            self.recheck_topics(now_ms, out);
        }
        if self.expiry.is_due(now_ms) {
            self.expire(now_ms, out);
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
        group.into_iter().chain(self.recheck_topics_ms).chain(self.expiry.next_ms()).min()
    }

    fn world_changed(&mut self, now_ms: u64) {
        self.expiry.look_soon(now_ms);
        self.recheck_topics_ms.get_or_insert(now_ms + TOPICS_DEBOUNCE_MS);
    }

    fn release(&mut self, held: Held) {
        self.answer(held);
    }

    fn snapshot(&self) -> Vec<Bytes> {
        self.image.snapshot()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        metrics::groups(self.shard, 0);
        metrics::members(self.shard, 0);
        metrics::held(self.shard, (0, 0), 0);
    }
}

#[cfg(test)]
mod tests;
