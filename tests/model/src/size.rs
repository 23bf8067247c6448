//! How big a system is, and which rules are broken in it.

use geminga_bookie::ledger::Mutations as BookieMutations;
use geminga_ledger::core::mutation::Mutations as ClientMutations;

/// How big the system is, and which rules are broken. Budgets count over the whole execution.
#[derive(Debug, Clone)]
pub struct Size {
    /// Write quorum, which is the size of the ensemble.
    pub qw: u8,
    /// Ack quorum.
    pub qa: u8,
    /// Bookies, spares included.
    pub bookies: usize,
    /// Entries that the writer appends to each ledger.
    pub entries: usize,
    /// Ledgers, one after the other: each but the last is rolled into the next one (2.8).
    pub ledgers: usize,
    /// Recoverers that may start.
    pub recoverers: usize,
    /// Members that the writer may give up.
    pub failures: u8,
    /// Bookie crashes that may happen.
    pub crashes: u8,
    /// Bookies that may lose everything and come back as another life.
    pub wipes: u8,
    /// Replies of an applied compare-and-swap that may get lost.
    pub lost_replies: u8,
    /// Requests of recoverers that may be sent again although they arrived.
    pub resends: u8,
    /// Whether ledgers may be deleted.
    pub deletion: bool,
    /// Whether a reply may wait for the log. Without crashes that is no other execution than a slow network.
    pub slow_bookies: bool,
    /// Whether a bookie's check of the metadata may take its time, in which seals go ahead of it.
    pub slow_checks: bool,
    /// Whether the writer's first hellos are part of the search; otherwise it begins connected.
    pub hellos: bool,
    /// Whether the search leaves out what comes to the same (see `reduce`).
    pub reduced: bool,
    /// Whether states that differ in names only are one (see `symmetry`), where that holds.
    pub symmetric: bool,
    /// Rules broken at bookies.
    pub bookie_mutations: BookieMutations,
    /// Rules broken at clients.
    pub client_mutations: ClientMutations,
}

impl Size {
    /// The same, explored without leaving anything out.
    #[must_use]
    pub fn whole(self) -> Self {
        Self { reduced: false, symmetric: false, ..self }
    }

    /// The same, with every name of a bookie its own state.
    #[must_use]
    pub fn with_names(self) -> Self {
        Self { symmetric: false, ..self }
    }

    /// Whether states that differ in names only are one: not where a wipe makes sources unequal, where one of several lost
    /// places is filled first, or where one of several spares is taken first.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.symmetric && self.may_be_symmetric()
    }

    /// Whether names make no difference in it.
    pub fn may_be_symmetric(&self) -> bool {
        let spares = self.bookies - usize::from(self.qw);
        self.reduced && self.wipes == 0 && self.failures <= 1 && spares <= 1
    }

    /// Whether a recoverer hears of seals only when it fixes the end (see `reduce`).
    pub(crate) fn hears_seals_late(&self) -> bool {
        self.reduced && self.crashes == 0 && self.wipes == 0 && self.resends == 0
    }

    /// Whether a writer hears of acks only when it appends or closes (see `reduce`).
    pub(crate) fn hears_acks_late(&self) -> bool {
        self.hears_seals_late() && self.failures == 0 && !self.hellos
    }

    /// Two copies, two acks, a spare, one entry, one recoverer, and nothing that fails.
    pub fn calm() -> Self {
        Self {
            qw: 2,
            qa: 2,
            bookies: 3,
            entries: 1,
            ledgers: 1,
            recoverers: 1,
            failures: 0,
            crashes: 0,
            wipes: 0,
            lost_replies: 0,
            resends: 0,
            deletion: false,
            slow_bookies: false,
            slow_checks: false,
            hellos: false,
            reduced: true,
            symmetric: true,
            bookie_mutations: BookieMutations::default(),
            client_mutations: ClientMutations::default(),
        }
    }

    /// The same with a crash, as seen from the first request on.
    pub fn with_crash() -> Self {
        Self {
            entries: 2,
            crashes: 1,
            lost_replies: 1,
            slow_bookies: true,
            slow_checks: true,
            hellos: true,
            ..Self::calm()
        }
    }
}
