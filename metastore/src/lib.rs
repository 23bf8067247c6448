//! Where a cluster keeps its metadata: small values under ordered keys, changed by guarded transactions, watched,
//! and some of them bound to leases.
//!
//! * [`MetaStore`]: the trait and its contract.
//! * [`keys`]: every key.
//! * [`record`]: one validated type per kind of key.

pub mod keys;
mod ledger_ids;
pub mod record;
mod store;

pub use ledger_ids::LedgerIds;

pub use store::{
    Change, Error, ErrorKind, Guard, KeyValue, LeaseId, MetaStore, Op, Range, Revision, Txn,
    TxnOutcome, Version, Versioned, WatchEvent, WatchStream,
};
