//! Locks whose taking, or giving back, nobody hears of.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_ledger::{BookieConnection, Bookies, Config, ConnectionLost, Parts};
use geminga_metastore::record::{CloseKind, Fragment, LedgerState, LiveBookie};
use geminga_metastore::{
    LedgerIds, MemoryStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};
use geminga_proto::bookie::{Code, QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{BookieId, EntryId};
use geminga_runtime::{ManualClock, SeededRandom};
use tokio::sync::watch;

use super::*;
use crate::io::MemoryDisk;
use crate::testing;

const LEDGER: LedgerId = LedgerId(5);
const TTL: Duration = Duration::from_secs(10);

/// A store that does not say what became of some changes of the ledger's lock.
#[derive(Debug, Default)]
struct Mute {
    memory: MemoryStore,
    /// Of those that are to come: which, and whether they take place.
    unanswered: Mutex<Vec<(usize, bool)>>,
    changes: AtomicUsize,
}

#[async_trait]
impl MetaStore for Mute {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.memory.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        if !format!("{txn:?}").contains(&keys::under_lock(LEDGER)) {
            return self.memory.txn(txn).await;
        }
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        let unanswered = self.unanswered.lock().iter().find(|(of, _)| *of == number).copied();
        if unanswered.is_none_or(|(_, takes_place)| takes_place) {
            let outcome = self.memory.txn(txn).await;
            if unanswered.is_none() {
                return outcome;
            }
        }
        Err(Error::Unknown("on purpose".to_owned()))
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

/// All others, who have everything.
#[derive(Debug, Clone)]
struct Whole;

impl BookieConnection for Whole {
    fn write(&self, _: WriteRequest) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        let (durable_tail, staged_tail) = (EntryId(0), EntryId(0));
        let ok = WriteReply::refusal(Code::Ok, "");
        let reply = WriteReply { durable_tail, staged_tail, authoritative: true, ..ok };
        std::future::ready(Ok(reply)).boxed()
    }

    fn query(&self, _: QueryRequest) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        panic!("nobody reads");
    }
}

impl Bookies for Whole {
    fn connection(&self, _: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(self.clone()))
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// Gives the copy of a ledger up that others have, while the store does not say what became of these changes of its lock; until its
/// copy is gone, and its lock is.
async fn given_up_without_answers(unanswered: &[(usize, bool)]) {
    let store = Arc::new(Mute::default());
    let (random, clock) = (SeededRandom::new(1), ManualClock::at(0));
    let cluster = cluster::open_or_init(&*store, &random, &clock).await.unwrap().uuid;
    let (tasks, shared) = (Tasks::new("test"), Arc::clone(&store) as Arc<dyn MetaStore>);
    let disk = MemoryDisk::new();
    let handle = testing::bookie(&disk, &shared, cluster, Mutations::default(), &tasks);
    let open = testing::open_ledger(LEDGER);
    store.put_if(&keys::ledger(LEDGER), None, open.encode()).await.unwrap().unwrap();
    testing::add_entry(&handle, LEDGER).await;
    let other = Member { bookie: "b-2".parse().unwrap(), incarnation: Incarnation(8) };
    let closed = LedgerMeta {
        state: LedgerState::Closed,
        last_entry: Some(EntryId(0)),
        close_kind: Some(CloseKind::Writer),
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![other] }],
        ..open
    };
    let put = Txn::new().put(keys::ledger(LEDGER), closed.encode());
    store.txn(put).await.unwrap();
    let client = LedgerClient::new(Parts {
        cluster,
        ids: Arc::new(LedgerIds::new(Arc::clone(&shared), 0)),
        store: Arc::clone(&shared),
        bookies: Arc::new(Whole),
        clock: Arc::new(clock.clone()),
        random: Arc::new(random),
        tasks: tasks.clone(),
        config: Config::default(),
        owner: "test".to_owned(),
    });
    store.unanswered.lock().extend(unanswered);
    let excess = Excess {
        store: shared,
        client,
        handle: handle.clone(),
        cluster,
        clock: Arc::new(clock),
        interval: Duration::from_secs(1),
        grace: Duration::from_secs(1),
        unnamed: Unnamed::default(),
    };
    tasks.spawn("excess", excess.run(TTL, tasks.clone()));
    let over = async {
        let mut look = tokio::time::interval(Duration::from_millis(100));
        loop {
            look.tick().await;
            let lock = store.memory.get(&keys::under_lock(LEDGER)).await.unwrap();
            let last = unanswered.iter().map(|(number, _)| *number).max().unwrap_or(0);
            let tried = store.changes.load(Ordering::SeqCst) > last;
            if handle.disks()[0].held().is_empty() && lock.is_none() && tried {
                return;
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(600), over).await;
    assert!(done.is_ok(), "{unanswered:?}: the lock stands for good");
    assert!(tasks.finish(Duration::from_secs(30)).await);
}

/// The lock may be taken although nobody says so, or stay although it was given back: whoever comes later gets it all the same.
#[tokio::test(start_paused = true)]
async fn a_lock_of_which_nobody_heard_is_let_go() {
    let (done, not_done) = (true, false);
    for unanswered in [
        &[][..],
        &[(0, done)],
        &[(0, not_done)],
        &[(1, done)],
        &[(1, not_done)],
        &[(0, done), (1, done), (3, not_done)],
    ] {
        given_up_without_answers(unanswered).await;
    }
}
