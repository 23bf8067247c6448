use std::path::PathBuf;

use geminga_runtime::{Random, SeededRandom};
use tempfile::TempDir;

use super::*;
use crate::{Guard, Version};

struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("metadata.redb")
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.path()).unwrap()
    }
}

async fn put(store: &EmbeddedStore, key: &str, value: impl Into<bytes::Bytes>) -> Version {
    let version = store.get(key).await.unwrap().map(|found| found.version);
    store.put_if(key, version, value.into()).await.unwrap().unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_when_it_is_opened_again() {
    let home = Home::new();
    let store = home.open();
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    put(&store, "b", "3").await;
    let last = store.txn(Txn::new().delete("b")).await.unwrap();
    drop(store);

    let store = home.open();
    let found = store.get("a").await.unwrap().unwrap();
    assert_eq!((found.value.as_ref(), found.version), (b"2".as_ref(), second));
    assert_eq!(found.created, Revision(first.0));
    assert_eq!(store.get("b").await.unwrap(), None);
    let TxnOutcome::Committed(last) = last else { panic!("no guards") };
    assert_eq!(store.range("", None, 9).await.unwrap().revision, last, "revisions go on");
    assert!(put(&store, "c", "4").await.0 > last.0);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let home = Home::new();
    let store = home.open();
    for refused in [
        EmbeddedStore::open(&home.path()).map(|_| ()),
        EmbeddedStore::read_file(&home.path()).map(|_| ()),
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, OpenError::InUse(_)), "{error:?}");
        assert!(error.to_string().contains("in use by another process: stop it"), "{error}");
    }
    let mut watch = store.watch("", None).await.unwrap();
    drop(store);
    let _snapshot = futures::StreamExt::next(&mut watch).await;
    assert!(EmbeddedStore::open(&home.path()).is_err(), "a watch keeps it open");
    drop(watch);
    home.open();
}

#[tokio::test]
async fn leases_of_a_former_process_are_dropped_at_once() {
    let home = Home::new();
    let store = home.open();
    let lease = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    let txn = Txn::new().put_leased("a", "1", lease).put_leased("b", "1", lease);
    store.txn(txn.put_leased("kept", "1", lease)).await.unwrap();
    let last = put(&store, "kept", "2").await;
    drop(store);

    let store = home.open();
    let range = store.range("", None, 9).await.unwrap();
    assert_eq!(range.items.len(), 1, "{range:?}");
    assert_eq!(range.items[0].key, "kept");
    assert_eq!(range.revision, Revision(last.0 + 1), "in one revision");
    drop(store);
    assert_eq!(home.open().range("", None, 9).await.unwrap().revision, range.revision);
}

#[tokio::test]
async fn a_lease_granted_while_the_owner_waits_ends_in_time() {
    let home = Home::new();
    let store = home.open();
    let long = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    let short = store.grant_lease(Duration::from_millis(50)).await.unwrap();
    let txn = Txn::new().put_leased("long", "1", long).put_leased("short", "1", short);
    store.txn(txn).await.unwrap();
    let mut changed = local::Source::changed(&store);
    while store.get("short").await.unwrap().is_some() {
        changed.changed().await.unwrap();
    }
    assert!(store.get("long").await.unwrap().is_some());
}

/// Copies the file as a crash would leave it, while commits go on: the copy must open and hold every change that was
/// acknowledged before, and of later ones a prefix.
#[tokio::test]
async fn a_kill_at_any_point_leaves_what_was_acknowledged() {
    let home = Home::new();
    let store = home.open();
    for round in 0..40_u32 {
        put(&store, "round", round.to_string()).await;
        // In flight while the file is copied, or done, or not begun: nobody waits for it.
        let writer = store.clone();
        let writing = async move {
            let large = vec![u8::try_from(round).unwrap(); 20_000];
            writer.txn(Txn::new().put("a", large.clone()).put("b", large)).await
        };
        let copying = async {
            let copy = Home::new();
            std::fs::copy(home.path(), copy.path()).unwrap();
            copy
        };
        let (written, copy) = futures::join!(writing, copying);
        written.unwrap();
        let copy = EmbeddedStore::open(&copy.path()).unwrap();
        let found = copy.get("round").await.unwrap().unwrap();
        assert_eq!(found.value, round.to_string());
        let (a, b) = (copy.get("a").await.unwrap(), copy.get("b").await.unwrap());
        assert_eq!(a, b, "half a transaction in round {round}");
        if let Some(a) = a {
            assert!(u32::from(a.value[0]) == round || u32::from(a.value[0]) + 1 == round);
        }
    }
}

