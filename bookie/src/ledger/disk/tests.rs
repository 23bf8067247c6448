//! Owners on a real log over a disk that loses what was not synced, waits and fails on demand.

use std::io::ErrorKind;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use geminga_metastore::record::{
    Custom, Digest, Fragment, LedgerMeta, LedgerState as MetaState, Tier, Under, UnderReason,
};
use geminga_metastore::{
    Error, LeaseId, MemoryStore, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream, keys,
};
use geminga_proto::bookie::{Class, QueryOp, Scope, WriteOp};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{DiskUuid, EntryId, Incarnation, SealEpoch};
use geminga_runtime::requests::Requests;
use geminga_runtime::{Random, SeededRandom, SystemRandom};
use tokio::sync::watch;

use super::*;
use crate::handle::BookieHandle;
use crate::io::{FaultyDisk, MemoryDisk, Op};
use crate::ledger::Mutation;
use crate::log;
use crate::scenario::holds_only_with;

const LEDGER: LedgerId = LedgerId(5);
const OTHER: LedgerId = LedgerId(6);

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn member() -> Member {
    Member { bookie: "b-1".parse().unwrap(), incarnation: Incarnation(7) }
}

fn encoded(ledger: LedgerId, id: i64, payload: &'static [u8]) -> Bytes {
    let position =
        Position { ledger, entry: EntryId(id), lac: EntryId(id - 1), cumulative_length: 0 };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: id,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    entry::encode(cluster(), position, attributes, &Bytes::from_static(payload).into()).unwrap()
}

fn scope(ledger: LedgerId, epoch: u32) -> Scope {
    Scope {
        cluster: cluster(),
        ledger,
        fragment_first: EntryId(0),
        epoch: SealEpoch(epoch),
        incarnation: member().incarnation,
    }
}

fn add(first: i64, count: i64) -> WriteOp {
    let entries = (first..first + count).map(|id| encoded(LEDGER, id, b"payload")).collect();
    WriteOp::Add { first: EntryId(first), entries, lac: EntryId(first - 1) }
}

