//! `ledgers/<id>`: the state, ensembles and end of one ledger (protocol 1.2). Valid by construction when decoded:
//! the fragments are well-formed and `last_entry` stands exactly with `CLOSED`.

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, Incarnation, LedgerId, Member, SealEpoch, TopicId};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};
pub use tier::{Tier, TierObject};

mod tier;

/// The format of values that name an upload: the same, but not for versions that know no tiers.
const TIERED_FORMAT: u32 = FORMAT + 1;

/// Where a ledger stands in its life (protocol 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LedgerState {
    /// Its creator may write.
    Open,
    /// A recoverer seals it.
    InRecovery,
    /// Ends for ever at `last_entry` (M2).
    Closed,
    /// A tombstone that refuses everything but removal (M6).
    Deleting,
}

/// What entries are checked with; immutable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Digest {
    /// CRC-32C, keyed with the cluster uuid.
    Crc32c,
}

/// Who closed the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CloseKind {
    /// Its writer.
    Writer,
    /// A recoverer.
    Recovered,
    /// An operator who accepted that acknowledged entries may be lost (4.8).
    ForcedWithRisk {
        /// The members of the last fragment that had not answered, or that did not vouch for what they lack.
        missing: Vec<Member>,
    },
}

impl CloseKind {
    /// Who was missing when it was closed by force; nobody otherwise.
    pub fn missing(&self) -> &[Member] {
        match self {
            Self::Writer | Self::Recovered => &[],
            Self::ForcedWithRisk { missing } => missing,
        }
    }
}

/// A run of entries that lives on one ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The first entry; the fragment ends where the next begins.
    pub first_entry: EntryId,
    /// One member per write-quorum position.
    pub ensemble: Vec<Member>,
}

/// Makes a ledger self-describing; never used for safety.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Custom {
    /// The topic.
    pub topic: TopicId,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The partition.
    pub partition: u32,
    /// Offset of the first record.
    pub first_offset: i64,
    /// Ownership term of the creator.
    pub term: i32,
}

/// Metadata of one ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LedgerMeta {
    /// Equals the key.
    pub id: LedgerId,
    /// Where it stands.
    pub state: LedgerState,
    /// Fencing token; +1 at every recovery start.
    pub seal_epoch: SealEpoch,
    /// Copies each entry is sent to; the size of every ensemble.
    pub qw: u8,
    /// Durable copies before an acknowledgement.
    pub qa: u8,
    /// Immutable.
    pub digest: Digest,
    /// Never empty; the first starts at 0; strictly rising.
    pub fragments: Vec<Fragment>,
    /// The end; with `Closed` (and kept in `Deleting` if it was closed).
    pub last_entry: Option<EntryId>,
    /// Payload bytes up to `last_entry`.
    pub length: u64,
    /// Rolling digest up to `last_entry`; `None` where the closer did not read every entry.
    pub entries_crc: Option<u64>,
    /// Where the entries are; anything but `Local` only once it was closed.
    pub tier: Tier,
    /// How it was closed.
    pub close_kind: Option<CloseKind>,
    /// Who recovers it; diagnostic only.
    pub recoverer: String,
    /// Random id of the update that produced this value (M9).
    pub last_op: u128,
    /// What it belongs to.
    pub custom: Custom,
    /// Milliseconds since the Unix epoch; never used for safety.
    pub created_ms: i64,
    /// Who created it; never used for safety.
    pub owner: String,
    /// Created with fewer members than the topic asks for.
    pub degraded: bool,
}

impl LedgerMeta {
    /// The fragment that is written to.
    pub fn last_fragment(&self) -> &Fragment {
        self.fragments.last().expect("a ledger has at least one fragment: checked by validate")
    }

    /// The fragment that holds `entry`.
    pub fn fragment_of(&self, entry: EntryId) -> &Fragment {
        let after = self.fragments.partition_point(|f| f.first_entry <= entry);
        &self.fragments[after.saturating_sub(1)]
    }

    /// The last entry of the fragment at `index`, where it is known: the next fragment's first minus one, or the
    /// ledger's end.
    pub fn fragment_end(&self, index: usize) -> Option<EntryId> {
        match self.fragments.get(index + 1) {
            Some(next) => Some(next.first_entry.prev()),
            None => self.last_entry,
        }
    }

