//! `bookies/watermark/<bookie_id>`: how far the logs of a bookie's disks are known to have come (protocol 5.7). A disk that is
//! behind it was rolled back, however right its cookie is. Written by the bookie, now and then and when it stops.

use bytes::Bytes;
use geminga_proto::ids::Incarnation;
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// One disk's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskWatermark {
    /// The life that it is of.
    pub incarnation: Incarnation,
    /// This frame was on stable storage.
    pub frame: u64,
}

/// The marks of a bookie's disks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watermark {
    /// Each incarnation at most once.
    pub disks: Vec<DiskWatermark>,
}

impl Watermark {
    /// The frame that this life had on stable storage for certain; 0 when nothing is known.
    pub fn frame(&self, incarnation: Incarnation) -> u64 {
        let mut of_it = self.disks.iter().filter(|disk| disk.incarnation == incarnation);
        of_it.next().map_or(0, |disk| disk.frame)
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let disk = |disk: &DiskWatermark| wire::DiskWatermark {
            incarnation: disk.incarnation.0,
            frame: disk.frame,
        };
        let disks = self.disks.iter().map(disk).collect();
        wire::WatermarkRecord { format: FORMAT, disks }.encode_to_vec().into()
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
            wire::WatermarkRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        let disk = |disk: wire::DiskWatermark| DiskWatermark {
            incarnation: Incarnation(disk.incarnation),
            frame: disk.frame,
        };
        Ok(Self { disks: record.disks.into_iter().map(disk).collect() })
    }
}
