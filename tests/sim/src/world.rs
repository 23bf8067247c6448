//! The simulated world: every part, and the loop that hands each event to the part that it happens to. No clock but the
//! schedule, no thread, no randomness but the dice: one seed is one execution.

use std::collections::BTreeMap;

use geminga_metastore::record::LedgerState;
use geminga_proto::bookie::QueryReply;

use crate::bookie::Bookie;
use crate::broker::Broker;
use crate::context::{Context, note};
use crate::dice::Dice;
use crate::event::{Caller, Client, Event, Host};
use crate::faults::{BROKERS, Heal};
use crate::keeper::{self, Giver, Repairer, Uploader};
use crate::network::STORE_TIMEOUT;
use crate::recoverer::Recoverer;
use crate::schedule::{MS, Time};
use crate::settings::{Broken, Settings};
use crate::store::{self, Change, Key, Store, Value};
use crate::trace::Trace;

/// Repairs that run at once.
const REPAIRERS: usize = 2;

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) context: Context,
    pub(crate) store: Store,
    pub(crate) bookies: Vec<Bookie>,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) recoverers: BTreeMap<u32, Recoverer>,
    /// One at each bookie, or none at all.
    pub(crate) uploaders: Vec<Uploader>,
    pub(crate) repairers: Vec<Repairer>,
    /// One at each bookie, or none at all.
    pub(crate) givers: Vec<Giver>,
    /// Hosts that do nothing until then.
    pub(crate) paused: BTreeMap<Host, Time>,
    pub(crate) events: u64,
    pub(crate) faults: u64,
}

impl World {
    pub(crate) fn new(seed: u64, broken: Option<Broken>, trace: Trace) -> Self {
        let dice = Dice::new(seed);
        let settings = Settings::draw(seed, &dice, broken);
        let mut context = Context::new(settings, dice, trace);
        let bookies = (0..context.settings.bookies).map(|b| Bookie::new(b, &mut context)).collect();
        let brokers = (0..BROKERS).map(|broker| Broker::new(broker, &mut context)).collect();
        context.schedule.after(10 * MS, Event::Heal(Heal::Elect));
        context.schedule.after(20 * MS, Event::Read);
        context.schedule.after(200 * MS, Event::Fault);
        let (mut uploaders, mut repairers) = (Vec::new(), Vec::new());
        if context.settings.keepers {
            uploaders.extend(
                (0..context.settings.bookies).map(|bookie| Uploader::new(bookie, &mut context)),
            );
            repairers.extend((0..REPAIRERS).map(|index| Repairer::new(index, &mut context)));
            context.schedule.after(250 * MS, Event::Audit);
        }
        let givers = if context.settings.movers { context.settings.bookies } else { 0 };
        let givers = (0..givers).map(|bookie| Giver::new(bookie, &mut context)).collect();
        Self {
            context,
            store: Store::new(),
            bookies,
            brokers,
            recoverers: BTreeMap::new(),
            uploaders,
            repairers,
            givers,
            paused: BTreeMap::new(),
            events: 0,
            faults: 0,
        }
    }

    /// Hands out the next event. False when there is none, or an invariant is broken.
    pub(crate) fn step(&mut self) -> bool {
        let Some(event) = self.context.schedule.next() else { return false };
        let paused = event.host().and_then(|host| self.paused.get(&host).copied());
        if let Some(until) = paused.filter(|until| *until > self.context.now()) {
            self.context.schedule.at(until, event);
            return true;
        }
        self.events += 1;
        self.dispatch(event);
        self.start_recoverers();
        self.context.truth.violation().is_none()
    }

