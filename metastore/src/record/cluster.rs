//! `cluster`: what makes one cluster one, and the counter that numbers its brokers.

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, ClusterUuid, TopicId};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format};

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
}

impl Cluster {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::ClusterRecord {
            format: FORMAT,
            cluster_uuid: Bytes::copy_from_slice(self.uuid.as_bytes()),
            cluster_epoch: u32::from(self.epoch),
            group_shards: self.group_shards,
            next_broker_id: self.next_broker.0,
            groups_topic_id: Bytes::copy_from_slice(self.groups_topic.as_bytes()),
            created_ms: self.created_ms,
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid cluster.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::ClusterRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
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
        })
    }
}
