//! The environment of the production core that uploads, trims and drops: one ledger of a bookie at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_bookie::tiering::core::{Effect, Event, Head, KeepLocal, Now, Offload, Timing, Wanted};
use geminga_ledger::core::commit::CasResult;
use geminga_metastore::record::{LedgerMeta, Tier};
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, Scope};
use geminga_proto::entry;
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};
use geminga_tier::{Names, Summary};

use crate::bookie::Bookie;
use crate::context::{Context, cluster, note, number};
use crate::event::{Client, Event as WorldEvent, Host};
use crate::objects::Fate;
use crate::schedule::MS;
use crate::store::{self, Key, Reply, Value};

/// Reads of one entry before an upload is given up.
const TRIES: usize = 8;
const TIMING: Timing = Timing { look_ms: 100, take_over_ms: 300, pace: 1 << 20 };
const WANTED: Wanted = Wanted {
    upload_from_ms: Some(0),
    keep_local: KeepLocal::Ms(100),
    hurries: false,
    leaves: false,
};

/// What is streamed, or was.
#[derive(Debug)]
struct Sent {
    attempt: u128,
    meta: LedgerMeta,
    entries: Vec<Bytes>,
    length: u64,
    tries: usize,
}

/// The ledger that is looked at.
#[derive(Debug)]
struct Work {
    ledger: LedgerId,
    effect: Effect,
    /// The call that is waited for.
    call: Option<u64>,
    sent: Option<Sent>,
    /// The object that was there when it was asked for.
    saw: Option<u128>,
}

/// A bookie's uploader.
#[derive(Debug)]
pub(crate) struct Uploader {
    bookie: usize,
    offloads: BTreeMap<LedgerId, Offload>,
    work: Option<Work>,
    last: LedgerId,
    /// Changes with each wait, so that what belongs to a former one is recognised.
    turn: u64,
}

impl Uploader {
    pub(crate) fn new(bookie: usize, context: &mut Context) -> Self {
        let (offloads, work) = (BTreeMap::new(), None);
        let mut uploader = Self { bookie, offloads, work, last: LedgerId(0), turn: 0 };
        uploader.wait(200 * MS, context);
        uploader
    }

    fn wait(&mut self, after: u64, context: &mut Context) {
        self.turn += 1;
        let event = WorldEvent::Uploader { bookie: self.bookie, turn: self.turn };
        context.schedule.after(after, event);
    }

    fn rest(&mut self, context: &mut Context) {
        self.work = None;
        let pause = context.dice.range(20, 120) * MS;
        self.wait(pause, context);
    }

    fn host(&self) -> Host {
        Host::Bookie(self.bookie)
    }

    /// A wait is over: a call to the object store arrives, or it is time for a ledger.
    pub(crate) fn on_turn(&mut self, turn: u64, bookie: &mut Bookie, context: &mut Context) {
        if turn != self.turn {
            return;
        }
        if !bookie.is_running() {
            // It begins anew with its process.
            self.offloads.clear();
            return self.rest(context);
        }
        match &self.work {
            None => self.look(bookie, context),
            Some(_) => self.call_objects(bookie, context),
        }
    }

    fn look(&mut self, bookie: &mut Bookie, context: &mut Context) {
        let held = bookie.held_ledgers();
        self.offloads.retain(|ledger, _| held.contains(ledger));
        let next = held.range(LedgerId(self.last.0 + 1)..).next().copied();
        self.last = next.unwrap_or_default();
        let Some(ledger) = next else { return self.rest(context) };
        let (member, mutations) = (bookie.member(), context.settings.tier_mutations);
        let offload = self.offloads.entry(ledger).or_insert_with(|| {
            Offload::new(member, cluster(), Names::of("memory://"), TIMING, mutations)
        });
        let effect = offload.look();
        self.work = Some(Work { ledger, effect, call: None, sent: None, saw: None });
        self.carry_out(bookie, context);
    }

    fn tell(&mut self, event: Event, bookie: &mut Bookie, context: &mut Context) {
        let Some(work) = &mut self.work else { return };
        let Some(offload) = self.offloads.get_mut(&work.ledger) else { return self.rest(context) };
        let ms = i64::try_from(context.now() / MS).unwrap_or(i64::MAX);
        let now = Now { ms, fresh: context.dice.next_u128() };
        work.effect = offload.step(now, event);
        self.carry_out(bookie, context);
    }

