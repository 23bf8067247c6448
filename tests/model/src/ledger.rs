//! One ledger: its register, its clients, its part of each bookie, and what is on the wire between them.

use std::hash::{DefaultHasher, Hasher};

use geminga_bookie::ledger::Identity;
use geminga_ledger::core::recovery::{CasResult, Effect, Event};
use geminga_ledger::core::writer::Event as WriterEvent;
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier};
use geminga_proto::bookie::{Class, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch};

use crate::bookie::{Ask, Bookie, Caller, Replies};
use crate::metadata::Metadata;
use crate::part::{Keep, Part, Shelf};
use crate::recoverer::{RecovererNode, Recovering};
use crate::size::Size;
use crate::symmetry::MAX_BOOKIES;
use crate::writer::{CLUSTER, Requests, WriterNode, Writing};

/// The writer's number among clients; recoverers follow.
pub(crate) const WRITER: usize = 0;

/// Recoverers of one ledger, at most.
pub(crate) const MAX_RECOVERERS: usize = 2;
const MAX_CLIENTS: usize = 1 + MAX_RECOVERERS;

/// A ledger and everybody who has to do with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    id: LedgerId,
    pub(crate) metadata: Part<Metadata>,
    pub(crate) writer: Part<Writing>,
    pub(crate) recoverers: [Part<Recovering>; MAX_RECOVERERS],
    pub(crate) bookies: [Part<Bookie>; MAX_BOOKIES],
    /// Requests in flight, by client and bookie, in the order sent.
    requests: [[Part<Asked>; MAX_BOOKIES]; MAX_CLIENTS],
    /// Replies in flight, by client and bookie, in the order sent.
    replies: [[Part<Answered>; MAX_BOOKIES]; MAX_CLIENTS],
    /// What the writer has acknowledged once it has heard everything that is in flight to it: follows from the rest.
    due: EntryId,
}

/// Requests of one client to one bookie.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Asked(Vec<WriteRequest>);

/// Replies of one bookie to one client, with the life that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Answered(Vec<(Ask, Incarnation, WriteReply)>);

impl Keep for Asked {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Asked> = Shelf::new();
        &SHELF
    }
}

impl Keep for Answered {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Answered> = Shelf::new();
        &SHELF
    }
}