    /// Checks what must hold of every value (I10).
    ///
    /// # Errors
    /// [`Invalid::Field`] that names the first broken rule.
    pub fn validate(&self) -> Result<(), Invalid> {
        if self.qw == 0 || self.qw > caps::MAX_WRITE_QUORUM {
            return Err(Invalid::field(
                "qw",
                format!("{} is not in 1..={}", self.qw, caps::MAX_WRITE_QUORUM),
            ));
        }
        if self.qa == 0 || self.qa > self.qw {
            return Err(Invalid::field("qa", format!("{} is not in 1..={}", self.qa, self.qw)));
        }
        self.validate_fragments()?;
        match (self.state, self.last_entry) {
            (LedgerState::Closed, None) => {
                Err(Invalid::field("last_entry", "missing on a closed ledger"))
            }
            (LedgerState::Open | LedgerState::InRecovery, Some(_)) => {
                Err(Invalid::field("last_entry", "set on a ledger that is not closed"))
            }
            _ => Ok(()),
        }?;
        if self.tier != Tier::Local && self.last_entry.is_none_or(|last| last < EntryId(0)) {
            return Err(Invalid::field("tier", "set on a ledger that has no end, or no entries"));
        }
        Ok(())
    }

    fn validate_fragments(&self) -> Result<(), Invalid> {
        if self.fragments.is_empty() || self.fragments.len() > caps::MAX_FRAGMENTS {
            return Err(Invalid::field("fragments", format!("{} of them", self.fragments.len())));
        }
        if self.fragments[0].first_entry != EntryId(0) {
            return Err(Invalid::field("fragments", "the first does not start at 0"));
        }
        if self.fragments.windows(2).any(|pair| pair[0].first_entry >= pair[1].first_entry) {
            return Err(Invalid::field("fragments", "first entries do not rise"));
        }
        for fragment in &self.fragments {
            if fragment.ensemble.len() != usize::from(self.qw) {
                return Err(Invalid::field(
                    "ensemble",
                    format!("{} members, qw {}", fragment.ensemble.len(), self.qw),
                ));
            }
            let mut names: Vec<_> = fragment.ensemble.iter().map(|m| &m.bookie).collect();
            names.sort_unstable();
            names.dedup();
            if names.len() != fragment.ensemble.len() {
                return Err(Invalid::field("ensemble", "one bookie twice"));
            }
        }
        Ok(())
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let record = wire::LedgerRecord {
            // Who does not know tiers would write the value back without it, and the object would be lost.
            format: if self.tier == Tier::Local { FORMAT } else { TIERED_FORMAT },
            ledger_id: self.id.0,
            state: state_to_wire(self.state) as i32,
            seal_epoch: self.seal_epoch.0,
            qw: u32::from(self.qw),
            qa: u32::from(self.qa),
            digest: match self.digest {
                Digest::Crc32c => wire::Digest::Crc32c as i32,
            },
            fragments: self.fragments.iter().map(fragment_to_wire).collect(),
            last_entry: self.last_entry.map(|e| e.0),
            length: self.last_entry.map(|_| self.length),
            entries_crc: self.entries_crc,
            recoverer: self.recoverer.clone(),
            close_kind: close_to_wire(self.close_kind.as_ref()) as i32,
            forced_without: self
                .close_kind
                .iter()
                .flat_map(CloseKind::missing)
                .map(member_to_wire)
                .collect(),
            last_op: Bytes::copy_from_slice(&self.last_op.to_be_bytes()),
            custom: Some(wire::LedgerCustom {
                topic_id: Bytes::copy_from_slice(self.custom.topic.as_bytes()),
                namespace: self.custom.namespace.clone(),
                name: self.custom.name.clone(),
                partition: self.custom.partition,
                first_offset: self.custom.first_offset,
                term: self.custom.term,
            }),
            created_ms: self.created_ms,
            owner: self.owner.clone(),
            degraded: self.degraded,
            tier: self.tier.to_wire(),
        };
        record.encode_to_vec().into()
    }

    /// Reads and validates the value stored under the key of ledger `id`.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid record of that ledger.
    pub fn decode(id: LedgerId, value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(id, value))
    }

    fn read(id: LedgerId, value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::LedgerRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        if record.format != TIERED_FORMAT {
            check_format(record.format)?;
        }
        if record.ledger_id != id.0 {
            return Err(Invalid::field(
                "ledger_id",
                format!("{:016x} under the key of {id}", record.ledger_id),
            ));
        }
        let meta = Self {
            id,
            state: state_from_wire(record.state())?,
            seal_epoch: SealEpoch(record.seal_epoch),
            qw: quorum("qw", record.qw)?,
            qa: quorum("qa", record.qa)?,
            digest: match record.digest() {
                wire::Digest::Crc32c => Digest::Crc32c,
                other => {
                    return Err(Invalid::field("digest", format!("{other:?} is not supported")));
                }
            },
            last_entry: record.last_entry.map(EntryId),
            length: record.length.unwrap_or(0),
            entries_crc: record.entries_crc,
            close_kind: close_from_wire(record.close_kind(), record.forced_without.clone())?,
            last_op: op_id(&record.last_op)?,
            custom: custom_from_wire(record.custom.unwrap_or_default())?,
            fragments: record
                .fragments
                .into_iter()
                .map(fragment_from_wire)
                .collect::<Result<_, _>>()?,
            recoverer: record.recoverer,
            tier: Tier::from_wire(record.tier)?,
            created_ms: record.created_ms,
            owner: record.owner,
            degraded: record.degraded,
        };
        meta.validate()?;
        Ok(meta)
    }
}