    fn carry_out(&mut self, bookie: &mut Bookie, context: &mut Context) {
        let (host, client) = (self.host(), Client::Uploader(self.bookie));
        let Some(work) = &mut self.work else { return };
        let key = Key::Ledger(work.ledger);
        match work.effect.clone() {
            Effect::Read => {
                let get = store::Request::Get(vec![key]);
                work.call = Some(context.ask_store(host, client, get));
            }
            Effect::Cas { expected, meta } => {
                self.judge_trim(&meta, context);
                let request = store::Request::Txn {
                    guards: vec![(key, Some(expected))],
                    puts: vec![Value::Ledger(*meta)],
                    deletes: Vec::new(),
                };
                let call = context.ask_store(host, client, request);
                if let Some(work) = &mut self.work {
                    work.call = Some(call);
                }
            }
            Effect::Stream { attempt, meta } => {
                let (entries, length, tries) = (Vec::new(), 0, 0);
                work.sent = Some(Sent { attempt, meta: *meta, entries, length, tries });
                self.read_next(bookie, context);
            }
            Effect::Complete | Effect::Abort | Effect::ReadBack { .. } | Effect::Head(_) => {
                let delay = context.object_delay();
                self.wait(delay, context);
            }
            Effect::Drop { last, attempt } => {
                let (ledger, saw) = (work.ledger, work.saw);
                judge_drop(ledger, attempt, saw, context);
                bookie.trim(ledger, last, attempt, context);
                context.coverage.hit("tier: copy dropped for an object");
                self.tell(Event::Dropped, bookie, context);
            }
            Effect::LookAt(_) | Effect::Done | Effect::Alarm(_) => self.rest(context),
        }
    }

    /// 7.4 step 7: only for what was there.
    fn judge_trim(&self, meta: &LedgerMeta, context: &mut Context) {
        let saw = self.work.as_ref().and_then(|work| work.saw);
        if let Tier::Trimmed(object) = &meta.tier
            && saw != Some(object.attempt)
        {
            let detail = format!("ledger {}: nobody saw its object", meta.id);
            context.truth.violated("I14: copies go for an object that was seen", detail);
        }
    }

    fn call_objects(&mut self, bookie: &mut Bookie, context: &mut Context) {
        let Some(work) = &mut self.work else { return };
        let (ledger, effect) = (work.ledger, work.effect.clone());
        let fate = context.object_fate(effect == Effect::Complete);
        let known = !matches!(fate, Fate::Refused | Fate::ReplyLost);
        let event = match (effect, &work.sent) {
            (Effect::Complete, Some(sent)) => {
                if fate != Fate::Refused {
                    let size = size_of(&sent.entries);
                    let entries = sent.entries.clone();
                    context.objects.publish((ledger, sent.attempt), entries, size, fate);
                }
                Event::Completed(known)
            }
            (Effect::Abort, Some(sent)) => {
                context.objects.remove(ledger, sent.attempt);
                Event::Failed
            }
            (Effect::ReadBack { object, .. }, _) => {
                let seen = context.objects.seen(ledger, object.attempt);
                Event::ReadBack(seen.filter(|_| known))
            }
            (Effect::Head(object), _) => {
                let seen = context.objects.seen(ledger, object.attempt);
                work.saw = seen.as_ref().map(|_| object.attempt).filter(|_| known);
                Event::Head(match seen {
                    _ if !known => Head::Unknown,
                    Some(seen) => Head::There(seen),
                    None => Head::Gone,
                })
            }
            _ => Event::Failed,
        };
        self.tell(event, bookie, context);
    }

