//! Transactions whose answer is lost, late or overtaken (M9).

use std::collections::VecDeque;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{Features, LiveBookie, LiveDisk};
use geminga_metastore::{ErrorKind, LeaseId, MemoryStore, Range, Revision, Versioned, WatchStream};
use geminga_proto::bookie::{QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{BookieId, Incarnation};
use geminga_runtime::{SeededRandom, SystemClock};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::connection::{BookieConnection, ConnectionLost};

/// What becomes of a transaction that makes a ledger.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// It takes place, and nobody says so.
    Unanswered,
    /// It waits, and takes place before the next one.
    Late,
    /// It is refused for certain.
    Unavailable,
    /// It takes place, and somebody recovers the new ledger at once.
    Overtaken,
}

/// A store in memory that treats one transaction after the other by its fate; then all is well.
#[derive(Debug, Default)]
struct Fateful {
    store: MemoryStore,
    fates: Mutex<VecDeque<Fate>>,
    late: Mutex<Option<Txn>>,
    reads_fail: Mutex<bool>,
}

impl Fateful {
    fn of(fates: &[Fate]) -> Arc<Self> {
        Arc::new(Self { fates: Mutex::new(fates.iter().copied().collect()), ..Self::default() })
    }
}

fn unknown() -> MetaError {
    MetaError::Unknown("on purpose".to_owned())
}

fn unavailable() -> MetaError {
    MetaError::Unavailable("on purpose".to_owned())
}

/// The ledgers that a transaction makes.
fn made(txn: &Txn) -> Vec<String> {
    let absent = txn.guards.iter().filter_map(|guard| match guard {
        Guard::Absent(key) if key.starts_with("ledgers/") => Some(key.clone()),
        _ => None,
    });
    absent.collect()
}

#[async_trait]
impl MetaStore for Fateful {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        if *self.reads_fail.lock() {
            return Err(unavailable());
        }
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Range, MetaError> {
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        let new = made(&txn);
        if new.is_empty() {
            return self.store.txn(txn).await;
        }
        let late = self.late.lock().take();
        if let Some(late) = late {
            self.store.txn(late).await?;
        }
        let fate = self.fates.lock().pop_front();
        match fate {
            None => self.store.txn(txn).await,
            Some(Fate::Unanswered) => {
                self.store.txn(txn).await?;
                Err(unknown())
            }
            Some(Fate::Late) => {
                *self.late.lock() = Some(txn);
                Err(unknown())
            }
            Some(Fate::Unavailable) => Err(unavailable()),
            Some(Fate::Overtaken) => {
                let outcome = self.store.txn(txn).await?;
                let id = keys::parse_ledger(&new[0]).unwrap();
                let found = self.store.get(&new[0]).await?.unwrap();
                let mut meta = LedgerMeta::decode(id, &found.value).unwrap();
                meta.state = LedgerState::InRecovery;
                meta.seal_epoch = SealEpoch(1);
                self.store.put_if(&new[0], Some(found.version), meta.encode()).await?;
                Ok(outcome)
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, MetaError> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetaError> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.store.revoke_lease(lease).await
    }
}

/// Three registered bookies that never answer.
#[derive(Debug, Default)]
struct Silent {
    changed: watch::Sender<u64>,
}

impl BookieConnection for Silent {
    fn write(&self, _: WriteRequest) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        std::future::pending().boxed()
    }

    fn query(&self, _: QueryRequest) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        std::future::pending().boxed()
    }
}

impl Bookies for Silent {
    fn connection(&self, _: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(Self::default()))
    }

    fn live(&self) -> Vec<LiveBookie> {
        let live = |number: u64| LiveBookie {
            id: format!("b{number}").parse().unwrap(),
            address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            rack: String::new(),
            disks: vec![LiveDisk {
                incarnation: Incarnation(number),
                writable: true,
                free_bytes: 1,
                total_bytes: 1,
            }],
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        };
        (1..=3).map(live).collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn client(store: &Arc<Fateful>) -> LedgerClient {
    let store: Arc<dyn MetaStore> = Arc::<Fateful>::clone(store);
    LedgerClient::new(Parts {
        cluster: ClusterUuid::from_random(1),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(Silent::default()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    })
}

fn spec() -> CreateSpec {
    CreateSpec { qw: 3, qa: 2, custom: Custom::default() }
}

async fn create(store: &Arc<Fateful>) -> Result<Writer, CreateError> {
    client(store).create(spec(), |_| Txn::new()).await
}

/// The attempt that took place without an answer, or after it was repeated, is recognised.
#[tokio::test]
async fn a_create_is_recognised_by_its_operation() {
    for fate in [Fate::Unanswered, Fate::Late] {
        let store = Fateful::of(&[fate]);
        let writer = create(&store).await.unwrap();
        let found = store.get(&keys::ledger(writer.id())).await.unwrap().unwrap();
        assert_eq!(found.value, writer.meta().encode(), "{fate:?}");
    }
}

/// A refusal says nothing about an attempt before it that may still take place.
#[tokio::test]
async fn a_refused_attempt_does_not_hide_an_unknown_one() {
    let store = Fateful::of(&[Fate::Late, Fate::Unavailable]);
    let Err(CreateError::Metadata(error)) = create(&store).await else { panic!("created") };
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    let store = Fateful::of(&[Fate::Unavailable]);
    let Err(CreateError::Metadata(error)) = create(&store).await else { panic!("created") };
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    // Nor does a read that fails.
    let store = Fateful::of(&[Fate::Late]);
    let client = client(&store);
    client.parts.ids.next().await.unwrap();
    *store.reads_fail.lock() = true;
    let result = client.create(spec(), |_| Txn::new()).await;
    let Err(CreateError::Metadata(error)) = result else { panic!("created") };
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
}

/// A new ledger that somebody recovers before this owner saw it is nobody's to write, nor to close.
#[tokio::test]
async fn a_roll_that_was_overtaken_gives_no_writer() {
    let store = Fateful::of(&[]);
    let client = client(&store);
    let mut writer = client.create(spec(), |_| Txn::new()).await.unwrap();
    store.fates.lock().push_back(Fate::Overtaken);
    let rolled = client.roll(&mut writer, spec(), Duration::ZERO, |_, _| Txn::new()).await;
    let error = rolled.err();
    assert_eq!(error, Some(RollError::Close(CloseError::Lost)));
}

/// Only a closed ledger is deleted; a mark that stands beside it already, as in a store that was restored, is no hindrance.
#[tokio::test]
async fn a_closed_ledger_becomes_a_tombstone_and_no_other_does() {
    let store = Fateful::of(&[]);
    let client = client(&store);
    let writer = client.create(spec(), |_| Txn::new()).await.unwrap();
    let (id, key) = (writer.id(), keys::ledger(writer.id()));
    assert_eq!(client.delete(id).await, Err(crate::DeleteError::NotClosed(id)));

    let mut closed = LedgerMeta::clone(&writer.meta());
    closed.state = LedgerState::Closed;
    closed.last_entry = Some(EntryId::NONE);
    let restored =
        Txn::new().put(&key, closed.encode()).put(keys::deleting(id), Bytes::from("mark"));
    store.txn(restored).await.unwrap();
    for _ in 0..2 {
        let deleted = tokio::time::timeout(Duration::from_secs(10), client.delete(id)).await;
        deleted.expect("it ends").unwrap();
        let (meta, _) = client.metadata(id).await.unwrap().expect("a tombstone");
        assert_eq!((meta.state, meta.last_entry), (LedgerState::Deleting, Some(EntryId::NONE)));
    }
}
