//! The contract of [`MetaStore`], clause by clause, on every store: memory, a file, and a real etcd.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use geminga_harness::Etcd;

use crate::{
    Change, EmbeddedStore, EtcdStore, EtcdUrl, MemoryStore, MetaStore, Revision, Version,
    Versioned, WatchEvent, WatchStream,
};

mod basics;
mod leases;
mod watches;

/// A store under test, and what can be done to it from outside.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn MetaStore>,
    /// Forgets the history of changes.
    compact: Box<dyn Fn() + Send + Sync>,
    /// What the store lives in.
    _home: Box<dyn std::any::Any + Send>,
}

impl Place {
    pub(crate) async fn memory() -> Self {
        let store = MemoryStore::new();
        let same = store.clone();
        Self {
            store: Arc::new(store),
            compact: Box::new(move || same.compact()),
            _home: Box::new(()),
        }
    }

    pub(crate) async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&dir.path().join("metadata.redb")).unwrap();
        let same = store.clone();
        Self {
            store: Arc::new(store),
            compact: Box::new(move || same.compact()),
            _home: Box::new(dir),
        }
    }

    pub(crate) async fn etcd() -> Self {
        let etcd = Arc::new(parking_lot::Mutex::new(Etcd::start()));
        let url: EtcdUrl = format!("etcd://{}/test", etcd.lock().endpoint()).parse().unwrap();
        let store = EtcdStore::connect(&url).await.unwrap();
        let same = Arc::clone(&etcd);
        Self {
            store: Arc::new(store),
            compact: Box::new(move || same.lock().compact()),
            _home: Box::new(etcd),
        }
    }

    fn compact(&self) {
        (self.compact)();
    }

    /// Writes a key whatever it holds; its new version.
    async fn put(&self, key: &str, value: &'static str) -> Version {
        let found = self.store.get(key).await.unwrap();
        let value = Bytes::from_static(value.as_bytes());
        let put = self.store.put_if(key, found.map(|found| found.version), value).await;
        put.unwrap().expect("nobody else writes here")
    }

    async fn get(&self, key: &str) -> Option<Versioned> {
        self.store.get(key).await.unwrap()
    }

    /// The value of a key as text.
    async fn text(&self, key: &str) -> Option<String> {
        let found = self.get(key).await?;
        Some(String::from_utf8(found.value.to_vec()).unwrap())
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> WatchStream {
        self.store.watch(prefix, from).await.unwrap()
    }
}

/// Longer than anything here takes: only a broken store meets it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

pub(crate) async fn next(watch: &mut WatchStream) -> WatchEvent {
    within("an event of the watch", watch.next()).await.expect("a watch never ends")
}

/// The next event, which must be changes; those as text, `-key` for a removal.
pub(crate) async fn changes(watch: &mut WatchStream) -> (Revision, Vec<String>) {
    match next(watch).await {
        WatchEvent::Changes { revision, changes } => {
            (revision, changes.iter().map(as_text).collect())
        }
        WatchEvent::Snapshot(range) => panic!("changes were expected, not {range:?}"),
    }
}

fn as_text(change: &Change) -> String {
    match change {
        Change::Put(item) => {
            format!("{}={}", item.key, String::from_utf8_lossy(&item.value.value))
        }
        Change::Delete { key } => format!("-{key}"),
    }
}

/// The next event, which must be a snapshot; its revision and its keys with their values.
pub(crate) async fn snapshot(watch: &mut WatchStream) -> (Revision, Vec<String>) {
    match next(watch).await {
        WatchEvent::Snapshot(range) => {
            assert!(!range.more, "a snapshot is whole");
            let items = range.items.into_iter().map(|item| as_text(&Change::Put(item)));
            (range.revision, items.collect())
        }
        WatchEvent::Changes { changes, .. } => panic!("a snapshot was expected, not {changes:?}"),
    }
}

/// Runs each clause on each store.
macro_rules! contract {
    ($($file:ident::$clause:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test]
            async fn $clause() {
                super::$file::$clause(&super::Place::memory().await).await;
            })+
        }

        mod embedded {
            $(#[tokio::test]
            async fn $clause() {
                super::$file::$clause(&super::Place::embedded().await).await;
            })+
        }

        mod etcd {
            $(#[tokio::test]
            async fn $clause() {
                super::$file::$clause(&super::Place::etcd().await).await;
            })+
        }
    };
}

contract! {
    basics::a_key_is_read_back_with_its_versions,
    basics::put_if_needs_the_version_it_names,
    basics::a_range_is_in_order_and_in_pages,
    basics::everything_of_many_keys_is_one_revision,
    basics::a_transaction_is_whole_or_nothing,
    basics::each_guard_holds_and_fails,
    basics::a_transaction_without_a_write_changes_nothing,
    basics::what_no_store_accepts_is_refused,
    basics::of_concurrent_updates_one_wins,
    basics::guards_and_changes_are_one_point,
    basics::ledger_ids_are_handed_out_once,
    watches::a_watch_begins_with_what_is_there,
    watches::a_watch_goes_on_from_a_revision,
    watches::a_watch_whose_history_is_gone_lists_again,
    watches::a_compaction_does_not_disturb_a_watch_that_is_up_to_date,
    watches::many_changes_come_in_order_once,
    watches::a_snapshot_of_many_keys_is_whole,
    leases::a_revoked_lease_takes_its_keys_at_once,
    leases::a_lease_that_ended_is_gone,
    leases::a_lease_that_is_not_kept_alive_ends,
    leases::a_lease_that_is_kept_alive_does_not_end,
    leases::a_put_ends_the_former_binding,
    leases::one_is_elected_and_the_next_one_follows,
}
