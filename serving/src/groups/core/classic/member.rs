//! One member of a classic group: what it says of itself, what it is assigned, which answers it waits for, and until when
//! it may be silent.

use std::sync::Arc;

use bytes::Bytes;

use super::limits;
use crate::groups::classic::{JoinClassic, JoinedMember, MemberName, Protocol};
use crate::groups::core::Token;
use crate::groups::record::{ClassicRecord, MemberRecord};
use crate::groups::types::Error;

/// What a member counts for beside its words.
const MEMBER_BYTES: usize = 256;

/// A member as its group sees it.
#[derive(Debug)]
pub(super) struct Member {
    /// Rises with every member that joins: the order in which they did.
    pub(super) order: u64,
    pub(super) instance: Option<Arc<str>>,
    client_id: String,
    client_host: String,
    session_timeout_ms: u32,
    pub(super) rebalance_timeout_ms: u32,
    pub(super) protocols: Vec<Protocol>,
    pub(super) assignment: Bytes,
    expires_ms: u64,
    /// The join that is answered when the next generation begins: the member has joined it.
    join: Option<Token>,
    /// The request that is answered when the leader has assigned.
    sync: Option<Token>,
    /// Has asked for the assignment of this generation.
    pub(super) synced: bool,
    /// Knows its id. A member that does not cannot join again, so it is lost with its connection.
    pub(super) knows_its_id: bool,
}

impl Member {
    pub(super) fn new(join: &JoinClassic, order: u64, knows_its_id: bool, now_ms: u64) -> Self {
        let mut member = Self {
            order,
            instance: join.name.instance.clone(),
            client_id: String::new(),
            client_host: String::new(),
            session_timeout_ms: 0,
            rebalance_timeout_ms: 0,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            expires_ms: 0,
            join: None,
            sync: None,
            synced: false,
            knows_its_id,
        };
        member.update(join, now_ms);
        member
    }

    pub(super) fn restore(record: &MemberRecord, order: u64, now_ms: u64) -> Self {
        let classic = record.classic.clone().unwrap_or_default();
        let mut member = Self {
            order,
            instance: classic.instance,
            client_id: record.client_id.clone(),
            client_host: classic.client_host,
            session_timeout_ms: record.session_timeout_ms,
            rebalance_timeout_ms: record.rebalance_timeout_ms,
            protocols: classic.protocols,
            assignment: classic.assignment,
            expires_ms: 0,
            join: None,
            sync: None,
            synced: false,
            knows_its_id: true,
        };
        member.heard(now_ms);
        member
    }

