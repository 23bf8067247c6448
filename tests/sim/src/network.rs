//! Messages between hosts. A connection keeps the order of what it delivers and loses either nothing or everything from
//! some moment on; calls outside a connection are delayed, reordered, doubled and lost one by one. What was sent on a
//! connection before it broke may still arrive, also after the client has connected again.

use std::collections::{BTreeMap, BTreeSet};

use geminga_proto::bookie::{QueryReply, QueryRequest, WriteReply, WriteRequest};

use crate::context::Context;
use crate::event::{Caller, Client, Event, Host};
use crate::schedule::{MS, Time};
use crate::store;

/// How long a client waits for an answer.
pub(crate) const CALL_TIMEOUT: Time = 250 * MS;
/// How long a caller of the store waits.
pub(crate) const STORE_TIMEOUT: Time = 400 * MS;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Direction {
    client: Client,
    bookie: usize,
    connection: u32,
    reply: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// Nothing arrives before what was sent before it.
    last: Time,
    /// Nothing arrives any more.
    dead: bool,
}

/// The state of the network.
#[derive(Debug)]
pub(crate) struct Network {
    /// From, to.
    blocked: BTreeSet<(Host, Host)>,
    /// Extra delay of a host's messages.
    slow: BTreeMap<Host, Time>,
    /// Calls out of a thousand that are lost, or doubled.
    pub(crate) loss: u64,
    pub(crate) doubling: u64,
    /// The store answers nobody.
    pub(crate) store_out: bool,
    lanes: BTreeMap<Direction, Lane>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            blocked: BTreeSet::new(),
            slow: BTreeMap::new(),
            loss: 2,
            doubling: 5,
            store_out: false,
            lanes: BTreeMap::new(),
        }
    }
}

impl Network {
    pub(crate) fn block(&mut self, from: Host, to: Host) {
        self.blocked.insert((from, to));
    }

    pub(crate) fn unblock(&mut self, from: Host, to: Host) {
        self.blocked.remove(&(from, to));
    }

    pub(crate) fn slow_down(&mut self, host: Host, by: Time) {
        self.slow.insert(host, by);
    }

    pub(crate) fn speed_up(&mut self, host: Host) {
        self.slow.remove(&host);
    }

    /// No fault is left.
    pub(crate) fn heal(&mut self) {
        self.blocked.clear();
        self.slow.clear();
        (self.loss, self.doubling, self.store_out) = (0, 0, false);
    }

    /// A client's connections are of no use any more.
    pub(crate) fn forget(&mut self, client: Client) {
        self.lanes.retain(|direction, _| direction.client != client);
    }
}

impl Context {
    /// How long a message takes; `None` when it does not arrive.
    fn delay(&mut self, from: Host, to: Host) -> Option<Time> {
        if self.network.blocked.contains(&(from, to)) || self.dice.chance(self.network.loss) {
            self.coverage.hit("network: message lost");
            return None;
        }
        let slow = |host| self.network.slow.get(&host).copied().unwrap_or_default();
        let slowest = slow(from).max(slow(to));
        let base = self.dice.range(200, 1_500);
        // A few messages are late for no reason at all.
        let late = if self.dice.chance(10) { self.dice.range(5, 60) * MS } else { 0 };
        let slowed = if slowest > 0 { self.dice.range(slowest / 2, slowest) } else { 0 };
        Some(base + late + slowed)
    }

    /// A write outside a connection.
    pub(crate) fn write(&mut self, caller: Caller, bookie: usize, request: WriteRequest) {
        if self.dice.chance(self.network.doubling)
            && let Some(delay) = self.delay(caller.host, Host::Bookie(bookie))
        {
            self.coverage.hit("network: message doubled");
            let request = request.clone();
            self.schedule.after(delay, Event::Request { bookie, caller, request });
        }
        if let Some(delay) = self.delay(caller.host, Host::Bookie(bookie)) {
            self.schedule.after(delay, Event::Request { bookie, caller, request });
        }
    }

