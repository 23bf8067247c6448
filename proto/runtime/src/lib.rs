//! The seams that every process shares and that tests replace: named tasks with an ordered shutdown, the wall
//! clock, randomness, rules to break, places to die at, how long things take, what requests are called in logs, and how often
//! these say the same. Nothing here knows about topics or
//! ledgers.

mod clock;
mod fail_point;
mod latencies;
#[cfg(feature = "mutations")]
pub mod lines;
mod mutations;
mod random;
pub mod requests;
mod seldom;
mod tasks;

pub use clock::{ManualClock, SystemClock, WallClock};
pub use fail_point::fail_point;
pub use latencies::{Counted, Latencies};
pub use mutations::Mutations;
#[cfg(feature = "mutations")]
pub use mutations::holds_only_with;
pub use random::{Random, SeededRandom, SystemRandom};
pub use seldom::Seldom;
pub use tasks::Tasks;

/// Whether this build is one for tests, whose rules can be broken and whose processes die where they are told to. No release is.
pub const FOR_TESTS: bool = cfg!(feature = "mutations");
