//! `bookies/cookie/<bookie_id>`: who a bookie is and which disks are its own (protocol 5.7). No lease: it outlives every
//! process, and goes only with a decommission.

use bytes::Bytes;
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, Incarnation};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// One disk of a bookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieDisk {
    /// Which.
    pub disk: DiskUuid,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Raised by compare-and-swap at every boot; a disk below it is a restored copy.
    pub boot_counter: u64,
    /// Former incarnations whose data was lost.
    pub lost: Vec<Incarnation>,
}

/// A bookie's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    /// The cluster it belongs to.
    pub cluster: ClusterUuid,
    /// Equals the key.
    pub bookie: BookieId,
    /// Its disks.
    pub disks: Vec<CookieDisk>,
}

impl Cookie {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let disk = |disk: &CookieDisk| wire::CookieDisk {
            disk_uuid: Bytes::copy_from_slice(disk.disk.as_bytes()),
            incarnation: disk.incarnation.0,
            boot_counter: disk.boot_counter,
            lost: disk.lost.iter().map(|lost| lost.0).collect(),
        };
        let record = wire::CookieRecord {
            format: FORMAT,
            cluster_uuid: Bytes::copy_from_slice(self.cluster.as_bytes()),
            bookie_id: self.bookie.as_str().to_owned(),
            disks: self.disks.iter().map(disk).collect(),
        };
        record.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid cookie.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::CookieRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let disk = |disk: wire::CookieDisk| {
            Ok(CookieDisk {
                disk: DiskUuid::from_slice(&disk.disk_uuid)
                    .ok_or_else(|| Invalid::field("disk_uuid", "not 16 bytes"))?,
                incarnation: Incarnation(disk.incarnation),
                boot_counter: disk.boot_counter,
                lost: disk.lost.into_iter().map(Incarnation).collect(),
            })
        };
        Ok(Self {
            cluster: ClusterUuid::from_slice(&record.cluster_uuid)
                .ok_or_else(|| Invalid::field("cluster_uuid", "not 16 bytes"))?,
            bookie: record
                .bookie_id
                .parse()
                .map_err(|e| Invalid::field("bookie_id", format!("{e}")))?,
            disks: record.disks.into_iter().map(disk).collect::<Result<_, Invalid>>()?,
        })
    }
}