    fn dispatch(&mut self, event: Event) {
        let context = &mut self.context;
        match event {
            Event::Request { bookie, caller, request } => {
                self.bookies[bookie].on_request(caller, request, context);
            }
            Event::Query { bookie, caller, request } => {
                self.bookies[bookie].on_query(caller, &request, context);
            }
            Event::Reply { bookie, caller, reply } => match caller.client {
                Client::Writer { broker, writer } => {
                    self.brokers[broker].with_writer(writer, context, |writer, context| {
                        writer.on_reply(bookie, caller, &reply, context);
                    });
                }
                Client::Recoverer(id) => {
                    if let Some(recoverer) = self.recoverers.get_mut(&id) {
                        recoverer.on_reply(caller.call, &reply, context);
                    }
                }
                Client::Repairer(index) => {
                    self.repairers[index].on_reply(caller.call, Some(&reply), self.faults, context);
                }
                Client::Giver(bookie) => {
                    let (giver, own) = (&mut self.givers[bookie], &mut self.bookies[bookie]);
                    giver.on_reply(caller.call, Some(&reply), own, context);
                }
                Client::Broker(_) | Client::Reader | Client::Bookie(_) | Client::Uploader(_) => {}
            },
            Event::QueryReply { caller, reply } => self.on_query_reply(caller, reply),
            Event::Store { caller, request, sent } => self.on_store(caller, request, sent),
            Event::StoreReply { caller, reply } => self.on_store_reply(caller, Some(reply)),
            Event::Timeout(caller) => self.on_timeout(caller),
            Event::Broken { broker, writer, bookie, connection } => {
                self.brokers[broker].with_writer(writer, context, |writer, context| {
                    writer.on_broken(bookie, connection, context);
                });
            }
            Event::Bookie { bookie, life, timer } => {
                self.bookies[bookie].on_timer(life, timer, context);
            }
            Event::Broker { broker, life, timer } => {
                self.brokers[broker].on_timer(life, timer, context);
            }
            Event::Recoverer { id, attempt, timer } => {
                if let Some(recoverer) = self.recoverers.get_mut(&id) {
                    recoverer.on_timer(attempt, timer, context);
                }
            }
            Event::Recovered { broker, life, ledger } => {
                self.brokers[broker].on_recovered(life, ledger, context);
            }
            Event::LeaseOver { bookie, life } => self.bookies[bookie].lease_over(life, context),
            Event::Uploader { bookie, turn } => {
                self.uploaders[bookie].on_turn(turn, &mut self.bookies[bookie], context);
            }
            Event::Repairer { index, turn } => {
                let marked = self.store.marked();
                self.repairers[index].on_turn(turn, &marked, self.faults, context);
            }
            Event::Giver { bookie, turn } => {
                self.givers[bookie].on_turn(turn, &self.bookies[bookie], context);
            }
            Event::Audit => {
                keeper::end_leases(&mut self.store, context);
                keeper::audit(&mut self.store, &self.bookies, context);
                keeper::read_object(context);
                context.schedule.after(200 * MS, Event::Audit);
            }
            Event::Read => crate::reader::read(&self.store, context),
            Event::Fault if !context.healing => self.fault(),
            Event::Fault => {}
            Event::Heal(heal) => self.heal(heal),
        }
    }

    fn on_query_reply(&mut self, caller: Caller, reply: QueryReply) {
        let context = &mut self.context;
        match caller.client {
            Client::Recoverer(id) => {
                if let Some(recoverer) = self.recoverers.get_mut(&id) {
                    recoverer.on_query_reply(caller.call, reply, context);
                }
            }
            Client::Uploader(bookie) => {
                let (uploader, own) = (&mut self.uploaders[bookie], &mut self.bookies[bookie]);
                uploader.on_query_reply(caller.call, Some(reply), own, context);
            }
            Client::Repairer(index) => {
                let repairer = &mut self.repairers[index];
                repairer.on_query_reply(caller.call, Some(reply), self.faults, context);
            }
            Client::Broker(_)
            | Client::Writer { .. }
            | Client::Reader
            | Client::Bookie(_)
            | Client::Giver(_) => {}
        }
    }

