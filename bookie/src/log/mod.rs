//! The log of one disk: every ledger's records in one order, written once (protocol 5.2 to 5.4).
//!
//! * Records are appended in call order; that order is the order in the log and the order of durability. When a place
//!   is durable, everything before it is (K3).
//! * One thread per log writes what is queued, syncs, and moves the durable mark: batching grows with load, and
//!   nothing waits for a timer.
//! * A failed write or sync poisons the log: nothing is acknowledged any more, whoever waits is told, and the process
//!   must restart through the checks of [`Log::open`] (K6).
//! * Entries can be read as soon as they are durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId};
use tokio::sync::watch;

use crate::io::Disk;
use crate::ledger::{LedgerState, Record};

mod config;
mod error;

pub use config::Config;
pub use error::{LogFailed, OpenError, ReadError};

/// Whose log it is: stands in every segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The bookie.
    pub bookie: BookieId,
    /// This life of the disk.
    pub incarnation: Incarnation,
    /// The disk.
    pub disk: DiskUuid,
}

/// A place in the log: the end of one appended record. Order is durability order. Counts from 0 at each opening, so it
/// means nothing to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// How far the log is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Everything up to here is.
    pub lsn: Lsn,
    /// Why nothing beyond ever will be.
    pub failed: Option<LogFailed>,
}

/// A log and what was found in it.
#[derive(Debug)]
pub struct Opened {
    /// The log, ready for appends.
    pub log: Log,
    /// Every ledger that has a record.
    pub ledgers: BTreeMap<LedgerId, LedgerState>,
}

/// Room in the queue, taken before an append and given back when the record is durable.
#[derive(Debug)]
pub struct Permit {
    bytes: usize,
}

impl Permit {
    /// Takes up to `bytes` out of this permit, for a caller that appends several records on one reservation.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let taken = bytes.min(self.bytes);
        self.bytes -= taken;
        Self { bytes: taken }
    }
}

/// Handle on a disk's log; clones are the same log. When the last is dropped, the log stops as in [`Log::shutdown`],
/// but nobody waits for it.
#[derive(Debug, Clone)]
pub struct Log(Arc<std::convert::Infallible>);

impl Log {
    /// Whether the disk holds a log, of whatever identity.
    pub fn exists(_disk: &dyn Disk) -> std::io::Result<bool> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Replays what is there, repairs a torn tail, and starts the log. Blocks.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _identity: Identity,
        _config: Config,
    ) -> Result<Opened, OpenError> {
        Err(OpenError::NotSupported)
    }

    /// What a record takes in the queue: the argument of [`Log::reserve`].
    pub fn cost(record: &Record) -> usize {
        match record {
            Record::Entries { entries, .. } => {
                64 + entries.iter().map(|entry| 4 + entry.len()).sum::<usize>()
            }
            Record::RunStart { .. }
            | Record::Seal { .. }
            | Record::Closed { .. }
            | Record::Tombstone => 64,
        }
    }

    /// Waits until `bytes` more fit in the queue (more than the queue holds count as a full queue). Whoever holds a
    /// permit must not wait here for another. Cancel-safe.
    pub async fn reserve(&self, _bytes: usize) -> Result<Permit, LogFailed> {
        match *self.0 {}
    }

    /// Puts a record at the end of the log; returns at once, in call order. The place is durable when
    /// [`Log::durable`] reaches it. Entries can be read from then on.
    pub fn append(
        &self,
        _ledger: LedgerId,
        _record: Record,
        _permit: Permit,
    ) -> Result<Lsn, LogFailed> {
        match *self.0 {}
    }

    /// The end of everything appended so far.
    pub fn tail(&self) -> Lsn {
        match *self.0 {}
    }

    /// The durable mark, to watch.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        match *self.0 {}
    }

    /// Waits until everything up to `lsn` is on stable storage. Cancel-safe.
    pub async fn wait_durable(&self, _lsn: Lsn) -> Result<(), LogFailed> {
        match *self.0 {}
    }

    /// Entries `from..=to` of a ledger, verbatim, consecutive, at least one, and no more than `max_bytes` unless the
    /// first alone is larger; fewer when the disk does not hold the rest. Their digests are the caller's to verify.
    /// Cancel-safe.
    pub async fn read(
        &self,
        _ledger: LedgerId,
        _from: EntryId,
        _to: EntryId,
        _max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        match *self.0 {}
    }

    /// Refuses further appends, makes durable what was accepted, writes the final mark, and waits for the log's
    /// threads to end. The error that poisoned the log, if one did.
    pub async fn shutdown(&self) -> Result<(), LogFailed> {
        match *self.0 {}
    }
}
