//! The environment of the production recovery core: calls outside any connection, repeated when they get no answer.
//! Everything that follows a change of the core is in this file.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_ledger::core::commit::CasResult;
use geminga_ledger::core::recovery::{Effect, Event, Finish, Recovery, Stop};
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_proto::bookie::{
    Code, QueryOp, QueryReply, QueryRequest, Scope, WriteOp, WriteReply, WriteRequest,
};
use geminga_proto::entry;
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

use crate::context::{Context, Errand, cluster, note, number};
use crate::event::{Client, Event as WorldEvent, Host, RecovererTimer};
use crate::schedule::{MS, Time};
use crate::store::{self, Key, Value};

/// How long a member that has not answered its seal is waited for once enough have.
const GRACE: Time = 20 * MS;
/// How long copies beyond the ack quorum are waited for.
const COPY_GRACE: Time = 60 * MS;
/// How long an attempt takes at most.
const DEADLINE: Time = 1_500 * MS;
/// Pause before what got no answer is asked again.
const PAUSE: Time = 40 * MS;
/// How often a part of a copy is tried.
const COPY_ATTEMPTS: u32 = 4;
/// Bytes of one part.
const COPY_BYTES: u32 = 3_000;

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    ReadMeta,
    Cas,
    Seal(usize),
    CopyRead(usize),
    CopyAdd(usize),
    Length,
    Poll,
}

/// A copy under way, by target.
#[derive(Debug, Clone)]
struct Copy {
    from: Member,
    to: Member,
    fragment_first: EntryId,
    next: EntryId,
    last: EntryId,
    tail: EntryId,
    /// What was read and is not yet taken.
    part: Vec<Bytes>,
    left: u32,
}

/// A seal that is repeated until it is answered.
#[derive(Debug, Clone)]
struct Sealing {
    member: Member,
    epoch: SealEpoch,
    fragment_first: EntryId,
}

/// A recoverer of one ledger.
#[derive(Debug)]
pub(crate) struct Recoverer {
    pub(crate) id: u32,
    pub(crate) host: Host,
    pub(crate) ledger: LedgerId,
    /// The broker that waits for it, and its life.
    owner: Option<(usize, u32)>,
    core: Recovery,
    attempt: u32,
    questions: BTreeMap<u64, Question>,
    seals: BTreeMap<usize, Sealing>,
    copies: BTreeMap<usize, Copy>,
    /// The positions that others are looked for, and who is not wanted.
    search: Option<(Vec<usize>, Vec<Member>)>,
    /// The entry whose header tells the length, and which member to ask next.
    length: Option<(EntryId, usize)>,
    /// Another recoverer is followed until then.
    following: Option<Time>,
    /// This attempt marked the ledger and seals it, or goes on from there, whatever others have done since.
    at_work: bool,
    pub(crate) done: bool,
}

impl Recoverer {
    pub(crate) fn new(errand: Errand, context: &mut Context) -> Self {
        let Errand { host, ledger, owner } = errand;
        let id = context.new_client();
        let (core, effects) = begin(id, context);
        let mut recoverer = Self {
            id,
            host,
            ledger,
            owner,
            core,
            attempt: 0,
            questions: BTreeMap::new(),
            seals: BTreeMap::new(),
            copies: BTreeMap::new(),
            search: None,
            length: None,
            following: None,
            at_work: false,
            done: false,
        };
        note!(context, "recoverer {id} begins with {ledger}");
        recoverer.carry_out(effects, context);
        recoverer
    }

    /// Killed: what is to be recovered all the same, if anybody waits for it.
    pub(crate) fn handed_back(&self) -> Option<Errand> {
        let Self { host, ledger, owner, .. } = *self;
        (owner.is_some() && !self.done).then_some(Errand { host, ledger, owner })
    }

    /// Whether it recovers this ledger now: its mark is in the metadata, or was, and its attempt has not ended.
    pub(crate) fn recovers(&self, ledger: LedgerId) -> bool {
        self.at_work && self.ledger == ledger
    }

