use std::fs;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use geminga_metastore::record::Restored;
use geminga_metastore::{
    LeaseId, MemoryStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};
use geminga_runtime::{SeededRandom, SystemClock};
use parking_lot::Mutex;

use super::*;

async fn start(
    store: &dyn MetaStore,
    dirs: &[PathBuf],
    id: Option<&str>,
    seed: u64,
) -> Result<Booted, BootError> {
    let id = id.map(|id| id.parse().unwrap());
    boot(store, dirs, id, false, &SeededRandom::new(seed), &SystemClock).await
}

fn dirs(root: &Path, count: usize) -> Vec<PathBuf> {
    (0..count).map(|n| root.join(format!("d{n}"))).collect()
}

/// What the log does.
fn write_log(dir: &Path) {
    fs::create_dir_all(dir.join("log")).unwrap();
    fs::write(dir.join("log/0000000000000001.log"), b"x").unwrap();
}

async fn used(store: &dyn MetaStore, dirs: &[PathBuf]) -> BookieId {
    let mut booted = start(store, dirs, None, 1).await.unwrap();
    for disk in &mut booted.disks {
        write_log(disk.dir.path());
        disk.in_service().unwrap();
    }
    booted.bookie
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::copy(from.join("cookie"), to.join("cookie")).unwrap();
    write_log(to);
}

/// Of two copies, not the one that the store knows; its number may be either side of the other's.
fn is_copy(error: &BootError) -> bool {
    matches!(error, BootError::Refused(Refusal::OlderCopy { .. } | Refusal::AheadOfStore { .. }))
}

/// The store goes back to where it held this cookie, perhaps in another epoch.
async fn go_back(store: &MemoryStore, cookie: &Cookie, epochs: u16, audited: bool) {
    let key = keys::bookie_cookie(&cookie.bookie);
    store.txn(Txn::new().put(key, cookie.encode())).await.unwrap();
    let (found, version) = cluster::read(store).await.unwrap().unwrap();
    let restored = (epochs > 0).then_some(Restored { at_ms: 1, audited });
    let raised = Cluster { epoch: found.epoch + epochs, restored, ..found };
    store.put_if(keys::CLUSTER, Some(version), raised.encode()).await.unwrap().unwrap();
}

/// A bookie that was started twice more than the cookie says that the store once held.
async fn ahead(store: &MemoryStore, dirs: &[PathBuf]) -> Cookie {
    let bookie = used(store, dirs).await;
    let (cookie, _) = read_cookie(store, &bookie).await.unwrap().unwrap();
    for seed in [2, 3] {
        start(store, dirs, None, seed).await.unwrap();
    }
    cookie
}

async fn start_healing(
    store: &dyn MetaStore,
    dirs: &[PathBuf],
    seed: u64,
) -> Result<Booted, BootError> {
    boot(store, dirs, None, true, &SeededRandom::new(seed), &SystemClock).await
}

/// 6.8: a first start in the epoch of a restored store ends anywhere, and the next one goes on from there.
#[tokio::test]
async fn a_first_start_in_a_raised_epoch_is_repeated() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 2);
    let cookie = ahead(&store, &dirs).await;
    go_back(&store, &cookie, 1, false).await;
    for seed in 4..8 {
        assert!(start(&Unreachable(store.clone()), &dirs, None, seed).await.is_err());
    }
    let booted = start(&store, &dirs, None, 9).await.unwrap();
    let lives: Vec<_> = booted.disks.iter().map(BootedDisk::incarnation).collect();
    let known: Vec<_> = cookie.disks.iter().map(|disk| disk.incarnation).collect();
    assert_eq!(lives, known);
    drop(booted);
    // The same backup again, to the epoch that was there before.
    go_back(&store, &cookie, 0, false).await;
    let error = start(&store, &dirs, None, 10).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::AheadOfStore { .. })), "{error}");
}

/// 5.7, 6.8: going on after a loss is allowed, and nothing was lost: the metadata went back, whether or not it says so.
#[tokio::test]
async fn metadata_that_went_back_ends_no_life() {
    for (epochs, audited) in [(0, true), (1, false)] {
        let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let dirs = dirs(root.path(), 1);
        let cookie = ahead(&store, &dirs).await;
        go_back(&store, &cookie, epochs, audited).await;
        if epochs == 0 {
            let error = start_healing(&store, &dirs, 4).await.unwrap_err();
            let ahead = matches!(error, BootError::Refused(Refusal::AheadOfStore { .. }));
            assert!(ahead, "{error}");
            go_back(&store, &cookie, 1, false).await;
        }
        let booted = start_healing(&store, &dirs, 5).await.unwrap();
        assert_eq!(booted.disks[0].incarnation(), cookie.disks[0].incarnation);
        assert_eq!(booted.disks[0].lost_lives().unwrap(), []);
    }
}

