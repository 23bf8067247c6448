//! What happens to a writer, and what its task must do about it.

use geminga_proto::bookie::{Class, Code, WriteReply};
use geminga_proto::ids::{EntryId, Member};

use crate::core::quorum::Zone;

/// What an entry came to (2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// On stable storage on Qa bookies, in as many zones as the ledger's acknowledgements are.
    Acked,
    /// Certainly not written.
    NotWritten,
    /// Only the closed ledger tells (W9).
    Unknown,
}

/// Somebody who takes the place of a member.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Replacement {
    /// Whose place.
    pub lost: Member,
    /// Who takes it.
    pub by: Member,
    /// Where that one is.
    pub zone: Zone,
}

/// What a search for replacements came to (2.5 steps 0 and 2).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Search {
    /// The metadata was read linearizably within the last second; who takes whose place. Perhaps nobody.
    Found(Vec<Replacement>),
    /// The metadata store does not answer: nothing is changed.
    Unanswered,
    /// The ensemble changed too often within a minute: the ledger is rolled instead.
    TooMany,
}

/// What happens to a writer. Positions are named with their member, so that a reply meant for a former
/// member is not counted (W4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// `Hello` was answered.
    Opened {
        /// By whom.
        member: Member,
        /// Durable there.
        durable_tail: EntryId,
        /// Accepted there.
        staged_tail: EntryId,
    },
    /// An add was acknowledged, cumulatively (W1).
    Acked {
        /// By whom.
        member: Member,
        /// Durable there.
        durable_tail: EntryId,
    },
    /// A bookie saw a gap.
    OutOfOrder {
        /// Who.
        member: Member,
        /// What it has.
        staged_tail: EntryId,
    },
    /// The connection broke, or an answer counted as nothing.
    Disconnected {
        /// To whom.
        member: Member,
    },
    /// A position has been away beyond the grace, is too slow, or takes no data (2.5).
    GiveUp {
        /// Who.
        member: Member,
    },
    /// A member has not been registered for a while, and somebody could take its place.
    Unregistered {
        /// Who.
        member: Member,
    },
    /// A bookie says that this writer has lost its role.
    Verdict {
        /// Who.
        member: Member,
    },
    /// The search for replacements ended.
    Searched(Search),
    /// Time, or a bookie that came, to search once more for those that are missing (2.9).
    SearchAgain,
    /// A member that was left out is there again, and the metadata store answers (2.5 step 0).
    Back {
        /// Who.
        member: Member,
    },
    /// The change of the ensemble is in the metadata.
    Changed,
    /// The change certainly did not take place, and nothing forbids another.
    NotChanged,
    /// The owner wants the ledger closed at its LAC.
    Close,
    /// The close was committed with this writer's end.
    CloseCommitted,
    /// The metadata says that a recoverer or a deletion has the ledger.
    Deposed,
}

impl Event {
    /// What a reply to `Hello` means.
    pub fn from_hello(member: Member, reply: &WriteReply) -> Self {
        match reply.code.class() {
            Class::Positive => Self::Opened {
                member,
                durable_tail: reply.durable_tail,
                staged_tail: reply.staged_tail,
            },
            Class::Verdict => Self::Verdict { member },
            Class::Negative | Class::Unknown => Self::Disconnected { member },
        }
    }

    /// What a reply to an add means. Only `Ok` acknowledges.
    pub fn from_add(member: Member, reply: &WriteReply) -> Self {
        match (reply.code, reply.code.class()) {
            (Code::OutOfOrder, _) => Self::OutOfOrder { member, staged_tail: reply.staged_tail },
            (_, Class::Positive) => Self::Acked { member, durable_tail: reply.durable_tail },
            (_, Class::Verdict) => Self::Verdict { member },
            (_, Class::Negative | Class::Unknown) => Self::Disconnected { member },
        }
    }
}

/// What the task must do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the position for its tail.
    Hello(usize),
    /// Send these entries, both ends included.
    Send {
        /// To which position.
        position: usize,
        /// First entry.
        first: EntryId,
        /// Last entry.
        last: EntryId,
    },
    /// Everything up to here is acknowledged: tell the callers, in id order (W3).
    Commit(EntryId),
    /// The bytes up to here are needed no more.
    Release(EntryId),
    /// Read the metadata, look for members to take the places of those in [`super::Writer::missing`], then
    /// [`Event::Searched`]. A search under way is given up for this one.
    Search,
    /// Commit this ensemble from `first` on, then [`Event::Changed`], [`Event::NotChanged`] or [`Event::Deposed`] (2.5
    /// step 3).
    Change {
        /// First entry of the fragment.
        first: EntryId,
        /// All its members.
        ensemble: Vec<Member>,
    },
    /// These members lack entries of a fragment that has ended: mark the ledger for repair (2.5 step 6).
    MarkUnder(Vec<Member>),
    /// Commit `OPEN → CLOSED(last)`.
    CommitClose(EntryId),
    /// Every entry above the LAC ended so.
    Fail(Outcome),
    /// A position was left out: nobody takes its place.
    LeftOut(usize),
    /// Too few positions are healthy to acknowledge anything, and others do not help: the owner should close and roll onto others (2.9).
    QuorumLost,
    /// The owner should roll: a member is back, or the ledger takes no further change.
    Roll,
}
