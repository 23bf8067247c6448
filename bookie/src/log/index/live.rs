//! What each segment is still needed for, so that one without a live run can be told (K9), and who reads it.

use std::collections::HashMap;
use std::sync::Arc;

use super::run::Run;

/// A segment's file is not removed while somebody holds one.
pub(in crate::log) type Pin = Arc<()>;

/// What a segment is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::log) struct Live {
    /// Runs that point into it.
    pub(in crate::log) runs: u64,
    /// Bytes of the records that they point at. A record that two runs share counts twice.
    pub(in crate::log) bytes: u64,
}

#[derive(Debug, Default)]
struct Use {
    live: Live,
    pin: Pin,
}

/// The segments that are, or were, needed.
#[derive(Debug, Default)]
pub(super) struct Segments(HashMap<u32, Use>);

impl Segments {
    pub(super) fn add(&mut self, run: &Run) {
        let live = &mut self.0.entry(run.place.segment).or_default().live;
        live.runs += 1;
        live.bytes += u64::from(run.place.length);
    }

    pub(super) fn take(&mut self, run: &Run) {
        let used = self.0.get_mut(&run.place.segment).expect("each run was counted in");
        used.live.runs -= 1;
        used.live.bytes -= u64::from(run.place.length);
    }

    pub(super) fn live(&self, segment: u32) -> Live {
        self.0.get(&segment).map_or_else(Live::default, |used| used.live)
    }

    pub(super) fn pin_of(&self, segment: u32) -> Option<Pin> {
        Some(Arc::clone(&self.0.get(&segment)?.pin))
    }

    /// Pins a segment unless the last pin is its own.
    pub(super) fn pin(&self, segment: u32, pins: &mut Vec<Pin>) {
        let Some(used) = self.0.get(&segment) else { return };
        if pins.last().is_none_or(|last| !Arc::ptr_eq(last, &used.pin)) {
            pins.push(Arc::clone(&used.pin));
        }
    }

    /// See [`Table::release`](super::table::Table::release).
    pub(super) fn release(&mut self, segment: u32) -> bool {
        let Some(used) = self.0.get(&segment) else { return true };
        let free = used.live.runs == 0 && Arc::strong_count(&used.pin) == 1;
        if free {
            self.0.remove(&segment);
        }
        free
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.0.capacity() * (size_of::<u32>() + size_of::<Use>() + 2 * size_of::<usize>())
    }
}

/// Counts a ledger's runs in and out.
pub(super) struct Count<'a> {
    pub(super) segments: &'a mut Segments,
    /// Bytes of the records that the ledger's runs point at.
    pub(super) bytes: &'a mut u64,
}

impl Count<'_> {
    pub(super) fn add(&mut self, run: &Run) {
        self.segments.add(run);
        *self.bytes += u64::from(run.place.length);
    }

    pub(super) fn take(&mut self, run: &Run) {
        self.segments.take(run);
        *self.bytes -= u64::from(run.place.length);
    }
}
