//! Joining a classic group: who may, under which id, and whether the others must join again for it.

use std::sync::Arc;

use geminga_proto::caps;

use super::member::{self, Member};
use super::{Context, Effect, Group, Reply, State, Token, limits, vote};
use crate::groups::classic::JoinClassic;
use crate::groups::core::Change;
use crate::groups::types::{Error, Kind};

impl Group {
    pub(in crate::groups::core) fn on_join_classic(
        &mut self,
        context: Context<'_>,
        token: Token,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.join_classic(context, token, join, out) {
            out.push(Effect::Reply(token, Err(error)));
        }
    }

    /// Parks or answers the join, or says why not.
    fn join_classic(
        &mut self,
        context: Context<'_>,
        token: Token,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        member::check(join)?;
        self.check_kind(Kind::Classic)?;
        if join.name.member.is_empty() {
            return self.join_nameless(context, token, join, out);
        }
        let id = join.name.member.clone();
        self.check_protocols(join, Some(&id))?;
        if self.classic.expected.contains(&id) {
            if join.name.instance.is_some() {
                return Err(Error::Invalid(
                    "this member id was given to a member without instance",
                ));
            }
            self.check_room(context, join, None)?;
            self.classic.expected.remove(&id);
            self.add(context, token, &id, join, out);
            return Ok(());
        }
        self.classic.identify(&join.name)?;
        self.join_again(context, token, &id, join, out)
    }

    /// A member that has no id yet: a new one, or a static one that has come back.
    fn join_nameless(
        &mut self,
        context: Context<'_>,
        token: Token,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let fresh = &join.fresh;
        if self.classic.members.contains_key(fresh) || self.classic.expected.contains(fresh) {
            return Err(Error::Invalid("the new member id is in use; try again"));
        }
        let instance = join.name.instance.as_ref();
        if let Some(former) = instance.and_then(|i| self.classic.instances.get(i)).cloned() {
            self.check_protocols(join, Some(&former))?;
            self.check_room(context, join, Some(&former))?;
            self.replace(context, token, &former, join, out);
            return Ok(());
        }
        self.check_protocols(join, None)?;
        self.check_room(context, join, None)?;
        if instance.is_none() && join.two_steps {
            self.classic.expected.insert(fresh, join.session_timeout_ms, context.now_ms);
            return Err(Error::MemberIdRequired(fresh.clone()));
        }
        self.add(context, token, fresh, join, out);
        Ok(())
    }

    fn add(
        &mut self,
        context: Context<'_>,
        token: Token,
        id: &Arc<str>,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) {
        let classic = &mut self.classic;
        if classic.members.is_empty() {
            self.kind = Some(Kind::Classic);
            classic.protocol_type.clone_from(&join.protocol_type);
            classic.leader = id.clone();
        }
        classic.next_order += 1;
        let knows_its_id = *id == join.name.member;
        let mut member = Member::new(join, classic.next_order, knows_its_id, context.now_ms);
        member.park_join(token);
        if let Some(instance) = &member.instance {
            classic.instances.insert(instance.clone(), id.clone());
        }
        classic.members.insert(id.clone(), member);
        classic.grew = classic.gathering;
        self.rebalance_classic(context, out);
        self.begin_if_ready(context, out);
    }

    /// A member that the group knows: it joins the next generation, or hears the present one when nothing has changed.
    /// A leader that joins again wants to assign again.
    fn join_again(
        &mut self,
        context: Context<'_>,
        token: Token,
        id: &Arc<str>,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        let member = self.classic.members.get_mut(id).ok_or(Error::UnknownMember)?;
        let same = member.protocols == join.protocols;
        let hears_the_present = match self.state {
            State::CompletingRebalance => same,
            State::Stable => same && self.classic.leader != *id,
            State::Empty | State::PreparingRebalance { .. } | State::Dead => false,
        };
        if hears_the_present {
            member.heard(context.now_ms);
            let joined = self.joined_classic(id);
            out.push(Effect::Reply(token, Ok(Reply::JoinedClassic(joined))));
            return Ok(());
        }
        self.check_room(context, join, Some(id))?;
        self.rebalance_classic(context, out);
        let member = self.classic.members.get_mut(id).ok_or(Error::UnknownMember)?;
        member.update(join, context.now_ms);
        if let Some(earlier) = member.park_join(token) {
            // Sent twice, mostly over a connection that has broken in between.
            out.push(Effect::Reply(earlier, Err(Error::RebalanceInProgress)));
        }
        self.begin_if_ready(context, out);
        Ok(())
    }

