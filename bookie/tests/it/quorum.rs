//! Three bookies and the real ledger client: what was acknowledged is read back, whatever stops.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_bookie::Config as BookieConfig;
use geminga_ledger::{BookieDirectory, Config, CreateSpec, LedgerClient, Outcome, Parts, Writer};
use geminga_metastore::record::{Custom, LedgerMeta, LedgerState};
use geminga_metastore::{LedgerIds, MetaStore, Txn};
use geminga_proto::ids::{ClusterUuid, EntryId};
use geminga_runtime::{SystemClock, SystemRandom, Tasks};

use crate::support::{LONG, Node, attributes, config, directory, memory_store, wait_live};

pub(crate) struct Cluster {
    store: Arc<dyn MetaStore>,
    root: tempfile::TempDir,
    nodes: Vec<Option<Node>>,
    tasks: Tasks,
    directory: Arc<BookieDirectory>,
    client: LedgerClient,
    config: BookieConfig,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(config()).await
    }

    /// Three bookies that are configured so.
    pub(crate) async fn start_with(config: BookieConfig) -> Self {
        let (store, root, tasks) = (memory_store(), tempfile::tempdir().unwrap(), Tasks::new("t"));
        let mut nodes = Vec::new();
        for n in 0..3 {
            let (dir, id) = (root.path().join(format!("b-{n}")), format!("b-{n}"));
            let node = Node::try_start_with(&store, vec![dir], Some(&id), config.clone()).await;
            nodes.push(Some(node.unwrap()));
        }
        let directory = directory(&store, &tasks, 3).await;
        let cluster = nodes[0].as_ref().unwrap().bookie.cluster();
        let ids = Arc::new(LedgerIds::new(Arc::clone(&store), 0));
        let client = LedgerClient::new(Parts {
            cluster,
            ids,
            store: Arc::clone(&store),
            bookies: directory.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            tasks: tasks.clone(),
            config: Config {
                reconnect_grace: Duration::from_millis(300),
                recovery_deadline: Duration::from_secs(10),
                ..Config::default()
            },
            owner: "test".to_owned(),
        });
        Self { store, root, nodes, tasks, directory, client, config }
    }

    /// A client whose writers replace nobody.
    fn patient(&self) -> LedgerClient {
        LedgerClient::new(Parts {
            cluster: self.nodes[0].as_ref().unwrap().bookie.cluster(),
            ids: Arc::new(LedgerIds::new(Arc::clone(&self.store), 0)),
            store: Arc::clone(&self.store),
            bookies: self.directory.clone(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            tasks: self.tasks.clone(),
            config: Config { reconnect_grace: Duration::from_secs(3600), ..Config::default() },
            owner: "patient".to_owned(),
        })
    }

    fn live(&self) -> usize {
        self.nodes.iter().flatten().count()
    }

    pub(crate) async fn stop(&mut self, n: usize) {
        self.nodes[n].take().unwrap().stop().await;
        wait_live(&self.directory, self.live()).await;
    }

    pub(crate) async fn start_again(&mut self, n: usize) {
        let id = format!("b-{n}");
        let (dirs, config) = (vec![self.root.path().join(&id)], self.config.clone());
        let node = Node::try_start_with(&self.store, dirs, Some(&id), config).await;
        self.nodes[n] = Some(node.unwrap());
        wait_live(&self.directory, self.live()).await;
    }

    /// Loses all that one has, while it is stopped.
    pub(crate) fn wipe(&self, n: usize) {
        std::fs::remove_dir_all(self.root.path().join(format!("b-{n}"))).unwrap();
    }

    async fn create(&self) -> Writer {
        self.client.create(spec(), |_| Txn::new()).await.unwrap()
    }

    /// One of a topic's.
    pub(crate) async fn create_of(&self, custom: Custom) -> Writer {
        self.client.create(CreateSpec { custom, ..spec() }, |_| Txn::new()).await.unwrap()
    }

    /// One that replaces nobody.
    pub(crate) async fn create_patient(&self) -> Writer {
        self.patient().create(spec(), |_| Txn::new()).await.unwrap()
    }

    pub(crate) fn store(&self) -> Arc<dyn MetaStore> {
        Arc::clone(&self.store)
    }

    pub(crate) fn client(&self) -> &LedgerClient {
        &self.client
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    pub(crate) fn uuid(&self) -> ClusterUuid {
        self.nodes().next().unwrap().bookie.cluster()
    }

    async fn read_all(&self, meta: LedgerMeta) -> Vec<Bytes> {
        let last = meta.last_entry.expect("a closed ledger");
        let reader = self.client.reader(Arc::new(meta));
        let (mut payloads, mut next) = (Vec::new(), EntryId(0));
        while next <= last {
            let entries = reader.read(next, last, 1 << 20, None).await.unwrap();
            next = EntryId(next.0 + i64::try_from(entries.len()).unwrap());
            payloads.extend(entries.into_iter().map(|entry| entry.payload));
        }
        payloads
    }

    pub(crate) async fn end(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop().await;
        }
        assert!(self.tasks.finish(LONG).await);
    }
}

