//! How long a ledger is open before it may be left for want of bookies, so that those that stay away do not cost a ledger, its metadata and
//! its segment, every moment. Part of the log's core, without a clock: who drives it is told by how much to double a pause, and says
//! when that is over.
//!
//! ```text
//!   a ledger begins -> First -> Barren, after ledgers that acknowledged nothing -> Restore, after rolls for copies -> Over
//!                      `--- a lost quorum is kept ---'
//!                      `------------------------- lacking copies are borne -------------------------'
//! ```
//!
//! A pause keeps a ledger, and what it was given: it acknowledges that as soon as its bookies answer.

use super::Reason;

/// The pause after ledgers that acknowledged nothing doubles this often.
const MAX_BARREN_DOUBLINGS: u32 = 3;

/// The pauses of the present ledger, and what makes them long.
#[derive(Debug)]
pub(super) struct Pauses {
    running: Running,
    /// One that lost its quorum is not left yet.
    lost: bool,
    /// The present ledger acknowledged something.
    acknowledged: bool,
    /// It was left since its quorum is lost.
    left_lost: bool,
    /// Ledgers in a row, before the present one, that were left so and had acknowledged nothing.
    barren: u32,
    /// Rolls in a row that only restored copies.
    restores: u32,
}

/// The pause under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Running {
    /// A new ledger must have had time to find its bookies.
    First,
    /// Those before it found too few.
    Barren,
    /// Copies were restored before.
    Restore,
    Over,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self {
            running: Running::Over,
            lost: false,
            acknowledged: false,
            left_lost: false,
            barren: 0,
            restores: 0,
        }
    }

    /// Whether a ledger that lost its quorum may be left. `heals`: some of its members answer, so that others can take the places of the
    /// rest; where none does only the next ledger helps, and is not put off.
    pub(super) fn may_leave_lost(&self, heals: bool) -> bool {
        !self.lost || (!heals && self.running != Running::First)
    }

    /// Whether a ledger may be left for one with more copies.
    pub(super) fn may_restore(&self) -> bool {
        let forgotten = self.running == Running::Barren && self.barren == 0 && self.restores == 0;
        self.running == Running::Over || forgotten
    }

    /// A ledger begins, and with it a pause that is not doubled.
    pub(super) fn begin(&mut self) {
        if self.left_lost && !self.acknowledged {
            self.barren = self.barren.saturating_add(1);
        }
        (self.running, self.lost) = (Running::First, true);
        (self.acknowledged, self.left_lost) = (false, false);
    }

    /// The pause is over; `Some`: another follows, doubled so often.
    pub(super) fn next(&mut self) -> Option<u32> {
        if self.running == Running::First && self.lost && self.barren > 0 {
            self.running = Running::Barren;
            return Some((self.barren - 1).min(MAX_BARREN_DOUBLINGS));
        }
        self.lost = false;
        if matches!(self.running, Running::First | Running::Barren) && self.restores > 0 {
            self.running = Running::Restore;
            return Some(self.restores);
        }
        self.running = Running::Over;
        None
    }

    /// The present ledger is left.
    pub(super) fn left(&mut self, reason: Reason) {
        self.left_lost = reason == Reason::Lost;
        match reason {
            Reason::Full => self.restores = 0,
            Reason::Copies => self.restores = self.restores.saturating_add(1),
            Reason::Lost | Reason::Idle => {}
        }
    }

    /// The present ledger acknowledged something: bookies are there.
    pub(super) fn acknowledged(&mut self) {
        self.acknowledged = true;
        self.forget_barren();
    }

    /// Others are live, who may take over at once from those that the present ledger has lost.
    pub(super) fn bookies_changed(&mut self, quorum_lost: bool) {
        self.forget_barren();
        // Also one that is being left now was on others.
        self.left_lost = false;
        self.lost &= !quorum_lost;
    }

    fn forget_barren(&mut self) {
        self.barren = 0;
        self.lost &= self.running != Running::Barren;
    }
}
