use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use geminga_metastore::{MemoryStore, cluster};
use geminga_proto::ids::BrokerId;
use geminga_runtime::{SystemClock, SystemRandom};

use super::*;

/// A store that fails as it is told to, and then does what is asked.
#[derive(Debug)]
struct Failing {
    store: MemoryStore,
    fails: Mutex<VecDeque<Error>>,
    /// So many transactions take place, and are not answered.
    unheard: AtomicUsize,
}

impl Failing {
    fn next(&self) -> Result<(), Error> {
        self.fails.lock().pop_front().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl MetaStore for Failing {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.next()?;
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.next()?;
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.next()?;
        let outcome = self.store.txn(txn).await;
        let less = |left: usize| left.checked_sub(1);
        match self.unheard.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
            Ok(_) => Err(silent()),
            Err(_) => outcome,
        }
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.next()?;
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.next()?;
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.next()?;
        self.store.revoke_lease(lease).await
    }
}

fn away() -> Error {
    Error::Unavailable("etcd://a:1/test: Connection refused".to_owned())
}

fn silent() -> Error {
    Error::Unknown("etcd://a:1/test: no answer within 5s".to_owned())
}

fn awaited(fails: impl IntoIterator<Item = Error>) -> (Awaited, Readiness) {
    let (store, failing, readiness) = unheard(0);
    failing.fails.lock().extend(fails);
    (store, readiness)
}

/// So many transactions are not answered.
fn unheard(unheard: usize) -> (Awaited, Arc<Failing>, Readiness) {
    let readiness = Readiness::default();
    let url = "https://a:1/test".parse().unwrap();
    let (store, fails) = (MemoryStore::new(), Mutex::default());
    let failing = Arc::new(Failing { store, fails, unheard: unheard.into() });
    let patience = Patience::new(url, readiness.clone());
    (Awaited { store: failing.clone(), patience }, failing, readiness)
}