    /// A write on a connection.
    pub(crate) fn write_on(&mut self, caller: Caller, bookie: usize, request: WriteRequest) {
        let at = self.next_on(caller, bookie, false);
        if let Some(at) = at {
            self.schedule.at(at, Event::Request { bookie, caller, request });
        }
    }

    /// The answer to a write.
    pub(crate) fn reply(&mut self, caller: Caller, bookie: usize, reply: WriteReply) {
        let at = match caller.connection {
            Some(_) => self.next_on(caller, bookie, true),
            None => self.delay(Host::Bookie(bookie), caller.host).map(|delay| self.now() + delay),
        };
        if let Some(at) = at {
            self.schedule.at(at, Event::Reply { bookie, caller, reply });
        }
    }

    /// When the next message of a connection arrives. The first that is lost takes the connection with it, and its client
    /// notices after a while.
    fn next_on(&mut self, caller: Caller, bookie: usize, reply: bool) -> Option<Time> {
        let (Some(connection), Client::Writer { broker, writer }) =
            (caller.connection, caller.client)
        else {
            return None;
        };
        let direction = Direction { client: caller.client, bookie, connection, reply };
        if self.network.lanes.get(&direction).is_some_and(|lane| lane.dead) {
            return None;
        }
        let (host, there) = (caller.host, Host::Bookie(bookie));
        let delay = if reply { self.delay(there, host) } else { self.delay(host, there) };
        let now = self.now();
        let lane = self.network.lanes.entry(direction).or_default();
        let Some(delay) = delay else {
            lane.dead = true;
            let noticed = self.dice.range(20, 400) * MS;
            self.schedule.after(noticed, Event::Broken { broker, writer, bookie, connection });
            return None;
        };
        lane.last = lane.last.max(now + delay);
        Some(lane.last)
    }

    /// The bookie resets a connection: it is not the process that the connection was made with.
    pub(crate) fn reset(&mut self, caller: Caller, bookie: usize) {
        if let (Some(connection), Client::Writer { broker, writer }) =
            (caller.connection, caller.client)
            && let Some(delay) = self.delay(Host::Bookie(bookie), caller.host)
        {
            self.schedule.after(delay, Event::Broken { broker, writer, bookie, connection });
        }
    }

    pub(crate) fn query(&mut self, caller: Caller, bookie: usize, request: QueryRequest) {
        if let Some(delay) = self.delay(caller.host, Host::Bookie(bookie)) {
            self.schedule.after(delay, Event::Query { bookie, caller, request });
        }
    }

    pub(crate) fn query_reply(&mut self, caller: Caller, bookie: usize, reply: QueryReply) {
        if let Some(delay) = self.delay(Host::Bookie(bookie), caller.host) {
            self.schedule.after(delay, Event::QueryReply { caller, reply });
        }
    }

    /// A call to the store, which gives up after a while; the caller's number of it.
    pub(crate) fn ask_store(&mut self, host: Host, client: Client, request: store::Request) -> u64 {
        let caller = Caller { host, client, call: self.new_call(), connection: None };
        if let Some(delay) = self.delay(host, Host::Store) {
            let sent = self.now();
            self.schedule.after(delay, Event::Store { caller, request, sent });
        }
        self.schedule.after(STORE_TIMEOUT, Event::Timeout(caller));
        caller.call
    }

    pub(crate) fn store_reply(&mut self, caller: Caller, reply: store::Reply) {
        let committed = matches!(reply, store::Reply::Committed(_));
        // What took place and is not known is where the protocol is hardest to get right (M9).
        let lost = committed && !self.healing && self.dice.chance(20);
        match self.delay(Host::Store, caller.host).filter(|_| !lost) {
            Some(delay) => self.schedule.after(delay, Event::StoreReply { caller, reply }),
            None if committed => {
                self.coverage.hit("store: applied, reply lost");
            }
            None => {}
        }
    }

    /// A call to a bookie outside a connection, which gives up after a while.
    pub(crate) fn caller(&mut self, host: Host, client: Client) -> Caller {
        let caller = Caller { host, client, call: self.new_call(), connection: None };
        self.schedule.after(CALL_TIMEOUT, Event::Timeout(caller));
        caller
    }
}