    pub(super) fn record(&self, id: &Arc<str>) -> MemberRecord {
        MemberRecord {
            member: id.clone(),
            client_id: self.client_id.clone(),
            topics: Vec::new(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            assigned: crate::groups::types::Assignment::new(),
            spoken: None,
            classic: Some(ClassicRecord {
                instance: self.instance.clone(),
                client_host: self.client_host.clone(),
                protocols: self.protocols.clone(),
                assignment: self.assignment.clone(),
            }),
        }
    }

    /// Takes over what a join says.
    pub(super) fn update(&mut self, join: &JoinClassic, now_ms: u64) {
        self.client_id.clone_from(&join.client_id);
        self.client_host.clone_from(&join.client_host);
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = rebalance_timeout_ms(join);
        if self.protocols != join.protocols {
            self.protocols = join.protocols.iter().map(kept).collect();
        }
        self.heard(now_ms);
    }

    pub(super) fn joined_member(&self, id: &Arc<str>, protocol: &str) -> JoinedMember {
        let metadata = self.protocols.iter().find(|p| *p.name == *protocol);
        JoinedMember {
            name: MemberName { member: id.clone(), instance: self.instance.clone() },
            metadata: metadata.map(|p| p.metadata.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn has_joined(&self) -> bool {
        self.join.is_some()
    }

    /// Counts the member in for the next generation. Returns an earlier join that was waiting.
    pub(super) fn park_join(&mut self, token: Token) -> Option<Token> {
        self.join.replace(token)
    }

    /// Returns an earlier request that was waiting.
    pub(super) fn park_sync(&mut self, token: Token) -> Option<Token> {
        self.synced = true;
        self.sync.replace(token)
    }

    /// The join to answer. The member's silence counts from here.
    pub(super) fn answer_join(&mut self, now_ms: u64) -> Option<Token> {
        let token = self.join.take()?;
        self.heard(now_ms);
        Some(token)
    }

    /// The request to answer. The member's silence counts from here.
    pub(super) fn answer_sync(&mut self, now_ms: u64) -> Option<Token> {
        let token = self.sync.take()?;
        self.heard(now_ms);
        Some(token)
    }

    pub(super) fn parked(&self) -> impl Iterator<Item = Token> + use<> {
        self.join.into_iter().chain(self.sync)
    }

    /// Everything that the member waits for; it waits no more.
    pub(super) fn take_parked(&mut self) -> impl Iterator<Item = Token> + use<> {
        self.join.take().into_iter().chain(self.sync.take())
    }

    /// Forgets a request whose answer nobody waits for. The member's silence counts from here.
    pub(super) fn unpark(&mut self, token: Token, now_ms: u64) {
        self.join.take_if(|join| *join == token);
        if self.sync.take_if(|sync| *sync == token).is_some() {
            self.synced = false;
        }
        self.heard(now_ms);
    }

    pub(super) fn heard(&mut self, now_ms: u64) {
        self.expires_ms = now_ms + u64::from(self.session_timeout_ms);
    }

    /// When its silence is too long; never while it waits for an answer.
    pub(super) fn expires_ms(&self) -> Option<u64> {
        self.parked().next().is_none().then_some(self.expires_ms)
    }

    /// What its words count for against the limits.
    pub(super) fn bytes(&self, id: &str) -> usize {
        let instance = self.instance.as_deref().unwrap_or_default().len();
        let names = id.len() + instance + self.client_id.len() + self.client_host.len();
        MEMBER_BYTES + names + protocol_bytes(&self.protocols)
    }
}

/// What arrived is mostly part of a larger buffer, which is not to be kept for it.
fn kept(protocol: &Protocol) -> Protocol {
    let metadata = Bytes::copy_from_slice(&protocol.metadata);
    Protocol { name: protocol.name.clone(), metadata }
}

fn protocol_bytes(protocols: &[Protocol]) -> usize {
    protocols.iter().map(|p| p.name.len() + p.metadata.len() + 32).sum()
}

/// What a join's words count for against the limits.
pub(super) fn bytes(join: &JoinClassic) -> usize {
    let instance = join.name.instance.as_deref().unwrap_or_default().len();
    let id = join.name.member.len().max(join.fresh.len());
    let names = id + instance + join.client_id.len() + join.client_host.len();
    MEMBER_BYTES + names + protocol_bytes(&join.protocols)
}

/// Some clients name the longest time that there is, and nobody can join again in none.
fn rebalance_timeout_ms(join: &JoinClassic) -> u32 {
    let (min, max) = (limits::MIN_SESSION_TIMEOUT_MS, limits::MAX_REBALANCE_TIMEOUT_MS);
    join.rebalance_timeout_ms.clamp(min, max)
}

/// Refuses a join that no group would take.
pub(super) fn check(join: &JoinClassic) -> Result<(), Error> {
    let (min, max) = (limits::MIN_CLASSIC_SESSION_TIMEOUT_MS, limits::MAX_SESSION_TIMEOUT_MS);
    if !(min..=max).contains(&join.session_timeout_ms) {
        return Err(Error::Timeout { what: "session timeout", min, max });
    }
    let instance = join.name.instance.as_deref().unwrap_or_default();
    let names = [&*join.name.member, &*join.fresh, instance, &join.protocol_type];
    let limit = limits::MAX_CLASSIC_NAME_BYTES;
    let longest = names.into_iter().chain([&*join.client_id, &*join.client_host]);
    let longest = longest.chain(join.protocols.iter().map(|p| &*p.name)).map(str::len).max();
    if longest.unwrap_or(0) > limit {
        return Err(Error::Limit { what: "bytes of a name that a member gives", limit });
    }
    if join.fresh.is_empty() || join.name.instance.as_deref() == Some("") {
        return Err(Error::Invalid("a join needs an id to give out, and no empty instance id"));
    }
    let limit = limits::MAX_CLASSIC_PROTOCOLS;
    if join.protocols.len() > limit {
        return Err(Error::Limit { what: "the number of protocols of a member", limit });
    }
    Ok(())
}
