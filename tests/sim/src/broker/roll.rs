//! How a broker goes from one ledger to the next in one transaction (2.8), and deletes the oldest.

use geminga_metastore::Version;
use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier,
};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use super::{Broker, DRAIN, Question, Role};
use crate::context::{Context, note};
use crate::store::{self, Chain, Key, Reply, Request, Value};

/// A ledger to be, and the chain with it.
#[derive(Debug, Clone)]
pub(super) struct Successor {
    pub(super) meta: LedgerMeta,
    pub(super) chain: Chain,
}

/// A close to be committed, perhaps with a successor.
#[derive(Debug, Clone)]
pub(super) struct Close {
    op: u128,
    last: EntryId,
    length: u64,
    successor: Option<Successor>,
}

impl Broker {
    /// The next ledger on bookies that have a lease; none while there are too few.
    pub(super) fn successor(&mut self, context: &mut Context) -> Option<Successor> {
        let (qw, qa) = (context.settings.qw, context.settings.qa);
        let ensemble = context.place(usize::from(qw), &[]);
        if ensemble.len() < usize::from(qa) {
            return None;
        }
        let op = context.dice.next_u128();
        let meta = LedgerMeta {
            id: context.new_ledger(),
            state: LedgerState::Open,
            seal_epoch: SealEpoch(0),
            qw: u8::try_from(ensemble.len()).expect("at most qw"),
            qa,
            digest: Digest::Crc32c,
            degraded: ensemble.len() < usize::from(qw),
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
            last_entry: None,
            length: 0,
            entries_crc: None,
            tier: Tier::Local,
            close_kind: None,
            recoverer: String::new(),
            last_op: op,
            custom: Custom::default(),
            created_ms: 0,
            owner: String::new(),
        };
        let mut chain = self.chain.clone();
        chain.ledgers.push(meta.id);
        chain.last_op = op;
        Some(Successor { meta, chain })
    }

    /// Begins a roll when it is time, and closes once nothing is in flight or the drain is over.
    pub(super) fn tick_roll(&mut self, context: &mut Context) {
        let Some(writer) = &mut self.writer else { return };
        if self.role != Role::Writing {
            return;
        }
        let full = writer.lap().0 + 1 >= context.settings.ledger_entries;
        let over = context.healing && self.carry.is_empty();
        let drain = if full { DRAIN } else { 4 * DRAIN };
        if (full || over || context.dice.chance(2)) && self.rolling.is_none() {
            self.rolling = Some(context.now() + drain);
        }
        let drained = writer.lac() == writer.lap();
        if self.rolling.is_some_and(|until| drained || context.now() > until) && writer.is_running()
        {
            writer.close(context);
            self.serve(context);
        }
        if self.role == Role::Writing
            && self.chain.ledgers.len() > context.settings.keep_ledgers
            && context.dice.chance(40)
        {
            let oldest = self.chain.ledgers[0];
            let get = Request::Get(vec![Key::Ledger(oldest)]);
            self.ask(Question::ReadToTrim(oldest), get, context);
        }
    }

    pub(super) fn commit_close(&mut self, last: EntryId, context: &mut Context) {
        let length = self.writer.as_ref().map_or(0, crate::writer::Writer::acked_length);
        let successor = match context.healing && self.carry.is_empty() {
            true => None,
            false => self.successor(context),
        };
        self.turn(Role::Closing, context);
        let op = context.dice.next_u128();
        self.send_close(Close { op, last, length, successor }, context);
    }

    fn send_close(&mut self, close: Close, context: &mut Context) {
        let Some(writer) = &self.writer else { return };
        let closed = LedgerMeta {
            state: LedgerState::Closed,
            last_entry: Some(close.last),
            length: close.length,
            entries_crc: Some(0),
            tier: Tier::Local,
            close_kind: Some(CloseKind::Writer),
            last_op: close.op,
            ..writer.meta.clone()
        };
        let mut guards = vec![
            (Key::Ledger(closed.id), Some(writer.version)),
            (Key::Chain, Some(self.chain_version)),
        ];
        let mut puts = vec![Value::Ledger(closed)];
        if let Some(Successor { meta, chain }) = &close.successor {
            guards.push((Key::Ledger(meta.id), None));
            puts.extend([Value::Chain(chain.clone()), Value::Ledger(meta.clone())]);
        }
        let request = Request::Txn { guards, puts, deletes: Vec::new() };
        self.ask(Question::Close(close), request, context);
    }

    pub(super) fn close_done(&mut self, close: Close, reply: Option<Reply>, context: &mut Context) {
        match reply {
            Some(Reply::Committed(version)) => self.closed(close, version, context),
            _ => self.ask_after_close(close, context),
        }
    }

