//! Whose the object store is, for those who write to it or remove from it: neither begins before the store carries the cluster's marker, and
//! it is looked at again before each round, before an object is named in the metadata, and before one counts as missing or lets copies
//! go ([`geminga_tier::claim`]): one read of the metadata and one small one of the store each time.
//!
//! A refusal holds for all until the next look: who is in the middle of a round stops. A look that nobody answered says nothing: whoever
//! asked waits, and others go on.
//!
//! Where nobody has marked the store yet, and objects that are named there are missing, all that is named is gone through, which is more
//! work the more there is: less and less often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_metastore::MetaStore;
use geminga_proto::ids::ClusterUuid;
use geminga_runtime::{Random, Tasks};
use geminga_tier::{ClaimError, Marker, Store, claim, hold};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::metrics;

/// How long a start waits for a store that does not answer. Bookies serve without it. Metadata that does not answer has said so by
/// then, so that this is about the object store.
const PATIENCE: Duration = Duration::from_secs(6);
/// And how long it goes through what the metadata names, once the store answers.
const SEARCH: Duration = Duration::from_secs(60);
/// So often a look is tried that somebody's finished work depends on, with longer and longer pauses.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// Between two searches for objects that are missing, at first and at most.
const FIRST_REST: Duration = Duration::from_secs(30);
const MAX_REST: Duration = Duration::from_secs(300);

/// What a look said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the cluster's.
    Held,
    /// It is not.
    Refused,
    /// Nobody said.
    Unknown,
}

/// No search before, and how long the rest is that ends then.
type Rest = Option<(Instant, Duration)>;

/// The cluster's claim to its store. Cheap to clone; clones know what the others saw.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    cluster: ClusterUuid,
    store: Arc<dyn MetaStore>,
    objects: Store,
    /// The store's number if this process is the first to use it.
    fresh: u128,
    held: Arc<AtomicBool>,
    rest: Arc<Mutex<Rest>>,
}

impl Mark {
    /// Nobody has looked yet.
    pub(super) fn new(
        cluster: ClusterUuid,
        store: Arc<dyn MetaStore>,
        objects: Store,
        random: &dyn Random,
    ) -> Self {
        Self {
            cluster,
            store,
            objects,
            fresh: random.next_u128(),
            held: Arc::default(),
            rest: Arc::default(),
        }
    }

    /// At the start, when an operator looks.
    ///
    /// # Errors
    /// [`ClaimError`]: the store is not the cluster's. One that does not answer may be.
    pub(super) async fn begin(&self) -> Result<(), ClaimError> {
        match self.begins().await {
            Ok(()) => Ok(()),
            Err(error) if error.is_refusal() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "tiering begins when the object store answers");
                Ok(())
            }
        }
    }

    /// A search takes its time; a store that does not answer is found out before.
    async fn begins(&self) -> Result<(), ClaimError> {
        let undecided = |_| ClaimError::Undecided { place: self.objects.place() };
        if !self.objects.is_memory() {
            let read = Marker::read(&self.objects);
            tokio::time::timeout(PATIENCE, read).await.map_err(undecided)??;
        }
        let claiming = claim(&*self.store, &self.objects, self.cluster, self.fresh);
        tokio::time::timeout(SEARCH, claiming).await.map_err(undecided)?
    }

    /// Whether the store is the cluster's at this moment; tells why not.
    pub(super) async fn look(&self) -> Standing {
        let in_brief = self.rest.lock().is_some_and(|(until, _)| Instant::now() < until);
        let held = hold(&*self.store, &self.objects, self.cluster, self.fresh, in_brief).await;
        let standing = match &held {
            Ok(()) => {
                metrics::store_refused(false);
                Standing::Held
            }
            Err(error) if error.is_refusal() => {
                metrics::store_refused(true);
                tracing::error!(%error, "nothing is uploaded to this object store, removed from it, or believed to be missing there");
                Standing::Refused
            }
            Err(error) => {
                metrics::tiering_failed();
                tracing::warn!(%error, "whose the object store is cannot be asked; trying again later");
                return Standing::Unknown;
            }
        };
        self.held.store(held.is_ok(), Ordering::Relaxed);
        let mut rest = self.rest.lock();
        *rest = match (held, *rest) {
            (Err(ClaimError::Nothing { .. }), rest) if in_brief => rest,
            (Err(ClaimError::Nothing { .. }), rest) => {
                let long = rest.map_or(FIRST_REST, |(_, long)| (long * 2).min(MAX_REST));
                Some((Instant::now() + long, long))
            }
            _ => None,
        };
        standing
    }

    /// Whether a look finds that it is.
    pub(super) async fn holds(&self) -> bool {
        self.look().await == Standing::Held
    }

    /// The same for whoever would throw work away: a store that does not say is asked again.
    pub(super) async fn holds_in_the_end(&self) -> bool {
        for tried in 1..TRIES {
            match self.look().await {
                Standing::Unknown => tokio::time::sleep(PAUSE * tried).await,
                standing => return standing == Standing::Held,
            }
        }
        self.holds().await
    }

    /// Whether it was when a look was answered last.
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
