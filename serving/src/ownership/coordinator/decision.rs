//! From changes of owners to transactions: one put per chunk, each chunk guarded by its version and by the life of its
//! topic, each death by the absence of the dead broker's key; as many chunks in one transaction as its limit allows.

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::{Guard, Txn, keys, record};
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, PartitionIndex, TopicId};

use crate::ownership::assignment::{Cause, Change, Ownership};
use crate::ownership::topology::{Topic, Topology};

/// One transaction, still without the guard of the office.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// Guards and puts.
    pub(super) txn: Txn,
    /// How many partitions move, by cause.
    pub(super) moves: Vec<(&'static str, u64)>,
}

/// Guards and puts of one transaction, with room left for the guard of the office.
const MAX_OPS: usize = caps::MAX_METADATA_TXN_OPS - 1;

/// Splits changes into transactions. Changes are dropped where the view has moved on since they were made: topics that
/// have vanished, chunks that name other owners by now. The next step makes them anew.
pub(super) fn decisions(changes: &[Change], topology: &Topology) -> Vec<Decision> {
    let mut by_chunk: BTreeMap<(TopicId, u32), Vec<&Change>> = BTreeMap::new();
    for change in changes {
        let chunk = change.partition.0 / caps::ASSIGN_CHUNK;
        by_chunk.entry((change.topic, chunk)).or_default().push(change);
    }
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    for ((topic, chunk), changes) in by_chunk {
        let Some(topic) = topology.topic_by_id(topic) else { continue };
        let Some(part) = Part::new(&topic, chunk, &changes, topology) else { continue };
        if !batch.has_room_for(&part) {
            batches.push(std::mem::take(&mut batch).into_decision());
        }
        batch.add(part);
    }
    if !batch.parts.is_empty() {
        batches.push(batch.into_decision());
    }
    batches
}

/// The change of one chunk.
struct Part {
    guards: Vec<Guard>,
    dead: BTreeSet<BrokerId>,
    key: String,
    value: bytes::Bytes,
    moves: BTreeMap<&'static str, u64>,
}

impl Part {
    /// `None`: the chunk is not what the changes were made from. Its version would let them through all the same, and a term
    /// that somebody else was given would be given out twice.
    fn new(topic: &Topic, chunk: u32, changes: &[&Change], topology: &Topology) -> Option<Self> {
        let key = keys::assign(topic.id, chunk);
        let stands = topology.chunk(topic.id, chunk);
        let mut guards = vec![match &stands {
            Some(chunk) => Guard::Version(key.clone(), chunk.version),
            None => Guard::Absent(key.clone()),
        }];
        if let Some(created) = topic.created {
            guards.push(Guard::Created(keys::topic(&topic.namespace, &topic.name), created));
        }
        let first = chunk * caps::ASSIGN_CHUNK;
        let count = (topic.partitions - first).min(caps::ASSIGN_CHUNK) as usize;
        let mut owners = stands.map(|c| c.owners.clone()).unwrap_or_default();
        owners.resize(owners.len().max(count), Ownership::default());
        let (mut dead, mut moves) = (BTreeSet::new(), BTreeMap::new());
        for change in changes {
            let PartitionIndex(partition) = change.partition;
            let owner = owners.get_mut((partition - first) as usize)?;
            if std::mem::replace(owner, change.after) != change.before {
                return None;
            }
            if change.cause == Cause::Death {
                dead.extend(change.before.broker);
            }
            *moves.entry(change.cause.as_str()).or_default() += 1;
        }
        let partitions = owners
            .into_iter()
            .map(|o| record::Assignment { broker: o.broker, term: o.term })
            .collect();
        let value = record::Assign { partitions }.encode();
        Some(Self { guards, dead, key, value, moves })
    }
}

#[derive(Default)]
struct Batch {
    parts: Vec<Part>,
    guards: usize,
    dead: BTreeSet<BrokerId>,
}

impl Batch {
    fn has_room_for(&self, part: &Part) -> bool {
        let dead = self.dead.union(&part.dead).count();
        self.parts.is_empty() || self.guards + part.guards.len() + dead + self.parts.len() < MAX_OPS
    }

    fn add(&mut self, part: Part) {
        self.guards += part.guards.len();
        self.dead.extend(&part.dead);
        self.parts.push(part);
    }

    fn into_decision(self) -> Decision {
        let mut moves: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut txn = Txn::new();
        for broker in self.dead {
            txn = txn.guard(Guard::Absent(keys::broker(broker)));
        }
        for part in self.parts {
            txn.guards.extend(part.guards);
            txn = txn.put(part.key, part.value);
            for (cause, count) in part.moves {
                *moves.entry(cause).or_default() += count;
            }
        }
        Decision { txn, moves: moves.into_iter().collect() }
    }
}
