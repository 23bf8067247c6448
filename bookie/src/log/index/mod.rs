//! Where entries are: for each ledger, runs of entries that one record holds (protocol 5.5). It holds durable entries only, so what it
//! does not know is not there.
//!
//! Runs of a ledger are sorted and never overlap: what is written later wins, and an older run keeps what is left of it. Beside
//! them stands what each segment is still needed for, so that a segment without a live run can be told (K9). Whoever looks
//! a run up also gets a pin on its segment, which keeps the file for as long as it is being read.
//!
//! Memory is bounded: [`Index::tidy`] writes the oldest runs down ([`spill`]) until what is left fits. What stays of a chunk that is on
//! the disk, and of a ledger, grows with what is stored; where that leaves less than a quarter of the limit, a quarter is for runs all the
//! same: the newest are in memory, and whoever writes or reads at the tail waits for no disk. A footer has these runs, too, but by
//! segment: where many ledgers alternate each has a run or two in a segment, and to know which segments to ask would take as
//! much memory as the runs. What is on the disk is there for all questions. An answer that takes it is given to whoever may wait for
//! the disk, and is otherwise none: never absence (K1). Changes of it wait until it is read, and are made before anybody is
//! answered from it; until then no segment counts as unneeded that is needed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use geminga_proto::ids::{EntryId, LedgerId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::footer::Extent;
use super::format::Seed;
use super::metrics;
use crate::io::Disk;

use chunks::{Loaded, Lookup, Settled};
use spill::Spill;
use table::{Oldest, Table, Victim};

mod chunks;
mod find;
mod live;
mod run;
mod spill;
mod table;

pub(super) use find::{Located, Wanted};
pub(super) use live::Pin;
pub(super) use run::{Piece, Place};
pub(super) use spill::is_left_over;

/// So many chunks are read into memory for changes that were put off before some are written down again.
const MAX_RESTORED: usize = 256;

/// The index of one log. The lock is held for moments only, and never while the disk works.
#[derive(Debug)]
pub(super) struct Index {
    table: RwLock<Table>,
    spill: Spill,
    /// Bytes of memory.
    limit: usize,
    /// What the metric was told.
    told: AtomicUsize,
    /// Whether the operator was told that the limit is too low.
    warned: AtomicBool,
    /// Most bytes that there ever were when some were to be given back.
    #[cfg(test)]
    pub(super) most: AtomicUsize,
}

/// What settling many changes has taken since memory was given back.
#[derive(Debug, Default)]
struct Restored {
    chunks: usize,
    /// Whether a change was made: otherwise the chunks in memory may be those that the next one needs.
    made: bool,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.tell(0);
    }
}

