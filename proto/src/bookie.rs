//! The bookie protocol as validated types: what both ends of a connection, the simulator and the model speak. The
//! protobuf messages exist only inside the transports (protocol 1.6).

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, SealEpoch};
use crate::internal as wire;

/// What every request states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The cluster the caller belongs to.
    pub cluster: ClusterUuid,
    /// The ledger.
    pub ledger: LedgerId,
    /// First entry of the fragment the caller works on; tails are relative to it.
    pub fragment_first: EntryId,
    /// 0 from the writer, the recoverer's epoch otherwise.
    pub epoch: SealEpoch,
    /// The disk-life that metadata names.
    pub incarnation: Incarnation,
}

/// A request that may change a bookie's state. Requests of one connection take effect in the order sent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WriteOp {
    /// Open or resume a write stream.
    Hello,
    /// The writer's entries, encoded, with consecutive ids.
    Add {
        /// Id of the first.
        first: EntryId,
        /// Encoded entries (see [`crate::entry`]).
        entries: Vec<Bytes>,
        /// The writer's last add confirmed: a hint (2.4).
        lac: EntryId,
    },
    /// A recoverer's copies, verbatim (D2).
    RecoveryAdd {
        /// Id of the first.
        first: EntryId,
        /// Encoded entries.
        entries: Vec<Bytes>,
    },
    /// Fence and report the tail atomically.
    Seal,
    /// Explicit LAC when idle; a hint.
    AdvanceLac(EntryId),
    /// Best-effort notice of the end.
    Closed(EntryId),
    /// A repair's copies into a fragment that does not change any more, verbatim (D2, 6.5).
    RepairAdd {
        /// Id of the first.
        first: EntryId,
        /// Encoded entries.
        entries: Vec<Bytes>,
    },
    /// How far the fragment is on stable storage; changes nothing (6.3).
    Tail,
}

/// A request on the write stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WriteRequest {
    /// Where.
    pub scope: Scope,
    /// What.
    pub op: WriteOp,
}

/// A request that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum QueryOp {
    /// Entries `from..=to`, as many as fit in `max_bytes` but at least one.
    Read {
        /// First entry.
        from: EntryId,
        /// Last entry.
        to: EntryId,
        /// Bytes of encoded entries.
        max_bytes: u32,
        /// Send only so much of each payload, without digest.
        prefix_bytes: Option<u32>,
    },
    /// Answer when the LAC exceeds `after`, the ledger is sealed, or the deadline has passed.
    WaitLac {
        /// What the caller has.
        after: EntryId,
        /// Milliseconds.
        deadline_ms: u32,
    },
    /// The ledgers of the disk, in the order of their ids (6.8); the scope's ledger is ignored. The reply's entries are
    /// [`LocalLedger`]s; none at all when there are no more.
    Inventory {
        /// Those behind it.
        after: Option<LedgerId>,
        /// At most so many, at most [`MAX_INVENTORY`].
        max_ledgers: u32,
    },
}

/// Ledgers of one page of an inventory.
pub const MAX_INVENTORY: u32 = 1_000;

/// One ledger as a disk has it (6.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalLedger {
    /// Which.
    pub ledger: LedgerId,
    /// 0 = not sealed.
    pub sealed_epoch: SealEpoch,
    /// Where it was closed, as far as the bookie was told.
    pub closed: Option<EntryId>,
    /// Largest LAC the bookie was told.
    pub max_lac: EntryId,
    /// What it holds: sorted runs, both ends included.
    pub runs: Vec<(EntryId, EntryId)>,
    /// The upload in whose object the entries are that were dropped here.
    pub trimmed: Option<u128>,
    /// What its entries take on the disk.
    pub bytes: u64,
}

impl LocalLedger {
    /// As a message.
    pub fn encode(&self) -> Bytes {
        let message = wire::LocalLedger {
            ledger_id: self.ledger.0,
            sealed_epoch: self.sealed_epoch.0,
            closed_at: self.closed.map(|last| last.0),
            max_lac: self.max_lac.0,
            runs: self.runs.iter().flat_map(|(from, to)| [from.0, to.0]).collect(),
            trimmed_attempt: self
                .trimmed
                .map_or_else(Bytes::new, |attempt| Bytes::copy_from_slice(&attempt.to_be_bytes())),
            bytes: self.bytes,
        };
        message.encode_to_vec().into()
    }

