//! The metadata store of a server that starts: it is waited for, however long that takes. Meanwhile the server is up, `/readyz`
//! says in one line why it is not ready, and the log says it when that changes, and once a minute.
//!
//! Tried again is what had no effect ([`ErrorKind::Retry`]): nobody answers, the certificate is not one to believe, there is no
//! space. All of it is mended from outside, and files with certificates are read again. What may have had one ([`ErrorKind::Unknown`]:
//! etcd reads, and its disk is too slow to write) is tried again only where a second time does no harm: leases, and the writes by
//! which a server starts ([`repeatable`]). What another attempt cannot mend is returned and ends the process. Once the server is
//! ready errors are its parts' own to handle again.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use geminga_metastore::{
    Error, ErrorKind, Guard, LeaseId, MetaStore, Op, Range, Revision, Txn, TxnOutcome, Versioned,
    WatchStream, keys,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::config::MetastoreUrl;
use crate::http::Readiness;
use crate::metadata::Way;

/// Pause before the next attempt; doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often the same reason is logged, and how many are remembered for that.
const TELL: Duration = Duration::from_secs(60);
const REASONS: usize = 8;

/// Why calls wait, and what of it was logged. No clock of its own.
#[derive(Debug, Default)]
struct Waits {
    /// Of each call that waits, by the order in which they began to.
    reasons: BTreeMap<u64, String>,
    calls: u64,
    /// What was logged, and when last, the newest first: attempts may fail by turns for one reason and another.
    told: VecDeque<(String, Instant)>,
}

impl Waits {
    /// A call begins to wait: its number.
    fn begin(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// It failed: whether to log it.
    fn failed(&mut self, call: u64, why: &str, now: Instant) -> bool {
        self.reasons.insert(call, why.to_owned());
        let recent = |(told, at): &(String, Instant)| told == why && now.duration_since(*at) < TELL;
        let tell = !self.told.iter().any(recent);
        if tell {
            self.told.retain(|(told, _)| told != why);
            self.told.truncate(REASONS - 1);
            self.told.push_front((why.to_owned(), now));
        }
        tell
    }

    /// It waits no more: why others do, if any.
    fn ended(&mut self, call: u64) -> Option<String> {
        self.reasons.remove(&call);
        self.reasons.values().next_back().cloned()
    }

    /// A call that had waited was answered: whether to log that, because no other waits.
    fn answered(&mut self) -> bool {
        let well = self.reasons.is_empty() && !self.told.is_empty();
        if well {
            self.told.clear();
        }
        well
    }
}

/// Waits, and says why. All handles of a server share one.
pub(super) struct Patience {
    url: MetastoreUrl,
    readiness: Readiness,
    waits: Mutex<Waits>,
}

impl Patience {
    pub(super) fn new(url: MetastoreUrl, readiness: Readiness) -> Self {
        Self { url, readiness, waits: Mutex::default() }
    }

    /// Connects. Cancel-safe.
    ///
    /// # Errors
    /// What another attempt does not mend.
    pub(super) async fn connected(&self, way: &Way) -> Result<Arc<dyn MetaStore>, Error> {
        self.patiently(Again::NoEffect, || way.connect()).await
    }

    async fn patiently<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        again: Again,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T, Error> {
        let mut waiting = None;
        loop {
            let result = attempt().await;
            match &result {
                Err(error) if again.is_for(error) && self.readiness.is_starting() => {
                    let waiting = waiting.get_or_insert_with(|| Waiting::new(self));
                    sleep(waiting.failed(error)).await;
                }
                Ok(_) => {
                    if let Some(waiting) = waiting {
                        waiting.answered();
                    }
                    return result;
                }
                Err(_) => return result,
            }
        }
    }

