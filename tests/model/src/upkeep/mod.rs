//! What happens to a closed ledger, under the same checker: uploads and trims, repairs, deletion, and the removal of what nothing refers
//! to (protocol 5.6, 6.5, 7). All that decides is production code: `bookie/tiering/core` and `garbage`, `bookie/gc/judge`,
//! `client/ledger/core/repair` and `removal`. Here is only the environment: a register, an object store and bookies that lose, repeat
//! and forget. There is no clock: everything that a clock decides (whose turn it is, how long copies are kept) may happen at once or
//! never, for time only says who tries.
//!
//! * [`Upkeep`]: how much of all that, and which rule is broken. [`sizes`], [`longer_sizes`], [`broken_rules`]: what is checked.
//! * `world`: the state, and what may happen next. `uploader`, `repairer`, `cleaner`: who acts in it. `properties`: I14 to I16.

mod cleaner;
mod properties;
mod repairer;
mod size;
mod sizes;
mod uploader;
mod world;

pub use size::{Faults, Upkeep};
pub use sizes::{broken_rules, longer_sizes, sizes};
pub use world::{Action, Trouble, World};
