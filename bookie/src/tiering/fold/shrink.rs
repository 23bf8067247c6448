//! Takes out of a manifest what retention gave up, or the deletion of its topic, as a pure state machine. Crash-safe at every step:
//!
//! ```text
//!   log start ≥ end of a segment, or topic deleted ─► manifest: dropped_before ─► objects removed ─► manifest: removed_before,
//!   parts without any left go ─► of a deleted topic the manifest's own objects, then its key
//! ```
//!
//! What is below the log start is never read again, since that only rises (DESIGN 4); so removing its objects needs no more than that.
//! Until `removed_before` says that they are gone, each look removes them again.

use std::collections::VecDeque;

use geminga_metastore::record::{FormerManifest, Manifest, ManifestPart, Tier, TierObject};
use geminga_metastore::{Guard, Txn, Version, keys};
use geminga_proto::ids::{Offset, PartitionIndex, TopicId};
use geminga_tier::{FoldedSegment, SegmentList};

use super::core::forget;

/// Above every segment's number.
const ALL: u64 = u32::MAX as u64 + 1;

/// What is wanted of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What begins here, or later.
    From(Offset),
    /// Nothing: its topic was deleted.
    Nothing,
}

/// What came of an effect.
#[derive(Debug)]
pub(super) enum Event {
    /// The part, or why not: certainly lost or damaged, for which the janitor looks after its objects, or not now.
    Part(Result<SegmentList, Unread>),
    /// The object is gone.
    Removed,
    /// The transaction took place, and written keys have this version.
    Committed(Version),
    /// Not done, or nobody knows.
    Doubt,
}

/// Why a part was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    Lost,
    NotNow,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    ReadPart(ManifestPart),
    /// Remove a segment's object.
    Remove(TierObject),
    /// Remove an object that listed segments.
    RemoveList(u128),
    Commit(Txn),
    /// So many segments' objects were removed.
    Over(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Finds up to where all was given up.
    Measuring,
    /// Says so.
    Dropping,
    /// Removes objects, part by part.
    Removing,
    /// Says so.
    Shrinking,
    /// A deleted topic's own lists, and its key.
    Ending,
    Gone,
}

/// One look at one manifest.
#[derive(Debug)]
pub(super) struct Shrink {
    of: (TopicId, PartitionIndex),
    wanted: Wanted,
    now_ms: i64,
    manifest: Manifest,
    version: Version,
    stage: Stage,
    /// Parts whose objects are to be looked at.
    parts: VecDeque<ManifestPart>,
    objects: VecDeque<TierObject>,
    lists: VecDeque<u128>,
    removed: usize,
}

impl Shrink {
    /// Of a manifest, as read linearizably, and what was found to be wanted after that.
    pub(super) fn begin(
        of: (TopicId, PartitionIndex),
        (manifest, version): (Manifest, Version),
        wanted: Wanted,
        now_ms: i64,
    ) -> (Self, Effect) {
        let mut shrink = Self {
            of,
            wanted,
            now_ms,
            manifest,
            version,
            stage: Stage::Measuring,
            parts: VecDeque::new(),
            objects: VecDeque::new(),
            lists: VecDeque::new(),
            removed: 0,
        };
        let first = shrink.measure();
        (shrink, first)
    }

    pub(super) fn step(&mut self, event: Event) -> Effect {
        match (self.stage, event) {
            (Stage::Measuring, Event::Part(Ok(list))) => self.measured(&list),
            // Where it cannot be told how far it is given up, it is given up as a whole, later.
            (Stage::Measuring, Event::Part(Err(_))) => self.drop_before(self.whole_parts()),
            (Stage::Dropping | Stage::Shrinking, Event::Committed(version)) => {
                self.version = version;
                match self.stage {
                    Stage::Dropping => self.remove(),
                    _ if self.wanted == Wanted::Nothing => self.end(),
                    _ => Effect::Over(self.removed),
                }
            }
            (Stage::Removing, Event::Part(Ok(list))) => {
                self.objects = self.given_up(&list);
                self.next_object()
            }
            // Its objects are garbage that no key names: the janitor finds them.
            (Stage::Removing, Event::Part(Err(Unread::Lost))) => self.next_object(),
            (Stage::Removing, Event::Removed) => {
                self.removed += 1;
                self.next_object()
            }
            (Stage::Ending, Event::Removed) => self.next_list(),
            (_, _) => Effect::Over(self.removed),
        }
    }

