//! The durable state of one shard: exactly what the acknowledged commands say, nothing that is still on its way.
//! Snapshots are taken from here and committed offsets are read here (P4, S2).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::core::Change;
use super::record::{DecodeError, Generation, Piece, decode, decode_part, encode_part};
use super::types::{Committed, TopicPartition};
use crate::statelog::log::SNAPSHOT_PART_BYTES;

/// One group as it is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct GroupImage {
    /// Its newest generation.
    pub(crate) generation: Generation,
    offsets: BTreeMap<TopicPartition, Committed>,
    bytes: usize,
}

impl GroupImage {
    /// Its committed offsets, by topic and partition.
    pub(crate) fn offsets(&self) -> &BTreeMap<TopicPartition, Committed> {
        &self.offsets
    }

    /// Bytes of names and metadata of the offsets.
    pub(crate) fn offset_bytes(&self) -> usize {
        self.bytes
    }

    fn put(&mut self, offsets: Vec<(TopicPartition, Committed)>) {
        for (tp, committed) in offsets {
            self.bytes += offset_bytes(&tp, &committed);
            match self.offsets.entry(tp) {
                Entry::Occupied(mut entry) => {
                    let old = entry.insert(committed);
                    self.bytes -= offset_bytes(entry.key(), &old);
                }
                Entry::Vacant(entry) => {
                    entry.insert(committed);
                }
            }
        }
    }

    fn forget(&mut self, offsets: &[TopicPartition]) {
        for tp in offsets {
            if let Some((tp, committed)) = self.offsets.remove_entry(tp) {
                self.bytes -= offset_bytes(&tp, &committed);
            }
        }
    }
}

/// What one offset counts for against the limits.
pub(crate) fn offset_bytes(tp: &TopicPartition, committed: &Committed) -> usize {
    tp.topic.len() + committed.metadata.len() + 64
}

/// All groups of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Image {
    groups: BTreeMap<Arc<str>, GroupImage>,
    offsets: usize,
    offset_bytes: usize,
}

impl Image {
    /// A group, when it is durable.
    pub(crate) fn group(&self, group: &str) -> Option<&GroupImage> {
        self.groups.get(group)
    }

    /// All groups, by name.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&Arc<str>, &GroupImage)> {
        self.groups.iter()
    }

    /// Those behind a name.
    pub(crate) fn groups_after(
        &self,
        name: Option<&Arc<str>>,
    ) -> impl Iterator<Item = (&Arc<str>, &GroupImage)> {
        let from = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range::<Arc<str>, _>((from, Bound::Unbounded))
    }

    /// How many offsets all groups hold.
    pub(crate) fn offsets(&self) -> usize {
        self.offsets
    }

    /// Bytes of names and metadata of the offsets of all groups.
    pub(crate) fn offset_bytes(&self) -> usize {
        self.offset_bytes
    }

    /// Counts so many offsets more than there are.
    #[cfg(test)]
    pub(crate) fn pretend(&mut self, offsets: usize) {
        self.offsets += offsets;
    }

    /// Changes a group, and counts what it holds then.
    fn change<T>(&mut self, group: &Arc<str>, change: impl FnOnce(&mut GroupImage) -> T) -> T {
        let image = self.groups.entry(group.clone()).or_default();
        self.offsets -= image.offsets.len();
        self.offset_bytes -= image.bytes;
        let changed = change(image);
        self.offsets += image.offsets.len();
        self.offset_bytes += image.bytes;
        changed
    }

    /// Applies a durable command. Returns the group that it is about.
    ///
    /// # Errors
    /// Bytes that are not a command.
    pub(crate) fn apply(&mut self, command: &[u8]) -> Result<Arc<str>, DecodeError> {
        let (group, change) = decode(command)?;
        match change {
            Change::Generation(generation) => {
                self.change(&group, |image| image.generation = generation);
            }
            Change::Offsets(offsets, by) => self.change(&group, |image| {
                image.put(offsets);
                image.generation.speaks(by);
            }),
            Change::Forgotten(offsets) => {
                if self.groups.contains_key(&group) {
                    self.change(&group, |image| image.forget(&offsets));
                }
            }
            Change::Deleted => {
                self.change(&group, |image| *image = GroupImage::default());
                self.groups.remove(&group);
            }
        }
        Ok(group)
    }

    /// Adds one part of a snapshot.
    ///
    /// # Errors
    /// Bytes that are not a part.
    pub(crate) fn load(&mut self, part: &[u8]) -> Result<(), DecodeError> {
        for piece in decode_part(part)? {
            self.change(&piece.group, |image| {
                if let Some(generation) = piece.generation {
                    image.generation = generation;
                }
                image.put(piece.offsets);
            });
        }
        Ok(())
    }

    /// The whole state in parts of about [`SNAPSHOT_PART_BYTES`]; at least one.
    pub(crate) fn snapshot(&self) -> Vec<Bytes> {
        let mut parts = Parts::default();
        for (name, group) in &self.groups {
            parts.open(name.clone(), Some(group.generation.clone()));
            for (tp, committed) in &group.offsets {
                if parts.bytes >= SNAPSHOT_PART_BYTES {
                    parts.cut();
                    parts.open(name.clone(), None);
                }
                parts.offset(tp.clone(), committed.clone());
            }
            if parts.bytes >= SNAPSHOT_PART_BYTES {
                parts.cut();
            }
        }
        parts.finish()
    }
}

