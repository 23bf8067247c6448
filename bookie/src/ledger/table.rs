//! The ledgers of one shard. Only the shard's owner task changes them (F1); queries look, under the same lock, so that
//! what they see is always the state after a whole step with its appends. The lock is never held across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use geminga_proto::ids::{EntryId, LedgerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::LedgerState;
use crate::log::Lsn;
use crate::metrics;

/// What a tailing reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Largest LAC that is known.
    pub(super) lac: EntryId,
    /// Whether it is sealed here.
    pub(super) sealed: bool,
    /// Whether it was deleted.
    pub(super) deleted: bool,
}

/// One ledger.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its state, staged records included.
    pub(super) state: LedgerState,
    /// Where its last record ends in the log: what it holds is durable once this is.
    pub(super) lsn: Lsn,
    /// A step of it panicked: nothing of the above is to be believed.
    pub(super) broken: bool,
    /// Who waits for it to change; only there while somebody does.
    standing: Option<watch::Sender<Standing>>,
}

impl Slot {
    fn new(state: LedgerState) -> Self {
        Self { state, lsn: Lsn::default(), broken: false, standing: None }
    }

    /// What it looks like to a tailing reader.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            lac: self.state.max_lac(),
            sealed: self.state.sealed_epoch().0 > 0,
            deleted: self.state.is_deleted(),
        }
    }

    /// Follows it.
    pub(super) fn watch(&mut self) -> watch::Receiver<Standing> {
        let now = self.standing();
        self.standing.get_or_insert_with(|| watch::Sender::new(now)).subscribe()
    }

    /// Tells those who wait.
    pub(super) fn publish(&mut self) {
        let now = self.standing();
        if let Some(sender) = &self.standing {
            if sender.receiver_count() == 0 {
                self.standing = None;
            } else {
                sender.send_if_modified(|seen| std::mem::replace(seen, now) != now);
            }
        }
    }
}

/// All ledgers of a shard, shared between its owner and queries.
#[derive(Debug, Clone, Default)]
pub(super) struct Table(Arc<Mutex<Slots>>);

/// The locked table.
#[derive(Debug, Default)]
pub(super) struct Slots(HashMap<LedgerId, Slot>);

impl Table {
    /// Takes in what was found in the log.
    pub(super) fn load(&self, ledgers: BTreeMap<LedgerId, LedgerState>) {
        let mut slots = self.0.lock();
        metrics::ledgers(ledgers.len() as f64);
        slots.0.extend(ledgers.into_iter().map(|(id, state)| (id, Slot::new(state))));
    }

    /// Looks, or, for the owner, changes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock()
    }
}

impl Slots {
    /// A ledger that there is a record of.
    pub(super) fn get(&mut self, ledger: LedgerId) -> Option<&mut Slot> {
        self.0.get_mut(&ledger)
    }

    /// Runs one step of the owner on a ledger. A ledger that is still unknown behind it leaves nothing behind, so that
    /// requests for ledgers that do not exist cost no memory.
    pub(super) fn step<R>(&mut self, ledger: LedgerId, step: impl FnOnce(&mut Slot) -> R) -> R {
        if let Some(slot) = self.0.get_mut(&ledger) {
            let result = step(slot);
            if !slot.broken {
                slot.publish();
            }
            return result;
        }
        let mut slot = Slot::new(LedgerState::unknown(ledger));
        let result = step(&mut slot);
        if slot.state.is_known() || slot.broken {
            metrics::ledgers(1.0);
            self.0.insert(ledger, slot);
        }
        result
    }

    /// How many ledgers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
