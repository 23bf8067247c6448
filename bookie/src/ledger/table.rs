//! The ledgers of one shard. Only the shard's owner task changes them (F1); queries look, under the same lock, so that
//! what they see is always the state after a whole step with its appends. The lock is never held across an await.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use geminga_proto::ids::{EntryId, LedgerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{LedgerState, Tombstones};
use crate::log::{Image, Lsn};
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
pub(super) struct Slots {
    known: HashMap<LedgerId, Slot>,
    deleted: Tombstones,
}

impl Table {
    /// Takes in what was found in the log: the ledgers of this shard, and the tombstones of all.
    pub(super) fn load(&self, ledgers: BTreeMap<LedgerId, LedgerState>, deleted: &Tombstones) {
        let mut slots = self.0.lock();
        metrics::ledgers(ledgers.len() as f64);
        slots.known.extend(ledgers.into_iter().map(|(id, state)| (id, Slot::new(state))));
        slots.deleted.extend(deleted);
    }

    /// Looks, or, for the owner, changes.
    pub(super) fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock()
    }
}

impl Slots {
    /// A ledger that there is a record of, and that was not deleted.
    pub(super) fn get(&mut self, ledger: LedgerId) -> Option<&mut Slot> {
        self.known.get_mut(&ledger)
    }

    /// The ledgers that were not deleted.
    pub(super) fn ids(&self) -> impl Iterator<Item = LedgerId> + '_ {
        self.known.keys().copied()
    }

    /// Whether a tombstone stands for it.
    pub(super) fn is_deleted(&self, ledger: LedgerId) -> bool {
        self.deleted.contains(ledger)
    }

    /// Runs one step of the owner on a ledger. A ledger that is still unknown behind it leaves nothing behind, so that
    /// requests for ledgers that do not exist cost no memory; one that is deleted leaves its tombstone.
    pub(super) fn step<R>(&mut self, ledger: LedgerId, step: impl FnOnce(&mut Slot) -> R) -> R {
        if let Some(slot) = self.known.get_mut(&ledger) {
            let result = step(slot);
            if slot.broken {
                return result;
            }
            slot.publish();
            if slot.state.is_deleted() {
                self.known.remove(&ledger);
                self.deleted.insert(ledger);
                metrics::ledgers(-1.0);
            }
            return result;
        }
        if self.deleted.contains(ledger) {
            return step(&mut Slot::new(LedgerState::deleted(ledger)));
        }
        let mut slot = Slot::new(LedgerState::unknown(ledger));
        let result = step(&mut slot);
        if slot.state.is_deleted() && !slot.broken {
            self.deleted.insert(ledger);
        } else if slot.state.is_known() || slot.broken {
            metrics::ledgers(1.0);
            self.known.insert(ledger, slot);
        }
        result
    }

    /// Adds all that is known to an image of the disk's table; `None` when one of them cannot be believed: memory may be
    /// ahead of the log there, for good.
    pub(super) fn copy_to(&self, image: &mut Image) -> Option<()> {
        if self.known.values().any(|slot| slot.broken) {
            return None;
        }
        image.ledgers.extend(self.known.values().map(|slot| slot.state.clone()));
        image.tombstones.extend(&self.deleted);
        Some(())
    }

    /// How many ledgers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 5.5: memory that may be ahead of the log is in no snapshot, and neither is anything beside it.
    #[test]
    fn a_broken_ledger_stops_snapshots() {
        let table = Table::default();
        let states = [1, 2].map(LedgerId).map(|id| (id, LedgerState::unknown(id)));
        table.load(states.into(), &Tombstones::default());
        let copy = || {
            let mut image = Image::default();
            table.lock().copy_to(&mut image).map(|()| image.ledgers.len())
        };
        assert_eq!(copy(), Some(2));
        table.lock().step(LedgerId(2), |slot| slot.broken = true);
        assert_eq!(copy(), None);
    }
}
