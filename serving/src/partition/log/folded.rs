//! Segments that have no key of their own any more: a manifest lists them (protocol 7.9). What an opening holds of them is the manifest's
//! record, which says where their lists are and which offsets those hold; a list is fetched when somebody wants what is in it, and
//! kept where other objects are cached.
//!
//! Whoever folds is no owner, so the record grows old. That does no harm: the segments that it lacks are still in the memory of
//! this opening, as they were. When a ledger of one of them turns out to have no key, the record is read anew. A list that a newer one
//! replaced is kept in the store for a week.
//!
//! Invariant: a segment is in this record or in the memory of the opening. So the record never goes back to an earlier version, in
//! whichever order answers come: what the later one lists was forgotten elsewhere.

use std::sync::Arc;

use geminga_metastore::record::{Manifest, ManifestPart};
use geminga_metastore::{Error as MetaError, MetaStore, Version, keys};
use geminga_proto::ids::{Offset, PartitionIndex, Term, TopicId};
use geminga_tier::{FoldedSegment, ObjectError, SegmentList};
use parking_lot::Mutex;

use super::reader::ReadError;
use super::segments::{Held, Segment};
use crate::cold::Cold;

/// Segments of the oldest list that retention remembers.
const REMEMBERED: usize = 32;

/// What was folded of a partition.
#[derive(Debug)]
pub(super) struct Folded {
    store: Arc<dyn MetaStore>,
    cold: Option<Cold>,
    of: (TopicId, PartitionIndex),
    known: Mutex<Known>,
    oldest: Mutex<Option<Oldest>>,
}

/// A manifest, and the version that it had; 0 of one that is not there.
#[derive(Debug, Clone)]
struct Known {
    manifest: Arc<Manifest>,
    version: Version,
}

/// What retention looked at last of the oldest list: whoever looks once a minute does not fetch it each time.
#[derive(Debug)]
struct Oldest {
    /// The write that made the list, and the last of it that counted.
    list: (u128, u32),
    /// Its first segments.
    first: Vec<Held>,
    /// Bytes of those behind them.
    rest_bytes: u64,
}

/// A partition's manifest, linearizably, and its version, which is 0 where there is none.
pub(super) async fn stored_manifest(
    store: &dyn MetaStore,
    of: (TopicId, PartitionIndex),
) -> Result<(Manifest, Version), MetaError> {
    let key = keys::manifest(of.0, of.1);
    let Some(found) = store.get(&key).await? else {
        return Ok((Manifest::default(), Version(0)));
    };
    let manifest = Manifest::decode(&found.value)
        .map_err(|invalid| MetaError::Corrupt { key, why: invalid.to_string() })?;
    Ok((manifest, found.version))
}

/// What retention looks at, and how far it is told apart.
#[derive(Debug, Default)]
pub(in crate::partition) struct FoldedHeld {
    /// Segments of the oldest list, or its first ones.
    pub(in crate::partition) oldest: Vec<Held>,
    /// What is left of it, and every later list, each as if it were one segment. Its youngest record is as young as any.
    pub(in crate::partition) later: Vec<Held>,
}

/// How much is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::partition) struct FoldedSize {
    /// Bytes of payloads; of a list that the log starts in, all.
    pub(in crate::partition) bytes: u64,
    last_seq: Option<u32>,
}

impl FoldedSize {
    /// Of a manifest's lists from `start` on.
    pub(super) fn of(manifest: &Manifest, start: Offset) -> Self {
        let live = manifest.parts.iter().filter(|part| part.end_offset > start);
        Self { bytes: live.map(|part| part.bytes).sum(), last_seq: manifest.last_seq() }
    }

    /// Whether a segment that was seen elsewhere counts in it: one that was folded meanwhile is seen twice.
    pub(in crate::partition) fn counts(&self, held: &Held) -> bool {
        self.last_seq.is_some_and(|last| held.seq <= last)
    }
}

impl Folded {
    /// The manifest as it is now. To be read after the keys of segments: what was folded meanwhile is then in one of the two.
    pub(super) async fn load(
        store: Arc<dyn MetaStore>,
        cold: Option<Cold>,
        of: (TopicId, PartitionIndex),
    ) -> Result<Self, MetaError> {
        let (manifest, version) = stored_manifest(&*store, of).await?;
        let known = Mutex::new(Known { manifest: Arc::new(manifest), version });
        Ok(Self { store, cold, of, known, oldest: Mutex::default() })
    }