    /// From a message.
    ///
    /// # Errors
    /// [`InvalidMessage`].
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidMessage> {
        let message =
            wire::LocalLedger::decode(bytes).map_err(|_| InvalidMessage("a local ledger"))?;
        let trimmed = match message.trimmed_attempt.len() {
            0 => None,
            _ => {
                let attempt: [u8; 16] = message.trimmed_attempt[..]
                    .try_into()
                    .map_err(|_| InvalidMessage("an attempt is not 16 bytes"))?;
                Some(u128::from_be_bytes(attempt))
            }
        };
        let (pairs, rest) = message.runs.as_chunks::<2>();
        let rise = pairs.iter().all(|[from, to]| 0 <= *from && from <= to)
            && pairs.windows(2).all(|two| two[0][1] < two[1][0]);
        if !rest.is_empty() || !rise {
            return Err(InvalidMessage("runs of entries"));
        }
        Ok(Self {
            ledger: LedgerId(message.ledger_id),
            sealed_epoch: SealEpoch(message.sealed_epoch),
            closed: message.closed_at.map(|last| EntryId(last.max(-1))),
            max_lac: EntryId(message.max_lac.max(-1)),
            runs: pairs.iter().map(|[from, to]| (EntryId(*from), EntryId(*to))).collect(),
            trimmed,
            bytes: message.bytes,
        })
    }
}

/// A request on the query stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryRequest {
    /// Where. `epoch` is ignored.
    pub scope: Scope,
    /// What.
    pub op: QueryOp,
}

/// How a bookie answered. Callers act on the [`Class`], never on the code (1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// Done, or has it.
    Ok,
    /// Certain that it never had the entry (K1).
    NoSuchEntry,
    /// Certain that it never had the ledger (K1).
    NoSuchLedger,
    /// The ledger is sealed: the writer is deposed.
    Sealed,
    /// A newer recoverer sealed it.
    StaleEpoch,
    /// Wrong cluster, or not a member.
    Unauthorised,
    /// The request names another life of this bookie (H11).
    WrongIncarnation,
    /// The bookie lost data and does not know.
    Limbo,
    /// Dropped locally after tiering.
    Trimmed,
    /// Dropped for good.
    Deleted,
    /// Try again later.
    Busy,
    /// No new data on this disk.
    ReadOnly,
    /// A gap: `staged_tail` says where to go on.
    OutOfOrder,
    /// The same id with other content (D3): two writers, or corruption.
    Conflict,
    /// A stored copy that fails its digest.
    Corrupt,
    /// The disk failed.
    IoError,
    /// A malformed request.
    Invalid,
}

/// What a reply counts as (1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Has it.
    Positive,
    /// Does not have it and, if the call sealed, never will.
    Negative,
    /// Says nothing.
    Unknown,
    /// The caller has lost its role.
    Verdict,
}

impl Code {
    /// What the code counts as.
    pub fn class(self) -> Class {
        match self {
            Self::Ok => Class::Positive,
            Self::NoSuchEntry | Self::NoSuchLedger => Class::Negative,
            Self::Sealed | Self::StaleEpoch | Self::Unauthorised => Class::Verdict,
            Self::WrongIncarnation
            | Self::Limbo
            | Self::Trimmed
            | Self::Deleted
            | Self::Busy
            | Self::ReadOnly
            | Self::OutOfOrder
            | Self::Conflict
            | Self::Corrupt
            | Self::IoError
            | Self::Invalid => Class::Unknown,
        }
    }
}

/// The answer to a [`WriteRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WriteReply {
    /// How it went.
    pub code: Code,
    /// One line for people; empty when all is well.
    pub detail: String,
    /// Highest entry of the fragment on stable storage, `fragment_first - 1` when none. For a seal: the final tail.
    pub durable_tail: EntryId,
    /// Highest entry accepted, perhaps not yet durable.
    pub staged_tail: EntryId,
    /// 0 = not sealed.
    pub sealed_epoch: SealEpoch,
    /// Largest LAC the bookie was told for this ledger.
    pub max_lac: EntryId,
    /// Whether the bookie can vouch for what it does *not* have.
    pub authoritative: bool,
}

impl WriteReply {
    /// A reply without knowledge about tails.
    pub fn refusal(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            durable_tail: EntryId::NONE,
            staged_tail: EntryId::NONE,
            sealed_epoch: SealEpoch(0),
            max_lac: EntryId::NONE,
            authoritative: false,
        }
    }
}

/// The answer to a [`QueryRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueryReply {
    /// How it went.
    pub code: Code,
    /// One line for people.
    pub detail: String,
    /// Consecutive from the asked `from`; at least one when the code is `Ok` on a read.
    pub entries: Vec<Bytes>,
    /// Largest LAC the bookie knows.
    pub lac: EntryId,
    /// Whether the ledger is sealed here.
    pub sealed: bool,
    /// What the bookie does for others meanwhile; an earlier version does not say.
    pub adds: Option<Adds>,
}

