//! The assignment of a classic group: members wait for it, the leader brings it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{Context, Effect, Group, Reply, State, Token, limits};
use crate::groups::classic::{SyncClassic, Synced};
use crate::groups::core::Change;
use crate::groups::types::Error;

impl Group {
    pub(in crate::groups::core) fn on_sync(
        &mut self,
        context: Context<'_>,
        token: Token,
        sync: SyncClassic,
        out: &mut Vec<Effect>,
    ) {
        if let Err(error) = self.sync(context, token, sync, out) {
            out.push(Effect::Reply(token, Err(error)));
        }
    }

    /// Parks or answers the request, or says why not.
    fn sync(
        &mut self,
        context: Context<'_>,
        token: Token,
        sync: SyncClassic,
        out: &mut Vec<Effect>,
    ) -> Result<(), Error> {
        self.classic_member(&sync.by)?;
        let other_type = sync.protocol_type.is_some_and(|t| t != self.classic.protocol_type);
        if other_type || sync.protocol.is_some_and(|p| *p != *self.classic.protocol) {
            return Err(Error::InconsistentProtocol);
        }
        let id = sync.by.name.member;
        match self.state {
            State::Empty | State::Dead => return Err(Error::UnknownMember),
            State::PreparingRebalance { .. } => return Err(Error::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => {}
        }
        let is_leader = self.classic.leader == id;
        if is_leader && self.state == State::CompletingRebalance {
            self.assign_classic(context, sync.assignments)?;
        }
        let member = self.classic.members.get_mut(&id).ok_or(Error::UnknownMember)?;
        if let Some(earlier) = member.park_sync(token) {
            // Sent twice, mostly over a connection that has broken in between.
            out.push(Effect::Reply(earlier, Err(Error::RebalanceInProgress)));
        }
        if is_leader && self.state == State::CompletingRebalance {
            self.state = State::Stable;
            out.push(Effect::Persist(Change::Generation(self.record())));
        }
        if self.state == State::Stable {
            self.answer_syncs(context.now_ms, out);
        }
        Ok(())
    }

    /// Takes over what the leader assigns. A member that it forgot is assigned no bytes; strangers are passed over.
    fn assign_classic(
        &mut self,
        context: Context<'_>,
        assignments: Vec<(Arc<str>, Bytes)>,
    ) -> Result<(), Error> {
        let limit = limits::MAX_CLASSIC_ASSIGNMENT_BYTES;
        let mut assigned: BTreeMap<Arc<str>, Bytes> = assignments.into_iter().collect();
        assigned.retain(|id, _| self.classic.members.contains_key(id));
        let bytes = assigned.values().map(Bytes::len).sum::<usize>();
        if bytes > limit {
            let what = "bytes of the assignments of a group";
            return Err(Error::GroupFull { what, limit });
        }
        context.rooms.fits_assigned(self.classic.bytes().1, bytes)?;
        for (id, member) in &mut self.classic.members {
            // A copy: what arrived is part of a larger buffer.
            let assigned = assigned.remove(id).unwrap_or_default();
            member.assignment = Bytes::copy_from_slice(&assigned);
        }
        Ok(())
    }

    fn answer_syncs(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let classic = &mut self.classic;
        for member in classic.members.values_mut() {
            let Some(token) = member.answer_sync(now_ms) else { continue };
            let synced = Synced {
                protocol_type: classic.protocol_type.clone(),
                protocol: classic.protocol.clone(),
                assignment: member.assignment.clone(),
            };
            out.push(Effect::Reply(token, Ok(Reply::Synced(synced))));
        }
        if classic.all_synced() {
            classic.sync_deadline_ms = None;
        }
    }
}
