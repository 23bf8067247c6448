//! Takes out of a manifest what retention gave up, or the deletion of its topic, as a pure state machine. Crash-safe at every step:
//!
//! ```text
//!   log start ≥ end of a segment, or topic deleted ─► manifest: dropped_before ─► objects removed ─► manifest: removed_before,
//!   parts without any left go ─► of a deleted topic the manifest's own objects, then its key
//! ```
//!
//! What is below the log start is never read again, since that only rises (DESIGN 4); so removing its objects needs no more than that.
//!
//! A look removes so many objects and no more, and says in the manifest how far it came. One that cannot be removed, such as one under a
//! lock of its bucket, holds up no other: the look goes on behind it, and so do later ones, by the [`Pass`] that they are given.
//! `removed_before` stays below it, so that it is not forgotten: when all behind it was tried, and wherever no pass is known any more,
//! as after an election, all from there on is removed again.

use std::collections::VecDeque;

use geminga_metastore::record::{FormerManifest, Manifest, ManifestPart, Tier, TierObject};
use geminga_metastore::{Guard, Txn, Version, keys};
use geminga_proto::ids::{Offset, PartitionIndex, TopicId};
use geminga_tier::{FoldedSegment, SegmentList};

use super::Unread;
use super::core::forget;

/// Above every segment's number.
const ALL: u64 = u32::MAX as u64 + 1;
/// Objects in one look that cannot be removed: the store may be in trouble, and each of them costs time.
const MAX_FAILURES: usize = 16;

/// What is wanted of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What begins here, or later.
    From(Offset),
    /// Nothing: its topic was deleted.
    Nothing,
}

/// How far looks have come with what was given up. What it says of objects stays true whatever becomes of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Pass {
    /// Objects of segments below this number were removed, or could not be.
    next: u64,
    /// The first that could not.
    stuck: Option<u64>,
    /// All were tried before, and one was stuck.
    again: bool,
}

/// What came of an effect.
#[derive(Debug)]
pub(super) enum Event {
    /// The part, or why not: certainly lost or damaged, for which the janitor looks after its objects, or not now.
    Part(Result<SegmentList, Unread>),
    /// The object is gone.
    Removed,
    /// It is not, as far as is known.
    Kept,
    /// The transaction took place, and written keys have this version.
    Committed(Version),
    /// It did not, or nobody knows.
    Doubt,
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
    Over(Over),
}

/// How a look ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    /// So many segments' objects were removed.
    pub(super) removed: usize,
    /// Nothing is left to do until the manifest, or what is wanted, changes.
    pub(super) settled: bool,
    /// Where another look goes on.
    pub(super) pass: Pass,
    /// There is more to remove than one look does, and nothing was tried before.
    pub(super) more: bool,
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
    Saving,
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
    /// More may be given up than could be told.
    unmeasured: bool,
    pass: Pass,
    /// Parts whose objects are to be looked at.
    parts: VecDeque<ManifestPart>,
    /// Objects of the part that is looked at, and its last segment.
    objects: VecDeque<(u32, TierObject)>,
    part_end: u64,
    lists: VecDeque<u128>,
    /// Whether one of the lists stays.
    list_kept: bool,
    /// Objects that may still be looked at.
    left: usize,
    removed: usize,
    failures: usize,
}

impl Shrink {
    /// Of a manifest, as read linearizably, and what was found to be wanted after that. At most `most` objects are removed.
    pub(super) fn begin(
        of: (TopicId, PartitionIndex),
        (manifest, version): (Manifest, Version),
        wanted: Wanted,
        now_ms: i64,
        (pass, most): (Pass, usize),
    ) -> (Self, Effect) {
        let mut shrink = Self {
            of,
            wanted,
            now_ms,
            manifest,
            version,
            stage: Stage::Measuring,
            unmeasured: false,
            pass,
            parts: VecDeque::new(),
            objects: VecDeque::new(),
            part_end: 0,
            lists: VecDeque::new(),
            list_kept: false,
            left: most,
            removed: 0,
            failures: 0,
        };
        let first = shrink.measure();
        (shrink, first)
    }

