//! Ledgers that bookies have dropped, read from the object store (protocol 7.6): an index of each object and blocks of about a MiB
//! in a cache, one request for all who want the same block, and the blocks behind it fetched ahead for those who read on.
//!
//! ```text
//!   reader ─► cached? ─► room for its bytes ─► on a disk here? ─► ranged GET ─► checksum ─► cache ─► entries, each verified (D1)
//! ```
//!
//! * What is on its way and what is cached stay within one part of the broker's memory, but for one block that is larger.
//! * Reading ahead takes room only while there is some, and a search by headers reads nothing ahead.
//! * An answer that is short or damaged is asked for once more and then an error; never fewer entries, never others.

mod disk;
mod metrics;

use std::collections::HashMap;
use std::collections::hash_map;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_ledger::{ColdLedgers, ReadError, Search, Wanted};
use geminga_metastore::record::{Custom, LedgerMeta, ManifestPart, Tier, TierObject};
use geminga_proto::entry::{Entry, HEADER_BYTES};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, PartitionIndex, TopicId};
use geminga_runtime::Tasks;
use geminga_tier::format::Block;
use geminga_tier::{FormatError, Marker, Object, ObjectError, SegmentList, Store};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub use disk::DiskCache;

/// Blocks that are fetched ahead of one who reads on.
const AHEAD: usize = 4;
/// No read waits longer for the object store, and a second more for each MiB of a block: less than a Kafka client's fetch waits.
const PATIENCE: Duration = Duration::from_secs(7);
/// After so many reads in a row that failed, others fail at once …
const MANY_FAILURES: u32 = 8;
/// … for so long, since the last.
const PAUSE: Duration = Duration::from_secs(5);
/// An object that is lost or damaged is logged no more often than this, and so many of them at a time.
const SILENCE: Duration = Duration::from_secs(60);
const MAX_TOLD: usize = 1_000;
/// Least memory that it works in.
const LEAST_BYTES: usize = 8 << 20;

/// What has an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    Ledger(LedgerId),
    /// The folded segments of a partition.
    List(TopicId, PartitionIndex),
}

/// One block of one upload.
type BlockId = (u128, usize);

/// The ledgers in an object store. Cheap to clone.
#[derive(Clone)]
pub struct Cold(Arc<Shared>);

struct Shared {
    cluster: ClusterUuid,
    objects: Store,
    /// Beside the memory.
    disk: Option<DiskCache>,
    blocks: Cache<BlockId, Arc<Block>>,
    /// Indexes of objects, by upload.
    opened: Cache<u128, Arc<Object>>,
    /// Lists of folded segments, by the write that made them.
    lists: Cache<u128, Arc<SegmentList>>,
    /// Bytes that may be on their way.
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// Reads in a row that the store failed, and when the last one did.
    failing: Mutex<(u32, Instant)>,
    /// Whose objects are lost or damaged, and when that was logged.
    told: Mutex<HashMap<Told, Instant>>,
    tasks: Tasks,
}

impl fmt::Debug for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cold").field("objects", &self.0.objects).finish_non_exhaustive()
    }
}

impl Cold {
    /// Reads from `objects` within about `bytes` of memory, and from `disk` what that still has; what is read ahead ends with `tasks`.
    pub fn new(
        cluster: ClusterUuid,
        objects: Store,
        disk: Option<DiskCache>,
        bytes: usize,
        tasks: Tasks,
    ) -> Self {
        let bytes = bytes.clamp(LEAST_BYTES, Semaphore::MAX_PERMITS);
        // Half for blocks that are kept, a sixteenth for indexes, one for lists of segments, the rest for what is on its way.
        let weight = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let room_bytes = bytes / 8 * 3;
        metrics::limit(bytes);
        Self(Arc::new(Shared {
            cluster,
            objects,
            disk,
            blocks: Cache::builder()
                .max_capacity(bytes as u64 / 2)
                // What a scan has just fetched is what is wanted next, not what was often wanted once.
                .eviction_policy(EvictionPolicy::lru())
                .weigher(move |_, block: &Arc<Block>| weight(block.bytes()))
                .build(),
            opened: Cache::builder()
                .max_capacity(bytes as u64 / 16)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(move |_, object: &Arc<Object>| weight(object.bytes()))
                .build(),
            lists: Cache::builder()
                .max_capacity(bytes as u64 / 16)
                .eviction_policy(EvictionPolicy::lru())
                .weigher(move |_, list: &Arc<SegmentList>| weight(list.bytes()))
                .build(),
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            failing: Mutex::new((0, Instant::now())),
            told: Mutex::default(),
            tasks,
        }))
    }

