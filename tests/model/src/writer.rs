//! The writer's environment: entry bytes, what its callers were told, its searches, and its changes of the metadata.

use bytes::Bytes;
use geminga_ledger::core::commit::{CasResult, Commit, Next, Update};
use geminga_ledger::core::mutation::Mutations;
use geminga_ledger::core::quorum::Zone;
use geminga_ledger::core::writer::{Effect, Event, Phase, Replacement, Search, Writer};
use geminga_metastore::Version;
use geminga_metastore::record::{Fragment, LedgerMeta};
use geminga_proto::bookie::{Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member, SealEpoch};
use geminga_proto::payload::Payload;

use crate::bookie::Ask;
use crate::part::{Keep, Shelf};
use crate::symmetry::{Named, Names};

/// A writer and its callers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WriterNode {
    ledger: LedgerId,
    core: Writer,
    /// The ledger as this writer knows it.
    meta: LedgerMeta,
    version: Version,
    entries: Vec<Bytes>,
    /// Everything up to here was reported as acknowledged.
    pub(crate) acked: EntryId,
    /// Whether that was not in order (I7).
    pub(crate) acked_backwards: bool,
    /// Others are being looked for.
    pub(crate) searching: bool,
    /// A change of the metadata under way.
    pub(crate) commit: Option<(Commit, Next)>,
    /// Whether it closes the ledger.
    pub(crate) closes: bool,
    mutations: Mutations,
    /// Operations so far (M9).
    ops: u128,
}

/// The writer of a ledger, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Writing {
    /// Nobody writes yet.
    No,
    /// It is at work.
    Now(Box<WriterNode>),
    /// It does nothing any more, whatever it hears; what it said stays true or false.
    Over(Said),
}

/// What a writer told its callers, and wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Said {
    /// Everything up to here was reported as acknowledged.
    pub(crate) acked: EntryId,
    /// Whether that was not in order (I7).
    pub(crate) acked_backwards: bool,
    /// How many entries it wrote.
    pub(crate) written: usize,
    /// Whether it closed the ledger itself.
    pub(crate) closed: bool,
}

impl Keep for Writing {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Writing> = Shelf::new();
        &SHELF
    }
}

impl Named for Writing {
    fn renamed(&self, names: &Names) -> Self {
        match self {
            Self::Now(node) => Self::Now(Box::new(node.renamed(names))),
            Self::No | Self::Over(_) => self.clone(),
        }
    }
}

impl Writing {
    /// The writer, while it is at work.
    pub(crate) fn node(&self) -> Option<&WriterNode> {
        match self {
            Self::Now(node) => Some(node),
            Self::No | Self::Over(_) => None,
        }
    }

    pub(crate) fn node_mut(&mut self) -> Option<&mut WriterNode> {
        match self {
            Self::Now(node) => Some(node),
            Self::No | Self::Over(_) => None,
        }
    }

    pub(crate) fn said(&self) -> Said {
        match self {
            Self::No => {
                Said { acked: EntryId::NONE, acked_backwards: false, written: 0, closed: false }
            }
            Self::Now(node) => node.said(),
            Self::Over(said) => *said,
        }
    }

    /// Whether it does nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::No => false,
            Self::Now(node) => matches!(node.phase(), Phase::Dead | Phase::Closed),
            Self::Over(_) => true,
        }
    }
}

/// Requests to put on the wire.
pub(crate) type Requests = Vec<(Member, WriteRequest)>;

pub(crate) const CLUSTER: u128 = 1;

pub(crate) fn scope(ledger: LedgerId, member: &Member, first: EntryId, epoch: SealEpoch) -> Scope {
    Scope {
        cluster: ClusterUuid::from_random(CLUSTER),
        ledger,
        fragment_first: first,
        epoch,
        incarnation: member.incarnation,
    }
}

impl WriterNode {
    pub(crate) fn new(
        meta: &LedgerMeta,
        version: Version,
        mutations: Mutations,
    ) -> (Self, Requests) {
        // Where bookies are is the simulator's.
        let zones = vec![Zone::default(); usize::from(meta.qw)];
        let (core, effects) = Writer::new(meta, &zones, 1, mutations);
        let mut node = Self {
            ledger: meta.id,
            core,
            meta: meta.clone(),
            version,
            entries: Vec::new(),
            acked: EntryId::NONE,
            acked_backwards: false,
            searching: false,
            commit: None,
            closes: false,
            mutations,
            ops: 1,
        };
        let requests = node.carry_out(effects);
        (node, requests)
    }

    pub(crate) fn written(&self) -> usize {
        self.entries.len()
    }

    fn said(&self) -> Said {
        Said {
            acked: self.acked,
            acked_backwards: self.acked_backwards,
            written: self.entries.len(),
            closed: self.phase() == Phase::Closed,
        }
    }

