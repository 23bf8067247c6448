//! Bookies, a store and entries for the tests.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_bookie::{Bookie, BookieParts, Config, Limits, StartError, log};
use geminga_ledger::{BookieConnection, BookieDirectory, Bookies};
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier};
use geminga_metastore::{MemoryStore, MetaStore, Txn, keys};
use geminga_proto::bookie::{Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{
    BookieId, ClusterUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch,
};
use geminga_runtime::requests::{Requests, RequestsConfig};
use geminga_runtime::{SystemClock, SystemRandom, Tasks};
use geminga_tls::{Dial, Security};
use tokio::net::TcpListener;

/// No test waits longer for anything that should take milliseconds.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A bookie on a socket of its own.
pub(crate) struct Node {
    pub(crate) bookie: Bookie,
    pub(crate) tasks: Tasks,
    pub(crate) address: String,
}

pub(crate) fn config() -> Config {
    Config {
        log: log::Config {
            segment_bytes: 4 << 20,
            prefill_bytes: 256 << 10,
            ..log::Config::default()
        },
        // Full disks have tests of their own.
        limits: Limits { warn_percent: 100, read_only_percent: 100, hard_percent: 100 },
        ..Config::default()
    }
}

impl Node {
    /// Starts the bookie of `dir`.
    pub(crate) async fn try_start(
        store: &Arc<dyn MetaStore>,
        dir: &Path,
        id: Option<&str>,
    ) -> Result<Self, StartError> {
        Self::try_start_on(store, vec![dir.to_owned()], id).await
    }

    /// Starts the bookie of several directories.
    pub(crate) async fn try_start_on(
        store: &Arc<dyn MetaStore>,
        dirs: Vec<PathBuf>,
        id: Option<&str>,
    ) -> Result<Self, StartError> {
        Self::try_start_with(store, dirs, id, config()).await
    }

    /// Starts the bookie of several directories, which may go on after a loss.
    pub(crate) async fn heal(
        store: &Arc<dyn MetaStore>,
        dirs: Vec<PathBuf>,
        id: Option<&str>,
    ) -> Result<Self, StartError> {
        Self::try_start_with(store, dirs, id, Config { auto_heal: true, ..config() }).await
    }

    /// Starts the bookie of several directories as `config` says.
    pub(crate) async fn try_start_with(
        store: &Arc<dyn MetaStore>,
        dirs: Vec<PathBuf>,
        id: Option<&str>,
        config: Config,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::new("node");
        let bookie = Bookie::start(BookieParts {
            store: Arc::clone(store),
            dirs,
            id: id.map(|id| id.parse().unwrap()),
            zone: String::new(),
            advertise: address.clone(),
            http_address: String::new(),
            dial: Dial::Plain,
            random: Arc::new(SystemRandom),
            clock: Arc::new(SystemClock),
            requests: Requests::new(EVERY, &SystemRandom),
            tasks: tasks.clone(),
            config,
        })
        .await?;
        bookie.serve(listener, Security::plain("bookie")).await?;
        Ok(Self { bookie, tasks, address })
    }

    pub(crate) async fn start(store: &Arc<dyn MetaStore>, dir: &Path, id: &str) -> Self {
        Self::try_start(store, dir, Some(id)).await.unwrap()
    }

    /// Stops in order, which is no failure of the process.
    pub(crate) async fn stop(self) {
        self.bookie.shutdown(LONG).await;
        assert!(!self.tasks.is_cancelled());
    }

    pub(crate) fn member(&self) -> Member {
        Member { bookie: self.bookie.id().clone(), incarnation: self.bookie.incarnations()[0] }
    }
}

pub(crate) fn memory_store() -> Arc<dyn MetaStore> {
    Arc::new(MemoryStore::new())
}

/// A directory that knows `count` live bookies.
pub(crate) async fn directory(
    store: &Arc<dyn MetaStore>,
    tasks: &Tasks,
    count: usize,
) -> Arc<BookieDirectory> {
    let directory = BookieDirectory::start(
        &**store,
        tasks.clone(),
        HashMap::new(),
        geminga_ledger::Config::default().lane_bytes,
        Dial::Plain,
    )
    .await
    .unwrap();
    wait_live(&directory, count).await;
    directory
}

/// Until `count` bookies are registered.
pub(crate) async fn wait_live(directory: &BookieDirectory, count: usize) {
    let mut changed = directory.changed();
    let there = changed.wait_for(|_| directory.live().len() == count);
    tokio::time::timeout(LONG, there).await.expect("bookies are registered in time").unwrap();
}

/// One bookie, one open ledger on it, and a connection over the network.
pub(crate) struct Single {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) node: Node,
    pub(crate) cluster: ClusterUuid,
    pub(crate) incarnation: Incarnation,
    pub(crate) connection: Arc<dyn BookieConnection>,
    tasks: Tasks,
}

