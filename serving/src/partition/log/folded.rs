//! Segments that have no key of their own any more: a manifest lists them (protocol 7.9). What an opening holds of them is the manifest's
//! record, which says where their lists are and which offsets those hold; a list is fetched when somebody wants what is in it, and
//! kept where other objects are cached.
//!
//! Whoever folds is no owner, so the record grows old. That does no harm: the segments that it lacks are still in the memory of
//! this opening, as they were. When a ledger of one of them turns out to have no key, the record is read anew. A list that a newer one
//! replaced is kept in the store for a week.

use std::sync::Arc;

use geminga_metastore::record::{Manifest, ManifestPart};
use geminga_metastore::{Error as MetaError, MetaStore, keys};
use geminga_proto::ids::{Offset, PartitionIndex, Term, TopicId};
use geminga_tier::{FoldedSegment, ObjectError, SegmentList};
use parking_lot::Mutex;

use super::reader::ReadError;
use super::segments::{Held, Segment};
use crate::cold::Cold;

/// What was folded of a partition.
#[derive(Debug)]
pub(super) struct Folded {
    store: Arc<dyn MetaStore>,
    cold: Option<Cold>,
    of: (TopicId, PartitionIndex),
    manifest: Mutex<Arc<Manifest>>,
}

/// A partition's manifest, linearizably.
pub(super) async fn stored_manifest(
    store: &dyn MetaStore,
    of: (TopicId, PartitionIndex),
) -> Result<Manifest, MetaError> {
    let key = keys::manifest(of.0, of.1);
    let Some(found) = store.get(&key).await? else { return Ok(Manifest::default()) };
    Manifest::decode(&found.value)
        .map_err(|invalid| MetaError::Corrupt { key, why: invalid.to_string() })
}

/// What retention looks at, and how far it is told apart.
#[derive(Debug, Default)]
pub(in crate::partition) struct FoldedHeld {
    /// Segments of the oldest list.
    pub(in crate::partition) oldest: Vec<Held>,
    /// Every later list as if it were one segment. Its youngest record is as young as any.
    pub(in crate::partition) later: Vec<Held>,
}

impl Folded {
    /// The manifest as it is now. To be read after the keys of segments: what was folded meanwhile is then in one of the two.
    pub(super) async fn load(
        store: Arc<dyn MetaStore>,
        cold: Option<Cold>,
        of: (TopicId, PartitionIndex),
    ) -> Result<Self, MetaError> {
        let manifest = Mutex::new(Arc::new(stored_manifest(&*store, of).await?));
        Ok(Self { store, cold, of, manifest })
    }

