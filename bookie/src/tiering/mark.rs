//! Whose the object store is, for those who write to it or remove from it: neither begins before the store carries the cluster's marker, and
//! whoever removes looks again before each round ([`geminga_tier::claim`]).

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::MetaStore;
use geminga_proto::ids::ClusterUuid;
use geminga_runtime::{Random, Tasks};
use geminga_tier::{ClaimError, Store, claim, hold};

/// How long a start waits for a store that does not answer. Bookies serve without it. Metadata that does not answer has said so by
/// then, so that this is about the object store.
const PATIENCE: Duration = Duration::from_secs(6);

/// The cluster's claim to its store. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    pub(super) cluster: ClusterUuid,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) objects: Store,
    pub(super) random: Arc<dyn Random>,
}

impl Mark {
    async fn claim(&self) -> Result<(), ClaimError> {
        claim(&*self.store, &self.objects, self.cluster, self.random.next_u128()).await
    }

    /// At the start, when an operator looks.
    ///
    /// # Errors
    /// [`ClaimError`]: the store is not the cluster's. One that does not answer may be.
    pub(super) async fn begin(&self) -> Result<(), ClaimError> {
        match tokio::time::timeout(PATIENCE, self.claim()).await {
            Ok(Err(error)) if error.is_refusal() => Err(error),
            Ok(Err(error)) => {
                tracing::warn!(%error, "tiering begins when whose the object store is can be asked");
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
        let fresh = self.random.next_u128();
        let claimed = hold(&*self.store, &self.objects, self.cluster, fresh).await;
        match &claimed {
            Ok(()) => {}
            Err(error) if error.is_refusal() => {
                tracing::error!(%error, "nothing is uploaded to this object store, or removed from it");
            }
            Err(error) => {
                tracing::warn!(%error, "whose the object store is cannot be asked; trying again later");
            }
        }
        claimed.is_ok()
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
        Mark {
            cluster: ClusterUuid::from_random(cluster),
            store: Arc::new(store.clone()),
            objects: Store::open(&url, &geminga_tier::Options::default(), []).unwrap(),
            random: Arc::new(SeededRandom::new(1)),
        }
    }

    /// Neither at the start nor later is a store written to that is another cluster's.
    #[tokio::test]
    async fn only_the_clusters_own_store_is_used() {
        let (dir, metadata) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let own = mark(dir.path(), &metadata, 1);
        own.begin().await.unwrap();
        assert!(own.holds().await);
        let other = mark(dir.path(), &MemoryStore::new(), 2);
        let error = other.begin().await.unwrap_err();
        assert!(matches!(error, ClaimError::OtherCluster { .. }), "{error}");
        assert!(!other.holds().await);
        // While it runs, a directory that is not mounted any more looks empty.
        std::fs::remove_file(dir.path().join("geminga.store")).unwrap();
        assert!(!own.holds().await);
        assert_eq!(Marker::read(&own.objects).await.unwrap(), None);
        // Nor does it become the cluster's by an upload that was on its way.
        let key = own.objects.key(own.cluster, &Custom::default(), LedgerId(7), 1);
        own.objects.upload(&key).complete("entries".into()).await.unwrap();
        assert!(!own.holds().await);
        assert_eq!(Marker::read(&own.objects).await.unwrap(), None);
    }
}