fn spec() -> CreateSpec {
    CreateSpec { qw: 3, qa: 2, custom: Custom::default() }
}

/// Payloads of many sizes, each unlike any other.
fn payload(n: i64) -> Bytes {
    let size = [10, 900, 70_000][usize::try_from(n % 3).unwrap()];
    let mut bytes = n.to_be_bytes().repeat(size / 8 + 1);
    bytes.truncate(size);
    bytes.into()
}

/// Appends `count` entries and waits for each to be acknowledged.
pub(crate) async fn append(writer: &mut Writer, count: i64) {
    let mut outcomes = Vec::new();
    for _ in 0..count {
        let n = writer.last_assigned().0 + 1;
        let payload = payload(n);
        writer.ready(payload.len()).await.unwrap();
        outcomes.push(writer.append(attributes(n), &payload.into()).unwrap().2);
    }
    for outcome in outcomes {
        let outcome = tokio::time::timeout(LONG, outcome).await.expect("acknowledged in time");
        assert_eq!(outcome, Outcome::Acked);
    }
}

/// What [`append`] wrote, of so many entries.
pub(crate) fn expected(count: i64) -> Vec<Bytes> {
    (0..count).map(payload).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_are_read_back_as_written() {
    let cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    append(&mut writer, 150).await;
    let meta = writer.close(LONG, |_| Txn::new()).await.unwrap();
    assert_eq!((meta.state, meta.last_entry), (LedgerState::Closed, Some(EntryId(149))));
    assert_eq!(cluster.read_all(meta).await, expected(150));
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_and_reading_go_on_without_one_bookie() {
    let mut cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    append(&mut writer, 30).await;
    cluster.stop(1).await;
    append(&mut writer, 60).await;
    let meta = writer.close(LONG, |_| Txn::new()).await.unwrap();
    assert_eq!(cluster.read_all(meta).await, expected(90));
    cluster.end().await;
}

/// 2.5: a fourth bookie takes the place of one that stopped, in the open ledger; each entry is on all three of its members.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spare_takes_the_place_of_a_bookie_that_stopped() {
    let mut cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    append(&mut writer, 30).await;
    let dir = cluster.root.path().join("b-3");
    cluster.nodes.push(Some(Node::start(&cluster.store, &dir, "b-3").await));
    wait_live(&cluster.directory, 4).await;
    cluster.stop(1).await;
    append(&mut writer, 60).await;
    let mut meta = writer.meta_watch();
    let changed = meta.wait_for(|meta| meta.fragments.len() == 2);
    drop(tokio::time::timeout(LONG, changed).await.expect("the ensemble changes").unwrap());
    append(&mut writer, 30).await;
    let names = |meta: &LedgerMeta| -> Vec<String> {
        let ensemble = &meta.last_fragment().ensemble;
        let mut names: Vec<_> = ensemble.iter().map(|m| m.bookie.to_string()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&writer.meta()), ["b-0", "b-2", "b-3"]);
    // What was written since is read although one of the two that stayed stops, too.
    let meta = writer.close(LONG, |_| Txn::new()).await.unwrap();
    assert_eq!(meta.last_entry, Some(EntryId(119)));
    cluster.stop(2).await;
    assert_eq!(cluster.read_all(meta).await, expected(120));
    cluster.end().await;
}

/// The same, and then the writer is gone: the ledger of two fragments is recovered (H3: from its last one on).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_two_fragments_is_recovered() {
    let mut cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    append(&mut writer, 30).await;
    let dir = cluster.root.path().join("b-3");
    cluster.nodes.push(Some(Node::start(&cluster.store, &dir, "b-3").await));
    wait_live(&cluster.directory, 4).await;
    cluster.stop(0).await;
    append(&mut writer, 3).await;
    let mut meta = writer.meta_watch();
    let changed = meta.wait_for(|meta| meta.fragments.len() == 2);
    drop(tokio::time::timeout(LONG, changed).await.expect("the ensemble changes").unwrap());
    append(&mut writer, 3).await;
    let id = writer.id();
    drop(writer);
    let meta = tokio::time::timeout(LONG, cluster.client.recover(id)).await.unwrap().unwrap();
    assert_eq!((meta.last_entry, meta.fragments.len()), (Some(EntryId(35)), 2));
    assert_eq!(cluster.read_all(meta).await, expected(36));
    cluster.end().await;
}

