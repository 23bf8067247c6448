//! Folds the oldest run of one partition's segments into a manifest (protocol 7.9), as a pure state machine: no clock, no I/O, no
//! randomness. The task around it carries out one effect at a time.
//!
//! ```text
//!   listed ─► manifest ─► each ledger of the run: TRIMMED? ─► (last part) ─► write object ─► read back ─► transactions
//! ```
//!
//! * An object is written and read back before anything names it, and never written again: one that no transaction names is garbage
//!   for the janitor.
//! * Each transaction moves some segments: it removes their two keys and makes the manifest count them. It is guarded by the versions
//!   of all of these, so whatever changed meanwhile — a roll, retention, a repair, another that folds — stops it, and a segment
//!   is at any time in exactly one of the two places.
//! * After a transaction of unknown outcome nothing more is done here (M9). The next look begins from what stands then, and one that
//!   is applied late finds another version of the manifest, or is that next look's beginning.
//! * A key that was removed stays so: nothing creates a ledger's key but with an id that was never given out (M1, M7, I16).

use geminga_metastore::record::{
    FormerManifest, LedgerMeta, LedgerState, MAX_FORMER, MAX_PARTS, Manifest, ManifestPart,
    Segment, Tier,
};
use geminga_metastore::{Guard, Txn, Version, keys};
use geminga_proto::caps;
use geminga_proto::ids::{ClusterUuid, LedgerId, PartitionIndex, TopicId};
use geminga_tier::{FoldedSegment, MAX_MANIFEST_BYTES, MAX_SEGMENTS, SegmentList};

use super::super::{Mutation, Mutations};
use super::Unread;

/// Segments of one transaction: beside the manifest's guard and put, two guards and two deletes each.
const BATCH: usize = (caps::MAX_METADATA_TXN_OPS - 2) / 4;
/// Most segments of one run; the next look goes on.
const MAX_RUN: usize = 1_000;

/// When a partition is folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    /// The newest segments, so many, keep their keys.
    pub(super) keep: usize,
    /// Fewer than so many are not worth it.
    pub(super) at_least: usize,
}

/// A segment as its key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) seq: u32,
    pub(super) segment: Segment,
    pub(super) version: Version,
}

impl Policy {
    /// How many of a partition's segments, from the oldest on, may be folded, whatever their ledgers are. Whoever opens the partition
    /// looks for its end among the keys: so one that certainly holds records, and with them a complete snapshot (P4), keeps its key.
    pub(super) fn foldable(self, listed: &[Listed]) -> usize {
        let holds =
            |at: &Listed| at.segment.end_offset.is_some_and(|end| end > at.segment.base_offset);
        let most = listed.len().saturating_sub(self.keep.max(1));
        let anchor = listed.iter().rposition(holds).unwrap_or(0);
        let count = most.min(anchor);
        if count < self.at_least.max(1) { 0 } else { count.min(MAX_RUN) }
    }
}

/// What came of an effect.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
#[derive(Debug)]
pub(super) enum Event {
    /// The manifest, linearizably.
    Manifest(Option<(Manifest, Version)>),
    /// A ledger, linearizably; `None` where there is none, or it cannot be read.
    Ledger(Option<(LedgerMeta, Version)>),
    /// What the last part lists, or why that is not known.
    Part(Result<SegmentList, Unread>),
    /// The object was written; `None` when that is not certain.
    Written(Option<ManifestPart>),
    /// Whether what was read back is what was written.
    ReadBack(bool),
    /// The transaction took place, and written keys have this version.
    Committed(Version),
    /// It did not, or nobody knows.
    Doubt,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    ReadManifest,
    ReadLedger(LedgerId),
    ReadPart(ManifestPart),
    Write(SegmentList),
    /// Read what was written as everybody will.
    ReadBack(ManifestPart),
    Commit(Txn),
    /// So many were folded.
    Over(usize),
}

/// The partition, and what a look at it was given.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) cluster: ClusterUuid,
    pub(super) of: (TopicId, PartitionIndex),
    /// The store that objects are written to.
    pub(super) bucket: String,
    pub(super) policy: Policy,
    /// Names the object.
    pub(super) attempt: u128,
    /// Only says how old things are.
    pub(super) now_ms: i64,
    pub(super) mutations: Mutations,
}