    /// Begins anew.
    fn restart(&mut self, context: &mut Context) {
        self.attempt += 1;
        self.questions.clear();
        self.seals.clear();
        self.copies.clear();
        (self.length, self.following, self.search) = (None, None, None);
        let (core, effects) = begin(self.id, context);
        self.core = core;
        self.carry_out(effects, context);
    }

    fn client(&self) -> Client {
        Client::Recoverer(self.id)
    }

    fn timer(&self, after: Time, timer: RecovererTimer, context: &mut Context) {
        let event = WorldEvent::Recoverer { id: self.id, attempt: self.attempt, timer };
        context.schedule.after(after, event);
    }

    fn step(&mut self, event: Event, context: &mut Context) {
        let effects = self.core.step(event);
        self.carry_out(effects, context);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, context: &mut Context) {
        for effect in effects {
            match effect {
                Effect::ReadMeta => self.read_meta(Question::ReadMeta, context),
                Effect::Cas { expected, meta } => {
                    let request = store::Request::Txn {
                        guards: vec![(Key::Ledger(self.ledger), Some(expected))],
                        puts: vec![Value::Ledger(*meta)],
                        deletes: Vec::new(),
                    };
                    let call = context.ask_store(self.host, self.client(), request);
                    self.questions.insert(call, Question::Cas);
                }
                Effect::Seal { position, member, epoch, fragment_first } => {
                    self.at_work = true;
                    self.seals.insert(position, Sealing { member, epoch, fragment_first });
                    self.seal(position, context);
                }
                Effect::StartDeadline => self.timer(DEADLINE, RecovererTimer::Deadline, context),
                Effect::StartGrace => self.timer(GRACE, RecovererTimer::Grace, context),
                Effect::StartCopyGrace => {
                    self.timer(COPY_GRACE, RecovererTimer::CopyGrace, context);
                }
                Effect::StartPause => {
                    context.coverage.hit("recovery: sources asked again");
                    self.timer(PAUSE, RecovererTimer::Pause, context);
                }
                Effect::Copy { from, target, to, fragment_first, first, last } => {
                    context.coverage.hit("recovery: entries copied");
                    let (part, tail, left) = (Vec::new(), first.prev(), COPY_ATTEMPTS);
                    let copy =
                        Copy { from, to, fragment_first, next: first, last, tail, part, left };
                    self.copies.insert(target, copy);
                    self.copy(target, context);
                }
                Effect::ReadLength(last) => {
                    self.length = Some((last, 0));
                    self.read_length(context);
                }
                Effect::Search { lost, shunned } => {
                    self.search = Some((lost, shunned));
                    self.search(context);
                }
                Effect::FindEnd(_) => unreachable!("nobody gives anything up here"),
                // The members hear of the end when the attempt is finished; marks are nobody's to read here.
                Effect::TellClosed { .. } | Effect::MarkUnder(_) => {}
                Effect::Finish(finish) => self.finish(finish, context),
            }
        }
    }

    fn finish(&mut self, finish: Finish, context: &mut Context) {
        let (id, ledger) = (self.id, self.ledger);
        self.at_work = false;
        self.attempt += 1;
        self.questions.clear();
        match finish {
            Finish::Closed(meta) => {
                note!(context, "recoverer {id}: {ledger} ends at {:?}", meta.last_entry);
                context.truth.adopted(ledger, meta.last_entry);
                self.tell_closed(&meta, context);
                self.end(context);
            }
            Finish::Gone => self.end(context),
            Finish::Follow => {
                context.coverage.hit("recovery: followed another");
                note!(context, "recoverer {id} follows another");
                self.following = Some(context.now() + 2 * DEADLINE);
                self.timer(PAUSE, RecovererTimer::Poll, context);
            }
            Finish::Stopped(stop) => {
                context.coverage.hit(match stop {
                    Stop::Missing(_) => "recovery: stopped for want of members",
                    Stop::AcknowledgedLost { .. } => "recovery: stopped for lost entries",
                    Stop::Unreadable(_) => "recovery: stopped for unreadable entries",
                });
                note!(context, "recoverer {id} stops: {stop:?}");
                match self.owner {
                    Some(_) => {
                        let pause = context.dice.range(100, 400) * MS;
                        self.timer(pause, RecovererTimer::Restart, context);
                    }
                    None => self.done = true,
                }
            }
        }
    }

