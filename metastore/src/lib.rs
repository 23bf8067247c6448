//! Where a cluster keeps its metadata: small values under ordered keys, changed by guarded transactions, watched,
//! and some of them bound to leases.
//!
//! * [`MetaStore`]: the trait and its contract.
//! * [`keys`]: every key.
//! * [`record`]: one validated type per kind of key. [`dump`] shows them to people, [`backup`] saves them.
//! * [`gate`]: what may be written that not every version reads.
//! * [`restored`]: what keeps a cluster whole whose metadata went back in time.

pub mod backup;
pub mod cluster;
#[cfg(test)]
mod conformance;
pub mod dump;
mod embedded;
mod etcd;
pub mod gate;
mod horizon;
mod id_blocks;
pub mod keys;
mod ledger_ids;
mod local;
mod memory;
mod mutation;
mod producer_ids;
pub mod record;
pub mod restored;
mod store;
mod tree;
mod watched;

pub use embedded::{EmbeddedStore, OpenError};
pub use etcd::{EtcdAlarm, EtcdHealth, EtcdMember, EtcdStore, EtcdUrl, InvalidUrl};
pub use horizon::Horizon;
pub use ledger_ids::LedgerIds;
pub use memory::MemoryStore;
pub use producer_ids::ProducerIds;

pub use store::{
    Change, Error, ErrorKind, Guard, KeyValue, LeaseId, MetaStore, Op, Range, Revision, Txn,
    TxnOutcome, Version, Versioned, WatchEvent, WatchStream,
};
pub use watched::WatchedStore;