    /// Asks a member for the next entries that are to be sent.
    fn read_next(&mut self, bookie: &mut Bookie, context: &mut Context) {
        let (host, client) = (self.host(), Client::Uploader(self.bookie));
        let Some(work) = &mut self.work else { return };
        let Some(sent) = &mut work.sent else { return };
        let last = sent.meta.last_entry.unwrap_or(EntryId::NONE);
        let from = EntryId(sent.entries.len() as i64);
        if from > last {
            let summary = summary(sent);
            return self.tell(Event::Streamed(Some(summary)), bookie, context);
        }
        if sent.tries >= TRIES {
            return self.tell(Event::Streamed(None), bookie, context);
        }
        let fragment = sent.meta.fragment_of(from);
        let member = &fragment.ensemble[sent.tries % fragment.ensemble.len()];
        sent.tries += 1;
        let scope = Scope {
            cluster: cluster(),
            ledger: work.ledger,
            fragment_first: fragment.first_entry,
            epoch: SealEpoch(0),
            incarnation: member.incarnation,
        };
        let op = QueryOp::Read { from, to: last, max_bytes: 8_000, prefix_bytes: None };
        let caller = context.caller(host, client);
        work.call = Some(caller.call);
        context.query(caller, number(member), QueryRequest { scope, op });
    }

    pub(crate) fn on_query_reply(
        &mut self,
        call: u64,
        reply: Option<QueryReply>,
        bookie: &mut Bookie,
        context: &mut Context,
    ) {
        let Some(work) = self.work.as_mut().filter(|work| work.call == Some(call)) else { return };
        work.call = None;
        let Some(sent) = &mut work.sent else { return };
        for bytes in
            reply.filter(|reply| reply.code == Code::Ok).into_iter().flat_map(|r| r.entries)
        {
            // As production does: each digest, and none missing.
            let due = EntryId(sent.entries.len() as i64);
            let Ok(entry) = entry::decode_expecting(cluster(), work.ledger, due, &bytes) else {
                break;
            };
            sent.length += u64::from(entry.payload_len);
            sent.entries.push(bytes);
            sent.tries = 0;
        }
        self.read_next(bookie, context);
    }

    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&Reply>,
        bookie: &mut Bookie,
        context: &mut Context,
    ) {
        let Some(work) = self.work.as_mut().filter(|work| work.call == Some(call)) else { return };
        work.call = None;
        let event = match (&work.effect, reply) {
            (Effect::Read, Some(Reply::Read(values))) => {
                Event::Read(store::ledger(values.first()), WANTED)
            }
            (Effect::Read, _) => Event::Unreadable,
            (_, Some(Reply::Committed(version))) => Event::Cas(CasResult::Applied(*version)),
            (_, Some(Reply::GuardFailed)) => Event::Cas(CasResult::Lost),
            _ => Event::Cas(CasResult::Unknown),
        };
        self.tell(event, bookie, context);
    }

    /// A call to a bookie, or to the metadata store, got no answer in time.
    pub(crate) fn on_timeout(&mut self, call: u64, bookie: &mut Bookie, context: &mut Context) {
        let streams = |work: &Work| matches!(work.effect, Effect::Stream { .. });
        match self.work.as_ref().is_some_and(streams) {
            true => self.on_query_reply(call, None, bookie, context),
            false => self.on_store(call, None, bookie, context),
        }
    }

    /// Its process is gone, and what it was about to do.
    pub(crate) fn stop(&mut self, context: &mut Context) {
        if self.work.is_some() {
            note!(context, "the uploader of bookie-{} dies", self.bookie);
            context.coverage.hit("tier: uploader died");
        }
        self.offloads.clear();
        self.rest(context);
    }
}

/// Bytes of an object of these.
fn size_of(entries: &[Bytes]) -> u64 {
    100 + entries.iter().map(|bytes| bytes.len() as u64).sum::<u64>()
}

fn summary(sent: &Sent) -> Summary {
    Summary {
        entries: sent.entries.len() as u64,
        length: sent.length,
        // Nobody in this world keeps a digest of a whole ledger.
        entries_crc: sent.meta.entries_crc.unwrap_or_default(),
        size: size_of(&sent.entries),
        object_crc: 0,
        index_place: 0,
    }
}

/// 7.4 step 8: metadata says so, and the object was there.
fn judge_drop(ledger: LedgerId, attempt: u128, saw: Option<u128>, context: &mut Context) {
    let meta = context.truth.ledgers.get(&ledger).and_then(|truth| truth.live());
    // One that is deleted nobody wants any more.
    let Some(meta) = meta else { return };
    let trimmed = matches!(&meta.tier, Tier::Trimmed(object) if object.attempt == attempt);
    if !trimmed || saw != Some(attempt) || !context.has_object(ledger) {
        let detail = format!("ledger {ledger}: dropped for upload {attempt:x}");
        context.truth.violated("I14: copies go for an object that was seen", detail);
    }
}
