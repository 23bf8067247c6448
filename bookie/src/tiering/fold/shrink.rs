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
//! lock of its bucket, holds up no other, and neither does a list that cannot be read: the look goes on behind it, and so do later ones,
//! by the [`Pass`] that they are given. `removed_before` stays below it, so that it is not forgotten. When all behind it was tried, what is
//! stuck is tried again, and nothing else. Where no pass is known any more, as after an election, all from there on is removed again.

use std::collections::VecDeque;

use geminga_metastore::record::{FormerManifest, Manifest, ManifestPart, Tier, TierObject};
use geminga_metastore::{Guard, Txn, Version, keys};
use geminga_proto::ids::{PartitionIndex, TopicId};
use geminga_tier::{FoldedSegment, SegmentList};

use super::Unread;
use super::core::forget;
use super::pass::{MAX_STUCK, Numbers, Pass};
use super::wanted::Wanted;
use crate::tiering::{Mutation, Mutations};

/// Objects in one look that cannot be removed, or lists that cannot be read: the store may be in trouble, and each of them costs time.
const MAX_FAILURES: usize = 16;

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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// From which number on nothing was tried before.
    begun_at: u64,
    /// What was stuck before, and is tried again, once all behind it was tried.
    due: Option<Numbers>,
    /// Parts whose objects are to be looked at.
    parts: VecDeque<ManifestPart>,
    /// Objects of the part that is looked at, and the numbers that are looked for in it.
    objects: VecDeque<(u32, TierObject)>,
    part_first: u64,
    part_end: u64,
    lists: VecDeque<u128>,
    /// Whether one of the lists stays.
    list_kept: bool,
    /// Objects that may still be looked at.
    left: usize,
    removed: usize,
    failures: usize,
    mutations: Mutations,
}

