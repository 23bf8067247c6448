//! The metadata store of a server that starts: it is waited for, however long that takes. Meanwhile the server is up, `/readyz`
//! says in one line why it is not ready, and the log says it when that changes, and once a minute.
//!
//! Tried again is only what had no effect ([`ErrorKind::Retry`]): nobody answers, the certificate is not one to believe, there is no
//! space. All of it is mended from outside, and files with certificates are read again. What another attempt cannot mend is
//! returned and ends the process. Once the server is ready errors are its parts' own to handle again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use geminga_metastore::{
    Error, ErrorKind, LeaseId, MetaStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream,
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

/// How attempts go. No clock of its own.
#[derive(Debug, Default)]
struct Attempts {
    pause: Duration,
    /// What was logged, and when last, the newest first: attempts may fail by turns for one reason and another.
    told: VecDeque<(String, Instant)>,
}

impl Attempts {
    /// One failed: how long to wait, and whether to log it.
    fn failed(&mut self, why: &str, now: Instant) -> (Duration, bool) {
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        let recent = |(told, at): &(String, Instant)| told == why && now.duration_since(*at) < TELL;
        let tell = !self.told.iter().any(recent);
        if tell {
            self.told.retain(|(told, _)| told != why);
            self.told.truncate(REASONS - 1);
            self.told.push_front((why.to_owned(), now));
        }
        (self.pause, tell)
    }

    /// One was answered: whether to log that, because a failure was.
    fn answered(&mut self) -> bool {
        self.pause = Duration::ZERO;
        let was_told = !self.told.is_empty();
        self.told.clear();
        was_told
    }
}

/// Waits, and says why. All handles of a server share one.
pub(super) struct Patience {
    url: MetastoreUrl,
    readiness: Readiness,
    attempts: Mutex<Attempts>,
}

impl Patience {
    pub(super) fn new(url: MetastoreUrl, readiness: Readiness) -> Self {
        Self { url, readiness, attempts: Mutex::default() }
    }

    /// Connects. Cancel-safe.
    ///
    /// # Errors
    /// What another attempt does not mend.
    pub(super) async fn connected(&self, way: &Way) -> Result<Arc<dyn MetaStore>, Error> {
        self.patiently(|| way.connect()).await
    }

    async fn patiently<T, F: Future<Output = Result<T, Error>> + Send>(
        &self,
        attempt: impl Fn() -> F + Send,
    ) -> Result<T, Error> {
        loop {
            let result = attempt().await;
            match &result {
                Err(error) if error.kind() == ErrorKind::Retry && self.readiness.is_starting() => {
                    sleep(self.refused(error)).await;
                }
                _ => {
                    if result.is_ok() {
                        self.answered();
                    }
                    return result;
                }
            }
        }
    }

    fn refused(&self, error: &Error) -> Duration {
        let why = self.reason(error);
        let (pause, tell) = self.attempts.lock().failed(&why, Instant::now());
        if tell {
            tracing::warn!("not ready: {why}; trying on");
        }
        self.readiness.waits(Some(why));
        pause
    }

    fn answered(&self) {
        if self.attempts.lock().answered() {
            tracing::info!("the metadata store answers");
        }
        self.readiness.waits(None);
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
        self.patience.patiently(|| self.store.get(key)).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.patience.patiently(|| self.store.range(prefix, after, limit)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        self.patience.patiently(|| self.store.txn(txn.clone())).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.patience.patiently(|| self.store.grant_lease(ttl)).await
    }

    /// Not waited for: the lease ends meanwhile.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }
}

#[cfg(test)]
mod tests;