    /// A call reaches the store.
    fn on_store(&mut self, caller: Caller, request: store::Request, sent: Time) {
        let context = &mut self.context;
        let is_txn = matches!(request, store::Request::Txn { .. });
        if context.network.store_out && (!is_txn || context.dice.chance(800)) {
            return;
        }
        let (reply, changes) = self.store.carry_out(request);
        if matches!(reply, store::Reply::GuardFailed) {
            context.coverage.hit("store: guard failed");
        }
        if !changes.is_empty() && context.now() > sent + STORE_TIMEOUT {
            context.coverage.hit("store: applied after its caller gave up");
        }
        if let Some(Value::Chain(chain)) = self.store.peek(Key::Chain) {
            context.truth.owner = Some(chain.owner);
            for change in &changes {
                context.truth.changed(change, &chain.ledgers, &mut context.coverage);
                context.check_kept(change);
            }
        }
        let closed = changes.iter().filter_map(Change::closes);
        for ledger in closed {
            let others = self.recoverers.values().filter(|recoverer| {
                caller.client != Client::Recoverer(recoverer.id) && recoverer.recovers(ledger)
            });
            if matches!(caller.client, Client::Recoverer(_)) && others.count() > 0 {
                context.coverage.hit("end: ledger closed while two recovered it");
            }
        }
        for change in &changes {
            if let (Key::Ledger(id), new) = (change.key, &change.new) {
                let state = match new {
                    Some(Value::Ledger(meta)) => {
                        Some((meta.state, meta.seal_epoch, meta.last_entry))
                    }
                    _ => None,
                };
                note!(context, "store: {id} is {state:?}, by {:?}", caller.client);
            }
        }
        if context.network.store_out {
            context.coverage.hit("store: applied, reply lost");
            return;
        }
        context.store_reply(caller, reply);
    }

    fn on_store_reply(&mut self, caller: Caller, reply: Option<store::Reply>) {
        let context = &mut self.context;
        match caller.client {
            Client::Broker(broker) => self.brokers[broker].on_store(caller.call, reply, context),
            Client::Writer { broker, writer } => {
                self.brokers[broker].with_writer(writer, context, |writer, context| {
                    writer.on_store(caller.call, reply.as_ref(), context);
                });
            }
            Client::Reader => {}
            Client::Recoverer(id) => {
                if let Some(recoverer) = self.recoverers.get_mut(&id) {
                    recoverer.on_store(caller.call, reply.as_ref(), context);
                }
            }
            Client::Bookie(bookie) => {
                self.bookies[bookie].on_store(caller.call, reply.as_ref(), context);
            }
            Client::Uploader(bookie) => {
                let (uploader, own) = (&mut self.uploaders[bookie], &mut self.bookies[bookie]);
                uploader.on_store(caller.call, reply.as_ref(), own, context);
            }
            Client::Repairer(index) => {
                let repairer = &mut self.repairers[index];
                repairer.on_store(caller.call, reply.as_ref(), self.faults, context);
            }
            Client::Giver(bookie) => {
                let (giver, own) = (&mut self.givers[bookie], &mut self.bookies[bookie]);
                giver.on_store(caller.call, reply.as_ref(), own, context);
            }
        }
    }

    /// What is not waited for any more is ignored by whoever waited.
    fn on_timeout(&mut self, caller: Caller) {
        match caller.client {
            Client::Recoverer(id) => {
                if let Some(recoverer) = self.recoverers.get_mut(&id) {
                    recoverer.on_timeout(caller.call, &mut self.context);
                }
            }
            Client::Uploader(bookie) => {
                let (uploader, own) = (&mut self.uploaders[bookie], &mut self.bookies[bookie]);
                uploader.on_timeout(caller.call, own, &mut self.context);
            }
            Client::Repairer(index) => {
                let repairer = &mut self.repairers[index];
                repairer.on_timeout(caller.call, self.faults, &mut self.context);
            }
            Client::Giver(bookie) => {
                let (giver, own) = (&mut self.givers[bookie], &mut self.bookies[bookie]);
                giver.on_timeout(caller.call, own, &mut self.context);
            }
            _ => self.on_store_reply(caller, None),
        }
    }

    /// Starts the recoverers that somebody asked for, and drops those that are done.
    fn start_recoverers(&mut self) {
        while let Some(errand) = self.context.to_recover.pop() {
            let recoverer = Recoverer::new(errand, &mut self.context);
            self.recoverers.insert(recoverer.id, recoverer);
        }
        if self.events.is_multiple_of(64) {
            self.recoverers.retain(|_, recoverer| !recoverer.done);
        }
    }

    /// Whether a ledger of the chain is not closed.
    pub(crate) fn has_open_ledger(&self) -> bool {
        !self.open_ledgers().is_empty()
    }

    /// The ledgers that are neither closed nor deleted.
    pub(crate) fn open_ledgers(&self) -> Vec<geminga_proto::ids::LedgerId> {
        let open = self.context.truth.ledgers.iter().filter(|(_, ledger)| {
            ledger.live().is_some_and(|meta| meta.state != LedgerState::Closed)
        });
        open.map(|(id, _)| *id).collect()
    }
}
