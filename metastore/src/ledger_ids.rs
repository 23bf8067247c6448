//! Ledger ids: blocks of a thousand taken by compare-and-swap, handed out one by one. An id is never handed out twice:
//! what a process did not use of its block is lost (M1).

use std::sync::Arc;

use geminga_proto::ids::LedgerId;
use geminga_proto::internal as wire;
use prost::Message;
use tokio::sync::Mutex;

use crate::record::FORMAT;
use crate::{Error, MetaStore, Version, keys};

/// Ids taken at a time.
const BLOCK: u64 = 1000;

/// Hands out ledger ids of one cluster epoch.
#[derive(Debug)]
pub struct LedgerIds {
    store: Arc<dyn MetaStore>,
    cluster_epoch: u16,
    /// The rest of the block: next and end. Held while a new block is taken, so that callers share it.
    block: Mutex<(u64, u64)>,
}

impl LedgerIds {
    /// An allocator without a block; the first id takes one.
    pub fn new(store: Arc<dyn MetaStore>, cluster_epoch: u16) -> Self {
        Self { store, cluster_epoch, block: Mutex::new((0, 0)) }
    }

    /// An id that nobody else has or had. Cancel-safe: at worst a block is lost.
    ///
    /// # Errors
    /// When the store does not answer, or all ids of the epoch are used.
    pub async fn next(&self) -> Result<LedgerId, Error> {
        let mut block = self.block.lock().await;
        if block.0 == block.1 {
            let first = self.take_block().await?;
            *block = (first, first + BLOCK);
        }
        let id = LedgerId::from_parts(self.cluster_epoch, block.0);
        block.0 += 1;
        id.ok_or_else(|| Error::Invalid("no ledger ids are left in this cluster epoch".to_owned()))
    }

    async fn take_block(&self) -> Result<u64, Error> {
        let key = keys::alloc(0);
        loop {
            let (next, version) = match self.store.get(&key).await? {
                None => (1, None),
                Some(found) => (decode(&key, &found.value)?, Some(found.version)),
            };
            let record = wire::AllocRecord { format: FORMAT, next: next + BLOCK };
            // An unknown outcome may have moved the counter: the block is then nobody's, and the next one is taken.
            let taken: Result<Option<Version>, Error> =
                self.store.put_if(&key, version, record.encode_to_vec().into()).await;
            match taken {
                Ok(Some(_)) => return Ok(next),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn decode(key: &str, value: &[u8]) -> Result<u64, Error> {
    let corrupt = |why: String| Error::Corrupt { key: key.to_owned(), why };
    let record = wire::AllocRecord::decode(value).map_err(|e| corrupt(e.to_string()))?;
    match record.format {
        FORMAT => Ok(record.next),
        format => Err(corrupt(format!("format {format}: upgrade this process"))),
    }
}
