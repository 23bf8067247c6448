//! The storage node: ledgers on one append-only log per disk.

mod identity;
pub mod io;
pub mod ledger;
pub mod log;

pub use identity::{BootError, DirError, Refusal};