    /// A static member has come back without its id: it takes the place of the `former` one, which is fenced from now
    /// on. Nobody else notices, unless the group would choose another protocol with what it says now, or it subscribes to
    /// other topics. What else it says differs with every start: consumers write into it which generation they were in.
    fn replace(
        &mut self,
        context: Context<'_>,
        token: Token,
        former: &Arc<str>,
        join: &JoinClassic,
        out: &mut Vec<Effect>,
    ) {
        let classic = &mut self.classic;
        let Some(mut member) = classic.members.remove(former) else { return };
        let fenced = member.take_parked();
        out.extend(fenced.map(|token| Effect::Reply(token, Err(Error::FencedInstance))));
        let same_topics = classic.same_topics(&member.protocols, &join.protocols);
        member.update(join, context.now_ms);
        let (id, former_leader) = (join.fresh.clone(), classic.leader.clone());
        classic.instances.extend(member.instance.iter().map(|i| (i.clone(), id.clone())));
        if classic.leader == *former {
            classic.leader = id.clone();
        }
        classic.members.insert(id.clone(), member);
        let same = same_topics && classic.choose() == classic.protocol;
        if self.state == State::Stable && same {
            out.push(Effect::Persist(Change::Generation(self.record())));
            let mut joined = self.joined_classic(&id);
            if join.may_skip {
                joined.skip_assignment = joined.leader == id;
            } else {
                // It would assign if it were told that it leads.
                joined.leader = former_leader;
                joined.members.clear();
            }
            out.push(Effect::Reply(token, Ok(Reply::JoinedClassic(joined))));
            return;
        }
        if let Some(member) = classic.members.get_mut(&id) {
            member.park_join(token);
        }
        self.rebalance_classic(context, out);
        self.begin_if_ready(context, out);
    }

    /// Whether the member has a protocol in common with all the others, which `except` is not one of.
    fn check_protocols(&self, join: &JoinClassic, except: Option<&Arc<str>>) -> Result<(), Error> {
        let members = &self.classic.members;
        let family = members.is_empty() || self.classic.protocol_type == join.protocol_type;
        let others = members.iter().filter(|(id, _)| Some(*id) != except);
        let others = others.map(|(_, member)| member.protocols.as_slice());
        let agrees = family && !join.protocol_type.is_empty();
        let agrees = agrees && vote::agrees(&join.protocols, others);
        agrees.then_some(()).ok_or(Error::InconsistentProtocol)
    }

    /// Whether the member fits into the group, in the place of `former` if there is one.
    fn check_room(
        &self,
        context: Context<'_>,
        join: &JoinClassic,
        former: Option<&Arc<str>>,
    ) -> Result<(), Error> {
        let classic = &self.classic;
        let limit = caps::MAX_GROUP_MEMBERS;
        if former.is_none() && classic.members.len() >= limit {
            return Err(Error::GroupFull { what: "the number of members of a group", limit });
        }
        let others = classic.members.iter().filter(|(id, _)| Some(*id) != former);
        let bytes: usize = others.map(|(id, member)| member.bytes(id)).sum();
        let limit = limits::MAX_CLASSIC_METADATA_BYTES;
        if bytes + member::bytes(join) > limit {
            let what = "bytes of what the members of a group say of themselves";
            return Err(Error::GroupFull { what, limit });
        }
        let former = former.and_then(|id| Some(classic.members.get(id)?.bytes(id)));
        context.rooms.fits(former.unwrap_or(0), member::bytes(join))
    }
}