    /// S7, best effort.
    fn tell_closed(&mut self, meta: &LedgerMeta, context: &mut Context) {
        let Some(last) = meta.last_entry else { return };
        let fragment = meta.last_fragment();
        for member in &fragment.ensemble {
            let scope = self.scope(member, meta.seal_epoch, fragment.first_entry);
            let request = WriteRequest { scope, op: WriteOp::Closed(last) };
            let caller = context.caller(self.host, self.client());
            context.write(caller, number(member), request);
        }
    }

    fn end(&mut self, context: &mut Context) {
        self.done = true;
        if let Some((broker, life)) = self.owner {
            let event = WorldEvent::Recovered { broker, life, ledger: self.ledger };
            context.schedule.after(0, event);
        }
    }

    pub(crate) fn on_timer(&mut self, attempt: u32, timer: RecovererTimer, context: &mut Context) {
        if attempt != self.attempt || self.done {
            return;
        }
        match timer {
            RecovererTimer::Grace => self.step(Event::GraceOver, context),
            RecovererTimer::Deadline => self.step(Event::DeadlineOver, context),
            RecovererTimer::CopyGrace => self.step(Event::CopyGraceOver, context),
            RecovererTimer::Pause => self.step(Event::PauseOver, context),
            RecovererTimer::Seal(position) => self.seal(position, context),
            RecovererTimer::Copy(target) => self.copy(target, context),
            RecovererTimer::Search => self.search(context),
            RecovererTimer::Length => self.read_length(context),
            RecovererTimer::Poll => self.read_meta(Question::Poll, context),
            RecovererTimer::Restart => self.restart(context),
        }
    }

    fn scope(&self, member: &Member, epoch: SealEpoch, fragment_first: EntryId) -> Scope {
        Scope {
            cluster: cluster(),
            ledger: self.ledger,
            fragment_first,
            epoch,
            incarnation: member.incarnation,
        }
    }

    fn read_meta(&mut self, question: Question, context: &mut Context) {
        let get = store::Request::Get(vec![Key::Ledger(self.ledger)]);
        let call = context.ask_store(self.host, self.client(), get);
        self.questions.insert(call, question);
    }

    fn write(
        &mut self,
        question: Question,
        member: &Member,
        request: WriteRequest,
        context: &mut Context,
    ) {
        let caller = context.caller(self.host, self.client());
        self.questions.insert(caller.call, question);
        context.write(caller, number(member), request);
    }

    fn query(
        &mut self,
        question: Question,
        member: &Member,
        request: QueryRequest,
        context: &mut Context,
    ) {
        let caller = context.caller(self.host, self.client());
        self.questions.insert(caller.call, question);
        context.query(caller, number(member), request);
    }

    fn seal(&mut self, position: usize, context: &mut Context) {
        let Some(sealing) = self.seals.get(&position).cloned() else { return };
        let scope = self.scope(&sealing.member, sealing.epoch, sealing.fragment_first);
        let request = WriteRequest { scope, op: WriteOp::Seal };
        self.write(Question::Seal(position), &sealing.member, request, context);
    }

    /// The epoch of the seal.
    fn epoch(&self) -> SealEpoch {
        self.core.meta().expect("copying follows sealing").seal_epoch
    }

    /// Goes on with a copy: reads the next part, or sends the one that was read.
    fn copy(&mut self, target: usize, context: &mut Context) {
        let Some(copy) = self.copies.get(&target).cloned() else { return };
        let epoch = self.epoch();
        if copy.part.is_empty() {
            let scope = self.scope(&copy.from, epoch, copy.fragment_first);
            let (from, to) = (copy.next, copy.last);
            let op = QueryOp::Read { from, to, max_bytes: COPY_BYTES, prefix_bytes: None };
            self.query(Question::CopyRead(target), &copy.from, QueryRequest { scope, op }, context);
        } else {
            let scope = self.scope(&copy.to, epoch, copy.fragment_first);
            let op = WriteOp::RecoveryAdd { first: copy.next, entries: copy.part };
            self.write(Question::CopyAdd(target), &copy.to, WriteRequest { scope, op }, context);
        }
    }

