//! The whole system as one state, and what may happen next.

use geminga_bookie::ledger::{Identity, Mutations as BookieMutations};
use geminga_ledger::core::mutation::Mutations as ClientMutations;
use geminga_ledger::core::recovery::{CasResult, Effect, Event, Finish};
use geminga_ledger::core::writer::Event as WriterEvent;
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerMeta, LedgerState};
use geminga_proto::bookie::{WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, Member, SealEpoch};
use stateright::{Model, Property};

use crate::bookie::{Ask, Bookie, Caller, Replies};
use crate::metadata::Metadata;
use crate::properties;
use crate::recoverer::RecovererNode;
use crate::writer::{CLUSTER, LEDGER, Requests, WriterNode};

/// How big the system is, and which rules are broken.
#[derive(Debug, Clone)]
pub struct Size {
    /// Write quorum, which is the size of the ensemble.
    pub qw: u8,
    /// Ack quorum.
    pub qa: u8,
    /// Bookies, spares included.
    pub bookies: usize,
    /// Entries that the writer appends.
    pub entries: usize,
    /// Recoverers that may start.
    pub recoverers: usize,
    /// Bookie crashes that may happen.
    pub crashes: u8,
    /// Replies of an applied compare-and-swap that may get lost.
    pub lost_replies: u8,
    /// Rules broken at bookies.
    pub bookie_mutations: BookieMutations,
    /// Rules broken at clients.
    pub client_mutations: ClientMutations,
}

impl Size {
    /// Size 1 of protocol 8.3.
    pub fn smallest() -> Self {
        Self {
            qw: 2,
            qa: 2,
            bookies: 3,
            entries: 2,
            recoverers: 1,
            crashes: 1,
            lost_replies: 1,
            bookie_mutations: BookieMutations::default(),
            client_mutations: ClientMutations::default(),
        }
    }
}

/// The writer's number among clients; recoverers follow.
const WRITER: usize = 0;

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub(crate) metadata: Metadata,
    pub(crate) writer: WriterNode,
    pub(crate) recoverers: Vec<Option<RecovererNode>>,
    pub(crate) bookies: Vec<Bookie>,
    /// Requests in flight, by client and bookie, in the order sent.
    requests: Vec<Vec<Vec<WriteRequest>>>,
    /// Replies in flight, by client and bookie, in the order sent.
    replies: Vec<Vec<Vec<(Ask, WriteReply)>>>,
    crashes_left: u8,
    lost_replies_left: u8,
}

/// What may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The writer appends an entry.
    Append,
    /// The writer is asked to close.
    Close,
    /// The writer's close reaches the register.
    CommitClose,
    /// A recoverer starts.
    Recover(usize),
    /// A recoverer's next call is made; its reply may get lost.
    Call {
        /// Which recoverer.
        recoverer: usize,
        /// Whether the reply of an applied change is lost.
        lose_reply: bool,
    },
    /// A recoverer stops waiting for late seal replies.
    GraceOver(usize),
    /// The oldest request from a client reaches a bookie.
    Request(usize, usize),
    /// The oldest reply from a bookie reaches a client.
    Reply(usize, usize),
    /// A bookie's metadata check comes back.
    FinishCheck(usize),
    /// A bookie's log becomes durable.
    Sync(usize),
    /// A bookie loses power and comes back.
    Crash(usize),
}

fn member(bookie: usize) -> Member {
    let name = format!("b{bookie}").parse().expect("a plain name");
    Member { bookie: name, incarnation: Incarnation(bookie as u64 + 1) }
}

fn open_ledger(size: &Size) -> LedgerMeta {
    LedgerMeta {
        id: LEDGER,
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: size.qw,
        qa: size.qa,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: (0..usize::from(size.qw)).map(member).collect(),
        }],
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