/// Collects pieces until a part is large enough. A single generation may make a part larger; it is bounded by the
/// limits of a command.
#[derive(Default)]
struct Parts {
    done: Vec<Bytes>,
    pieces: Vec<Piece>,
    bytes: usize,
}

impl Parts {
    fn open(&mut self, group: Arc<str>, generation: Option<Generation>) {
        let members = generation.iter().flat_map(|g| &g.members);
        self.bytes += 64 + members.map(member_bytes).sum::<usize>();
        self.pieces.push(Piece { group, generation, offsets: Vec::new() });
    }

    fn offset(&mut self, tp: TopicPartition, committed: Committed) {
        self.bytes += offset_bytes(&tp, &committed);
        let piece = self.pieces.last_mut().expect("opened before its offsets");
        piece.offsets.push((tp, committed));
    }

    fn cut(&mut self) {
        self.done.push(encode_part(&std::mem::take(&mut self.pieces)));
        self.bytes = 0;
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.pieces.is_empty() || self.done.is_empty() {
            self.cut();
        }
        self.done
    }
}

fn member_bytes(member: &super::record::MemberRecord) -> usize {
    let topics: usize = member.topics.iter().map(|t| t.len() + 4).sum();
    let assigned: usize = member.assigned.iter().map(|(t, p)| t.len() + 8 + 5 * p.len()).sum();
    let classic = member.classic.as_ref().map_or(0, |classic| {
        let protocols = classic.protocols.iter().map(|p| p.name.len() + p.metadata.len() + 8);
        protocols.sum::<usize>() + classic.assignment.len() + classic.client_host.len() + 16
    });
    member.member.len() + member.client_id.len() + topics + assigned + classic + 56
}

#[cfg(test)]
mod tests {
    use super::super::record::encode;
    use super::*;

    fn committed(offset: i64, metadata: &str) -> Committed {
        Committed {
            offset,
            leader_epoch: None,
            metadata: metadata.to_owned(),
            committed_ms: 1,
            topic_id: None,
            expires_ms: None,
        }
    }

    fn commit(image: &mut Image, group: &str, partition: u32, offset: i64, metadata: &str) {
        let tp = TopicPartition { topic: "t".into(), partition };
        let change = Change::Offsets(vec![(tp, committed(offset, metadata))], None);
        image.apply(&encode(group, &change)).unwrap();
    }

    fn reload(image: &Image) -> Image {
        let mut back = Image::default();
        for part in image.snapshot() {
            back.load(&part).unwrap();
        }
        back
    }

    #[test]
    fn the_newest_command_wins_and_counts_stay_right() {
        let mut image = Image::default();
        commit(&mut image, "g", 0, 5, "long metadata");
        commit(&mut image, "g", 0, 3, "");
        commit(&mut image, "h", 1, 9, "");
        assert_eq!(image.offsets(), 2);
        assert_eq!(image.group("g").unwrap().offset_bytes(), 65);
        assert_eq!(image.offset_bytes(), 130);
        let generation = Generation { generation: 4, ..Generation::default() };
        image.apply(&encode("g", &Change::Generation(generation))).unwrap();
        assert_eq!(image.group("g").unwrap().offsets().len(), 1);
        image.apply(&encode("g", &Change::Deleted)).unwrap();
        assert_eq!((image.offsets(), image.offset_bytes()), (1, 65));
        assert!(image.group("g").is_none());
    }

    #[test]
    fn an_empty_shard_has_a_snapshot() {
        assert_eq!(Image::default().snapshot().len(), 1);
        assert_eq!(reload(&Image::default()), Image::default());
    }

    #[test]
    fn large_groups_span_parts() {
        let mut image = Image::default();
        let metadata = "x".repeat(4096);
        for partition in 0..700 {
            commit(&mut image, "large", partition, 1, &metadata);
            commit(&mut image, "other", partition, 2, "");
        }
        let parts = image.snapshot();
        assert!(parts.len() >= 3, "{}", parts.len());
        assert!(parts.iter().all(|p| p.len() < SNAPSHOT_PART_BYTES + 8192));
        assert_eq!(reload(&image), image);
    }
}
