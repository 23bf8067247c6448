//! A broker that owns a partition-like chain of ledgers, or believes that it does: claims it, recovers what is open, writes,
//! rolls, and carries records over by rule W9. Another broker may claim the chain at any time; nobody tells this one.
//!
//! * [`owner`]: claiming, recovering and creating. [`roll`]: closing, and deleting what is old.

mod owner;
mod roll;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use geminga_ledger::core::writer::Outcome;
use geminga_metastore::Version;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::{EntryId, LedgerId};

use crate::context::{Context, note};
use crate::event::{BrokerTimer, Client, Event, Host};
use crate::payload::Payload;
use crate::schedule::{MS, Time};
use crate::store::{self, Chain};
use crate::writer::{Upcall, Writer};

/// How often a broker looks after its writer.
const TICK: Time = 25 * MS;
/// How long a roll waits for what is in flight.
const DRAIN: Time = 300 * MS;
/// Records that wait for a ledger, and entries in flight.
const WINDOW: usize = 64;
/// Pause before something that failed is tried again.
const RETRY: Time = 120 * MS;

/// What a broker does.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    Down,
    /// Owns nothing.
    Idle,
    Claiming,
    /// Waits for these ledgers to be closed.
    Recovering(BTreeSet<LedgerId>),
    Creating,
    Writing,
    /// The end of its ledger is being committed.
    Closing,
}

/// What the store was asked.
#[derive(Debug, Clone)]
enum Question {
    /// The chain, to claim it.
    ReadToClaim,
    Claim(Chain),
    /// The chain and its ledgers.
    Examine(Vec<LedgerId>),
    Create(roll::Successor),
    ResolveCreate(roll::Successor),
    Close(roll::Close),
    ResolveClose(roll::Close),
    ReadToTrim(LedgerId),
    Trim(Chain),
    /// The chain, as it is after a trim whose outcome is not known.
    Refresh,
}

/// A broker.
#[derive(Debug)]
pub(crate) struct Broker {
    index: usize,
    life: u32,
    role: Role,
    chain: Chain,
    chain_version: Version,
    claim_attempts: u32,
    session: u64,
    writer: Option<Writer>,
    /// In the ledger, not acknowledged.
    pending: VecDeque<(EntryId, Payload)>,
    /// Only the closed ledger tells (W9).
    unknown: Vec<(LedgerId, EntryId, Payload)>,
    /// To be written.
    carry: VecDeque<Payload>,
    /// A roll waits for what is in flight, until then.
    rolling: Option<Time>,
    questions: BTreeMap<u64, Question>,
    /// Raised with every step of its role, so that older timers are recognised.
    step: u32,
}

impl Broker {
    pub(crate) fn new(index: usize, context: &mut Context) -> Self {
        let broker = Self {
            index,
            life: 1,
            role: Role::Idle,
            chain: Chain::default(),
            chain_version: Version(0),
            claim_attempts: 0,
            session: 0,
            writer: None,
            pending: VecDeque::new(),
            unknown: Vec::new(),
            carry: VecDeque::new(),
            rolling: None,
            questions: BTreeMap::new(),
            step: 0,
        };
        broker.timer(TICK, BrokerTimer::Tick, context);
        broker.timer(TICK, BrokerTimer::Produce, context);
        broker
    }

    fn host(&self) -> Host {
        Host::Broker(self.index)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.role != Role::Down
    }

    /// Owns the chain, or is about to, as far as it knows.
    pub(crate) fn is_active(&self) -> bool {
        !matches!(self.role, Role::Down | Role::Idle)
    }

    /// The bookies that its writer is connected to.
    pub(crate) fn connections(&self) -> Vec<(u32, usize, u32)> {
        self.writer.as_ref().map(Writer::connections).unwrap_or_default()
    }

    fn timer(&self, after: Time, timer: BrokerTimer, context: &mut Context) {
        let event = Event::Broker { broker: self.index, life: self.life, timer };
        context.schedule.after(after, event);
    }

