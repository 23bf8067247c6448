//! What classic members ask of a shard. A join or a request for an assignment whose sender has gone away is not taken
//! up: late as it comes, it would only disturb the member that has asked again.

use std::sync::Arc;

use geminga_proto::caps;

use super::answer::Waiting;
use super::{Groups, Held};
use crate::groups::classic::{Each, JoinClassic, JoinedClassic, MemberName, SyncClassic, Synced};
use crate::groups::core::{Event, Token};
use crate::groups::limits;
use crate::groups::request::Respond;
use crate::groups::types::{Error, TopicPartition};
use crate::statelog::machine::Output;

impl Groups {
    pub(super) fn on_join_classic(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        join: JoinClassic,
        respond: Respond<JoinedClassic>,
        out: &mut Output<Held>,
    ) {
        if respond.is_closed() {
            return;
        }
        if let Err(error) = self.may_exist(name) {
            out.held.push(Held::JoinClassic(respond, Err(error)));
            return;
        }
        let token = self.token(Waiting::JoinClassic(respond));
        self.step(now_ms, name, Event::JoinClassic(token, join), out);
    }

    pub(super) fn on_sync(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        sync: SyncClassic,
        respond: Respond<Synced>,
        out: &mut Output<Held>,
    ) {
        if respond.is_closed() {
            return;
        }
        if !self.groups.contains_key(name) {
            out.held.push(Held::Sync(respond, Err(Error::UnknownMember)));
            return;
        }
        let token = self.token(Waiting::Sync(respond));
        self.step(now_ms, name, Event::SyncClassic(token, sync), out);
    }

    pub(super) fn on_leave_classic(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        members: Vec<MemberName>,
        respond: Respond<Each>,
        out: &mut Output<Held>,
    ) {
        if !self.groups.contains_key(name) {
            let nobody = members.iter().map(|_| Err(Error::UnknownMember)).collect();
            out.held.push(Held::Each(respond, Ok(nobody)));
            return;
        }
        let token = self.token(Waiting::Each(respond));
        self.step(now_ms, name, Event::LeaveClassic(token, members), out);
    }

    pub(super) fn on_delete_offsets(
        &mut self,
        now_ms: u64,
        name: &Arc<str>,
        offsets: Vec<TopicPartition>,
        respond: Respond<Each>,
        out: &mut Output<Held>,
    ) {
        if let Err(error) = self.check_deletion(name, &offsets) {
            out.held.push(Held::Each(respond, Err(error)));
            return;
        }
        let token = self.token(Waiting::Each(respond));
        self.step(now_ms, name, Event::DeleteOffsets(token, offsets), out);
        self.expiry.look_soon(now_ms);
    }

    /// Whether the deletion is of a group that exists, and fits into a command.
    fn check_deletion(&self, name: &str, offsets: &[TopicPartition]) -> Result<(), Error> {
        if !self.groups.contains_key(name) {
            return Err(Error::UnknownGroup);
        }
        let limit = limits::MAX_COMMIT_OFFSETS;
        if offsets.len() > limit {
            return Err(Error::Limit { what: "the number of offsets to delete at once", limit });
        }
        if offsets.iter().any(|tp| tp.topic.len() > caps::MAX_TOPIC_NAME_BYTES) {
            return Err(Error::Invalid("offsets of an impossible topic are to be deleted"));
        }
        Ok(())
    }

    /// Tells the group of every answer that it owes and that nobody waits for any more.
    pub(super) fn drop_gone(&mut self, now_ms: u64, name: &Arc<str>, out: &mut Output<Held>) {
        let Some(slot) = self.groups.get(name) else { return };
        let gone = |token: &Token| self.waiting.get(token).is_some_and(Waiting::is_gone);
        let gone: Vec<Token> = slot.group.parked().filter(gone).collect();
        for token in gone {
            self.waiting.remove(&token);
            self.step_once(now_ms, name, Event::Gone(token), out);
        }
    }
}