    pub(super) fn step(&mut self, event: Event) -> Effect {
        match (self.stage, event) {
            (Stage::Measuring, Event::Part(Ok(list))) => self.measured(&list),
            // Where it cannot be told how far it is given up, it is given up as a whole, later.
            (Stage::Measuring, Event::Part(Err(_))) => {
                self.unmeasured = true;
                self.drop_before(self.whole_parts())
            }
            (Stage::Dropping, Event::Committed(version)) => {
                self.version = version;
                self.remove()
            }
            (Stage::Removing, Event::Part(Ok(list))) => {
                self.objects = self.given_up(&list);
                self.next_object()
            }
            // Its objects are garbage that no key names: the janitor finds them.
            (Stage::Removing, Event::Part(Err(Unread::Lost))) => self.next_object(),
            (Stage::Removing, Event::Part(Err(Unread::NotNow))) => self.save(),
            (Stage::Removing, Event::Removed) => self.looked_at(true),
            (Stage::Removing, Event::Kept) => self.looked_at(false),
            (Stage::Saving, Event::Committed(version)) => {
                self.version = version;
                self.saved()
            }
            (Stage::Ending, Event::Removed) => self.next_list(),
            (Stage::Ending, Event::Kept) => {
                self.list_kept = true;
                self.next_list()
            }
            (Stage::Gone, Event::Committed(_)) => self.over(true),
            (_, _) => self.over(false),
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

    /// The first segment whose object is to be looked at.
    fn from(&self) -> u64 {
        self.manifest.removed_before.max(self.pass.next)
    }

    fn remove(&mut self) -> Effect {
        self.stage = Stage::Removing;
        let Manifest { dropped_before, removed_before, ref parts, .. } = self.manifest;
        if dropped_before == removed_before {
            return self.saved();
        }
        let from = self.from();
        let affected = |part: &&ManifestPart| {
            u64::from(part.first_seq) < dropped_before && u64::from(part.last_seq) >= from
        };
        self.parts = parts.iter().filter(affected).cloned().collect();
        self.next_object()
    }

    fn given_up(&self, list: &SegmentList) -> VecDeque<(u32, TierObject)> {
        let Manifest { dropped_before, ref parts, .. } = self.manifest;
        let part = parts.iter().find(|part| part.attempt == list.attempt);
        let found = part.map_or(&[][..], |part| list.of(part)).iter();
        let wanted = self.from()..dropped_before;
        found
            .filter(|found: &&FoldedSegment| wanted.contains(&u64::from(found.seq)))
            .filter_map(|found| match found.ledger().ok()?.tier {
                Tier::Trimmed(object) => Some((found.seq, object)),
                _ => None,
            })
            .collect()
    }

    fn next_object(&mut self) -> Effect {
        if let Some((_, object)) = self.objects.front() {
            return match self.left > 0 && self.failures < MAX_FAILURES {
                true => Effect::Remove(object.clone()),
                false => self.save(),
            };
        }
        self.pass.next = self.pass.next.max(self.part_end);
        if let Some(part) = self.parts.pop_front() {
            self.part_end = u64::from(part.last_seq) + 1;
            return Effect::ReadPart(part);
        }
        self.pass.next = self.manifest.dropped_before;
        self.save()
    }

    fn looked_at(&mut self, gone: bool) -> Effect {
        let Some((seq, _)) = self.objects.pop_front() else { return self.over(false) };
        self.pass.next = u64::from(seq) + 1;
        self.left = self.left.saturating_sub(1);
        if gone {
            self.removed += 1;
        } else {
            self.failures += 1;
            self.pass.stuck.get_or_insert(u64::from(seq));
        }
        self.next_object()
    }

    /// Says how far all is removed.
    fn save(&mut self) -> Effect {
        self.stage = Stage::Saving;
        let through = self.pass.stuck.unwrap_or(self.pass.next).min(self.manifest.dropped_before);
        if through <= self.manifest.removed_before {
            return self.saved();
        }
        self.manifest.removed_before = through;
        let now_ms = self.now_ms;
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.manifest.parts)
            .into_iter()
            .partition(|part| u64::from(part.last_seq) < through);
        self.manifest.parts = kept;
        let former =
            |part: ManifestPart| FormerManifest { attempt: part.attempt, since_ms: now_ms };
        self.manifest.former.extend(gone.into_iter().map(former));
        // Those of a deleted topic are removed at the end, all of them.
        if self.wanted != Wanted::Nothing {
            forget(&mut self.manifest.former);
        }
        self.put()
    }

    fn saved(&mut self) -> Effect {
        let Manifest { dropped_before, removed_before, .. } = self.manifest;
        if removed_before < dropped_before {
            if self.pass.next >= dropped_before {
                // All was tried: from the one that is stuck on, again.
                self.pass = Pass { again: true, ..Pass::default() };
            }
            return self.over(false);
        }
        self.pass = Pass::default();
        match self.wanted {
            Wanted::Nothing => self.end(),
            Wanted::From(_) => self.over(!self.unmeasured),
        }
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
        if self.list_kept {
            return self.over(false);
        }
        self.stage = Stage::Gone;
        let key = keys::manifest(self.of.0, self.of.1);
        let own = Guard::Version(key.clone(), self.version);
        Effect::Commit(Txn::new().guard(own).delete(key))
    }

    fn over(&self, settled: bool) -> Effect {
        let more = self.left == 0 && !self.objects.is_empty() && !self.pass.again;
        Effect::Over(Over { removed: self.removed, settled, pass: self.pass, more })
    }
}
