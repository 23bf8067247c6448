//! `assign/<topic id>/<chunk>`: owners and terms of up to 64 partitions.

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, Term};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// One partition's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment {
    /// `None` = nobody yet.
    pub broker: Option<BrokerId>,
    /// Rises by one with every change of owner.
    pub term: Term,
}

/// The owners of a chunk, from its first partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assign {
    /// At most 64.
    pub partitions: Vec<Assignment>,
}

impl Assign {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let one = |a: &Assignment| wire::Assignment {
            broker: a.broker.map_or(-1, |broker| broker.0),
            term: a.term.0,
        };
        let partitions = self.partitions.iter().map(one).collect();
        wire::AssignRecord { format: FORMAT, partitions }.encode_to_vec().into()
    }

    /// Reads a stored value.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid assignment.
    pub fn decode(value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(value))
    }

    fn read(value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::AssignRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.partitions.len() > caps::ASSIGN_CHUNK as usize {
            return Err(Invalid::field("partitions", format!("{}", record.partitions.len())));
        }
        let one = |a: wire::Assignment| Assignment {
            broker: (a.broker >= 0).then_some(BrokerId(a.broker)),
            term: Term(a.term),
        };
        Ok(Self { partitions: record.partitions.into_iter().map(one).collect() })
    }
}
