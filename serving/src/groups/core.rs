//! One consumer group as a pure state machine: (state, event, now) → (state, effects). No clock, no I/O, no
//! randomness, no protocol of a wire. Owned by its shard's machine.
//!
//! ```text
//!            join                    all joined, or deadline
//!   Empty ─────────► PreparingRebalance ─────────► Stable
//!     ▲  │ deleted,       ▲  │ nobody left          │ join with other topics, leave,
//!     │  ▼ no offsets     │  │                      │ crash, partitions changed
//!     │ Dead              └──┼──────────────────────┘
//!     └──────────────────────┘
//! ```
//!
//! * The state runs ahead of the log: [`Effect::Persist`] comes before the replies that rest on it, and whoever runs
//!   this withholds every reply until an entry appended after the request arrived is acknowledged (S2, S3).
//! * A new generation is one command with all its members, so a crash in between leaves the former one whole.
//! * Joining is level-triggered: a member asks again until it is told a generation, and asking again is harmless.
//! * Committed offsets live beside the group, in the durable image; the group only knows whether there are any.

mod member;

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_proto::caps;

use self::member::Member;
use super::assign::{Subscriber, assign};
use super::limits;
use super::record::{Generation, MemberRecord};
use super::types::{
    Assignment, Caller, Commit, Committed, Error, Join, Joined, Kind, TopicPartition,
};

/// Names a request whose reply is still due.
pub type Token = u64;

/// What happens to a group.
#[derive(Debug, Clone)]
pub enum Event {
    /// A member wants to be in the next generation, or to hear the current one.
    Join(Token, Join),
    /// A member is alive.
    Heartbeat(Token, Caller, i32),
    /// A member goes for good.
    Leave(Token, Caller),
    /// Offsets are to be committed.
    Commit(Token, Commit),
    /// The group is to be forgotten with its offsets.
    Delete(Token),
    /// A deadline has passed.
    Tick,
    /// Partition counts may have changed.
    TopicsChanged,
}

/// What the runner does, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Append the command.
    Persist(Change),
    /// Answer, once all that was appended so far is durable.
    Reply(Token, Result<Reply, Error>),
}

/// A command, still without the group's name.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new generation.
    Generation(Generation),
    /// Committed offsets.
    Offsets(Vec<(TopicPartition, Committed)>),
    /// The group is gone.
    Deleted,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The member's place.
    Joined(Joined),
    /// The join phase goes on: ask again.
    Wait,
    /// Done.
    Done,
}

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No members; offsets are kept.
    Empty,
    /// Members are joining the next generation.
    PreparingRebalance {
        /// Not complete before this time.
        hold_until_ms: u64,
        /// Who has not joined by then is removed.
        deadline_ms: u64,
    },
    /// Members know their generation.
    Stable,
    /// Deleted; the runner drops it.
    Dead,
}

impl State {
    /// As tools show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::PreparingRebalance { .. } => "preparing",
            Self::Stable => "stable",
            Self::Dead => "dead",
        }
    }
}

/// What the group is told of the world with each event.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Monotonic, milliseconds.
    pub now_ms: u64,
    /// Partitions of a topic, 0 when it does not exist.
    pub partitions: &'a dyn Fn(&str) -> u32,
    /// How long an empty group waits for more members before its first generation, milliseconds.
    pub initial_delay_ms: u32,
}

/// One consumer group.
#[derive(Debug)]
pub struct Group {
    kind: Option<Kind>,
    state: State,
    generation: i32,
    members: BTreeMap<Arc<str>, Member>,
    has_offsets: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            kind: None,
            state: State::Empty,
            generation: 0,
            members: BTreeMap::new(),
            has_offsets: false,
        }
    }
}