    /// One line for an operator.
    fn reason(&self, error: &Error) -> String {
        let why = match error {
            Error::Unavailable(why) | Error::Unknown(why) => why,
            other => return format!("the metadata store at {}: {other}", self.url),
        };
        // It begins with the place, which is said already.
        let why = why
            .strip_prefix("etcd://")
            .and_then(|rest| rest.split_once(": "))
            .map_or(why.as_str(), |(_, why)| why);
        // A listener that speaks TLS ends what is plain without a word.
        let nobody = why.contains("refused") || why.contains("no answer");
        let hint = match nobody || self.url.is_tls() {
            true => "",
            false => ": if it speaks TLS, --metastore has to begin with https://",
        };
        format!("the metadata store at {} does not answer: {why}{hint}", self.url)
    }
}

/// One call that waits. What it said is taken back when it ends, however it ends.
struct Waiting<'a> {
    patience: &'a Patience,
    call: u64,
    pause: Duration,
}

impl<'a> Waiting<'a> {
    fn new(patience: &'a Patience) -> Self {
        let call = patience.waits.lock().begin();
        Self { patience, call, pause: Duration::ZERO }
    }

    /// How long to wait for the next attempt.
    fn failed(&mut self, error: &Error) -> Duration {
        let why = self.patience.reason(error);
        let tell = self.patience.waits.lock().failed(self.call, &why, Instant::now());
        if tell {
            tracing::warn!("not ready: {why}; trying on");
        }
        self.patience.readiness.waits(Some(why));
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.pause
    }

    fn answered(self) {
        let patience = self.patience;
        drop(self);
        if patience.waits.lock().answered() {
            tracing::info!("the metadata store answers");
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waits = self.patience.waits.lock();
        let others = waits.ended(self.call);
        self.patience.readiness.waits(others);
    }
}

/// What is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// What certainly had no effect.
    NoEffect,
    /// What may have had one, too: a second one does no harm.
    Any,
}

impl Again {
    fn is_for(self, error: &Error) -> bool {
        match error.kind() {
            ErrorKind::Retry => true,
            ErrorKind::Unknown => self == Self::Any,
            ErrorKind::Invalid | ErrorKind::Corrupt => false,
        }
    }
}

/// Whether a transaction may be sent again although it may have been applied. Every key that it writes is guarded, so that it is
/// applied once at most; and it is one by which a server starts: its writer, whose guard fails then, reads what stands there and
/// knows its own (the cluster's record, a bookie's cookie, the registrations), or takes the next (a broker's number). Others would
/// take it for somebody else's.
fn repeatable(txn: &Txn) -> bool {
    let guarded = |key: &String| {
        txn.guards.iter().any(|guard| match guard {
            Guard::Absent(guarded) | Guard::Version(guarded, _) => guarded == key,
            Guard::Created(..) => false,
        })
    };
    let of_start = |key: &String| {
        let below = [keys::BOOKIE_COOKIES, keys::BOOKIES_LIVE, keys::BROKERS];
        key == keys::CLUSTER || below.iter().any(|prefix| key.starts_with(prefix))
    };
    txn.ops.iter().all(|op| match op {
        Op::Put { key, .. } => guarded(key) && of_start(key),
        Op::Delete { .. } => false,
    })
}

/// A store that is waited for while the server starts.
pub(super) struct Awaited {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) patience: Patience,
}

impl fmt::Debug for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait]
impl MetaStore for Awaited {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        self.patience.patiently(Again::NoEffect, || self.store.get(key)).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        let attempt = || self.store.range(prefix, after, limit);
        self.patience.patiently(Again::NoEffect, attempt).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        let again = if repeatable(&txn) { Again::Any } else { Again::NoEffect };
        self.patience.patiently(again, || self.store.txn(txn.clone())).await
    }

    /// A watch waits for its first event by itself, without a word: what it would list is asked for before.
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        if self.patience.readiness.is_starting() {
            self.range(prefix, None, 1).await?;
        }
        self.store.watch(prefix, from).await
    }

    /// One that was granted and not heard of ends by itself.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.patience.patiently(Again::Any, || self.store.grant_lease(ttl)).await
    }

    /// Not waited for: the lease ends meanwhile.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await
    }

    /// One that is gone is no error.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.patience.patiently(Again::Any, || self.store.revoke_lease(lease)).await
    }
}

#[cfg(test)]
mod tests;
