//! A cluster of processes under load while things go wrong, as a seed says; all that clients do and are told goes into a
//! history, which `geminga-check` judges.
//!
//! The schedule of faults, and what clients do, are decided by the seed alone. What comes of it is up to real processes: a seed
//! that failed once may pass the next time, so keep its history.

mod cluster;
mod dice;
mod history;
mod proxy;
mod run;
mod schedule;
mod workload;

pub use run::{Outcome, Settings, run};
pub use schedule::{Fault, Planned, Schedule, Sizes, Target};
