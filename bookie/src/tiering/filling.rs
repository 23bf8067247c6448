//! Disks that fill up (protocol 5.8): which they are, and what is on them. A bookie that is to leave takes no data either, and its disks
//! do not count for that.

use std::collections::BTreeSet;

use geminga_proto::ids::LedgerId;

use crate::handle::BookieHandle;
use crate::ledger::{DiskLedgers, Fullness};

fn disks(handle: &BookieHandle) -> impl Iterator<Item = &DiskLedgers> {
    handle.disks().iter().filter(|disk| disk.used() >= Fullness::Warn)
}

/// Whether there is one.
pub(super) fn is_any(handle: &BookieHandle) -> bool {
    disks(handle).next().is_some()
}

/// The ledgers that they hold.
pub(super) fn ledgers(handle: &BookieHandle) -> BTreeSet<LedgerId> {
    disks(handle).flat_map(|disk| disk.held().into_keys()).collect()
}

/// Whether one of them holds this ledger.
pub(super) fn is_on(handle: &BookieHandle, ledger: LedgerId) -> bool {
    disks(handle).any(|disk| disk.log().bytes_of(ledger) > 0)
}