    /// Bytes that may still be on their way.
    #[cfg(test)]
    pub(crate) fn free_room(&self) -> usize {
        self.0.room.available_permits()
    }

    /// Forgets lists of segments, as when others take their place.
    #[cfg(test)]
    pub(crate) fn forget_lists(&self) {
        self.0.lists.invalidate_all();
    }

    /// Forgets all that is in memory.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.forget_lists();
        self.0.blocks.invalidate_all();
        self.0.opened.invalidate_all();
    }

    /// Bytes that are cached or on their way.
    fn bytes(&self) -> usize {
        let indexes = self.0.opened.weighted_size() + self.0.lists.weighted_size();
        let cached = self.0.blocks.weighted_size() + indexes;
        let coming = self.0.room_bytes - self.0.room.available_permits().min(self.0.room_bytes);
        usize::try_from(cached).unwrap_or(usize::MAX).saturating_add(coming)
    }

    async fn entries(&self, meta: &LedgerMeta, wanted: Wanted) -> Result<Vec<Entry>, ReadError> {
        match self.stored_entries(meta, wanted).await {
            Ok(entries) => Ok(entries),
            Err(error) => Err(self.0.unreadable(meta, wanted.from, error).await),
        }
    }

    async fn stored_entries(
        &self,
        meta: &LedgerMeta,
        wanted: Wanted,
    ) -> Result<Vec<Entry>, ObjectError> {
        let Wanted { from, to, max_bytes, prefix_bytes } = wanted;
        let object = self.open(meta).await?;
        let nowhere = || ObjectError::Store("its object ends before it".to_owned());
        let number = object.index().of_entry(from).ok_or_else(nowhere)?;
        let block = self.block(&object, number).await?;
        if prefix_bytes.is_none() {
            self.read_ahead(&object, number);
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for id in (from.0..=to.min(block.last()).0).map(EntryId) {
            let stored = block.stored(id).map_or(0, Bytes::len);
            let prefix = prefix_bytes.map_or(usize::MAX, |bytes| HEADER_BYTES + bytes as usize);
            let size = stored.min(prefix);
            if !entries.is_empty() && bytes + size > max_bytes {
                break;
            }
            let entry = block.entry(self.0.cluster, meta.id, id, prefix_bytes);
            entries.push(entry?);
            bytes += size;
        }
        metrics::read(bytes, self.bytes());
        Ok(entries)
    }

    /// What an object lists of a partition's folded segments (protocol 7.9). Cancel-safe.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub(crate) async fn segments(
        &self,
        of: (TopicId, PartitionIndex),
        part: &ManifestPart,
    ) -> Result<Arc<SegmentList>, ObjectError> {
        let (shared, named) = (Arc::clone(&self.0), part.clone());
        let reading = async move {
            let room = shared.wait_for_room(shared.cost(SegmentList::most_bytes(&named))).await;
            let list = shared.list(of, &named).await.map(Arc::new);
            drop(room);
            list
        };
        let listed = self.0.lists.try_get_with(part.attempt, Box::pin(reading));
        let list = match self.0.in_time(part.size, listed).await {
            Err(ObjectError::NotFound { bucket, key }) => {
                let lost = self.0.may_lose(&bucket, &key).await;
                return Err(match lost {
                    Ok(()) => ObjectError::NotFound { bucket, key },
                    Err(why) => ObjectError::Store(why),
                });
            }
            read => read?,
        };
        // A newer record may count more of the same object.
        match list.of(part).len() == part.segments as usize {
            true => Ok(list),
            false => {
                let why = "it lacks segments that metadata counts";
                Err(FormatError::Damaged { what: "the manifest", why }.into())
            }
        }
    }

    /// A list that the metadata names at this moment is gone, or damaged: nobody has another. For a human, as a lost object is.
    pub(crate) fn list_unreadable(
        &self,
        (topic, partition): (TopicId, PartitionIndex),
        part: &ManifestPart,
        error: &ObjectError,
    ) {
        metrics::failed();
        if matches!(error, ObjectError::NotFound { .. }) {
            metrics::lost();
        }
        if self.0.is_first(Told::List(topic, partition)) {
            let ManifestPart { bucket, key, .. } = part;
            tracing::error!(%topic, %partition, bucket, object = key, %error, "the list of a partition's folded segments is lost or damaged, and their records cannot be read: restore it from the bucket's versions or a backup");
        }
    }

    async fn open(&self, meta: &LedgerMeta) -> Result<Arc<Object>, ObjectError> {
        let Some(at) = meta.tier.object() else {
            return Err(ObjectError::Store("metadata names no object".to_owned()));
        };
        let (shared, ledger) = (Arc::clone(&self.0), meta.id);
        let object = at.clone();
        let opening = async move { shared.open(ledger, object).await.map(Arc::new) };
        let opened = self.0.opened.try_get_with(at.attempt, Box::pin(opening));
        self.0.in_time(at.size.min(1 << 20), opened).await
    }

    async fn block(&self, object: &Arc<Object>, number: usize) -> Result<Arc<Block>, ObjectError> {
        let (shared, of) = (Arc::clone(&self.0), Arc::clone(object));
        let fetching = async move {
            let room = shared.wait_for_room(shared.cost_of_block(&of, number)).await;
            let block = shared.fetch(&of, number).await.map(Arc::new);
            drop(room);
            block
        };
        let id = (object.attempt(), number);
        let length = object.index().blocks().get(number).map_or(0, |block| block.length);
        let fetched = self.0.blocks.try_get_with(id, Box::pin(fetching));
        self.0.in_time(length.into(), fetched).await
    }

    /// Fetches the blocks behind this one that are not here yet, while there is room for them.
    fn read_ahead(&self, object: &Arc<Object>, number: usize) {
        for next in (number + 1..object.index().blocks().len()).take(AHEAD) {
            if self.0.blocks.contains_key(&(object.attempt(), next)) {
                continue;
            }
            let Some(room) = self.0.room_now(object, next) else { return };
            let (shared, object) = (Arc::clone(&self.0), Arc::clone(object));
            let stop = self.0.tasks.cancelled();
            self.0.tasks.spawn("cold read ahead", async move {
                let id = (object.attempt(), next);
                let fetching = async { shared.fetch(&object, next).await.map(Arc::new) };
                tokio::select! {
                    biased;
                    () = stop => {}
                    // Whoever wants it asks again, and hears why.
                    fetched = shared.blocks.try_get_with(id, Box::pin(fetching)) => {
                        if let Err(error) = fetched {
                            tracing::debug!(%error, "a block was not read ahead");
                        }
                    }
                }
                drop(room);
            });
        }
    }
}

