//! What is known of one position of the sealed ensemble, and of whoever receives the copies in its place.

use geminga_proto::ids::{EntryId, Member};

/// One position.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Position {
    /// Its member's durable tail, once sealed; raised by copies.
    pub(super) tail: Option<EntryId>,
    pub(super) max_lac: Option<EntryId>,
    pub(super) authoritative: bool,
    /// Its member refused a copy; it is not tried again in this attempt.
    pub(super) failed: bool,
    /// Who receives the copies in its place: in memory only, until the close (S5, M4).
    pub(super) stand_in: Option<StandIn>,
    /// Sources that failed to serve this target, and are not asked for now.
    pub(super) bad_sources: Vec<Member>,
    /// A copy is under way, from this source.
    pub(super) copying_from: Option<Member>,
}

/// A bookie outside of the sealed ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct StandIn {
    pub(super) member: Member,
    /// Everything up to here is durable there, from the first entry of its fragment on.
    pub(super) tail: EntryId,
}

impl Position {
    /// The tail of whoever would be in the final ensemble.
    pub(super) fn final_tail(&self) -> Option<EntryId> {
        self.stand_in.as_ref().map_or(self.tail, |stand_in| Some(stand_in.tail))
    }

    /// With other names for members; for the model checker.
    #[cfg(feature = "mutations")]
    pub(super) fn rename(&mut self, rename: &impl Fn(&Member) -> Member) {
        let stand_in = self.stand_in.iter_mut().map(|stand_in| &mut stand_in.member);
        let members = stand_in.chain(&mut self.bad_sources);
        members.for_each(|member| *member = rename(member));
    }

    /// Whether its member can neither hold the rest nor receive it, and nobody does in its place.
    pub(super) fn is_lost(&self) -> bool {
        self.stand_in.is_none() && (self.failed || self.tail.is_none())
    }
}
