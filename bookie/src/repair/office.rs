//! Work that is done only while a lease stands. Whoever loses it stops, and begins again with another: that wastes work and
//! decides nothing.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::Holder;
use geminga_metastore::{
    Error, Guard, LeaseId, MetaStore, Revision, Txn, TxnOutcome, Version, Versioned,
};
use geminga_proto::ids::BookieId;
use geminga_runtime::Tasks;
use tokio::time::{MissedTickBehavior, interval};

/// Keep-alives in a lease's time to live.
const KEEP_ALIVES_PER_TTL: u32 = 3;
/// Pause before another lease is asked for.
const RETRY: Duration = Duration::from_secs(1);

/// Runs `work` with a lease, again and again, until `tasks` stops. `work` ends by itself only to let go of all that stands under its lease.
pub(crate) async fn hold<W: Future<Output = ()>>(
    store: &Arc<dyn MetaStore>,
    ttl: Duration,
    tasks: &Tasks,
    mut work: impl FnMut(LeaseId) -> W,
) {
    let cancelled = tasks.cancelled();
    tokio::pin!(cancelled);
    loop {
        let granted = tokio::select! {
            biased;
            () = &mut cancelled => return,
            granted = store.grant_lease(ttl) => granted,
        };
        if let Ok(lease) = granted {
            tokio::select! {
                biased;
                () = &mut cancelled => {
                    // What fails ends with the lease.
                    let _ends_anyway = tokio::time::timeout(RETRY, store.revoke_lease(lease)).await;
                    return;
                }
                () = keep(&**store, lease, ttl) => {}
                () = work(lease) => {
                    let _ends_anyway = tokio::time::timeout(RETRY, store.revoke_lease(lease)).await;
                }
            }
        }
        tokio::select! {
            biased;
            () = &mut cancelled => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Returns when the lease is gone.
async fn keep(store: &dyn MetaStore, lease: LeaseId, ttl: Duration) {
    let pace = ttl / KEEP_ALIVES_PER_TTL;
    let mut alive = interval(pace);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        alive.tick().await;
        match tokio::time::timeout(pace, store.keep_alive(lease)).await {
            Ok(Err(Error::LeaseGone(_))) => return,
            Ok(Err(error)) => tracing::debug!(%error, "keep-alive of a lease failed"),
            Ok(Ok(())) | Err(_) => {}
        }
    }
}

/// Puts `key` under the lease where it is absent; the version when it was put. Of an unknown outcome it may stand: whoever does not look for
/// what it left there has to let the lease go.
pub(super) async fn try_take(
    store: &dyn MetaStore,
    key: &str,
    bookie: &BookieId,
    lease: LeaseId,
) -> Result<Option<Version>, Error> {
    let value = Holder { bookie: bookie.clone() }.encode();
    let txn = Txn::new().guard(Guard::Absent(key.to_owned())).put_leased(key, value, lease);
    match store.txn(txn).await {
        Ok(TxnOutcome::Committed(Revision(at))) => Ok(Some(Version(at))),
        Ok(TxnOutcome::GuardFailed) => Ok(None),
        Err(error) => Err(error),
    }
}

/// [`try_take`], by whoever takes such keys for all of a bookie: one of this bookie that stands there already is given up, and taken at the
/// next attempt: it may be an earlier process's, and would go with that one's lease.
pub(crate) async fn take(
    store: &dyn MetaStore,
    key: &str,
    bookie: &BookieId,
    lease: LeaseId,
) -> Result<Option<Version>, Error> {
    match try_take(store, key, bookie, lease).await {
        Ok(None) | Err(Error::Unknown(_)) => {}
        taken => return taken,
    }
    let own = |found: &Versioned| Holder::decode(&found.value).is_ok_and(|h| h.bookie == *bookie);
    if let Some(found) = store.get(key).await?.filter(own) {
        give_back(store, key, found.version).await;
    }
    Ok(None)
}

/// Whether a key that was taken is still held.
pub(super) async fn holds(
    store: &dyn MetaStore,
    key: &str,
    version: Version,
) -> Result<bool, Error> {
    Ok(store.get(key).await?.is_some_and(|found| found.version == version))
}

/// Gives it back; false where that failed: it ends with the lease, or when its bookie takes it anew.
pub(crate) async fn give_back(store: &dyn MetaStore, key: &str, version: Version) -> bool {
    let txn = Txn::new().guard(Guard::Version(key.to_owned(), version)).delete(key);
    let given = store.txn(txn).await;
    if let Err(error) = &given {
        tracing::debug!(key, %error, "a lock was not given back; it ends with its lease");
    }
    given.is_ok()
}

#[cfg(test)]
mod tests {
    use geminga_metastore::MemoryStore;

    use super::*;

    const KEY: &str = "an/office";

    /// A process that was killed left the key under its lease, and the next one of the same bookie is not elected by it.
    #[tokio::test]
    async fn what_an_earlier_process_left_is_taken_anew() {
        let store = MemoryStore::new();
        let (own, other): (BookieId, BookieId) = ("b1".parse().unwrap(), "b2".parse().unwrap());
        let ttl = Duration::from_secs(10);
        let earlier = store.grant_lease(ttl).await.unwrap();
        let left = take(&store, KEY, &own, earlier).await.unwrap().unwrap();
        let lease = store.grant_lease(ttl).await.unwrap();
        assert_eq!(take(&store, KEY, &other, lease).await.unwrap(), None);
        assert!(holds(&store, KEY, left).await.unwrap(), "another took it away");
        assert_eq!(take(&store, KEY, &own, lease).await.unwrap(), None);
        let taken = take(&store, KEY, &own, lease).await.unwrap().unwrap();
        store.revoke_lease(earlier).await.unwrap();
        assert!(holds(&store, KEY, taken).await.unwrap(), "it went with the lease of another");
        assert!(!holds(&store, KEY, left).await.unwrap());
    }
}
