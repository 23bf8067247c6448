//! The storage node: ledgers on one append-only log per disk.

pub mod ledger;
