//! What keeps a log short to open: footers of full segments, and snapshots of the ledger table (protocol 5.5). Neither is needed
//! for correctness: what is missing is read from the frames.

use std::io::IoSlice;
use std::sync::Arc;

use geminga_proto::ids::LedgerId;

use super::catalogue::Listing;
use super::error::{LogFailed, UpkeepError};
use super::mutation::Mutation;
use super::reclaim::failed;
use super::segment;
use super::snapshot::{Image, Snapshot};
use super::spares;
use super::{Log, Shared};

/// Says why a log failed whose directory went, and what to do.
const DIRECTORY_GONE: &str = "the data directory was removed, or another took its place, while the bookie ran: bring it back, or start with --auto-heal to have an empty one filled from the other bookies";

impl Log {
    /// Bytes that were appended and became durable since the log was opened.
    pub fn durable_bytes(&self) -> u64 {
        self.0.shared.catalogue.lock().durable_bytes()
    }

    /// The newest frame that is on stable storage. Unlike an [`Lsn`](super::Lsn) it means the same to every process.
    pub fn durable_frame(&self) -> u64 {
        self.0.shared.catalogue.lock().durable_frame()
    }

    /// An entry of this ledger is damaged: somebody should restore it.
    pub fn note_damaged(&self, ledger: LedgerId) {
        self.0.shared.note_damaged(ledger);
    }

    /// Takes a ledger with damaged entries that nobody was told of yet.
    pub fn take_damaged(&self) -> Option<LedgerId> {
        self.0.shared.damaged.lock().pop_first()
    }

    /// Bytes a second that may be read to look for rot.
    pub fn scrub_bytes(&self) -> u64 {
        self.0.shared.config.scrub_bytes
    }

    /// Bytes that a ledger's entries take on the disk.
    pub fn bytes_of(&self, ledger: LedgerId) -> u64 {
        self.0.shared.index.read().bytes_of(ledger)
    }

    /// Bytes of memory that the index of entries takes: [`Config::index_bytes`](super::Config::index_bytes) at most after each
    /// [`Log::reclaim`], but for what it says.
    pub fn index_bytes(&self) -> usize {
        self.0.shared.index.memory()
    }

    /// Looks whether the disk's directory is still there. Where it is not, the log fails, and its bookie with it: files without a name take
    /// all that is written to them, and are gone with the process that has them open.
    ///
    /// # Errors
    /// [`UpkeepError`]; it is not known then.
    pub async fn look_for_directory(&self) -> Result<(), UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.look_for_directory()).await
    }

    /// Writes the footers of segments that became full. One caller at a time; not cancel-safe, in that a footer may be left out.
    ///
    /// # Errors
    /// [`UpkeepError`]; the segment's frames are read at the next opening then.
    pub async fn write_footers(&self) -> Result<(), UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.write_footers()).await
    }

    /// Writes a snapshot of the ledger table. `image` is asked for it after the place that the snapshot covers is known, so
    /// every record up to there must be in it; later ones may be. They are waited for: a snapshot never names what is not on stable
    /// storage. Nothing is written when there is none, or when the log takes no more appends. One caller at a time; not cancel-safe, in that it may be written nevertheless.
    ///
    /// # Errors
    /// [`UpkeepError`]; the snapshots before it stand.
    pub async fn snapshot(&self, image: impl FnOnce() -> Option<Image>) -> Result<(), UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        let Some(begun) = shared.begin_snapshot(image) else { return Ok(()) };
        if !shared.config.mutations.is(Mutation::SnapshotBeforeDurable) {
            self.wait_durable(self.tail()).await?;
        }
        blocking(move || shared.write_snapshot(&begun)).await
    }
}

/// Does work on the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, UpkeepError> + Send + 'static,
) -> Result<T, UpkeepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Shared {
    /// See [`Log::note_damaged`].
    pub(super) fn note_damaged(&self, ledger: LedgerId) {
        self.damaged.lock().insert(ledger);
    }

    fn look_for_directory(&self) -> Result<(), UpkeepError> {
        let there = self.disk.is_there().map_err(failed("look for the data directory"))?;
        if !there && self.queue.stopped().is_none() {
            tracing::error!(why = DIRECTORY_GONE, "the log failed; the bookie must restart");
            self.queue.fail(LogFailed::Poisoned(DIRECTORY_GONE.into()));
        }
        Ok(())
    }

    /// A snapshot as of now; to be written once all that is appended is durable.
    pub(super) fn begin_snapshot(&self, image: impl FnOnce() -> Option<Image>) -> Option<Snapshot> {
        let listing = self.catalogue.lock().listing();
        let mut covers = listing.durable_frame;
        if self.config.mutations.is(Mutation::SnapshotBeforeDurable) {
            covers += 1;
        }
        let Listing { number, segments, .. } = listing;
        let image = image()?;
        // Owners change memory before they append: what a log refused is in their ledgers, and was never stored (K5).
        let refuses = self.queue.stopped().is_some();
        (!refuses).then_some(Snapshot { number, covers, segments, image })
    }

    /// A full disk gives a part of the reserve for it: without snapshots nothing can be given back (K10).
    pub(super) fn write_snapshot(&self, snapshot: &Snapshot) -> Result<(), UpkeepError> {
        let write = || match snapshot.write(&*self.disk, self.seed) {
            Err(error) if spares::is_full(&error) && self.spares.release()? => {
                snapshot.write(&*self.disk, self.seed)
            }
            written => written,
        };
        write().map_err(failed("write a snapshot"))?;
        self.catalogue.lock().listed(snapshot.number);
        Ok(())
    }

    pub(super) fn write_footers(&self) -> Result<(), UpkeepError> {
        loop {
            let Some(footer) = self.catalogue.lock().take_footer() else { return Ok(()) };
            let write = || {
                let file = self.disk.open(&segment::file_name(footer.segment))?;
                let (at, bytes) = footer.encode(self.seed, file.size()?);
                file.write_all_at(at, &[IoSlice::new(&bytes)])?;
                file.sync_data()
            };
            match write() {
                // The frames are read then.
                Err(error) if spares::is_full(&error) => {}
                written => written.map_err(failed("write the footer of a segment"))?,
            }
        }
    }
}
