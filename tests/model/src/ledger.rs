//! One ledger: its register, its clients, its part of each bookie, and what is on the wire between them.

use geminga_bookie::ledger::Identity;
use geminga_ledger::core::recovery::{CasResult, Effect, Event};
use geminga_ledger::core::writer::{Event as WriterEvent, Phase};
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerMeta, LedgerState};
use geminga_proto::bookie::{WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch};

use crate::bookie::{Ask, Bookie, Caller, Replies};
use crate::metadata::Metadata;
use crate::recoverer::RecovererNode;
use crate::size::Size;
use crate::writer::{CLUSTER, Requests, WriterNode};

/// The writer's number among clients; recoverers follow.
pub(crate) const WRITER: usize = 0;

/// A ledger and everybody who has to do with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    id: LedgerId,
    pub(crate) metadata: Metadata,
    pub(crate) writer: Option<WriterNode>,
    pub(crate) recoverers: Vec<RecovererNode>,
    pub(crate) bookies: Vec<Bookie>,
    /// Requests in flight, by client and bookie, in the order sent.
    pub(crate) requests: Vec<Vec<Vec<WriteRequest>>>,
    /// Replies in flight, by client and bookie, in the order sent, with the life that was asked.
    pub(crate) replies: Vec<Vec<Vec<(Ask, Incarnation, WriteReply)>>>,
    slow_bookies: bool,
}

pub(crate) fn member(bookie: usize, life: u64) -> Member {
    let name = format!("b{bookie}").parse().expect("a plain name");
    Member { bookie: name, incarnation: Incarnation(100 * life + bookie as u64 + 1) }
}

/// The model's bookies are numbered by their names.
pub(crate) fn number(member: &Member) -> usize {
    member.bookie.as_str()[1..].parse().expect("the model names bookies by number")
}

