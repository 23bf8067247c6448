//! The writer's environment: entry bytes, what its callers were told, and its close.

use bytes::Bytes;
use geminga_ledger::core::mutation::Mutations;
use geminga_ledger::core::writer::{Effect, Event, Outcome, Writer};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member, SealEpoch};
use geminga_proto::payload::Payload;

use crate::bookie::Ask;

/// A writer and its callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WriterNode {
    core: Writer,
    ensemble: Vec<Member>,
    entries: Vec<Bytes>,
    /// Everything up to here was reported as acknowledged.
    pub(crate) acked: EntryId,
    /// A close to be committed at this end.
    pub(crate) closing: Option<EntryId>,
    /// Whether a caller was told both `Acked` and something else, or an entry reported lost is in the ledger.
    pub(crate) told: Option<Outcome>,
}

/// Requests to put on the wire, by bookie.
pub(crate) type Requests = Vec<(Member, WriteRequest)>;

pub(crate) const CLUSTER: u128 = 1;
pub(crate) const LEDGER: LedgerId = LedgerId(1);

pub(crate) fn scope(member: &Member, epoch: SealEpoch) -> Scope {
    Scope {
        cluster: ClusterUuid::from_random(CLUSTER),
        ledger: LEDGER,
        fragment_first: EntryId(0),
        epoch,
        incarnation: member.incarnation,
    }
}

impl WriterNode {
    pub(crate) fn new(meta: &LedgerMeta) -> (Self, Requests) {
        let ensemble = meta.last_fragment().ensemble.clone();
        let (core, effects) = Writer::new(meta, Mutations::default());
        let mut node = Self {
            core,
            ensemble,
            entries: Vec::new(),
            acked: EntryId::NONE,
            closing: None,
            told: None,
        };
        let requests = node.carry_out(effects);
        (node, requests)
    }

    pub(crate) fn written(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn append(&mut self) -> Requests {
        let lac = self.core.lac();
        let Ok((id, effects)) = self.core.append() else { return Vec::new() };
        let position = Position { ledger: LEDGER, entry: id, lac, cumulative_length: 0 };
        let attributes = Attributes {
            kind: Kind::Barrier,
            first_offset: 0,
            offset_count: 0,
            max_timestamp: -1,
            running_max_timestamp: -1,
            last_snapshot_entry: entry::NO_SNAPSHOT,
        };
        let bytes = entry::encode(
            ClusterUuid::from_random(CLUSTER),
            position,
            attributes,
            &Payload::default(),
        )
        .expect("an empty entry is below the limit");
        self.entries.push(bytes);
        self.carry_out(effects)
    }

    pub(crate) fn step(&mut self, event: Event) -> Requests {
        let effects = self.core.step(event);
        self.carry_out(effects)
    }

    pub(crate) fn receive(&mut self, member: Member, ask: Ask, reply: &WriteReply) -> Requests {
        match ask {
            Ask::Hello => self.step(Event::from_hello(member, reply)),
            Ask::Add => self.step(Event::from_add(member, reply)),
            Ask::Seal | Ask::RecoveryAdd => unreachable!("a writer neither seals nor recovers"),
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Requests {
        let mut requests = Vec::new();
        for effect in effects {
            match effect {
                Effect::Hello(position) => requests.push(self.request(position, WriteOp::Hello)),
                Effect::Send { position, first, last } => {
                    let range = index(first)..=index(last);
                    let entries = self.entries[range].to_vec();
                    let op = WriteOp::Add { first, entries, lac: self.core.lac() };
                    requests.push(self.request(position, op));
                }
                Effect::Commit(lac) => self.acked = lac,
                Effect::CommitClose(last) => self.closing = Some(last),
                Effect::Fail(outcome) => self.told = Some(outcome),
                Effect::Release(_)
                | Effect::LeftOut(_)
                | Effect::QuorumLost
                | Effect::Search
                | Effect::Change { .. }
                | Effect::MarkUnder(_)
                | Effect::Roll => {}
            }
        }
        requests
    }

    fn request(&self, position: usize, op: WriteOp) -> (Member, WriteRequest) {
        let member = self.ensemble[position].clone();
        let scope = scope(&member, SealEpoch(0));
        (member, WriteRequest { scope, op })
    }
}

fn index(entry: EntryId) -> usize {
    usize::try_from(entry.0).expect("entries start at 0")
}