#[tokio::test(start_paused = true)]
async fn what_had_no_effect_is_tried_again_while_the_server_starts() {
    let (store, readiness) = awaited([away(), Error::NoSpace, away()]);
    assert_eq!(store.put_if("k", None, "v".into()).await.unwrap().map(|_| ()), Some(()));
    assert_eq!(
        readiness.check(),
        Err("starting".to_owned()),
        "what is mended is not said any more"
    );
    // What may have had one, or never has, is its caller's.
    for error in [Error::Unknown("x".to_owned()), Error::Invalid("x".to_owned())] {
        let (store, _) = awaited([error.clone()]);
        assert_eq!(store.get("k").await, Err(error));
    }
    let (store, _) = awaited([away()]);
    assert_eq!(store.keep_alive(LeaseId(1)).await, Err(away()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_serves_hears_of_errors_at_once() {
    let (store, readiness) = awaited([away(), away()]);
    readiness.running(Vec::new());
    assert_eq!(store.get("k").await, Err(away()));
    readiness.stopping();
    assert_eq!(store.get("k").await, Err(away()));
}

#[tokio::test(start_paused = true)]
async fn it_is_said_why_a_server_waits() {
    let (store, readiness) = awaited(std::iter::repeat_n(away(), 100));
    let said = "the metadata store at https://a:1/test does not answer: Connection refused";
    {
        let mut asking = store.get("k");
        let waiting = tokio::time::timeout(Duration::from_secs(1), &mut asking);
        assert!(waiting.await.is_err());
        assert_eq!(readiness.check(), Err(said.to_owned()));
    }
    assert_eq!(readiness.check(), Err("starting".to_owned()), "who asked has given up");
    let plain = "etcd://a:1/test".parse().unwrap();
    let plain = Patience::new(plain, Readiness::default());
    assert!(!plain.reason(&away()).contains("https://"), "nobody is there");
    let ended = plain.reason(&Error::Unavailable("etcd://a:1/test: stream closed".to_owned()));
    assert!(
        ended.ends_with("stream closed: if it speaks TLS, --metastore has to begin with https://")
    );
    assert_eq!(
        store.patience.reason(&Error::NoSpace),
        format!("the metadata store at https://a:1/test: {}", Error::NoSpace)
    );
}

/// etcd reads, and its disk is too slow to write in time: what a start writes is written once, however often it is sent.
#[tokio::test(start_paused = true)]
async fn a_start_goes_on_where_writes_are_not_answered_in_time() {
    let (store, _) = awaited([silent(), silent()]);
    store.grant_lease(Duration::from_secs(9)).await.unwrap();
    let (store, _) = awaited([silent(), silent()]);
    store.revoke_lease(LeaseId(1)).await.unwrap();
    let (store, failing, _) = unheard(2);
    let made = cluster::open_or_init(&store, &SystemRandom, &SystemClock).await.unwrap();
    let found = cluster::read(&failing.store).await.unwrap().unwrap().0;
    assert_eq!(made, found, "it is not taken for another's, nor made twice");
    // The number of an attempt that was not heard of is nobody's.
    failing.unheard.store(1, Ordering::SeqCst);
    assert_eq!(cluster::next_broker_id(&store).await.unwrap(), BrokerId(2));
    let free = [("topics/a", Some("topics/a")), ("cluster", None), ("cluster", Some("k"))];
    for (key, guard) in free {
        let guards = guard.map(|guard| Guard::Absent(guard.to_owned())).into_iter().collect();
        let txn = Txn { guards, ..Txn::new().put(key, "v") };
        failing.unheard.store(1, Ordering::SeqCst);
        assert_eq!(store.txn(txn.clone()).await, Err(silent()), "{txn:?} is its writer's to judge");
    }
}

/// Whoever watches waits for the first event, which a store that is away does not send.
#[tokio::test(start_paused = true)]
async fn a_watch_is_waited_for_as_well() {
    let (store, readiness) = awaited(std::iter::repeat_n(away(), 100));
    let waiting = tokio::time::timeout(Duration::from_secs(1), store.watch("k", None));
    assert!(waiting.await.is_err());
    let (store, _) = awaited([away()]);
    let mut events = store.watch("k", None).await.unwrap();
    assert!(futures::StreamExt::next(&mut events).await.is_some());
    assert_eq!(readiness.check(), Err("starting".to_owned()), "nobody waits any more");
    let (store, readiness) = awaited([away()]);
    readiness.running(Vec::new());
    assert!(store.watch("k", None).await.is_ok(), "of a server that serves it connects by itself");
}

/// etcd without space answers reads: why a write waits is said on, and logged once.
#[tokio::test(start_paused = true)]
async fn an_answer_to_another_call_does_not_take_back_why_one_waits() {
    let (store, failing, readiness) = unheard(0);
    failing.fails.lock().extend([Error::NoSpace]);
    let writing = store.put_if("k", None, "v".into());
    let reading = async {
        sleep(PAUSE_MIN / 2).await;
        store.get("other").await.unwrap();
        readiness.check().unwrap_err()
    };
    let (written, reason) = tokio::join!(writing, reading);
    assert!(written.is_ok() && reason.contains("out of space"), "{reason}");
    assert_eq!(readiness.check(), Err("starting".to_owned()));
    let mut waits = Waits::default();
    let (now, first, second) = (Instant::now(), waits.begin(), waits.begin());
    assert!(waits.failed(first, "full", now));
    assert!(waits.failed(second, "away", now));
    assert_eq!(waits.ended(second), Some("full".to_owned()));
    assert!(!waits.answered(), "one waits still");
    assert!(!waits.failed(first, "full", now), "told already");
    assert_eq!(waits.ended(first), None);
    assert!(waits.answered());
    assert!(!waits.answered(), "that all is well is told after trouble only");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_a_limit_and_a_reason_is_told_once_a_minute() {
    let (store, _) = awaited([]);
    let mut waiting = Waiting::new(&store.patience);
    let pauses: Vec<_> = (0..8).map(|_| waiting.failed(&away())).collect();
    assert_eq!((pauses[0], pauses[1]), (PAUSE_MIN, 2 * PAUSE_MIN));
    assert_eq!(pauses.iter().max(), Some(&PAUSE_MAX));
    let mut waits = Waits::default();
    let (call, mut now) = (waits.begin(), Instant::now());
    let (begun, mut told) = (now, 0);
    while now.duration_since(begun) < 3 * TELL {
        told += u32::from(waits.failed(call, "away", now));
        now += PAUSE_MAX;
    }
    assert_eq!(told, 3);
    assert!(waits.failed(call, "another", now), "what is new is told");
    let told = |why| waits.failed(call, why, now);
    let again: Vec<bool> = ["away", "another", "away", "another"].map(told).to_vec();
    assert!(!again[2] && !again[1] && !again[3], "not each time that reasons change: {again:?}");
}
