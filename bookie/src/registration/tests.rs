use async_trait::async_trait;
use geminga_metastore::record::{Cookie, DrainingBookie};
use geminga_metastore::{MemoryStore, Range, Revision, Versioned};
use geminga_proto::ids::{ClusterUuid, Incarnation};
use geminga_runtime::requests::Requests;

use super::*;

const TTL: Duration = Duration::from_secs(9);

fn bookie() -> BookieId {
    "b-1".parse().unwrap()
}

async fn cookie(store: &MemoryStore, expected: Option<Version>) -> Version {
    let cookie = Cookie { cluster: ClusterUuid::from_random(1), bookie: bookie(), disks: vec![] };
    let key = keys::bookie_cookie(&bookie());
    store.put_if(&key, expected, cookie.encode()).await.unwrap().unwrap()
}

fn registration(store: &MemoryStore, cookie: Version, started_ms: i64) -> Registration {
    registration_over(Arc::new(store.clone()), cookie, started_ms)
}

fn registration_over(store: Arc<dyn MetaStore>, cookie: Version, started_ms: i64) -> Registration {
    let identity = Identity {
        bookie: bookie(),
        cookie,
        address: "127.0.0.1:1".to_owned(),
        http_address: String::new(),
        zone: "z".to_owned(),
        repair_rate: 0,
        started_ms,
    };
    let handle = BookieHandle::new(
        ClusterUuid::from_random(1),
        bookie(),
        vec![],
        vec![],
        Requests::default(),
    );
    Registration::new(store, identity, handle, vec![], TTL, Limits::default())
}

async fn live(store: &MemoryStore) -> Option<LiveBookie> {
    let found = store.get(&keys::bookie_live(&bookie())).await.unwrap()?;
    Some(LiveBookie::decode(&found.value).unwrap())
}

/// A store that was waited for: the first lease has ended by the time it is used, and what is written with the second is sent twice.
#[derive(Debug)]
struct Waited(MemoryStore, std::sync::atomic::AtomicUsize);

