//! The environment of the production repair core: asks members, copies verbatim, swaps. One repair at a time, and mostly without a lock, so
//! that several may repair one ledger. Where copies are given up, swaps are guarded by it, as in production (5.6).

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_ledger::core::commit::CasResult;
use geminga_ledger::core::repair::{Copy, Effect, Event, Finish, Repair, Tail};
use geminga_metastore::Version;
use geminga_proto::bookie::{
    Code, QueryOp, QueryReply, QueryRequest, Scope, WriteOp, WriteReply, WriteRequest,
};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

use crate::context::{Context, cluster, note, number};
use crate::event::{Client, Event as WorldEvent, Host};
use crate::schedule::MS;
use crate::store::{self, Key, Reply, Value};

/// Tries of one part of a copy.
const TRIES: usize = 6;

/// A copy under way.
#[derive(Debug)]
struct Copying {
    copy: Copy,
    next: EntryId,
    /// What was read and is not taken yet.
    part: Vec<Bytes>,
    tries: usize,
    tail: EntryId,
}

/// The lock of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lock {
    /// None is needed.
    None,
    /// It is being taken; the repair has not begun.
    Wanted,
    Held(Version),
}

/// One repair.
#[derive(Debug)]
struct Work {
    ledger: LedgerId,
    lock: Lock,
    core: Repair,
    effect: Effect,
    /// Calls that are waited for, with the place of who was asked.
    calls: BTreeMap<u64, usize>,
    tails: Vec<Tail>,
    copying: Option<Copying>,
    /// Faults when it began.
    faults: u64,
}

/// A worker.
#[derive(Debug)]
pub(crate) struct Repairer {
    index: usize,
    work: Option<Work>,
    turn: u64,
}

impl Repairer {
    pub(crate) fn new(index: usize, context: &mut Context) -> Self {
        let mut repairer = Self { index, work: None, turn: 0 };
        repairer.wait(300 * MS, context);
        repairer
    }

    fn wait(&mut self, after: u64, context: &mut Context) {
        self.turn += 1;
        let event = WorldEvent::Repairer { index: self.index, turn: self.turn };
        context.schedule.after(after, event);
    }

    fn rest(&mut self, context: &mut Context) {
        self.work = None;
        let pause = context.dice.range(50, 200) * MS;
        self.wait(pause, context);
    }

    fn client(&self) -> Client {
        Client::Repairer(self.index)
    }

    /// Begins with one of these ledgers, or goes on with a copy.
    pub(crate) fn on_turn(
        &mut self,
        turn: u64,
        marked: &[LedgerId],
        faults: u64,
        context: &mut Context,
    ) {
        if turn != self.turn {
            return;
        }
        if self.work.is_some() {
            return self.copy(context);
        }
        let Some(ledger) = context.dice.pick_any(marked.iter().copied()) else {
            return self.rest(context);
        };
        let op = context.dice.next_u128();
        let (core, mut effects) = Repair::new(op, context.settings.client_mutations);
        let Some(effect) = effects.pop() else { return self.rest(context) };
        let (mut calls, tails, copying) = (BTreeMap::new(), Vec::new(), None);
        let lock = if context.settings.movers { Lock::Wanted } else { Lock::None };
        if lock == Lock::Wanted {
            calls.insert(context.ask_store(Host::Auditor, self.client(), store::take(ledger)), 0);
        }
        self.work = Some(Work { ledger, lock, core, effect, calls, tails, copying, faults });
        if lock == Lock::None {
            note!(context, "repair of {ledger} begins");
            self.carry_out(faults, context);
        }
    }

    fn tell(&mut self, event: Event, faults: u64, context: &mut Context) {
        let Some(work) = &mut self.work else { return };
        (work.calls, work.copying) = (BTreeMap::new(), None);
        match work.core.step(event).pop() {
            Some(effect) => work.effect = effect,
            None => return self.rest(context),
        }
        if !context.healing && context.dice.chance(10) {
            // It dies, and what it copied stays (A4).
            context.coverage.hit("fault: repair died");
            return self.rest(context);
        }
        self.carry_out(faults, context);
    }

    fn scope(ledger: LedgerId, member: &Member, fragment_first: EntryId) -> Scope {
        let (epoch, incarnation) = (SealEpoch(0), member.incarnation);
        Scope { cluster: cluster(), ledger, fragment_first, epoch, incarnation }
    }

