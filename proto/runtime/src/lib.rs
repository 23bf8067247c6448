//! The seams that every process shares and that tests replace: named tasks with an ordered shutdown, the wall
//! clock, and randomness. Nothing here knows about topics or ledgers.

mod clock;
mod random;
mod tasks;

pub use clock::{ManualClock, SystemClock, WallClock};
pub use random::{Random, SeededRandom, SystemRandom};
pub use tasks::Tasks;
