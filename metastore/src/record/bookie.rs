//! `bookies/live/<id>`: a bookie that is registered now, under its lease.

use bytes::Bytes;
use geminga_proto::ids::{BookieId, Incarnation};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Feature, Features, Invalid, announced, check_format, counted};
use crate::store::LeaseId;

/// One disk of a live bookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDisk {
    /// Its present life.
    pub incarnation: Incarnation,
    /// Whether it takes new ledgers.
    pub writable: bool,
    /// Bytes free on its file system.
    pub free_bytes: u64,
    /// Bytes of its file system.
    pub total_bytes: u64,
}

/// A registered bookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveBookie {
    /// Its name; equals the key.
    pub id: BookieId,
    /// Where it serves ledgers, `HOST:PORT`.
    pub address: String,
    /// Where it serves health and metrics; empty when it does not.
    pub http_address: String,
    /// Failure domain for placement; empty when none was given.
    pub zone: String,
    /// Failure domain of power; empty when none was given.
    pub rack: String,
    /// Its disks.
    pub disks: Vec<LiveDisk>,
    /// The lease it lives by.
    pub lease: LeaseId,
    /// Milliseconds since the Unix epoch.
    pub started_ms: i64,
    /// Bytes a second that its repairs may copy; 0 = as many as there are.
    pub repair_rate: u64,
    /// Trimmed ledgers that it has a copy of and whose object was not there when it looked last: that copy may be the last one. 0 is said
    /// by one that is to leave, and looked at all that it holds; `None`: it does not know, or its version does not say.
    pub objects_missing: Option<u32>,
    /// What its version reads.
    pub features: Features,
}

impl LiveBookie {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let disk = |disk: &LiveDisk| wire::LiveDisk {
            incarnation: disk.incarnation.0,
            writable: disk.writable,
            free_bytes: disk.free_bytes,
            total_bytes: disk.total_bytes,
        };
        let record = wire::LiveBookieRecord {
            format: FORMAT,
            bookie_id: self.id.as_str().to_owned(),
            address: self.address.clone(),
            http_address: self.http_address.clone(),
            zone: self.zone.clone(),
            rack: self.rack.clone(),
            disks: self.disks.iter().map(disk).collect(),
            lease_id: self.lease.0,
            started_ms: self.started_ms,
            repair_rate: self.repair_rate,
            objects_missing: self.objects_missing,
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
            wire::LiveBookieRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let disk = |disk: wire::LiveDisk| LiveDisk {
            incarnation: Incarnation(disk.incarnation),
            writable: disk.writable,
            free_bytes: disk.free_bytes,
            total_bytes: disk.total_bytes,
        };
        Ok(Self {
            id: record
                .bookie_id
                .parse()
                .map_err(|e| Invalid::field("bookie_id", format!("{e}")))?,
            address: record.address,
            http_address: record.http_address,
            zone: record.zone,
            rack: record.rack,
            disks: record.disks.into_iter().map(disk).collect(),
            lease: LeaseId(record.lease_id),
            started_ms: record.started_ms,
            repair_rate: record.repair_rate,
            objects_missing: record.objects_missing,
            features: announced(record.reads_manifests, &record.features),
        })
    }
}
