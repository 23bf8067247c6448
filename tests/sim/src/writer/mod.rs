//! The environment of the production writer core: its connections, the bytes in flight, and the timers that make it give up
//! on a position. Everything that follows a change of the core is here.
//!
//! * [`ensemble`]: replacements for members that fail, and the change of the metadata that brings them in (2.5).

mod ensemble;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use geminga_ledger::core::commit::Commit;
use geminga_ledger::core::quorum::Zone;
use geminga_ledger::core::writer::{Effect, Event, Link, Outcome, Phase, Writer as Core};
use geminga_metastore::Version;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::entry::Position;
use geminga_proto::ids::{EntryId, Member, SealEpoch};

use crate::context::{Context, cluster, note, number};
use crate::event::{Ask, BrokerTimer, Caller, Client, Event as WorldEvent, Host};
use crate::payload::Payload;
use crate::schedule::{MS, Time};

/// Away for so long, a position is given up.
const GRACE: Time = 300 * MS;
/// Not registered, and without anything to do, a position is asked so often whether it is there.
const ASK: Time = 900 * MS;
/// Without progress for so long, a position is connected anew; for twice as long, given up.
const STUCK: Time = 400 * MS;
/// Entries of one request.
const BATCH: i64 = 16;

/// One bookie as the writer reaches it.
#[derive(Debug)]
struct Connection {
    member: Member,
    /// Raised by each attempt, so that late answers to an earlier one are recognised.
    number: u32,
    /// Not open since.
    away_since: Option<Time>,
    /// The attempt that is waited for began.
    asked_at: Time,
    attempts: u32,
    acked: EntryId,
    moved_at: Time,
    /// What each call on it was.
    calls: BTreeMap<u64, Ask>,
}

/// What the owner of a writer must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upcall {
    /// Acknowledged up to here.
    Acked(EntryId),
    /// Commit the end.
    CommitClose(EntryId),
    /// What is not acknowledged ended so.
    Failed(Outcome),
    /// Close and begin another ledger.
    Roll,
}

/// A writer of one ledger.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) id: u32,
    broker: usize,
    life: u32,
    pub(crate) meta: LedgerMeta,
    pub(crate) version: Version,
    core: Core,
    connections: BTreeMap<usize, Connection>,
    /// Bytes that a position may still need.
    buffer: BTreeMap<EntryId, Bytes>,
    /// Payload bytes up to each entry that is not acknowledged, and to the LAC.
    lengths: VecDeque<(EntryId, u64)>,
    /// Of the last entry, and of the last acknowledged one.
    length: u64,
    acked_length: u64,
    told_lac: EntryId,
    upcalls: Vec<Upcall>,
    /// What the store was asked.
    questions: BTreeMap<u64, ensemble::Question>,
    /// A change of the ensemble whose outcome is not known.
    change: Option<Commit>,
    /// When the ensemble changed.
    changed_at: VecDeque<Time>,
    /// Not before then is somebody looked for again.
    search_at: Time,
    /// Events that wait for the effects of the one before.
    later: VecDeque<Event>,
    stepping: bool,
}

impl Writer {
    pub(crate) fn new(
        broker: usize,
        life: u32,
        meta: LedgerMeta,
        version: Version,
        context: &mut Context,
    ) -> Self {
        let members = &meta.last_fragment().ensemble;
        let zones: Vec<Zone> = members.iter().map(|member| context.zone(member)).collect();
        let settings = &context.settings;
        let (core, effects) =
            Core::new(&meta, &zones, settings.min_ack_zones, settings.client_mutations);
        let mut writer = Self {
            id: context.new_client(),
            broker,
            life,
            meta,
            version,
            core,
            connections: BTreeMap::new(),
            buffer: BTreeMap::new(),
            lengths: VecDeque::new(),
            length: 0,
            acked_length: 0,
            told_lac: EntryId::NONE,
            upcalls: Vec::new(),
            questions: BTreeMap::new(),
            change: None,
            changed_at: VecDeque::new(),
            search_at: 0,
            later: VecDeque::new(),
            stepping: false,
        };
        writer.run(effects, context);
        writer
    }

    fn client(&self) -> Client {
        Client::Writer { broker: self.broker, writer: self.id }
    }

    /// What happened since this was asked last.
    pub(crate) fn take_upcalls(&mut self) -> Vec<Upcall> {
        std::mem::take(&mut self.upcalls)
    }

    /// Its connections: its id, the bookie, and the connection's number.
    pub(crate) fn connections(&self) -> Vec<(u32, usize, u32)> {
        let connection = |(bookie, held): (&usize, &Connection)| (self.id, *bookie, held.number);
        self.connections.iter().map(connection).collect()
    }

    pub(crate) fn lac(&self) -> EntryId {
        self.core.lac()
    }

    pub(crate) fn lap(&self) -> EntryId {
        self.core.lap()
    }

