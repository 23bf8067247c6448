//! Loss boot (protocol 5.7): refused unless it is allowed; then a disk that lost anything lives another life, and what is
//! left of the former one is read, and counts for nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use geminga_metastore::record::{Cookie, CookieDisk};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, WriteOp, WriteReply};
use geminga_proto::bookie::{Scope, WriteRequest};
use geminga_proto::ids::{EntryId, Incarnation, LedgerId, SealEpoch};

use crate::support::{LEDGER, Node, Single, memory_store, open_ledger, put_ledger};

async fn disks(store: &dyn MetaStore) -> Vec<CookieDisk> {
    let key = keys::bookie_cookie(&"b-1".parse().unwrap());
    Cookie::decode(&store.get(&key).await.unwrap().unwrap().value).unwrap().disks
}

/// Asks a bookie about the ledger of the tests, under one of its lives.
struct Asking<'a> {
    node: &'a Node,
    life: Incarnation,
}

impl Asking<'_> {
    fn scope(&self, ledger: LedgerId, epoch: u32) -> Scope {
        Scope {
            cluster: self.node.bookie.cluster(),
            ledger,
            fragment_first: EntryId(0),
            epoch: SealEpoch(epoch),
            incarnation: self.life,
        }
    }

    async fn write(&self, epoch: u32, op: WriteOp) -> WriteReply {
        let request = WriteRequest { scope: self.scope(LEDGER, epoch), op };
        self.node.bookie.handle().write(request).await
    }

    async fn read(&self, ledger: LedgerId, from: i64) -> QueryReply {
        let (from, to) = (EntryId(from), EntryId(from));
        let op = QueryOp::Read { from, to, max_bytes: 1 << 20, prefix_bytes: None };
        self.node.bookie.handle().query(QueryRequest { scope: self.scope(ledger, 0), op }).await
    }

    /// A lost life: `held` is read, everything else is unknown, nothing is added, and a seal does not count.
    async fn assert_lost(&self, held: std::ops::RangeInclusive<i64>, add: WriteOp) {
        for id in held.clone() {
            assert_eq!(self.read(LEDGER, id).await.code, Code::Ok, "{id}");
        }
        assert_eq!(self.read(LEDGER, held.end() + 1).await.code, Code::Limbo);
        assert_eq!(self.read(LedgerId(77), 0).await.code, Code::Limbo);
        for op in [WriteOp::Hello, add] {
            assert_eq!(self.write(0, op).await.code, Code::Limbo);
        }
        let sealed = self.write(4, WriteOp::Seal).await;
        assert_eq!((sealed.code, sealed.authoritative), (Code::Ok, false));
        assert_eq!(sealed.durable_tail, EntryId(*held.end()));
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

async fn assert_refused(store: &Arc<dyn MetaStore>, dirs: Vec<PathBuf>) {
    let Err(error) = Node::try_start_on(store, dirs, Some("b-1")).await else {
        panic!("started after a loss")
    };
    assert!(error.to_string().contains("--auto-heal"), "{error}");
}

/// Scenario 29: a wiped disk lives another life, and its former one is lost before anything is served.
#[tokio::test]
async fn scenario_29_a_wiped_disk_lives_another_life() {
    let (store, root) = (memory_store(), tempfile::tempdir().unwrap());
    let dirs: Vec<_> = ["one", "two"].map(|name| root.path().join(name)).into();
    let node = Node::try_start_on(&store, dirs.clone(), Some("b-1")).await.unwrap();
    let lives = node.bookie.incarnations();
    node.stop().await;
    std::fs::remove_dir_all(&dirs[1]).unwrap();
    assert_refused(&store, dirs.clone()).await;

    let node = Node::heal(&store, dirs.clone(), Some("b-1")).await.unwrap();
    let now = node.bookie.incarnations();
    assert_eq!(now[0], lives[0], "the other disk is whole");
    assert_ne!(now[1], lives[1]);
    let known = disks(&*store).await;
    let wiped = known.iter().find(|disk| disk.incarnation == now[1]).unwrap();
    assert_eq!(wiped.lost, [lives[1]]);
    let former = Asking { node: &node, life: lives[1] };
    assert_eq!(former.write(1, WriteOp::Seal).await.code, Code::WrongIncarnation, "scenario 28");
    assert_eq!(Asking { node: &node, life: now[1] }.write(1, WriteOp::Seal).await.code, Code::Ok);
    node.stop().await;
    // It is an ordinary bookie again.
    let node = Node::try_start_on(&store, dirs, Some("b-1")).await.unwrap();
    assert_eq!(node.bookie.incarnations(), now);
    node.stop().await;
}

/// Scenario 30: a disk restored from an older copy serves what it holds, for nobody to rely on.
#[tokio::test]
async fn scenario_30_a_restored_copy_counts_for_nothing() {
    let single = Single::start().await;
    single.ask(0, single.add(0, 3)).await;
    let single = single.restart().await;
    let copy = tempfile::tempdir().unwrap();
    let (dir, life) = (single.dir.path().to_owned(), single.incarnation);
    let add = single.add(3, 1);
    let store = Arc::clone(&single.store);
    single.node.stop().await;
    copy_dir(&dir, copy.path());
    let node = Node::try_start_on(&store, vec![dir.clone()], Some("b-1")).await.unwrap();
    assert_eq!(Asking { node: &node, life }.write(0, add.clone()).await.code, Code::Ok);
    node.stop().await;

    let restored = vec![copy.path().to_owned()];
    assert_refused(&store, restored.clone()).await;
    let node = Node::heal(&store, restored.clone(), Some("b-1")).await.unwrap();
    Asking { node: &node, life }.assert_lost(0..=2, add.clone()).await;
    let now = node.bookie.incarnations()[0];
    put_ledger(&*store, &open_ledger(LEDGER, &[node.member()])).await;
    let again = Asking { node: &node, life: now };
    assert_eq!(
        again.read(LEDGER, 0).await.code,
        Code::NoSuchLedger,
        "the new life vouches for itself"
    );
    assert_eq!(again.write(0, WriteOp::Hello).await.durable_tail, EntryId::NONE);
    node.stop().await;
    // The lost life is still there after another restart, and the original cannot come back.
    let node = Node::try_start_on(&store, restored, Some("b-1")).await.unwrap();
    Asking { node: &node, life }.assert_lost(0..=2, add).await;
    node.stop().await;
    assert_refused(&store, vec![dir]).await;
}

/// Scenario 30, where the copy was made since the last boot: its cookie and boot counter are right, and only the watermark
/// tells that it lost what was acknowledged afterwards.
#[tokio::test]
async fn scenario_30_a_copy_of_the_same_boot_is_behind_the_watermark() {
    let single = Single::start().await;
    single.ask(0, single.add(0, 3)).await;
    let copy = tempfile::tempdir().unwrap();
    let (dir, life, store) =
        (single.dir.path().to_owned(), single.incarnation, Arc::clone(&single.store));
    // Taken while it runs, as a snapshot of the machine is.
    copy_dir(&dir, copy.path());
    single.ask(0, single.add(3, 1)).await;
    let add = single.add(4, 1);
    single.node.stop().await;

    let restored = vec![copy.path().to_owned()];
    assert_refused(&store, restored.clone()).await;
    let node = Node::heal(&store, restored, Some("b-1")).await.unwrap();
    Asking { node: &node, life }.assert_lost(0..=2, add).await;
    assert_ne!(node.bookie.incarnations()[0], life);
    node.stop().await;
}

/// K8: what was on stable storage is damaged. Whole frames on both sides of it are still read.
#[tokio::test]
async fn a_damaged_log_is_a_lost_life() {
    let single = Single::start().await;
    for id in 0..4 {
        single.ask(0, single.add(id, 1)).await;
    }
    let (dir, life, add) = (single.dir.path().to_owned(), single.incarnation, single.add(4, 1));
    let store = Arc::clone(&single.store);
    single.node.stop().await;
    let mut damaged = false;
    for file in std::fs::read_dir(dir.join("log")).unwrap() {
        let path = file.unwrap().path();
        let mut content = std::fs::read(&path).unwrap();
        let text = b"entry 2 of the test";
        if let Some(at) = content.windows(text.len()).position(|window| window == text) {
            content[at] ^= 1;
            std::fs::write(&path, content).unwrap();
            damaged = true;
        }
    }
    assert!(damaged);
    assert_refused(&store, vec![dir.clone()]).await;
    let node = Node::heal(&store, vec![dir], Some("b-1")).await.unwrap();
    let former = Asking { node: &node, life };
    for (id, code) in [(0, Code::Ok), (1, Code::Ok), (2, Code::Limbo), (3, Code::Ok)] {
        assert_eq!(former.read(LEDGER, id).await.code, code, "{id}");
    }
    former.assert_lost(0..=1, add).await;
    assert_eq!(disks(&*store).await[0].lost, [life]);
    node.stop().await;
}