/// 5.7, 6.8: the log of one disk is gone, and a start that ends its life ends itself behind the metadata store, before it comes to the disk.
/// Until the audit no other life than the store's goes on, but this one the store calls lost: the start is repeated.
#[tokio::test]
async fn a_loss_boot_before_the_audit_is_repeated() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 2);
    let cookie = ahead(&store, &dirs).await;
    go_back(&store, &cookie, 1, false).await;
    fs::remove_dir_all(dirs[0].join("log")).unwrap();
    let former: Vec<_> = cookie.disks.iter().map(|disk| disk.incarnation).collect();
    for seed in 4..6 {
        assert!(start_healing(&Cut(store.clone()), &dirs, seed).await.is_err());
    }
    assert!(start(&store, &dirs, None, 6).await.is_err(), "without leave");
    let booted = start_healing(&store, &dirs, 7).await.unwrap();
    assert_eq!(booted.disks[1].incarnation(), former[1], "the other disk keeps its life");
    assert_ne!(booted.disks[0].incarnation(), former[0]);
    let (stored, _) = read_cookie(&store, &booted.bookie).await.unwrap().unwrap();
    assert!(stored.disks[0].lost.contains(&former[0]), "{stored:?}");
    assert_eq!(stored.disks[0].incarnation, booted.disks[0].incarnation());
}

/// The same for a disk that is found damaged when it is opened (K8): what is left of it is set aside by the next start.
#[tokio::test]
async fn the_end_of_a_damaged_disks_life_is_repeated() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 2);
    let cookie = ahead(&store, &dirs).await;
    go_back(&store, &cookie, 1, false).await;
    let mut booted = start_healing(&store, &dirs, 4).await.unwrap();
    let former = booted.disks[0].incarnation();
    assert!(booted.lose(&Cut(store.clone()), 0, &SeededRandom::new(5)).await.is_err());
    drop(booted);
    let booted = start_healing(&store, &dirs, 6).await.unwrap();
    assert_ne!(booted.disks[0].incarnation(), former);
    let lost = booted.disks[0].lost_lives().unwrap();
    assert_eq!(lost.iter().map(|(life, _)| *life).collect::<Vec<_>>(), [former]);
    assert_eq!(booted.disks[1].lost_lives().unwrap(), []);
}

#[tokio::test]
async fn an_identity_is_made_once_and_kept() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 2);
    let first = start(&store, &dirs, None, 1).await.unwrap();
    let lives: Vec<_> = first.disks.iter().map(|d| (d.disk(), d.incarnation())).collect();
    assert_ne!(lives[0], lives[1]);
    let (name, counter) = (first.bookie.clone(), first.disks[0].cookie.boot_counter);
    assert!(name.as_str().starts_with("bookie-"));
    drop(first);
    let second = start(&store, &dirs, None, 2).await.unwrap();
    assert_eq!(second.bookie, name);
    let again: Vec<_> = second.disks.iter().map(|d| (d.disk(), d.incarnation())).collect();
    assert_eq!(again, lives);
    assert!(second.disks[0].cookie.boot_counter > counter);
}

/// A crash at any point of the first boot: the identity that was chosen is the one that is used.
#[tokio::test]
async fn a_first_boot_is_resumed_from_anywhere() {
    // Before the create: one directory written, or both.
    for reached in [1, 2] {
        let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let dirs = dirs(root.path(), 2);
        let down = Unreachable(store.clone());
        let error = start(&down, &dirs, Some("b-1"), 1).await.unwrap_err();
        assert!(matches!(error, BootError::Metadata(MetaError::Unavailable(_))), "{error}");
        let chosen = DataDir::open(&dirs[0]).unwrap().read_cookie().unwrap().unwrap();
        if reached == 1 {
            fs::remove_file(dirs[1].join("cookie")).unwrap();
        }
        let booted = start(&store, &dirs, None, 2).await.unwrap();
        let lives: Vec<_> = booted.disks.iter().map(|d| (d.disk(), d.incarnation())).collect();
        assert_eq!(lives, chosen.disks, "{reached} directories written");
    }
    // Behind the create: the disks are still provisional.
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    let mut booted = start(&store, &dirs, None, 1).await.unwrap();
    let cookie = &mut booted.disks[0].cookie;
    cookie.stage = Stage::Provisional;
    let cookie = cookie.clone();
    booted.disks[0].dir.write_cookie(&cookie).unwrap();
    drop(booted);
    let booted = start(&store, &dirs, None, 2).await.unwrap();
    assert_eq!(booted.disks[0].disk(), cookie.disk);
    assert_eq!(booted.disks[0].cookie.stage, Stage::Registered);
}

