//! Ledgers at a bookie.
//!
//! * [`state`]: fencing and contiguity of one ledger as a pure state machine.

mod mutation;
mod ranges;
mod record;
mod state;

pub use mutation::{Mutation, Mutations};
pub use ranges::Ranges;
pub use record::Record;
pub use state::{Effect, Event, Finding, Identity, LedgerState, judge};
