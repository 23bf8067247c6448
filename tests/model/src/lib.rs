//! The ledger protocol's production cores under a model checker (protocol 8.2, 8.3).
//!
//! Everything that decides is production code: `client/ledger/core` (writer, recovery, commits) and `bookie/ledger` (fencing).
//! Here is only the environment: a network that keeps the order of one stream and nothing else, bookies whose unsynced log a
//! crash drops and that may come back as another life, a metadata register whose replies may get lost, and an owner that
//! rolls from one ledger to the next.
//!
//! * [`Size`]: how much of all that, and which rule is broken. [`sizes`], [`longer_sizes`], [`limited_sizes`],
//!   [`broken_rules`]: what is checked.
//! * [`explore`]: one search.
//! * [`upkeep`]: the same for what happens to a ledger once it is closed.

mod bookie;
mod check;
mod ledger;
mod metadata;
mod part;
mod properties;
mod recoverer;
mod reduce;
mod size;
mod sizes;
mod symmetry;
pub mod upkeep;
mod world;
mod writer;

pub use check::{Explored, Report, classes, ends, explore, notices};
pub use properties::End;
pub use size::Size;
pub use sizes::{broken_rules, limited_sizes, longer_sizes, sizes};
pub use world::{Action, World};
