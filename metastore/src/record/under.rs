//! `under/<ledger>`: members that lack entries of a ledger (protocol 2.5 step 6, 4.3 S7, 3.4). Written by writers,
//! recoverers and scrubbers, removed by whoever repaired it.

use bytes::Bytes;
use geminga_proto::ids::{Incarnation, LedgerId, Member};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format};

/// Why a ledger was marked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnderReason {
    /// A writer replaced or left out members that had not everything.
    Replaced,
    /// Its writer closed it while members had not everything.
    Closed,
    /// A recoverer closed it while members had not everything.
    Recovered,
    /// A copy is damaged.
    Damaged,
}

/// An under-replication mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Under {
    /// Equals the key.
    pub ledger: LedgerId,
    /// Who lacks entries; each once.
    pub members: Vec<Member>,
    /// Why it was marked first.
    pub reason: UnderReason,
    /// When it was marked first, milliseconds since the Unix epoch; never used for safety.
    pub created_ms: i64,
}

impl Under {
    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let member = |m: &Member| wire::EnsembleMember {
            bookie_id: m.bookie.as_str().to_owned(),
            incarnation: m.incarnation.0,
        };
        let reason = match self.reason {
            UnderReason::Replaced => wire::UnderReason::Replaced,
            UnderReason::Closed => wire::UnderReason::Closed,
            UnderReason::Recovered => wire::UnderReason::Recovered,
            UnderReason::Damaged => wire::UnderReason::Damaged,
        };
        let record = wire::UnderRecord {
            format: FORMAT,
            ledger_id: self.ledger.0,
            members: self.members.iter().map(member).collect(),
            reason: reason as i32,
            created_ms: self.created_ms,
        };
        record.encode_to_vec().into()
    }

    /// Reads the value stored under the key of ledger `id`.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid mark of that ledger.
    pub fn decode(id: LedgerId, value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::UnderRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.ledger_id != id.0 {
            let why = format!("{:016x} under the key of {id}", record.ledger_id);
            return Err(Invalid::field("ledger_id", why));
        }
        let reason = match record.reason() {
            wire::UnderReason::Replaced => UnderReason::Replaced,
            wire::UnderReason::Closed => UnderReason::Closed,
            wire::UnderReason::Recovered => UnderReason::Recovered,
            wire::UnderReason::Damaged => UnderReason::Damaged,
            wire::UnderReason::Unspecified => return Err(Invalid::field("reason", "missing")),
        };
        let member = |m: wire::EnsembleMember| {
            let bookie =
                m.bookie_id.parse().map_err(|e| Invalid::field("bookie_id", format!("{e}")))?;
            Ok(Member { bookie, incarnation: Incarnation(m.incarnation) })
        };
        Ok(Self {
            ledger: id,
            members: record.members.into_iter().map(member).collect::<Result<_, Invalid>>()?,
            reason,
            created_ms: record.created_ms,
        })
    }
}
