//! What an operator may override when a quorum is lost (4.8): the ledger is closed at the best tail that is known, and
//! stamped with who was missing. Nothing here happens by itself; without the operator's word an attempt stops.

use geminga_metastore::record::CloseKind;
use geminga_proto::ids::{EntryId, Member};

use super::{Effect, Position, Recovery};

/// Whether rules may be overridden, and whether one was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Force {
    /// They may not.
    No,
    /// They may; none was yet, so that the ledger may still be recovered in order.
    Allowed,
    /// One was, and these members of the last fragment were missing then.
    Used(Vec<Member>),
}

impl Recovery {
    /// The same attempt with an operator's word that it may close the ledger although acknowledged entries may be lost by
    /// that (4.8). Where the quorum is there after all, it recovers as ever.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.force = Force::Allowed;
        self
    }

    /// Overrides a rule, if that is allowed.
    pub(super) fn overrides(&mut self) -> bool {
        if self.force == Force::Allowed {
            self.force = Force::Used(self.missing());
        }
        matches!(self.force, Force::Used(_))
    }

    /// Whose word counts for the end: authoritative replies, and everybody's once a rule was overridden.
    pub(super) fn heard(&self) -> impl Iterator<Item = &Position> {
        let all = matches!(self.force, Force::Used(_));
        self.positions.iter().filter(move |p| p.tail.is_some() && (all || p.authoritative))
    }

    /// What was acknowledged, as far as it is still held: above the longest tail it is lost, which the stamp says.
    pub(super) fn give_up_lost(&mut self) {
        self.acknowledged = EntryId::min(self.acknowledged, self.end);
    }

    /// Ends the ledger at the last entry that somebody delivers: nobody can open a log whose last entry is not to be had.
    pub(super) fn end_below(&mut self, end: EntryId, length: u64) -> Vec<Effect> {
        self.end = self.end.min(end);
        self.give_up_lost();
        self.length = length;
        self.close()
    }

    /// The stamp of the closed ledger.
    pub(super) fn close_kind(&self) -> CloseKind {
        match &self.force {
            Force::No | Force::Allowed => CloseKind::Recovered,
            Force::Used(missing) => CloseKind::ForcedWithRisk { missing: missing.clone() },
        }
    }
}
