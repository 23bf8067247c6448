//! A log without threads of its own, for a simulation: the caller decides when what was appended is written and synced, when
//! the next segment is made, and when an idle log vouches for its last frame. It is the same committer, frame by frame.
//! Exists only with the test-only feature `simulation`.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, LedgerId};
use parking_lot::Mutex;

use super::committer::Committer;
use super::error::{LogFailed, OpenError, ReadError, UpkeepError};
use super::format::Mark;
use super::index::{Pin, Wanted};
use super::queue::Work;
use super::reclaim::Load;
use super::segment::{self, OnDemand, Supply};
use super::snapshot::Snapshot;
use super::{
    Config, Handle, Identity, Image, Log, Lsn, Mutation, Opened, Permit, Reclaimed, Replayed,
    io_error,
};
use crate::io::Disk;
use crate::ledger::Record;

/// A stepped log and what was found in it.
#[derive(Debug)]
pub struct Stepped {
    /// The log and its ledgers, as [`Log::open`] gives them.
    pub opened: Opened,
    /// What the log's threads would do.
    pub driver: Driver,
}

/// Does the work of a log's threads, one piece at a time.
#[derive(Debug)]
pub struct Driver {
    committer: Committer,
}

impl Log {
    /// [`Log::open`] without starting a thread.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        identity: Identity,
        config: Config,
    ) -> Result<Stepped, OpenError> {
        let Replayed { shared, maker, at, ledgers } = Replayed::open(disk, identity, config)?;
        let name = segment::file_name(at.segment.seq);
        let supply = OnDemand::new(maker, &shared.config, at.segment.seq + 1);
        let mut committer = Committer::new(Arc::clone(&shared), Supply::OnDemand(supply), at);
        committer.mark(Mark::Opened).map_err(io_error("write", &name))?;
        let log = Self(Arc::new(Handle { shared, committer: Mutex::new(None) }));
        Ok(Stepped { opened: ledgers.opened(log), driver: Driver { committer } })
    }

    /// [`Log::append`] on no reservation: a simulation bounds what it appends itself.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_unreserved(&self, ledger: LedgerId, record: Record) -> Result<Lsn, LogFailed> {
        self.append(ledger, record, Permit(None))
    }

    /// [`Log::read`] on the calling thread.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_blocking(
        &self,
        ledger: LedgerId,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let shared = &self.0.shared;
        shared.read(ledger, Wanted { from, to, max_bytes }, 0)
    }

    /// [`Log::write_footers`] on the calling thread.
    ///
    /// # Errors
    /// As [`Log::write_footers`].
    pub fn write_footers_blocking(&self) -> Result<(), UpkeepError> {
        self.0.shared.write_footers()
    }

    /// [`Log::snapshot`] on the calling thread, which has flushed all that was appended.
    ///
    /// # Errors
    /// As [`Log::snapshot`].
    pub fn snapshot_blocking(
        &self,
        image: impl FnOnce() -> Option<Image>,
    ) -> Result<(), UpkeepError> {
        self.begin_snapshot(image).map_or(Ok(()), |begun| self.finish_snapshot(&begun))
    }

    /// The first half of [`Log::snapshot`]. The second is due once [`Begun::due`] is durable.
    pub fn begin_snapshot(&self, image: impl FnOnce() -> Option<Image>) -> Option<Begun> {
        let shared = &self.0.shared;
        let snapshot = shared.begin_snapshot(image)?;
        let early = shared.config.mutations.is(Mutation::SnapshotBeforeDurable);
        let due = if early { Lsn::default() } else { self.tail() };
        Some(Begun { snapshot, due })
    }

    /// The second half.
    ///
    /// # Errors
    /// As [`Log::snapshot`].
    pub fn finish_snapshot(&self, begun: &Begun) -> Result<(), UpkeepError> {
        self.0.shared.write_snapshot(&begun.snapshot)
    }

    /// [`Log::reclaim`] on the calling thread.
    ///
    /// # Errors
    /// As [`Log::reclaim`].
    pub fn reclaim_blocking(&self) -> Result<Reclaimed, UpkeepError> {
        self.0.shared.reclaim()
    }

    /// [`Log::relocate`] without waiting: what it gives back is to be dropped once its place is durable. Nothing when there
    /// is nothing to move.
    ///
    /// # Errors
    /// As [`Log::relocate`].
    pub fn begin_relocation(
        &self,
        max_bytes: usize,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Option<Relocation>, UpkeepError> {
        let shared = &self.0.shared;
        let Some(Load { from, moving, pin }) = shared.load_sparse(max_bytes, sound)? else {
            return Ok(None);
        };
        let mut due = Lsn::default();
        for moving in moving {
            let (ledger, record) = moving.record();
            due = shared.push(ledger, record, Permit(None), Some(from))?;
        }
        Ok(Some(Relocation { due, _pin: pin }))
    }
}

/// A snapshot that waits for what it names.
#[derive(Debug)]
pub struct Begun {
    snapshot: Snapshot,
    /// Written once this is durable.
    pub due: Lsn,
}

/// Entries on their way out of a segment, which stays for as long as this.
#[derive(Debug)]
pub struct Relocation {
    /// Over once this is durable.
    pub due: Lsn,
    _pin: Pin,
}

impl Driver {
    /// Makes durable what is queued, up to one frame. False when nothing was.
    ///
    /// # Errors
    /// The log is poisoned (K6).
    pub fn flush(&mut self) -> io::Result<bool> {
        let work = self.committer.shared.queue.try_take(caps::MAX_FLUSH_BYTES);
        let Some(work) = work else { return Ok(false) };
        self.carry_out(work)?;
        Ok(true)
    }

    /// What happens when nothing was appended for a while: the last frame is vouched for (K8). False when it is already.
    ///
    /// # Errors
    /// The log is poisoned (K6).
    pub fn mark_idle(&mut self) -> io::Result<bool> {
        let due = !self.committer.vouched;
        if due {
            self.carry_out(Work::Idle)?;
        }
        Ok(due)
    }

    /// Makes the next segment ahead of need.
    ///
    /// # Errors
    /// The log is poisoned (K6).
    pub fn prepare_segment(&mut self) -> io::Result<()> {
        let prepared = match &mut self.committer.supply {
            Supply::OnDemand(supply) => supply.prepare(),
            Supply::Ahead(_) => Ok(()),
        };
        prepared.inspect_err(|error| self.committer.poison(error))
    }

    /// Refuses further appends, makes durable what was accepted, and writes the final mark.
    ///
    /// # Errors
    /// The log is poisoned (K6).
    pub fn shut_down(mut self) -> io::Result<()> {
        self.committer.shared.queue.close();
        while self.flush()? {}
        self.carry_out(Work::Closed)
    }

    fn carry_out(&mut self, work: Work) -> io::Result<()> {
        let done = self.committer.carry_out(work);
        done.map(|_| ()).inspect_err(|error| self.committer.poison(error))
    }
}