/// A crash between the disk's counter and the store's.
#[tokio::test]
async fn a_boot_that_raised_only_the_disk_is_repeated() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    used(&store, &dirs).await;
    assert!(start(&Unreachable(store.clone()), &dirs, None, 2).await.is_err());
    assert!(start(&store, &dirs, None, 3).await.is_ok());
}

#[tokio::test]
async fn the_older_of_two_copies_is_refused() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    used(&store, &dirs).await;
    let clone = root.path().join("clone");
    copy(&dirs[0], &clone);
    let running = start(&store, &dirs, None, 2).await.unwrap();
    let error = start(&store, std::slice::from_ref(&clone), None, 3).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::OlderCopy { .. })), "{error}");
    drop(running);
    assert!(start(&store, &dirs, None, 4).await.is_ok());
}

/// Two copies that start at the same moment: one transaction wins, and the other sees it.
#[tokio::test]
async fn two_copies_never_both_start() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    used(&store, &dirs).await;
    let clone = root.path().join("clone");
    copy(&dirs[0], &clone);
    // The clone boots while the original is between reading and writing.
    let overtaken = Overtaken { store: store.clone(), clone: Mutex::new(Some(clone)) };
    let error = start(&overtaken, &dirs, None, 2).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::Clone(_))), "{error}");
}

/// H7: the copy that lost that race has raised its own counter, perhaps above the winner's. It stays the loser for good:
/// the winner has taken data since.
#[tokio::test]
async fn the_loser_of_a_race_is_refused_ever_after() {
    for seed in 100..110 {
        let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let dirs = dirs(root.path(), 1);
        used(&store, &dirs).await;
        let clone = root.path().join("clone");
        copy(&dirs[0], &clone);
        let overtaken = Overtaken { store: store.clone(), clone: Mutex::new(Some(clone.clone())) };
        assert!(start(&overtaken, &dirs, None, seed).await.is_err());
        let error = start(&store, &dirs, None, seed).await.unwrap_err();
        assert!(is_copy(&error), "{error}");
        assert!(start(&store, &[clone], None, seed).await.is_ok());
    }
}

/// The same for copies of what a first boot left that did not come to its end: one of them becomes the bookie.
#[tokio::test]
async fn copies_of_a_first_boot_never_both_start() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    assert!(start(&Unreachable(store.clone()), &dirs, None, 1).await.is_err());
    let clone = |name: &str| {
        let clone = root.path().join(name);
        fs::create_dir_all(&clone).unwrap();
        fs::copy(dirs[0].join("cookie"), clone.join("cookie")).unwrap();
        clone
    };
    let (at_once, later) = (clone("at-once"), clone("later"));
    let overtaken = Overtaken { store: store.clone(), clone: Mutex::new(Some(at_once.clone())) };
    let error = start(&overtaken, &dirs, None, 2).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::Clone(_))), "{error}");
    for loser in [&dirs[0], &later] {
        let error = start(&store, std::slice::from_ref(loser), None, 3).await.unwrap_err();
        assert!(is_copy(&error), "{error}");
    }
    assert!(start(&store, &[at_once], None, 4).await.is_ok());
}

/// M9: a boot that gave up may still reach the store, whatever was tried meanwhile.
#[tokio::test]
async fn a_boot_counter_that_arrives_late_is_known() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    used(&store, &dirs).await;
    let down = Unreachable(store.clone());
    assert!(start(&down, &dirs, None, 2).await.is_err());
    let first = DataDir::open(&dirs[0]).unwrap().read_cookie().unwrap().unwrap();
    assert!(start(&down, &dirs, None, 3).await.is_err());
    let (mut stored, version) = read_cookie(&store, &first.bookie).await.unwrap().unwrap();
    stored.disks[0].boot_counter = first.boot_counter;
    let key = keys::bookie_cookie(&first.bookie);
    store.put_if(&key, Some(version), stored.encode()).await.unwrap().unwrap();
    assert!(start(&store, &dirs, None, 4).await.is_ok());
}

