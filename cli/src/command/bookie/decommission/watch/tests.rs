use std::sync::Arc;

use async_trait::async_trait;
use geminga_metastore::record::{
    Cookie, Custom, Digest, DrainingBookie, Fragment, Tier, TierObject,
};
use geminga_metastore::{
    LeaseId, MemoryStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch};
use parking_lot::Mutex;

use super::*;

/// A store that does not answer for a while, and counts how often ledgers are listed.
#[derive(Debug, Clone, Default)]
struct Shaky {
    memory: MemoryStore,
    silent_until: Arc<Mutex<Option<Instant>>>,
    listed: Arc<Mutex<u32>>,
    /// How long a listing takes.
    slow: Duration,
}

#[async_trait]
impl MetaStore for Shaky {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        if self.silent_until.lock().is_some_and(|until| Instant::now() < until) {
            return Err(Error::Unavailable("told so by the test".to_owned()));
        }
        self.memory.get(key).await
    }
    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        *self.listed.lock() += u32::from(prefix == keys::LEDGERS);
        sleep(self.slow).await;
        self.memory.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.memory.txn(txn).await
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

fn bookie() -> BookieId {
    "b-1".parse().expect("a name")
}

impl Shaky {
    async fn leaving(slow: Duration) -> Self {
        let store = Self { slow, ..Self::default() };
        let cookie =
            Cookie { cluster: ClusterUuid::from_random(1), bookie: bookie(), disks: vec![] };
        let draining = DrainingBookie { since_ms: 1 }.encode();
        for (key, value) in [
            (keys::bookie_cookie(&bookie()), cookie.encode()),
            (keys::bookie_draining(&bookie()), draining),
        ] {
            store.memory.put_if(&key, None, value).await.expect("put").expect("new");
        }
        store
    }

    fn is_silent_for(&self, time: Duration) {
        *self.silent_until.lock() = Some(Instant::now() + time);
    }

    /// It leaves after so long.
    async fn leave_after(&self, time: Duration) {
        sleep(time).await;
        let txn = Txn::new().delete(keys::bookie_cookie(&bookie()));
        let txn = txn.delete(keys::bookie_draining(&bookie()));
        self.memory.txn(txn).await.expect("deleted");
    }
}

/// Watches until the end, while it leaves after so long; what was said, and the end.
async fn watched(store: &Shaky, leaves: Duration) -> (Vec<String>, Result<(), Failure>) {
    let mut said = Vec::new();
    let mut say = |line: &str| said.push(line.to_owned());
    let watching = until_left(store, vec![bookie()], &mut say);
    let (ended, ()) = tokio::join!(watching, store.leave_after(leaves));
    (said, ended)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_for_a_while_ends_nothing() {
    let store = Shaky::leaving(Duration::ZERO).await;
    store.is_silent_for(Duration::from_secs(120));
    let (said, ended) = watched(&store, Duration::from_secs(200)).await;
    ended.expect("it has left");
    assert_eq!(said.last().expect("something"), "b-1: has left");
    let silent = said.iter().filter(|line| line.contains("unreachable")).count();
    assert!((2..10).contains(&silent), "it asks less and less often: {said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_given_up() {
    let store = Shaky::leaving(Duration::ZERO).await;
    store.is_silent_for(Duration::from_secs(10_000));
    let (_, ended) = watched(&store, Duration::from_secs(20_000)).await;
    assert_eq!(ended.expect_err("it gave up").reason, Some("METADATA_UNAVAILABLE"));
}

#[tokio::test(start_paused = true)]
async fn what_takes_long_to_count_is_counted_less_often() {
    for (slow, most) in [(Duration::ZERO, 101), (Duration::from_millis(500), 6)] {
        let store = Shaky::leaving(slow).await;
        watched(&store, Duration::from_secs(99)).await.1.expect("it has left");
        let listed = *store.listed.lock();
        assert!((most - 3..=most).contains(&listed), "{listed} listings of {slow:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_decommission_that_is_taken_back_is_told() {
    let store = Shaky::leaving(Duration::ZERO).await;
    let back = Txn::new().delete(keys::bookie_draining(&bookie()));
    store.memory.txn(back).await.expect("deleted");
    let (_, ended) = watched(&store, Duration::from_secs(5)).await;
    assert_eq!(ended.expect_err("told").reason, Some("DECOMMISSION_CANCELLED"));
}

/// A closed ledger of so many copies, one of them at the bookie that leaves.
fn ledger(id: u64, qw: u8, tier: Tier) -> LedgerMeta {
    let other = |number| format!("other-{number}").parse().expect("a name");
    let bookies = std::iter::once(bookie()).chain((1..qw).map(other));
    let ensemble =
        bookies.map(|bookie| Member { bookie, incarnation: Incarnation(1) }).collect::<Vec<_>>();
    LedgerMeta {
        id: LedgerId(id),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: Some(EntryId(3)),
        length: 0,
        entries_crc: None,
        tier,
        close_kind: None,
        recoverer: String::new(),
        last_op: 1,
        custom: Custom { name: "orders".to_owned(), ..Custom::default() },
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// Its only copy is never moved: whoever waits hears what for, be it in an object or not.
#[tokio::test(start_paused = true)]
async fn ledgers_with_one_copy_are_told() {
    let object = TierObject {
        attempt: 1,
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        size: 1,
        entries: 4,
        object_crc: 1,
        etag: String::new(),
        index_place: 1,
        at_ms: 1,
    };
    let store = Shaky::leaving(Duration::ZERO).await;
    let put = async |meta: LedgerMeta| {
        let key = keys::ledger(meta.id);
        let version = store.memory.get(&key).await.expect("read").map(|found| found.version);
        store.memory.put_if(&key, version, meta.encode()).await.expect("put").expect("changed");
    };
    put(ledger(1, 2, Tier::Local)).await;
    put(ledger(2, 1, Tier::Offloaded(object))).await;
    let later = async {
        // Its object is gone, which the bookie has found out.
        sleep(Duration::from_secs(9)).await;
        put(ledger(2, 1, Tier::Local)).await;
    };
    let ((said, ended), ()) = tokio::join!(watched(&store, Duration::from_secs(30)), later);
    ended.expect("it has left");
    let two = format!(
        "2 ledgers left, and it waits for 1 whose only copy it has and that no object has, first {} of topic orders",
        LedgerId(2)
    );
    let [before, after, left] = &said[..] else { panic!("{said:?}") };
    let objects = format!(
        "2 ledgers left, and 1 whose only copy it has are copied from their objects, first {} of topic orders",
        LedgerId(2)
    );
    assert!(before.contains(&objects), "{before}");
    assert!(after.contains(&two), "{after}");
    assert_eq!(left, "b-1: has left");
}