fn quorum(field: &'static str, value: u32) -> Result<u8, Invalid> {
    u8::try_from(value).map_err(|_| Invalid::field(field, format!("{value} does not fit")))
}

fn op_id(bytes: &[u8]) -> Result<u128, Invalid> {
    let bytes: [u8; 16] =
        bytes.try_into().map_err(|_| Invalid::field("last_op", "not 16 bytes"))?;
    Ok(u128::from_be_bytes(bytes))
}

fn state_to_wire(state: LedgerState) -> wire::LedgerState {
    match state {
        LedgerState::Open => wire::LedgerState::Open,
        LedgerState::InRecovery => wire::LedgerState::InRecovery,
        LedgerState::Closed => wire::LedgerState::Closed,
        LedgerState::Deleting => wire::LedgerState::Deleting,
    }
}

fn state_from_wire(state: wire::LedgerState) -> Result<LedgerState, Invalid> {
    match state {
        wire::LedgerState::Open => Ok(LedgerState::Open),
        wire::LedgerState::InRecovery => Ok(LedgerState::InRecovery),
        wire::LedgerState::Closed => Ok(LedgerState::Closed),
        wire::LedgerState::Deleting => Ok(LedgerState::Deleting),
        wire::LedgerState::Unspecified => Err(Invalid::field("state", "missing")),
    }
}

fn close_to_wire(kind: Option<&CloseKind>) -> wire::CloseKind {
    match kind {
        None => wire::CloseKind::Unspecified,
        Some(CloseKind::Writer) => wire::CloseKind::Writer,
        Some(CloseKind::Recovered) => wire::CloseKind::Recovered,
        Some(CloseKind::ForcedWithRisk { .. }) => wire::CloseKind::ForcedWithRisk,
    }
}

fn close_from_wire(
    kind: wire::CloseKind,
    missing: Vec<wire::EnsembleMember>,
) -> Result<Option<CloseKind>, Invalid> {
    Ok(match kind {
        wire::CloseKind::Unspecified => None,
        wire::CloseKind::Writer => Some(CloseKind::Writer),
        wire::CloseKind::Recovered => Some(CloseKind::Recovered),
        wire::CloseKind::ForcedWithRisk => {
            let missing = missing.into_iter().map(member_from_wire).collect::<Result<_, _>>()?;
            Some(CloseKind::ForcedWithRisk { missing })
        }
    })
}

fn member_to_wire(member: &Member) -> wire::EnsembleMember {
    wire::EnsembleMember {
        bookie_id: member.bookie.as_str().to_owned(),
        incarnation: member.incarnation.0,
    }
}

fn member_from_wire(member: wire::EnsembleMember) -> Result<Member, Invalid> {
    let bookie =
        member.bookie_id.parse().map_err(|e| Invalid::field("bookie_id", format!("{e}")))?;
    Ok(Member { bookie, incarnation: Incarnation(member.incarnation) })
}

fn fragment_to_wire(fragment: &Fragment) -> wire::Fragment {
    wire::Fragment {
        first_entry: fragment.first_entry.0,
        ensemble: fragment.ensemble.iter().map(member_to_wire).collect(),
    }
}

fn fragment_from_wire(fragment: wire::Fragment) -> Result<Fragment, Invalid> {
    let ensemble = fragment.ensemble.into_iter().map(member_from_wire);
    Ok(Fragment {
        first_entry: EntryId(fragment.first_entry),
        ensemble: ensemble.collect::<Result<_, Invalid>>()?,
    })
}

fn custom_from_wire(custom: wire::LedgerCustom) -> Result<Custom, Invalid> {
    let topic = match custom.topic_id.len() {
        0 => TopicId::default(),
        _ => TopicId::from_slice(&custom.topic_id)
            .ok_or_else(|| Invalid::field("custom.topic_id", "not 16 bytes"))?,
    };
    Ok(Custom {
        topic,
        namespace: custom.namespace,
        name: custom.name,
        partition: custom.partition,
        first_offset: custom.first_offset,
        term: custom.term,
    })
}

#[cfg(test)]
mod tests;
