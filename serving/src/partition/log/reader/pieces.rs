//! What was read of a partition's ledgers, or is being read ahead, and may be read on from: a reader gets entries
//! that did not fit into its last answer, and those that follow, without asking again. Bounded in number; how long
//! pieces live is their reads' to decide.

use geminga_proto::ids::{EntryId, LedgerId};
use parking_lot::Mutex;

use crate::partition::log::reads::Piece;

/// Most pieces of a partition: one reader has two.
const MAX_PIECES: usize = 16;

/// The pieces of one partition.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<Vec<Piece>>);

impl Pieces {
    /// The piece with this entry. What ends right before it has served.
    pub(super) fn find(&self, ledger: LedgerId, entry: EntryId) -> Option<Piece> {
        let mut pieces = self.0.lock();
        pieces.retain(|piece| piece.ledger != ledger || !piece.ends_before(entry));
        pieces.iter().find(|piece| piece.ledger == ledger && piece.covers(entry)).cloned()
    }

    /// Whether a piece begins here.
    pub(super) fn has(&self, ledger: LedgerId, first: EntryId) -> bool {
        self.0
            .lock()
            .iter()
            .any(|piece| piece.ledger == ledger && piece.first == first && piece.is_good())
    }

    /// Keeps a piece, if need be in the place of one that nobody waits for.
    pub(super) fn keep(&self, piece: &Piece) {
        let mut pieces = self.0.lock();
        pieces.retain(Piece::is_good);
        if pieces.len() >= MAX_PIECES
            && let Some(oldest) = pieces.iter().position(|piece| !piece.is_wanted())
        {
            pieces.remove(oldest);
        }
        if pieces.len() < MAX_PIECES {
            pieces.push(piece.clone());
        }
    }

    /// Whether another piece may be kept.
    pub(super) fn has_place(&self) -> bool {
        let mut pieces = self.0.lock();
        pieces.retain(Piece::is_good);
        pieces.len() < MAX_PIECES
    }

    /// Lets a piece go.
    pub(super) fn forget(&self, piece: &Piece) {
        self.0.lock().retain(|other| !other.is(piece));
    }
}
