//! Starting, stopping, and starting again on the same directory.

use std::sync::Arc;
use std::time::Duration;

use geminga_bookie::StartError;
use geminga_metastore::record::LiveBookie;
use geminga_metastore::{MetaStore, Txn, keys};
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use crate::support::{LONG, Node, Single, memory_store};

async fn live(store: &dyn MetaStore, id: &str) -> Option<LiveBookie> {
    let found = store.get(&keys::bookie_live(&id.parse().unwrap())).await.unwrap()?;
    Some(LiveBookie::decode(&found.value).unwrap())
}

/// K5, F2, H1: what was acknowledged, and a seal, are there after a restart, and later contacts still know it.
#[tokio::test]
async fn tails_and_seals_survive_a_restart() {
    let single = Single::start().await;
    single.ask(0, single.add(0, 3)).await;
    let single = single.restart().await;
    assert_eq!(single.ask(0, WriteOp::Hello).await.durable_tail, EntryId(2));
    assert_eq!(single.ask(0, single.add(3, 1)).await.durable_tail, EntryId(3));
    assert_eq!(single.ask(1, WriteOp::Seal).await.durable_tail, EntryId(3));
    let single = single.restart().await;
    assert_eq!(single.ask(0, single.add(4, 1)).await.code, Code::Sealed);
    assert_eq!(single.ask(2, WriteOp::Seal).await.durable_tail, EntryId(3));
    single.node.stop().await;
}

/// A name that nobody gave is made once and kept.
#[tokio::test]
async fn a_bookie_keeps_its_name() {
    let (store, dir) = (memory_store(), tempfile::tempdir().unwrap());
    let node = Node::try_start(&store, dir.path(), None).await.unwrap();
    let id = node.bookie.id().clone();
    node.stop().await;
    let node = Node::try_start(&store, dir.path(), None).await.unwrap();
    assert_eq!(*node.bookie.id(), id);
    assert!(node.bookie.is_ready());
    node.stop().await;
    assert_eq!(live(&*store, id.as_str()).await, None, "it left");
}

/// A process that was killed leaves its registration and its lease behind. The next one serves at once.
#[tokio::test]
async fn a_killed_bookie_is_back_without_waiting_for_its_lease() {
    let (store, dir) = (memory_store(), tempfile::tempdir().unwrap());
    let node = Node::start(&store, dir.path(), "b-1").await;
    let mut left_behind = live(&*store, "b-1").await.unwrap();
    node.stop().await;
    let lease = store.grant_lease(Duration::from_secs(3600)).await.unwrap();
    left_behind.lease = lease;
    let key = keys::bookie_live(&left_behind.id);
    store.txn(Txn::new().put_leased(key, left_behind.encode(), lease)).await.unwrap();

    // Whoever waited for that would wait for an hour.
    let again = tokio::time::timeout(LONG, Node::start(&store, dir.path(), "b-1"));
    let node = again.await.expect("it does not wait for the lease");
    let registered = live(&*store, "b-1").await.unwrap();
    assert_eq!(registered.address, node.address);
    assert_ne!(registered.lease, lease);
    assert!(store.keep_alive(lease).await.is_err(), "the former lease has ended for it");
    node.stop().await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let (store, dir) = (memory_store(), tempfile::tempdir().unwrap());
    let node = Node::start(&store, dir.path(), "b-1").await;
    let Err(error) = Node::try_start(&store, dir.path(), None).await else {
        panic!("two processes on one directory")
    };
    assert!(matches!(error, StartError::Boot(_)), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(node.bookie.is_ready(), "the first one goes on");
    node.stop().await;
}

/// Of a disk and its copy the one that was started last goes on alone.
#[tokio::test]
async fn an_older_copy_of_a_disk_is_refused() {
    let (store, root) = (memory_store(), tempfile::tempdir().unwrap());
    let (dir, copy) = (root.path().join("disk"), root.path().join("copy"));
    Node::start(&store, &dir, "b-1").await.stop().await;
    std::fs::create_dir_all(copy.join("log")).unwrap();
    std::fs::copy(dir.join("cookie"), copy.join("cookie")).unwrap();
    for file in std::fs::read_dir(dir.join("log")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join("log").join(file.file_name())).unwrap();
    }
    Node::start(&store, &dir, "b-1").await.stop().await;
    let Err(error) = Node::try_start(&store, &copy, None).await else {
        panic!("a copy was started")
    };
    assert!(error.to_string().contains("older copy"), "{error}");
}

/// Each directory is a disk with a life and a log of its own; a request finds its disk by the incarnation it names.
#[tokio::test]
async fn several_disks_are_several_lives() {
    let (store, root) = (memory_store(), tempfile::tempdir().unwrap());
    let mut dirs: Vec<_> = ["one", "two"].map(|name| root.path().join(name)).into();
    let node = Node::try_start_on(&store, dirs.clone(), None).await.unwrap();
    let (bookie, cluster) = (node.bookie.id().clone(), node.bookie.cluster());
    let lives = node.bookie.incarnations();
    assert_eq!(live(&*store, bookie.as_str()).await.unwrap().disks.len(), 2);
    let ask = |node: &Node, disk: usize, epoch, op| {
        let scope = Scope {
            cluster,
            ledger: LedgerId(9),
            fragment_first: EntryId(0),
            epoch: SealEpoch(epoch),
            incarnation: lives[disk],
        };
        node.bookie.handle().write(WriteRequest { scope, op })
    };
    assert_eq!(ask(&node, 1, 3, WriteOp::Seal).await.code, Code::Ok);
    assert_eq!(ask(&node, 0, 2, WriteOp::Seal).await.code, Code::Ok, "not sealed on this disk");
    node.stop().await;

    // The order of the directories means nothing; leaving one out is refused.
    let Err(error) = Node::try_start(&store, &dirs[0], None).await else {
        panic!("started with one disk of two")
    };
    assert!(error.to_string().contains("2 disks"), "{error}");
    dirs.reverse();
    let node = Node::try_start_on(&store, dirs, None).await.unwrap();
    assert_eq!(node.bookie.incarnations(), [lives[1], lives[0]]);
    assert_eq!(ask(&node, 1, 2, WriteOp::Seal).await.code, Code::StaleEpoch);
    assert_eq!(ask(&node, 0, 2, WriteOp::Seal).await.code, Code::Ok);
    node.stop().await;
}

/// A bookie in the same process, without a network.
#[tokio::test]
async fn a_handle_is_a_connection() {
    let single = Single::start().await;
    let handle: Arc<dyn geminga_ledger::BookieConnection> = Arc::new(single.node.bookie.handle());
    let request =
        geminga_proto::bookie::WriteRequest { scope: single.scope(0), op: single.add(0, 2) };
    assert_eq!(handle.write(request).await.unwrap().durable_tail, EntryId(1));
    assert_eq!(single.ask(0, WriteOp::Hello).await.durable_tail, EntryId(1), "the same ledger");
}
