//! The classic group: members join with the protocols that they can follow, the group chooses one that all can, and
//! its leader, who joined first, assigns.
//!
//! * [`join`] parks members until all have joined; [`phase`] makes the generation; [`sync`] parks them again until the
//!   leader has assigned. Every parked answer is given once, or dropped when nobody waits for it.
//! * A generation is durable before anybody hears that it is one, and once more with its assignment before any member
//!   sees that (S3). A coordinator that takes over in between goes on where the leader is to assign.
//! * A static member comes back under its instance id with a new member id; whoever still uses the old one is fenced.

mod expected;
mod join;
mod member;
mod phase;
mod sync;
mod vote;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::expected::Expected;
use self::member::Member;
use super::{Context, Effect, Group, Reply, State, Token, Topics, limits};
use crate::groups::classic::{Each, Identity, JoinedClassic, MemberName, Protocol};
use crate::groups::consumer_protocol::{CONSUMER, subscription};
use crate::groups::record::{ClassicGeneration, Generation, MemberRecord};
use crate::groups::types::{Error, Kind};

/// All that only a classic group has.
#[derive(Debug, Default)]
pub(super) struct Classic {
    members: BTreeMap<Arc<str>, Member>,
    /// Member ids of static members by instance id.
    instances: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out and that nobody has joined with yet.
    expected: Expected,
    /// Of the present members, or of the last ones.
    protocol_type: String,
    /// Empty before the first generation and without members.
    protocol: Arc<str>,
    /// Empty without members.
    leader: Arc<str>,
    next_order: u64,
    /// The join phase that began without members: it waits for more, and for longer when more came.
    gathering: bool,
    grew: bool,
    /// Who has not asked for the assignment by then is removed.
    sync_deadline_ms: Option<u64>,
}

impl Classic {
    pub(super) fn restore(&mut self, generation: &Generation, now_ms: u64) {
        let Some(classic) = &generation.classic else { return };
        self.protocol_type.clone_from(&classic.protocol_type);
        if generation.kind != Some(Kind::Classic) {
            return;
        }
        self.protocol = classic.protocol.clone();
        self.leader = classic.leader.clone();
        for record in &generation.members {
            let id = record.member.clone();
            let mut member = Member::restore(record, self.next_order, now_ms);
            member.synced = classic.assigned;
            self.next_order += 1;
            if let Some(instance) = &member.instance {
                self.instances.insert(instance.clone(), id.clone());
            }
            self.members.insert(id, member);
        }
        if !classic.assigned {
            self.sync_deadline_ms = Some(now_ms + u64::from(self.longest_rebalance_ms()));
        }
    }

    pub(super) fn record(&self, state: State) -> Option<ClassicGeneration> {
        (!self.protocol_type.is_empty()).then(|| ClassicGeneration {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            assigned: state == State::Stable,
        })
    }

    pub(super) fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    pub(super) fn protocol(&self) -> &Arc<str> {
        &self.protocol
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether no id is given out that somebody may still join with.
    pub(super) fn nobody_is_expected(&self) -> bool {
        self.expected.is_empty()
    }

    /// In the order in which they joined.
    pub(super) fn members(&self) -> impl Iterator<Item = MemberRecord> + '_ {
        self.in_order().map(|(id, member)| member.record(id))
    }

    fn in_order(&self) -> impl Iterator<Item = (&Arc<str>, &Member)> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_unstable_by_key(|(_, member)| member.order);
        members.into_iter()
    }

    pub(super) fn parked(&self) -> impl Iterator<Item = Token> + '_ {
        self.members.values().flat_map(Member::parked)
    }

    pub(super) fn all_joined(&self) -> bool {
        let expected = !self.gathering && !self.expected.is_empty();
        self.members.values().all(Member::has_joined) && !expected
    }

    fn all_synced(&self) -> bool {
        self.members.values().all(|member| member.synced)
    }

    fn longest_rebalance_ms(&self) -> u32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0)
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        let silence = self.members.values().filter_map(Member::expires_ms);
        silence.chain(self.expected.next_deadline()).chain(self.sync_deadline_ms).min()
    }

    /// Keeps the family of protocols for tools, and the ids that somebody may still join with.
    pub(super) fn become_empty(&mut self) {
        *self = Self {
            expected: std::mem::take(&mut self.expected),
            protocol_type: std::mem::take(&mut self.protocol_type),
            ..Self::default()
        };
    }

    /// The protocol that the members would agree on now; empty when they cannot.
    fn choose(&self) -> Arc<str> {
        let leader = self.members.get(&self.leader).map_or(&[][..], |leader| &leader.protocols);
        let members = self.members.values().map(|member| member.protocols.as_slice());
        vote::choose(leader, members).unwrap_or_default()
    }

    /// Whether a member that said `before` subscribes to the same topics as before, as far as anybody can tell.
    fn same_topics(&self, before: &[Protocol], now: &[Protocol]) -> bool {
        if self.protocol_type != CONSUMER {
            return true;
        }
        let topics = |said: &[Protocol]| -> Option<Topics> {
            let said = said.iter().find(|p| *p.name == *self.protocol)?;
            Some(subscription(&said.metadata)?.into_iter().collect())
        };
        match (topics(before), topics(now)) {
            (Some(before), Some(now)) => before == now,
            _ => true,
        }
    }

    /// The topics that consumers subscribe to; `None` when members are, or may be, something else.
    pub(super) fn topics(&self) -> Option<Topics> {
        if self.protocol_type != CONSUMER {
            return None;
        }
        let mut topics = Topics::new();
        for member in self.members.values() {
            for protocol in &member.protocols {
                topics.extend(subscription(&protocol.metadata)?);
            }
        }
        Some(topics)
    }

    /// Whether the member is who it says.
    fn identify(&self, name: &MemberName) -> Result<(), Error> {
        if let Some(instance) = &name.instance {
            let current = self.instances.get(instance).ok_or(Error::UnknownMember)?;
            if *current != name.member {
                return Err(Error::FencedInstance);
            }
        }
        let known = self.members.contains_key(&name.member);
        known.then_some(()).ok_or(Error::UnknownMember)
    }

    /// What counts against the limits of a shard: what is said by members and kept of ids that were given out, and what is
    /// assigned.
    pub(super) fn bytes(&self) -> (usize, usize) {
        let said = self.members.iter().map(|(id, member)| member.bytes(id)).sum::<usize>();
        let assigned = self.members.values().map(|member| member.assignment.len()).sum();
        (said + self.expected.bytes(), assigned)
    }

    /// Takes a member out. Answers that it waited for become `why`.
    fn remove(&mut self, id: &str, why: &Error, out: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        out.extend(member.parked().map(|token| Effect::Reply(token, Err(why.clone()))));
        if *self.leader == *id {
            let next = self.in_order().next().map(|(id, _)| id.clone());
            self.leader = next.unwrap_or_default();
        }
    }
}