    fn known(&self) -> Known {
        self.known.lock().clone()
    }

    /// As it was read last.
    pub(super) fn now(&self) -> Arc<Manifest> {
        self.known().manifest
    }

    /// Reads it anew. An answer that is older than one that another got meanwhile changes nothing.
    pub(super) async fn refresh(&self) -> Result<(), ReadError> {
        let read = stored_manifest(&*self.store, self.of).await;
        let (manifest, version) =
            read.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let mut known = self.known.lock();
        if version > known.version {
            *known = Known { manifest: Arc::new(manifest), version };
        }
        Ok(())
    }

    /// The last segment that was folded.
    pub(super) fn last_seq(&self) -> Option<u32> {
        self.known.lock().manifest.last_seq()
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

    /// What retention looks at, from `start` on. Fetches the oldest list when what is remembered of it was given up, or it changed.
    pub(super) async fn held(&self, start: Offset) -> Result<FoldedHeld, ReadError> {
        let parts = self.parts(start);
        let Some((part, later)) = parts.split_first() else { return Ok(FoldedHeld::default()) };
        let later = later.iter().map(whole);
        if let Some((oldest, rest)) = self.remembered(part, start) {
            return Ok(FoldedHeld { oldest, later: rest.into_iter().chain(later).collect() });
        }
        let segments = self.segments(part, start).await?;
        let oldest: Vec<Held> = segments.iter().map(held).collect();
        let (first, rest) = oldest.split_at(oldest.len().min(REMEMBERED));
        *self.oldest.lock() = Some(Oldest {
            list: (part.attempt, part.last_seq),
            first: first.to_vec(),
            rest_bytes: rest.iter().filter_map(|held| held.bytes).sum(),
        });
        Ok(FoldedHeld { oldest, later: later.collect() })
    }

    /// The first segments of the oldest list from `start` on, and all behind them as if they were one.
    fn remembered(&self, part: &ManifestPart, start: Offset) -> Option<(Vec<Held>, Option<Held>)> {
        let oldest = self.oldest.lock();
        let Oldest { first, rest_bytes, .. } =
            oldest.as_ref().filter(|oldest| oldest.list == (part.attempt, part.last_seq))?;
        let first: Vec<Held> = first.iter().filter(|held| held.end > start).copied().collect();
        let last = first.last()?;
        let rest = Held { base: last.end, bytes: Some(*rest_bytes), ..whole(part) };
        let is_more = last.seq < part.last_seq;
        if is_more && first.len() < 2 {
            // One without a date of its own is told by when the next was begun, and the rest as a whole says nothing of that.
            return None;
        }
        Some((first, is_more.then_some(rest)))
    }

    /// How young the records of a segment are, where nobody had noted it.
    pub(super) fn learned(&self, seq: u32, max_timestamp: i64) {
        if let Some(oldest) = &mut *self.oldest.lock()
            && let Some(held) = oldest.first.iter_mut().find(|held| held.seq == seq)
        {
            held.max_timestamp.get_or_insert(max_timestamp);
        }
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
        let mut used = self.known();
        loop {
            let Some(chosen) = part(&used.manifest) else { return Ok(None) };
            let Some(cold) = &self.cold else {
                return Err(ReadError::Unavailable(
                    "they are in the object store, and this process knows of none: start it with --object-store"
                        .to_owned(),
                ));
            };
            match cold.segments(self.of, &chosen).await {
                Err(error @ (ObjectError::NotFound { .. } | ObjectError::Format(_))) => {
                    self.refresh().await?;
                    let now = self.known();
                    if now.version == used.version {
                        cold.list_unreadable(self.of, &chosen, &error);
                        return Err(ReadError::Damaged(error.to_string()));
                    }
                    // Versions only rise, with each list that takes another's place.
                    used = now;
                }
                Err(error) => return Err(ReadError::Unavailable(error.to_string())),
                Ok(list) => return Ok(Some((chosen, list))),
            }
        }
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

/// A folded segment as retention sees it; its metadata says where it ends.
fn held(segment: &Segment) -> Held {
    Held {
        seq: segment.seq,
        ledger: segment.ledger,
        base: segment.base_offset,
        end: segment.end_offset.unwrap_or(segment.base_offset),
        max_timestamp: segment.max_timestamp,
        bytes: segment.bytes,
        closed: true,
    }
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
