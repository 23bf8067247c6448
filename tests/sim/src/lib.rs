//! Deterministic simulation (protocol 8.3): the production cores of writer, recovery and bookie and the production log, in
//! a world whose time, network, disks and metadata are drawn from one seed. The same seed is the same execution, event for
//! event; a seed that fails can be replayed with its whole trace.
//!
//! Everything that decides is production code: `client/ledger/core`, `bookie/ledger` and `bookie/log`. Here is their
//! environment, as hostile as the protocol allows, and the invariants of protocol 8.2, which are checked with every step.
//!
//! * [`run()`]: one seed. [`batch()`]: many.
//! * `world`: the loop. `schedule`, `dice`, `network`, `disk`, `store`: time, chance, and what can fail.
//! * `bookie`, `broker`, `writer`, `recoverer`, `reader`: the parts. `keeper`, `objects`: uploads, trims, repairs, moves and copies
//!   that are given up, in some runs.
//! * `faults`: what goes wrong. `truth`: what must hold. `finale`: what must come true in the end.

mod batch;
mod bookie;
mod broker;
mod context;
mod coverage;
mod dice;
mod disk;
mod event;
mod faults;
mod finale;
mod keeper;
mod network;
mod objects;
mod payload;
mod reader;
mod recoverer;
mod run;
mod schedule;
mod settings;
mod store;
mod trace;
mod truth;
mod world;
mod writer;

pub use batch::{Report, batch};
pub use coverage::{Coverage, REQUIRED};
pub use run::{Outcome, run};
pub use settings::{Broken, RULES};
pub use truth::Violation;

/// Seeds that run with every change.
pub const CI_SEEDS: u64 = 300;
