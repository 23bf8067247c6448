//! A cluster of processes under load while things go wrong, as a seed says; all that clients do and are told goes into a
//! history, which `geminga-check` judges.
//!
//! The schedule of faults, and what clients do, are decided by the seed alone. What comes of it is up to real processes: a seed
//! that failed once may pass the next time, so keep its history.

mod cluster;
mod dice;
mod driver;
mod ending;
mod fault;
mod history;
mod layout;
mod network;
mod proxy;
mod run;
mod schedule;
mod tally;
mod workload;

pub use fault::{Fault, Sizes, Target};
pub use network::{enter, missing};
pub use run::{Outcome, Settings, run};
pub use schedule::{Means, Planned, Schedule};
pub use tally::Tally;
pub use workload::{GAVE_UP, Role, act, python};