impl Group {
    pub(super) fn on_heartbeat_classic(
        &mut self,
        now_ms: u64,
        by: &Identity,
    ) -> Result<Reply, Error> {
        self.classic_member(by)?.heard(now_ms);
        match self.state {
            State::PreparingRebalance { .. } => Err(Error::RebalanceInProgress),
            // A member that waits for its assignment has joined: to send it back would begin another generation.
            State::CompletingRebalance | State::Empty | State::Stable | State::Dead => {
                Ok(Reply::Done)
            }
        }
    }

    /// The member of this generation that is named, if it is one.
    fn classic_member(&mut self, by: &Identity) -> Result<&mut Member, Error> {
        self.check_kind(Kind::Classic)?;
        self.classic.identify(&by.name)?;
        let current = self.generation;
        if by.generation != current {
            return Err(Error::StaleGeneration { current });
        }
        self.classic.members.get_mut(&by.name.member).ok_or(Error::UnknownMember)
    }

    /// While members join the next generation, commits of the former one are still theirs to make; once it has begun,
    /// a member first learns what it is assigned.
    pub(super) fn may_commit_classic(&mut self, now_ms: u64, by: &Identity) -> Result<(), Error> {
        if by.generation < 0 && self.is_empty() {
            return Ok(());
        }
        if by.is_nobody() {
            return Err(Error::UnknownMember);
        }
        self.classic_member(by)?.heard(now_ms);
        match self.state {
            State::CompletingRebalance => Err(Error::RebalanceInProgress),
            State::Empty | State::PreparingRebalance { .. } | State::Stable | State::Dead => Ok(()),
        }
    }

    pub(super) fn on_leave_classic(
        &mut self,
        context: Context<'_>,
        token: Token,
        names: &[MemberName],
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.check_kind(Kind::Classic) {
            out.push(Effect::Reply(token, Err(error)));
            return;
        }
        let before = self.classic.len();
        let each: Each = names.iter().map(|name| self.leave_classic(name, out)).collect();
        if self.classic.len() < before {
            self.after_classic_removal(context, out);
        } else {
            self.begin_if_ready(context, out);
        }
        out.push(Effect::Reply(token, Ok(Reply::Each(each))));
    }

    fn leave_classic(&mut self, name: &MemberName, out: &mut Vec<Effect>) -> Result<(), Error> {
        let id = match &name.instance {
            Some(instance) => {
                let current = self.classic.instances.get(instance).ok_or(Error::UnknownMember)?;
                // An administrator knows the instance only.
                if !name.member.is_empty() && *current != name.member {
                    return Err(Error::FencedInstance);
                }
                current.clone()
            }
            None if self.classic.expected.remove(&name.member) => return Ok(()),
            None => name.member.clone(),
        };
        if !self.classic.members.contains_key(&id) {
            return Err(Error::UnknownMember);
        }
        self.classic.remove(&id, &Error::UnknownMember, out);
        Ok(())
    }

    /// A member's place. Only the leader is told of the others.
    fn joined_classic(&self, id: &Arc<str>) -> JoinedClassic {
        let classic = &self.classic;
        let all = classic.in_order();
        let members = all.map(|(id, member)| member.joined_member(id, &classic.protocol));
        JoinedClassic {
            member: id.clone(),
            generation: self.generation,
            protocol_type: classic.protocol_type.clone(),
            protocol: classic.protocol.clone(),
            leader: classic.leader.clone(),
            skip_assignment: false,
            members: if classic.leader == *id { members.collect() } else { Vec::new() },
        }
    }
}

#[cfg(test)]
mod tests;