    fn carry_out(&mut self, faults: u64, context: &mut Context) {
        let client = self.client();
        let Some(work) = &mut self.work else { return };
        let ledger = work.ledger;
        match work.effect.clone() {
            Effect::Read => {
                let get = store::Request::Get(vec![Key::Under(ledger), Key::Ledger(ledger)]);
                work.calls.insert(context.ask_store(Host::Auditor, client, get), 0);
            }
            Effect::AskTails { first, members } => {
                work.tails = vec![Tail::Unknown; members.len()];
                for (place, member) in members.iter().enumerate() {
                    let caller = context.caller(Host::Auditor, client);
                    work.calls.insert(caller.call, place);
                    let scope = Self::scope(ledger, member, first);
                    context.write(
                        caller,
                        number(member),
                        WriteRequest { scope, op: WriteOp::Tail },
                    );
                }
            }
            Effect::ChooseTarget { ensemble, position, shunned, .. } => {
                let mut free = context.place(usize::MAX, &shunned);
                free.retain(|new| {
                    let mut others = ensemble.iter().enumerate();
                    others.all(|(place, old)| {
                        old.bookie != new.bookie || (place == position && old != new)
                    })
                });
                self.tell(Event::Target(free.first().cloned()), faults, context);
            }
            Effect::Copy(copy) => {
                let (next, tail) = (copy.first, copy.first.prev());
                work.copying = Some(Copying { copy, next, part: Vec::new(), tries: 0, tail });
                self.copy(context);
            }
            Effect::Swap { expected, meta } => {
                let mut guards = vec![(Key::Ledger(ledger), Some(expected))];
                if let Lock::Held(lock) = work.lock {
                    guards.push((Key::Lock(ledger), Some(lock)));
                }
                let request = store::Request::Txn {
                    guards,
                    puts: vec![Value::Ledger(*meta)],
                    deletes: Vec::new(),
                };
                work.calls.insert(context.ask_store(Host::Auditor, client, request), 0);
            }
            Effect::RemoveMark(version) => {
                let key = Key::Under(ledger);
                let (guards, puts) = (vec![(key, Some(version))], Vec::new());
                let request = store::Request::Txn { guards, puts, deletes: vec![key] };
                work.calls.insert(context.ask_store(Host::Auditor, client, request), 0);
            }
            Effect::Finish(finish) => self.finish(&finish, faults, context),
        }
    }

    fn finish(&mut self, finish: &Finish, faults: u64, context: &mut Context) {
        let Some(work) = &self.work else { return };
        note!(context, "repair of {} ends: {finish:?}", work.ledger);
        match finish {
            Finish::Clean if faults > work.faults => {
                context.coverage.hit("repair: completed under faults");
            }
            Finish::Clean => context.coverage.hit("repair: completed"),
            Finish::Lost { .. } => context.coverage.hit("repair: an entry is lost"),
            Finish::Waits(_) => context.coverage.hit("repair: waits"),
            Finish::Gone | Finish::Unmarked => {}
        }
        if let Lock::Held(lock) = work.lock {
            let give_back = store::give_back(work.ledger, lock);
            context.ask_store(Host::Auditor, self.client(), give_back);
        }
        self.rest(context);
    }

    /// Goes on with a copy: reads the next part, or sends the one that was read.
    fn copy(&mut self, context: &mut Context) {
        let client = self.client();
        let Some(work) = &mut self.work else { return };
        let Some(copying) = &mut work.copying else { return };
        if copying.copy.sources.is_empty() {
            // Only the object has it, and here its store is away from repairs.
            let (entry, faults) = (copying.next, work.faults);
            return self.tell(Event::SourcesFailed { entry, lost: false }, faults, context);
        }
        let caller = context.caller(Host::Auditor, client);
        work.calls = BTreeMap::from([(caller.call, 0)]);
        let Copying { copy, next, part, tries, .. } = copying;
        if part.is_empty() {
            let source = &copy.sources[*tries % copy.sources.len()];
            let scope = Self::scope(work.ledger, source, copy.fragment_first);
            let (from, to) = (*next, copy.last);
            let op = QueryOp::Read { from, to, max_bytes: 3_000, prefix_bytes: None };
            context.query(caller, number(source), QueryRequest { scope, op });
        } else {
            let scope = Self::scope(work.ledger, &copy.to, copy.fragment_first);
            let op = WriteOp::RepairAdd { first: *next, entries: part.clone() };
            context.write(caller, number(&copy.to), WriteRequest { scope, op });
        }
    }

    /// A part came to nothing; whether there is another try.
    fn again(&mut self, context: &mut Context) -> bool {
        let Some(copying) = self.work.as_mut().and_then(|work| work.copying.as_mut()) else {
            return true;
        };
        copying.tries += 1;
        let again = copying.tries < TRIES;
        if again {
            self.wait(30 * MS, context);
        }
        again
    }

    fn is_waiting(&mut self, call: u64) -> Option<usize> {
        self.work.as_mut().and_then(|work| work.calls.remove(&call))
    }

