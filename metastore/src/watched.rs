//! A store whose answers are timed: what brokers and bookies see of etcd, from their side. Slow answers are told with the request
//! that waited for them, where that is known. A watch waits by design and is passed on as it is.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use geminga_runtime::requests::{self, Requests};
use tokio::time::Instant;

use super::store::{
    Error, LeaseId, MetaStore, Op, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
};

/// See the module.
#[derive(Debug)]
pub struct WatchedStore {
    store: Arc<dyn MetaStore>,
    requests: Requests,
}

impl WatchedStore {
    /// Around another store.
    pub fn around(store: Arc<dyn MetaStore>, requests: Requests) -> Arc<dyn MetaStore> {
        Arc::new(Self { store, requests: requests.apart() })
    }

    /// Times a call. `key`: the first that it is about; `bytes`: of what is to be written.
    async fn timed<T>(
        &self,
        op: &'static str,
        (key, bytes): (&str, usize),
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        let result = call.await;
        let took = begun.elapsed();
        observe(op, result.is_ok(), took);
        if let Some(left_out) = self.requests.slow(took) {
            tracing::warn!(
                request = requests::current().map(tracing::field::display),
                op,
                key,
                bytes,
                error = result.as_ref().err().map(tracing::field::display),
                took_ms = took.as_millis(),
                left_out,
                "slow answer of the metadata store"
            );
        }
        result
    }
}

/// `op` is one of get, range, txn, grant_lease, keep_alive, revoke_lease; `outcome` answered or failed: a transaction whose guards
/// did not hold was answered.
fn observe(op: &'static str, answered: bool, took: Duration) {
    let outcome = if answered { "answered" } else { "failed" };
    metrics::counter!("geminga_metadata_requests_total", "op" => op, "outcome" => outcome)
        .increment(1);
    metrics::histogram!("geminga_metadata_request_seconds", "op" => op).record(took.as_secs_f64());
}

/// The first key that a transaction changes, and the bytes that it writes.
fn about(txn: &Txn) -> (String, usize) {
    let key = match txn.ops.first() {
        Some(Op::Put { key, .. } | Op::Delete { key }) => key.clone(),
        None => String::new(),
    };
    let bytes = |op: &Op| match op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    };
    (key, txn.ops.iter().map(bytes).sum())
}

#[async_trait]
impl MetaStore for WatchedStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.timed("get", (key, 0), self.store.get(key)).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.timed("range", (prefix, 0), self.store.range(prefix, after, limit)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        let (key, bytes) = about(&txn);
        self.timed("txn", (&key, bytes), self.store.txn(txn)).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.timed("grant_lease", ("", 0), self.store.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.timed("keep_alive", ("", 0), self.store.keep_alive(lease)).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.timed("revoke_lease", ("", 0), self.store.revoke_lease(lease)).await
    }
}

#[cfg(test)]
mod tests {
    use geminga_runtime::SeededRandom;
    use geminga_runtime::lines::{Lines, field};
    use geminga_runtime::requests::{RequestId, RequestsConfig};

    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn a_slow_answer_says_of_which_key_and_for_which_request() {
        let config = RequestsConfig { slow: Duration::from_nanos(1), ..RequestsConfig::default() };
        let requests = Requests::new(config, &SeededRandom::new(1));
        let store = WatchedStore::around(Arc::new(MemoryStore::new()), requests);
        let lines = Lines::capture();
        let id = RequestId::parse("order-17").unwrap();
        let put = store.put_if("topics/default/t", None, "12345".into());
        assert!(requests::scope(id, put).await.unwrap().is_some());
        assert!(store.get("topics/default/t").await.unwrap().is_some());
        let [txn] = &lines.with(&["slow answer", "op=\"txn\""])[..] else { panic!("{lines:?}") };
        assert_eq!((field(txn, "key"), field(txn, "bytes")), (Some("topics/default/t"), Some("5")));
        assert_eq!(field(txn, "request"), Some("order-17"));
        let [get] = &lines.with(&["slow answer", "op=\"get\""])[..] else { panic!("{lines:?}") };
        assert_eq!(field(get, "request"), None, "{get}");
    }
}