    fn retry(&mut self, context: &mut Context) {
        let pause = RETRY + context.dice.range(0, 80) * MS;
        self.timer(pause, BrokerTimer::Retry(self.step), context);
    }

    fn turn(&mut self, role: Role, context: &mut Context) {
        note!(context, "broker-{} is {role:?}", self.index);
        self.role = role;
        self.step += 1;
    }

    fn ask(&mut self, question: Question, request: store::Request, context: &mut Context) {
        let call = context.ask_store(self.host(), Client::Broker(self.index), request);
        self.questions.insert(call, question);
    }

    /// The process ends; nobody hears of it.
    pub(crate) fn crash(&mut self, context: &mut Context) {
        note!(context, "broker-{} crashes", self.index);
        self.leave(context);
        self.role = Role::Down;
        self.life += 1;
    }

    pub(crate) fn start_after(&self, after: Time, context: &mut Context) {
        self.timer(after, BrokerTimer::Start, context);
    }

    /// Owns nothing any more: what its producers do not know they will not learn from it.
    fn leave(&mut self, context: &mut Context) {
        self.drop_writer(context);
        self.questions.clear();
        self.pending.clear();
        self.unknown.clear();
        self.carry.clear();
        self.turn(Role::Idle, context);
    }

    fn drop_writer(&mut self, context: &mut Context) {
        self.rolling = None;
        if let Some(writer) = self.writer.take() {
            context.network.forget(Client::Writer { broker: self.index, writer: writer.id });
        }
    }

    pub(crate) fn on_timer(&mut self, life: u32, timer: BrokerTimer, context: &mut Context) {
        if life != self.life {
            return;
        }
        match timer {
            BrokerTimer::Start => {
                self.role = Role::Idle;
                self.timer(TICK, BrokerTimer::Tick, context);
                self.timer(TICK, BrokerTimer::Produce, context);
            }
            BrokerTimer::Produce => self.produce(context),
            BrokerTimer::Tick => self.tick(context),
            BrokerTimer::Reconnect { writer, bookie, connection } => {
                if let Some(held) = self.writer.as_mut().filter(|held| held.id == writer) {
                    held.hello(bookie, connection, context);
                }
            }
            BrokerTimer::Retry(step) if step == self.step => self.try_again(context),
            BrokerTimer::Retry(_) => {}
        }
        self.serve(context);
    }

    fn try_again(&mut self, context: &mut Context) {
        match self.role {
            Role::Claiming => self.read_to_claim(context),
            Role::Creating => self.create(context),
            Role::Recovering(_) => self.examine(context),
            Role::Down | Role::Idle | Role::Writing | Role::Closing => {}
        }
    }

    fn produce(&mut self, context: &mut Context) {
        let gap = context.settings.produce_gap;
        // Now and then a burst.
        let gap = if context.dice.chance(30) { 10 * gap } else { context.dice.range(0, 2 * gap) };
        self.timer(gap, BrokerTimer::Produce, context);
        if context.healing || self.session == 0 || self.role == Role::Idle {
            return;
        }
        let burst = if context.dice.chance(50) { 8 } else { 1 };
        for _ in 0..burst {
            if self.carry.len() < WINDOW {
                let (low, high) = (16, context.settings.payload);
                let bytes = context.dice.range(low, high);
                let number = context.new_call();
                self.carry.push_back(Payload { session: self.session, number, bytes });
            }
        }
        self.feed(context);
    }

    /// Writes what waits, as far as the window lets it.
    fn feed(&mut self, context: &mut Context) {
        while self.role == Role::Writing && self.rolling.is_none() && self.pending.len() < WINDOW {
            let (Some(payload), Some(writer)) = (self.carry.front().copied(), &mut self.writer)
            else {
                return;
            };
            let Some(entry) = writer.append(payload, context) else { return };
            self.carry.pop_front();
            self.pending.push_back((entry, payload));
            if context.truth.owner != Some(self.index) {
                context.coverage.hit("writer: append while another owns the chain");
            }
            self.serve(context);
        }
    }

