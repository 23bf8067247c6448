//! The handle on quotas, and one client's account.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::bucket::BURST;
use super::core::{Core, Debt, Kind, Limits};
use super::metrics;

/// See the module; cheap to clone.
#[derive(Clone)]
pub(crate) struct Quotas(Arc<Shared>);

struct Shared {
    /// Whether there are any: without, a charge costs nothing.
    any: AtomicBool,
    core: Mutex<Core>,
    changed: watch::Sender<()>,
    begun: Instant,
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("any", &self.0.any).finish_non_exhaustive()
    }
}

impl Quotas {
    /// None as yet.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            any: AtomicBool::new(false),
            core: Mutex::default(),
            changed: watch::Sender::new(()),
            begun: Instant::now(),
        }))
    }

    fn now(&self) -> Duration {
        self.0.begun.elapsed() + BURST
    }

    /// Counts so many bytes, or requests, of a client. Returns how long it is not to be served; what the client does all the same
    /// is counted as well. Never waits.
    pub(crate) fn charge(&self, kind: Kind, client_id: &str, amount: u64) -> Duration {
        if !self.0.any.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        let now = self.now();
        self.0.core.lock().charge(kind, client_id, amount, now)
    }

    /// Who has to wait now, longest first.
    pub(super) fn debts(&self, most: usize) -> Vec<Debt> {
        let now = self.now();
        self.0.core.lock().debts(most, now)
    }

    /// What is set, as this broker knows it.
    pub(super) fn limits(&self) -> Limits {
        self.0.core.lock().limits.clone()
    }

    /// What is set has changed; those that wait look again.
    pub(super) fn set_limits(&self, change: impl FnOnce(&mut Limits)) {
        let mut core = self.0.core.lock();
        change(&mut core.limits);
        core.forgive();
        self.0.any.store(!core.limits.is_empty(), Ordering::Relaxed);
        drop(core);
        self.0.changed.send_replace(());
    }

    /// Changes whenever what is set does.
    pub(super) fn changed(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// The account of a client. What another broker `forwarded` was charged there.
    pub(crate) fn account(&self, client_id: &str, forwarded: bool) -> Account {
        Account { quotas: self.clone(), client: (!forwarded).then(|| client_id.into()) }
    }
}

/// Of one client; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    quotas: Quotas,
    /// `None`: not charged here.
    client: Option<Arc<str>>,
}

impl Account {
    /// As [`Quotas::charge`].
    pub(crate) fn charge(&self, kind: Kind, amount: u64) -> Duration {
        match &self.client {
            Some(client) => self.quotas.charge(kind, client, amount),
            None => Duration::ZERO,
        }
    }

    /// How long it is not to be served, and by which quota.
    pub(crate) fn debt(&self, kinds: [Kind; 2]) -> (Duration, Kind) {
        let [first, second] = kinds.map(|kind| (self.charge(kind, 0), kind));
        if second.0 > first.0 { second } else { first }
    }

    /// Waits until everything is paid for, or no longer asked for; returns how long that took. Cancel-safe.
    pub(crate) async fn paid(&self, kinds: [Kind; 2]) -> Duration {
        let begun = Instant::now();
        let mut changed = self.quotas.changed();
        let (mut wait, kind) = self.debt(kinds);
        if wait.is_zero() {
            return Duration::ZERO;
        }
        while !wait.is_zero() {
            // Others of the same id may have been charged meanwhile, and a quota may be another one now.
            let _look_again = tokio::time::timeout(wait, changed.changed()).await;
            wait = self.debt(kinds).0;
        }
        let waited = begun.elapsed();
        metrics::throttled(kind, waited);
        waited
    }

