//! One consumer group as a pure state machine: (state, event, now) → (state, effects). No clock, no I/O, no
//! randomness, no protocol of a wire. Owned by its shard's machine.
//!
//! ```text
//!            join                    all joined, or deadline        the leader has assigned
//!   Empty ─────────► PreparingRebalance ───────► CompletingRebalance ────────► Stable
//!     ▲  │ deleted,       ▲  │ nobody left         (classic groups only)         │ join with other topics, leave,
//!     │  ▼ no offsets     │  │                              │                    │ crash, partitions changed
//!     │ Dead              └──┼──────────────────────────────┴────────────────────┘
//!     └──────────────────────┘
//! ```
//!
//! * A group has members of one kind: those of [`stream`], whom the coordinator assigns, or those of [`classic`], whose
//!   leader assigns. What both share is here: generations, the end of a group, and [`offsets`].
//! * The state runs ahead of the log: [`Effect::Persist`] comes before the replies that rest on it, and whoever runs
//!   this withholds every reply until an entry appended after the request arrived is acknowledged (S2, S3).
//! * A new generation is one command with all its members, so a crash in between leaves the former one whole.
//! * Committed offsets live beside the group, in the durable image; the group only knows whether there are any.

mod classic;
mod event;
mod offsets;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::classic::Classic;
pub use self::event::{Change, Context, Effect, Event, Phase, Reply, Rooms, State, Token, Topics};
use self::stream::Member;
use super::limits;
use super::record::{Generation, MemberRecord};
use super::types::{Error, Kind};

/// One consumer group.
#[derive(Debug)]
pub struct Group {
    kind: Option<Kind>,
    state: State,
    generation: i32,
    /// When the generation was made, milliseconds since the Unix epoch.
    since_ms: i64,
    /// Members of a group of streams; empty in a classic group.
    streams: BTreeMap<Arc<str>, Member>,
    /// All that only a classic group has.
    classic: Classic,
    has_offsets: bool,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            kind: None,
            state: State::Empty,
            generation: 0,
            since_ms: 0,
            streams: BTreeMap::new(),
            classic: Classic::default(),
            has_offsets: false,
        }
    }
}

impl Group {
    /// The group as its last durable generation left it. Its members have a whole session timeout to be heard of.
    pub fn restore(generation: &Generation, has_offsets: bool, now_ms: u64) -> Self {
        let mut group = Self {
            kind: generation.kind.filter(|_| !generation.members.is_empty()),
            generation: generation.generation,
            since_ms: generation.since_ms,
            has_offsets,
            ..Self::default()
        };
        match group.kind {
            None => {}
            Some(Kind::Stream) => {
                let member = |r: &MemberRecord| (r.member.clone(), Member::restore(r, now_ms));
                group.streams = generation.members.iter().map(member).collect();
                group.state = State::Stable;
            }
            Some(Kind::Classic) => {
                let assigned = generation.classic.as_ref().is_some_and(|c| c.assigned);
                group.state = if assigned { State::Stable } else { State::CompletingRebalance };
            }
        }
        group.classic.restore(generation, now_ms);
        group
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

    /// Of a group that is or was classic, the family of its protocols; else empty.
    pub fn protocol_type(&self) -> &str {
        self.classic.protocol_type()
    }

    /// The protocol that classic members agreed on; else empty.
    pub fn protocol(&self) -> &Arc<str> {
        self.classic.protocol()
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.streams.len() + self.classic.len()
    }

    /// Whether it has no members.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What its members count for against the limits of a shard: by what they say, and by what they are assigned.
    pub fn bytes(&self) -> (usize, usize) {
        let (said, assigned) = self.classic.bytes();
        let names = self.streams.iter().map(|(id, member)| member.name_bytes(id)).sum::<usize>();
        (said + names, assigned + self.assigned_bytes())
    }

    /// Whether nothing was ever made of it: a first request that was refused leaves no group behind.
    pub fn is_blank(&self) -> bool {
        self.is_empty()
            && self.generation == 0
            && !self.has_offsets
            && self.classic.nobody_is_expected()
    }

    /// Its members as the next generation would record them: by id, or in the order in which classic members joined.
    pub fn members(&self) -> Vec<MemberRecord> {
        let streams = self.streams.iter().map(|(id, member)| member.record(id));
        streams.chain(self.classic.members()).collect()
    }

    /// Answers that classic members wait for until others have done something.
    pub fn parked(&self) -> impl Iterator<Item = Token> + '_ {
        self.classic.parked()
    }