impl Shared {
    /// What the store answers in time; at once an error while it answers nobody.
    async fn in_time<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, Arc<ObjectError>>>,
    ) -> Result<T, ObjectError> {
        let (failures, last) = *self.failing.lock();
        if failures >= MANY_FAILURES && last.elapsed() < PAUSE {
            return Err(ObjectError::Store("it has failed often just now".to_owned()));
        }
        let patience = PATIENCE + Duration::from_secs(bytes >> 20);
        let done = match tokio::time::timeout(patience, work).await {
            Ok(done) => shared_error(done),
            Err(_) => Err(ObjectError::Store(format!("no answer within {patience:?}"))),
        };
        let mut failing = self.failing.lock();
        *failing = match &done {
            Err(ObjectError::Store(_)) => (failing.0.saturating_add(1), Instant::now()),
            _ => (0, failing.1),
        };
        done
    }

    /// Once more where the answer was no good: a body that was cut off on its way is no damage.
    async fn open(&self, ledger: LedgerId, at: TierObject) -> Result<Object, ObjectError> {
        let at = Arc::new(at);
        match Object::open(&self.objects, ledger, Arc::clone(&at)).await {
            Err(ObjectError::Format(_) | ObjectError::Store(_)) => {
                metrics::again();
                Object::open(&self.objects, ledger, at).await
            }
            opened => opened,
        }
    }

    async fn list(
        &self,
        of: (TopicId, PartitionIndex),
        part: &ManifestPart,
    ) -> Result<SegmentList, ObjectError> {
        match SegmentList::read(&self.objects, self.cluster, of, part).await {
            Err(ObjectError::Format(_) | ObjectError::Store(_)) => {
                metrics::again();
                SegmentList::read(&self.objects, self.cluster, of, part).await
            }
            read => read,
        }
    }

    async fn fetch(&self, object: &Object, number: usize) -> Result<Block, ObjectError> {
        if let Some(disk) = &self.disk
            && let Some(block) = disk.block(object, number).await
        {
            metrics::block_from("disk");
            return Ok(block);
        }
        let (bytes, block) = match self.ask(object, number).await {
            Err(ObjectError::Format(_) | ObjectError::Store(_)) => {
                metrics::again();
                self.ask(object, number).await?
            }
            asked => asked?,
        };
        metrics::block_from("store");
        if let Some(disk) = &self.disk {
            disk.keep((object.attempt(), number), bytes, &self.tasks);
        }
        Ok(block)
    }

    async fn ask(&self, object: &Object, number: usize) -> Result<(Bytes, Block), ObjectError> {
        let bytes = object.block_bytes(&self.objects, number).await?;
        let block = object.decode(number, &bytes)?;
        Ok((bytes, block))
    }

    /// What something takes of the room: all of it at most.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.room_bytes)).unwrap_or(u32::MAX)
    }

    fn cost_of_block(&self, object: &Object, number: usize) -> u32 {
        self.cost(object.index().blocks().get(number).map_or(0, |block| block.length as usize))
    }

    async fn wait_for_room(&self, cost: u32) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.room).acquire_many_owned(cost).await.ok()
    }

    fn room_now(&self, object: &Object, number: usize) -> Option<OwnedSemaphorePermit> {
        let cost = self.cost_of_block(object, number);
        if self.room.available_permits() < self.room_bytes / 2 + cost as usize {
            return None;
        }
        Arc::clone(&self.room).try_acquire_many_owned(cost).ok()
    }
}

