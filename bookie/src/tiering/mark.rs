//! Whose the object store is, for those who write to it or remove from it: neither begins before the store carries the cluster's marker, and
//! it is looked at again before each round, before an object is named in the metadata, and before one counts as missing or lets copies
//! go ([`geminga_tier::claim`]): one read of the metadata and one small one of the store each time.
//!
//! What one look said holds for all until the next: who is in the middle of a round stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_metastore::MetaStore;
use geminga_proto::ids::ClusterUuid;
use geminga_runtime::{Random, Tasks};
use geminga_tier::{ClaimError, Store, claim, hold};

use crate::metrics;

/// How long a start waits for a store that does not answer. Bookies serve without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The cluster's claim to its store. Cheap to clone; clones know what the others saw.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    cluster: ClusterUuid,
    store: Arc<dyn MetaStore>,
    objects: Store,
    /// The store's number if this process is the first to use it.
    fresh: u128,
    held: Arc<AtomicBool>,
}

impl Mark {
    /// Nobody has looked yet.
    pub(super) fn new(
        cluster: ClusterUuid,
        store: Arc<dyn MetaStore>,
        objects: Store,
        random: &dyn Random,
    ) -> Self {
        Self { cluster, store, objects, fresh: random.next_u128(), held: Arc::default() }
    }

    /// At the start, when an operator looks.
    ///
    /// # Errors
    /// [`ClaimError`]: the store is not the cluster's. One that does not answer may be.
    pub(super) async fn begin(&self) -> Result<(), ClaimError> {
        let claiming = claim(&*self.store, &self.objects, self.cluster, self.fresh);
        match tokio::time::timeout(PATIENCE, claiming).await {
            Ok(Err(error)) if error.is_refusal() => Err(error),
            Ok(Err(error)) => {
                tracing::warn!(%error, "tiering begins when the object store answers");
                Ok(())
            }
            Err(_) => {
                tracing::warn!(
                    place = self.objects.place(),
                    "tiering begins when the object store answers"
                );
                Ok(())
            }
            Ok(Ok(())) => Ok(()),
        }
    }

    /// Whether the store is the cluster's at this moment; tells why not.
    pub(super) async fn holds(&self) -> bool {
        let claimed = hold(&*self.store, &self.objects, self.cluster, self.fresh).await;
        match &claimed {
            Ok(()) => metrics::store_refused(false),
            Err(error) if error.is_refusal() => {
                metrics::store_refused(true);
                tracing::error!(%error, "nothing is uploaded to this object store, removed from it, or believed to be missing there");
            }
            Err(error) => {
                metrics::tiering_failed();
                tracing::warn!(%error, "whose the object store is cannot be asked; trying again later");
            }
        }
        self.held.store(claimed.is_ok(), Ordering::Relaxed);
        claimed.is_ok()
    }

    /// Whether it was when somebody looked last.
    pub(super) fn held(&self) -> bool {
        self.held.load(Ordering::Relaxed)
    }

    /// Waits until it is, looking now and then; false when `tasks` stops before.
    pub(super) async fn made(&self, every: Duration, tasks: &Tasks) -> bool {
        let waiting = async {
            while !self.holds().await {
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            biased;
            () = tasks.cancelled() => false,
            () = waiting => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use geminga_metastore::MemoryStore;
    use geminga_metastore::record::Custom;
    use geminga_proto::ids::LedgerId;
    use geminga_runtime::SeededRandom;
    use geminga_tier::Marker;

    use super::*;

    fn mark(dir: &std::path::Path, store: &MemoryStore, cluster: u128) -> Mark {
        let url = format!("file://{}", dir.display());
        let objects = Store::open(&url, &geminga_tier::Options::default(), []).unwrap();
        let cluster = ClusterUuid::from_random(cluster);
        Mark::new(cluster, Arc::new(store.clone()), objects, &SeededRandom::new(1))
    }

    /// Neither at the start nor later is a store written to that is another cluster's.
    #[tokio::test]
    async fn only_the_clusters_own_store_is_used() {
        let (dir, metadata) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let own = mark(dir.path(), &metadata, 1);
        own.begin().await.unwrap();
        assert!(own.holds().await && own.held());
        let other = mark(dir.path(), &MemoryStore::new(), 2);
        let error = other.begin().await.unwrap_err();
        assert!(matches!(error, ClaimError::OtherCluster { .. }), "{error}");
        assert!(!other.holds().await);
        // While it runs, a directory that is not mounted any more looks empty.
        std::fs::remove_file(dir.path().join("geminga.store")).unwrap();
        let clone = own.clone();
        assert!(!own.holds().await && !clone.held());
        assert_eq!(Marker::read(&own.objects).await.unwrap(), None);
        // Nor does it become the cluster's by an upload that was on its way.
        let key = own.objects.key(own.cluster, &Custom::default(), LedgerId(7), 1);
        own.objects.upload(&key).complete("entries".into()).await.unwrap();
        assert!(!own.holds().await);
        assert_eq!(Marker::read(&own.objects).await.unwrap(), None);
    }
}