    /// Waits until what is owed now is paid for, or no longer asked for: of each kind no longer than is said beside it, and not for
    /// what others of the same id are charged meanwhile, so that everybody's turn comes. Cancel-safe.
    pub(crate) async fn paid_within(&self, kinds: [(Kind, Duration); 2]) {
        let begun = Instant::now();
        let mut changed = self.quotas.changed();
        let owed = || {
            let [first, second] = kinds.map(|(kind, most)| (self.charge(kind, 0).min(most), kind));
            if second.0 > first.0 { second } else { first }
        };
        let (wait, kind) = owed();
        if wait.is_zero() {
            return;
        }
        let mut until = begun + wait;
        while let Ok(Ok(())) = timeout_at(until, changed.changed()).await {
            until = until.min(Instant::now() + owed().0);
        }
        metrics::throttled(kind, begun.elapsed());
    }
}

/// As messages carry it, at most what fits.
pub(crate) fn millis(wait: Duration) -> u32 {
    u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use geminga_metastore::record::Quota;

    use super::*;

    fn limited(rate: u64) -> Quotas {
        let quotas = Quotas::new();
        quotas.set_limits(|limits| limits.default.producer_byte_rate = Some(rate));
        quotas
    }

    const KINDS: [Kind; 2] = [Kind::Produce, Kind::Request];

    #[tokio::test(start_paused = true)]
    async fn a_client_waits_for_as_long_as_it_owes() {
        let quotas = limited(100);
        let account = quotas.account("a", false);
        assert_eq!(account.charge(Kind::Produce, 100), Duration::ZERO);
        assert_eq!(account.paid(KINDS).now_or_never(), Some(Duration::ZERO));
        assert_eq!(quotas.charge(Kind::Produce, "a", 200), Duration::from_secs(2));
        let (waited, begun) = (account.paid(KINDS).await, Instant::now());
        assert!(waited >= Duration::from_secs(2) && waited < Duration::from_millis(2_010));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    /// An operator who lifts a quota frees those that wait at once.
    #[tokio::test(start_paused = true)]
    async fn whoever_waits_follows_a_change() {
        let quotas = limited(1);
        let account = quotas.account("a", false);
        account.charge(Kind::Produce, 1_000_000);
        let mut paid = Box::pin(account.paid(KINDS));
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut paid).await.is_err());
        quotas.set_limits(|limits| limits.default = Quota::default());
        assert_eq!(paid.now_or_never().map(|waited| waited.as_secs()), Some(60));
        assert!(!quotas.0.any.load(Ordering::Relaxed));
        // What it owed went with the quota, although nothing was charged meanwhile.
        quotas.set_limits(|limits| limits.default.producer_byte_rate = Some(1));
        assert_eq!(quotas.charge(Kind::Produce, "a", 0), Duration::ZERO);
    }

    /// No kind is waited for beyond its bound, nor what others are charged, and a change counts at once.
    #[tokio::test(start_paused = true)]
    async fn a_wait_within_bounds_has_an_end() {
        let quotas = limited(100);
        quotas.set_limits(|limits| limits.default.request_rate = Some(1));
        let account = quotas.account("a", false);
        let second = Duration::from_secs(1);
        let waits = async |produce: u32, others: u64| {
            let begun = Instant::now();
            let paid =
                account.paid_within([(Kind::Request, second), (Kind::Produce, second * produce)]);
            tokio::pin!(paid);
            assert!((&mut paid).now_or_never().is_none());
            quotas.charge(Kind::Produce, "a", others);
            paid.await;
            begun.elapsed().as_secs_f64().round() as u64
        };
        account.charge(Kind::Request, 1_000);
        assert_eq!(waits(0, 0).await, 1);
        account.charge(Kind::Produce, 1_000);
        assert_eq!(waits(60, 5_000).await, 9);
        assert_eq!(waits(20, 0).await, 20, "of the fifty seconds of the others");
        let paid =
            account.paid_within([(Kind::Request, Duration::ZERO), (Kind::Produce, second * 60)]);
        let lifted = async { quotas.set_limits(|limits| limits.default = Quota::default()) };
        let begun = Instant::now();
        futures::join!(paid, lifted);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_forwarded_is_not_charged_again() {
        let quotas = limited(1);
        assert_eq!(quotas.account("a", true).charge(Kind::Produce, 1_000), Duration::ZERO);
        assert_eq!(quotas.account("a", false).charge(Kind::Produce, 1), Duration::ZERO);
    }
}
