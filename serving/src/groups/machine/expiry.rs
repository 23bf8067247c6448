//! Offsets that are no more: nobody has used them for the retention time, or their topic is deleted. All groups of the shard
//! are walked now and then, a few at a time.
//!
//! * A group is looked at when the image holds all that it was told, so that nothing newer is forgotten by mistake.
//! * A topic counts as deleted when it is missing at two looks well apart and the store itself says that it is gone: what a
//!   broker knows of topics may be old, and an offset that is forgotten does not come back.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::TopicId;

use super::{Groups, Held, TICK_BYTES, TICK_GROUPS};
use crate::groups::core::Event;
use crate::groups::limits;
use crate::groups::types::{Committed, TopicPartition};
use crate::statelog::machine::Output;

/// Between two walks, milliseconds.
const WALK_EVERY_MS: u64 = 10 * 60 * 1000;
/// Between two walks when topics have changed, and between two looks at a topic that is missing, milliseconds.
const LOOK_AGAIN_MS: u64 = 30 * 1000;
/// Between two stretches of a walk, milliseconds: requests come in between.
const STRETCH_EVERY_MS: u64 = 10;

/// Where the walk is.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    next_ms: Option<u64>,
    /// The last group that was looked at in this walk.
    after: Option<Arc<str>>,
    /// Topics that were missing at the last look, and since when.
    missing: HashMap<TopicId, u64>,
    /// Those that are missing in this walk.
    still_missing: HashMap<TopicId, u64>,
}

impl Expiry {
    /// Begins to walk now and then.
    pub(super) fn start(&mut self, now_ms: u64) {
        self.next_ms = Some(now_ms + WALK_EVERY_MS);
        self.look_soon(now_ms);
    }

    pub(super) fn next_ms(&self) -> Option<u64> {
        self.next_ms
    }

    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        self.next_ms.is_some_and(|at| at <= now_ms)
    }

    /// Something has changed: the next walk comes sooner.
    pub(super) fn look_soon(&mut self, now_ms: u64) {
        if let Some(at) = &mut self.next_ms {
            *at = (*at).min(now_ms + LOOK_AGAIN_MS);
        }
    }

    /// Whether a topic is missing for long enough to be taken for deleted.
    fn is_missing_for_long(&mut self, topic: TopicId, now_ms: u64) -> bool {
        let since_ms = self.missing.get(&topic).copied().unwrap_or(now_ms);
        self.still_missing.insert(topic, since_ms);
        now_ms.saturating_sub(since_ms) >= LOOK_AGAIN_MS
    }

    fn end_of_stretch(&mut self, last: Option<Arc<str>>, now_ms: u64) {
        let pause_ms = if last.is_some() {
            STRETCH_EVERY_MS
        } else {
            self.missing = std::mem::take(&mut self.still_missing);
            if self.missing.is_empty() { WALK_EVERY_MS } else { LOOK_AGAIN_MS }
        };
        self.after = last;
        self.next_ms = Some(now_ms + pause_ms);
    }
}

impl Groups {
    /// One stretch of the walk.
    pub(super) fn expire(&mut self, now_ms: u64, out: &mut Output<Held>) {
        let from = self.expiry.after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.groups.range::<Arc<str>, _>((from, Bound::Unbounded));
        let names: Vec<_> = names.take(TICK_GROUPS).map(|(name, _)| name.clone()).collect();
        let mut last = None;
        let all = names.len() < TICK_GROUPS;
        let mut left = names.into_iter();
        for name in left.by_ref() {
            self.expire_group(now_ms, &name, out);
            last = Some(name);
            if out.commands.iter().map(Bytes::len).sum::<usize>() > TICK_BYTES {
                break;
            }
        }
        let at_the_end = all && left.next().is_none();
        self.expiry.end_of_stretch(last.filter(|_| !at_the_end), now_ms);
    }

    fn expire_group(&mut self, now_ms: u64, name: &Arc<str>, out: &mut Output<Held>) {
        if self.unapplied.contains_key(name) {
            return;
        }
        let Some((expired, all)) = self.expired(now_ms, name) else { return };
        if all || !expired.is_empty() {
            self.step(now_ms, name, Event::Expired(expired, all), out);
        }
    }

    /// Offsets of a group that are to be forgotten now, and whether none are left then.
    fn expired(&mut self, now_ms: u64, name: &str) -> Option<(Vec<TopicPartition>, bool)> {
        let group = &self.groups.get(name)?.group;
        let Some(image) = self.image.group(name) else { return Some((Vec::new(), true)) };
        let wall_ms = self.clock.now_ms();
        let (in_use, retention_ms) = (group.in_use(), self.config.offsets_retention_ms);
        let is_old = |tp: &TopicPartition, committed: &Committed| {
            let Some(since_ms) = group.ages_from(committed.committed_ms) else { return false };
            let until_ms = committed.expires_ms.unwrap_or(since_ms.saturating_add(retention_ms));
            until_ms <= wall_ms && !in_use.has(&tp.topic)
        };
        let mut expired = Vec::new();
        for (tp, committed) in image.offsets() {
            let now = self.topics.topic(&tp.topic).map(|facts| facts.id);
            let missing = committed.topic_id.filter(|then| now != Some(*then));
            let deleted = missing.is_some_and(|topic| {
                // Asked at the first look, so that the answer is there at the second.
                let gone = self.topics.is_deleted(&tp.topic, topic);
                self.expiry.is_missing_for_long(topic, now_ms) && gone
            });
            if deleted || is_old(tp, committed) {
                expired.push(tp.clone());
            }
            if expired.len() == limits::MAX_COMMIT_OFFSETS {
                break;
            }
        }
        let all = expired.len() == image.offsets().len();
        Some((expired, all))
    }
}
