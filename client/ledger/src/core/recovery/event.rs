//! What happens to a recovery, what its task must do about it, and how it ends.

use geminga_metastore::Version;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Class, Code, WriteReply};
use geminga_proto::ids::{EntryId, Member, SealEpoch};

use crate::core::commit::CasResult;

/// What happens to a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The metadata, read linearizably (M8).
    MetaRead(Option<Box<(LedgerMeta, Version)>>),
    /// The last CAS ended.
    CasDone(CasResult),
    /// A position answered its seal.
    Sealed {
        /// Which.
        position: usize,
        /// Its final tail.
        tail: EntryId,
        /// The largest LAC that the writer told it.
        max_lac: EntryId,
        /// Whether it vouches for what it does not have.
        authoritative: bool,
    },
    /// A position's answer to its seal says nothing: nothing is counted (1.6). It is asked again.
    SealUnknown {
        /// Which.
        position: usize,
    },
    /// A bookie knows a newer recoverer.
    Stale,
    /// These members of the ensemble, and who receives the copies in their places. Not empty.
    Found(Vec<(Member, Member)>),
    /// The rest had its chance to answer (S3).
    GraceOver,
    /// The time for this attempt is over (S2).
    DeadlineOver,
    /// A copy went through up to `tail`, durably.
    Copied {
        /// Target.
        target: usize,
        /// Its tail now.
        tail: EntryId,
    },
    /// The target did not take the copy.
    TargetFailed {
        /// Target.
        target: usize,
    },
    /// The source could not deliver `entry` for that target.
    SourceFailed {
        /// Source.
        from: Member,
        /// Target that waits.
        target: usize,
        /// What it could not deliver.
        entry: EntryId,
        /// It holds the entry, but its bytes are bad; otherwise it did not answer.
        corrupt: bool,
    },
    /// Those who do not hold everything yet had their chance to take their copies (S5).
    CopyGraceOver,
    /// Sources that did not deliver may be asked again.
    PauseOver,
    /// The payload length up to the end.
    LengthRead(u64),
    /// Where the ledger ends of which nobody delivers the last entry.
    EndFound {
        /// The last entry that somebody delivers; the one that was asked for where the ledger was deleted.
        end: EntryId,
        /// The payload length up to it, if somebody delivers it.
        length: u64,
    },
    /// Nobody delivers the last entry, and a bookie that may have it is only away.
    EndUnknown,
}

impl Event {
    /// The metadata, read linearizably.
    pub fn meta_read(read: Option<(LedgerMeta, Version)>) -> Self {
        Self::MetaRead(read.map(Box::new))
    }

    /// What a reply to a seal means; `None` = nothing: ask again.
    pub fn from_seal(position: usize, reply: &WriteReply) -> Option<Self> {
        match (reply.code, reply.code.class()) {
            (Code::StaleEpoch, _) => Some(Self::Stale),
            (_, Class::Positive) => Some(Self::Sealed {
                position,
                tail: reply.durable_tail,
                max_lac: reply.max_lac,
                authoritative: reply.authoritative,
            }),
            (_, Class::Negative | Class::Unknown | Class::Verdict) => None,
        }
    }

    /// What a reply to a recovery add means.
    pub fn from_recovery_add(target: usize, reply: &WriteReply) -> Self {
        match (reply.code, reply.code.class()) {
            (Code::StaleEpoch, _) => Self::Stale,
            (_, Class::Positive) => Self::Copied { target, tail: reply.durable_tail },
            (_, Class::Negative | Class::Unknown | Class::Verdict) => Self::TargetFailed { target },
        }
    }
}

/// What the task must do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read the metadata linearizably, then [`Event::MetaRead`].
    ReadMeta,
    /// Replace the metadata if its version is as expected, then [`Event::CasDone`].
    Cas {
        /// The version read.
        expected: Version,
        /// The new value; its `last_op` is ours.
        meta: Box<LedgerMeta>,
    },
    /// Seal at a position; repeat on *unknown* until answered, finished, or the deadline.
    Seal {
        /// Which.
        position: usize,
        /// Who.
        member: Member,
        /// The epoch.
        epoch: SealEpoch,
        /// The fragment sealed.
        fragment_first: EntryId,
    },
    /// Start the deadline of the attempt.
    StartDeadline,
    /// Start the grace for members that have not answered.
    StartGrace,
    /// Qa hold everything: start the grace for copies that are still under way, then [`Event::CopyGraceOver`].
    StartCopyGrace,
    /// Nobody who holds the entries delivers them: pause, then [`Event::PauseOver`].
    StartPause,
    /// Copy entries verbatim (D2) to whoever holds a position by recovery adds.
    Copy {
        /// From.
        from: Member,
        /// To this position, ...
        target: usize,
        /// ... which is held by its member, or by who takes its place.
        to: Member,
        /// The fragment that the requests name.
        fragment_first: EntryId,
        /// First entry.
        first: EntryId,
        /// Last entry.
        last: EntryId,
    },
    /// Look for bookies that receive copies in the places of these members, until some are found; then [`Event::Found`]
    /// (S5).
    Search {
        /// Positions of the sealed ensemble.
        lost: Vec<usize>,
        /// Who failed in this attempt, or stands in already.
        shunned: Vec<Member>,
    },
    /// Read the cumulative length in the header of this entry, from whoever will be its ensemble
    /// ([`super::Recovery::final_meta`]); repeat until read or the deadline.
    ReadLength(EntryId),
    /// Nobody delivers this entry, and an operator gave it up: look for the last one below that somebody delivers, then
    /// [`Event::EndFound`].
    FindEnd(EntryId),
    /// Tell these members the end, best effort (S7).
    TellClosed {
        /// Whom.
        members: Vec<Member>,
        /// The end.
        last: EntryId,
    },
    /// These members lack entries: mark the ledger for repair (S7).
    MarkUnder(Vec<Member>),
    /// Over.
    Finish(Finish),
}

/// How a recovery ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The ledger is closed, by us or by someone else.
    Closed(Box<LedgerMeta>),
    /// The ledger is deleted or being deleted.
    Gone,
    /// A newer recoverer is at work: wait for `CLOSED`, start again if nothing happens.
    Follow,
    /// Not enough is known, or copies are missing: the ledger stays in recovery (4.8).
    Stopped(Stop),
}

/// Why a recovery stopped short of closing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stop {
    /// These members must answer before the tail is known or copied.
    Missing(Vec<Member>),
    /// The writer acknowledged entries that no answering member holds: more copies are lost than Qa allows.
    AcknowledgedLost {
        /// The writer's LAC.
        acknowledged: EntryId,
        /// The longest tail.
        tail: EntryId,
    },
    /// Members hold this entry but none can deliver its bytes.
    Unreadable(EntryId),
}