fn open_meta(ledger: LedgerId) -> LedgerMeta {
    LedgerMeta {
        id: ledger,
        state: MetaState::Open,
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

/// A store whose reads of ledgers can be held.
#[derive(Debug)]
struct Store {
    memory: MemoryStore,
    open: watch::Sender<bool>,
    reads: watch::Sender<usize>,
}

#[async_trait]
impl MetaStore for Store {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.reads.send_modify(|reads| *reads += 1);
        self.open.subscribe().wait_for(|open| *open).await.unwrap();
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
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

struct Bench {
    memory: MemoryDisk,
    disk: FaultyDisk,
    store: Arc<Store>,
    tasks: Tasks,
    handle: BookieHandle,
    mutations: Mutations,
}

impl Bench {
    async fn new() -> Self {
        Self::with(Mutations::default()).await
    }

    async fn with(mutations: Mutations) -> Self {
        let store = Store {
            memory: MemoryStore::new(),
            open: watch::Sender::new(true),
            reads: watch::Sender::new(0),
        };
        let bench = Self::on(MemoryDisk::new(), Arc::new(store), mutations).await;
        // Each of two segments when it has its header and when it is filled, and the mark in the first. From here on
        // only the committer syncs, so that it is the one that is held, or fails.
        let disk = bench.disk.clone();
        tokio::task::spawn_blocking(move || disk.wait_calls(Op::Sync, 5)).await.unwrap();
        for ledger in [LEDGER, OTHER] {
            bench.put(&open_meta(ledger)).await;
        }
        bench
    }

    async fn on(memory: MemoryDisk, store: Arc<Store>, mutations: Mutations) -> Self {
        let disk = FaultyDisk::new(memory.clone());
        let identity = log::Identity {
            cluster: cluster(),
            bookie: member().bookie,
            incarnation: member().incarnation,
            disk: DiskUuid::from_random(3),
        };
        let config = log::Config {
            segment_bytes: 1 << 20,
            prefill_bytes: 64 << 10,
            reserve_segments: 0,
            // So that reads come from the disk.
            window_bytes: 0,
            idle_mark: Duration::from_secs(3600),
            ..log::Config::default()
        };
        let opened = Log::open(Arc::new(disk.clone()), identity, config).unwrap();
        let tasks = Tasks::new("test");
        let parts = DiskParts {
            cluster: cluster(),
            member: member(),
            log: opened.log,
            ledgers: opened.ledgers,
            tombstones: opened.tombstones,
            owners: 1,
            reporter: crate::ledger::Reporter {
                store: store.clone(),
                member: member(),
                clock: Arc::new(geminga_runtime::ManualClock::at(0)),
            },
            checker: Checker::new(store.clone()),
            waiting: Arc::new(Semaphore::new(2)),
            mutations,
        };
        let ledgers = DiskLedgers::start(parts, &tasks);
        let handle = BookieHandle::new(
            cluster(),
            member().bookie,
            vec![ledgers],
            vec![],
            Requests::default(),
        );
        Self { memory, disk, store, tasks, handle, mutations }
    }

    /// The bookie after a power cut.
    async fn crash(&self) -> Self {
        Self::on(self.memory.crash(), Arc::clone(&self.store), self.mutations).await
    }

    async fn put(&self, meta: &LedgerMeta) {
        let txn = Txn::new().put(keys::ledger(meta.id), meta.encode());
        self.store.memory.txn(txn).await.unwrap();
    }

    fn ask(
        &self,
        ledger: LedgerId,
        epoch: u32,
        op: WriteOp,
    ) -> impl Future<Output = WriteReply> + Send + use<> {
        self.handle.write(WriteRequest { scope: scope(ledger, epoch), op })
    }

    async fn code(&self, epoch: u32, op: WriteOp) -> Code {
        self.ask(LEDGER, epoch, op).await.code
    }

    async fn tail(&self, epoch: u32, op: WriteOp) -> i64 {
        let reply = self.ask(LEDGER, epoch, op).await;
        assert_eq!(reply.code, Code::Ok, "{}", reply.detail);
        reply.durable_tail.0
    }

    async fn query(&self, op: QueryOp) -> QueryReply {
        self.handle.query(QueryRequest { scope: scope(LEDGER, 0), op }).await
    }

    async fn read(&self, from: i64, to: i64, max_bytes: u32) -> QueryReply {
        let (from, to) = (EntryId(from), EntryId(to));
        self.query(QueryOp::Read { from, to, max_bytes, prefix_bytes: None }).await
    }

    /// Until the log is inside a held sync.
    async fn wait_held(&self) {
        let disk = self.disk.clone();
        tokio::task::spawn_blocking(move || disk.wait_held(Op::Sync)).await.unwrap();
    }

    async fn wait_reads(&self, count: usize) {
        self.store.reads.subscribe().wait_for(|reads| *reads >= count).await.unwrap();
    }

    /// Rot in the payload of an entry, wherever it is stored.
    fn damage(&self, id: i64) {
        let payload = encoded(LEDGER, id, b"payload");
        for name in crate::io::Disk::list(&self.memory).unwrap() {
            // One that is being made gets another name meanwhile.
            let Ok(file) = crate::io::Disk::open(&self.memory, &name) else { continue };
            let mut content = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
            file.read_exact_at(0, &mut content).unwrap();
            if let Some(at) = content.windows(payload.len()).position(|w| w == payload) {
                self.memory.damage(&name, at + entry::HEADER_BYTES, 1);
            }
        }
    }

    fn count(&self) -> usize {
        self.handle.disks()[0].count()
    }
}

fn wait_lac(after: i64, deadline_ms: u32) -> QueryOp {
    QueryOp::WaitLac { after: EntryId(after), deadline_ms }
}

#[tokio::test]
async fn what_was_written_is_read_verbatim() {
    let bench = Bench::new().await;
    assert_eq!(bench.tail(0, WriteOp::Hello).await, -1);
    assert_eq!(bench.tail(0, add(0, 3)).await, 2);
    assert_eq!(bench.tail(0, add(3, 2)).await, 4);
    let reply = bench.read(1, 9, 1 << 20).await;
    let sent: Vec<_> = (1..5).map(|id| encoded(LEDGER, id, b"payload")).collect();
    assert_eq!((reply.code, &reply.entries, reply.lac), (Code::Ok, &sent, EntryId(2)));
    let one = bench.read(2, 4, 1).await;
    assert_eq!(one.entries, sent[1..2], "at least one");
    let size = u32::try_from(sent[0].len()).unwrap();
    assert_eq!(bench.read(1, 4, 2 * size).await.entries, sent[..2], "no more than asked for");
}

#[tokio::test]
async fn prefixes_are_cut_and_counted_as_cut() {
    let bench = Bench::new().await;
    bench.tail(0, add(0, 20)).await;
    let max_bytes = 10 * (entry::HEADER_BYTES as u32 + 3);
    let (from, to) = (EntryId(0), EntryId(19));
    let reply = bench.query(QueryOp::Read { from, to, max_bytes, prefix_bytes: Some(3) }).await;
    assert_eq!(reply.entries.len(), 10);
    let last = entry::decode_prefix(LEDGER, EntryId(9), &reply.entries[9]).unwrap();
    assert_eq!(&last.payload[..], b"pay");
}

/// K3: neither the first copy nor a second one is acknowledged before the sync (H20), and nobody reads it before.
#[test]
fn scenario_38_no_copy_is_acknowledged_before_the_sync() {
    holds_only_with(Mutation::AckDuplicateAtOnce, async |mutations| {
        let bench = Bench::with(mutations).await;
        bench.tail(0, WriteOp::Hello).await;
        bench.disk.hold(Op::Sync);
        let mut first = Box::pin(bench.ask(LEDGER, 0, add(0, 1)));
        bench.wait_held().await;
        let mut again = Box::pin(bench.ask(LEDGER, 0, add(0, 1)));
        let mut read = Box::pin(bench.read(0, 0, 1));
        // What is behind them in the owner's queue was answered, so they had their chance.
        let behind = bench.code(0, add(7, 1)).await;
        let early = ((&mut first).now_or_never(), (&mut again).now_or_never());
        let read_early = (&mut read).now_or_never();
        let crashed = bench.crash().await;
        bench.disk.release(Op::Sync);
        assert_eq!((behind, early), (Code::OutOfOrder, (None, None)));
        assert!(read_early.is_none());
        assert_eq!(crashed.ask(LEDGER, 1, WriteOp::Seal).await.durable_tail.0, -1);
        assert_eq!((first.await.durable_tail.0, again.await.durable_tail.0), (0, 0));
        assert_eq!(read.await.entries.len(), 1);
    });
}

/// F2, H1b: the answer to a seal waits for its sync, whatever the tail.
#[test]
fn scenario_20_no_seal_is_answered_before_the_sync() {
    let scenario = async |mutations| {
        let bench = Bench::with(mutations).await;
        bench.disk.hold(Op::Sync);
        let mut seal = Box::pin(bench.ask(LEDGER, 1, WriteOp::Seal));
        bench.wait_held().await;
        let refused = bench.code(0, add(0, 1)).await;
        let early = (&mut seal).now_or_never();
        let crashed = bench.crash().await;
        bench.disk.release(Op::Sync);
        assert_eq!((refused, early), (Code::Sealed, None), "refused from the start");
        assert_eq!(crashed.code(0, add(0, 1)).await, Code::Ok, "no seal was durable");
        assert_eq!(seal.await.durable_tail.0, -1);
        assert_eq!(bench.crash().await.code(0, add(0, 1)).await, Code::Sealed);
    };
    holds_only_with(Mutation::ReplyBeforeSealIsDurable, scenario);
    holds_only_with(Mutation::ReplyBeforeEmptySealIsDurable, scenario);
}

/// K5, H1: tails and seals are there after a power cut, and so is the refusal.
#[test]
fn scenario_19_a_seal_outlives_a_power_cut() {
    holds_only_with(Mutation::ForgetSeal, async |mutations| {
        let bench = Bench::with(mutations).await;
        assert_eq!(bench.tail(0, add(0, 3)).await, 2);
        let bench = bench.crash().await;
        assert_eq!(bench.tail(0, WriteOp::Hello).await, 2);
        assert_eq!(*bench.store.reads.borrow(), 1, "later contacts need no metadata");
        assert_eq!(bench.tail(0, add(3, 1)).await, 3);
        assert_eq!(bench.tail(4, WriteOp::Seal).await, 3);
        let bench = bench.crash().await;
        assert_eq!(bench.code(0, add(4, 1)).await, Code::Sealed);
        assert_eq!(bench.code(3, WriteOp::Seal).await, Code::StaleEpoch);
        let WriteOp::Add { first, entries, .. } = add(4, 1) else { unreachable!() };
        assert_eq!(bench.tail(4, WriteOp::RecoveryAdd { first, entries }).await, 4);
        assert_eq!(bench.read(0, 9, 1 << 20).await.entries.len(), 5);
    });
}

/// D3: the same id with other content is refused, and the stored entry stays.
#[test]
fn scenario_39_another_content_is_a_conflict() {
    holds_only_with(Mutation::SkipCompare, async |mutations| {
        let bench = Bench::with(mutations).await;
        bench.tail(0, add(0, 3)).await;
        assert_eq!(bench.tail(0, add(0, 3)).await, 2);
        let entries = vec![encoded(LEDGER, 1, b"payload"), encoded(LEDGER, 2, b"forged!")];
        let op = WriteOp::Add { first: EntryId(1), entries, lac: EntryId(0) };
        assert_eq!(bench.code(0, op).await, Code::Conflict);
        assert_eq!(bench.read(2, 2, 1).await.entries, [encoded(LEDGER, 2, b"payload")]);
        assert_eq!(bench.tail(0, add(3, 1)).await, 3);
    });
}

/// D1: what is not whole, or not what it says, does not get in.
#[tokio::test]
async fn bad_entries_are_refused() {
    let bench = Bench::new().await;
    let send = |bytes: Bytes| {
        let op = WriteOp::Add { first: EntryId(0), entries: vec![bytes], lac: EntryId::NONE };
        bench.code(0, op)
    };
    let mut flipped = encoded(LEDGER, 0, b"payload").to_vec();
    flipped[entry::HEADER_BYTES] ^= 1;
    assert_eq!(send(flipped.into()).await, Code::Corrupt);
    assert_eq!(send(Bytes::from_static(b"short")).await, Code::Corrupt);
    assert_eq!(send(encoded(OTHER, 0, b"payload")).await, Code::Invalid);
    assert_eq!(send(encoded(LEDGER, 1, b"payload")).await, Code::Invalid);
    assert_eq!(bench.count(), 0);
    assert_eq!(send(encoded(LEDGER, 0, b"payload")).await, Code::Ok);
}

/// K2: only an open ledger that names this disk-life is written to, and a refused one leaves nothing behind (H11, H12).
#[tokio::test]
async fn a_first_contact_needs_the_metadata() {
    let bench = Bench::new().await;
    let mut meta = open_meta(LEDGER);
    meta.fragments[0].ensemble[0].incarnation = Incarnation(8);
    bench.put(&meta).await;
    assert_eq!(bench.code(0, add(0, 1)).await, Code::Unauthorised);
    meta = open_meta(LEDGER);
    meta.state = MetaState::Closed;
    meta.last_entry = Some(EntryId(4));
    bench.put(&meta).await;
    assert_eq!(bench.code(0, WriteOp::Hello).await, Code::Sealed);
    let gone = Txn::new().delete(keys::ledger(LEDGER));
    bench.store.memory.txn(gone).await.unwrap();
    assert_eq!(bench.code(0, add(0, 1)).await, Code::Deleted);
    assert_eq!(bench.read(0, 0, 1).await.code, Code::NoSuchLedger);
    assert_eq!(bench.count(), 0);
}

/// Scenario 28, and a request that went astray.
#[tokio::test]
async fn scenario_28_only_this_life_in_this_cluster_answers() {
    let bench = Bench::new().await;
    bench.tail(0, add(0, 1)).await;
    let mut wrong = scope(LEDGER, 0);
    wrong.incarnation = Incarnation(8);
    let mut foreign = scope(LEDGER, 0);
    foreign.cluster = ClusterUuid::from_random(9);
    for (scope, code) in [(wrong, Code::WrongIncarnation), (foreign, Code::Unauthorised)] {
        for op in [WriteOp::Hello, WriteOp::Seal, add(1, 1)] {
            assert_eq!(bench.handle.write(WriteRequest { scope, op }).await.code, code);
        }
        let request = QueryRequest { scope, op: wait_lac(-1, 0) };
        assert_eq!(bench.handle.query(request).await.code, code);
    }
}

/// While one ledger's metadata is awaited, its requests wait in order, others go on, and a seal goes ahead.
#[tokio::test]
async fn a_slow_check_holds_up_its_own_ledger_only() {
    let bench = Bench::new().await;
    assert_eq!(bench.ask(OTHER, 0, WriteOp::Hello).await.code, Code::Ok);
    bench.store.open.send_replace(false);
    let hello = bench.ask(LEDGER, 0, WriteOp::Hello);
    let first = bench.ask(LEDGER, 0, add(0, 1));
    let second = bench.ask(LEDGER, 0, add(1, 1));
    bench.wait_reads(2).await;
    let entries = vec![encoded(OTHER, 0, b"x")];
    let op = WriteOp::Add { first: EntryId(0), entries, lac: EntryId::NONE };
    assert_eq!(bench.ask(OTHER, 0, op).await.code, Code::Ok);
    bench.store.open.send_replace(true);
    let tails =
        (hello.await.durable_tail.0, first.await.durable_tail.0, second.await.durable_tail.0);
    assert_eq!(tails, (-1, 0, 1));
    assert_eq!(*bench.store.reads.borrow(), 2, "one check admits them all");

    let bench = Bench::new().await;
    bench.store.open.send_replace(false);
    let late = bench.ask(LEDGER, 0, add(0, 1));
    bench.wait_reads(1).await;
    assert_eq!(bench.tail(1, WriteOp::Seal).await, -1);
    bench.store.open.send_replace(true);
    assert_eq!(late.await.code, Code::Sealed);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_makes_the_contact_busy() {
    let bench = Bench::new().await;
    bench.store.open.send_replace(false);
    assert_eq!(bench.code(0, WriteOp::Hello).await, Code::Busy);
}

/// K6: after a failed sync nothing is acknowledged, not even what a later look would find in memory, and the process is told to stop.
#[tokio::test]
async fn scenario_35_a_failed_sync_ends_all_acknowledgements() {
    let bench = Bench::new().await;
    assert_eq!(bench.tail(0, add(0, 1)).await, 0);
    bench.disk.fail(Op::Sync, 0, ErrorKind::Other);
    let ops = [add(1, 1), WriteOp::Hello, add(1, 1), add(2, 1), WriteOp::Seal];
    let asked: Vec<_> = ops
        .into_iter()
        .zip([0, 0, 0, 0, 3])
        .map(|(op, epoch)| bench.ask(LEDGER, epoch, op))
        .collect();
    for answer in asked {
        assert_eq!(answer.await.code, Code::IoError);
    }
    assert_ne!(bench.code(0, WriteOp::Hello).await.class(), Class::Positive);
    bench.tasks.cancelled().await;
    assert!(bench.tasks.finish(Duration::from_secs(5)).await);
}

/// K1, H8: rot in a segment makes an entry unknown, and not absent; the tail is what it was.
#[test]
fn scenario_32_rot_is_unknown_and_not_absent() {
    holds_only_with(Mutation::SayAbsent, async |mutations| {
        let bench = Bench::with(mutations).await;
        bench.tail(0, add(0, 3)).await;
        bench.damage(1);
        assert_eq!(bench.read(1, 1, 1).await.code, Code::Corrupt);
        assert_eq!(bench.read(2, 2, 1).await.code, Code::Ok);
        assert_eq!(bench.tail(1, WriteOp::Seal).await, 2);
    });
}

/// K1: what cannot be read is unknown, never absent.
#[test]
fn scenario_33_a_damaged_entry_is_not_taken_for_an_absent_one() {
    holds_only_with(Mutation::SayAbsent, async |mutations| {
        let bench = Bench::with(mutations).await;
        bench.tail(0, add(0, 1)).await;
        assert_eq!(bench.read(1, 1, 1).await.code, Code::NoSuchEntry);
        let payload = encoded(LEDGER, 0, b"payload");
        bench.damage(0);
        assert_eq!(bench.read(0, 0, 1).await.code, Code::Corrupt);
        bench.disk.fail(Op::Read, 0, ErrorKind::Other);
        assert_eq!(bench.read(0, 0, 1).await.code, Code::IoError);
        // Somebody is told, so that it is restored.
        let mark = async {
            let key = keys::under(LEDGER);
            loop {
                if let Some(found) = bench.store.memory.get(&key).await.unwrap() {
                    return Under::decode(LEDGER, &found.value).unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let mark =
            tokio::time::timeout(Duration::from_secs(30), mark).await.expect("marked in time");
        assert_eq!((mark.reason, mark.members), (UnderReason::Damaged, vec![member()]));
        bench.disk.fail(Op::Read, 0, ErrorKind::Other);
        assert_eq!(
            bench.code(0, add(0, 1)).await,
            Code::IoError,
            "a copy of it cannot be compared"
        );
        // Whoever sends it again restores it (D3): it is the same content, and it was held all the time.
        assert_eq!(bench.tail(0, add(0, 1)).await, 0);
        assert_eq!(bench.read(0, 0, 1).await.entries, [payload]);
        let other = WriteOp::Add {
            first: EntryId(0),
            entries: vec![encoded(LEDGER, 0, b"another")],
            lac: EntryId::NONE,
        };
        assert_eq!(bench.code(0, other).await, Code::Conflict);
    });
}

#[tokio::test]
async fn a_reader_is_woken_by_lac_and_seal() {
    let bench = Bench::new().await;
    assert_eq!(bench.query(wait_lac(-1, 0)).await.code, Code::NoSuchLedger);
    bench.tail(0, add(0, 1)).await;
    let woken = Box::pin(bench.query(wait_lac(-1, 60_000)));
    let (reply, _) = tokio::join!(woken, bench.ask(LEDGER, 0, WriteOp::AdvanceLac(EntryId(0))));
    assert_eq!((reply.code, reply.lac, reply.sealed), (Code::Ok, EntryId(0), false));
    assert_eq!(bench.query(wait_lac(-1, 60_000)).await.lac, EntryId(0), "at once");
    assert_eq!(bench.query(wait_lac(0, 1)).await.lac, EntryId(0), "at the deadline");
    let (reply, _) =
        tokio::join!(bench.query(wait_lac(0, 60_000)), bench.ask(LEDGER, 1, WriteOp::Seal));
    assert_eq!((reply.code, reply.sealed), (Code::Ok, true));
}

#[tokio::test]
async fn waiting_readers_are_bounded() {
    let bench = Bench::new().await;
    bench.tail(0, add(0, 1)).await;
    let mut first = Box::pin(bench.query(wait_lac(5, 60_000)));
    let mut second = Box::pin(bench.query(wait_lac(5, 60_000)));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    assert_eq!(bench.query(wait_lac(5, 60_000)).await.code, Code::Busy);
    drop(first);
    assert_eq!(bench.query(wait_lac(5, 1)).await.code, Code::Ok);
}

/// 5.8, K10, scenario 36: a disk that fills up refuses entries, later copies as well, and always seals and deletes.
#[test]
fn scenario_36_a_full_disk_still_seals_and_deletes() {
    holds_only_with(Mutation::SealNeedsRoom, async |mutations| {
        let bench = Bench::with(mutations).await;
        let disk = &bench.handle.disks()[0];
        bench.tail(0, WriteOp::Hello).await;
        disk.set_fullness(Fullness::Warn);
        assert_eq!(bench.code(0, add(0, 1)).await, Code::Ok);
        disk.set_fullness(Fullness::High);
        assert_eq!(bench.code(0, add(1, 1)).await, Code::ReadOnly);
        assert_eq!(bench.ask(OTHER, 0, WriteOp::Hello).await.code, Code::ReadOnly);
        assert_eq!(bench.tail(1, WriteOp::Seal).await, 0);
        let copies = |first| WriteOp::RecoveryAdd {
            first: EntryId(first),
            entries: vec![encoded(LEDGER, first, b"payload")],
        };
        assert_eq!(bench.tail(1, copies(1)).await, 1);
        disk.set_fullness(Fullness::Hard);
        assert_eq!(bench.code(1, copies(2)).await, Code::ReadOnly);
        assert_eq!(bench.tail(2, WriteOp::Seal).await, 1);
        assert_eq!(bench.read(0, 1, 1 << 20).await.entries.len(), 2);
        assert_eq!(disk.drop_ledger(LEDGER).await, Ok(true));
        assert_eq!(disk.drop_ledger(LEDGER).await, Ok(false));
        let bench = bench.crash().await;
        assert_eq!(bench.code(3, WriteOp::Seal).await, Code::Deleted);
        assert_eq!(bench.read(0, 1, 1 << 20).await.code, Code::Deleted);
    });
}

/// K10: a deletion, which gives space back, does not wait for writers to pause.
#[tokio::test]
async fn a_deletion_goes_ahead_of_the_queue() {
    let bench = Bench::new().await;
    bench.tail(0, WriteOp::Hello).await;
    let hint = |lac| bench.ask(LEDGER, 0, WriteOp::AdvanceLac(EntryId(lac)));
    let queued: Vec<_> = (0..1000).map(hint).collect();
    assert_eq!(bench.handle.disks()[0].drop_ledger(LEDGER).await, Ok(true));
    assert_eq!(queued.into_iter().next_back().unwrap().await.code, Code::Deleted);
}

/// Stopping answers what was accepted, and refuses what comes later.
#[tokio::test]
async fn stopping_drains() {
    let bench = Bench::new().await;
    bench.tail(0, WriteOp::Hello).await;
    bench.disk.hold(Op::Sync);
    let accepted = bench.ask(LEDGER, 0, add(0, 1));
    bench.wait_held().await;
    let (disk, tasks) = (bench.disk.clone(), bench.tasks.clone());
    tasks.cancel();
    disk.release(Op::Sync);
    assert!(tasks.finish(Duration::from_secs(5)).await);
    assert_eq!(accepted.await.durable_tail.0, 0);
    assert_eq!(bench.code(0, add(1, 1)).await, Code::Busy);
}

#[test]
fn neighbours_have_different_owners() {
    let mut hits = [0; 4];
    for id in 0..4000 {
        hits[shard_of(LedgerId(id), 4)] += 1;
    }
    assert!(hits.iter().all(|hits| (800..1200).contains(hits)), "{hits:?}");
}

/// F1, F2, I11, I12 and K5 at once, many times over: a writer pipelines adds while a recoverer seals, and the power fails in the
/// moment of the seal's answer. Nothing beyond the answered tail was or will be acknowledged, and all of it is on the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_40_a_seal_among_adds_is_final() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| SystemRandom.next_u64());
    println!("SEED={seed}");
    let random = SeededRandom::new(seed);
    for round in 0..15 {
        let bench = Bench::new().await;
        let adds = 1 + i64::try_from(random.below(60)).unwrap();
        let before = random.below(adds as u64) as usize;
        let mut answers: Vec<_> =
            (0..adds).take(before).map(|id| bench.ask(LEDGER, 0, add(id, 1))).collect();
        if random.below(2) == 0
            && let Some(last) = answers.pop()
        {
            assert_eq!(last.await.code, Code::Ok);
        }
        let seal = bench.ask(LEDGER, 1, WriteOp::Seal);
        answers.extend((0..adds).skip(before).map(|id| bench.ask(LEDGER, 0, add(id, 1))));
        let sealed = seal.await;
        let after = bench.crash().await;
        assert_eq!(sealed.code, Code::Ok, "round {round}");
        for answer in answers {
            let reply = answer.await;
            let acked = reply.code == Code::Ok;
            assert!(!acked || reply.durable_tail <= sealed.durable_tail, "round {round}");
        }
        assert_eq!(after.ask(LEDGER, 2, WriteOp::Seal).await.durable_tail, sealed.durable_tail);
        let tail = sealed.durable_tail.0;
        if tail >= 0 {
            assert_eq!(after.read(0, tail, 1 << 20).await.entries.len() as i64, tail + 1);
        }
        assert_eq!(after.code(0, add(tail + 1, 1)).await, Code::Sealed, "round {round}");
    }
}

#[tokio::test]
async fn a_panic_ends_its_ledger_and_no_other() {
    let bench = Bench::with(Mutations::only(Mutation::PanicOnClosed)).await;
    let of = |ledger, op| bench.ask(ledger, 0, op);
    let other = |id| WriteOp::Add {
        first: EntryId(id),
        entries: vec![encoded(OTHER, id, b"x")],
        lac: EntryId(id - 1),
    };
    assert_eq!(of(LEDGER, add(0, 1)).await.code, Code::Ok);
    assert_eq!(of(OTHER, other(0)).await.code, Code::Ok);
    assert_eq!(of(LEDGER, WriteOp::Closed(EntryId(0))).await.code, Code::IoError);

    // Unknown, whatever is asked: no negative, no ack, no tail.
    assert_eq!(of(LEDGER, add(1, 1)).await.code, Code::IoError);
    assert_eq!(bench.ask(LEDGER, 1, WriteOp::Seal).await.code, Code::IoError);
    assert_eq!(bench.read(0, 0, 100).await.code, Code::IoError);
    assert_eq!(of(OTHER, other(1)).await.code, Code::Ok);
    assert!(!bench.tasks.is_cancelled());

    // The log has what was acknowledged.
    let bench = bench.crash().await;
    assert_eq!(bench.tail(0, WriteOp::Hello).await, 0);
    assert_eq!(bench.code(1, WriteOp::Seal).await, Code::Ok);
}