#[tokio::test]
async fn a_process_that_died_while_it_made_the_file_is_no_obstacle() {
    let home = Home::new();
    drop(home.open());
    let whole = std::fs::read(home.path()).unwrap();
    for length in [0, 1, 100, 4096, whole.len() - 1, whole.len()] {
        let home = Home::new();
        std::fs::write(home.dir.path().join("metadata.redb.new"), &whole[..length]).unwrap();
        let store = home.open();
        put(&store, "a", "1").await;
    }
}

#[tokio::test]
async fn a_file_that_is_none_of_ours_is_refused_and_left_alone() {
    for content in [b"hello, this is no database".to_vec(), Vec::new(), vec![0; 100_000]] {
        let home = Home::new();
        std::fs::write(home.path(), &content).unwrap();
        let error = EmbeddedStore::open(&home.path()).unwrap_err();
        assert!(error.to_string().contains("metadata.redb"), "{error}");
        assert_eq!(std::fs::read(home.path()).unwrap(), content);
    }
    let home = Home::new();
    assert!(matches!(EmbeddedStore::read_file(&home.path()), Err(OpenError::Io { .. })));
    assert!(!home.path().exists(), "reading makes nothing");
}

/// Flipped bits are found when the file is opened, or do no harm: never a panic, never another value.
#[tokio::test]
async fn a_damaged_file_is_never_believed() {
    let home = Home::new();
    let store = home.open();
    for i in 0..200 {
        put(&store, &format!("key/{i:04}"), vec![7; 500]).await;
    }
    let expected = store.range("", None, 999).await.unwrap();
    drop(store);
    let whole = std::fs::read(home.path()).unwrap();
    let seed = 20_260_101;
    let random = SeededRandom::new(seed);
    let mut refused = 0;
    for round in 0..60 {
        let mut damaged = whole.clone();
        let at = usize::try_from(random.below(whole.len() as u64)).unwrap();
        damaged[at] ^= 1 << random.below(8);
        let copy = Home::new();
        std::fs::write(copy.path(), &damaged).unwrap();
        match EmbeddedStore::open(&copy.path()) {
            Ok(store) => {
                let found = store.range("", None, 999).await.unwrap();
                assert_eq!(found, expected, "seed {seed}, round {round}, byte {at}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "seed {seed}: no flip was in a page that is used");
}

#[tokio::test]
async fn a_format_of_the_future_is_refused() {
    let home = Home::new();
    drop(home.open());
    let database = redb::Database::open(home.path()).unwrap();
    let write = database.begin_write().unwrap();
    let numbers = redb::TableDefinition::<'_, &str, i64>::new("numbers");
    write.open_table(numbers).unwrap().insert("format", 2).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = EmbeddedStore::open(&home.path()).unwrap_err();
    assert!(matches!(error, OpenError::Format { format: 2, .. }), "{error}");
}

#[tokio::test]
async fn a_store_whose_owner_ended_answers_nothing_but_that() {
    let home = Home::new();
    let store = home.open();
    put(&store, "a", "1").await;
    assert!(!store.has_failed());
    store.shared.failed.send_replace(true);
    store.failed().await;
    assert!(matches!(store.get("a").await, Err(Error::Unavailable(_))));
    assert!(matches!(store.range("", None, 1).await, Err(Error::Unavailable(_))));
    assert!(matches!(store.keep_alive(LeaseId(1)).await, Err(Error::Unavailable(_))));
    assert!(store.has_failed());
}

#[tokio::test]
async fn requests_that_wait_are_served_in_order() {
    let home = Home::new();
    let store = home.open();
    let puts = (0..100).map(|i| {
        let version = i.to_string();
        store.txn(Txn::new().guard(Guard::Absent(format!("k{i}"))).put(format!("k{i}"), version))
    });
    for outcome in futures::future::join_all(puts).await {
        assert!(matches!(outcome, Ok(TxnOutcome::Committed(_))), "{outcome:?}");
    }
    assert_eq!(store.range("k", None, 999).await.unwrap().items.len(), 100);
}
