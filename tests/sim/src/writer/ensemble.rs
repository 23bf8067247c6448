//! How a writer gets other members for those that fail: a linearizable read, a choice, and the production core's
//! compare-and-swap, whose outcome is found out whatever happens to the replies (2.5, M9).

use geminga_ledger::core::commit::{CasResult, Commit, Next, Update};
use geminga_ledger::core::writer::{Event, Link, Phase, Replacement, Search};
use geminga_metastore::record::{Fragment, LedgerState};
use geminga_proto::ids::{EntryId, Member};

use super::Writer;
use crate::context::{Context, note, number};
use crate::event::Host;
use crate::schedule::{MS, Time};
use crate::store::{self, Key, Reply, Request, Value};

/// Changes that are counted together, and most of them.
const CHANGES_WITHIN: Time = 4_000 * MS;
const MAX_CHANGES: usize = 8;
/// Pause between searches.
const SEARCH_PAUSE: Time = 300 * MS;

/// What the store was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Whether it answers, and what the ledger is now.
    Search,
    /// To change the ensemble.
    Change,
    /// Whether it was changed.
    Resolve,
}

impl Writer {
    fn ask(&mut self, question: Question, request: Request, context: &mut Context) {
        let call = context.ask_store(Host::Broker(self.broker), self.client(), request);
        self.questions.insert(call, question);
    }

    fn get(&self) -> Request {
        Request::Get(vec![Key::Ledger(self.meta.id)])
    }

    pub(super) fn search(&mut self, context: &mut Context) {
        let now = context.now();
        self.search_at = now + SEARCH_PAUSE;
        self.questions.retain(|_, question| *question != Question::Search);
        while self.changed_at.pop_front_if(|at| now > *at + CHANGES_WITHIN).is_some() {}
        if self.changed_at.len() >= MAX_CHANGES {
            context.coverage.hit("writer: too many changes");
            return self.step(Event::Searched(Search::TooMany), context);
        }
        self.ask(Question::Search, self.get(), context);
    }

    /// Somebody is missing, and nobody is being looked for.
    pub(super) fn search_again(&mut self, context: &mut Context) {
        let searching = self.questions.values().any(|question| *question == Question::Search);
        if context.now() > self.search_at
            && !searching
            && self.core.phase() == Phase::Running
            && !self.core.missing().is_empty()
        {
            self.step(Event::SearchAgain, context);
        }
    }

    fn searched(&mut self, reply: Option<&Reply>, context: &mut Context) {
        let Some(Reply::Read(values)) = reply else {
            context.coverage.hit("writer: search unanswered");
            return self.step(Event::Searched(Search::Unanswered), context);
        };
        match store::ledger(values.first()) {
            Some((meta, version))
                if meta.state == LedgerState::Open
                    && meta.last_fragment() == self.meta.last_fragment() =>
            {
                (self.meta, self.version) = (meta, version);
            }
            _ => return self.step(Event::Deposed, context),
        }
        let found = self.replacements(context);
        self.step(Event::Searched(Search::Found(found)), context);
        for position in self.core.positions().to_vec() {
            let registered = context.registry.get(&number(&position.member));
            let there = registered.is_some_and(|there| there.member == position.member);
            if position.link == Link::Absent && there && context.dice.chance(200) {
                self.step(Event::Back { member: position.member }, context);
            }
        }
    }

    /// Others for those that are missing: no bookie of the ensemble, but for one that comes back to its own place in a new
    /// life.
    fn replacements(&self, context: &Context) -> Vec<Replacement> {
        let members: Vec<Member> =
            self.core.positions().iter().map(|position| position.member.clone()).collect();
        let mut candidates = context.place(usize::MAX, &members);
        let mut found = Vec::new();
        for position in self.core.missing() {
            let lost = &members[position];
            let elsewhere = |candidate: &Member| {
                let mut others = members.iter().filter(|member| *member != lost);
                others.any(|member| member.bookie == candidate.bookie)
            };
            let fits = candidates.iter().position(|candidate| !elsewhere(candidate));
            if let Some(fits) = fits {
                let by = candidates.remove(fits);
                let zone = context.zone(&by);
                found.push(Replacement { lost: lost.clone(), by, zone });
            }
        }
        found
    }

    pub(super) fn change(&mut self, first: EntryId, ensemble: Vec<Member>, context: &mut Context) {
        note!(context, "writer {} changes from {first} on", self.id);
        if context.network.store_out && context.dice.chance(300) {
            // The client of the store knows that it was never reached.
            context.coverage.hit("writer: change refused");
            return self.step(Event::NotChanged, context);
        }
        let update = Update::Ensemble(Fragment { first_entry: first, ensemble });
        let op = context.dice.next_u128();
        let mutations = context.settings.client_mutations;
        let (commit, next) = Commit::new(&self.meta, self.version, update, op, mutations);
        self.change = Some(commit);
        self.go_on(next, context);
    }

    fn go_on(&mut self, next: Next, context: &mut Context) {
        match next {
            Next::Cas { expected, meta } => {
                let request = Request::Txn {
                    guards: vec![(Key::Ledger(meta.id), Some(expected))],
                    puts: vec![Value::Ledger(*meta)],
                    deletes: Vec::new(),
                };
                self.ask(Question::Change, request, context);
            }
            Next::Read => self.ask(Question::Resolve, self.get(), context),
            Next::Committed(meta, version) => {
                (self.meta, self.version, self.change) = (*meta, version, None);
                self.changed_at.push_back(context.now());
                self.step(Event::Changed, context);
            }
            Next::Lost => {
                context.coverage.hit("writer: change lost to another");
                self.change = None;
                self.step(Event::Deposed, context);
            }
        }
    }

    /// The store answered, or did not in time.
    pub(crate) fn on_store(&mut self, call: u64, reply: Option<&Reply>, context: &mut Context) {
        let Some(question) = self.questions.remove(&call) else { return };
        if question == Question::Search {
            return self.searched(reply, context);
        }
        let Some(commit) = &mut self.change else { return };
        let next = match (question, reply) {
            (Question::Change, Some(Reply::Committed(version))) => {
                commit.cas_done(CasResult::Applied(*version))
            }
            (Question::Change, Some(_)) => commit.cas_done(CasResult::Lost),
            (Question::Change, None) => commit.cas_done(CasResult::Unknown),
            (_, Some(Reply::Read(values))) => {
                let now = store::ledger(values.first());
                let ours = now.as_ref().is_some_and(|(m, _)| m.last_op == commit.sent().last_op);
                let next = commit.read(now);
                if ours && next == Next::Lost {
                    // Time only, but a writer that stops for nothing.
                    let detail =
                        format!("ledger {}: its own change deposes a writer", self.meta.id);
                    context.truth.violated("M9: an operation is recognised by its maker", detail);
                }
                if matches!(next, Next::Committed(..)) {
                    context.coverage.hit("writer: unknown change found in the metadata");
                }
                next
            }
            _ => Next::Read,
        };
        self.go_on(next, context);
    }
}