/// One segment of the run.
#[derive(Debug, Clone)]
struct Member {
    folded: FoldedSegment,
    segment: Version,
    ledger: Version,
}

/// One look at one partition.
#[derive(Debug)]
pub(super) struct Fold {
    look: Look,
    /// What may be folded.
    listed: Vec<Listed>,
    manifest: Manifest,
    version: Option<Version>,
    run: Vec<Member>,
    /// What was written, and how it is named.
    list: Option<SegmentList>,
    whole: Option<ManifestPart>,
    /// Whether it takes the place of the last part.
    replaces: bool,
    /// How many of the run are folded, and how many would be by the transaction that is under way.
    done: usize,
    next: usize,
}

impl Fold {
    /// Of a partition's segments in log order.
    pub(super) fn begin(look: Look, mut listed: Vec<Listed>) -> (Self, Effect) {
        let count = look.policy.foldable(&listed);
        fill_ends(&mut listed);
        listed.truncate(count);
        let first = if listed.is_empty() { Effect::Over(0) } else { Effect::ReadManifest };
        let fold = Self {
            look,
            listed,
            manifest: Manifest::default(),
            version: None,
            run: Vec::new(),
            list: None,
            whole: None,
            replaces: false,
            done: 0,
            next: 0,
        };
        (fold, first)
    }

    pub(super) fn step(&mut self, event: Event) -> Effect {
        match event {
            Event::Manifest(found) => self.read(found),
            Event::Ledger(found) => self.ledger(found),
            Event::Part(Ok(list)) => self.write(Some(list)),
            // What is lost stays as it is, for whoever brings it back, and another is begun behind it.
            Event::Part(Err(Unread::Lost)) => self.write(None),
            Event::Written(Some(whole)) => {
                self.whole = Some(whole.clone());
                Effect::ReadBack(whole)
            }
            // Keys are removed for it.
            Event::ReadBack(good) if good || self.look.mutations.is(Mutation::FoldUnseen) => {
                self.commit()
            }
            Event::Committed(version) => {
                (self.version, self.done) = (Some(version), self.next);
                self.commit()
            }
            Event::Part(Err(Unread::NotNow))
            | Event::Written(None)
            | Event::ReadBack(_)
            | Event::Doubt => Effect::Over(self.done),
        }
    }

    fn read(&mut self, found: Option<(Manifest, Version)>) -> Effect {
        if let Some((manifest, version)) = found {
            (self.manifest, self.version) = (manifest, Some(version));
        }
        let first = &self.listed[0];
        let follows = self.manifest.last_seq().is_none_or(|last| last < first.seq)
            && self.manifest.end_offset().is_none_or(|end| end <= first.segment.base_offset);
        if !follows {
            let (topic, partition) = self.look.of;
            tracing::error!(%topic, %partition, "a manifest and the segments behind it do not fit together; nothing is folded: was the metadata changed by hand?");
            return Effect::Over(0);
        }
        Effect::ReadLedger(first.segment.ledger)
    }

    /// The next of the run, or its end.
    fn ledger(&mut self, found: Option<(LedgerMeta, Version)>) -> Effect {
        let Listed { seq, segment, version } = self.listed[self.run.len()];
        let member = found.and_then(|(meta, ledger)| {
            let here = matches!(&meta.tier, Tier::Trimmed(at) if at.bucket == self.look.bucket);
            // Where it was never noted, the ledger says how much it holds.
            let segment = Segment { bytes: Some(segment.bytes.unwrap_or(meta.length)), ..segment };
            let folded = FoldedSegment::new(seq, segment, &meta).ok()?;
            let ready = here && meta.state == LedgerState::Closed;
            ready.then_some(Member { folded, segment: version, ledger })
        });
        let goes_on = member.is_some();
        self.run.extend(member);
        match self.listed.get(self.run.len()).filter(|_| goes_on) {
            Some(next) => Effect::ReadLedger(next.segment.ledger),
            None if self.run.len() < self.look.policy.at_least.max(1) => Effect::Over(0),
            None => self.choose(),
        }
    }

    /// The last part is written anew while there is room in it: few objects, each read as a whole.
    fn choose(&mut self) -> Effect {
        let more: usize = self.run.iter().map(|member| member.folded.stored_bytes()).sum();
        let has_room = |part: &&ManifestPart| {
            part.segments as usize + self.run.len() <= MAX_SEGMENTS
                && part.size.saturating_add(more as u64) <= MAX_MANIFEST_BYTES as u64
                && part.bucket == self.look.bucket
        };
        match self.manifest.parts.last().filter(has_room) {
            Some(part) => Effect::ReadPart(part.clone()),
            None => self.write(None),
        }
    }

