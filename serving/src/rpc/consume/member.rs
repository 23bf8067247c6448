//! What a member says and when: (state, event, now) → effects. Pure; the stream's task owns it and does what it says.
//!
//! ```text
//!            joined            offsets found
//!   Joining ────────► Resolving ────────────► Reading
//!      ▲ ▲                │ rebalance            │ rebalance
//!      │ └────────────────┘                      ▼
//!      └──── revoked and commits answered ── Revoking        any ── leave ──► Leaving ──► Ended
//!            or the rebalance timeout
//! ```
//!
//! * Nothing is read while no assignment stands: the assignment is sent before reading starts, and reading stops before
//!   the revocation is sent.
//! * Commits of an assignment are made one after the other, in order, and before the member gives the assignment up.
//!   Those that come while it joins wait for its next assignment, and are refused when that lacks their partitions.
//! * The coordinator hears from the member for as long as its stream lives.

mod commits;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::consume_response::Event as Say;
use tokio::time::Instant;

use self::commits::Commits;
pub(super) use self::commits::{CommitCall, Offsets};
use crate::groups::client::moving;
use crate::groups::request::JoinAnswer;
use crate::groups::types::{Joined, TopicPartition};

/// Longest time between heartbeats: so soon a member hears of a rebalance.
const LONGEST_BEAT: Duration = Duration::from_secs(1);
/// Before a coordinator that could not be reached is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// What happens to a member.
#[derive(Debug)]
pub(super) enum Event {
    /// The join was answered.
    Joined(Result<JoinAnswer, ApiError>),
    /// The offsets to start from were found, or never will be.
    Resolved(Result<Vec<(TopicPartition, i64)>, ApiError>),
    /// The heartbeat was answered.
    Beaten(Result<(), ApiError>),
    /// The commit was answered.
    Committed(Result<(), ApiError>),
    /// The departure was answered, or given up.
    Left,
    /// The client commits.
    Commit(u64, Offsets),
    /// The client no longer works on what it had in this generation.
    Revoked(i32),
    /// The client departs.
    Leave,
    /// The client made a request that makes no sense.
    Invalid(ApiError),
    /// The client will say nothing more.
    HalfClosed,
    /// A deadline has passed.
    Tick,
}

/// What is to be done, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    /// Ask to join; the answers to an earlier join and to heartbeats no longer count.
    Join,
    /// Say that the member of this generation lives.
    Beat(i32),
    /// Commit.
    Commit(CommitCall),
    /// Depart; no other answer but that to a commit counts any more.
    Depart,
    /// Find where to start: what was committed, if anything.
    Resolve(Vec<(TopicPartition, Option<i64>)>),
    /// Tell the client.
    Say(Say),
    /// Read from here on.
    Read(Vec<(TopicPartition, i64)>),
    /// Read no more, and forget what was read and not yet sent.
    Stop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Joining { again: Option<Instant> },
    Resolving,
    Reading,
    Revoking { deadline: Instant, answered: bool },
    Leaving { called: bool },
    Ended,
}

/// One member as its stream sees it.
#[derive(Debug)]
pub(super) struct Member {
    id: Arc<str>,
    rebalance_timeout: Duration,
    beat_every: Duration,
    state: State,
    /// 0 before the first.
    generation: i32,
    assigned: BTreeSet<TopicPartition>,
    beat_at: Instant,
    beating: bool,
    commits: Commits,
    half_closed: bool,
    /// Said when the departure that it led to is over.
    why: Option<ApiError>,
}

impl Member {
    /// A member that is about to join; do what comes with it first.
    pub(super) fn new(
        now: Instant,
        id: Arc<str>,
        session_timeout: Duration,
        rebalance_timeout: Duration,
    ) -> (Self, Vec<Effect>) {
        let joined = v1::ConsumeJoined { member_id: id.to_string() };
        let member = Self {
            id,
            rebalance_timeout,
            beat_every: (session_timeout / 3).min(LONGEST_BEAT),
            state: State::Joining { again: None },
            generation: 0,
            assigned: BTreeSet::new(),
            beat_at: now,
            beating: false,
            commits: Commits::default(),
            half_closed: false,
            why: None,
        };
        (member, vec![Effect::Say(Say::Joined(joined)), Effect::Join])
    }

