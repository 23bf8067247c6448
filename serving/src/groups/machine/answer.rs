//! Answers of a shard: while a core has still to give them, while they wait for the log, and as they leave.

use std::sync::Arc;

use super::Groups;
use crate::groups::classic::{Each, JoinedClassic, Synced};
use crate::groups::core::Reply;
use crate::groups::request::{Description, Fetched, JoinAnswer, Respond, Summary};
use crate::groups::types::{Error, TopicPartition};

/// A request that a core will answer.
#[derive(Debug)]
pub(super) enum Waiting {
    Join(Respond<JoinAnswer>),
    Done(Respond<()>),
    JoinClassic(Respond<JoinedClassic>),
    Sync(Respond<Synced>),
    Each(Respond<Each>),
    /// A commit, and what was refused of it beforehand.
    Commit(Respond<Each>, Each),
}

impl Waiting {
    /// Whether whoever asked has gone away.
    pub(super) fn is_gone(&self) -> bool {
        match self {
            Self::Join(respond) => respond.is_closed(),
            Self::Done(respond) => respond.is_closed(),
            Self::JoinClassic(respond) => respond.is_closed(),
            Self::Sync(respond) => respond.is_closed(),
            Self::Each(respond) | Self::Commit(respond, _) => respond.is_closed(),
        }
    }

    /// The answer that the core gave, as it waits for the log. `None` for an answer to another question, which is
    /// then dropped: the outcome is unknown.
    pub(super) fn hold(self, name: &Arc<str>, reply: Result<Reply, Error>) -> Option<Held> {
        Some(match (self, reply) {
            (Self::Join(respond), reply) => Held::Join(name.clone(), respond, reply),
            (Self::Done(respond), reply) => Held::Done(respond, reply.map(|_| ())),
            (Self::JoinClassic(respond), Err(error)) => Held::JoinClassic(respond, Err(error)),
            (Self::JoinClassic(respond), Ok(Reply::JoinedClassic(joined))) => {
                Held::JoinClassic(respond, Ok(joined))
            }
            (Self::Sync(respond), Err(error)) => Held::Sync(respond, Err(error)),
            (Self::Sync(respond), Ok(Reply::Synced(synced))) => Held::Sync(respond, Ok(synced)),
            (Self::Each(respond) | Self::Commit(respond, _), Err(error)) => {
                Held::Each(respond, Err(error))
            }
            (Self::Each(respond), Ok(Reply::Each(each))) => Held::Each(respond, Ok(each)),
            (Self::Commit(respond, each), Ok(Reply::Done)) => Held::Each(respond, Ok(each)),
            (Self::JoinClassic(_) | Self::Sync(_) | Self::Each(_) | Self::Commit(..), Ok(_)) => {
                debug_assert!(false, "a core answers what it was asked");
                return None;
            }
        })
    }
}

/// An answer on hold. What it says of offsets is read when it leaves, since only then they are durable.
#[derive(Debug)]
pub enum Held {
    /// To a join.
    Join(Arc<str>, Respond<JoinAnswer>, Result<Reply, Error>),
    /// To anything that is just done or refused.
    Done(Respond<()>, Result<(), Error>),
    /// To a description; lacks the offsets.
    Describe(Respond<Description>, Result<Description, Error>),
    /// To a description that has none.
    DescribeMembers(Respond<Description>, Result<Description, Error>),
    /// To a list.
    List(Respond<Vec<Summary>>, Vec<Summary>),
    /// To the join of a classic member.
    JoinClassic(Respond<JoinedClassic>, Result<JoinedClassic, Error>),
    /// To a classic member that asked for its assignment.
    Sync(Respond<Synced>, Result<Synced, Error>),
    /// To several things at once.
    Each(Respond<Each>, Result<Each, Error>),
    /// To a question for offsets; lacks them.
    Offsets(Arc<str>, Option<Vec<TopicPartition>>, usize, Respond<Fetched>),
}

impl Groups {
    /// A caller that has gone away needs no answer, so failures to send are ignored.
    pub(super) fn answer(&self, held: Held) {
        match held {
            Held::Join(name, respond, reply) => {
                let answer = reply.map(|reply| match reply {
                    Reply::Joined(joined) => {
                        let offsets = self.offsets_of(&name, &joined.assigned);
                        JoinAnswer::Joined(joined, offsets)
                    }
                    Reply::Wait
                    | Reply::Done
                    | Reply::JoinedClassic(_)
                    | Reply::Synced(_)
                    | Reply::Each(_) => JoinAnswer::Wait,
                });
                let _ = respond.send(answer);
            }
            Held::Done(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::Describe(respond, answer) => {
                let answer = answer.map(|mut description| {
                    let group = self.image.group(&description.summary.group);
                    let all = group.into_iter().flat_map(|g| g.offsets());
                    let current =
                        all.filter_map(|(tp, c)| Some((tp.clone(), self.current(tp, c)?.clone())));
                    description.offsets = current.collect();
                    description
                });
                let _ = respond.send(answer);
            }
            Held::DescribeMembers(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::List(respond, answer) => {
                let _ = respond.send(Ok(answer));
            }
            Held::JoinClassic(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::Sync(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::Each(respond, answer) => {
                let _ = respond.send(answer);
            }
            Held::Offsets(name, wanted, most, respond) => {
                let _ = respond.send(Ok(self.fetched(&name, wanted, most)));
            }
        }
    }
}
