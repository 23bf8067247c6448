//! The trait that every metadata store implements, and its contract.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// The revision at which a key was last written: what a guard compares (etcd's `mod_revision`). Never 0 for a key
/// that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub i64);

/// A point in the store's total order of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A lease: keys bound to it vanish when it is not kept alive. Decides who tries, never who may (protocol H22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {:x}", self.0)
    }
}

/// A value with the versions that guards name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// Revision of the last write.
    pub version: Version,
    /// Revision at which this life of the key began; names an election's term.
    pub created: Revision,
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, relative to the cluster's prefix.
    pub key: String,
    /// Its value.
    pub value: Versioned,
}

/// The answer to [`MetaStore::range`]: all keys of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// The revision at which this was the truth; a watch from here misses nothing.
    pub revision: Revision,
    /// Whether the limit cut the answer; go on after the last key.
    pub more: bool,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last written at this version.
    Version(String, Version),
    /// The key exists and this life of it began at this revision.
    Created(String, Revision),
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key. Without a lease a former binding ends.
    Put {
        /// Which.
        key: String,
        /// What.
        value: Bytes,
        /// The lease that the key lives by.
        lease: Option<LeaseId>,
    },
    /// Removes a key; no effect when absent.
    Delete {
        /// Which.
        key: String,
    },
}

/// Guards and changes that take effect together or not at all. No key is changed twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Txn {
    /// All must hold.
    pub guards: Vec<Guard>,
    /// Then all of these happen at one revision.
    pub ops: Vec<Op>,
}

impl Txn {
    /// No guards, no changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn guard(mut self, guard: Guard) -> Self {
        self.guards.push(guard);
        self
    }

    /// Adds a write without a lease.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Adds a write that lives by a lease.
    #[must_use]
    pub fn put_leased(
        mut self,
        key: impl Into<String>,
        value: impl Into<Bytes>,
        lease: LeaseId,
    ) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Adds a removal.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// Adds everything of another transaction: how a caller's part joins the ledger layer's own.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.guards.extend(other.guards);
        self.ops.extend(other.ops);
        self
    }
}

/// How a transaction that was answered ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All guards held; every written key now has version `revision.0`.
    Committed(Revision),
    /// Some guard did not hold; nothing was changed.
    GuardFailed,
}

/// One change as a watch reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put(KeyValue),
    /// The key is gone, by a transaction or because its lease ended.
    Delete {
        /// Which.
        key: String,
    },
}

/// What a watch yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Everything under the prefix: first of all when no revision was given, and again whenever history was
    /// compacted away while the watch was disconnected. Replaces all that was known.
    Snapshot(Range),
    /// All changes under the prefix at one revision, in order.
    Changes {
        /// The revision.
        revision: Revision,
        /// What changed.
        changes: Vec<Change>,
    },
}

/// An endless stream of watch events; dropping it ends the watch.
pub type WatchStream = BoxStream<'static, WatchEvent>;

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody answered; of a write nothing is known (protocol M9).
    #[error(
        "metadata store did not answer ({0}): check that it runs and that --metastore names it"
    )]
    Unknown(String),
    /// The request certainly had no effect; the store cannot be reached.
    #[error(
        "metadata store is unreachable ({0}): check that it runs and that --metastore names it"
    )]
    Unavailable(String),
    /// The store is full and refuses writes.
    #[error(
        "metadata store is out of space: compact and defragment etcd, then disarm its NOSPACE alarm"
    )]
    NoSpace,
    /// The lease ended or never was.
    #[error("{0} has expired")]
    LeaseGone(LeaseId),
    /// A request that can never be served: too large, too many operations, a key changed twice.
    #[error("invalid metadata request: {0}")]
    Invalid(String),
    /// A value that cannot be understood.
    #[error("metadata key {key} holds {why}")]
    Corrupt {
        /// Which key.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What a caller does about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Had no effect; try again later.
    Retry,
    /// Read again before anything else; never undo (M9).
    Unknown,
    /// Never retry.
    Invalid,
    /// A human must act.
    Corrupt,
}

impl Error {
    /// What to do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown(_) => ErrorKind::Unknown,
            Self::Unavailable(_) | Self::NoSpace => ErrorKind::Retry,
            Self::LeaseGone(_) | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
        }
    }
}

/// A store of small values under ordered keys.
///
/// # Contract
///
/// * **One order.** Every committed transaction gets a revision; revisions rise and all clients agree on them.
/// * **Linearizable.** `get` and `range` see every transaction that was answered before they were asked (M8). `range`
///   shows one revision. There is no stale read: caches are built from `watch` and only trigger, never decide.
/// * **Atomic.** A transaction's guards are judged and its changes made at one point. A put can create a key; an
///   update that must not (M7) says so with [`Guard::Version`].
/// * **Durable.** An answered transaction survives a crash of the store (not in `memory`, which is for tests).
/// * **Unknown.** [`Error::Unknown`] on a write means it may have been applied, or may still be: a store may
///   apply it after its client gave up. So every put is guarded by the version or absence of the key that it changes.
/// * **Watch.** Yields every change under the prefix after the revision it started from, in order, exactly once,
///   across reconnects; when history is gone it yields a [`WatchEvent::Snapshot`] in its place. It never ends by itself.
/// * **Lease.** Keys bound to a lease vanish in one revision when it is revoked, or was not kept alive for its time to live. They
///   never vanish earlier, but may later: a store that was down extends leases when it comes back.
/// * **Cancel-safety.** Dropping a future of a read has no effect. Dropping one of a write is an unknown outcome.
/// * **Limits** are the same in every store: `caps::MAX_METADATA_TXN_OPS` guards and changes, values of
///   `caps::MAX_METADATA_VALUE_BYTES`, 1 MiB in one transaction. What is above is [`Error::Invalid`].
/// * **Keys** are relative to the cluster's prefix, UTF-8, not empty, without a leading slash.
#[async_trait]
pub trait MetaStore: Send + Sync + fmt::Debug + 'static {
    /// Reads one key, linearizably.
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error>;

    /// Reads keys that start with `prefix`, in order, linearizably: those after `after` when given, at most `limit`
    /// (at least 1). It may be fewer although there are more, which [`Range::more`] tells.
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error>;

    /// Commits guards and changes together.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error>;

    /// Watches keys that start with `prefix`: changes after `from`, or a snapshot and what follows it.
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error>;

    /// A new lease that ends `ttl` after its last keep-alive (rounded up to seconds by etcd).
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Extends a lease by its time to live from now. [`Error::LeaseGone`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends a lease; its keys vanish. Ending one that is gone is no error.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error>;

    /// Writes one key when its version is as expected: `None` = it must not exist. Returns the new version, or
    /// `None` when it was otherwise.
    async fn put_if(
        &self,
        key: &str,
        expected: Option<Version>,
        value: Bytes,
    ) -> Result<Option<Version>, Error> {
        let guard = match expected {
            None => Guard::Absent(key.to_owned()),
            Some(version) => Guard::Version(key.to_owned(), version),
        };
        match self.txn(Txn::new().guard(guard).put(key, value)).await? {
            TxnOutcome::Committed(revision) => Ok(Some(Version(revision.0))),
            TxnOutcome::GuardFailed => Ok(None),
        }
    }
}