    /// With the segments of the part that it takes the place of, if there is one.
    fn write(&mut self, part: Option<SegmentList>) -> Effect {
        let last = self.manifest.parts.last();
        let before: Vec<FoldedSegment> = part
            .zip(last)
            .map(|(list, part)| {
                // Of those that were given up, only what is not removed yet must not be forgotten.
                let removed =
                    |found: &&FoldedSegment| u64::from(found.seq) >= self.manifest.removed_before;
                list.of(part).iter().filter(removed).cloned().collect()
            })
            .unwrap_or_default();
        self.replaces = !before.is_empty();
        if !self.replaces && self.manifest.parts.len() >= MAX_PARTS {
            let (topic, partition) = self.look.of;
            tracing::warn!(%topic, %partition, "the manifest of a partition is full; its segments keep their keys: choose a larger segment.bytes");
            return Effect::Over(0);
        }
        let all = before.into_iter().chain(self.run.iter().map(|member| member.folded.clone()));
        let Look { cluster, of, attempt, .. } = self.look;
        match SegmentList::new(cluster, of, attempt, all.collect()) {
            Ok(list) => {
                self.list = Some(list.clone());
                Effect::Write(list)
            }
            Err(error) => {
                let (topic, partition) = of;
                tracing::error!(%topic, %partition, %error, "segments do not follow one another; they are not folded");
                Effect::Over(0)
            }
        }
    }

    /// Moves the next few.
    fn commit(&mut self) -> Effect {
        let (Some(list), Some(whole)) = (&self.list, &self.whole) else { return Effect::Over(0) };
        self.next = self.run.len().min(self.done + BATCH);
        let moved = &self.run[self.done..self.next];
        let Some(last) = moved.last() else { return Effect::Over(self.done) };
        let Some(counted) = list.counted(0..=last.folded.seq) else { return Effect::Over(0) };
        let ManifestPart { bucket, key, size, crc, .. } = whole.clone();
        let part = ManifestPart { bucket, key, size, crc, ..counted };
        let mut manifest = self.manifest.clone();
        // The first transaction puts the object in the place of the last part, later ones count more of it.
        let replaced = match self.replaces || self.done > 0 {
            true => manifest.parts.pop(),
            false => None,
        };
        let former = replaced.filter(|replaced| replaced.attempt != part.attempt);
        manifest.former.extend(
            former.map(|former| FormerManifest {
                attempt: former.attempt,
                since_ms: self.look.now_ms,
            }),
        );
        forget(&mut manifest.former);
        manifest.parts.push(part);
        let (topic, partition) = self.look.of;
        let key = keys::manifest(topic, partition);
        let own = match self.version {
            Some(version) => Guard::Version(key.clone(), version),
            None => Guard::Absent(key.clone()),
        };
        let mut txn = match self.look.mutations.is(Mutation::FoldBlindly) {
            true => Txn::new(),
            false => Txn::new().guard(own),
        };
        txn = txn.put(key, manifest.encode());
        for member in moved {
            let segment = keys::segment(topic, partition, member.folded.seq);
            let ledger = keys::ledger(member.folded.segment.ledger);
            if !self.look.mutations.is(Mutation::FoldUnguarded) {
                txn = txn
                    .guard(Guard::Version(segment.clone(), member.segment))
                    .guard(Guard::Version(ledger.clone(), member.ledger));
            }
            txn = txn.delete(segment).delete(ledger);
        }
        self.manifest = manifest;
        Effect::Commit(txn)
    }
}

/// A segment ends where the next begins, where its own end was not noted.
fn fill_ends(listed: &mut [Listed]) {
    for at in 1..listed.len() {
        let next = listed[at].segment.base_offset;
        listed[at - 1].segment.end_offset.get_or_insert(next);
    }
}

/// The oldest go where there are too many.
pub(super) fn forget(former: &mut Vec<FormerManifest>) {
    let surplus = former.len().saturating_sub(MAX_FORMER);
    former.drain(..surplus);
}

#[cfg(test)]
mod tests;