impl Group {
    /// The group as its last durable generation left it. Its members have a whole session timeout to be heard of.
    pub fn restore(generation: &Generation, has_offsets: bool, now_ms: u64) -> Self {
        let members: BTreeMap<_, _> = generation
            .members
            .iter()
            .map(|record| (record.member.clone(), Member::restore(record, now_ms)))
            .collect();
        let state = if members.is_empty() { State::Empty } else { State::Stable };
        Self {
            kind: generation.kind.filter(|_| !members.is_empty()),
            state,
            generation: generation.generation,
            members,
            has_offsets,
        }
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The newest generation; 0 before the first.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// How its members talk; `None` without members.
    pub fn kind(&self) -> Option<Kind> {
        self.kind
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether nothing was ever made of it: a first request that was refused leaves no group behind.
    pub fn is_blank(&self) -> bool {
        self.members.is_empty() && self.generation == 0 && !self.has_offsets
    }

    /// Its members as the next generation would record them.
    pub fn members(&self) -> impl Iterator<Item = MemberRecord> + '_ {
        self.members.iter().map(|(id, member)| member.record(id))
    }

    /// When [`Event::Tick`] is due, if ever.
    pub fn next_deadline(&self) -> Option<u64> {
        let members = self.members.values().map(Member::next_deadline).min();
        let State::PreparingRebalance { hold_until_ms, deadline_ms } = self.state else {
            return members;
        };
        let phase = if self.all_joined() { hold_until_ms } else { deadline_ms };
        Some(members.map_or(phase, |m| m.min(phase)))
    }

    /// Takes one event. The effects are to be done in order.
    pub fn step(&mut self, context: Context<'_>, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        match event {
            Event::Join(token, join) => self.on_join(context, token, join, &mut out),
            Event::Heartbeat(token, caller, generation) => {
                let answer = self.on_heartbeat(context.now_ms, &caller, generation);
                out.push(Effect::Reply(token, answer));
            }
            Event::Leave(token, caller) => self.on_leave(context, token, &caller, &mut out),
            Event::Commit(token, commit) => self.on_commit(context.now_ms, token, commit, &mut out),
            Event::Delete(token) => self.on_delete(token, &mut out),
            Event::Tick => self.on_tick(context, &mut out),
            Event::TopicsChanged => self.on_topics_changed(context),
        }
        out
    }

    fn on_join(&mut self, context: Context<'_>, token: Token, join: Join, out: &mut Vec<Effect>) {
        if let Err(error) = self.admit(&join, context) {
            out.push(Effect::Reply(token, Err(error)));
            return;
        }
        let id = join.caller.member.clone();
        let changed = match self.members.get_mut(&id) {
            Some(member) => {
                let (changed, former) = member.rejoin(&join, context.now_ms);
                out.extend(former.map(|token| Effect::Reply(token, Err(Error::Fenced))));
                changed
            }
            None => {
                self.members.insert(id.clone(), Member::new(&join, context.now_ms));
                true
            }
        };
        self.kind = Some(join.kind);
        match self.state {
            State::Stable if !changed => {
                let joined = self.joined(&id);
                out.push(Effect::Reply(token, Ok(Reply::Joined(joined))));
                return;
            }
            State::Stable => self.prepare(context.now_ms, 0),
            State::Empty | State::Dead => self.prepare(context.now_ms, context.initial_delay_ms),
            State::PreparingRebalance { .. } => {}
        }
        let member = self.members.get_mut(&id).expect("inserted above");
        member.park(token, context.now_ms);
        self.complete_if_ready(context, out);
    }

    /// Whether the group can take the member as it is.
    fn admit(&self, join: &Join, context: Context<'_>) -> Result<(), Error> {
        member::check(join)?;
        if let Some(kind) = self.kind.filter(|kind| *kind != join.kind) {
            return Err(Error::OtherKind(kind));
        }
        let known = self.members.get(&join.caller.member);
        if known.is_some_and(|member| member.wants(join)) {
            return Ok(());
        }
        if known.is_none() && self.members.len() >= caps::MAX_GROUP_MEMBERS {
            let limit = caps::MAX_GROUP_MEMBERS;
            return Err(Error::Limit { what: "the number of members of a group", limit });
        }
        let former = known.map_or(0, |m| m.name_bytes(&join.caller.member));
        let names: usize = self.members.iter().map(|(id, m)| m.name_bytes(id)).sum();
        let limit = limits::MAX_GROUP_NAME_TABLE_BYTES;
        if names - former + member::name_bytes(join) > limit {
            return Err(Error::Limit { what: "bytes of topic and member names of a group", limit });
        }
        self.admit_partitions(join, context)
    }

