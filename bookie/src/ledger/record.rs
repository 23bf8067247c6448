//! What a ledger writes to the log of its disk, in order. Replaying exactly these rebuilds its state (K5).

use bytes::Bytes;
use geminga_proto::ids::{EntryId, SealEpoch};

/// One change of one ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// The ledger was checked against metadata and may be written (K2).
    RunStart {
        /// The fragment that was opened.
        fragment_first: EntryId,
    },
    /// Entries with consecutive ids.
    Entries {
        /// The fragment they belong to.
        fragment_first: EntryId,
        /// Id of the first.
        first: EntryId,
        /// Encoded entries.
        entries: Vec<Bytes>,
        /// The writer's LAC as known then; `NONE` on a recoverer's copies. A hint: losing it only makes recovery copy more.
        lac: EntryId,
    },
    /// Sealed at this epoch (F2-F4).
    Seal {
        /// The epoch.
        epoch: SealEpoch,
    },
    /// The ledger ends here.
    Closed {
        /// Its last entry.
        last: EntryId,
    },
    /// Its entries are in the object of this upload, and not here any more (protocol 7.4 step 8).
    Trimmed {
        /// The upload.
        attempt: u128,
    },
    /// Others have all its places: its entries are not here any more, until a repair brings some back (protocol 5.6).
    GivenUp,
    /// Deleted; refuses everything from now on (F4).
    Tombstone,
}

impl Record {
    /// Whether no entry before it in the log is needed any more.
    pub(crate) fn drops_entries(&self) -> bool {
        matches!(self, Self::Trimmed { .. } | Self::GivenUp | Self::Tombstone)
    }
}
