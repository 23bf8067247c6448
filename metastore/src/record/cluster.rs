//! `cluster`: what makes one cluster one, and the counter that numbers its brokers.

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, ClusterUuid, LedgerId, TopicId};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Feature, Features, Invalid, counted};

/// The format of a record that says when metadata was restored: who does not know that would write it back without, and ledgers
/// that only bookies know would go.
const RESTORED_FORMAT: u32 = FORMAT + 1;
/// The format of a record of a cluster that folds: who does not know that would take folded segments, and their objects, for lost or
/// left over.
const FOLDS_FORMAT: u32 = FORMAT + 2;
/// The format of a record that lists features that are in use: who does not know one of them refuses it, and who knows no list refuses the
/// format.
const FEATURES_FORMAT: u32 = FORMAT + 3;
/// How long after a restore what only bookies or the object store know is kept (protocol 6.8).
pub const QUARANTINE_MS: i64 = 7 * 24 * 3_600 * 1_000;

/// That the metadata was restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// When the epoch was raised for it, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Whether bookies were compared with the metadata since.
    pub audited: bool,
}

/// The cluster itself. Written once; later by compare-and-swap on its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Its identity.
    pub uuid: ClusterUuid,
    /// The upper bits of every new ledger id (M1); below 4096.
    pub epoch: u16,
    /// Partitions of the internal topic that holds the consumer groups; fixed for ever.
    pub group_shards: u32,
    /// What the next broker that starts is called; never falls.
    pub next_broker: BrokerId,
    /// Identity of the internal topic that holds the consumer groups.
    pub groups_topic: TopicId,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// The last restore, if there was one.
    pub restored: Option<Restored>,
    /// What is in use that not every version reads ([`crate::gate`]). Never taken back.
    pub features: Features,
}

impl Cluster {
    /// Whether the metadata was restored, and nothing is removed on its word yet (protocol 6.8).
    pub fn is_in_quarantine(&self, now_ms: i64) -> bool {
        let during = |restored: Restored| {
            !restored.audited || now_ms.saturating_sub(restored.at_ms) < QUARANTINE_MS
        };
        self.restored.is_some_and(during)
    }

    /// Whether a ledger that this metadata does not know may have been known to the metadata that was lost: nothing of it is
    /// removed before the quarantine is over (protocol 6.8).
    pub fn quarantines(&self, ledger: LedgerId, now_ms: i64) -> bool {
        ledger.cluster_epoch() < self.epoch && self.is_quarantined(now_ms)
    }

    /// Whether it was restored so lately that what only bookies or the object store know is kept.
    pub fn is_quarantined(&self, now_ms: i64) -> bool {
        let during = |restored: Restored| now_ms.saturating_sub(restored.at_ms) < QUARANTINE_MS;
        self.restored.is_some_and(during)
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        // It had a field of its own before there were numbers, and a record that has nothing else keeps the bytes that it had.
        let folds = self.features.contains(Feature::Manifests);
        let others = self.features.without(Feature::Manifests);
        let record = wire::ClusterRecord {
            format: match () {
                () if !others.is_empty() => FEATURES_FORMAT,
                () if folds => FOLDS_FORMAT,
                () if self.restored.is_some() => RESTORED_FORMAT,
                () => FORMAT,
            },
            cluster_uuid: Bytes::copy_from_slice(self.uuid.as_bytes()),
            cluster_epoch: u32::from(self.epoch),
            group_shards: self.group_shards,
            next_broker_id: self.next_broker.0,
            groups_topic_id: Bytes::copy_from_slice(self.groups_topic.as_bytes()),
            created_ms: self.created_ms,
            restored_ms: self.restored.map(|restored| restored.at_ms),
            audited: self.restored.is_some_and(|restored| restored.audited),
            folds,
            features: others.numbers(),
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid cluster.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::ClusterRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        if !(FORMAT..=FEATURES_FORMAT).contains(&record.format) {
            return Err(Invalid::Format(record.format));
        }
        let others = Features::all_of(&record.features).map_err(Invalid::Feature)?;
        let epoch = u16::try_from(record.cluster_epoch).ok().filter(|epoch| *epoch < 1 << 12);
        let shards = record.group_shards;
        if shards == 0 || shards > caps::MAX_PARTITIONS_PER_TOPIC {
            return Err(Invalid::field("group_shards", format!("{shards}")));
        }
        if record.next_broker_id < 0 {
            return Err(Invalid::field("next_broker_id", format!("{}", record.next_broker_id)));
        }
        Ok(Self {
            uuid: ClusterUuid::from_slice(&record.cluster_uuid)
                .ok_or_else(|| Invalid::field("cluster_uuid", "not 16 bytes"))?,
            epoch: epoch.ok_or_else(|| {
                Invalid::field("cluster_epoch", format!("{} is above 4095", record.cluster_epoch))
            })?,
            group_shards: shards,
            next_broker: BrokerId(record.next_broker_id),
            groups_topic: super::topic_id("groups_topic_id", &record.groups_topic_id)?,
            created_ms: record.created_ms,
            restored: record.restored_ms.map(|at_ms| Restored { at_ms, audited: record.audited }),
            features: if record.folds { others.with(Feature::Manifests) } else { others },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 6.8: what the lost metadata may have known is kept for a week, and nothing that came after it.
    #[test]
    fn a_week_is_given_to_what_only_bookies_know() {
        let mut cluster = Cluster {
            uuid: ClusterUuid::from_random(1),
            epoch: 3,
            group_shards: 8,
            next_broker: BrokerId(1),
            groups_topic: TopicId::from_random(2),
            created_ms: 0,
            restored: None,
            features: Features::NONE,
        };
        let [old, new] = [2, 3].map(|epoch| LedgerId::from_parts(epoch, 7).unwrap());
        assert!(!cluster.quarantines(old, 10) && !cluster.is_in_quarantine(10), "never restored");
        cluster.restored = Some(Restored { at_ms: 5, audited: true });
        assert!(cluster.quarantines(old, 4) && cluster.quarantines(old, 4 + QUARANTINE_MS));
        assert!(!cluster.quarantines(old, 5 + QUARANTINE_MS) && !cluster.quarantines(new, 10));
        assert!(cluster.is_in_quarantine(10) && !cluster.is_in_quarantine(5 + QUARANTINE_MS));
        cluster.restored = Some(Restored { at_ms: 5, audited: false });
        assert!(cluster.is_in_quarantine(5 + QUARANTINE_MS), "nobody compared it");
        assert_eq!(Cluster::decode(&cluster.encode()), Ok(cluster));
    }
}