    /// Who may stand in for members that are lost; asked again until there is somebody.
    fn search(&mut self, context: &mut Context) {
        let Some((lost, shunned)) = &self.search else { return };
        let Some(meta) = self.core.meta() else { return };
        let ensemble = meta.last_fragment().ensemble.clone();
        let mut candidates = context.place(usize::MAX, &ensemble);
        candidates.retain(|candidate| {
            shunned.iter().chain(&ensemble).all(|member| member.bookie != candidate.bookie)
        });
        let found: Vec<(Member, Member)> =
            lost.iter().map(|position| ensemble[*position].clone()).zip(candidates).collect();
        if found.is_empty() {
            return self.timer(PAUSE, RecovererTimer::Search, context);
        }
        self.search = None;
        context.coverage.hit("recovery: others stand in");
        self.step(Event::Found(found), context);
    }

    /// A part of a copy got no good answer; false when it was the last try.
    fn copy_again(&mut self, target: usize, context: &mut Context) -> bool {
        let Some(copy) = self.copies.get_mut(&target) else { return true };
        copy.left -= 1;
        let again = copy.left > 0;
        if again {
            self.timer(PAUSE, RecovererTimer::Copy(target), context);
        } else {
            self.copies.remove(&target);
        }
        again
    }

    fn part_read(&mut self, target: usize, reply: Option<QueryReply>, context: &mut Context) {
        let Some(copy) = self.copies.get_mut(&target) else { return };
        let (from, entry) = (copy.from.clone(), copy.next);
        match reply {
            Some(reply) if reply.code == Code::Ok && !reply.entries.is_empty() => {
                (copy.part, copy.left) = (reply.entries, COPY_ATTEMPTS);
                self.copy(target, context);
            }
            Some(reply) if reply.code == Code::Corrupt => {
                self.copies.remove(&target);
                let failed = Event::SourceFailed { from, target, entry, corrupt: true };
                self.step(failed, context);
            }
            _ => {
                if !self.copy_again(target, context) {
                    let failed = Event::SourceFailed { from, target, entry, corrupt: false };
                    self.step(failed, context);
                }
            }
        }
    }

    fn part_added(&mut self, target: usize, reply: Option<&WriteReply>, context: &mut Context) {
        if let (Some(reply), Some(copy)) = (reply, self.copies.get_mut(&target))
            && reply.code == Code::OutOfOrder
            && let Ok(held) = usize::try_from(reply.staged_tail.0 - copy.next.0 + 1)
            && (1..copy.part.len()).contains(&held)
        {
            // What it holds is compared on its own, the rest is read again.
            context.coverage.hit("recovery: part held already");
            copy.part.truncate(held);
            return self.copy(target, context);
        }
        let event = match reply {
            Some(reply) => Event::from_recovery_add(target, reply),
            None => Event::TargetFailed { target },
        };
        match event {
            Event::Copied { tail, .. } => {
                let Some(copy) = self.copies.get_mut(&target) else { return };
                copy.next = EntryId(copy.next.0 + copy.part.len() as i64);
                (copy.tail, copy.left) = (tail, COPY_ATTEMPTS);
                copy.part.clear();
                if copy.next > copy.last {
                    self.copies.remove(&target);
                    self.step(Event::Copied { target, tail }, context);
                } else {
                    self.copy(target, context);
                }
            }
            Event::TargetFailed { .. } => {
                if !self.copy_again(target, context) {
                    self.step(Event::TargetFailed { target }, context);
                }
            }
            other => {
                context.coverage.hit("recovery: stale");
                self.step(other, context);
            }
        }
    }

    fn read_length(&mut self, context: &mut Context) {
        let (Some((last, turn)), Some(meta)) = (self.length, self.core.final_meta()) else {
            return;
        };
        let fragment = meta.fragment_of(last);
        let member = fragment.ensemble[turn % fragment.ensemble.len()].clone();
        let scope = self.scope(&member, meta.seal_epoch, fragment.first_entry);
        let op = QueryOp::Read { from: last, to: last, max_bytes: 0, prefix_bytes: None };
        self.length = Some((last, turn + 1));
        self.query(Question::Length, &member, QueryRequest { scope, op }, context);
    }

