//! How much happens to the ledger, and which rules are broken.

use geminga_bookie::ledger::Mutations as BookieMutations;
use geminga_bookie::tiering::Mutations as TierMutations;
use geminga_ledger::core::mutation::Mutations as ClientMutations;
use geminga_metastore::record::UnderReason;

/// Faults that may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// Uploaders that may die; what they had sent off may arrive later, or never.
    pub crashes: u8,
    /// Replies of something that took place that may get lost.
    pub lost_replies: u8,
    /// Reads or writes of which only a part may arrive, be it at the object store, at an uploader or at a bookie.
    pub short: u8,
    /// Objects that may be deleted by hand.
    pub by_hand: u8,
    /// Bookies that may lose everything and come back as another life.
    pub wipes: u8,
    /// Listings that may lack a ledger which is there.
    pub listings: u8,
}

/// How big it is, and which rules are broken. Budgets count over the whole execution.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Copies.
    pub qw: u8,
    /// Ack quorum.
    pub qa: u8,
    /// Bookies, spares included.
    pub bookies: usize,
    /// Entries of the ledger.
    pub entries: usize,
    /// Members that upload, trim and drop; the first ones.
    pub uploaders: usize,
    /// Claims that may be made.
    pub attempts: u128,
    /// Repairs that run at once.
    pub repairs: usize,
    /// Members that are marked from the beginning: those that are `Lost` live another life, those that are `Behind` have nothing, all others
    /// have everything.
    pub marked: Vec<(usize, UnderReason)>,
    /// Bookies that look for ledgers that were deleted; the first ones.
    pub collectors: usize,
    /// Whether the ledger may be deleted.
    pub deletion: bool,
    /// Whether objects that nothing refers to are removed.
    pub sweep: bool,
    /// What may go wrong.
    pub faults: Faults,
    /// Rules broken in tiering.
    pub tier_mutations: TierMutations,
    /// Rules broken at clients.
    pub client_mutations: ClientMutations,
    /// Rules broken at bookies.
    pub bookie_mutations: BookieMutations,
}

impl Upkeep {
    /// Two copies at two bookies, one entry, and nobody who does anything.
    pub fn calm() -> Self {
        Self {
            qw: 2,
            qa: 2,
            bookies: 2,
            entries: 1,
            uploaders: 0,
            attempts: 1,
            repairs: 0,
            marked: Vec::new(),
            collectors: 0,
            deletion: false,
            sweep: false,
            faults: Faults::default(),
            tier_mutations: TierMutations::default(),
            client_mutations: ClientMutations::default(),
            bookie_mutations: BookieMutations::default(),
        }
    }

    pub(super) fn all_entries(&self) -> u8 {
        u8::try_from((1_u16 << self.entries) - 1).expect("at most eight entries")
    }
}