    /// As it was read last.
    pub(super) fn now(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest.lock())
    }

    /// Reads it anew; whether it is another.
    pub(super) async fn refresh(&self) -> Result<bool, ReadError> {
        let read = stored_manifest(&*self.store, self.of).await;
        let read = read.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let mut manifest = self.manifest.lock();
        let news = **manifest != read;
        if news {
            *manifest = Arc::new(read);
        }
        Ok(news)
    }

    /// The last segment that was folded.
    pub(super) fn last_seq(&self) -> Option<u32> {
        self.manifest.lock().last_seq()
    }

    /// Lists that hold something from `start` on, oldest first.
    pub(super) fn parts(&self, start: Offset) -> Vec<ManifestPart> {
        self.now().parts.iter().filter(|part| part.end_offset > start).cloned().collect()
    }

    /// The segment that contains `offset`, if any of these does.
    pub(super) async fn containing(&self, offset: Offset) -> Result<Option<Segment>, ReadError> {
        let part = |manifest: &Manifest| {
            let after = manifest.parts.partition_point(|part| part.base_offset <= offset);
            let part = manifest.parts.get(after.checked_sub(1)?)?;
            (offset < part.end_offset).then(|| part.clone())
        };
        self.pick(part, |found| {
            let after = found.partition_point(|one| one.segment.base_offset <= offset);
            found.get(after.checked_sub(1)?)
        })
        .await
    }

    /// The segment after `seq`, if any of these is.
    pub(super) async fn after(&self, seq: u32) -> Result<Option<Segment>, ReadError> {
        let part =
            |manifest: &Manifest| manifest.parts.iter().find(|part| part.last_seq > seq).cloned();
        self.pick(part, |found| found.iter().find(|one| one.seq > seq)).await
    }

    /// The segment with this number, if it is one of these.
    pub(super) async fn numbered(&self, seq: u32) -> Result<Option<Segment>, ReadError> {
        let part = |manifest: &Manifest| {
            let holds = |part: &&ManifestPart| (part.first_seq..=part.last_seq).contains(&seq);
            manifest.parts.iter().find(holds).cloned()
        };
        self.pick(part, |found| found.iter().find(|one| one.seq == seq)).await
    }

    /// The segments of one list that hold something from `start` on.
    pub(super) async fn segments(
        &self,
        part: &ManifestPart,
        start: Offset,
    ) -> Result<Vec<Segment>, ReadError> {
        let seq = part.last_seq;
        let same = |manifest: &Manifest| {
            let holds = |part: &&ManifestPart| (part.first_seq..=part.last_seq).contains(&seq);
            manifest.parts.iter().find(holds).cloned()
        };
        let Some((now, list)) = self.list(same).await? else { return Ok(Vec::new()) };
        let wanted = |one: &&FoldedSegment| one.seq <= seq && one.end() > start;
        list.of(&now).iter().filter(wanted).map(view).collect()
    }

    /// What retention looks at, from `start` on.
    pub(super) async fn held(&self, start: Offset) -> Result<FoldedHeld, ReadError> {
        let parts = self.parts(start);
        let Some((oldest, later)) = parts.split_first() else { return Ok(FoldedHeld::default()) };
        let segments = self.segments(oldest, start).await?;
        let oldest = segments.into_iter().map(|segment| Held {
            seq: segment.seq,
            ledger: segment.ledger,
            base: segment.base_offset,
            end: end_of(&segment),
            max_timestamp: segment.max_timestamp,
            bytes: segment.bytes,
            closed: true,
        });
        Ok(FoldedHeld { oldest: oldest.collect(), later: later.iter().map(whole).collect() })
    }

    /// Among these the first segment of a later term than `term`, and the term before it, `None` before the first of all.
    pub(super) async fn first_above(
        &self,
        term: Term,
        start: Offset,
    ) -> Result<Option<(Option<Term>, Offset)>, ReadError> {
        let parts = self.parts(start);
        // Terms never fall along the log.
        let (mut low, mut high) = (0, parts.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let last = self.numbered(parts[middle].last_seq).await?;
            if last.is_some_and(|last| last.term > term) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let Some(part) = parts.get(low) else { return Ok(None) };
        let segments = self.segments(part, start).await?;
        let after = segments.partition_point(|segment| segment.term <= term);
        let before = match (after.checked_sub(1), low.checked_sub(1)) {
            (Some(at), _) => Some(segments[at].term),
            (None, Some(part)) => self.numbered(parts[part].last_seq).await?.map(|last| last.term),
            (None, None) => None,
        };
        Ok(segments.get(after).map(|segment| (before, segment.base_offset)))
    }

    /// The last of these.
    pub(super) async fn last(&self, start: Offset) -> Result<Option<Segment>, ReadError> {
        match self.parts(start).last() {
            Some(part) => self.numbered(part.last_seq).await,
            None => Ok(None),
        }
    }

    async fn pick(
        &self,
        part: impl Fn(&Manifest) -> Option<ManifestPart>,
        one: impl for<'a> FnOnce(&'a [FoldedSegment]) -> Option<&'a FoldedSegment>,
    ) -> Result<Option<Segment>, ReadError> {
        let Some((part, list)) = self.list(part).await? else { return Ok(None) };
        one(list.of(&part)).map(view).transpose()
    }

    /// The list that `part` chooses, by the present record where that of the one known is gone.
    async fn list(
        &self,
        part: impl Fn(&Manifest) -> Option<ManifestPart>,
    ) -> Result<Option<(ManifestPart, Arc<SegmentList>)>, ReadError> {
        let Some(chosen) = part(&self.now()) else { return Ok(None) };
        match self.fetch(&chosen).await {
            Err(ReadError::Damaged(why)) => {
                if !self.refresh().await? {
                    return Err(ReadError::Damaged(why));
                }
                let Some(chosen) = part(&self.now()) else { return Ok(None) };
                let list = self.fetch(&chosen).await?;
                Ok(Some((chosen, list)))
            }
            Err(error) => Err(error),
            Ok(list) => Ok(Some((chosen, list))),
        }
    }

    async fn fetch(&self, part: &ManifestPart) -> Result<Arc<SegmentList>, ReadError> {
        let Some(cold) = &self.cold else {
            return Err(ReadError::Unavailable(
                "they are in the object store, and this process knows of none: start it with --object-store"
                    .to_owned(),
            ));
        };
        cold.segments(self.of, part).await.map_err(|error| match error {
            ObjectError::Store(_) | ObjectError::OtherStore { .. } => {
                ReadError::Unavailable(error.to_string())
            }
            ObjectError::NotFound { .. } | ObjectError::Format(_) => {
                tracing::error!(topic = %self.of.0, partition = %self.of.1, %error, "the list of a partition's folded segments is lost or damaged: restore it from the bucket's versions or a backup");
                ReadError::Damaged(error.to_string())
            }
        })
    }
}

/// A whole list as one segment that nobody gives up by time.
pub(super) fn whole(part: &ManifestPart) -> Held {
    Held {
        seq: part.last_seq,
        ledger: part.highest_ledger,
        base: part.base_offset,
        end: part.end_offset,
        max_timestamp: None,
        bytes: Some(part.bytes),
        closed: true,
    }
}

/// A folded segment's end; its metadata says that it has one.
fn end_of(segment: &Segment) -> Offset {
    segment.end_offset.unwrap_or(segment.base_offset)
}

/// A folded segment as all others are seen.
fn view(found: &FoldedSegment) -> Result<Segment, ReadError> {
    let meta = found.ledger().map_err(|error| ReadError::Damaged(error.to_string()))?;
    Ok(Segment {
        seq: found.seq,
        ledger: found.segment.ledger,
        base_offset: found.segment.base_offset,
        end_offset: Some(found.end()),
        term: found.segment.term,
        max_timestamp: found.segment.max_timestamp,
        bytes: found.segment.bytes,
        readable: meta.last_entry,
        meta: Some(Arc::new(meta)),
    })
}
