//! Numbers that nobody else has or had: blocks taken by compare-and-swap from a counter in one key, handed out one by one.
//! What a process did not use of its block is lost.

use std::sync::Arc;

use geminga_proto::internal as wire;
use prost::Message;
use tokio::sync::Mutex;

use crate::record::{FORMAT, Invalid, check_format, counted};
use crate::{Error, MetaStore, Version};

/// Numbers taken at a time.
const BLOCK: u64 = 1000;

/// Hands out the numbers of one counter, from 1.
#[derive(Debug)]
pub(crate) struct IdBlocks {
    store: Arc<dyn MetaStore>,
    key: String,
    /// The rest of the block: next and end. Held while a new block is taken, so that callers share it.
    block: Mutex<(u64, u64)>,
}

impl IdBlocks {
    /// A counter of which no block is taken yet; the first number takes one.
    pub(crate) fn new(store: Arc<dyn MetaStore>, key: String) -> Self {
        Self { store, key, block: Mutex::new((0, 0)) }
    }

    /// A number. Cancel-safe: at worst a block is lost.
    ///
    /// # Errors
    /// When the store does not answer.
    pub(crate) async fn next(&self) -> Result<u64, Error> {
        let mut block = self.block.lock().await;
        if block.0 == block.1 {
            let first = self.take_block().await?;
            *block = (first, first + BLOCK);
        }
        let number = block.0;
        block.0 += 1;
        Ok(number)
    }

    async fn take_block(&self) -> Result<u64, Error> {
        loop {
            let (next, version) = match self.store.get(&self.key).await? {
                None => (1, None),
                Some(found) => (decode(&self.key, &found.value)?, Some(found.version)),
            };
            let record = wire::AllocRecord { format: FORMAT, next: next + BLOCK };
            // An unknown outcome may have moved the counter: the block is then nobody's, and the next one is taken.
            let taken: Result<Option<Version>, Error> =
                self.store.put_if(&self.key, version, record.encode_to_vec().into()).await;
            match taken {
                Ok(Some(_)) => return Ok(next),
                Ok(None) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The first number of a counter that was never handed out.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn next_of(store: &dyn MetaStore, key: &str) -> Result<u64, Error> {
    match store.get(key).await? {
        None => Ok(1),
        Some(found) => decode(key, &found.value),
    }
}

fn decode(key: &str, value: &[u8]) -> Result<u64, Error> {
    let read = wire::AllocRecord::decode(value)
        .map_err(|e| Invalid::Encoding(e.to_string()))
        .and_then(|record| check_format(record.format).map(|()| record.next));
    counted(read).map_err(|e| Error::Corrupt { key: key.to_owned(), why: e.to_string() })
}
