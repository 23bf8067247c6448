//! How a broker comes to own the chain: raises its term, recovers every ledger that is not closed, resolves what was unknown
//! by their ends (W9), and creates the next.

use std::collections::BTreeSet;

use geminga_metastore::record::LedgerState;
use geminga_proto::ids::{EntryId, LedgerId};

use super::roll::Successor;
use super::{Broker, Question, Role};
use crate::context::{Context, Errand, note};
use crate::store::{self, Chain, Key, Reply, Request, Value};

/// How often a claim is tried.
const CLAIM_ATTEMPTS: u32 = 6;

impl Broker {
    /// The coordinator gives it the chain.
    pub(crate) fn take_over(&mut self, context: &mut Context) {
        if self.is_running() && !self.is_active() {
            self.claim_attempts = 0;
            self.session = context.new_call();
            self.turn(Role::Claiming, context);
            self.read_to_claim(context);
        }
    }

    pub(super) fn read_to_claim(&mut self, context: &mut Context) {
        self.claim_attempts += 1;
        if self.claim_attempts > CLAIM_ATTEMPTS {
            return self.leave(context);
        }
        self.ask(Question::ReadToClaim, Request::Get(vec![Key::Chain]), context);
    }

    pub(super) fn claim(&mut self, reply: Option<Reply>, context: &mut Context) {
        let Some(Reply::Read(values)) = reply else { return self.retry(context) };
        let Some((chain, version)) = store::chain(values.first()) else { return };
        let chain = Chain {
            term: chain.term + 1,
            owner: self.index,
            last_op: context.dice.next_u128(),
            ..chain
        };
        let request = Request::Txn {
            guards: vec![(Key::Chain, Some(version))],
            puts: vec![Value::Chain(chain.clone())],
            deletes: Vec::new(),
        };
        self.ask(Question::Claim(chain), request, context);
    }

    pub(super) fn claimed(&mut self, chain: Chain, reply: Option<Reply>, context: &mut Context) {
        match reply {
            Some(Reply::Committed(version)) => {
                (self.chain, self.chain_version) = (chain, version);
                self.examine(context);
            }
            // Whether an unknown claim took place does not matter: the next raises the term again.
            _ => self.retry(context),
        }
    }

    /// Looks at the chain and all its ledgers.
    pub(super) fn examine(&mut self, context: &mut Context) {
        self.turn(Role::Recovering(BTreeSet::new()), context);
        let ledgers = self.chain.ledgers.clone();
        let mut keys = vec![Key::Chain];
        keys.extend(ledgers.iter().map(|id| Key::Ledger(*id)));
        self.ask(Question::Examine(ledgers), Request::Get(keys), context);
    }

    pub(super) fn examined(
        &mut self,
        ledgers: &[LedgerId],
        reply: Option<Reply>,
        context: &mut Context,
    ) {
        let Some(Reply::Read(values)) = reply else { return self.retry(context) };
        if !self.adopt(values.first(), context) {
            return;
        }
        if self.chain.ledgers != ledgers {
            return self.examine(context);
        }
        let mut open = BTreeSet::new();
        let mut ends = Vec::new();
        for (id, read) in ledgers.iter().zip(&values[1..]) {
            match store::ledger(Some(read)) {
                Some((meta, _)) if meta.state == LedgerState::Closed => {
                    ends.push((*id, meta.last_entry.unwrap_or(EntryId::NONE)));
                }
                Some((meta, _)) if meta.state == LedgerState::Deleting => {}
                Some(_) => {
                    open.insert(*id);
                }
                None => {}
            }
        }
        if open.is_empty() {
            self.resolve_unknown(&ends, context);
            return self.create(context);
        }
        for ledger in &open {
            let owner = Some((self.index, self.life));
            context.to_recover.push(Errand { host: self.host(), ledger: *ledger, owner });
        }
        self.turn(Role::Recovering(open), context);
    }

    /// Takes the chain as it was read; false, and nothing is owned, when another has it.
    pub(super) fn adopt(&mut self, read: Option<&store::Read>, context: &mut Context) -> bool {
        let Some((chain, version)) = store::chain(read) else { return false };
        if chain.term != self.chain.term {
            note!(context, "broker-{} has lost the chain", self.index);
            self.leave(context);
            return false;
        }
        (self.chain, self.chain_version) = (chain, version);
        true
    }

    /// W9: written again only what the closed ledger does not hold.
    fn resolve_unknown(&mut self, ends: &[(LedgerId, EntryId)], context: &mut Context) {
        for (ledger, entry, payload) in self.unknown.drain(..).rev() {
            match ends.iter().find(|(id, _)| *id == ledger) {
                Some((_, end)) if entry <= *end => {
                    context.coverage.hit("outcome: unknown, found in the closed ledger");
                    context.truth.acknowledged(payload);
                }
                Some(_) => {
                    context.coverage.hit("outcome: unknown, written again");
                    self.carry.push_front(payload);
                }
                None => {}
            }
        }
    }

    /// A ledger that it waits for is closed or gone.
    pub(crate) fn on_recovered(&mut self, life: u32, ledger: LedgerId, context: &mut Context) {
        if life != self.life {
            return;
        }
        let Role::Recovering(open) = &mut self.role else { return };
        if open.remove(&ledger) && open.is_empty() {
            self.examine(context);
        }
    }

    pub(super) fn create(&mut self, context: &mut Context) {
        if context.healing && self.carry.is_empty() {
            return self.leave(context);
        }
        self.turn(Role::Creating, context);
        let Some(successor) = self.successor(context) else { return self.retry(context) };
        let request = Request::Txn {
            guards: vec![
                (Key::Chain, Some(self.chain_version)),
                (Key::Ledger(successor.meta.id), None),
            ],
            puts: vec![
                Value::Chain(successor.chain.clone()),
                Value::Ledger(successor.meta.clone()),
            ],
            deletes: Vec::new(),
        };
        self.ask(Question::Create(successor), request, context);
    }

    pub(super) fn created(
        &mut self,
        successor: Successor,
        reply: Option<Reply>,
        context: &mut Context,
    ) {
        match reply {
            Some(Reply::Committed(version)) => {
                (self.chain, self.chain_version) = (successor.chain, version);
                self.open(successor.meta, version, context);
            }
            Some(Reply::GuardFailed) => self.examine(context),
            _ => self.ask_after_create(successor, context),
        }
    }

    fn ask_after_create(&mut self, successor: Successor, context: &mut Context) {
        let keys = vec![Key::Chain, Key::Ledger(successor.meta.id)];
        self.ask(Question::ResolveCreate(successor), Request::Get(keys), context);
    }

    /// M9: a creation whose outcome is unknown is read.
    pub(super) fn resolve_create(
        &mut self,
        successor: Successor,
        reply: Option<Reply>,
        context: &mut Context,
    ) {
        let Some(Reply::Read(values)) = reply else {
            return self.ask_after_create(successor, context);
        };
        if !self.adopt(values.first(), context) {
            return;
        }
        match store::ledger(values.get(1)) {
            Some((meta, version)) if meta.state == LedgerState::Open => {
                context.coverage.hit("store: unknown outcome resolved as applied");
                self.open(meta, version, context);
            }
            Some(_) => self.examine(context),
            None => {
                context.coverage.hit("store: unknown outcome resolved as not applied");
                self.create(context);
            }
        }
    }
}
