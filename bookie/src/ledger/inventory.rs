//! What a disk holds, page by page, for an audit (protocol 6.8). Changes nothing; what is told of each ledger is the state after a whole
//! step, as every query sees it.

use bytes::Bytes;
use geminga_proto::bookie::{Code, LocalLedger, MAX_INVENTORY, QueryReply};
use geminga_proto::ids::LedgerId;

use super::owner::BROKEN;
use super::table::{Slot, Table};
use crate::log::Log;

/// One page of the ledgers of these tables.
pub(super) fn page<'a>(
    tables: impl Iterator<Item = &'a Table>,
    log: &Log,
    after: Option<LedgerId>,
    max_ledgers: u32,
) -> QueryReply {
    let behind = |ledger: &LedgerId| after.is_none_or(|after| *ledger > after);
    let mut found: Vec<(LedgerId, &Table)> = Vec::new();
    for table in tables {
        found.extend(table.lock().ids().filter(behind).map(|ledger| (ledger, table)));
    }
    found.sort_unstable_by_key(|(ledger, _)| *ledger);
    found.truncate(max_ledgers.min(MAX_INVENTORY) as usize);
    let mut entries: Vec<Bytes> = Vec::with_capacity(found.len());
    for (ledger, table) in found {
        let mut slots = table.lock();
        match slots.get(ledger) {
            // Deleted since.
            None => {}
            // What memory says of it counts for nothing: an audit without it would take it for lost.
            Some(slot) if slot.broken => return QueryReply::refusal(Code::IoError, BROKEN),
            Some(slot) => entries.push(local(slot, log.bytes_of(ledger)).encode()),
        }
    }
    QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") }
}

fn local(slot: &Slot, bytes: u64) -> LocalLedger {
    let state = &slot.state;
    LocalLedger {
        ledger: state.id(),
        sealed_epoch: state.sealed_epoch(),
        closed: state.closed(),
        max_lac: state.max_lac(),
        runs: state.held().runs().to_vec(),
        trimmed: state.trimmed(),
        bytes,
    }
}