/// What a bookie does for those who append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Adds {
    /// How many it has answered well since it started; wraps.
    pub count: u32,
    /// How long nine of ten took at most, lately.
    pub most: Duration,
}

impl QueryReply {
    /// A reply without entries.
    pub fn refusal(code: Code, detail: impl Into<String>) -> Self {
        let (entries, lac) = (Vec::new(), EntryId::NONE);
        Self { code, detail: detail.into(), entries, lac, sealed: false, adds: None }
    }
}

/// A message that is not valid; the connection is closed with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid bookie message: {0}")]
pub struct InvalidMessage(pub &'static str);

impl Scope {
    fn to_wire(self) -> wire::Scope {
        wire::Scope {
            cluster_uuid: Bytes::copy_from_slice(self.cluster.as_bytes()),
            ledger_id: self.ledger.0,
            fragment_first: self.fragment_first.0,
            epoch: self.epoch.0,
            expected_incarnation: self.incarnation.0,
        }
    }

    fn from_wire(scope: Option<wire::Scope>) -> Result<Self, InvalidMessage> {
        let scope = scope.ok_or(InvalidMessage("no scope"))?;
        if scope.fragment_first < 0 {
            return Err(InvalidMessage("negative fragment_first"));
        }
        Ok(Self {
            cluster: ClusterUuid::from_slice(&scope.cluster_uuid)
                .ok_or(InvalidMessage("cluster_uuid is not 16 bytes"))?,
            ledger: LedgerId(scope.ledger_id),
            fragment_first: EntryId(scope.fragment_first),
            epoch: SealEpoch(scope.epoch),
            incarnation: Incarnation(scope.expected_incarnation),
        })
    }
}

/// Last id of `count` entries from `first`, when that is a valid range.
fn entries_range(first: i64, count: usize) -> Result<EntryId, InvalidMessage> {
    let count = i64::try_from(count).map_err(|_| InvalidMessage("too many entries"))?;
    if first < 0 || count == 0 || first.checked_add(count).is_none() {
        return Err(InvalidMessage("entry range"));
    }
    Ok(EntryId(first))
}

impl WriteRequest {
    /// As a message; `request_id` is the transport's.
    pub fn to_wire(self, request_id: u64) -> wire::WriteRequest {
        use wire::write_request::Op;
        let op = match self.op {
            WriteOp::Hello => Op::Hello(wire::Hello {}),
            WriteOp::Add { first, entries, lac } => {
                Op::Add(wire::Add { first_entry: first.0, entries, lac: lac.0 })
            }
            WriteOp::RecoveryAdd { first, entries } => {
                Op::RecoveryAdd(wire::Add { first_entry: first.0, entries, lac: -1 })
            }
            WriteOp::RepairAdd { first, entries } => {
                Op::RepairAdd(wire::Add { first_entry: first.0, entries, lac: -1 })
            }
            WriteOp::Tail => Op::Tail(wire::Tail {}),
            WriteOp::Seal => Op::Seal(wire::Seal {}),
            WriteOp::AdvanceLac(lac) => Op::AdvanceLac(wire::AdvanceLac { lac: lac.0 }),
            WriteOp::Closed(last) => Op::Closed(wire::Closed { last_entry: last.0 }),
        };
        let (scope, cause) = (Some(self.scope.to_wire()), String::new());
        wire::WriteRequest { request_id, scope, op: Some(op), cause }
    }

    /// From a message, with its request id.
    ///
    /// # Errors
    /// [`InvalidMessage`] when a field is missing or out of range.
    pub fn from_wire(message: wire::WriteRequest) -> Result<(u64, Self), InvalidMessage> {
        use wire::write_request::Op;
        let scope = Scope::from_wire(message.scope)?;
        let op = match message.op.ok_or(InvalidMessage("no operation"))? {
            Op::Hello(_) => WriteOp::Hello,
            Op::Add(add) => WriteOp::Add {
                first: entries_range(add.first_entry, add.entries.len())?,
                entries: add.entries,
                lac: EntryId(add.lac.max(-1)),
            },
            Op::RecoveryAdd(add) => WriteOp::RecoveryAdd {
                first: entries_range(add.first_entry, add.entries.len())?,
                entries: add.entries,
            },
            Op::RepairAdd(add) => WriteOp::RepairAdd {
                first: entries_range(add.first_entry, add.entries.len())?,
                entries: add.entries,
            },
            Op::Tail(_) => WriteOp::Tail,
            Op::Seal(_) => WriteOp::Seal,
            Op::AdvanceLac(lac) => WriteOp::AdvanceLac(EntryId(lac.lac.max(-1))),
            Op::Closed(closed) => WriteOp::Closed(EntryId(closed.last_entry.max(-1))),
        };
        Ok((message.request_id, Self { scope, op }))
    }

    /// Bytes of entry data that the request carries.
    pub fn payload_bytes(&self) -> usize {
        match &self.op {
            WriteOp::Add { entries, .. }
            | WriteOp::RecoveryAdd { entries, .. }
            | WriteOp::RepairAdd { entries, .. } => entries.iter().map(Bytes::len).sum(),
            WriteOp::Hello
            | WriteOp::Seal
            | WriteOp::AdvanceLac(_)
            | WriteOp::Closed(_)
            | WriteOp::Tail => 0,
        }
    }
}

impl QueryRequest {
    /// As a message; `request_id` is the transport's.
    pub fn to_wire(self, request_id: u64) -> wire::QueryRequest {
        use wire::query_request::Op;
        let op = match self.op {
            QueryOp::Read { from, to, max_bytes, prefix_bytes } => {
                Op::Read(wire::Read { from: from.0, to: to.0, max_bytes, prefix_bytes })
            }
            QueryOp::WaitLac { after, deadline_ms } => {
                Op::WaitLac(wire::WaitLac { after: after.0, deadline_ms })
            }
            QueryOp::Inventory { after, max_ledgers } => {
                let after = after.map(|ledger| ledger.0);
                Op::Inventory(wire::Inventory { after, max_ledgers })
            }
        };
        let (scope, cause) = (Some(self.scope.to_wire()), String::new());
        wire::QueryRequest { request_id, scope, op: Some(op), cause }
    }

    /// From a message, with its request id.
    ///
    /// # Errors
    /// [`InvalidMessage`] when a field is missing or out of range.
    pub fn from_wire(message: wire::QueryRequest) -> Result<(u64, Self), InvalidMessage> {
        use wire::query_request::Op;
        let scope = Scope::from_wire(message.scope)?;
        let op = match message.op.ok_or(InvalidMessage("no operation"))? {
            Op::Read(read) => {
                if read.from < 0 || read.to < read.from {
                    return Err(InvalidMessage("read range"));
                }
                QueryOp::Read {
                    from: EntryId(read.from),
                    to: EntryId(read.to),
                    max_bytes: read.max_bytes,
                    prefix_bytes: read.prefix_bytes,
                }
            }
            Op::WaitLac(wait) => QueryOp::WaitLac {
                after: EntryId(wait.after.max(-1)),
                deadline_ms: wait.deadline_ms,
            },
            Op::Inventory(page) => QueryOp::Inventory {
                after: page.after.map(LedgerId),
                max_ledgers: page.max_ledgers.clamp(1, MAX_INVENTORY),
            },
        };
        Ok((message.request_id, Self { scope, op }))
    }
}

impl WriteReply {
    /// As a message.
    pub fn to_wire(self, request_id: u64) -> wire::WriteReply {
        wire::WriteReply {
            request_id,
            code: self.code.to_wire() as i32,
            detail: self.detail,
            durable_tail: self.durable_tail.0,
            staged_tail: self.staged_tail.0,
            sealed_epoch: self.sealed_epoch.0,
            max_lac: self.max_lac.0,
            authoritative: self.authoritative,
        }
    }

    /// From a message, with its request id.
    pub fn from_wire(message: wire::WriteReply) -> (u64, Self) {
        let reply = Self {
            code: Code::from_wire(message.code()),
            detail: message.detail,
            durable_tail: EntryId(message.durable_tail),
            staged_tail: EntryId(message.staged_tail),
            sealed_epoch: SealEpoch(message.sealed_epoch),
            max_lac: EntryId(message.max_lac),
            authoritative: message.authoritative,
        };
        (message.request_id, reply)
    }
}

impl QueryReply {
    /// As a message.
    pub fn to_wire(self, request_id: u64) -> wire::QueryReply {
        wire::QueryReply {
            request_id,
            code: self.code.to_wire() as i32,
            detail: self.detail,
            entries: self.entries,
            lac: self.lac.0,
            sealed: self.sealed,
            adds: self.adds.map(|adds| wire::Adds {
                count: adds.count,
                most_us: u32::try_from(adds.most.as_micros()).unwrap_or(u32::MAX),
            }),
        }
    }

    /// From a message, with its request id.
    pub fn from_wire(message: wire::QueryReply) -> (u64, Self) {
        let reply = Self {
            code: Code::from_wire(message.code()),
            detail: message.detail,
            entries: message.entries,
            lac: EntryId(message.lac),
            sealed: message.sealed,
            adds: message.adds.map(|adds| Adds {
                count: adds.count,
                most: Duration::from_micros(adds.most_us.into()),
            }),
        };
        (message.request_id, reply)
    }
}

impl Code {
    fn to_wire(self) -> wire::Code {
        match self {
            Self::Ok => wire::Code::Ok,
            Self::NoSuchEntry => wire::Code::NoSuchEntry,
            Self::NoSuchLedger => wire::Code::NoSuchLedger,
            Self::Sealed => wire::Code::Sealed,
            Self::StaleEpoch => wire::Code::StaleEpoch,
            Self::Unauthorised => wire::Code::Unauthorised,
            Self::WrongIncarnation => wire::Code::WrongIncarnation,
            Self::Limbo => wire::Code::Limbo,
            Self::Trimmed => wire::Code::Trimmed,
            Self::Deleted => wire::Code::Deleted,
            Self::Busy => wire::Code::Busy,
            Self::ReadOnly => wire::Code::ReadOnly,
            Self::OutOfOrder => wire::Code::OutOfOrder,
            Self::Conflict => wire::Code::Conflict,
            Self::Corrupt => wire::Code::Corrupt,
            Self::IoError => wire::Code::IoError,
            Self::Invalid => wire::Code::Invalid,
        }
    }

    /// A code from a newer bookie is *unknown*, never a negative (H15).
    fn from_wire(code: wire::Code) -> Self {
        match code {
            wire::Code::Ok => Self::Ok,
            wire::Code::NoSuchEntry => Self::NoSuchEntry,
            wire::Code::NoSuchLedger => Self::NoSuchLedger,
            wire::Code::Sealed => Self::Sealed,
            wire::Code::StaleEpoch => Self::StaleEpoch,
            wire::Code::Unauthorised => Self::Unauthorised,
            wire::Code::WrongIncarnation => Self::WrongIncarnation,
            wire::Code::Limbo => Self::Limbo,
            wire::Code::Trimmed => Self::Trimmed,
            wire::Code::Deleted => Self::Deleted,
            wire::Code::Busy => Self::Busy,
            wire::Code::ReadOnly => Self::ReadOnly,
            wire::Code::OutOfOrder => Self::OutOfOrder,
            wire::Code::Conflict => Self::Conflict,
            wire::Code::Corrupt => Self::Corrupt,
            wire::Code::IoError => Self::IoError,
            wire::Code::Invalid | wire::Code::Unspecified => Self::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope {
            cluster: ClusterUuid::from_random(1),
            ledger: LedgerId(2),
            fragment_first: EntryId(3),
            epoch: SealEpoch(4),
            incarnation: Incarnation(5),
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        let ops = [
            WriteOp::Hello,
            WriteOp::Add {
                first: EntryId(3),
                entries: vec![Bytes::from_static(b"x")],
                lac: EntryId(2),
            },
            WriteOp::RecoveryAdd { first: EntryId(3), entries: vec![Bytes::from_static(b"x")] },
            WriteOp::Seal,
            WriteOp::AdvanceLac(EntryId(9)),
            WriteOp::Closed(EntryId::NONE),
            WriteOp::RepairAdd { first: EntryId(3), entries: vec![Bytes::from_static(b"x")] },
            WriteOp::Tail,
        ];
        for op in ops {
            let request = WriteRequest { scope: scope(), op };
            assert_eq!(WriteRequest::from_wire(request.clone().to_wire(7)), Ok((7, request)));
        }
    }

    #[test]
    fn malformed_requests_are_refused() {
        let good = WriteRequest { scope: scope(), op: WriteOp::Hello }.to_wire(1);
        let mut bad = good.clone();
        bad.scope = None;
        assert!(WriteRequest::from_wire(bad).is_err());
        let mut bad = good.clone();
        bad.op = None;
        assert!(WriteRequest::from_wire(bad).is_err());
        let mut bad = good;
        bad.op = Some(wire::write_request::Op::Add(wire::Add {
            first_entry: i64::MAX,
            entries: vec![Bytes::new()],
            lac: 0,
        }));
        assert!(WriteRequest::from_wire(bad).is_err());
    }

    #[test]
    fn a_code_from_the_future_counts_as_nothing() {
        let mut message = WriteReply::refusal(Code::Ok, "").to_wire(1);
        message.code = 99;
        assert_eq!(WriteReply::from_wire(message).1.code.class(), Class::Unknown);
    }
}