impl Index {
    /// An empty one, of a log on `disk`, that is to take no more than `limit` bytes of memory after each [`Index::tidy`].
    pub(super) fn new(disk: Arc<dyn Disk>, seed: Seed, limit: usize) -> Self {
        let spill = Spill::new(disk, seed);
        Self {
            table: RwLock::default(),
            spill,
            limit,
            told: AtomicUsize::new(0),
            warned: AtomicBool::new(false),
            #[cfg(test)]
            most: AtomicUsize::new(0),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read()
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write()
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.read().memory()
    }

    /// The table, for whoever has all of the index.
    pub(super) fn get_mut(&mut self) -> &mut Table {
        self.table.get_mut()
    }

    /// Where entries are, if that can be told from memory; see [`Index::find`].
    pub(super) fn find_in_memory(&self, ledger: LedgerId, wanted: Wanted) -> Option<Located> {
        match self.read().find(ledger, wanted, &Loaded::new()) {
            Lookup::Found(located) => Some(located),
            Lookup::Stored(_) | Lookup::Unsettled => None,
        }
    }

    /// The pieces that hold `from` and what follows it without a gap, up to `to`, or until they are sure to hold
    /// `max_bytes`. Empty when `from` is not there. Blocks.
    ///
    /// # Errors
    /// What the disk says; then nothing is known.
    pub(super) fn find(&self, ledger: LedgerId, wanted: Wanted) -> io::Result<Located> {
        self.look_up(ledger, |table, loaded| table.find(ledger, wanted, loaded))
    }

    /// The pieces of an extent that are still to be read from its segment. Blocks.
    ///
    /// # Errors
    /// As [`Index::find`].
    pub(super) fn pieces_in(&self, segment: u32, extent: &Extent) -> io::Result<Vec<Piece>> {
        self.look_up(extent.ledger, |table, loaded| table.pieces_in(segment, extent, loaded))
    }

    /// Drops what segment `segment` holds of entries `from..=to`. Blocks. Where the disk fails, it is dropped before anybody is
    /// answered.
    pub(super) fn forget(&self, ledger: LedgerId, from: EntryId, to: EntryId, segment: u32) {
        self.write().forget(ledger, from, to, segment);
        if let Err(error) = self.settle(ledger, None) {
            tracing::warn!(%ledger, %error, "a part of the index cannot be read; trying again");
        }
    }

    /// Reads what an answer takes, chunk by chunk, until it is one.
    fn look_up<T>(
        &self,
        ledger: LedgerId,
        look: impl Fn(&Table, &Loaded) -> Lookup<T>,
    ) -> io::Result<T> {
        let mut loaded = Loaded::new();
        loop {
            let looked = look(&self.read(), &loaded);
            match looked {
                Lookup::Found(found) => return Ok(found),
                Lookup::Unsettled => self.settle(ledger, None)?,
                Lookup::Stored(stored) => {
                    loaded.extend(self.load(ledger, stored)?.map(|runs| (stored.id, runs)));
                }
            }
        }
    }

    /// Reads a chunk of a ledger; `None` when it was given up meanwhile.
    fn load(&self, ledger: LedgerId, stored: spill::Stored) -> io::Result<Option<Vec<run::Run>>> {
        match self.spill.read(stored) {
            Ok(runs) => {
                metrics::index_loaded();
                Ok(Some(runs))
            }
            Err(_) if !self.read().holds(ledger, stored) => Ok(None),
            Err(error) => {
                metrics::index_failed();
                Err(error)
            }
        }
    }

    /// Makes the changes of a ledger that were put off. Blocks. With `restored`, memory is given back in between.
    fn settle(&self, ledger: LedgerId, mut restored: Option<&mut Restored>) -> io::Result<()> {
        loop {
            let settled = self.write().settle(ledger);
            let (stored, made) = match settled {
                Settled::All => return Ok(()),
                Settled::Some => continue,
                Settled::Needs(stored, made) => (stored, made),
            };
            if let Some(restored) = restored.as_deref_mut() {
                restored.made |= made;
                if restored.chunks >= MAX_RESTORED && restored.made {
                    *restored = Restored::default();
                    self.shorten(self.bound())?;
                }
                restored.chunks += 1;
            }
            let Some(runs) = self.load(ledger, stored)? else { continue };
            if self.write().restore(ledger, stored, runs) {
                self.spill.free(stored);
            }
            #[cfg(test)]
            self.most.fetch_max(self.memory(), Ordering::Relaxed);
        }
    }

    /// Bytes that may stay in memory.
    fn bound(&self) -> usize {
        self.limit.max(self.read().fixed() + self.limit / 4)
    }

    /// Makes what was put off, and writes the oldest runs down until the rest fits in memory. Blocks. One caller at a time. What
    /// fails is tried again at the next call; memory grows beyond its limit meanwhile.
    pub(super) fn tidy(&self) {
        self.tidy_to(0);
    }

    /// [`Index::tidy`] if there is more than fits, for an index that grows fast; it leaves some room, so as not to be at it all the time.
    pub(super) fn make_room(&self) {
        if self.memory() > self.bound() {
            self.tidy_to(self.limit / 8);
        }
    }

    fn tidy_to(&self, below: usize) {
        #[cfg(test)]
        self.most.fetch_max(self.memory(), Ordering::Relaxed);
        let settled = [self.settle_all(), self.bury()];
        for done in settled.into_iter().chain([self.shorten(self.bound() - below)]) {
            if let Err(error) = done {
                metrics::index_failed();
                tracing::warn!(%error, "a part of the index cannot be read or written; trying again");
            }
        }
        let (bytes, fixed) = {
            let mut table = self.write();
            table.trim_turns();
            (table.memory(), table.fixed())
        };
        self.tell(bytes);
        let short = fixed > self.limit / 4 * 3;
        if short && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::error!(
                fixed,
                limit = self.limit,
                "the index of a disk takes more memory than it is meant to, and goes on to grow with what is stored: give the bookie more memory, or spread the data over more disks"
            );
        }
    }

    fn settle_all(&self) -> io::Result<()> {
        let (mut last, mut failed, mut restored) = (None, None, Restored::default());
        loop {
            let next = self.read().unsettled(last);
            let Some(ledger) = next else { return failed.map_or(Ok(()), Err) };
            let settled = self.settle(ledger, Some(&mut restored));
            restored.made |= settled.is_ok();
            failed = settled.err().or(failed);
            last = Some(ledger);
        }
    }

    /// Counts out the runs of ledgers that were removed.
    fn bury(&self) -> io::Result<()> {
        let (all, mut failed) = (self.write().take_dead(), None);
        for dead in all {
            match self.spill.read(dead) {
                Ok(runs) => {
                    self.write().bury(&runs);
                    self.spill.free(dead);
                }
                Err(error) => {
                    self.write().unearth(dead);
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Each chunk has two turns: one that grows goes only when there is no other left.
    fn shorten(&self, bytes: usize) -> io::Result<()> {
        let mut left = 2 * self.read().turns();
        loop {
            let oldest = self.write().oldest(bytes, &mut left);
            let mut victim = match oldest {
                Oldest::Victim(victim) => victim,
                Oldest::Passed => continue,
                Oldest::Enough => return Ok(()),
            };
            if let Err(error) = self.put_down(&mut victim) {
                self.write().put_back(&victim);
                return Err(error);
            }
        }
    }

    fn put_down(&self, victim: &mut Victim) -> io::Result<()> {
        // What cannot be read stays by itself, and is the error of whoever asks for it.
        let before = victim.before.and_then(|before| self.spill.read(before).ok());
        let mut runs = before.unwrap_or_default();
        if runs.is_empty() {
            victim.before = None;
        }
        runs.extend_from_slice(&victim.runs);
        let stored = self.spill.write(victim.id, &runs)?;
        let unused = self.write().stored(victim, stored);
        unused.into_iter().for_each(|unused| self.spill.free(unused));
        Ok(())
    }

    /// Gives back memory that was taken ahead; for an index that was just built. Blocks.
    pub(super) fn built(&self) {
        self.tidy();
        let bytes = {
            let mut table = self.write();
            table.shrink();
            table.memory()
        };
        self.tell(bytes);
    }

    fn tell(&self, bytes: usize) {
        metrics::index_bytes(self.told.swap(bytes, Ordering::Relaxed), bytes);
    }
}

#[cfg(test)]
mod tests;