    /// When [`Event::Tick`] is due, if ever.
    pub fn next_deadline(&self) -> Option<u64> {
        let members = self.streams.values().map(Member::next_deadline).min();
        let phase = match self.state {
            State::PreparingRebalance { hold_until_ms, .. } if self.all_joined() => {
                Some(hold_until_ms)
            }
            State::PreparingRebalance { deadline_ms, .. } => Some(deadline_ms),
            State::Empty | State::CompletingRebalance | State::Stable | State::Dead => None,
        };
        members.into_iter().chain(phase).chain(self.classic.next_deadline()).min()
    }

    /// Takes one event. The effects are to be done in order.
    pub fn step(&mut self, context: Context<'_>, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        let now_ms = context.now_ms;
        match event {
            Event::Join(token, join) => self.on_join(context, token, join, out),
            Event::Heartbeat(token, caller, generation) => {
                out.push(Effect::Reply(token, self.on_heartbeat(now_ms, &caller, generation)));
            }
            Event::Leave(token, caller) => self.on_leave(context, token, &caller, out),
            Event::Commit(token, commit) => self.on_commit(now_ms, token, commit, out),
            Event::JoinClassic(token, join) => self.on_join_classic(context, token, &join, out),
            Event::SyncClassic(token, sync) => self.on_sync(context, token, sync, out),
            Event::HeartbeatClassic(token, by) => {
                let answer = self.on_heartbeat_classic(now_ms, &by);
                out.push(Effect::Reply(token, answer));
            }
            Event::LeaveClassic(token, names) => self.on_leave_classic(context, token, &names, out),
            Event::CommitClassic(token, by, offsets) => {
                self.on_commit_classic(now_ms, token, &by, offsets, out);
            }
            Event::DeleteOffsets(token, offsets) => self.on_delete_offsets(token, offsets, out),
            Event::Expired(offsets, all) => self.on_expired(offsets, all, out),
            Event::Delete(token) => self.on_delete(token, out),
            Event::Gone(token) => self.on_gone(context, token, out),
            Event::Tick => self.on_tick(context, out),
            Event::TopicsChanged => self.on_topics_changed(context),
        }
        self.end_if_useless(out);
        effects
    }

    fn on_tick(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        match self.kind {
            Some(Kind::Stream) => self.on_tick_streams(context, out),
            Some(Kind::Classic) | None => self.on_tick_classic(context, out),
        }
    }

    fn on_delete(&mut self, token: Token, out: &mut Vec<Effect>) {
        if !self.is_empty() {
            out.push(Effect::Reply(token, Err(Error::NotEmpty)));
            return;
        }
        self.die(out);
        out.push(Effect::Reply(token, Ok(Reply::Done)));
    }

    /// Refuses members of the other kind while there are any of one.
    fn check_kind(&self, kind: Kind) -> Result<(), Error> {
        match self.kind {
            Some(other) if other != kind => Err(Error::OtherKind(other)),
            Some(_) | None => Ok(()),
        }
    }

    /// Begins a join phase that waits at least `hold_ms`, and at most `longest_ms` for those who are members.
    fn prepare(&mut self, now_ms: u64, hold_ms: u32, longest_ms: u32) {
        self.state = State::PreparingRebalance {
            hold_until_ms: now_ms + u64::from(hold_ms),
            deadline_ms: now_ms + u64::from(longest_ms.max(hold_ms).max(1)),
        };
    }

    fn all_joined(&self) -> bool {
        self.streams.values().all(Member::has_joined) && self.classic.all_joined()
    }

    fn become_empty(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        self.kind = None;
        self.classic.become_empty();
        self.state = State::Empty;
        if !self.has_offsets && self.classic.nobody_is_expected() {
            self.die(out);
            return;
        }
        self.next_generation(context);
        out.push(Effect::Persist(Change::Generation(self.record())));
    }

    /// Nobody will miss a group without members and offsets.
    fn end_if_useless(&mut self, out: &mut Vec<Effect>) {
        let expected = !self.classic.nobody_is_expected();
        let used = self.generation == 0 || !self.is_empty() || self.has_offsets || expected;
        if self.state == State::Empty && !used {
            self.die(out);
        }
    }

    fn die(&mut self, out: &mut Vec<Effect>) {
        self.state = State::Dead;
        out.push(Effect::Persist(Change::Deleted));
    }

    /// After two thousand million generations the numbers start again; no member of that time is left.
    fn next_generation(&mut self, context: Context<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.since_ms = context.wall_ms;
    }

    fn record(&self) -> Generation {
        Generation {
            generation: self.generation,
            kind: self.kind,
            members: self.members(),
            classic: self.classic.record(self.state),
            since_ms: self.since_ms,
        }
    }
}

#[cfg(test)]
mod tests;
