//! What opening a log builds from what it finds: the ledgers of the disk, the tombstones, and where entries are.

use std::collections::BTreeMap;

use geminga_proto::ids::LedgerId;

use super::footer::{Extent, Item};
use super::index::{Index, Place};
use super::segment;
use super::snapshot::Image;
use crate::ledger::{LedgerState, Record, Tombstones};

/// The ledgers of a log.
#[derive(Debug)]
pub(super) struct Ledgers {
    pub(super) ledgers: BTreeMap<LedgerId, LedgerState>,
    pub(super) tombstones: Tombstones,
}

impl Ledgers {
    /// Whether entries may be needed: their ledger was neither deleted nor trimmed, and they came back if it was given up.
    fn hold(&self, extent: &Extent) -> bool {
        let dropped = || {
            self.ledgers.get(&extent.ledger).is_some_and(|state| {
                let given_up = state.is_given_up() && !state.held().contains(extent.first);
                state.trimmed().is_some() || given_up
            })
        };
        !self.tombstones.contains(extent.ledger) && !dropped()
    }
}

/// The state of a log's records so far.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) ledgers: Ledgers,
    pub(super) index: Index,
}

impl Rebuilt {
    /// Begins with what a snapshot says, and an empty index.
    pub(super) fn from_image(image: Image, index: Index) -> Self {
        let ledgers = image.ledgers.into_iter().map(|ledger| (ledger.id(), ledger)).collect();
        Self { ledgers: Ledgers { ledgers, tombstones: image.tombstones }, index }
    }

    /// Applies a record of `segment`. A tombstone is the last word about its ledger (F4).
    pub(super) fn apply(&mut self, segment: u64, item: &Item) {
        let ledger = match item {
            Item::Extent(extent) => extent.ledger,
            Item::Record(ledger, _) => *ledger,
        };
        let Ledgers { ledgers, tombstones } = &mut self.ledgers;
        if tombstones.contains(ledger) {
            return;
        }
        if matches!(item, Item::Record(_, Record::Tombstone)) {
            tombstones.insert(ledger);
            ledgers.remove(&ledger);
            self.index.get_mut().remove(ledger);
            return;
        }
        let state = ledgers.entry(ledger).or_insert_with(|| LedgerState::unknown(ledger));
        match item {
            // A copy that was moved while its ledger was trimmed is nobody's.
            Item::Extent(_) if state.trimmed().is_some() => {}
            Item::Extent(extent) => {
                state.hold(extent.first, extent.count as usize, extent.lac);
                self.locate(segment, extent);
            }
            Item::Record(_, record) => {
                state.apply(record);
                if record.drops_entries() {
                    self.index.get_mut().remove(ledger);
                }
            }
        }
    }

    /// Takes in where entries are, of a segment whose records a snapshot covers.
    pub(super) fn locate_only(&mut self, segment: u64, items: &[Item]) {
        for item in items {
            match item {
                Item::Extent(extent) if self.ledgers.hold(extent) => {
                    self.locate(segment, extent);
                }
                Item::Extent(_) | Item::Record(..) => {}
            }
        }
    }

    fn locate(&mut self, segment: u64, extent: &Extent) {
        let place = Place {
            segment: segment::short(segment),
            offset: extent.offset,
            length: extent.length,
        };
        self.index.get_mut().insert(extent.ledger, extent.first, extent.count, place);
    }
}