    fn length_read(&mut self, reply: Option<&QueryReply>, context: &mut Context) {
        let Some((last, _)) = self.length else { return };
        let read = reply
            .and_then(|reply| reply.entries.first())
            .and_then(|bytes| entry::decode_expecting(cluster(), self.ledger, last, bytes).ok());
        match read {
            Some(entry) => {
                self.length = None;
                self.step(Event::LengthRead(entry.position.cumulative_length), context);
            }
            None => self.timer(PAUSE, RecovererTimer::Length, context),
        }
    }

    fn poll(&mut self, reply: Option<&store::Reply>, context: &mut Context) {
        let Some(until) = self.following else { return };
        let read = match reply {
            Some(store::Reply::Read(values)) => Some(store::ledger(values.first())),
            _ => None,
        };
        match read {
            Some(None) => return self.end(context),
            Some(Some((meta, _)))
                if matches!(meta.state, LedgerState::Closed | LedgerState::Deleting) =>
            {
                return self.end(context);
            }
            _ => {}
        }
        if context.now() > until {
            return self.restart(context);
        }
        let pause = PAUSE + context.dice.range(0, 60) * MS;
        self.timer(pause, RecovererTimer::Poll, context);
    }

    /// The store answered, or did not in time.
    pub(crate) fn on_store(
        &mut self,
        call: u64,
        reply: Option<&store::Reply>,
        context: &mut Context,
    ) {
        match (self.questions.remove(&call), reply) {
            (Some(Question::ReadMeta), Some(store::Reply::Read(values))) => {
                self.step(Event::meta_read(store::ledger(values.first())), context);
            }
            (Some(Question::ReadMeta), _) => self.read_meta(Question::ReadMeta, context),
            (Some(Question::Cas), reply) => {
                let result = match reply {
                    Some(store::Reply::Committed(version)) => CasResult::Applied(*version),
                    Some(_) => CasResult::Lost,
                    None => CasResult::Unknown,
                };
                self.step(Event::CasDone(result), context);
            }
            (Some(Question::Poll), reply) => self.poll(reply, context),
            _ => {}
        }
    }

    pub(crate) fn on_reply(&mut self, call: u64, reply: &WriteReply, context: &mut Context) {
        match self.questions.remove(&call) {
            Some(Question::Seal(position)) => match Event::from_seal(position, reply) {
                Some(event) => {
                    if event == Event::Stale {
                        context.coverage.hit("recovery: stale");
                    }
                    self.seals.remove(&position);
                    self.step(event, context);
                }
                None => {
                    self.timer(PAUSE, RecovererTimer::Seal(position), context);
                    self.step(Event::SealUnknown { position }, context);
                }
            },
            Some(Question::CopyAdd(target)) => self.part_added(target, Some(reply), context),
            _ => {}
        }
    }

    pub(crate) fn on_query_reply(&mut self, call: u64, reply: QueryReply, context: &mut Context) {
        match self.questions.remove(&call) {
            Some(Question::CopyRead(target)) => self.part_read(target, Some(reply), context),
            Some(Question::Length) => self.length_read(Some(&reply), context),
            _ => {}
        }
    }

    /// A call got no answer.
    pub(crate) fn on_timeout(&mut self, call: u64, context: &mut Context) {
        match self.questions.get(&call).copied() {
            Some(Question::ReadMeta | Question::Cas | Question::Poll) => {
                self.on_store(call, None, context);
            }
            Some(question) => {
                self.questions.remove(&call);
                match question {
                    Question::Seal(position) => {
                        self.seal(position, context);
                        self.step(Event::SealUnknown { position }, context);
                    }
                    Question::CopyRead(target) => self.part_read(target, None, context),
                    Question::CopyAdd(target) => self.part_added(target, None, context),
                    Question::Length => self.length_read(None, context),
                    Question::ReadMeta | Question::Cas | Question::Poll => {}
                }
            }
            None => {}
        }
    }
}

fn begin(id: u32, context: &mut Context) -> (Recovery, Vec<Effect>) {
    let op = context.dice.next_u128();
    Recovery::new(format!("recoverer-{id}"), op, context.settings.client_mutations)
}