    pub(crate) fn on_query_reply(
        &mut self,
        call: u64,
        reply: Option<QueryReply>,
        faults: u64,
        context: &mut Context,
    ) {
        if self.is_waiting(call).is_none() {
            return;
        }
        let Some(copying) = self.work.as_mut().and_then(|work| work.copying.as_mut()) else {
            return;
        };
        let entry = copying.next;
        match reply {
            Some(reply) if reply.code == Code::Ok && !reply.entries.is_empty() => {
                (copying.part, copying.tries) = (reply.entries, 0);
                self.copy(context);
            }
            _ => {
                if !self.again(context) {
                    self.tell(Event::SourcesFailed { entry, lost: false }, faults, context);
                }
            }
        }
    }

    pub(crate) fn on_reply(
        &mut self,
        call: u64,
        reply: Option<&WriteReply>,
        faults: u64,
        context: &mut Context,
    ) {
        let Some(place) = self.is_waiting(call) else { return };
        let Some(work) = &mut self.work else { return };
        if matches!(work.effect, Effect::AskTails { .. }) {
            if let Some(reply) = reply.filter(|reply| reply.code == Code::Ok) {
                let (tail, authoritative) = (reply.durable_tail, reply.authoritative);
                work.tails[place] = Tail::Holds { tail, authoritative };
            }
            if work.calls.is_empty() {
                let tails = std::mem::take(&mut work.tails);
                self.tell(Event::Tails(tails), faults, context);
            }
            return;
        }
        let Some(copying) = &mut work.copying else { return };
        if let Some(reply) = reply.filter(|reply| reply.code == Code::OutOfOrder)
            && let Ok(held) = usize::try_from(reply.staged_tail.0 - copying.next.0 + 1)
            && (1..copying.part.len()).contains(&held)
        {
            // What it holds is compared on its own, the rest is read again.
            copying.part.truncate(held);
            return self.copy(context);
        }
        match reply.filter(|reply| reply.code == Code::Ok) {
            Some(reply) => {
                copying.next = EntryId(copying.next.0 + copying.part.len() as i64);
                (copying.tail, copying.tries) = (reply.durable_tail, 0);
                copying.part.clear();
                let (tail, over) = (copying.tail, copying.next > copying.copy.last);
                match over {
                    true => self.tell(Event::Copied { tail }, faults, context),
                    false => self.copy(context),
                }
            }
            None => {
                if !self.again(context) {
                    self.tell(Event::TargetFailed, faults, context);
                }
            }
        }
    }

    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&Reply>,
        faults: u64,
        context: &mut Context,
    ) {
        if self.is_waiting(call).is_none() {
            return;
        }
        let Some(work) = &mut self.work else { return };
        if work.lock == Lock::Wanted {
            // Where somebody else has it, or nobody knows, there is another turn.
            let Some(Reply::Committed(lock)) = reply else { return self.rest(context) };
            work.lock = Lock::Held(*lock);
            note!(context, "repair of {} begins", work.ledger);
            return self.carry_out(faults, context);
        }
        let is_locked = matches!(work.lock, Lock::Held(_));
        let event = match (&work.effect, reply) {
            (Effect::Read, Some(Reply::Read(values))) => Event::Read {
                mark: store::under(values.first()),
                meta: store::ledger(values.get(1)).map(|(meta, version)| (Box::new(meta), version)),
            },
            // In production the repair ends with an error, and begins anew.
            (Effect::Read, _) => return self.rest(context),
            (Effect::Swap { .. }, Some(Reply::Committed(version))) => {
                context.coverage.hit("repair: a place went to somebody else");
                Event::Swapped(CasResult::Applied(*version))
            }
            // In production it looks whether it has the lock still, and ends with an error where it has not.
            (Effect::Swap { .. }, Some(Reply::GuardFailed))
                if is_locked && context.dice.chance(500) =>
            {
                context.coverage.hit("repair: the lock was lost");
                return self.rest(context);
            }
            (Effect::Swap { .. }, Some(Reply::GuardFailed)) => {
                context.coverage.hit("repair: swap lost");
                Event::Swapped(CasResult::Lost)
            }
            (Effect::Swap { .. }, _) => Event::Swapped(CasResult::Unknown),
            (_, Some(Reply::Committed(_))) => Event::MarkRemoved(true),
            _ => Event::MarkRemoved(false),
        };
        self.tell(event, faults, context);
    }

    /// A call got no answer in time.
    pub(crate) fn on_timeout(&mut self, call: u64, faults: u64, context: &mut Context) {
        let Some(work) = &self.work else { return };
        match &work.copying {
            Some(copying) if copying.part.is_empty() => {
                self.on_query_reply(call, None, faults, context);
            }
            Some(_) => self.on_reply(call, None, faults, context),
            None if matches!(work.effect, Effect::AskTails { .. }) => {
                self.on_reply(call, None, faults, context);
            }
            None => self.on_store(call, None, faults, context),
        }
    }
}
