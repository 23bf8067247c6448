//! Ledgers at a bookie.
//!
//! * [`state`]: fencing and contiguity of one ledger as a pure state machine.
//! * [`disk`]: all ledgers of one disk. [`owner`]: the task that feeds some of them and carries effects out; [`table`]: what it
//!   owns.
//! * [`admit`]: what is checked before a write is let in. [`check`]: the first-contact check. [`compare`]: an entry
//!   that was sent again. [`reply`]: where answers go.
//! * [`query`]: reading and waiting. [`fullness`]: what a disk that fills up still takes.
//! * [`image`]: a ledger's state in a snapshot. [`tombstones`]: the ledgers that were deleted. [`upkeep`]: the task that keeps a
//!   disk's log short to open.

mod admit;
mod check;
mod compare;
mod disk;
mod fullness;
mod image;
mod inventory;
mod mutation;
mod owner;
mod query;
mod ranges;
mod record;
mod reply;
mod salvaged;
mod state;
mod table;
mod tombstones;
mod upkeep;

pub(crate) use check::Checker;
pub(crate) use disk::{DiskLedgers, DiskParts};
pub(crate) use fullness::Fullness;
pub use fullness::Limits;
pub use mutation::{Mutation, Mutations};
pub(crate) use query::MAX_READ_BYTES;
pub use ranges::Ranges;
pub use record::Record;
pub(crate) use reply::{MIN_ROOM, Outgoing, ReplyTo};
pub(crate) use salvaged::Salvaged;
pub use state::{Effect, Event, Finding, Identity, LedgerState, judge, judge_repair};
pub use tombstones::Tombstones;
pub(crate) use upkeep::Reporter;
