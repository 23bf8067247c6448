//! The phases of a classic group: when members must join again, when a generation begins, and who is given up meanwhile.

use std::sync::Arc;

use bytes::Bytes;

use super::member::Member;
use super::{Context, Effect, Group, Reply, State, Token};
use crate::groups::core::Change;
use crate::groups::types::Error;

impl Group {
    /// Makes the members join again, unless they do already. Whoever waits for an assignment will not get it.
    pub(super) fn rebalance_classic(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let hold_ms = match self.state {
            State::PreparingRebalance { .. } | State::Dead => return,
            State::Empty => context.initial_delay_ms,
            State::CompletingRebalance | State::Stable => 0,
        };
        let now_ms = context.now_ms;
        for member in self.classic.members.values_mut() {
            let waiting = member.answer_sync(now_ms);
            out.extend(waiting.map(|t| Effect::Reply(t, Err(Error::RebalanceInProgress))));
            member.synced = false;
        }
        self.classic.sync_deadline_ms = None;
        self.classic.gathering = self.state == State::Empty;
        let longest_ms = self.classic.longest_rebalance_ms();
        self.prepare(now_ms, hold_ms.min(longest_ms), longest_ms);
    }

    /// Begins the next generation once all have joined, or those who have not were waited for long enough.
    pub(super) fn begin_if_ready(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let State::PreparingRebalance { hold_until_ms, deadline_ms } = self.state else { return };
        let now_ms = context.now_ms;
        let late = now_ms >= deadline_ms;
        if late && self.leave_behind(out) {
            self.become_empty(context, out);
            return;
        }
        if self.classic.len() == 0 || now_ms < hold_until_ms || !(late || self.classic.all_joined())
        {
            return;
        }
        if std::mem::take(&mut self.classic.grew) && !late {
            let longer_ms = now_ms + u64::from(context.initial_delay_ms);
            let hold_until_ms = longer_ms.min(deadline_ms);
            self.state = State::PreparingRebalance { hold_until_ms, deadline_ms };
            if hold_until_ms > now_ms {
                return;
            }
        }
        if !self.classic.members.values().any(Member::has_joined) {
            // Static members that are away: whoever comes back first is not to take all that they have.
            let longest_ms = self.classic.longest_rebalance_ms();
            self.prepare(now_ms, 0, longest_ms);
            return;
        }
        self.begin(context, out);
    }

    /// Whoever has not joined in time is not in the next generation, whichever event it is that finds the time up; a static
    /// member may miss one. Whether nobody is left.
    fn leave_behind(&mut self, out: &mut Vec<Effect>) -> bool {
        let absent = |member: &Member| !member.has_joined() && member.instance.is_none();
        let members = self.classic.members.iter().filter(|(_, member)| absent(member));
        let absent: Vec<Arc<str>> = members.map(|(id, _)| id.clone()).collect();
        for id in &absent {
            self.classic.remove(id, &Error::UnknownMember, out);
        }
        !absent.is_empty() && self.classic.len() == 0
    }

    fn begin(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        let now_ms = context.now_ms;
        self.next_generation(context);
        let classic = &mut self.classic;
        if !classic.members.get(&classic.leader).is_some_and(Member::has_joined) {
            let joined = classic.in_order().find(|(_, member)| member.has_joined());
            let next = joined.map(|(id, _)| id.clone());
            classic.leader = next.unwrap_or_default();
        }
        classic.protocol = classic.choose();
        classic.gathering = false;
        classic.sync_deadline_ms = Some(now_ms + u64::from(classic.longest_rebalance_ms()));
        for member in classic.members.values_mut() {
            member.assignment = Bytes::new();
            member.synced = false;
        }
        self.state = State::CompletingRebalance;
        out.push(Effect::Persist(Change::Generation(self.record())));
        let mut waiting = Vec::new();
        for (id, member) in &mut self.classic.members {
            if let Some(token) = member.answer_join(now_ms) {
                member.knows_its_id = true;
                waiting.push((id.clone(), token));
            }
        }
        for (id, token) in waiting {
            let joined = self.joined_classic(&id);
            out.push(Effect::Reply(token, Ok(Reply::JoinedClassic(joined))));
        }
    }

    pub(super) fn after_classic_removal(&mut self, context: Context<'_>, out: &mut Vec<Effect>) {
        if self.classic.len() == 0 {
            self.become_empty(context, out);
            return;
        }
        self.rebalance_classic(context, out);
        self.begin_if_ready(context, out);
    }

    pub(in crate::groups::core) fn on_tick_classic(
        &mut self,
        context: Context<'_>,
        out: &mut Vec<Effect>,
    ) {
        let now_ms = context.now_ms;
        self.classic.expected.expire(now_ms);
        let lost = self.lost(now_ms);
        for id in &lost {
            self.classic.remove(id, &Error::UnknownMember, out);
        }
        self.classic.sync_deadline_ms.take_if(|at| *at <= now_ms);
        if lost.is_empty() {
            self.begin_if_ready(context, out);
        } else {
            self.after_classic_removal(context, out);
        }
    }

    /// Members that were silent for too long, or did not do in time what the phase asks of them. A static member may
    /// miss a generation: it is given its session timeout.
    fn lost(&self, now_ms: u64) -> Vec<Arc<str>> {
        let late = matches!(self.state, State::PreparingRebalance { deadline_ms, .. } if deadline_ms <= now_ms);
        let sync_late = self.classic.sync_deadline_ms.is_some_and(|at| at <= now_ms);
        let is_lost = |member: &Member| {
            member.expires_ms().is_some_and(|at| at <= now_ms)
                || (late && !member.has_joined() && member.instance.is_none())
                || (sync_late && !member.synced)
        };
        let members = self.classic.members.iter();
        members.filter(|(_, member)| is_lost(member)).map(|(id, _)| id.clone()).collect()
    }

    /// Nobody waits for this answer any more. The member has to ask again, within its session timeout; one that never
    /// heard its id cannot.
    pub(in crate::groups::core) fn on_gone(
        &mut self,
        context: Context<'_>,
        token: Token,
        out: &mut Vec<Effect>,
    ) {
        let mut members = self.classic.members.iter_mut();
        let Some((id, member)) = members.find(|(_, m)| m.parked().any(|t| t == token)) else {
            return;
        };
        member.unpark(token, context.now_ms);
        let id = id.clone();
        if !member.knows_its_id && member.instance.is_none() {
            self.classic.remove(&id, &Error::UnknownMember, out);
            self.after_classic_removal(context, out);
        }
    }
}
