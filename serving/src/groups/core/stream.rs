//! The group of streams: the coordinator assigns, so a member that joins is answered with what it reads.
//!
//! * Joining is level-triggered: a member asks again until it is told a generation, and asking again is harmless.
//! * The stream that joined last speaks for its member; calls of an earlier one are fenced.

mod member;

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_proto::caps;

pub(super) use self::member::Member;
use super::classic::Classic;
use super::{Change, Context, Effect, Group, Reply, State, Token, limits};
use crate::groups::assign::{Subscriber, assign};
use crate::groups::types::{Assignment, Caller, Commit, Error, Join, Joined, Kind};

/// What a partition that is assigned to a stream costs.
const PARTITION_BYTES: usize = size_of::<u32>();

impl Group {
    pub(super) fn on_join(
        &mut self,
        context: Context<'_>,
        token: Token,
        join: Join,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.admit(&join, context) {
            out.push(Effect::Reply(token, Err(error)));
            return;
        }
        let id = join.caller.member.clone();
        let former = self.streams.get(&id).and_then(Member::spoken);
        let changed = match self.streams.get_mut(&id) {
            Some(member) => {
                let (changed, former) = member.rejoin(&join, context.now_ms);
                out.extend(former.map(|token| Effect::Reply(token, Err(Error::Fenced))));
                changed
            }
            None => {
                self.streams.insert(id.clone(), Member::new(&join, context.now_ms));
                true
            }
        };
        if self.kind.is_none() {
            self.classic = Classic::default();
        }
        self.kind = Some(Kind::Stream);
        match self.state {
            State::Stable if !changed => {
                // A new generation says who speaks for its members; here nothing else does.
                let spoken = self.streams.get(&id).and_then(Member::spoken);
                if let Some(spoken) = spoken.filter(|now| former != Some(*now)) {
                    let by = Some((id.clone(), spoken));
                    out.push(Effect::Persist(Change::Offsets(Vec::new(), by)));
                }
                let joined = self.joined(&id);
                out.push(Effect::Reply(token, Ok(Reply::Joined(joined))));
                return;
            }
            State::Stable => self.rebalance(context.now_ms, 0),
            State::Empty | State::Dead => self.rebalance(context.now_ms, context.initial_delay_ms),
            State::PreparingRebalance { .. } | State::CompletingRebalance => {}
        }
        let member = self.streams.get_mut(&id).expect("inserted above");
        member.park(token, context.now_ms);
        self.complete_if_ready(context, out);
    }

    /// Whether the group can take the member as it is.
    fn admit(&self, join: &Join, context: Context<'_>) -> Result<(), Error> {
        member::check(join)?;
        self.check_kind(Kind::Stream)?;
        let known = self.streams.get(&join.caller.member);
        if known.is_some_and(|member| member.wants(join)) {
            return Ok(());
        }
        if known.is_none() && self.streams.len() >= caps::MAX_GROUP_MEMBERS {
            let limit = caps::MAX_GROUP_MEMBERS;
            return Err(Error::Limit { what: "the number of members of a group", limit });
        }
        let former = known.map_or(0, |m| m.name_bytes(&join.caller.member));
        let names: usize = self.streams.iter().map(|(id, m)| m.name_bytes(id)).sum();
        let limit = limits::MAX_GROUP_NAME_TABLE_BYTES;
        if names - former + member::name_bytes(join) > limit {
            return Err(Error::Limit { what: "bytes of topic and member names of a group", limit });
        }
        context.rooms.fits(former, member::name_bytes(join))?;
        self.admit_partitions(join, context)
    }

    fn admit_partitions(&self, join: &Join, context: Context<'_>) -> Result<(), Error> {
        let mut topics: Vec<&Arc<str>> = self.streams.values().flat_map(|m| &m.topics).collect();
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
        context.rooms.fits_assigned(self.assigned_bytes(), partitions * PARTITION_BYTES)
    }

    /// What the members' partitions count for.
    pub(super) fn assigned_bytes(&self) -> usize {
        let assigned = self.streams.values().flat_map(|member| member.assigned.values());
        assigned.map(Vec::len).sum::<usize>() * PARTITION_BYTES
    }