#[async_trait]
impl MetaStore for Waited {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        self.0.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Range, MetaError> {
        self.0.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.0.txn(txn.clone()).await?;
        self.0.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, MetaError> {
        self.0.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        let lease = self.0.grant_lease(ttl).await?;
        if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0.revoke_lease(lease).await?;
        }
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.revoke_lease(lease).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_waited_for_does_not_refuse_a_bookie() {
    let store = MemoryStore::new();
    let cookie = cookie(&store, None).await;
    let waited = Arc::new(Waited(store.clone(), 0.into()));
    registration_over(waited.clone(), cookie, 1).register().await.unwrap();
    assert_eq!(waited.1.load(Ordering::SeqCst), 2, "one lease that ended, and one that stands");
    assert!(live(&store).await.is_some());
}

/// A process killed without a word leaves its key behind; the next one does not wait for the lease.
#[tokio::test(start_paused = true)]
async fn the_key_of_an_earlier_life_is_ended_at_once() {
    let store = MemoryStore::new();
    let first = cookie(&store, None).await;
    registration(&store, first, 1).register().await.unwrap();
    let begun = Instant::now();
    let second = cookie(&store, Some(first)).await;
    let tasks = Tasks::new("test");
    let registration = registration(&store, second, 2);
    registration.start(&tasks).await.unwrap();
    assert_eq!(live(&store).await.unwrap().started_ms, 2);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // It is kept alive far beyond its time to live, and leaves at once.
    tokio::time::sleep(TTL * 4).await;
    assert!(registration.stands() && live(&store).await.is_some());
    registration.leave().await;
    assert_eq!(live(&store).await, None);
    assert!(tasks.finish(TTL).await);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_vanished_is_made_again() {
    let store = MemoryStore::new();
    let tasks = Tasks::new("test");
    let registration = registration(&store, cookie(&store, None).await, 1);
    registration.start(&tasks).await.unwrap();
    let lease = live(&store).await.unwrap().lease;
    store.revoke_lease(lease).await.unwrap();
    tokio::time::sleep(TTL / 2).await;
    assert_ne!(live(&store).await.unwrap().lease, lease);
    assert!(tasks.finish(TTL).await);
}

/// Of two processes with one identity the later boot stays, and the earlier one stops itself.
#[tokio::test(start_paused = true)]
async fn a_replaced_process_stops() {
    let store = MemoryStore::new();
    let first = cookie(&store, None).await;
    let tasks = Tasks::new("first");
    registration(&store, first, 1).start(&tasks).await.unwrap();
    let second = cookie(&store, Some(first)).await;
    registration(&store, second, 2).register().await.unwrap();
    tasks.cancelled().await;
    assert_eq!(live(&store).await.unwrap().started_ms, 2);
    let error = registration(&store, first, 1).register().await.unwrap_err();
    assert_eq!(error, RegisterError::Replaced(bookie()));
}

#[test]
fn brokers_hear_of_changes_above_one_percent() {
    let disk = |free_bytes, writable| LiveDisk {
        incarnation: Incarnation(1),
        writable,
        free_bytes,
        total_bytes: 1000,
    };
    let seen = |disk, objects_missing| Seen { disks: vec![disk], objects_missing };
    let told = seen(disk(500, true), None);
    assert!(!differs(&told, &seen(disk(510, true), None)));
    assert!(differs(&told, &seen(disk(489, true), None)));
    assert!(differs(&told, &seen(disk(500, false), None)));
    for known in [0, 1] {
        let now = seen(disk(500, true), Some(known));
        assert!(differs(&told, &now), "whoever waits for it to leave is to know");
    }
}

/// A store that does not read this key for as long as there is one.
#[derive(Debug, Clone)]
struct Unreadable(MemoryStore, Arc<parking_lot::Mutex<Option<String>>>);

#[async_trait]
impl MetaStore for Unreadable {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        if self.1.lock().as_deref() == Some(key) {
            return Err(MetaError::Unavailable("told so by the test".to_owned()));
        }
        self.0.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Range, MetaError> {
        self.0.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.0.txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, MetaError> {
        self.0.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.0.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.revoke_lease(lease).await
    }
}

/// 6.6: the word that a bookie is to leave, or has left, comes once, and is not lost when the store does not answer just then.
#[tokio::test(start_paused = true)]
async fn what_is_said_about_a_decommission_is_read_until_it_is_known() {
    let memory = MemoryStore::new();
    let version = cookie(&memory, None).await;
    let unreadable = Arc::new(parking_lot::Mutex::new(None));
    let mut registration = registration(&memory, version, 1);
    let shared = Arc::get_mut(&mut registration.0).expect("not shared yet");
    shared.store = Arc::new(Unreadable(memory.clone(), Arc::clone(&unreadable)));
    let tasks = Tasks::new("test");
    registration.start(&tasks).await.unwrap();
    let draining = || registration.0.draining.load(Ordering::SeqCst);
    let (asked, own) = (keys::bookie_draining(&bookie()), keys::bookie_cookie(&bookie()));

    *unreadable.lock() = Some(asked.clone());
    let record = DrainingBookie { since_ms: 1 }.encode();
    memory.put_if(&asked, None, record).await.unwrap().unwrap();
    tokio::time::sleep(LOOK * 3).await;
    assert!(!draining(), "it cannot know");
    *unreadable.lock() = None;
    tokio::time::sleep(LOOK * 3).await;
    assert!(draining(), "the word was lost");

    // The end: both keys go, and of one it is not known.
    *unreadable.lock() = Some(own.clone());
    memory.txn(Txn::new().delete(&own).delete(&asked)).await.unwrap();
    tokio::time::sleep(LOOK * 3).await;
    assert!(draining(), "it takes data again, without a cookie");
    assert!(
        !registration.update(&Seen { disks: vec![], objects_missing: None }).await.unwrap(),
        "it tells so"
    );
    assert_eq!(live(&memory).await.unwrap().started_ms, 1);
    *unreadable.lock() = None;
    tasks.cancelled().await;
}
