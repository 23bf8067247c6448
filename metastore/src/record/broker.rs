//! `brokers/<id>`, `drains/<id>`, `coordinator` and `revoking`: who serves, who is to own nothing, who is elected to assign,
//! and who is being replaced because it is dead.

use bytes::Bytes;
use geminga_proto::ids::{BrokerId, PartitionIndex, TopicId};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Feature, Features, Invalid, announced, check_format, counted, topic_id};
use crate::store::LeaseId;

/// A registered broker, under its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Equals the key.
    pub id: BrokerId,
    /// Where it serves gRPC, `HOST:PORT` as others reach it.
    pub grpc_address: String,
    /// Where it serves health and metrics; empty when it does not.
    pub http_address: String,
    /// Failure domain; empty when none was given.
    pub zone: String,
    /// The lease it lives by.
    pub lease: LeaseId,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// What it carries; `None` before its first report.
    pub load: Option<BrokerLoad>,
    /// Where it serves Kafka clients; none when it does not.
    pub kafka: Vec<KafkaListener>,
    /// What its version reads.
    pub features: Features,
}

/// One address under which a broker serves Kafka clients. They are told those of the listener that they came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaListener {
    /// The same at all brokers that clients of one network reach.
    pub name: String,
    /// As clients reach it.
    pub host: String,
    /// As clients reach it.
    pub port: u16,
}

impl KafkaListener {
    fn to_wire(&self) -> wire::KafkaListener {
        let (name, host, port) = (self.name.clone(), self.host.clone(), u32::from(self.port));
        wire::KafkaListener { name, host, port }
    }

    fn from_wire(listener: wire::KafkaListener) -> Result<Self, Invalid> {
        let port = u16::try_from(listener.port)
            .map_err(|_| Invalid::field("kafka.port", format!("{}", listener.port)))?;
        Ok(Self { name: listener.name, host: listener.host, port })
    }
}

/// What a broker carries: bytes of records per second, in and out together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerLoad {
    /// All of them.
    pub bytes: u64,
    /// Those of the busiest partitions, busiest first.
    pub busiest: Vec<(TopicId, PartitionIndex, u64)>,
}

impl BrokerLoad {
    fn to_wire(&self) -> wire::BrokerLoad {
        let busiest = self.busiest.iter().map(|(topic, partition, bytes)| wire::PartitionLoad {
            topic_id: Bytes::copy_from_slice(topic.as_bytes()),
            partition: partition.0,
            bytes: *bytes,
        });
        wire::BrokerLoad { bytes: self.bytes, busiest: busiest.collect() }
    }

    fn from_wire(load: &wire::BrokerLoad) -> Result<Self, Invalid> {
        let partition = |load: &wire::PartitionLoad| {
            let topic = topic_id("load.busiest.topic_id", &load.topic_id)?;
            Ok((topic, PartitionIndex(load.partition), load.bytes))
        };
        let busiest = load.busiest.iter().map(partition).collect::<Result<_, Invalid>>()?;
        Ok(Self { bytes: load.bytes, busiest })
    }
}

impl Broker {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::BrokerRecord {
            format: FORMAT,
            broker_id: self.id.0,
            grpc_address: self.grpc_address.clone(),
            http_address: self.http_address.clone(),
            zone: self.zone.clone(),
            lease_id: self.lease.0,
            started_ms: self.started_ms,
            load: self.load.as_ref().map(BrokerLoad::to_wire),
            kafka: self.kafka.iter().map(KafkaListener::to_wire).collect(),
            reads_manifests: self.features.contains(Feature::Manifests),
            features: self.features.numbers(),
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid registration.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::BrokerRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.broker_id < 0 {
            return Err(Invalid::field("broker_id", format!("{} is negative", record.broker_id)));
        }
        Ok(Self {
            id: BrokerId(record.broker_id),
            grpc_address: record.grpc_address,
            http_address: record.http_address,
            zone: record.zone,
            lease: LeaseId(record.lease_id),
            started_ms: record.started_ms,
            load: record.load.as_ref().map(BrokerLoad::from_wire).transpose()?,
            kafka: record
                .kafka
                .into_iter()
                .map(KafkaListener::from_wire)
                .collect::<Result<_, Invalid>>()?,
            features: announced(record.reads_manifests, &record.features),
        })
    }
}

/// That a broker is to own nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Milliseconds since the Unix epoch.
    pub since_ms: i64,
}

impl Drain {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        wire::DrainRecord { format: FORMAT, since_ms: self.since_ms }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::DrainRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        Ok(Self { since_ms: record.since_ms })
    }
}

/// The elected coordinator, under its broker's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coordinator {
    /// Who.
    pub broker: BrokerId,
}

impl Coordinator {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        wire::CoordinatorRecord { format: FORMAT, broker_id: self.broker.0 }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::CoordinatorRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.broker_id < 0 {
            return Err(Invalid::field("broker_id", format!("{} is negative", record.broker_id)));
        }
        Ok(Self { broker: BrokerId(record.broker_id) })
    }
}

/// That the registration of a dead broker is being ended, under a lease of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoking {
    /// Whose.
    pub broker: BrokerId,
    /// Who ends it.
    pub by: BrokerId,
}

impl Revoking {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let (broker_id, by_broker) = (self.broker.0, self.by.0);
        wire::RevokingRecord { format: FORMAT, broker_id, by_broker }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::RevokingRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        for (field, broker) in [("broker_id", record.broker_id), ("by_broker", record.by_broker)] {
            if broker < 0 {
                return Err(Invalid::field(field, format!("{broker} is negative")));
            }
        }
        Ok(Self { broker: BrokerId(record.broker_id), by: BrokerId(record.by_broker) })
    }
}
