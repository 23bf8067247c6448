//! Ids of idempotent producers. Two producers of one id would have their batches taken for each other's, so an id is never
//! handed out twice: the counter only rises, and after a restored backup of the store the cluster epoch, which stands in
//! the id's upper bits, is another one.

use std::sync::Arc;

use crate::id_blocks::IdBlocks;
use crate::{Error, MetaStore, keys};

/// Bits of an id below the cluster epoch, which has twelve; the sign bit stays clear.
const COUNTER_BITS: u32 = 51;

/// Hands out producer ids of one cluster epoch.
#[derive(Debug)]
pub struct ProducerIds {
    cluster_epoch: u16,
    blocks: IdBlocks,
}

impl ProducerIds {
    /// An allocator without a block; the first id takes one.
    pub fn new(store: Arc<dyn MetaStore>, cluster_epoch: u16) -> Self {
        Self { cluster_epoch, blocks: IdBlocks::new(store, keys::PRODUCER_IDS.to_owned()) }
    }

    /// An id that nobody else has or had, at least 1. Cancel-safe: at worst a block is lost.
    ///
    /// # Errors
    /// When the store does not answer, or all ids of the epoch are used.
    pub async fn next(&self) -> Result<i64, Error> {
        let counter = self.blocks.next().await?;
        from_parts(self.cluster_epoch, counter).ok_or_else(|| {
            Error::Invalid("no producer ids are left in this cluster epoch".to_owned())
        })
    }
}

fn from_parts(cluster_epoch: u16, counter: u64) -> Option<i64> {
    let fits = cluster_epoch < 1 << 12 && counter < 1 << COUNTER_BITS;
    fits.then(|| i64::from(cluster_epoch) << COUNTER_BITS | counter.cast_signed())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use futures::future::join_all;

    use super::*;
    use crate::MemoryStore;

    #[tokio::test]
    async fn no_id_is_handed_out_twice() {
        let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
        let mut seen = HashSet::new();
        for _process in 0..3 {
            let brokers =
                [0, 0, 1].map(|epoch| Arc::new(ProducerIds::new(Arc::clone(&store), epoch)));
            for broker in &brokers {
                for id in join_all((0..1500).map(|_| broker.next())).await {
                    let id = id.unwrap();
                    assert!(id > 0 && seen.insert(id), "{id}");
                }
            }
        }
    }

    #[test]
    fn ids_of_cluster_epochs_differ_and_are_never_negative() {
        assert_eq!(from_parts(0, 7), Some(7));
        assert_eq!(from_parts(1, 7), Some((1 << COUNTER_BITS) + 7));
        assert!(from_parts(4095, (1 << COUNTER_BITS) - 1).is_some_and(|id| id > 0));
        assert_eq!(from_parts(4096, 0), None);
        assert_eq!(from_parts(0, 1 << COUNTER_BITS), None);
    }
}
