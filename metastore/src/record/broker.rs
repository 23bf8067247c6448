//! `brokers/<id>` and `coordinator`: who serves, and who is elected to assign.

use bytes::Bytes;
use geminga_proto::ids::BrokerId;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format};
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
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid registration.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
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
        })
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
        let record =
            wire::CoordinatorRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.broker_id < 0 {
            return Err(Invalid::field("broker_id", format!("{} is negative", record.broker_id)));
        }
        Ok(Self { broker: BrokerId(record.broker_id) })
    }
}