pub(crate) fn member(bookie: usize, life: u64) -> Member {
    let name = format!("b{bookie}").parse().expect("a plain name");
    Member { bookie: name, incarnation: Incarnation(life + 1) }
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
        tier: Tier::Local,
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
    pub(crate) fn new(index: usize) -> Self {
        let id = LedgerId(index as u64 + 1);
        Self {
            id,
            metadata: Part::of(Metadata::absent()),
            writer: Part::of(Writing::No),
            recoverers: [Part::of(Recovering::No); MAX_RECOVERERS],
            bookies: [Part::of(Bookie::new(0, id)); MAX_BOOKIES],
            requests: [[Part::of(Asked::default()); MAX_BOOKIES]; MAX_CLIENTS],
            replies: [[Part::of(Answered::default()); MAX_BOOKIES]; MAX_CLIENTS],
            due: EntryId::NONE,
        }
    }

    /// What stands at a bookie, by hash, whatever its name.
    pub(crate) fn place(&self, bookie: usize) -> u64 {
        let requests = self.requests.iter().map(|to| to[bookie].hash());
        let replies = self.replies.iter().map(|from| from[bookie].hash());
        let mut hasher = DefaultHasher::new();
        let hashes = requests.chain(replies).chain([self.bookies[bookie].hash()]);
        hashes.for_each(|hash| hasher.write_u64(hash));
        hasher.finish()
    }

    /// What names bookies, by hash under one way to name them.
    pub(crate) fn named(&self, bookies: usize, names: usize) -> impl Iterator<Item = u64> {
        let clients = self.recoverers.iter().map(move |r| r.hashes(bookies)[names]);
        clients.chain([
            self.metadata.hashes(bookies)[names],
            self.writer.hashes(bookies)[names],
            self.id.0,
        ])
    }

    /// Puts it into the metadata, as the first transaction or with the close of the one before.
    pub(crate) fn create(&mut self, size: &Size, index: usize, lives: &[u64]) {
        self.metadata.with(|metadata| metadata.create(open_ledger(size, index, lives)));
    }

    /// Its creator begins to write, if it finds it as it made it.
    pub(crate) fn start_writer(&mut self, size: &Size) {
        let Some((meta, version)) = self.metadata.read() else { return };
        if meta.state != LedgerState::Open || *self.writer != Writing::No {
            return;
        }
        let (writer, requests) = WriterNode::new(&meta, version, size.client_mutations);
        self.writer = Part::of(Writing::Now(Box::new(writer)));
        self.send(WRITER, requests);
        while !size.hellos
            && let Some(bookie) = (0..size.bookies).find(|b| self.is_talking(*b))
        {
            if self.replies[WRITER][bookie].0.is_empty() {
                self.deliver_request(size, WRITER, bookie);
                self.finish_check(size, bookie);
                self.sync(bookie);
            } else {
                self.deliver_reply(WRITER, bookie);
            }
        }
    }

    fn is_talking(&self, bookie: usize) -> bool {
        self.has_request(WRITER, bookie) || self.has_reply(WRITER, bookie)
    }

    pub(crate) fn has_request(&self, client: usize, bookie: usize) -> bool {
        !self.requests[client][bookie].0.is_empty()
    }

    /// Whether a request may reach its ledger: while a metadata check is under way only seals go ahead, as in production.
    pub(crate) fn takes_request(&self, client: usize, bookie: usize) -> bool {
        let next = self.requests[client][bookie].0.first();
        let waits = self.bookies[bookie].has_check();
        next.is_some_and(|request| !waits || matches!(request.op, WriteOp::Seal))
    }

    pub(crate) fn has_reply(&self, client: usize, bookie: usize) -> bool {
        !self.replies[client][bookie].0.is_empty()
    }

    /// The clients of this size, the writer first.
    pub(crate) fn clients(size: &Size) -> std::ops::Range<usize> {
        0..1 + size.recoverers
    }

    fn send(&mut self, client: usize, requests: Requests) {
        for (to, request) in requests {
            self.requests[client][number(&to)].with(|asked| asked.0.push(request));
        }
    }

    /// Whether a client does nothing any more, whatever it hears.
    pub(crate) fn is_over(&self, client: usize) -> bool {
        match client {
            WRITER => self.writer.is_over(),
            _ => self.recoverers[client - 1].is_over(),
        }
    }

    fn answer(&mut self, bookie: usize, replies: Replies) {
        for (Caller { client, ask, incarnation, .. }, mut reply) in replies {
            if !self.is_over(client) {
                // For people.
                reply.detail.clear();
                self.replies[client][bookie].with(|to| to.0.push((ask, incarnation, reply)));
            }
        }
    }

    fn identity(&self, size: &Size, bookie: usize) -> Identity {
        Identity {
            cluster: ClusterUuid::from_random(CLUSTER),
            member: member(bookie, self.bookies[bookie].life),
            authoritative: true,
            writable: true,
            mutations: size.bookie_mutations,
        }
    }

    pub(crate) fn deliver_request(&mut self, size: &Size, client: usize, bookie: usize) {
        let request = self.requests[client][bookie].with(|asked| asked.0.remove(0));
        let (me, metadata) = (self.identity(size, bookie), self.metadata);
        let meta = metadata.meta.as_ref();
        let replies = self.bookies[bookie].with(|b| b.receive(&me, client, request, meta));
        self.answer(bookie, replies);
    }

    /// The metadata checks of a bookie come back.
    pub(crate) fn finish_check(&mut self, size: &Size, bookie: usize) {
        while self.bookies[bookie].has_check() {
            self.finish_one_check(size, bookie);
        }
    }

    /// The oldest metadata check of a bookie comes back.
    pub(crate) fn finish_one_check(&mut self, size: &Size, bookie: usize) {
        let (me, metadata) = (self.identity(size, bookie), self.metadata);
        let meta = metadata.meta.as_ref();
        let replies = self.bookies[bookie].with(|bookie| bookie.finish_check(&me, meta));
        self.answer(bookie, replies);
    }

    /// Whether anything at a bookie waits for its log, now or once its metadata check is back.
    pub(crate) fn has_unsynced(&mut self, size: &Size, bookie: usize) -> bool {
        if !size.slow_checks {
            self.finish_check(size, bookie);
        }
        self.bookies[bookie].can_sync() || self.bookies[bookie].has_check()
    }

    /// Clients that are over hear nothing.
    pub(crate) fn silence(&mut self, size: &Size) {
        for client in Self::clients(size).filter(|client| self.is_over(*client)).collect::<Vec<_>>()
        {
            self.clear_replies(client);
        }
    }

    pub(crate) fn sync(&mut self, bookie: usize) {
        if !self.bookies[bookie].can_sync() {
            return;
        }
        let replies = self.bookies[bookie].with(Bookie::sync);
        self.answer(bookie, replies);
    }

    pub(crate) fn deliver_reply(&mut self, client: usize, bookie: usize) {
        let (ask, incarnation, reply) =
            self.replies[client][bookie].with(|answered| answered.0.remove(0));
        let from = Member { incarnation, ..member(bookie, 0) };
        let requests = match client {
            WRITER => self.with_writer(|writer| writer.receive(from, ask, &reply)),
            _ => self.with_recoverer(client - 1, |r| r.receive(&from, ask, &reply)),
        };
        self.send(client, requests);
    }

    /// The kind of the request that the next reply answers, if it is positive.
    fn next_success(&self, client: usize, bookie: usize) -> Option<(Ask, EntryId)> {
        let (ask, _, reply) = self.replies[client][bookie].0.first()?;
        (reply.code.class() == Class::Positive).then_some((*ask, reply.durable_tail))
    }

    /// Whether a reply waits until its client has a use for it (see `reduce`).
    pub(crate) fn waits_for_use(&self, size: &Size, client: usize, bookie: usize) -> bool {
        match (client, self.next_success(client, bookie)) {
            (WRITER, Some((Ask::Add, _))) => size.hears_acks_late(),
            (WRITER, _) | (_, None) => false,
            (_, Some((ask, _))) => {
                let seals = self.recoverers[client - 1].node().is_some_and(RecovererNode::seals);
                ask == Ask::Seal && seals && size.hears_seals_late()
            }
        }
    }

    /// The writer hears of every ack up to an entry, where they wait for it.
    pub(crate) fn hear_acks(&mut self, size: &Size, upto: EntryId) {
        if !size.hears_acks_late() {
            return;
        }
        for bookie in 0..MAX_BOOKIES {
            let heard = |next| matches!(next, Some((Ask::Add, tail)) if tail <= upto);
            while heard(self.next_success(WRITER, bookie)) {
                self.deliver_reply(WRITER, bookie);
            }
        }
    }

    /// What the writer has acknowledged, or will have without anything else happening.
    pub(crate) fn acked(&self) -> EntryId {
        self.due
    }

    /// Finds out what the writer will have acknowledged.
    pub(crate) fn find_due(&mut self, size: &Size) {
        let mut heard = self.clone();
        if !self.writer.is_over() {
            heard.hear_acks(size, EntryId(i64::MAX));
        }
        self.due = heard.writer.said().acked;
    }

    /// Who has answered the seal of a recoverer that waits for seals: in each choice of these it fixes the end.
    pub(crate) fn ends_to_fix(&self, size: &Size, recoverer: usize) -> Vec<Vec<usize>> {
        let client = recoverer + 1;
        let waiting = (0..size.bookies).filter(|b| self.waits_for_use(size, client, *b));
        let waiting: Vec<usize> = waiting.collect();
        let choices = (1..1usize << waiting.len()).map(|choice| {
            let chosen = waiting.iter().enumerate().filter(|(at, _)| choice >> at & 1 == 1);
            chosen.map(|(_, bookie)| *bookie).collect::<Vec<_>>()
        });
        choices.filter(|heard| self.clone().fix_end(recoverer, heard)).collect()
    }

    /// A recoverer hears of these seals, and waits for no other; returns whether it may.
    pub(crate) fn fix_end(&mut self, recoverer: usize, heard: &[usize]) -> bool {
        for bookie in heard {
            self.deliver_reply(recoverer + 1, *bookie);
        }
        if self.recoverers[recoverer].node().is_some_and(|r| r.grace) {
            self.grace_over(recoverer);
        }
        !self.recoverers[recoverer].node().is_some_and(RecovererNode::seals)
    }

    /// A recoverer stops waiting for late seal replies.
    pub(crate) fn grace_over(&mut self, recoverer: usize) {
        self.recover(recoverer, |recoverer| {
            recoverer.grace = false;
            recoverer.step(Event::GraceOver)
        });
    }

    fn with_writer(&mut self, step: impl FnOnce(&mut WriterNode) -> Requests) -> Requests {
        self.writer.with(|writer| writer.node_mut().map(step).unwrap_or_default())
    }

    fn with_recoverer(
        &mut self,
        index: usize,
        step: impl FnOnce(&mut RecovererNode) -> Requests,
    ) -> Requests {
        self.recoverers[index].with(|r| r.node_mut().map(step).unwrap_or_default())
    }

    /// The writer does something on its own.
    pub(crate) fn write(&mut self, step: impl FnOnce(&mut WriterNode) -> Requests) {
        let requests = self.with_writer(step);
        self.send(WRITER, requests);
    }

    /// A recoverer does something on its own.
    pub(crate) fn recover(
        &mut self,
        index: usize,
        step: impl FnOnce(&mut RecovererNode) -> Requests,
    ) {
        let requests = self.with_recoverer(index, step);
        self.send(index + 1, requests);
    }

    /// Every connection of the bookie breaks; clients connect again and repeat what was not answered.
    pub(crate) fn disconnect(&mut self, bookie: usize) {
        for client in 0..MAX_CLIENTS {
            self.requests[client][bookie] = Part::of(Asked::default());
            self.replies[client][bookie] = Part::of(Answered::default());
        }
        let positions = self.writer.node().map(WriterNode::members).unwrap_or_default();
        if let Some(member) = positions.into_iter().find(|m| number(m) == bookie) {
            self.write(|writer| writer.step(WriterEvent::Disconnected { member }));
        }
        for index in 0..MAX_RECOVERERS {
            let again =
                self.recoverers[index].node().map(|r| r.reconnected(&member(bookie, 0).bookie));
            for request in again.unwrap_or_default() {
                self.requests[index + 1][bookie].with(|asked| asked.0.push(request));
            }
        }
    }

    /// A recoverer sends again what this bookie did not answer yet.
    pub(crate) fn resend(&mut self, recoverer: usize, bookie: usize) {
        let asked =
            self.recoverers[recoverer].node().map(|r| r.reconnected(&member(bookie, 0).bookie));
        self.requests[recoverer + 1][bookie].with(|to| to.0.extend(asked.unwrap_or_default()));
    }

    /// The writer's swap is made; returns whether it closed the ledger, and whether its reply was lost.
    pub(crate) fn swap(&mut self, lose_reply: bool) -> (bool, bool) {
        let Some(writer) = self.writer.node() else { return (false, false) };
        let Some((expected, meta)) = writer.swap() else { return (false, false) };
        let closes = writer.closes;
        let result = self.metadata.with(|metadata| metadata.cas(expected, meta));
        let applied = matches!(result, CasResult::Applied(_));
        let lost = lose_reply && applied;
        let told = if lost { CasResult::Unknown } else { result };
        let metadata = self.metadata;
        self.write(|writer| writer.swapped(told, metadata.read()));
        (applied && closes, lost)
    }

    /// The next call of a recoverer is made; returns whether a reply was lost.
    pub(crate) fn call(&mut self, index: usize, lose_reply: bool, candidates: &[Member]) -> bool {
        let Some(call) = self.recoverers[index].node().and_then(|r| r.calls.first().cloned())
        else {
            return false;
        };
        let mut lost = false;
        let metadata = self.metadata;
        let event = match call {
            Effect::ReadMeta => Event::meta_read(metadata.read()),
            Effect::Cas { expected, meta } => {
                let result = self.metadata.with(|metadata| metadata.cas(expected, *meta));
                lost = lose_reply && matches!(result, CasResult::Applied(_));
                Event::CasDone(if lost { CasResult::Unknown } else { result })
            }
            Effect::Copy { from, target, to, fragment_first, first, last } => {
                let bookie = self.bookies[number(&from)];
                let alive = member(number(&from), bookie.life) == from;
                let read = (first.0..=last.0).map(|e| bookie.stored(EntryId(e)).cloned()).collect();
                match read {
                    Some(entries) if alive => {
                        return self.recover_call(index, |recoverer| {
                            recoverer.copy((target, to), fragment_first, first, entries)
                        });
                    }
                    _ => Event::SourceFailed { from, target, entry: first, corrupt: false },
                }
            }
            Effect::Search { lost, shunned } => {
                return self
                    .recover_call(index, |recoverer| recoverer.find(&lost, &shunned, candidates));
            }
            Effect::StartPause => Event::PauseOver,
            Effect::ReadLength(_) => Event::LengthRead(0),
            Effect::Seal { .. }
            | Effect::StartDeadline
            | Effect::StartGrace
            | Effect::StartCopyGrace
            | Effect::TellClosed { .. }
            | Effect::MarkUnder(_)
            | Effect::FindEnd(_)
            | Effect::Finish(_) => unreachable!("no calls"),
        };
        self.recover_call(index, |recoverer| recoverer.step(event));
        lost
    }

    fn recover_call(
        &mut self,
        index: usize,
        step: impl FnOnce(&mut RecovererNode) -> Requests,
    ) -> bool {
        self.recover(index, |recoverer| {
            recoverer.calls.remove(0);
            step(recoverer)
        });
        false
    }

    /// What kind of reply waits for a client.
    pub(crate) fn next_reply(&self, client: usize, bookie: usize) -> Option<Class> {
        self.replies[client][bookie].0.first().map(|(.., reply)| reply.code.class())
    }

    /// The kind of the reply that a client has in flight here and had not before.
    pub(crate) fn news(&self, before: &Self, client: usize, bookie: usize) -> Option<Class> {
        let (now, before) = (&self.replies[client][bookie].0, &before.replies[client][bookie].0);
        now.get(before.len()).map(|(.., reply)| reply.code.class())
    }

    /// Whether a client has sent something since.
    pub(crate) fn sent_more(&self, before: &Self, client: usize) -> bool {
        self.requests[client] != before.requests[client]
    }

    /// A request never arrives.
    pub(crate) fn take_request(&mut self, client: usize, bookie: usize) {
        self.requests[client][bookie].with(|asked| asked.0.remove(0));
    }

    /// A reply never arrives.
    pub(crate) fn take_reply(&mut self, client: usize, bookie: usize) {
        self.replies[client][bookie].with(|answered| answered.0.remove(0));
    }

    /// No reply arrives.
    pub(crate) fn clear_replies(&mut self, client: usize) {
        self.replies[client] = [Part::of(Answered::default()); MAX_BOOKIES];
    }

    /// Another recoverer starts; which one it is.
    pub(crate) fn start_recoverer(&mut self, size: &Size) -> usize {
        let index = self.recoverers.iter().position(|r| **r == Recovering::No);
        let index = index.expect("no more start than the size has");
        let node = RecovererNode::start(self.id, index as u128 + 1, size.client_mutations);
        self.recoverers[index] = Part::of(Recovering::Now(Box::new(node)));
        index
    }
}
