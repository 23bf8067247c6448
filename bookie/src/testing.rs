//! A bookie of one disk in memory, for tests of what runs beside it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Segment, Tier, TierObject,
};
use geminga_metastore::{
    Error, LeaseId, MemoryStore, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream,
};
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{
    ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId, Member, Offset, SealEpoch, Term, TopicId,
};
use geminga_runtime::requests::Requests;
use geminga_runtime::{ManualClock, Tasks};
use geminga_tier::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::handle::BookieHandle;
use crate::io::MemoryDisk;
use crate::ledger::{Checker, DiskLedgers, DiskParts, Mutations, Reporter};
use crate::log::{self, Log};

pub(crate) fn member() -> Member {
    Member { bookie: "b-1".parse().unwrap(), incarnation: Incarnation(7) }
}

/// A bookie on a disk, with what the disk had before.
pub(crate) fn bookie(
    disk: &MemoryDisk,
    store: &Arc<dyn MetaStore>,
    cluster: ClusterUuid,
    mutations: Mutations,
    tasks: &Tasks,
) -> BookieHandle {
    bookie_with_reserve(disk, store, cluster, (mutations, 0), tasks)
}

/// The same, whose log sets so many segments aside for when the disk is full.
pub(crate) fn bookie_with_reserve(
    disk: &MemoryDisk,
    store: &Arc<dyn MetaStore>,
    cluster: ClusterUuid,
    (mutations, reserve_segments): (Mutations, usize),
    tasks: &Tasks,
) -> BookieHandle {
    let identity = log::Identity {
        cluster,
        bookie: member().bookie,
        incarnation: member().incarnation,
        disk: DiskUuid::from_random(3),
    };
    let config = log::Config {
        segment_bytes: 64 << 10,
        prefill_bytes: 64 << 10,
        reserve_segments,
        ..log::Config::default()
    };
    let opened = Log::open(Arc::new(disk.clone()), identity, config).unwrap();
    let parts = DiskParts {
        cluster,
        member: member(),
        log: opened.log,
        ledgers: opened.ledgers,
        tombstones: opened.tombstones,
        owners: 2,
        reporter: Reporter {
            store: Arc::clone(store),
            member: member(),
            clock: Arc::new(ManualClock::at(0)),
        },
        checker: Checker::new(Arc::clone(store)),
        waiting: Arc::new(Semaphore::new(2)),
        mutations,
    };
    let ledgers = DiskLedgers::start(parts, tasks);
    BookieHandle::new(cluster, member().bookie, vec![ledgers], vec![], Requests::default())
}

/// Adds the first entry of a ledger that the metadata knows as open.
pub(crate) async fn add_entry(handle: &BookieHandle, ledger: LedgerId) {
    assert_eq!(try_add_entry(handle, ledger).await, Code::Ok);
}

/// The same where it may be refused.
pub(crate) async fn try_add_entry(handle: &BookieHandle, ledger: LedgerId) -> Code {
    let position = Position { ledger, entry: EntryId(0), lac: EntryId::NONE, cumulative_length: 7 };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: 0,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let payload = Bytes::from_static(b"payload").into();
    let entry = entry::encode(handle.cluster(), position, attributes, &payload).unwrap();
    let op = WriteOp::Add { first: EntryId(0), entries: vec![entry], lac: EntryId::NONE };
    let scope = Scope {
        cluster: handle.cluster(),
        ledger,
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: member().incarnation,
    };
    handle.write(WriteRequest { scope, op }).await.code
}

/// An open ledger on this bookie alone.
pub(crate) fn open_ledger(id: LedgerId) -> LedgerMeta {
    LedgerMeta {
        id,
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member()] }],
        last_entry: None,
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// The same closed after its first entry, and in an object that is there, uploaded at this time.
pub(crate) async fn trimmed_ledger(
    objects: &Store,
    cluster: ClusterUuid,
    id: LedgerId,
    at_ms: i64,
) -> LedgerMeta {
    let (attempt, custom) = (u128::from(id.0) + 1, Custom::default());
    let custom = Custom { topic: TopicId::from_random(9), ..custom };
    let key = objects.key(cluster, &custom, id, attempt);
    objects.upload(&key).complete(Bytes::from_static(b"entries")).await.unwrap();
    let listed = objects.head(&key).await.unwrap().unwrap();
    LedgerMeta {
        state: LedgerState::Closed,
        last_entry: Some(EntryId(0)),
        length: 7,
        tier: Tier::Trimmed(TierObject {
            attempt,
            bucket: objects.bucket().to_owned(),
            key,
            size: listed.size,
            entries: 1,
            object_crc: 9,
            etag: listed.etag,
            index_place: 3,
            at_ms,
        }),
        close_kind: Some(CloseKind::Writer),
        custom,
        ..open_ledger(id)
    }
}

/// A segment of ten records, the first of which is number 10 × `seq`.
pub(crate) fn segment(seq: u32, ledger: LedgerId) -> Segment {
    Segment {
        ledger,
        base_offset: Offset(i64::from(seq) * 10),
        term: Term(1),
        end_offset: Some(Offset(i64::from(seq) * 10 + 10)),
        max_timestamp: None,
        bytes: Some(7),
    }
}

/// A store that counts listings.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) memory: MemoryStore,
    listed: Mutex<Vec<String>>,
}

impl Counting {
    /// How many listings began below a prefix.
    pub(crate) fn listings(&self, prefix: &str) -> usize {
        self.listed.lock().iter().filter(|listed| *listed == prefix).count()
    }
}

#[async_trait]
impl MetaStore for Counting {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        if after.is_none() {
            self.listed.lock().push(prefix.to_owned());
        }
        self.memory.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.memory.txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.memory.watch(prefix, from).await
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.memory.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.memory.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.memory.revoke_lease(lease).await
    }
}