    fn renamed(&self, names: &Names) -> Self {
        let meta = |meta: &LedgerMeta| names.meta(meta);
        let commit = self.commit.as_ref().map(|(commit, next)| {
            let next = match next {
                Next::Cas { expected, meta: swap } => {
                    Next::Cas { expected: *expected, meta: Box::new(meta(swap)) }
                }
                other => other.clone(),
            };
            (commit.renamed(&|fragment| names.fragment(fragment), &meta), next)
        });
        let core = self.core.renamed(&|member| names.member(member));
        Self { core, meta: meta(&self.meta), commit, ..self.clone() }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.core.phase()
    }

    /// Who is in the ensemble, as the writer knows it.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.core.positions().iter().map(|p| p.member.clone()).collect()
    }

    /// Members that may be given up.
    pub(crate) fn in_place(&self) -> Vec<Member> {
        let in_place = self.core.positions().iter().filter(|p| !p.is_missing());
        in_place.map(|p| p.member.clone()).collect()
    }

    pub(crate) fn append(&mut self) -> Requests {
        let lac = self.core.lac();
        let Ok((id, effects)) = self.core.append() else { return Vec::new() };
        let position = Position { ledger: self.ledger, entry: id, lac, cumulative_length: 0 };
        let attributes = Attributes {
            kind: Kind::Barrier,
            first_offset: 0,
            offset_count: 0,
            max_timestamp: -1,
            running_max_timestamp: -1,
            last_snapshot_entry: entry::NO_SNAPSHOT,
        };
        let cluster = ClusterUuid::from_random(CLUSTER);
        let bytes = entry::encode(cluster, position, attributes, &Payload::default())
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

    /// The search is answered: the first of these that is no member takes each lost place, or a new life its own.
    pub(crate) fn find(&mut self, candidates: &[Member]) -> Requests {
        self.searching = false;
        let mut taken: Vec<Member> =
            self.core.positions().iter().map(|p| p.member.clone()).collect();
        let mut found = Vec::new();
        for index in self.core.missing() {
            let lost = taken[index].clone();
            let fits = candidates.iter().find(|candidate| {
                let mut others = taken.iter().filter(|member| **member != lost);
                **candidate != lost && others.all(|member| member.bookie != candidate.bookie)
            });
            if let Some(fits) = fits {
                taken[index] = fits.clone();
                let by = fits.clone();
                found.push(Replacement { lost, by, zone: Zone::default() });
            }
        }
        self.step(Event::Searched(Search::Found(found)))
    }

    /// The compare-and-swap that is to be made next.
    pub(crate) fn swap(&self) -> Option<(Version, LedgerMeta)> {
        match &self.commit {
            Some((_, Next::Cas { expected, meta })) => Some((*expected, (**meta).clone())),
            _ => None,
        }
    }

    /// The swap ended; whatever is to be read then is read from `now`.
    pub(crate) fn swapped(
        &mut self,
        result: CasResult,
        now: Option<(LedgerMeta, Version)>,
    ) -> Requests {
        let Some((mut commit, _)) = self.commit.take() else { return Vec::new() };
        let mut next = commit.cas_done(result);
        if next == Next::Read {
            next = commit.read(now);
        }
        match next {
            Next::Committed(meta, version) => {
                (self.meta, self.version) = (*meta, version);
                self.step(if self.closes { Event::CloseCommitted } else { Event::Changed })
            }
            Next::Lost => self.step(Event::Deposed),
            waiting => {
                self.commit = Some((commit, waiting));
                Vec::new()
            }
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
                Effect::Commit(lac) => {
                    self.acked_backwards |= lac <= self.acked;
                    self.acked = lac;
                }
                Effect::Search => self.searching = true,
                Effect::Change { first, ensemble } => {
                    self.start(Update::Ensemble(Fragment { first_entry: first, ensemble }));
                }
                Effect::CommitClose(last) => {
                    self.closes = true;
                    self.start(Update::Close { last, length: 0, entries_crc: 0 });
                }
                Effect::Fail(_)
                | Effect::Release(_)
                | Effect::LeftOut(_)
                | Effect::QuorumLost
                | Effect::MarkUnder(_)
                | Effect::Roll => {}
            }
        }
        requests
    }

    fn start(&mut self, update: Update) {
        self.ops += 1;
        let op = u128::from(self.ledger.0) * 1_000_000 + self.ops;
        self.commit = Some(Commit::new(&self.meta, self.version, update, op, self.mutations));
    }

    fn request(&self, position: usize, op: WriteOp) -> (Member, WriteRequest) {
        let member = self.core.positions()[position].member.clone();
        let scope = scope(self.ledger, &member, self.core.fragment_first(), SealEpoch(0));
        (member, WriteRequest { scope, op })
    }
}

fn index(entry: EntryId) -> usize {
    usize::try_from(entry.0).expect("entries start at 0")
}