    /// Who it is.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Whether the stream is over once everything has been said.
    pub(super) fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    /// Whether more requests of the client may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.commits.has_room() && !matches!(self.state, State::Leaving { .. } | State::Ended)
    }

    /// When [`Event::Tick`] is due, if ever.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let beat = (!self.beating).then_some(self.beat_at);
        match self.state {
            State::Joining { again } => again,
            State::Resolving | State::Reading => beat,
            State::Revoking { deadline, .. } => Some(beat.map_or(deadline, |at| at.min(deadline))),
            State::Leaving { .. } | State::Ended => None,
        }
    }

    /// Takes one event. The effects are to be done in order.
    pub(super) fn step(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.has_ended() {
            return out;
        }
        match event {
            Event::Joined(answer) => self.on_joined(now, answer, &mut out),
            Event::Resolved(found) => self.on_resolved(found, &mut out),
            Event::Beaten(answer) => self.on_beaten(now, answer, &mut out),
            Event::Committed(answer) => self.on_committed(now, answer, &mut out),
            Event::Left => self.end(None, &mut out),
            Event::Commit(id, offsets) => out.extend(self.commits.push(id, offsets)),
            Event::Revoked(generation) => self.on_revoked(generation),
            Event::Leave => self.depart(None, &mut out),
            Event::Invalid(error) => self.depart(Some(error), &mut out),
            Event::HalfClosed => self.on_half_closed(),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.go_on(now, &mut out);
        out
    }

    /// What may be done whenever something has changed: commit, give an assignment up, depart.
    fn go_on(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if !matches!(self.state, State::Joining { .. } | State::Ended) {
            let (refused, call) = self.commits.next(self.generation, &self.assigned);
            out.extend(refused);
            out.extend(call.map(Effect::Commit));
        }
        match &mut self.state {
            State::Revoking { answered: true, .. } if self.commits.is_idle() => self.join(now, out),
            State::Leaving { called } if !*called && self.commits.is_idle() => {
                *called = true;
                out.push(Effect::Depart);
            }
            State::Joining { .. }
            | State::Resolving
            | State::Reading
            | State::Revoking { .. }
            | State::Leaving { .. }
            | State::Ended => {}
        }
    }

    fn join(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.state = State::Joining { again: None };
        self.assigned.clear();
        self.beating = false;
        self.beat_at = now + self.beat_every;
        out.push(Effect::Join);
    }

    fn on_joined(
        &mut self,
        now: Instant,
        answer: Result<JoinAnswer, ApiError>,
        out: &mut Vec<Effect>,
    ) {
        if !matches!(self.state, State::Joining { .. }) {
            return;
        }
        match answer {
            Ok(JoinAnswer::Wait) => out.push(Effect::Join),
            Ok(JoinAnswer::Joined(Joined { generation, assigned, .. }, committed)) => {
                self.generation = generation;
                self.assigned = assigned
                    .iter()
                    .flat_map(|(topic, list)| {
                        let tp = |&partition| TopicPartition { topic: topic.clone(), partition };
                        list.iter().map(tp)
                    })
                    .collect();
                self.state = State::Resolving;
                self.beat_at = now + self.beat_every;
                let at = |tp: &TopicPartition| {
                    committed.iter().find(|(c, _)| c == tp).map(|(_, c)| c.offset)
                };
                let starts = self.assigned.iter().map(|tp| (tp.clone(), at(tp))).collect();
                out.push(Effect::Resolve(starts));
            }
            Err(error) => match error.reason {
                // The group went on without this member while it waited: it is a new one.
                Reason::UnknownMember | Reason::StaleGeneration | Reason::RebalanceInProgress => {
                    self.state = State::Joining { again: Some(now + RETRY) };
                }
                reason if moving(reason) => {
                    self.state = State::Joining { again: Some(now + RETRY) };
                }
                Reason::MemberFenced => self.end(Some(taken_over()), out),
                // Nothing to depart from.
                _ => self.end(Some(error), out),
            },
        }
    }

    fn on_resolved(
        &mut self,
        found: Result<Vec<(TopicPartition, i64)>, ApiError>,
        out: &mut Vec<Effect>,
    ) {
        if self.state != State::Resolving {
            return;
        }
        let starts = match found {
            Ok(starts) => starts,
            Err(error) => return self.depart(Some(error), out),
        };
        self.state = State::Reading;
        let partition = |(tp, start_offset): &(TopicPartition, i64)| v1::AssignedPartition {
            topic: tp.topic.to_string(),
            partition: tp.partition,
            start_offset: *start_offset,
        };
        let assignment = v1::ConsumeAssignment {
            generation: self.generation,
            partitions: starts.iter().map(partition).collect(),
        };
        out.push(Effect::Say(Say::Assignment(assignment)));
        out.push(Effect::Read(starts));
    }

    fn on_beaten(&mut self, now: Instant, answer: Result<(), ApiError>, out: &mut Vec<Effect>) {
        self.beating = false;
        self.beat_at = now + self.beat_every;
        let Err(error) = answer else { return };
        match error.reason {
            Reason::RebalanceInProgress | Reason::StaleGeneration | Reason::UnknownMember => {
                self.rebalance(now, out);
            }
            Reason::MemberFenced => self.end(Some(taken_over()), out),
            reason if moving(reason) => self.beat_at = now + RETRY.min(self.beat_every),
            _ => self.depart(Some(error), out),
        }
    }

    /// The group is making its next generation: give up what is assigned, then join it.
    fn rebalance(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Reading if !self.assigned.is_empty() => {
                out.push(Effect::Stop);
                let revoke = v1::ConsumeRevoke { generation: self.generation };
                out.push(Effect::Say(Say::Revoke(revoke)));
                let deadline = now + self.rebalance_timeout;
                self.state = State::Revoking { deadline, answered: self.half_closed };
            }
            // The client knows of nothing that could be revoked.
            State::Resolving | State::Reading => {
                out.push(Effect::Stop);
                self.join(now, out);
            }
            State::Joining { .. }
            | State::Revoking { .. }
            | State::Leaving { .. }
            | State::Ended => {}
        }
    }

    fn on_revoked(&mut self, generation: i32) {
        if generation != self.generation {
            return;
        }
        if let State::Revoking { answered, .. } = &mut self.state {
            *answered = true;
        }
    }

    fn on_half_closed(&mut self) {
        self.half_closed = true;
        self.on_revoked(self.generation);
    }

    fn on_committed(&mut self, now: Instant, answer: Result<(), ApiError>, out: &mut Vec<Effect>) {
        let reason = answer.as_ref().err().map(|error| error.reason);
        let said = self.commits.answered(answer.as_ref().err());
        out.extend(said.map(Effect::Say));
        match (reason, answer) {
            (Some(Reason::MemberFenced), Err(_)) => self.end(Some(taken_over()), out),
            // A heartbeat finds out what this is about.
            (Some(_), _) => self.beat_at = now,
            (None, _) => {}
        }
    }

    fn on_tick(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Joining { again: Some(at) } if at <= now => {
                self.state = State::Joining { again: None };
                out.push(Effect::Join);
            }
            State::Revoking { deadline, .. } if deadline <= now => self.join(now, out),
            State::Resolving | State::Reading | State::Revoking { .. } => {
                if !self.beating && self.beat_at <= now {
                    self.beating = true;
                    out.push(Effect::Beat(self.generation));
                }
            }
            State::Joining { .. } | State::Leaving { .. } | State::Ended => {}
        }
    }

    /// Departs once the commits are answered, and then says `why`.
    fn depart(&mut self, why: Option<ApiError>, out: &mut Vec<Effect>) {
        if matches!(self.state, State::Leaving { .. }) {
            return;
        }
        out.push(Effect::Stop);
        self.why = why;
        self.state = State::Leaving { called: false };
    }

    /// Ends without departing, or after it.
    fn end(&mut self, error: Option<ApiError>, out: &mut Vec<Effect>) {
        out.push(Effect::Stop);
        if let Some(error) = error.or(self.why.take()) {
            out.push(Effect::Say(Say::Error(error.to_proto())));
        }
        self.state = State::Ended;
    }
}

/// To the client of a stream that no longer speaks for its member: this member id is not its own any more.
fn taken_over() -> ApiError {
    let why = "another stream has taken this member over; join again with an empty member id";
    ApiError::new(Reason::UnknownMember, why)
}

#[cfg(test)]
mod tests;
