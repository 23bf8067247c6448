//! One member of a group of streams: who speaks for it, what it wants and has, and until when it may be silent.

use std::sync::Arc;

use super::Token;
use crate::groups::limits;
use crate::groups::record::MemberRecord;
use crate::groups::types::{Assignment, Error, Join, Spoken};

/// A member as its group sees it.
#[derive(Debug)]
pub(in crate::groups::core) struct Member {
    client_id: String,
    /// Ascending, no repeats.
    pub(in crate::groups::core) topics: Vec<Arc<str>>,
    session_timeout_ms: u32,
    pub(in crate::groups::core) rebalance_timeout_ms: u32,
    /// The stream that joined last; unknown until the first call where an earlier version did not write it down.
    session: Option<u64>,
    last_sequence: u64,
    expires_ms: u64,
    /// Has joined the generation that is being prepared.
    pub(in crate::groups::core) joined: bool,
    /// A join whose answer is due, and when "ask again" is said instead.
    parked: Option<(Token, u64)>,
    pub(in crate::groups::core) assigned: Assignment,
}

impl Member {
    pub(in crate::groups::core) fn new(join: &Join, now_ms: u64) -> Self {
        let mut member = Self {
            client_id: join.client_id.clone(),
            topics: subscription(&join.topics),
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session: Some(join.caller.session),
            last_sequence: 0,
            expires_ms: 0,
            joined: false,
            parked: None,
            assigned: Assignment::new(),
        };
        member.heard(now_ms);
        member
    }

    pub(in crate::groups::core) fn restore(record: &MemberRecord, now_ms: u64) -> Self {
        let mut member = Self {
            client_id: record.client_id.clone(),
            topics: record.topics.clone(),
            session_timeout_ms: record.session_timeout_ms,
            rebalance_timeout_ms: record.rebalance_timeout_ms,
            session: record.spoken.map(|spoken| spoken.session),
            last_sequence: record.spoken.map_or(0, |spoken| spoken.sequence),
            expires_ms: 0,
            joined: false,
            parked: None,
            assigned: record.assigned.clone(),
        };
        member.heard(now_ms);
        member
    }

    pub(in crate::groups::core) fn record(&self, id: &Arc<str>) -> MemberRecord {
        MemberRecord {
            member: id.clone(),
            client_id: self.client_id.clone(),
            topics: self.topics.clone(),
            session_timeout_ms: self.session_timeout_ms,
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            assigned: self.assigned.clone(),
            spoken: self.spoken(),
            classic: None,
        }
    }

    /// Who speaks for it.
    pub(in crate::groups::core) fn spoken(&self) -> Option<Spoken> {
        self.session.map(|session| Spoken { session, sequence: self.last_sequence })
    }

    pub(in crate::groups::core) fn has_joined(&self) -> bool {
        self.joined
    }

    /// Whether the member already counts with exactly the names that `join` brings.
    pub(in crate::groups::core) fn wants(&self, join: &Join) -> bool {
        self.client_id == join.client_id && self.topics == subscription(&join.topics)
    }

    /// Takes over what a new join says. Returns whether the subscription changed, and the join that was waiting.
    pub(in crate::groups::core) fn rejoin(
        &mut self,
        join: &Join,
        now_ms: u64,
    ) -> (bool, Option<Token>) {
        let topics = subscription(&join.topics);
        let changed = topics != self.topics;
        if self.session != Some(join.caller.session) {
            self.session = Some(join.caller.session);
            self.last_sequence = 0;
        }
        self.topics = topics;
        self.client_id.clone_from(&join.client_id);
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.heard(now_ms);
        (changed, self.parked.take().map(|(token, _)| token))
    }

    /// Counts the member in for the generation that is being prepared, and remembers to answer.
    pub(in crate::groups::core) fn park(&mut self, token: Token, now_ms: u64) {
        self.joined = true;
        self.parked = Some((token, now_ms + u64::from(self.session_timeout_ms / 3)));
    }

    /// The join to answer now that the generation is known. The member's silence counts from here.
    pub(in crate::groups::core) fn unpark(&mut self, now_ms: u64) -> Option<Token> {
        let (token, _) = self.parked.take()?;
        self.heard(now_ms);
        Some(token)
    }

    pub(in crate::groups::core) fn unpark_if_due(&mut self, now_ms: u64) -> Option<Token> {
        let (token, _) = self.parked.take_if(|(_, until_ms)| *until_ms <= now_ms)?;
        Some(token)
    }

    pub(in crate::groups::core) fn parked(self) -> Option<Token> {
        self.parked.map(|(token, _)| token)
    }

    pub(in crate::groups::core) fn heard(&mut self, now_ms: u64) {
        self.expires_ms = now_ms + u64::from(self.session_timeout_ms);
    }

    pub(in crate::groups::core) fn expired(&self, now_ms: u64) -> bool {
        self.expires_ms <= now_ms
    }

    pub(in crate::groups::core) fn next_deadline(&self) -> u64 {
        self.parked.map_or(self.expires_ms, |(_, until_ms)| until_ms.min(self.expires_ms))
    }

    pub(in crate::groups::core) fn spoken_for_by(&mut self, session: u64) -> Result<(), Error> {
        if *self.session.get_or_insert(session) == session { Ok(()) } else { Err(Error::Fenced) }
    }

    /// Whether a commit is the newest of its session or a repetition of the newest; a late duplicate is neither.
    pub(in crate::groups::core) fn in_sequence(&mut self, sequence: u64) -> bool {
        let newest = sequence >= self.last_sequence;
        self.last_sequence = self.last_sequence.max(sequence);
        newest
    }

    pub(in crate::groups::core) fn name_bytes(&self, id: &str) -> usize {
        table_bytes(id, &self.client_id, &self.topics)
    }
}

fn table_bytes(id: &str, client_id: &str, topics: &[Arc<str>]) -> usize {
    let topics: usize = topics.iter().map(|topic| topic.len() + 16).sum();
    id.len() + client_id.len() + 64 + topics
}

fn subscription(topics: &[Arc<str>]) -> Vec<Arc<str>> {
    let mut topics = topics.to_vec();
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// Bytes of the names that a join brings along.
pub(in crate::groups::core) fn name_bytes(join: &Join) -> usize {
    table_bytes(&join.caller.member, &join.client_id, &join.topics)
}

/// Refuses a join that no group would take.
pub(in crate::groups::core) fn check(join: &Join) -> Result<(), Error> {
    if join.caller.member.is_empty() {
        return Err(Error::Invalid("a join needs a member id"));
    }
    let limit = limits::MAX_MEMBER_NAME_BYTES;
    if join.caller.member.len().max(join.client_id.len()) > limit {
        return Err(Error::Limit { what: "bytes of a member id or client id", limit });
    }
    if join.topics.is_empty() {
        return Err(Error::Invalid("a member needs at least one topic"));
    }
    let limit = limits::MAX_MEMBER_TOPICS;
    if join.topics.len() > limit {
        return Err(Error::Limit { what: "the number of topics of a member", limit });
    }
    let (min, max) = (limits::MIN_SESSION_TIMEOUT_MS, limits::MAX_SESSION_TIMEOUT_MS);
    if !(min..=max).contains(&join.session_timeout_ms) {
        return Err(Error::Timeout { what: "session timeout", min, max });
    }
    let max = limits::MAX_REBALANCE_TIMEOUT_MS;
    if !(min..=max).contains(&join.rebalance_timeout_ms) {
        return Err(Error::Timeout { what: "rebalance timeout", min, max });
    }
    Ok(())
}
