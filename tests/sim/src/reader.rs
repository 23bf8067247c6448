//! Whoever reads ledgers and looks after deleted ones: asks any member for any entry, and removes the keys of ledgers that
//! are being deleted. What it is answered is checked where it is answered.

use geminga_metastore::record::LedgerState;
use geminga_proto::bookie::{QueryOp, QueryRequest, Scope};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use crate::context::{Context, cluster, number};
use crate::event::{Client, Event, Host};
use crate::schedule::MS;
use crate::store::{Key, Request, Store};

/// Reads something, and plans the next read.
pub(crate) fn read(store: &Store, context: &mut Context) {
    let pause = context.dice.range(5, 60) * MS;
    context.schedule.after(pause, Event::Read);
    let ledgers: Vec<LedgerId> =
        context.truth.ledgers.iter().filter(|(_, l)| l.meta.is_some()).map(|(id, _)| *id).collect();
    if ledgers.is_empty() {
        return;
    }
    let ledger = *context.dice.pick(&ledgers);
    let truth = &context.truth.ledgers[&ledger];
    let Some(meta) = &truth.meta else { return };
    if meta.state == LedgerState::Deleting {
        return remove(ledger, store, context);
    }
    // One beyond the last as well, where absence is the right answer.
    let count = usize::try_from(truth.pushed().0 + 2).expect("at least one");
    let from = EntryId(context.dice.below(count) as i64);
    let to = EntryId(from.0 + context.dice.below(20) as i64);
    let fragment = meta.fragment_of(from);
    let member = context.dice.pick(&fragment.ensemble).clone();
    let scope = Scope {
        cluster: cluster(),
        ledger,
        fragment_first: fragment.first_entry,
        epoch: SealEpoch(0),
        incarnation: member.incarnation,
    };
    let op = QueryOp::Read { from, to, max_bytes: 2_000, prefix_bytes: None };
    let caller = context.caller(Host::Reader, Client::Reader);
    context.query(caller, number(&member), QueryRequest { scope, op });
}

/// The last step of a deletion: the key goes.
fn remove(ledger: LedgerId, store: &Store, context: &mut Context) {
    let key = Key::Ledger(ledger);
    let request = Request::Txn {
        guards: vec![(key, store.version(key))],
        puts: Vec::new(),
        deletes: vec![key],
    };
    context.ask_store(Host::Reader, Client::Reader, request);
}
