//! What opening a log builds from what it finds: the ledgers of the disk, the tombstones, and where entries are.

use std::collections::BTreeMap;

use geminga_proto::ids::LedgerId;

use super::footer::{Extent, Item};
use super::index::{Index, Place};
use super::segment;
use super::snapshot::Image;
use crate::ledger::{LedgerState, Record, Tombstones};

/// The state of a log's records so far.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) ledgers: BTreeMap<LedgerId, LedgerState>,
    pub(super) tombstones: Tombstones,
    pub(super) index: Index,
}

impl Rebuilt {
    /// Begins with what a snapshot says.
    pub(super) fn from_image(image: Image) -> Self {
        let ledgers = image.ledgers.into_iter().map(|ledger| (ledger.id(), ledger)).collect();
        Self { ledgers, tombstones: image.tombstones, index: Index::default() }
    }

    /// Applies a record of `segment`. A tombstone is the last word about its ledger (F4).
    pub(super) fn apply(&mut self, segment: u64, item: &Item) {
        let ledger = match item {
            Item::Extent(extent) => extent.ledger,
            Item::Record(ledger, _) => *ledger,
        };
        if self.tombstones.contains(ledger) {
            return;
        }
        if matches!(item, Item::Record(_, Record::Tombstone)) {
            self.tombstones.insert(ledger);
            self.ledgers.remove(&ledger);
            self.index.remove(ledger);
            return;
        }
        let state = self.ledgers.entry(ledger).or_insert_with(|| LedgerState::unknown(ledger));
        match item {
            Item::Extent(extent) => {
                state.hold(extent.first, extent.count as usize, extent.lac);
                self.locate(segment, extent);
            }
            Item::Record(_, record) => state.apply(record),
        }
    }

    /// Takes in where entries are, of a segment whose records a snapshot covers.
    pub(super) fn locate_only(&mut self, segment: u64, items: &[Item]) {
        for item in items {
            match item {
                Item::Extent(extent) if !self.tombstones.contains(extent.ledger) => {
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
        self.index.insert(extent.ledger, extent.first, extent.count, place);
    }
}
