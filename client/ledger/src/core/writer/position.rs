//! One member's progress.

use geminga_proto::ids::{EntryId, Member};

use crate::core::quorum::Zone;

/// Whether a position takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// `Hello` was asked for; nothing is sent until it is answered.
    Connecting,
    /// Entries are streamed.
    Live,
    /// Left out until its place is taken or the ledger ends; its earlier acks still count, they are durable copies.
    Absent,
}

/// One member's progress.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Position {
    /// Who (W4: acks count only for exactly this disk-life).
    pub member: Member,
    /// Where it is.
    pub zone: Zone,
    /// Whether it takes part.
    pub link: Link,
    /// It was given up, and has not been seen to take anything since.
    pub failed: bool,
    /// Highest entry sent since the last `Hello`.
    pub sent: EntryId,
    /// Highest entry known durable there.
    pub acked: EntryId,
    /// It may lack entries of a fragment that has ended; what is under way may still fill that.
    pub(super) owes: bool,
    /// The tail behind which everything was sent again since the last `Hello`.
    pub(super) rewound: Option<EntryId>,
}

impl Position {
    /// A member of a fragment that starts at `first`, of which nothing is known.
    pub(super) fn new(member: Member, zone: Zone, first: EntryId) -> Self {
        Self {
            member,
            zone,
            link: Link::Connecting,
            failed: false,
            sent: first.prev(),
            acked: first.prev(),
            owes: false,
            rewound: None,
        }
    }

    /// Whether it can be counted on.
    pub(super) fn is_healthy(&self) -> bool {
        self.link == Link::Live && !self.failed
    }

    /// Whether somebody should take its place.
    pub fn is_missing(&self) -> bool {
        self.failed || self.link == Link::Absent
    }
}
