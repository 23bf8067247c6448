//! How far a store's metadata can know of ledgers. Ids are handed out by a counter that only rises (M1), so a ledger whose id lies beyond
//! it was made by metadata that is lost: whoever finds one looks at a store that went back in time, whatever that says of itself.

use geminga_proto::ids::LedgerId;

use crate::record::Cluster;
use crate::{Error, MetaStore, cluster, id_blocks, keys};

/// The cluster's record, and where its ledger ids end. To be read after what is compared with it was found: an id that was handed out
/// meanwhile is not beyond it then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Horizon {
    /// The cluster.
    pub cluster: Cluster,
    /// The counter's next number.
    next: u64,
}

impl Horizon {
    /// Reads it, linearizably (M8); `None` when there is no cluster.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(store: &dyn MetaStore) -> Result<Option<Self>, Error> {
        // The record first: an epoch that is raised in between lets more be beyond it, and nothing less.
        let Some((cluster, _)) = cluster::read(store).await? else { return Ok(None) };
        let next = id_blocks::next_of(store, &keys::alloc(0)).await?;
        Ok(Some(Self { cluster, next }))
    }

    /// One of this record, where the next number is this.
    pub fn new(cluster: Cluster, next: u64) -> Self {
        Self { cluster, next }
    }

    /// Whether this metadata has never handed the id out.
    pub fn is_beyond(&self, ledger: LedgerId) -> bool {
        LedgerId::from_parts(self.cluster.epoch, self.next).is_some_and(|next| ledger >= next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use geminga_runtime::{ManualClock, SeededRandom};

    use super::*;
    use crate::record::Features;
    use crate::{LedgerIds, MemoryStore};

    #[tokio::test]
    async fn what_was_handed_out_is_within_it() {
        let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
        assert_eq!(Horizon::read(&*store).await, Ok(None));
        cluster::init(&*store, &SeededRandom::new(1), &ManualClock::at(0)).await.unwrap();
        let beyond =
            async |ledger| Horizon::read(&*store).await.unwrap().unwrap().is_beyond(ledger);
        assert!(beyond(LedgerId(1)).await, "none was");
        let ids = LedgerIds::new(Arc::clone(&store), 0);
        let first = ids.next().await.unwrap();
        assert!(!beyond(first).await);
        assert!(!beyond(LedgerId(first.0 + 500)).await, "a broker may have it from its block");
        assert!(beyond(LedgerId(first.0 + 1000)).await);
        assert!(beyond(LedgerId::from_parts(1, 1).unwrap()).await, "a later epoch's");
    }

    #[test]
    fn earlier_epochs_are_within_it() {
        let cluster = Cluster {
            uuid: geminga_proto::ids::ClusterUuid::from_random(1),
            epoch: 2,
            group_shards: 8,
            next_broker: geminga_proto::ids::BrokerId(1),
            groups_topic: geminga_proto::ids::TopicId::from_random(2),
            created_ms: 0,
            restored: None,
            features: Features::NONE,
        };
        let horizon = Horizon::new(cluster, 7);
        let id = |epoch, number| LedgerId::from_parts(epoch, number).unwrap();
        assert!(!horizon.is_beyond(id(1, 9_999)) && !horizon.is_beyond(id(2, 6)));
        assert!(horizon.is_beyond(id(2, 7)) && horizon.is_beyond(id(3, 0)));
    }
}