    fn ask_after_close(&mut self, close: Close, context: &mut Context) {
        let Some(writer) = &self.writer else { return };
        let mut keys = vec![Key::Chain, Key::Ledger(writer.meta.id)];
        keys.extend(close.successor.as_ref().map(|successor| Key::Ledger(successor.meta.id)));
        self.ask(Question::ResolveClose(close), Request::Get(keys), context);
    }

    fn closed(&mut self, close: Close, version: Version, context: &mut Context) {
        context.coverage.hit("writer: rolled");
        let Some(writer) = &mut self.writer else { return };
        writer.close_committed(context);
        self.serve(context);
        self.drop_writer(context);
        match close.successor {
            Some(Successor { meta, chain }) => {
                (self.chain, self.chain_version) = (chain, version);
                self.open(meta, version, context);
            }
            None => self.create(context),
        }
    }

    /// M9 and the merge rule: ours by its operation, lost when another has the ledger or the chain, tried again otherwise.
    pub(super) fn resolve_close(
        &mut self,
        mut close: Close,
        reply: Option<Reply>,
        context: &mut Context,
    ) {
        let Some(Reply::Read(values)) = reply else { return self.ask_after_close(close, context) };
        let Some(writer) = &mut self.writer else { return };
        let (now, chain) = (store::ledger(values.get(1)), store::chain(values.first()));
        let ours = now.as_ref().is_some_and(|(meta, _)| meta.last_op == close.op);
        let mine = chain.as_ref().is_some_and(|(chain, _)| chain.term == self.chain.term);
        match now {
            // Also when the chain is another's by now: the entries have their end.
            Some(_) if ours => {
                context.coverage.hit("store: unknown outcome resolved as applied");
                writer.close_committed(context);
                self.serve(context);
                self.drop_writer(context);
                if !self.adopt(values.first(), context) {
                    return;
                }
                match store::ledger(values.get(2)) {
                    Some((meta, version)) if meta.state == LedgerState::Open => {
                        self.open(meta, version, context);
                    }
                    _ => self.examine(context),
                }
            }
            Some((meta, version))
                if mine
                    && meta.state == LedgerState::Open
                    && meta.last_fragment() == writer.meta.last_fragment() =>
            {
                context.coverage.hit("store: unknown outcome resolved as not applied");
                (writer.meta, writer.version) = (meta, version);
                if let Some((chain, version)) = chain {
                    if let Some(successor) = &mut close.successor {
                        let mut next = chain.clone();
                        next.ledgers.push(successor.meta.id);
                        next.last_op = successor.meta.last_op;
                        successor.chain = next;
                    }
                    (self.chain, self.chain_version) = (chain, version);
                }
                self.send_close(close, context);
            }
            _ => {
                note!(context, "broker-{} could not close its ledger", self.index);
                writer.close_lost(context);
                self.serve(context);
            }
        }
    }

    /// Deletes the oldest ledger, if it is closed: it leaves the chain and becomes `DELETING` in one transaction (7.8).
    pub(super) fn trim(&mut self, ledger: LedgerId, reply: Option<Reply>, context: &mut Context) {
        let Some(Reply::Read(values)) = reply else { return };
        let Some((mut meta, version)) = store::ledger(values.first()) else { return };
        if self.role != Role::Writing || meta.state != LedgerState::Closed {
            return;
        }
        meta.state = LedgerState::Deleting;
        meta.last_op = context.dice.next_u128();
        let mut chain = self.chain.clone();
        chain.ledgers.retain(|id| *id != ledger);
        chain.last_op = meta.last_op;
        let request = Request::Txn {
            guards: vec![
                (Key::Ledger(ledger), Some(version)),
                (Key::Chain, Some(self.chain_version)),
            ],
            puts: vec![Value::Ledger(meta), Value::Chain(chain.clone())],
            deletes: Vec::new(),
        };
        self.ask(Question::Trim(chain), request, context);
    }

    pub(super) fn trimmed(&mut self, chain: Chain, reply: Option<Reply>, context: &mut Context) {
        match reply {
            Some(Reply::Committed(version)) if version > self.chain_version => {
                (self.chain, self.chain_version) = (chain, version);
            }
            _ => self.ask(Question::Refresh, Request::Get(vec![Key::Chain]), context),
        }
    }

    pub(super) fn refreshed(&mut self, reply: Option<Reply>, context: &mut Context) {
        if let Some(Reply::Read(values)) = reply
            && let Some((chain, version)) = store::chain(values.first())
            && chain.term == self.chain.term
            && version > self.chain_version
        {
            note!(context, "broker-{} refreshes the chain", self.index);
            (self.chain, self.chain_version) = (chain, version);
        }
    }
}