/// S5, F5: one of two members is gone, and the other has an entry that nobody acknowledged. A third bookie stands in, which
/// reads in the metadata that it may; the ledger names it only once it is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovery_finds_somebody_to_stand_in() {
    let mut cluster = Cluster::start().await;
    let spec = CreateSpec { qw: 2, ..spec() };
    let mut writer = cluster.patient().create(spec, |_| Txn::new()).await.unwrap();
    append(&mut writer, 10).await;
    let ensemble = writer.meta().fragments[0].ensemble.clone();
    let gone = (0..3).find(|n| ensemble[1].bookie.as_str() == format!("b-{n}")).unwrap();
    cluster.stop(gone).await;
    let (entry, _, _) = writer.append(attributes(10), &payload(10).into()).unwrap();
    let reader = cluster.client.reader(writer.meta());
    let stored = async {
        while reader.read(entry, entry, 1 << 20, None).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, stored).await.expect("the other one stores it");
    let id = writer.id();
    drop(writer);
    let meta = tokio::time::timeout(LONG, cluster.client.recover(id)).await.unwrap().unwrap();
    assert_eq!((meta.last_entry, meta.fragments.len()), (Some(entry), 2));
    let standing = &meta.last_fragment().ensemble;
    assert_eq!(standing[0], ensemble[0]);
    assert_ne!(standing[1].bookie, ensemble[1].bookie);
    assert_eq!(cluster.read_all(meta).await, expected(11));
    cluster.end().await;
}

/// I1, I3: a recoverer ends the ledger behind everything acknowledged, and its old writer acknowledges nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_ledger_is_recovered() {
    for stopped in [None, Some(0), Some(2)] {
        let mut cluster = Cluster::start().await;
        let mut writer = cluster.create().await;
        append(&mut writer, 40).await;
        if let Some(n) = stopped {
            cluster.stop(n).await;
        }
        let recover = cluster.client.recover(writer.id());
        let meta = tokio::time::timeout(LONG, recover).await.unwrap().unwrap();
        assert_eq!(meta.last_entry, Some(EntryId(39)), "{stopped:?} stopped");
        if let Ok((_, _, outcome)) = writer.append(attributes(40), &payload(40).into()) {
            assert_ne!(outcome.await, Outcome::Acked);
        }
        assert_eq!(cluster.read_all(meta).await, expected(40));
        cluster.end().await;
    }
}

/// K5 with a quorum: all bookies stop and start again, and the ledger that was left open is recovered from their disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_survives_a_restart_of_all_bookies() {
    let mut cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    append(&mut writer, 60).await;
    let id = writer.id();
    drop(writer);
    for n in 0..3 {
        cluster.stop(n).await;
    }
    for n in 0..3 {
        cluster.start_again(n).await;
    }
    let meta = tokio::time::timeout(LONG, cluster.client.recover(id)).await.unwrap().unwrap();
    assert_eq!(meta.last_entry, Some(EntryId(59)));
    assert_eq!(cluster.read_all(meta).await, expected(60));
    cluster.end().await;
}

/// A rolling restart below an open ledger: nothing acknowledged is lost, and writing goes on throughout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_nothing() {
    let mut cluster = Cluster::start().await;
    let mut writer = cluster.create().await;
    let mut closed = Vec::new();
    for n in 0..3 {
        append(&mut writer, 20).await;
        cluster.stop(n).await;
        append(&mut writer, 20).await;
        cluster.start_again(n).await;
        let (old, new) =
            cluster.client.roll(&mut writer, spec(), LONG, |_, _| Txn::new()).await.unwrap();
        closed.push(old);
        writer = new;
    }
    // Its task lives as long as its owner.
    drop(writer);
    for meta in closed {
        assert_eq!(cluster.read_all(meta).await, expected(40));
    }
    cluster.end().await;
}

/// 2.2: with two of three live a ledger is created on two, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_are_enough_to_create() {
    let mut cluster = Cluster::start().await;
    cluster.stop(2).await;
    let mut writer = cluster.create().await;
    assert_eq!((writer.meta().qw, writer.meta().degraded), (2, true));
    append(&mut writer, 20).await;
    cluster.start_again(2).await;
    let (old, mut new) =
        cluster.client.roll(&mut writer, spec(), LONG, |_, _| Txn::new()).await.unwrap();
    assert_eq!((new.meta().qw, new.meta().degraded), (3, false));
    append(&mut new, 10).await;
    let meta = new.close(LONG, |_| Txn::new()).await.unwrap();
    assert_eq!(cluster.read_all(old).await, expected(20));
    assert_eq!(cluster.read_all(meta).await, expected(10));
    cluster.end().await;
}