impl World {
    fn new(size: &Size) -> Self {
        let meta = open_ledger(size);
        let (writer, requests) = WriterNode::new(&meta);
        let identity = |bookie| Identity {
            cluster: ClusterUuid::from_random(CLUSTER),
            member: member(bookie),
            authoritative: true,
            writable: true,
            mutations: size.bookie_mutations,
        };
        let clients = 1 + size.recoverers;
        let mut world = Self {
            metadata: Metadata::new(meta),
            writer,
            recoverers: vec![None; size.recoverers],
            bookies: (0..size.bookies).map(|b| Bookie::new(identity(b), LEDGER)).collect(),
            requests: vec![vec![Vec::new(); size.bookies]; clients],
            replies: vec![vec![Vec::new(); size.bookies]; clients],
            crashes_left: size.crashes,
            lost_replies_left: size.lost_replies,
        };
        world.send(WRITER, requests);
        world
    }

    fn send(&mut self, client: usize, requests: Requests) {
        for (to, request) in requests {
            self.requests[client][number(&to)].push(request);
        }
    }

    fn answer(&mut self, bookie: usize, replies: Replies) {
        for (Caller { client, ask }, reply) in replies {
            self.replies[client][bookie].push((ask, reply));
        }
    }

    fn deliver_reply(&mut self, client: usize, bookie: usize) {
        let (ask, reply) = self.replies[client][bookie].remove(0);
        let requests = match client {
            WRITER => self.writer.receive(member(bookie), ask, &reply),
            _ => match &mut self.recoverers[client - 1] {
                Some(recoverer) => recoverer.receive(&member(bookie), ask, &reply),
                None => Vec::new(),
            },
        };
        self.send(client, requests);
    }

    /// Every connection of the bookie breaks with it; clients connect again and repeat what was not answered.
    fn crash(&mut self, bookie: usize) {
        self.crashes_left -= 1;
        self.bookies[bookie].crash();
        for client in 0..self.requests.len() {
            self.requests[client][bookie].clear();
            self.replies[client][bookie].clear();
        }
        let requests = self.writer.step(WriterEvent::Disconnected { member: member(bookie) });
        self.send(WRITER, requests);
        for index in 0..self.recoverers.len() {
            if let Some(recoverer) = &self.recoverers[index] {
                let again = recoverer.reconnected(&member(bookie));
                self.requests[index + 1][bookie].extend(again);
            }
        }
    }

    fn commit_close(&mut self) {
        let last = self.writer.closing.take().expect("only enabled while closing");
        let mut meta = self.metadata.meta.clone();
        let open = meta.state == LedgerState::Open;
        meta.state = LedgerState::Closed;
        meta.last_entry = Some(last);
        let result =
            if open { self.metadata.cas(self.metadata.version, meta) } else { CasResult::Lost };
        let event = match result {
            CasResult::Applied(_) => WriterEvent::CloseCommitted,
            CasResult::Lost | CasResult::Unknown => WriterEvent::Deposed,
        };
        let requests = self.writer.step(event);
        self.send(WRITER, requests);
    }

    fn call(&mut self, index: usize, lose_reply: bool) {
        let Some(recoverer) = &mut self.recoverers[index] else { return };
        let requests = match recoverer.calls.remove(0) {
            Effect::ReadMeta => {
                let read = (self.metadata.meta.clone(), self.metadata.version);
                recoverer.step(Event::meta_read(Some(read)))
            }
            Effect::Cas { expected, meta } => {
                let result = self.metadata.cas(expected, *meta);
                let lost = lose_reply && matches!(result, CasResult::Applied(_));
                self.lost_replies_left -= u8::from(lost);
                recoverer.step(Event::CasDone(if lost { CasResult::Unknown } else { result }))
            }
            Effect::Copy { source, target, first, last, .. } => {
                let from = recoverer.member(source).expect("copying follows sealing");
                let bookie = &self.bookies[number(&from)];
                let read = (first.0..=last.0).map(|e| bookie.stored(EntryId(e)).cloned()).collect();
                match read {
                    Some(entries) => recoverer.copy(target, first, entries),
                    None => recoverer.step(Event::SourceFailed {
                        source,
                        target,
                        entry: first,
                        corrupt: false,
                    }),
                }
            }
            Effect::ReadLength(_) => recoverer.step(Event::LengthRead(0)),
            Effect::Seal { .. }
            | Effect::StartDeadline
            | Effect::StartGrace
            | Effect::Search { .. }
            | Effect::TellClosed { .. }
            | Effect::MarkUnder(_)
            | Effect::Finish(_) => Vec::new(),
        };
        self.send(index + 1, requests);
    }

