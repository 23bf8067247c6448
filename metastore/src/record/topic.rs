//! `topics/<ns>/<name>` and `deleted-topics/<topic id>`: a topic, and what is left to be removed of one.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::TopicId;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// A topic. Its key is the one commit point of its existence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Its identity.
    pub id: TopicId,
    /// How many partitions, at least one.
    pub partitions: u32,
    /// Copies of each entry.
    pub write_quorum: u8,
    /// Durable copies before an acknowledgement; at most `write_quorum`.
    pub ack_quorum: u8,
    /// What Kafka clients are told of its copies, where its creator asked for a number; no copy is made for it.
    pub replication_factor: Option<u16>,
    /// Configs that were set, by Kafka's names.
    pub configs: BTreeMap<String, String>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: i64,
}

impl Topic {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::TopicRecord {
            format: FORMAT,
            topic_id: Bytes::copy_from_slice(self.id.as_bytes()),
            partitions: self.partitions,
            configs: self.configs.clone().into_iter().collect(),
            write_quorum: u32::from(self.write_quorum),
            ack_quorum: u32::from(self.ack_quorum),
            created_ms: self.created_ms,
            replication_factor: u32::from(self.replication_factor.unwrap_or(0)),
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid topic.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::TopicRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let quorum = |field, value: u32| {
            u8::try_from(value)
                .ok()
                .filter(|q| (1..=caps::MAX_WRITE_QUORUM).contains(q))
                .ok_or_else(|| Invalid::field(field, format!("{value}")))
        };
        let (write_quorum, ack_quorum) = (
            quorum("write_quorum", record.write_quorum)?,
            quorum("ack_quorum", record.ack_quorum)?,
        );
        if ack_quorum > write_quorum {
            return Err(Invalid::field("ack_quorum", "above the write quorum"));
        }
        if record.partitions == 0 || record.partitions > caps::MAX_PARTITIONS_PER_TOPIC {
            return Err(Invalid::field("partitions", format!("{}", record.partitions)));
        }
        let factor = u16::try_from(record.replication_factor)
            .ok()
            .filter(|factor| i16::try_from(*factor).is_ok())
            .ok_or_else(|| {
                Invalid::field("replication_factor", format!("{}", record.replication_factor))
            })?;
        Ok(Self {
            id: super::topic_id("topic_id", &record.topic_id)?,
            replication_factor: (factor > 0).then_some(factor),
            partitions: record.partitions,
            write_quorum,
            ack_quorum,
            configs: record.configs.into_iter().collect(),
            created_ms: record.created_ms,
        })
    }
}

/// A topic whose name is free again and whose remains are to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletedTopic {
    /// The namespace that it was in.
    pub namespace: String,
    /// What it was called.
    pub name: String,
    /// How many partitions it had.
    pub partitions: u32,
    /// Milliseconds since the Unix epoch.
    pub deleted_ms: i64,
}

impl DeletedTopic {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::DeletedTopicRecord {
            format: FORMAT,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            partitions: self.partitions,
            deleted_ms: self.deleted_ms,
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record = wire::DeletedTopicRecord::decode(value)
            .map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let wire::DeletedTopicRecord { namespace, name, partitions, deleted_ms, .. } = record;
        Ok(Self { namespace, name, partitions, deleted_ms })
    }
}