fn unmarked(key: &str) -> String {
    format!(
        "object {key} is not there, and neither is the cluster's marker: the directory is not mounted, or the endpoint is another"
    )
}

/// One request's error, told to all who waited for it.
fn shared_error<T>(result: Result<T, Arc<ObjectError>>) -> Result<T, ObjectError> {
    result.map_err(|error| match &*error {
        ObjectError::NotFound { bucket, key } => {
            ObjectError::NotFound { bucket: bucket.clone(), key: key.clone() }
        }
        ObjectError::OtherStore { named, own } => {
            ObjectError::OtherStore { named: named.clone(), own: own.clone() }
        }
        ObjectError::Format(error) => ObjectError::Format(error.clone()),
        ObjectError::Store(why) => ObjectError::Store(why.clone()),
    })
}

impl Shared {
    /// What a reader is told. Only of a store that is the cluster's an object is believed to be gone.
    async fn unreadable(&self, meta: &LedgerMeta, entry: EntryId, error: ObjectError) -> ReadError {
        let ledger = meta.id;
        metrics::failed();
        let unavailable = |why: String| ReadError::Unavailable { ledger, entry, why };
        let (bucket, key) = match (error, &meta.tier) {
            (ObjectError::NotFound { bucket, key }, Tier::Trimmed(_)) => (bucket, key),
            (error, _) => {
                if error.is_permanent() && self.is_news(meta) {
                    let Custom { name, partition, .. } = &meta.custom;
                    tracing::error!(topic = name, partition, %ledger, %error, "a ledger's object cannot be read");
                }
                return unavailable(error.to_string());
            }
        };
        if let Err(why) = self.may_lose(&bucket, &key).await {
            if self.is_news(meta) {
                let Custom { name, partition, .. } = &meta.custom;
                tracing::error!(topic = name, partition, %ledger, why, "a ledger's object cannot be read");
            }
            return unavailable(why);
        }
        // RD3: bookies have dropped theirs. For a human, at once.
        metrics::lost();
        if self.is_news(meta) {
            let Custom { name, partition, first_offset, .. } = &meta.custom;
            tracing::error!(topic = name, partition, first_offset, %ledger, bucket, object = key, "the object of a trimmed ledger is gone, and its records cannot be read: restore it from the bucket's versions or a backup");
        }
        ReadError::ObjectLost { ledger, entry, bucket, key }
    }