    /// The recoverers that ended with a closed ledger.
    pub(crate) fn closed_by_recoverers(&self) -> usize {
        let closed = |r: &&Option<RecovererNode>| {
            r.as_ref().is_some_and(|r| matches!(r.finish, Some(Finish::Closed(_))))
        };
        self.recoverers.iter().filter(closed).count()
    }

    pub(crate) fn bookie(&self, member: &Member) -> &Bookie {
        &self.bookies[number(member)]
    }
}

/// The model's bookies are numbered by their incarnation.
fn number(member: &Member) -> usize {
    usize::try_from(member.incarnation.0).expect("small") - 1
}

impl Model for Size {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.writer.written() < self.entries {
            actions.push(Action::Append);
        }
        if world.writer.written() == self.entries
            && world.writer.closing.is_none()
            && world.writer.told.is_none()
        {
            actions.push(Action::Close);
        }
        if world.writer.closing.is_some() {
            actions.push(Action::CommitClose);
        }
        for (index, recoverer) in world.recoverers.iter().enumerate() {
            match recoverer {
                // Recoverers are alike: the second starts only after the first.
                None if index == 0 || world.recoverers[index - 1].is_some() => {
                    actions.push(Action::Recover(index))
                }
                None => {}
                Some(recoverer) => {
                    if let Some(call) = recoverer.calls.first() {
                        actions.push(Action::Call { recoverer: index, lose_reply: false });
                        if matches!(call, Effect::Cas { .. }) && world.lost_replies_left > 0 {
                            actions.push(Action::Call { recoverer: index, lose_reply: true });
                        }
                    }
                    if recoverer.grace {
                        actions.push(Action::GraceOver(index));
                    }
                }
            }
        }
        for client in 0..world.requests.len() {
            for bookie in 0..world.bookies.len() {
                if !world.requests[client][bookie].is_empty() {
                    actions.push(Action::Request(client, bookie));
                }
                if !world.replies[client][bookie].is_empty() {
                    actions.push(Action::Reply(client, bookie));
                }
            }
        }
        for (index, bookie) in world.bookies.iter().enumerate() {
            if bookie.has_check() {
                actions.push(Action::FinishCheck(index));
            }
            if bookie.can_sync() {
                actions.push(Action::Sync(index));
            }
            if world.crashes_left > 0 {
                actions.push(Action::Crash(index));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        match action {
            Action::Append => {
                let requests = world.writer.append();
                world.send(WRITER, requests);
            }
            Action::Close => {
                let requests = world.writer.step(WriterEvent::Close);
                world.send(WRITER, requests);
            }
            Action::CommitClose => world.commit_close(),
            Action::Recover(index) => {
                let node = RecovererNode::start(index as u128 + 1, self.client_mutations);
                world.recoverers[index] = Some(node);
            }
            Action::Call { recoverer, lose_reply } => world.call(recoverer, lose_reply),
            Action::GraceOver(index) => {
                if let Some(recoverer) = &mut world.recoverers[index] {
                    recoverer.grace = false;
                    let requests = recoverer.step(Event::GraceOver);
                    world.send(index + 1, requests);
                }
            }
            Action::Request(client, bookie) => {
                let request = world.requests[client][bookie].remove(0);
                let replies = world.bookies[bookie].receive(client, request, &world.metadata.meta);
                world.answer(bookie, replies);
            }
            Action::Reply(client, bookie) => world.deliver_reply(client, bookie),
            Action::FinishCheck(bookie) => {
                let replies = world.bookies[bookie].finish_check(&world.metadata.meta);
                world.answer(bookie, replies);
            }
            Action::Sync(bookie) => {
                let replies = world.bookies[bookie].sync();
                world.answer(bookie, replies);
            }
            Action::Crash(bookie) => world.crash(bookie),
        }
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
