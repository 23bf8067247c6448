//! The seam to ledgers that bookies have dropped (protocol 7.6): the object store as a reader of ledgers sees it. Brokers
//! implement it; whoever has none is told what to configure.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::entry::Entry;
use geminga_proto::ids::EntryId;

use crate::read::ReadError;

/// What is looked for in a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// The first entry whose first offset is above this one.
    AboveOffset(i64),
    /// The first entry up to which the partition's largest timestamp is this one or later, in milliseconds.
    ReachingTime(i64),
}

/// What is to be read of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// The first entry.
    pub from: EntryId,
    /// The last that may be read.
    pub to: EntryId,
    /// About so many bytes.
    pub max_bytes: usize,
    /// Cut payloads to this length.
    pub prefix_bytes: Option<u32>,
}

/// Ledgers in the object store.
///
/// # Contract
/// * Only asked about ledgers whose metadata names an object.
/// * A read gives entries from `from` on, in order, at least one, none above `to`, each verified (D1); or an error, never fewer.
/// * Calls are cancel-safe, and bound what they hold by themselves.
pub trait ColdLedgers: Send + Sync + fmt::Debug + 'static {
    /// Reads entries.
    fn read(
        &self,
        meta: Arc<LedgerMeta>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Vec<Entry>, ReadError>>;

    /// Between which entries, both included, the one stands that is looked for; the entry after the last when there is none.
    fn narrow(
        &self,
        meta: Arc<LedgerMeta>,
        search: Search,
    ) -> BoxFuture<'static, Result<(EntryId, EntryId), ReadError>>;
}

/// Objects of ledgers, for repairs (T6): bookies implement it.
///
/// # Contract
/// * Only asked about ledgers whose metadata names an object.
/// * A read gives entries from `from` on as bookies had them (D2), in order, at least one, none above `to`, about `max_bytes` of them; or an
///   error. Whoever asks verifies each (D1).
/// * Calls are cancel-safe, and end by themselves.
pub trait StoredObjects: Send + Sync + fmt::Debug + 'static {
    /// Reads entries, whole ones.
    fn read(
        &self,
        meta: Arc<LedgerMeta>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, ReadError>>;
}