    fn admit_partitions(&self, join: &Join, context: Context<'_>) -> Result<(), Error> {
        let mut topics: Vec<&Arc<str>> = self.members.values().flat_map(|m| &m.topics).collect();
        topics.extend(&join.topics);
        topics.sort_unstable();
        topics.dedup();
        let partitions: usize =
            topics.into_iter().map(|topic| (context.partitions)(topic) as usize).sum();
        let limit = limits::MAX_GROUP_PARTITIONS;
        if partitions > limit {
            return Err(Error::Limit {
                what: "the number of partitions that a group reads",
                limit,
            });
        }
        Ok(())
    }

    fn on_heartbeat(
        &mut self,
        now_ms: u64,
        caller: &Caller,
        generation: i32,
    ) -> Result<Reply, Error> {
        let current = self.generation;
        self.member(caller)?.heard(now_ms);
        if generation != current {
            return Err(Error::StaleGeneration { current });
        }
        match self.state {
            State::PreparingRebalance { .. } => Err(Error::RebalanceInProgress),
            State::Empty | State::Stable | State::Dead => Ok(Reply::Done),
        }
    }

    fn on_leave(
        &mut self,
        context: Context<'_>,
        token: Token,
        caller: &Caller,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.member(caller) {
            out.push(Effect::Reply(token, Err(error)));
            return;
        }
        self.remove(&caller.member, out);
        self.after_removal(context, out);
        out.push(Effect::Reply(token, Ok(Reply::Done)));
    }

    fn on_commit(&mut self, now_ms: u64, token: Token, commit: Commit, out: &mut Vec<Effect>) {
        let allowed = self.may_commit(now_ms, &commit);
        if allowed.is_ok() && !commit.offsets.is_empty() {
            self.has_offsets = true;
            out.push(Effect::Persist(Change::Offsets(commit.offsets)));
        }
        out.push(Effect::Reply(token, allowed.map(|()| Reply::Done)));
    }

    /// While members join the next generation, commits of the former one are still theirs to make.
    fn may_commit(&mut self, now_ms: u64, commit: &Commit) -> Result<(), Error> {
        let current = self.generation;
        let Some(by) = &commit.by else {
            return if self.members.is_empty() { Ok(()) } else { Err(Error::NotEmpty) };
        };
        let member = self.member(&by.caller)?;
        member.heard(now_ms);
        if by.generation != current || !member.in_sequence(by.sequence) {
            return Err(Error::StaleGeneration { current });
        }
        Ok(())
    }

    fn on_delete(&mut self, token: Token, out: &mut Vec<Effect>) {
        if !self.members.is_empty() {
            out.push(Effect::Reply(token, Err(Error::NotEmpty)));
            return;
        }
        self.die(out);
        out.push(Effect::Reply(token, Ok(Reply::Done)));
    }

    fn on_tick(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let now_ms = context.now_ms;
        for member in self.members.values_mut() {
            out.extend(member.unpark_if_due(now_ms).map(|t| Effect::Reply(t, Ok(Reply::Wait))));
        }
        let silent: Vec<_> = self.silent(now_ms);
        for id in &silent {
            self.remove(id, out);
        }
        if silent.is_empty() {
            self.complete_if_ready(context, out);
        } else {
            self.after_removal(context, out);
        }
    }

    /// Members whose session has expired, and those that missed the rebalance deadline.
    fn silent(&self, now_ms: u64) -> Vec<Arc<str>> {
        let late = matches!(self.state, State::PreparingRebalance { deadline_ms, .. } if deadline_ms <= now_ms);
        let gone = |m: &Member| m.expired(now_ms) || (late && !m.joined);
        self.members.iter().filter(|(_, m)| gone(m)).map(|(id, _)| id.clone()).collect()
    }

