//! How a ledger's end begins (protocol 7.8 (2)), as a pure function of what was read: a tombstone in the place of its metadata, which is never
//! anything else again (M6).

use geminga_metastore::record::{LedgerMeta, LedgerState};

/// Only what has an end can be deleted (1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotClosed;

/// The tombstone of a ledger, to be put if its version is still the one read; `None`: it is one already. `op` is a fresh random number (M9).
///
/// # Errors
/// [`NotClosed`].
pub fn tombstone(meta: LedgerMeta, op: u128) -> Result<Option<LedgerMeta>, NotClosed> {
    match meta.state {
        LedgerState::Deleting => Ok(None),
        LedgerState::Open | LedgerState::InRecovery => Err(NotClosed),
        LedgerState::Closed => {
            Ok(Some(LedgerMeta { state: LedgerState::Deleting, last_op: op, ..meta }))
        }
    }
}