    /// Before which number whole parts are given up, as far as their ends tell.
    fn whole_parts(&self) -> u64 {
        match self.wanted {
            Wanted::Nothing => ALL,
            Wanted::From(start) => {
                let gone = self.manifest.parts.iter().take_while(|part| part.end_offset <= start);
                gone.last().map_or(0, |part| u64::from(part.last_seq) + 1)
            }
        }
    }

    fn measure(&mut self) -> Effect {
        let before = self.whole_parts();
        if let Wanted::From(start) = self.wanted {
            // The one that the log starts in.
            let within = self.manifest.parts.iter().find(|part| part.end_offset > start);
            if let Some(part) = within.filter(|part| part.base_offset < start) {
                return Effect::ReadPart(part.clone());
            }
        }
        self.drop_before(before)
    }

    fn measured(&mut self, list: &SegmentList) -> Effect {
        let Wanted::From(start) = self.wanted else { return self.drop_before(ALL) };
        let within = self.manifest.parts.iter().find(|part| part.end_offset > start);
        let gone = within
            .and_then(|part| list.of(part).iter().take_while(|found| found.end() <= start).last());
        self.drop_before(gone.map_or_else(|| self.whole_parts(), |found| u64::from(found.seq) + 1))
    }

    fn drop_before(&mut self, before: u64) -> Effect {
        if before <= self.manifest.dropped_before {
            return self.remove();
        }
        self.stage = Stage::Dropping;
        self.manifest.dropped_before = before;
        self.put()
    }

    fn put(&self) -> Effect {
        let key = keys::manifest(self.of.0, self.of.1);
        let own = Guard::Version(key.clone(), self.version);
        Effect::Commit(Txn::new().guard(own).put(key, self.manifest.encode()))
    }

    fn remove(&mut self) -> Effect {
        self.stage = Stage::Removing;
        let Manifest { dropped_before, removed_before, ref parts, .. } = self.manifest;
        if dropped_before == removed_before {
            return if self.wanted == Wanted::Nothing { self.end() } else { Effect::Over(0) };
        }
        let affected = |part: &&ManifestPart| {
            u64::from(part.first_seq) < dropped_before && u64::from(part.last_seq) >= removed_before
        };
        self.parts = parts.iter().filter(affected).cloned().collect();
        self.next_object()
    }

    fn given_up(&self, list: &SegmentList) -> VecDeque<TierObject> {
        let Manifest { dropped_before, removed_before, ref parts, .. } = self.manifest;
        let part = parts.iter().find(|part| part.attempt == list.attempt);
        let found = part.map_or(&[][..], |part| list.of(part)).iter();
        let is = |found: &&FoldedSegment| {
            (removed_before..dropped_before).contains(&u64::from(found.seq))
        };
        found
            .filter(is)
            .filter_map(|found| match found.ledger().ok()?.tier {
                Tier::Trimmed(object) => Some(object),
                _ => None,
            })
            .collect()
    }

    fn next_object(&mut self) -> Effect {
        if let Some(object) = self.objects.pop_front() {
            return Effect::Remove(object);
        }
        if let Some(part) = self.parts.pop_front() {
            return Effect::ReadPart(part);
        }
        self.stage = Stage::Shrinking;
        self.manifest.removed_before = self.manifest.dropped_before;
        let (before, now_ms) = (self.manifest.removed_before, self.now_ms);
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.manifest.parts)
            .into_iter()
            .partition(|part| u64::from(part.last_seq) < before);
        self.manifest.parts = kept;
        let former =
            |part: ManifestPart| FormerManifest { attempt: part.attempt, since_ms: now_ms };
        self.manifest.former.extend(gone.into_iter().map(former));
        // Those of a deleted topic are removed next, all of them.
        if self.wanted != Wanted::Nothing {
            forget(&mut self.manifest.former);
        }
        self.put()
    }

    fn end(&mut self) -> Effect {
        self.stage = Stage::Ending;
        self.lists = self.manifest.former.iter().map(|former| former.attempt).collect();
        self.next_list()
    }

    fn next_list(&mut self) -> Effect {
        if let Some(attempt) = self.lists.pop_front() {
            return Effect::RemoveList(attempt);
        }
        self.stage = Stage::Gone;
        let key = keys::manifest(self.of.0, self.of.1);
        let own = Guard::Version(key.clone(), self.version);
        Effect::Commit(Txn::new().guard(own).delete(key))
    }
}
