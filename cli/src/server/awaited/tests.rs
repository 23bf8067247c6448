use std::collections::VecDeque;

use geminga_metastore::MemoryStore;

use super::*;

/// A store that fails as it is told to, and then does what is asked.
#[derive(Debug)]
struct Failing {
    store: MemoryStore,
    fails: Mutex<VecDeque<Error>>,
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
        self.store.txn(txn).await
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
        self.store.revoke_lease(lease).await
    }
}

fn away() -> Error {
    Error::Unavailable("etcd://a:1/test: Connection refused".to_owned())
}

fn awaited(fails: impl IntoIterator<Item = Error>) -> (Awaited, Readiness) {
    let readiness = Readiness::default();
    let url = "https://a:1/test".parse().unwrap();
    let fails = Mutex::new(fails.into_iter().collect());
    let store = Arc::new(Failing { store: MemoryStore::new(), fails });
    (Awaited { store, patience: Patience::new(url, readiness.clone()) }, readiness)
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
    let waiting = tokio::time::timeout(Duration::from_secs(1), store.get("k"));
    assert!(waiting.await.is_err());
    let said = "the metadata store at https://a:1/test does not answer: Connection refused";
    assert_eq!(readiness.check(), Err(said.to_owned()));
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

#[tokio::test(start_paused = true)]
async fn pauses_grow_to_a_limit_and_a_reason_is_told_once_a_minute() {
    let mut attempts = Attempts::default();
    let (mut now, mut told, mut waited) = (Instant::now(), 0, Vec::new());
    let begun = now;
    while now.duration_since(begun) < 3 * TELL {
        let (pause, tell) = attempts.failed("away", now);
        told += u32::from(tell);
        waited.push(pause);
        now += pause;
    }
    assert_eq!(told, 3);
    assert_eq!((waited[0], waited[1]), (PAUSE_MIN, 2 * PAUSE_MIN));
    assert_eq!(waited.iter().max(), Some(&PAUSE_MAX));
    let (_, tell) = attempts.failed("another", now);
    assert!(tell, "what is new is told");
    let told = |why| attempts.failed(why, now).1;
    let again: Vec<bool> = ["away", "another", "away", "another"].map(told).to_vec();
    assert!(!again[2] && !again[1] && !again[3], "not each time that reasons change: {again:?}");
    assert!(attempts.answered());
    assert!(!attempts.answered(), "that all is well is told after trouble only");
    assert_eq!(attempts.failed("another", now), (PAUSE_MIN, true));
}
