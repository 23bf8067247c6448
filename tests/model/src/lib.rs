//! The ledger protocol's production cores under a model checker (protocol 8.2, 8.3).
//!
//! Everything that decides is production code: `client/ledger/core` (writer, recovery) and `bookie/ledger` (fencing). Here is
//! only the environment: a network that keeps the order of one stream and nothing else, bookies whose unsynced log a
//! crash drops, and a metadata register whose replies may get lost.

mod bookie;
mod metadata;
mod properties;
mod recoverer;
mod sizes;
mod world;
mod writer;

pub use sizes::{DURABILITY, broken_rules, large_sizes, sizes};
pub use world::{Action, Size, World};