    fn on_topics_changed(&mut self, context: Context<'_>) {
        if self.state != State::Stable {
            return;
        }
        let mut assigned: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            for topic in &member.topics {
                let mine = member.assigned.get(topic).map_or(0, Vec::len);
                *assigned.entry(topic).or_default() += mine;
            }
        }
        let same = assigned.iter().all(|(topic, n)| (context.partitions)(topic) as usize == *n);
        if !same {
            self.prepare(context.now_ms, 0);
        }
    }

    /// The member that `caller` speaks for. The first to speak after a restore is believed.
    fn member(&mut self, caller: &Caller) -> Result<&mut Member, Error> {
        let member = self.members.get_mut(&caller.member).ok_or(Error::UnknownMember)?;
        member.spoken_for_by(caller.session)?;
        Ok(member)
    }

    fn remove(&mut self, id: &str, out: &mut Vec<Effect>) {
        let parked = self.members.remove(id).and_then(|member| member.parked());
        out.extend(parked.map(|token| Effect::Reply(token, Err(Error::UnknownMember))));
    }

    fn after_removal(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        if self.members.is_empty() {
            self.become_empty(out);
            return;
        }
        if self.state == State::Stable {
            self.prepare(context.now_ms, 0);
        }
        self.complete_if_ready(context, out);
    }

    /// Starts a join phase: everybody has to join again.
    fn prepare(&mut self, now_ms: u64, hold_ms: u32) {
        for member in self.members.values_mut() {
            member.joined = false;
        }
        let longest = self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0);
        self.state = State::PreparingRebalance {
            hold_until_ms: now_ms + u64::from(hold_ms),
            deadline_ms: now_ms + u64::from(longest.max(hold_ms)),
        };
    }

    fn all_joined(&self) -> bool {
        self.members.values().all(|member| member.joined)
    }

    fn complete_if_ready(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let State::PreparingRebalance { hold_until_ms, .. } = self.state else { return };
        if context.now_ms < hold_until_ms || !self.all_joined() || self.members.is_empty() {
            return;
        }
        self.reassign(context);
        self.next_generation();
        self.state = State::Stable;
        out.push(Effect::Persist(Change::Generation(self.record())));
        let waiting: Vec<_> = self
            .members
            .iter_mut()
            .filter_map(|(id, member)| Some((id.clone(), member.unpark(context.now_ms)?)))
            .collect();
        for (id, token) in waiting {
            out.push(Effect::Reply(token, Ok(Reply::Joined(self.joined(&id)))));
        }
    }

    fn reassign(&mut self, context: Context<'_>) {
        let subscribers: Vec<_> = self
            .members
            .values()
            .map(|member| Subscriber { topics: &member.topics, previous: &member.assigned })
            .collect();
        let assigned: Vec<Assignment> = assign(&subscribers, context.partitions);
        for (member, assigned) in self.members.values_mut().zip(assigned) {
            member.assigned = assigned;
        }
    }

    fn become_empty(&mut self, out: &mut Vec<Effect>) {
        self.kind = None;
        if !self.has_offsets {
            self.die(out);
            return;
        }
        self.state = State::Empty;
        self.next_generation();
        out.push(Effect::Persist(Change::Generation(self.record())));
    }

    fn die(&mut self, out: &mut Vec<Effect>) {
        self.state = State::Dead;
        out.push(Effect::Persist(Change::Deleted));
    }

    /// After two thousand million generations the numbers start again; no member of that time is left.
    fn next_generation(&mut self) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
    }

    fn record(&self) -> Generation {
        Generation {
            generation: self.generation,
            kind: self.kind,
            members: self.members().collect(),
        }
    }

    fn joined(&self, id: &Arc<str>) -> Joined {
        Joined {
            member: id.clone(),
            generation: self.generation,
            assigned: self.members[id].assigned.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