/// M9: a transaction that was applied though nobody answered is ours.
#[tokio::test]
async fn an_unanswered_write_is_looked_up() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    cluster::open_or_init(&store, &SeededRandom::new(9), &SystemClock).await.unwrap();
    for seed in [1, 2] {
        let booted = start(&Mute(store.clone()), &dirs, None, seed).await.unwrap();
        let (stored, version) = read_cookie(&store, &booted.bookie).await.unwrap().unwrap();
        assert_eq!(version, booted.cookie);
        assert_eq!(stored.disks[0].boot_counter, booted.disks[0].cookie.boot_counter);
    }
}

#[tokio::test]
async fn a_wiped_log_and_a_foreign_store_are_refused() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let dirs = dirs(root.path(), 1);
    used(&store, &dirs).await;
    let error = start(&MemoryStore::new(), &dirs, None, 2).await.unwrap_err();
    assert!(matches!(error, BootError::NoCluster { .. }), "{error}");
    let other = MemoryStore::new();
    cluster::open_or_init(&other, &SeededRandom::new(9), &SystemClock).await.unwrap();
    let error = start(&other, &dirs, None, 2).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::OtherCluster { .. })), "{error}");
    fs::remove_dir_all(dirs[0].join("log")).unwrap();
    fs::create_dir(dirs[0].join("log")).unwrap();
    fs::write(dirs[0].join("log/README"), b"none of ours").unwrap();
    let error = start(&store, &dirs, None, 2).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::LogMissing(_))), "{error}");
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let (root, store) = (tempfile::tempdir().unwrap(), MemoryStore::new());
    let name = used(&store, &dirs(root.path(), 1)).await;
    let other = root.path().join("other");
    let error = start(&store, &[other], Some(name.as_str()), 2).await.unwrap_err();
    assert!(matches!(error, BootError::Refused(Refusal::DiskMissing { .. })), "{error}");
}

/// A store whose cookies cannot be written.
#[derive(Debug)]
struct Unreachable(MemoryStore);

/// A store that applies a write of a cookie and never says so.
#[derive(Debug)]
struct Mute(MemoryStore);

/// A store behind whose writes of cookies whoever makes them ends.
#[derive(Debug)]
struct Cut(MemoryStore);

/// A store in which a clone boots before the first write of a cookie.
#[derive(Debug)]
struct Overtaken {
    store: MemoryStore,
    clone: Mutex<Option<PathBuf>>,
}

fn of_cookie(txn: &Txn) -> bool {
    format!("{txn:?}").contains(keys::BOOKIE_COOKIES)
}

/// Generates the reads and leases of a store that wraps another.
macro_rules! store_with_txn {
    ($name:ty, $inner:tt, |$this:ident, $txn:ident| $body:expr) => {
        #[async_trait]
        impl MetaStore for $name {
            async fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
                self.$inner.get(key).await
            }
            async fn range(
                &self,
                prefix: &str,
                after: Option<&str>,
                limit: usize,
            ) -> Result<Range, MetaError> {
                self.$inner.range(prefix, after, limit).await
            }
            async fn txn(&self, $txn: Txn) -> Result<TxnOutcome, MetaError> {
                let $this = self;
                $body
            }
            async fn watch(
                &self,
                prefix: &str,
                from: Option<Revision>,
            ) -> Result<WatchStream, MetaError> {
                self.$inner.watch(prefix, from).await
            }
            async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
                self.$inner.grant_lease(ttl).await
            }
            async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
                self.$inner.keep_alive(lease).await
            }
            async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetaError> {
                self.$inner.revoke_lease(lease).await
            }
        }
    };
}

store_with_txn!(Unreachable, 0, |this, txn| {
    if of_cookie(&txn) {
        return Err(MetaError::Unavailable("on purpose".to_owned()));
    }
    this.0.txn(txn).await
});

store_with_txn!(Mute, 0, |this, txn| {
    let cookie = of_cookie(&txn);
    let outcome = this.0.txn(txn).await;
    if cookie { Err(MetaError::Unknown("on purpose".to_owned())) } else { outcome }
});

store_with_txn!(Cut, 0, |this, txn| {
    let cookie = of_cookie(&txn);
    let outcome = this.0.txn(txn).await;
    if cookie { Err(MetaError::Unavailable("on purpose".to_owned())) } else { outcome }
});

store_with_txn!(Overtaken, store, |this, txn| {
    let clone = if of_cookie(&txn) { this.clone.lock().take() } else { None };
    if let Some(clone) = clone {
        start(&this.store, &[clone], None, 77).await.unwrap();
    }
    this.store.txn(txn).await
});