fn open_ledger(size: &Size, index: usize, lives: &[u64]) -> LedgerMeta {
    let count = lives.len();
    let at = |place: usize| (place + index) % count;
    let ensemble = (0..usize::from(size.qw)).map(|p| member(at(p), lives[at(p)])).collect();
    LedgerMeta {
        id: LedgerId(index as u64 + 1),
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: size.qw,
        qa: size.qa,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: None,
        length: 0,
        entries_crc: None,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

impl Ledger {
    /// A ledger that is not there yet.
    pub(crate) fn new(size: &Size, index: usize) -> Self {
        let id = LedgerId(index as u64 + 1);
        let identity = |bookie| Identity {
            cluster: ClusterUuid::from_random(CLUSTER),
            member: member(bookie, 0),
            authoritative: true,
            writable: true,
            mutations: size.bookie_mutations,
        };
        let clients = 1 + size.recoverers;
        Self {
            id,
            metadata: Metadata::absent(),
            writer: None,
            recoverers: Vec::new(),
            bookies: (0..size.bookies).map(|b| Bookie::new(identity(b), id)).collect(),
            requests: vec![vec![Vec::new(); size.bookies]; clients],
            replies: vec![vec![Vec::new(); size.bookies]; clients],
            slow_bookies: size.slow_bookies,
        }
    }

    /// Puts it into the metadata, as the first transaction or with the close of the one before.
    pub(crate) fn create(&mut self, size: &Size, index: usize, lives: &[u64]) {
        self.metadata.create(open_ledger(size, index, lives));
    }

    /// Its creator begins to write, if it finds it as it made it.
    pub(crate) fn start_writer(&mut self, size: &Size) {
        let Some((meta, version)) = self.metadata.read() else { return };
        if meta.state != LedgerState::Open || self.writer.is_some() {
            return;
        }
        let (writer, requests) = WriterNode::new(&meta, version, size.client_mutations);
        self.writer = Some(writer);
        self.send(WRITER, requests);
        while !size.hellos
            && let Some(bookie) = (0..self.bookies.len()).find(|b| self.is_talking(*b))
        {
            if self.replies[WRITER][bookie].is_empty() {
                self.deliver_request(WRITER, bookie);
            } else {
                self.deliver_reply(WRITER, bookie);
            }
        }
    }

    fn is_talking(&self, bookie: usize) -> bool {
        !self.requests[WRITER][bookie].is_empty() || !self.replies[WRITER][bookie].is_empty()
    }

    pub(crate) fn send(&mut self, client: usize, requests: Requests) {
        for (to, request) in requests {
            self.requests[client][number(&to)].push(request);
        }
        if self.is_over(client) {
            self.replies[client].iter_mut().for_each(Vec::clear);
        }
    }

    /// Whether a client does nothing any more, whatever it hears.
    fn is_over(&self, client: usize) -> bool {
        match client {
            WRITER => {
                let phase = self.writer.as_ref().map(WriterNode::phase);
                matches!(phase, Some(Phase::Dead | Phase::Closed))
            }
            _ => self.recoverers.get(client - 1).is_some_and(|r| r.finish.is_some()),
        }
    }

    fn answer(&mut self, bookie: usize, replies: Replies) {
        for (Caller { client, ask, incarnation, .. }, reply) in replies {
            if !self.is_over(client) {
                self.replies[client][bookie].push((ask, incarnation, reply));
            }
        }
    }

    pub(crate) fn deliver_request(&mut self, client: usize, bookie: usize) {
        let request = self.requests[client][bookie].remove(0);
        let meta = self.metadata.meta.as_ref();
        let mut replies = self.bookies[bookie].receive(client, request, meta);
        while !self.slow_bookies && self.bookies[bookie].has_check() {
            replies.extend(self.bookies[bookie].finish_check(meta));
        }
        if !self.slow_bookies && self.bookies[bookie].can_sync() {
            replies.extend(self.bookies[bookie].sync());
        }
        self.answer(bookie, replies);
    }

    pub(crate) fn finish_check(&mut self, bookie: usize) {
        let replies = self.bookies[bookie].finish_check(self.metadata.meta.as_ref());
        self.answer(bookie, replies);
    }

    pub(crate) fn sync(&mut self, bookie: usize) {
        let replies = self.bookies[bookie].sync();
        self.answer(bookie, replies);
    }

    pub(crate) fn deliver_reply(&mut self, client: usize, bookie: usize) {
        let (ask, incarnation, reply) = self.replies[client][bookie].remove(0);
        let from = Member { incarnation, ..member(bookie, 0) };
        let requests = match client {
            WRITER => self.writer.as_mut().map(|writer| writer.receive(from, ask, &reply)),
            _ => self.recoverers.get_mut(client - 1).map(|r| r.receive(&from, ask, &reply)),
        };
        self.send(client, requests.unwrap_or_default());
    }

    pub(crate) fn writer_step(&mut self, event: WriterEvent) {
        if let Some(writer) = &mut self.writer {
            let requests = writer.step(event);
            self.send(WRITER, requests);
        }
    }

    /// Every connection of the bookie breaks; clients connect again and repeat what was not answered.
    pub(crate) fn disconnect(&mut self, bookie: usize) {
        for client in 0..self.requests.len() {
            self.requests[client][bookie].clear();
            self.replies[client][bookie].clear();
        }
        let positions = self.writer.as_ref().map(WriterNode::members).unwrap_or_default();
        if let Some(member) = positions.into_iter().find(|m| number(m) == bookie) {
            self.writer_step(WriterEvent::Disconnected { member });
        }
        for (index, recoverer) in self.recoverers.iter().enumerate() {
            let again = recoverer.reconnected(&member(bookie, 0).bookie);
            self.requests[index + 1][bookie].extend(again);
        }
    }

    /// The writer's swap is made; returns whether it closed the ledger.
    pub(crate) fn swap(&mut self, lose_reply: bool) -> (bool, bool) {
        let Some(writer) = &mut self.writer else { return (false, false) };
        let Some((expected, meta)) = writer.swap() else { return (false, false) };
        let result = self.metadata.cas(expected, meta);
        let applied = matches!(result, CasResult::Applied(_));
        let lost = lose_reply && applied;
        let closed = applied && writer.closes;
        let told = if lost { CasResult::Unknown } else { result };
        let requests = writer.swapped(told, self.metadata.read());
        self.send(WRITER, requests);
        (closed, lost)
    }

    /// The next call of a recoverer is made; returns whether a reply was lost.
    pub(crate) fn call(&mut self, index: usize, lose_reply: bool, candidates: &[Member]) -> bool {
        let recoverer = &mut self.recoverers[index];
        let mut lost = false;
        let requests = match recoverer.calls.remove(0) {
            Effect::ReadMeta => recoverer.step(Event::meta_read(self.metadata.read())),
            Effect::Cas { expected, meta } => {
                let result = self.metadata.cas(expected, *meta);
                lost = lose_reply && matches!(result, CasResult::Applied(_));
                recoverer.step(Event::CasDone(if lost { CasResult::Unknown } else { result }))
            }
            Effect::Copy { source, target, to, fragment_first, first, last } => {
                let from = recoverer.member(source).expect("copying follows sealing");
                let bookie = &self.bookies[number(&from)];
                let alive = *bookie.member() == from;
                let read = (first.0..=last.0).map(|e| bookie.stored(EntryId(e)).cloned()).collect();
                match read {
                    Some(entries) if alive => {
                        recoverer.copy((target, to), fragment_first, first, entries)
                    }
                    _ => recoverer.step(Event::SourceFailed {
                        source,
                        target,
                        entry: first,
                        corrupt: false,
                    }),
                }
            }
            Effect::Search { lost, shunned } => recoverer.find(&lost, &shunned, candidates),
            Effect::ReadLength(_) => recoverer.step(Event::LengthRead(0)),
            Effect::Seal { .. }
            | Effect::StartDeadline
            | Effect::StartGrace
            | Effect::TellClosed { .. }
            | Effect::MarkUnder(_)
            | Effect::Finish(_) => Vec::new(),
        };
        self.send(index + 1, requests);
        lost
    }

    pub(crate) fn recover(&mut self, size: &Size) {
        let number = self.recoverers.len() as u128 + 1;
        let node = RecovererNode::start(self.id, number, size.client_mutations);
        self.recoverers.push(node);
    }

    pub(crate) fn grace_over(&mut self, index: usize) {
        let recoverer = &mut self.recoverers[index];
        recoverer.grace = false;
        let requests = recoverer.step(Event::GraceOver);
        self.send(index + 1, requests);
    }
}