impl Shrink {
    /// Of a manifest, as read linearizably, and what was found to be wanted after that. At most `most` objects are removed.
    pub(super) fn begin(
        of: (TopicId, PartitionIndex),
        (manifest, version): (Manifest, Version),
        wanted: Wanted,
        now_ms: i64,
        (pass, most): (Pass, usize),
        mutations: Mutations,
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
            begun_at: 0,
            due: None,
            parts: VecDeque::new(),
            objects: VecDeque::new(),
            part_first: 0,
            part_end: 0,
            lists: VecDeque::new(),
            list_kept: false,
            left: most,
            removed: 0,
            failures: 0,
            mutations,
        };
        let first = shrink.measure();
        (shrink, first)
    }

    pub(super) fn step(&mut self, event: Event) -> Effect {
        match (self.stage, event) {
            (Stage::Measuring, Event::Part(Ok(list))) => {
                self.drop_before(self.wanted.by_list(&self.manifest, &list))
            }
            // Where it cannot be told how far it is given up, it is given up as a whole, later.
            (Stage::Measuring, Event::Part(Err(_))) => {
                self.unmeasured = true;
                self.drop_before(self.wanted.whole_parts(&self.manifest))
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
            (Stage::Removing, Event::Part(Err(Unread::NotNow))) => self.unread(),
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

    fn measure(&mut self) -> Effect {
        match self.wanted.within(&self.manifest) {
            Some(part) => Effect::ReadPart(part.clone()),
            None => self.drop_before(self.wanted.whole_parts(&self.manifest)),
        }
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
        Effect::Commit(self.own().put(key, self.manifest.encode()))
    }

    /// A transaction that takes place only while the manifest is as it was read.
    fn own(&self) -> Txn {
        let key = keys::manifest(self.of.0, self.of.1);
        match self.mutations.is(Mutation::FoldBlindly) {
            true => Txn::new(),
            false => Txn::new().guard(Guard::Version(key, self.version)),
        }
    }

    fn remove(&mut self) -> Effect {
        self.stage = Stage::Removing;
        let Manifest { dropped_before, removed_before, ref parts, .. } = self.manifest;
        if dropped_before == removed_before {
            return self.saved();
        }
        // Whoever else was elected got further.
        self.pass.next = self.pass.next.max(removed_before);
        self.pass.stuck.take_below(removed_before);
        let from = self.pass.next;
        self.begun_at = from;
        let affected = |part: &&ManifestPart| {
            u64::from(part.first_seq) < dropped_before && u64::from(part.last_seq) >= from
        };
        if self.pass.stuck.len() < MAX_STUCK {
            self.parts = parts.iter().filter(affected).cloned().collect();
        } else {
            self.try_again();
        }
        self.next_object()
    }

    /// What was stuck before this look is looked at from now on, and no more.
    fn try_again(&mut self) {
        let mut due = self.pass.take_due();
        self.pass.stuck.append(due.split_off(self.begun_at));
        let holds = |part: &&ManifestPart| {
            due.touches(u64::from(part.first_seq), u64::from(part.last_seq) + 1)
        };
        self.parts = self.manifest.parts.iter().filter(holds).cloned().collect();
        self.due = Some(due);
    }

    fn given_up(&self, list: &SegmentList) -> VecDeque<(u32, TierObject)> {
        let part = self.manifest.parts.iter().find(|part| part.attempt == list.attempt);
        let found = part.map_or(&[][..], |part| list.of(part)).iter();
        let is_wanted = |seq: u64| match &self.due {
            Some(due) => due.contains(seq),
            None => (self.part_first..self.part_end).contains(&seq),
        };
        found
            .filter(|found: &&FoldedSegment| is_wanted(u64::from(found.seq)))
            .filter_map(|found| match found.ledger().ok()?.tier {
                Tier::Trimmed(object) => Some((found.seq, object)),
                _ => None,
            })
            .collect()
    }

    fn next_object(&mut self) -> Effect {
        let is_full = self.due.is_none() && self.pass.stuck.len() >= MAX_STUCK;
        let goes_on = self.failures < MAX_FAILURES && !is_full;
        if let Some((_, object)) = self.objects.front() {
            return match self.left > 0 && goes_on {
                true => Effect::Remove(object.clone()),
                false => self.save(),
            };
        }
        self.is_through(self.part_end);
        if !goes_on {
            return self.save();
        }
        if let Some(part) = self.parts.pop_front() {
            let (first, end) = (u64::from(part.first_seq), u64::from(part.last_seq) + 1);
            self.part_first = first.max(if self.due.is_some() { 0 } else { self.pass.next });
            self.part_end = end.min(self.manifest.dropped_before);
            return Effect::ReadPart(part);
        }
        if self.due.is_some() {
            // Of what is left no list says anything.
            self.due = Some(Numbers::default());
            return self.save();
        }
        self.pass.next = self.manifest.dropped_before;
        if self.left == 0 {
            return self.save();
        }
        self.part_end = 0;
        self.try_again();
        self.next_object()
    }

    /// All below this number was looked at, of what this look is about.
    fn is_through(&mut self, number: u64) -> Numbers {
        match &mut self.due {
            Some(due) => due.take_below(number),
            None => {
                self.pass.next = self.pass.next.max(number);
                Numbers::default()
            }
        }
    }

    fn looked_at(&mut self, gone: bool) -> Effect {
        let Some((seq, _)) = self.objects.pop_front() else { return self.over(false) };
        let seq = u64::from(seq);
        self.is_through(seq + 1);
        self.left = self.left.saturating_sub(1);
        if gone {
            self.removed += 1;
        } else {
            self.failures += 1;
            self.pass.stuck.insert(seq, seq + 1);
        }
        self.next_object()
    }

    /// The list of a part cannot be read now: what it may name is stuck.
    fn unread(&mut self) -> Effect {
        self.failures += 1;
        let (first, end) = (self.part_first, self.part_end);
        let due = self.is_through(end);
        match self.due {
            Some(_) => self.pass.stuck.append(due),
            None => self.pass.stuck.insert(first, end),
        }
        self.next_object()
    }

    /// Says how far all is removed.
    fn save(&mut self) -> Effect {
        self.stage = Stage::Saving;
        if let Some(untried) = self.due.take() {
            self.pass.put_back(untried);
        }
        let stuck = self.pass.stuck.first();
        let through = stuck.unwrap_or(self.pass.next).min(self.manifest.dropped_before);
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
        Effect::Commit(self.own().delete(keys::manifest(self.of.0, self.of.1)))
    }

    fn over(&self, settled: bool) -> Effect {
        let more = self.left == 0 && self.pass.next < self.manifest.dropped_before;
        Effect::Over(Over { removed: self.removed, settled, pass: self.pass.clone(), more })
    }
}