    /// Whether what is not there is lost, and if not, why: only of the cluster's own objects in a store that says at this moment that it is the
    /// cluster's. One in memory says nothing.
    async fn may_lose(&self, bucket: &str, key: &str) -> Result<(), String> {
        if !self.objects.covers(self.cluster, bucket, key) {
            let own = self.objects.place();
            return Err(format!("object {key} in {bucket} is not one of this cluster's in {own}"));
        }
        if self.objects.is_memory() {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, Marker::read(&self.objects)).await {
            Ok(Ok(Some(marker))) if marker.cluster == self.cluster => Ok(()),
            Ok(Ok(_)) => Err(unmarked(key)),
            Ok(Err(error)) => Err(format!(
                "object {key} is not there, and the marker of the store cannot be read: {error}"
            )),
            Err(_) => Err(format!(
                "object {key} is not there, and the marker of the store was not read within {PATIENCE:?}"
            )),
        }
    }

    /// Whether nobody was told of a ledger's object lately: readers ask again and again.
    fn is_news(&self, meta: &LedgerMeta) -> bool {
        self.is_first(Told::Ledger(meta.id))
    }

    fn is_first(&self, what: Told) -> bool {
        let (mut told, now) = (self.told.lock(), Instant::now());
        told.retain(|_, at| at.elapsed() < SILENCE);
        if told.len() >= MAX_TOLD {
            return false;
        }
        match told.entry(what) {
            hash_map::Entry::Occupied(_) => false,
            hash_map::Entry::Vacant(new) => {
                new.insert(now);
                true
            }
        }
    }
}

impl ColdLedgers for Cold {
    fn read(
        &self,
        meta: Arc<LedgerMeta>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Vec<Entry>, ReadError>> {
        let cold = self.clone();
        async move { cold.entries(&meta, wanted).await }.boxed()
    }

    fn narrow(
        &self,
        meta: Arc<LedgerMeta>,
        search: Search,
    ) -> BoxFuture<'static, Result<(EntryId, EntryId), ReadError>> {
        let cold = self.clone();
        async move {
            let object = match cold.open(&meta).await {
                Ok(object) => object,
                Err(error) => return Err(cold.0.unreadable(&meta, EntryId(0), error).await),
            };
            Ok(match search {
                Search::AboveOffset(offset) => object.index().above_offset(offset),
                Search::ReachingTime(time) => object.index().reaching_time(time),
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
