//! What names one opening: the partition, the term, and the version of the term key that guards everything the opening
//! writes. Another opening, even one by the same broker, changes that version; from then on this one changes nothing.

use std::sync::Arc;

use geminga_ledger::CreateSpec;
use geminga_metastore::record::{Custom, Segment};
use geminga_metastore::{Error as MetaError, Guard, MetaStore, Txn, Version, keys};
use geminga_proto::ids::{LedgerId, Offset, PartitionIndex, Term, TopicId};

use super::LogParts;
use super::mutation::Mutation;
use crate::ownership::topology::Topic;
use crate::topics::quorum::Quorum;

/// Segments read from the store at a time.
const PAGE: usize = 1_000;

/// A segment as it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    pub(super) seq: u32,
    pub(super) segment: Segment,
    pub(super) version: Version,
}

/// One opening of one partition.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) parts: LogParts,
    pub(super) topic: Arc<Topic>,
    pub(super) partition: PartitionIndex,
    pub(super) term: Term,
    pub(super) term_version: Version,
    pub(super) quorum: Quorum,
}

impl Opening {
    /// An empty transaction that takes effect only while this opening owns the partition.
    pub(super) fn guarded(&self) -> Txn {
        if self.parts.config.mutations.is(Mutation::ForgetTerm) {
            return Txn::new();
        }
        let key = keys::term(self.topic.id, self.partition);
        Txn::new().guard(Guard::Version(key, self.term_version))
    }

    /// Whether nobody has opened the partition since. Linearizable (M8).
    pub(super) async fn still_owns(&self) -> Result<bool, MetaError> {
        if self.parts.config.mutations.is(Mutation::ForgetTerm) {
            return Ok(true);
        }
        let key = keys::term(self.topic.id, self.partition);
        let found = self.parts.store.get(&key).await?;
        Ok(found.is_some_and(|found| found.version == self.term_version))
    }

    /// The key of a segment.
    pub(super) fn segment_key(&self, seq: u32) -> String {
        keys::segment(self.topic.id, self.partition, seq)
    }

    /// A new segment as it is stored.
    pub(super) fn new_segment(&self, ledger: LedgerId, base_offset: Offset) -> Segment {
        let term = self.term;
        Segment { ledger, base_offset, term, end_offset: None, max_timestamp: None, bytes: None }
    }

    /// The caller's part of a transaction that creates a ledger: the segment must not exist.
    pub(super) fn with_segment(&self, seq: u32, ledger: LedgerId, base_offset: Offset) -> Txn {
        let key = self.segment_key(seq);
        let value = self.new_segment(ledger, base_offset).encode();
        self.guarded().guard(Guard::Absent(key.clone())).put(key, value)
    }

    /// The next ledger.
    pub(super) fn ledger_spec(&self, first_offset: Offset) -> CreateSpec {
        let custom = Custom {
            topic: self.topic.id,
            namespace: self.topic.namespace.clone(),
            name: self.topic.name.clone(),
            partition: self.partition.0,
            first_offset: first_offset.0,
            term: self.term.0,
        };
        CreateSpec { qw: self.quorum.write, qa: self.quorum.ack, custom }
    }
}

/// A partition's segments after `after`, linearizably, in log order.
pub(super) async fn list_segments(
    store: &dyn MetaStore,
    topic: TopicId,
    partition: PartitionIndex,
    after: Option<u32>,
) -> Result<Vec<Stored>, MetaError> {
    let prefix = keys::segments_of(topic, partition);
    let mut last = after.map(|seq| keys::segment(topic, partition, seq));
    let mut found = Vec::new();
    loop {
        let page = store.range(&prefix, last.as_deref(), PAGE).await?;
        for item in &page.items {
            let corrupt = |why: String| MetaError::Corrupt { key: item.key.clone(), why };
            let seq = keys::parse_segment_seq(&item.key)
                .ok_or_else(|| corrupt("a key that names no segment".to_owned()))?;
            let segment =
                Segment::decode(&item.value.value).map_err(|error| corrupt(error.to_string()))?;
            found.push(Stored { seq, segment, version: item.value.version });
        }
        if !page.more {
            return Ok(found);
        }
        last = page.items.last().map(|item| item.key.clone());
    }
}