    pub(super) fn on_heartbeat(
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
            State::Empty | State::CompletingRebalance | State::Stable | State::Dead => {
                Ok(Reply::Done)
            }
        }
    }

    pub(super) fn on_leave(
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

    /// While members join the next generation, commits of the former one are still theirs to make.
    pub(super) fn may_commit(&mut self, now_ms: u64, commit: &Commit) -> Result<(), Error> {
        let current = self.generation;
        let Some(by) = &commit.by else {
            return if self.is_empty() { Ok(()) } else { Err(Error::NotEmpty) };
        };
        let member = self.member(&by.caller)?;
        member.heard(now_ms);
        if by.generation != current || !member.in_sequence(by.sequence) {
            return Err(Error::StaleGeneration { current });
        }
        Ok(())
    }

    pub(super) fn on_tick_streams(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let now_ms = context.now_ms;
        for member in self.streams.values_mut() {
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
        self.streams.iter().filter(|(_, m)| gone(m)).map(|(id, _)| id.clone()).collect()
    }

    pub(super) fn on_topics_changed(&mut self, context: Context<'_>) {
        if self.state != State::Stable {
            return;
        }
        let mut assigned: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.streams.values() {
            for topic in &member.topics {
                let mine = member.assigned.get(topic).map_or(0, Vec::len);
                *assigned.entry(topic).or_default() += mine;
            }
        }
        let same = assigned.iter().all(|(topic, n)| (context.partitions)(topic) as usize == *n);
        if !same {
            self.rebalance(context.now_ms, 0);
        }
    }

    /// The member that `caller` speaks for. The first to speak after a restore is believed.
    fn member(&mut self, caller: &Caller) -> Result<&mut Member, Error> {
        self.check_kind(Kind::Stream)?;
        let member = self.streams.get_mut(&caller.member).ok_or(Error::UnknownMember)?;
        member.spoken_for_by(caller.session)?;
        Ok(member)
    }

    fn remove(&mut self, id: &str, out: &mut Vec<Effect>) {
        let parked = self.streams.remove(id).and_then(|member| member.parked());
        out.extend(parked.map(|token| Effect::Reply(token, Err(Error::UnknownMember))));
    }

    fn after_removal(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        if self.streams.is_empty() {
            self.become_empty(context, out);
            return;
        }
        if self.state == State::Stable {
            self.rebalance(context.now_ms, 0);
        }
        self.complete_if_ready(context, out);
    }

    /// Starts a join phase: everybody has to join again.
    /// Begins a join phase.
    fn rebalance(&mut self, now_ms: u64, hold_ms: u32) {
        let longest = self.streams.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0);
        for member in self.streams.values_mut() {
            member.joined = false;
        }
        self.prepare(now_ms, hold_ms, longest);
    }

    fn complete_if_ready(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let State::PreparingRebalance { hold_until_ms, .. } = self.state else { return };
        if context.now_ms < hold_until_ms || !self.all_joined() || self.streams.is_empty() {
            return;
        }
        self.reassign(context);
        self.next_generation(context);
        self.state = State::Stable;
        out.push(Effect::Persist(Change::Generation(self.record())));
        let waiting: Vec<_> = self
            .streams
            .iter_mut()
            .filter_map(|(id, member)| Some((id.clone(), member.unpark(context.now_ms)?)))
            .collect();
        for (id, token) in waiting {
            out.push(Effect::Reply(token, Ok(Reply::Joined(self.joined(&id)))));
        }
    }

    fn reassign(&mut self, context: Context<'_>) {
        let subscribers: Vec<_> = self
            .streams
            .values()
            .map(|member| Subscriber { topics: &member.topics, previous: &member.assigned })
            .collect();
        let assigned: Vec<Assignment> = assign(&subscribers, context.partitions);
        for (member, assigned) in self.streams.values_mut().zip(assigned) {
            member.assigned = assigned;
        }
    }

    fn joined(&self, id: &Arc<str>) -> Joined {
        Joined {
            member: id.clone(),
            generation: self.generation,
            assigned: self.streams[id].assigned.clone(),
        }
    }
}
