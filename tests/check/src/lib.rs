//! The history checker: one JSON line for each thing that a client did or was told, in; what was promised and not kept,
//! out. `docs/testing.md` documents the format, so that any system's history can be written in it.
//!
//! It depends on nothing that it judges. Lines are read one after the other; what is kept grows with the number of records
//! (some hundred bytes each), not with the number of lines.

mod checker;
mod group;
mod history;
mod partition;
mod report;
mod violation;

pub use checker::{Checker, Malformed};
pub use history::{Content, Event, FORMAT, Line, Place};
pub use report::{Evidence, Report};
pub use violation::{Property, Violation};
