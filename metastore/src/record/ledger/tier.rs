//! Where a closed ledger's entries are (protocol 7.2): at bookies, in the object store, or both. Values without the field are of
//! ledgers that nobody has uploaded.

use bytes::Bytes;
use geminga_proto::ids::Member;
use geminga_proto::internal as wire;

use super::Invalid;

/// An object that was verified, and may be read instead of bookies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TierObject {
    /// The upload that made it; it is in the key (T1).
    pub attempt: u128,
    /// The store: the part of its URL up to the key.
    pub bucket: String,
    /// Its name there.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Entries in it.
    pub entries: u64,
    /// Checksum of all of it but its footer.
    pub object_crc: u32,
    /// What the store called this version of it; empty when it names none.
    pub etag: String,
    /// Where its index begins.
    pub index_place: u64,
    /// When it was verified, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Where the entries are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Tier {
    /// At bookies only.
    #[default]
    Local,
    /// A bookie uploads them. A claim that is old is taken over with another attempt.
    Uploading {
        /// Of this upload.
        attempt: u128,
        /// Who.
        by: Member,
        /// Since when, milliseconds since the Unix epoch.
        started_ms: i64,
    },
    /// In the object as well.
    Offloaded(TierObject),
    /// In the object; bookies drop theirs.
    Trimmed(TierObject),
}

impl Tier {
    /// The object that is referred to.
    pub fn object(&self) -> Option<&TierObject> {
        match self {
            Self::Local | Self::Uploading { .. } => None,
            Self::Offloaded(object) | Self::Trimmed(object) => Some(object),
        }
    }

    /// Whether it is in the object only: bookies have dropped theirs, or are about to, and nobody asks them for it.
    pub fn is_trimmed(&self) -> bool {
        matches!(self, Self::Trimmed(_))
    }

    pub(super) fn to_wire(&self) -> Option<wire::LedgerTier> {
        let empty = wire::LedgerTier::default();
        let bytes = |attempt: u128| Bytes::copy_from_slice(&attempt.to_be_bytes());
        let of = |state: wire::TierState, object: &TierObject| wire::LedgerTier {
            state: state as i32,
            attempt: bytes(object.attempt),
            object: Some(wire::TierObject {
                bucket: object.bucket.clone(),
                key: object.key.clone(),
                size: object.size,
                entries: object.entries,
                object_crc: object.object_crc,
                etag: object.etag.clone(),
                index_place: object.index_place,
                at_ms: object.at_ms,
            }),
            ..wire::LedgerTier::default()
        };
        match self {
            Self::Local => None,
            Self::Uploading { attempt, by, started_ms } => Some(wire::LedgerTier {
                state: wire::TierState::Uploading as i32,
                attempt: bytes(*attempt),
                by: Some(super::member_to_wire(by)),
                started_ms: *started_ms,
                ..empty
            }),
            Self::Offloaded(object) => Some(of(wire::TierState::Offloaded, object)),
            Self::Trimmed(object) => Some(of(wire::TierState::Trimmed, object)),
        }
    }

    pub(super) fn from_wire(tier: Option<wire::LedgerTier>) -> Result<Self, Invalid> {
        let Some(tier) = tier else { return Ok(Self::Local) };
        let state = tier.state();
        let attempt: [u8; 16] = tier.attempt[..]
            .try_into()
            .map_err(|_| Invalid::field("tier.attempt", "not 16 bytes"))?;
        let attempt = u128::from_be_bytes(attempt);
        let object = |object: Option<wire::TierObject>| {
            let object = object.ok_or_else(|| Invalid::field("tier.object", "missing"))?;
            Ok(TierObject {
                attempt,
                bucket: object.bucket,
                key: object.key,
                size: object.size,
                entries: object.entries,
                object_crc: object.object_crc,
                etag: object.etag,
                index_place: object.index_place,
                at_ms: object.at_ms,
            })
        };
        match state {
            wire::TierState::Unspecified => Err(Invalid::field("tier.state", "missing")),
            wire::TierState::Uploading => {
                let by = tier.by.ok_or_else(|| Invalid::field("tier.by", "missing"))?;
                let by = super::member_from_wire(by)?;
                Ok(Self::Uploading { attempt, by, started_ms: tier.started_ms })
            }
            wire::TierState::Offloaded => Ok(Self::Offloaded(object(tier.object)?)),
            wire::TierState::Trimmed => Ok(Self::Trimmed(object(tier.object)?)),
        }
    }
}