    fn tick(&mut self, context: &mut Context) {
        self.timer(TICK, BrokerTimer::Tick, context);
        if let Some(writer) = &mut self.writer {
            writer.on_tick(context);
        }
        self.serve(context);
        self.feed(context);
        self.tick_roll(context);
    }

    /// Carries out what the writer asks for.
    fn serve(&mut self, context: &mut Context) {
        loop {
            let upcalls = self.writer.as_mut().map(Writer::take_upcalls).unwrap_or_default();
            if upcalls.is_empty() {
                return;
            }
            for upcall in upcalls {
                self.on_upcall(upcall, context);
            }
        }
    }

    fn on_upcall(&mut self, upcall: Upcall, context: &mut Context) {
        match upcall {
            Upcall::Acked(lac) => {
                while let Some((_, payload)) = self.pending.pop_front_if(|(entry, _)| *entry <= lac)
                {
                    context.coverage.hit("outcome: acknowledged");
                    context.truth.acknowledged(payload);
                }
            }
            Upcall::CommitClose(last) => self.commit_close(last, context),
            Upcall::Roll => {
                self.rolling.get_or_insert(context.now() + DRAIN / 4);
            }
            Upcall::Failed(Outcome::NotWritten) => {
                for (_, payload) in self.pending.drain(..).rev() {
                    context.coverage.hit("outcome: not written");
                    self.carry.push_front(payload);
                }
            }
            Upcall::Failed(Outcome::Acked | Outcome::Unknown) => self.deposed(context),
        }
    }

    /// The writer has lost its role: what is not acknowledged is unknown (2.7). Whether the chain is still ours is for the
    /// store to say.
    fn deposed(&mut self, context: &mut Context) {
        let Some(ledger) = self.writer.as_ref().map(|writer| writer.meta.id) else { return };
        note!(context, "broker-{} is deposed in {ledger}", self.index);
        for (entry, payload) in self.pending.drain(..) {
            context.coverage.hit("outcome: unknown");
            self.unknown.push((ledger, entry, payload));
        }
        self.drop_writer(context);
        self.questions.clear();
        self.examine(context);
    }

    fn open(&mut self, meta: LedgerMeta, version: Version, context: &mut Context) {
        self.drop_writer(context);
        let writer = Writer::new(self.index, self.life, meta, version, context);
        self.writer = Some(writer);
        self.turn(Role::Writing, context);
        self.serve(context);
        self.feed(context);
    }

    /// A message or a notice for its writer.
    pub(crate) fn with_writer(
        &mut self,
        writer: u32,
        context: &mut Context,
        act: impl FnOnce(&mut Writer, &mut Context),
    ) {
        if let Some(held) = self.writer.as_mut().filter(|held| held.id == writer) {
            act(held, context);
        }
        self.serve(context);
    }

    /// The store answered, or did not in time.
    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<store::Reply>,
        context: &mut Context,
    ) {
        let Some(question) = self.questions.remove(&call) else { return };
        match question {
            Question::ReadToClaim => self.claim(reply, context),
            Question::Claim(chain) => self.claimed(chain, reply, context),
            Question::Examine(ledgers) => self.examined(&ledgers, reply, context),
            Question::Create(successor) => self.created(successor, reply, context),
            Question::ResolveCreate(successor) => self.resolve_create(successor, reply, context),
            Question::Close(close) => self.close_done(close, reply, context),
            Question::ResolveClose(close) => self.resolve_close(close, reply, context),
            Question::ReadToTrim(ledger) => self.trim(ledger, reply, context),
            Question::Trim(chain) => self.trimmed(chain, reply, context),
            Question::Refresh => self.refreshed(reply, context),
        }
        self.serve(context);
    }
}
