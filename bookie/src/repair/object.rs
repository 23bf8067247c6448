//! Objects as repairs read them (T6): entries as bookies had them, for places that no peer can fill. The few that were read last stay open,
//! with one block each, since a copy goes from entry to entry.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_ledger::{ReadError, StoredObjects, Wanted};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::EntryId;
use geminga_tier::format::Block;
use geminga_tier::{Object, ObjectError, Store};
use parking_lot::Mutex;

use crate::folded::Folded;

/// Objects that stay open: about as many as there are repairs at a time.
const OPEN: usize = 4;

/// Reads objects, once this bookie knows where they are.
#[derive(Debug, Clone)]
pub(super) struct Objects {
    folded: Folded,
    open: Arc<Mutex<VecDeque<Open>>>,
}

/// An object, and what was read of it last.
#[derive(Clone)]
struct Open {
    object: Object,
    block: Arc<Block>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Open({:032x}, {}..)", self.object.attempt(), self.block.first())
    }
}

impl Objects {
    /// Nothing is open yet. `folded` is told where objects are.
    pub(super) fn new(folded: Folded) -> Self {
        Self { folded, open: Arc::default() }
    }

    async fn entries(&self, meta: &LedgerMeta, wanted: Wanted) -> Result<Vec<Bytes>, ReadError> {
        let unavailable = |why| ReadError::Unavailable { ledger: meta.id, entry: wanted.from, why };
        let Some(store) = self.folded.objects().cloned() else {
            return Err(unavailable("this bookie was given no --object-store".to_owned()));
        };
        let block = self.block(&store, meta, wanted.from).await;
        let block = block.map_err(|error| unavailable(error.to_string()))?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for id in (wanted.from.0..=wanted.to.min(block.last()).0).map(EntryId) {
            let Some(stored) = block.stored(id) else { break };
            bytes += stored.len();
            if bytes > wanted.max_bytes && !entries.is_empty() {
                break;
            }
            entries.push(stored.clone());
        }
        match entries.is_empty() {
            true => Err(unavailable("the object does not have it".to_owned())),
            false => Ok(entries),
        }
    }

    /// The block that has an entry.
    async fn block(
        &self,
        store: &Store,
        meta: &LedgerMeta,
        entry: EntryId,
    ) -> Result<Arc<Block>, ObjectError> {
        let Some(at) = meta.tier.object() else {
            return Err(ObjectError::Store("the ledger has no object".to_owned()));
        };
        let known = self.take(at.attempt);
        let object = match &known {
            Some(open) if (open.block.first()..=open.block.last()).contains(&entry) => {
                let block = Arc::clone(&open.block);
                self.keep(open.clone());
                return Ok(block);
            }
            Some(open) => open.object.clone(),
            None => Object::open(store, meta.id, Arc::new(at.clone())).await?,
        };
        let behind = object.index().blocks().partition_point(|block| block.first_entry <= entry);
        let block = Arc::new(object.block(store, behind.saturating_sub(1)).await?);
        self.keep(Open { object, block: Arc::clone(&block) });
        Ok(block)
    }

    fn take(&self, attempt: u128) -> Option<Open> {
        let mut open = self.open.lock();
        let at = open.iter().position(|open| open.object.attempt() == attempt)?;
        open.remove(at)
    }

    fn keep(&self, newest: Open) {
        let mut open = self.open.lock();
        open.truncate(OPEN - 1);
        open.push_front(newest);
    }
}

impl StoredObjects for Objects {
    fn read(
        &self,
        meta: Arc<LedgerMeta>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, ReadError>> {
        let objects = self.clone();
        async move { objects.entries(&meta, wanted).await }.boxed()
    }
}
