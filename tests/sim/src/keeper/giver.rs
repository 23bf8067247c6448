//! The environment of the production core that gives copies up: one at each bookie, one ledger at a time, under the ledger's lock.

use geminga_bookie::repair::give_up::{Effect, Event, GiveUp, is_unnamed};
use geminga_metastore::Version;
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use crate::bookie::Bookie;
use crate::context::{Context, cluster, note, number};
use crate::event::{Client, Event as WorldEvent, Host};
use crate::schedule::MS;
use crate::store::{self, Key, Reply};

/// How far it has come with a ledger.
#[derive(Debug)]
enum Stage {
    /// Whether some place names it, read as a listing would say it.
    Looking,
    Locking,
    /// Under the lock.
    Deciding {
        core: GiveUp,
        effect: Effect,
        lock: Version,
    },
}

/// The ledger that is looked at.
#[derive(Debug)]
struct Work {
    ledger: LedgerId,
    stage: Stage,
    /// The call that is waited for.
    call: Option<u64>,
}

/// Whoever gives copies up at a bookie.
#[derive(Debug)]
pub(crate) struct Giver {
    bookie: usize,
    work: Option<Work>,
    /// Changes with each wait, so that what belongs to a former one is recognised.
    turn: u64,
}

impl Giver {
    pub(crate) fn new(bookie: usize, context: &mut Context) -> Self {
        let mut giver = Self { bookie, work: None, turn: 0 };
        giver.wait(300 * MS, context);
        giver
    }

    fn wait(&mut self, after: u64, context: &mut Context) {
        self.turn += 1;
        context.schedule.after(after, WorldEvent::Giver { bookie: self.bookie, turn: self.turn });
    }

    fn rest(&mut self, context: &mut Context) {
        self.work = None;
        let pause = context.dice.range(10, 80) * MS;
        self.wait(pause, context);
    }

    fn host(&self) -> Host {
        Host::Bookie(self.bookie)
    }

    fn client(&self) -> Client {
        Client::Giver(self.bookie)
    }

    /// Begins with one of the ledgers that its bookie has entries of.
    pub(crate) fn on_turn(&mut self, turn: u64, bookie: &Bookie, context: &mut Context) {
        if turn != self.turn {
            return;
        }
        let Some(ledger) = context.dice.pick_any(bookie.held_ledgers().into_iter()) else {
            return self.rest(context);
        };
        let get = store::Request::Get(vec![Key::Ledger(ledger)]);
        let call = Some(context.ask_store(self.host(), self.client(), get));
        self.work = Some(Work { ledger, stage: Stage::Looking, call });
    }

    /// Its process is gone. Its lock goes with the lease.
    pub(crate) fn stop(&mut self, context: &mut Context) {
        self.rest(context);
    }

    fn tell(&mut self, event: Event, bookie: &mut Bookie, context: &mut Context) {
        let Some(Work { stage: Stage::Deciding { core, effect, .. }, .. }) = &mut self.work else {
            return;
        };
        *effect = core.step(event);
        self.carry_out(bookie, context);
    }

    fn carry_out(&mut self, bookie: &mut Bookie, context: &mut Context) {
        let (host, client) = (self.host(), self.client());
        let Some(work) = &mut self.work else { return };
        let Stage::Deciding { effect, lock, .. } = &work.stage else { return };
        let ledger = work.ledger;
        match effect.clone() {
            Effect::Announce => {
                let announced = bookie.begin_to_give_up(ledger);
                self.tell(Event::Announced(announced), bookie, context);
            }
            Effect::Read => {
                let keys = vec![Key::Lock(ledger), Key::Under(ledger), Key::Ledger(ledger)];
                work.call = Some(context.ask_store(host, client, store::Request::Get(keys)));
            }
            Effect::Ask { member, first } => {
                let caller = context.caller(host, client);
                work.call = Some(caller.call);
                let scope = Scope {
                    cluster: cluster(),
                    ledger,
                    fragment_first: first,
                    epoch: SealEpoch(0),
                    incarnation: member.incarnation,
                };
                let request = WriteRequest { scope, op: WriteOp::Tail };
                context.write(caller, number(&member), request);
            }
            Effect::Reach => {
                let reach = bookie.reach(ledger);
                self.tell(Event::Reach(reach), bookie, context);
            }
            Effect::Drop => {
                let dropped = bookie.give_up(ledger, context);
                context.coverage.hit(match dropped {
                    true => "give up: a copy went",
                    false => "give up: somebody sent entries meanwhile",
                });
                self.tell(Event::Dropped(dropped), bookie, context);
            }
            Effect::Finish(given_up) => {
                note!(context, "bookie-{} gives {ledger} up: {given_up}", self.bookie);
                if !given_up {
                    context.coverage.hit("give up: a copy stayed");
                }
                let give_back = store::give_back(ledger, *lock);
                context.ask_store(host, client, give_back);
                self.rest(context);
            }
        }
    }

    fn is_waiting(&mut self, call: u64) -> bool {
        self.work.as_mut().is_some_and(|work| work.call.take_if(|of| *of == call).is_some())
    }

    pub(crate) fn on_reply(
        &mut self,
        call: u64,
        reply: Option<&WriteReply>,
        bookie: &mut Bookie,
        context: &mut Context,
    ) {
        if self.is_waiting(call) {
            let tail = reply.filter(|reply| reply.code == Code::Ok && reply.authoritative);
            let tail: Option<EntryId> = tail.map(|reply| reply.durable_tail);
            self.tell(Event::Tail(tail), bookie, context);
        }
    }

    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&Reply>,
        bookie: &mut Bookie,
        context: &mut Context,
    ) {
        if !self.is_waiting(call) {
            return;
        }
        let (host, client) = (self.host(), self.client());
        let Some(work) = &mut self.work else { return };
        let ledger = work.ledger;
        match (&work.stage, reply) {
            (Stage::Looking, Some(Reply::Read(values))) => {
                let meta = store::ledger(values.first());
                if !meta.is_some_and(|(meta, _)| is_unnamed(&meta, &bookie.member())) {
                    return self.rest(context);
                }
                work.stage = Stage::Locking;
                work.call = Some(context.ask_store(host, client, store::take(ledger)));
            }
            (Stage::Locking, Some(Reply::Committed(lock))) => {
                let mutations = context.settings.bookie_mutations;
                let (core, effect) = GiveUp::new(bookie.member(), mutations);
                work.stage = Stage::Deciding { core, effect, lock: *lock };
                self.carry_out(bookie, context);
            }
            (Stage::Deciding { lock, .. }, Some(Reply::Read(values))) => {
                let locked = store::lock(values.first()) == Some(*lock);
                if !locked {
                    context.coverage.hit("give up: the lock was lost");
                }
                let marked = store::under(values.get(1)).is_some();
                let meta = store::ledger(values.get(2)).map(|(meta, _)| meta);
                self.tell(Event::Read { locked, marked, meta }, bookie, context);
            }
            // In production the round ends with an error, or the lock is somebody's, or goes with the lease.
            _ => self.rest(context),
        }
    }

    /// A call got no answer in time.
    pub(crate) fn on_timeout(&mut self, call: u64, bookie: &mut Bookie, context: &mut Context) {
        let asks = |work: &Work| match &work.stage {
            Stage::Deciding { effect, .. } => matches!(effect, Effect::Ask { .. }),
            Stage::Looking | Stage::Locking => false,
        };
        match self.work.as_ref().is_some_and(asks) {
            true => self.on_reply(call, None, bookie, context),
            false => self.on_store(call, None, bookie, context),
        }
    }
}