pub(crate) const LEDGER: LedgerId = LedgerId(5);
/// Every request is slow.
const EVERY: RequestsConfig =
    RequestsConfig { slow: Duration::from_nanos(1), traced: 0.0, adopt: None };

impl Single {
    pub(crate) async fn start() -> Self {
        let (store, dir) = (memory_store(), tempfile::tempdir().unwrap());
        let node = Node::start(&store, dir.path(), "b-1").await;
        put_ledger(&*store, &open_ledger(LEDGER, &[node.member()])).await;
        Self::connect(store, dir, node).await
    }

    async fn connect(store: Arc<dyn MetaStore>, dir: tempfile::TempDir, node: Node) -> Self {
        let tasks = Tasks::new("client");
        let connection = directory(&store, &tasks, 1).await.connection(node.bookie.id()).unwrap();
        let (cluster, incarnation) = (node.bookie.cluster(), node.bookie.incarnations()[0]);
        Self { store, dir, node, cluster, incarnation, connection, tasks }
    }

    /// Stops the process and starts it again on the same directory.
    pub(crate) async fn restart(self) -> Self {
        let id: BookieId = self.node.bookie.id().clone();
        self.node.stop().await;
        assert!(self.tasks.finish(LONG).await);
        let node = Node::start(&self.store, self.dir.path(), id.as_str()).await;
        assert_eq!(node.bookie.incarnations()[0], self.incarnation, "the same life");
        Self::connect(self.store, self.dir, node).await
    }

    pub(crate) fn scope(&self, epoch: u32) -> Scope {
        Scope {
            cluster: self.cluster,
            ledger: LEDGER,
            fragment_first: EntryId(0),
            epoch: SealEpoch(epoch),
            incarnation: self.incarnation,
        }
    }

    pub(crate) fn ask(&self, epoch: u32, op: WriteOp) -> impl Future<Output = WriteReply> + use<> {
        let reply = self.connection.write(WriteRequest { scope: self.scope(epoch), op });
        async move { tokio::time::timeout(LONG, reply).await.expect("answered in time").unwrap() }
    }

    pub(crate) fn add(&self, first: i64, count: i64) -> WriteOp {
        let entries = (first..first + count).map(|id| self.entry(id)).collect();
        WriteOp::Add { first: EntryId(first), entries, lac: EntryId(first - 1) }
    }

    pub(crate) fn recovery_add(&self, first: i64, count: i64) -> WriteOp {
        let entries = (first..first + count).map(|id| self.entry(id)).collect();
        WriteOp::RecoveryAdd { first: EntryId(first), entries }
    }

    pub(crate) fn entry(&self, id: i64) -> Bytes {
        let position = Position {
            ledger: LEDGER,
            entry: EntryId(id),
            lac: EntryId(id - 1),
            cumulative_length: 0,
        };
        let payload = Bytes::from(format!("entry {id} of the test"));
        entry::encode(self.cluster, position, attributes(id), &payload.into()).unwrap()
    }
}

pub(crate) fn attributes(offset: i64) -> Attributes {
    Attributes {
        kind: Kind::Batches,
        first_offset: offset,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    }
}

pub(crate) fn open_ledger(id: LedgerId, ensemble: &[Member]) -> LedgerMeta {
    let qw = u8::try_from(ensemble.len()).unwrap();
    LedgerMeta {
        id,
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw,
        qa: qw.min(2),
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: ensemble.to_vec() }],
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

pub(crate) async fn put_ledger(store: &dyn MetaStore, meta: &LedgerMeta) {
    store.txn(Txn::new().put(keys::ledger(meta.id), meta.encode())).await.unwrap();
}