    /// Payload bytes up to the LAC.
    pub(crate) fn acked_length(&self) -> u64 {
        self.acked_length
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.core.phase(), Phase::Running | Phase::Changing)
    }

    /// Writes a record; none when the ledger takes nothing any more.
    pub(crate) fn append(&mut self, payload: Payload, context: &mut Context) -> Option<EntryId> {
        let lac = self.core.lac();
        let (entry, effects) = self.core.append().ok()?;
        self.length += payload.bytes.max(16);
        let cumulative_length = self.length;
        let position = Position { ledger: self.meta.id, entry, lac, cumulative_length };
        let bytes = payload.encode(position);
        context.truth.appended(self.meta.id, entry, bytes.clone(), payload, self.length);
        self.buffer.insert(entry, bytes);
        self.lengths.push_back((entry, self.length));
        let now = context.now();
        for connection in self.connections.values_mut() {
            // One that had nothing to do is timed from now on.
            if connection.acked >= entry.prev() {
                connection.moved_at = now;
            }
        }
        self.run(effects, context);
        Some(entry)
    }

    pub(crate) fn close(&mut self, context: &mut Context) {
        self.step(Event::Close, context);
    }

    pub(crate) fn close_committed(&mut self, context: &mut Context) {
        let last = self.core.lac();
        self.step(Event::CloseCommitted, context);
        self.hint(&WriteOp::Closed(last), context);
    }

    pub(crate) fn close_lost(&mut self, context: &mut Context) {
        self.step(Event::Deposed, context);
    }

    /// Steps the core. An event that an effect gives rise to at once waits until all effects before it are carried out.
    fn step(&mut self, event: Event, context: &mut Context) {
        self.later.push_back(event);
        if !self.stepping {
            self.run(Vec::new(), context);
        }
    }

    fn run(&mut self, effects: Vec<Effect>, context: &mut Context) {
        self.stepping = true;
        self.carry_out(effects, context);
        while let Some(event) = self.later.pop_front() {
            let effects = self.core.step(event);
            self.carry_out(effects, context);
        }
        self.stepping = false;
    }

    fn carry_out(&mut self, effects: Vec<Effect>, context: &mut Context) {
        // Whatever is sent from here on may name this LAC.
        context.truth.confirmed(self.meta.id, self.core.lac(), &mut context.coverage);
        for effect in effects {
            match effect {
                Effect::Hello(position) => self.connect(position, context),
                Effect::Send { position, first, last } => {
                    self.send(position, first, last, context);
                }
                Effect::Commit(lac) => {
                    while let Some((_, length)) =
                        self.lengths.pop_front_if(|(entry, _)| *entry <= lac)
                    {
                        self.acked_length = length;
                    }
                    self.upcalls.push(Upcall::Acked(lac));
                }
                Effect::Release(upto) => self.buffer = self.buffer.split_off(&upto.next()),
                Effect::CommitClose(last) => self.upcalls.push(Upcall::CommitClose(last)),
                Effect::Fail(outcome) => self.upcalls.push(Upcall::Failed(outcome)),
                Effect::LeftOut(position) => {
                    context.coverage.hit("writer: position left out");
                    note!(context, "writer {} leaves {position} out", self.id);
                }
                Effect::Search => self.search(context),
                Effect::Change { first, ensemble } => self.change(first, ensemble, context),
                Effect::MarkUnder(_) => context.coverage.hit("writer: members marked for repair"),
                Effect::Roll => {
                    context.coverage.hit("writer: asked to roll");
                    self.upcalls.push(Upcall::Roll);
                }
                Effect::QuorumLost => {
                    context.coverage.hit("writer: quorum lost");
                    self.upcalls.push(Upcall::Roll);
                }
            }
        }
    }

    /// Connects, at once for the first time, later with a pause.
    fn connect(&mut self, position: usize, context: &mut Context) {
        let member = self.core.positions()[position].member.clone();
        let (bookie, now) = (number(&member), context.now());
        let connection = self.connections.entry(bookie).or_insert_with(|| Connection {
            member: member.clone(),
            number: 0,
            away_since: Some(now),
            asked_at: now,
            attempts: 0,
            acked: EntryId::NONE,
            moved_at: now,
            calls: BTreeMap::new(),
        });
        if connection.member != member {
            connection.member = member;
            connection.attempts = 0;
        }
        connection.number += 1;
        connection.calls.clear();
        connection.away_since.get_or_insert(now);
        connection.asked_at = now;
        connection.attempts += 1;
        let number = connection.number;
        if connection.attempts == 1 {
            self.hello(bookie, number, context);
        } else {
            context.coverage.hit("writer: reconnected");
            let pause = context.dice.range(2, 60) * MS;
            let timer = BrokerTimer::Reconnect { writer: self.id, bookie, connection: number };
            let event = WorldEvent::Broker { broker: self.broker, life: self.life, timer };
            context.schedule.after(pause, event);
        }
    }

    /// Opens a connection, unless a newer attempt has begun.
    pub(crate) fn hello(&mut self, bookie: usize, connection: u32, context: &mut Context) {
        if self.connections.get(&bookie).is_some_and(|c| c.number == connection) {
            self.send_op(bookie, Ask::Hello, WriteOp::Hello, context);
        }
    }

    fn send(&mut self, position: usize, first: EntryId, last: EntryId, context: &mut Context) {
        let bookie = number(&self.core.positions()[position].member);
        let mut next = first;
        while next <= last {
            let end = EntryId(last.0.min(next.0 + BATCH - 1));
            let range = (next.0..=end.0).map(EntryId);
            let entries: Option<Vec<Bytes>> =
                range.map(|entry| self.buffer.get(&entry).cloned()).collect();
            let Some(entries) = entries else {
                let detail = format!("ledger {}: {next} to {end} were released", self.meta.id);
                return context.truth.violated("2.3: bytes are kept while needed", detail);
            };
            let op = WriteOp::Add { first: next, entries, lac: self.core.lac() };
            self.send_op(bookie, Ask::Add, op, context);
            next = end.next();
        }
    }

    fn send_op(&mut self, bookie: usize, ask: Ask, op: WriteOp, context: &mut Context) {
        let (client, fragment) = (self.client(), self.core.fragment_first());
        let Some(connection) = self.connections.get_mut(&bookie) else { return };
        let call = context.new_call();
        connection.calls.insert(call, ask);
        let caller = Caller {
            host: Host::Broker(self.broker),
            client,
            call,
            connection: Some(connection.number),
        };
        let scope = Scope {
            cluster: cluster(),
            ledger: self.meta.id,
            fragment_first: fragment,
            epoch: SealEpoch(0),
            incarnation: connection.member.incarnation,
        };
        context.write_on(caller, bookie, WriteRequest { scope, op });
    }

    fn hint(&mut self, op: &WriteOp, context: &mut Context) {
        for position in self.core.positions().to_vec() {
            if position.link == Link::Live {
                self.send_op(number(&position.member), Ask::Hint, op.clone(), context);
            }
        }
    }

    /// The connection is gone.
    pub(crate) fn on_broken(&mut self, bookie: usize, connection: u32, context: &mut Context) {
        let Some(held) = self.connections.get_mut(&bookie) else { return };
        if held.number != connection {
            return;
        }
        held.calls.clear();
        let member = held.member.clone();
        self.step(Event::Disconnected { member }, context);
    }

    pub(crate) fn on_reply(
        &mut self,
        bookie: usize,
        caller: Caller,
        reply: &WriteReply,
        context: &mut Context,
    ) {
        let Some(connection) = self.connections.get_mut(&bookie) else { return };
        if caller.connection != Some(connection.number) {
            return;
        }
        let Some(ask) = connection.calls.remove(&caller.call) else { return };
        let member = connection.member.clone();
        let event = match ask {
            Ask::Hello => Event::from_hello(member, reply),
            Ask::Add => Event::from_add(member, reply),
            Ask::Hint | Ask::Seal | Ask::RecoveryAdd | Ask::RepairAdd | Ask::Tail => return,
        };
        let now = context.now();
        match &event {
            Event::Opened { .. } => connection.away_since = None,
            Event::Acked { durable_tail, .. } if *durable_tail > connection.acked => {
                connection.acked = *durable_tail;
                connection.moved_at = now;
                connection.attempts = 0;
            }
            _ => {}
        }
        if reply.code == Code::ReadOnly {
            let member = connection.member.clone();
            self.step(Event::GiveUp { member }, context);
        }
        self.step(event, context);
    }

    /// Looks after positions that are away or stuck, and tells the LAC when nothing else does.
    pub(crate) fn on_tick(&mut self, context: &mut Context) {
        let now = context.now();
        for position in self.core.positions().to_vec() {
            let bookie = number(&position.member);
            let Some(connection) = self.connections.get_mut(&bookie) else { continue };
            if connection.member != position.member || position.link == Link::Absent {
                continue;
            }
            let behind = position.acked < self.core.lap();
            let stuck = behind && now > connection.moved_at + STUCK;
            let gone = connection.away_since.is_some_and(|since| now > since + GRACE);
            let silent = connection.away_since.is_some() && now > connection.asked_at + GRACE / 2;
            let late = behind && now > connection.moved_at + 2 * STUCK;
            let idle = position.link == Link::Live && !behind && now > connection.asked_at + ASK;
            let registered = context.registry.get(&bookie);
            let registered = registered.is_some_and(|there| there.member == position.member);
            let member = position.member.clone();
            if idle && !registered {
                context.coverage.hit("writer: asked one that is not registered");
                self.step(Event::Unregistered { member: member.clone() }, context);
            }
            if gone || late {
                self.step(Event::GiveUp { member: member.clone() }, context);
            }
            if silent || (stuck && position.link == Link::Live) {
                self.step(Event::Disconnected { member }, context);
            }
        }
        if self.told_lac < self.core.lac() && self.is_running() {
            self.told_lac = self.core.lac();
            self.hint(&WriteOp::AdvanceLac(self.told_lac), context);
        }
        self.search_again(context);
    }
}
