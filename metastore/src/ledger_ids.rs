//! Ledger ids. An id is never handed out twice (M1): the counter only rises, and after a restored backup of the store the
//! cluster epoch is another one.

use std::sync::Arc;

use geminga_proto::ids::LedgerId;

use crate::id_blocks::IdBlocks;
use crate::{Error, MetaStore, keys};

/// Hands out ledger ids of one cluster epoch.
#[derive(Debug)]
pub struct LedgerIds {
    cluster_epoch: u16,
    blocks: IdBlocks,
}

impl LedgerIds {
    /// An allocator without a block; the first id takes one.
    pub fn new(store: Arc<dyn MetaStore>, cluster_epoch: u16) -> Self {
        Self { cluster_epoch, blocks: IdBlocks::new(store, keys::alloc(0)) }
    }

    /// An id that nobody else has or had. Cancel-safe: at worst a block is lost.
    ///
    /// # Errors
    /// When the store does not answer, or all ids of the epoch are used.
    pub async fn next(&self) -> Result<LedgerId, Error> {
        let id = LedgerId::from_parts(self.cluster_epoch, self.blocks.next().await?);
        id.ok_or_else(|| Error::Invalid("no ledger ids are left in this cluster epoch".to_owned()))
    }
}
