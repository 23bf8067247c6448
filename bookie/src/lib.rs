//! The storage node: ledgers on one append-only log per disk.

pub mod io;
pub mod ledger;
pub mod log;
