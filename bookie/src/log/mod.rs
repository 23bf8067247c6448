//! The log of one disk: every ledger's records in one order, written once (protocol 5.2 to 5.4).
//!
//! * Records are appended in call order; that order is the order in the log and the order of durability. When a place
//!   is durable, everything before it is (K3).
//! * One thread per log writes what is queued, syncs, and moves the durable mark: batching grows with load, and
//!   nothing waits for a timer.
//! * A failed write or sync poisons the log: nothing is acknowledged any more, whoever waits is told, and the process
//!   must restart through the checks of [`Log::open`] (K6).
//! * Entries can be read as soon as they are durable.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::io::Disk;
use crate::ledger::{LedgerState, Record, Tombstones};

use catalogue::Catalogue;
use committer::{Committer, Position};
use footer::{Extent, Item};
use format::{HEADER_BYTES, MAX_BODY_BYTES, Mark, Seed};
use index::{Index, Located, Piece, Wanted};
use queue::{Queue, Queued};
use reader::{Gathered, Reader};
use rebuild::{Ledgers, Rebuilt};
use segment::{Ahead, Maker, Supply};
use spares::Spares;
use suspects::Suspects;
use turns::Turns;
use window::Window;

mod blocks;
mod catalogue;
mod committer;
mod config;
#[cfg(feature = "simulation")]
pub mod decoders;
mod error;
mod footer;
mod format;
mod index;
mod load;
mod metrics;
mod mutation;
mod queue;
mod reader;
mod rebuild;
mod reclaim;
mod replay;
mod salvage;
mod scan;
mod scrub;
mod segment;
mod snapshot;
mod spares;
#[cfg(feature = "simulation")]
mod stepped;
mod suspects;
mod turns;
mod upkeep;
mod window;

pub use config::Config;
pub use error::{LogFailed, OpenError, ReadError, UpkeepError};
pub use mutation::{Mutation, Mutations};
pub use reclaim::Reclaimed;
pub use scrub::Scrubbed;
pub use snapshot::Image;
#[cfg(feature = "simulation")]
pub use stepped::{Begun, Driver, Relocation, Stepped};

/// Whose log it is: stands in every segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The bookie.
    pub bookie: BookieId,
    /// This life of the disk.
    pub incarnation: Incarnation,
    /// The disk.
    pub disk: DiskUuid,
}

/// A place in the log: the end of one appended record. Order is durability order. Counts from 0 at each opening, so it
/// means nothing to another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

/// How far the log is on stable storage.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Durable {
    /// Everything up to here is.
    pub lsn: Lsn,
    /// Why nothing beyond ever will be.
    pub failed: Option<LogFailed>,
}

/// A log and what was found in it.
#[derive(Debug)]
pub struct Opened {
    /// The log, ready for appends.
    pub log: Log,
    /// Every ledger that has a record and was not deleted.
    pub ledgers: BTreeMap<LedgerId, LedgerState>,
    /// Those that were.
    pub tombstones: Tombstones,
}

/// Room in the queue, taken before an append and given back when the record is durable, or with the permit.
#[derive(Debug)]
pub struct Permit(Option<OwnedSemaphorePermit>);

impl Permit {
    /// Takes up to `bytes` out of this permit, for a caller that appends several records on one reservation.
    #[must_use]
    pub fn split(&mut self, bytes: usize) -> Self {
        let Some(room) = &mut self.0 else { return Self(None) };
        Self(room.split(bytes.min(room.num_permits())))
    }
}

/// Handle on a disk's log; clones are the same log. When the last is dropped, the log stops as in [`Log::shutdown`],
/// but nobody waits for it.
#[derive(Debug, Clone)]
pub struct Log(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
    }
}

/// What callers and the committer share.
#[derive(Debug)]
struct Shared {
    config: Config,
    seed: Seed,
    queue: Queue,
    durable: watch::Sender<Durable>,
    index: Index,
    window: Mutex<Window>,
    reader: Reader,
    /// Bounds the threads that wait for the disk, and says whose turn it is.
    turns: Turns,
    catalogue: Mutex<Catalogue>,
    spares: Arc<Spares>,
    /// Where the search for rot is, within a segment.
    scrubbing: Mutex<Option<scrub::Cursor>>,
    /// What the disk refused to read.
    suspects: Mutex<Suspects>,
    /// Ledgers with damaged entries that nobody was told of yet.
    damaged: Mutex<BTreeSet<LedgerId>>,
    disk: Arc<dyn Disk>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        metrics::segments_removed(self.catalogue.lock().len());
    }
}

/// Most reads that wait for one disk at a time: enough to keep it busy, and few beside the writes that wait for it.
const MAX_READS: usize = 8;

impl Log {
    /// Largest record, by [`Log::cost`]. Every request that may arrive fits.
    pub const MAX_RECORD_BYTES: usize = MAX_BODY_BYTES;

    /// Whether the disk holds a log, of whatever identity.
    pub fn exists(disk: &dyn Disk) -> io::Result<bool> {
        let is_segment =
            |name: &String| matches!(segment::parse_name(name), Some(segment::Named::Segment(_)));
        Ok(disk.list()?.iter().any(is_segment))
    }

    /// Replays what is there, repairs a torn tail, and starts the log. Blocks. The log goes on in a new segment: what
    /// a crash left behind is never written over.
    pub fn open(
        disk: Arc<dyn Disk>,
        identity: Identity,
        config: Config,
    ) -> Result<Opened, OpenError> {
        let Replayed { shared, maker, at, ledgers } = Replayed::open(disk, identity, config)?;
        let (seq, name) = (at.segment.seq, segment::file_name(at.segment.seq));
        let supply = Ahead::start(maker, &shared.config, seq + 1)
            .map_err(io_error("start a thread for", &name))?;
        let mut committer = Committer::new(Arc::clone(&shared), Supply::Ahead(supply), at);
        // Vouches for all that was found, and makes the new segment's beginning unmistakable.
        committer.mark(Mark::Opened).map_err(io_error("write", &name))?;
        let thread = std::thread::Builder::new()
            .name("log-committer".to_owned())
            .spawn(move || committer.run())
            .map_err(io_error("start a thread for", &name))?;
        let handle = Handle { shared, committer: Mutex::new(Some(thread)) };
        Ok(ledgers.opened(Self(Arc::new(handle))))
    }

    /// What a record takes in the queue and on the disk, bytes: the argument of [`Log::reserve`].
    pub fn cost(record: &Record) -> usize {
        format::record_bytes(record)
    }

    /// Waits until `bytes` more fit in the queue (more than the queue holds count as a full queue). Whoever holds a
    /// permit must not wait here for another. Cancel-safe.
    pub async fn reserve(&self, bytes: usize) -> Result<Permit, LogFailed> {
        Ok(Permit(Some(self.0.shared.queue.reserve(bytes).await?)))
    }

    /// Puts a record at the end of the log; returns at once, in call order. The place is durable when
    /// [`Log::durable`] reaches it. Entries can be read from then on.
    pub fn append(
        &self,
        ledger: LedgerId,
        record: Record,
        permit: Permit,
    ) -> Result<Lsn, LogFailed> {
        self.0.shared.push(ledger, record, permit, None)
    }

    /// The end of everything appended so far.
    pub fn tail(&self) -> Lsn {
        self.0.shared.queue.tail()
    }

    /// The durable mark, to watch. Once `failed` is set, `lsn` does not move any more.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.0.shared.durable.subscribe()
    }

    /// Waits until everything up to `lsn` is on stable storage. Cancel-safe.
    pub async fn wait_durable(&self, lsn: Lsn) -> Result<(), LogFailed> {
        let mut durable = self.durable();
        let reached = durable.wait_for(|durable| durable.lsn >= lsn || durable.failed.is_some());
        let reached = reached.await.expect("the log that is asked holds the sender").clone();
        match reached.failed {
            Some(failed) if reached.lsn < lsn => Err(failed),
            _ => Ok(()),
        }
    }

    /// Entries `from..=to` of a ledger, verbatim, consecutive, at least one, and no more than `max_bytes` unless the
    /// first alone is larger. May return fewer than there are. Their digests are the caller's to verify. What is in memory is
    /// returned at once; the disk is read in turns ([`turns`]). Cancel-safe.
    pub async fn read(
        &self,
        ledger: LedgerId,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.read_by(ledger, Wanted { from, to, max_bytes }, true).await
    }

    /// [`Log::read`] for who looks through a ledger alone, as a takeover does: of what other ledgers have between its entries nothing is
    /// read.
    pub async fn scan(
        &self,
        ledger: LedgerId,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        self.read_by(ledger, Wanted { from, to, max_bytes }, false).await
    }

    /// `blocks`: full segments are read by whole blocks, in which others find theirs.
    async fn read_by(
        &self,
        ledger: LedgerId,
        wanted: Wanted,
        blocks: bool,
    ) -> Result<Vec<Bytes>, ReadError> {
        let shared = &self.0.shared;
        // Where they are on the disk is looked up when it is this read's turn: thousands may wait for theirs.
        if let Some(located) = shared.index.find_in_memory(ledger, wanted)
            && let Found::Recent(entries) = shared.found(located, wanted.max_bytes)?
        {
            metrics::read_from("memory");
            return Ok(entries);
        }
        let turn = shared.turns.take(ledger).await.map_err(|turns::Crowded| ReadError::Crowded)?;
        metrics::read_from("disk");
        let shared = Arc::clone(shared);
        let full_below = if blocks { shared.catalogue.lock().full_below() } else { 0 };
        let read = tokio::task::spawn_blocking(move || {
            let read = shared.read(ledger, wanted, full_below);
            drop(turn);
            read
        });
        let read = read.await;
        let read = read.expect("reading does not panic, and a runtime that ends drops this first");
        if matches!(read, Err(ReadError::Corrupt { .. })) {
            self.0.shared.note_damaged(ledger);
        }
        read
    }

    /// Refuses further appends, makes durable what was accepted, writes the final mark, and waits for the log's
    /// threads to end. The error that poisoned the log, if one did. Call it once; not cancel-safe, in that a second
    /// call does not wait.
    pub async fn shutdown(&self) -> Result<(), LogFailed> {
        let shared = &self.0.shared;
        shared.queue.close();
        let mut durable = self.durable();
        let ended = durable.wait_for(|durable| durable.failed.is_some());
        let ended = ended.await.expect("the log that is asked holds the sender").clone();
        let thread = self.0.committer.lock().take();
        if let Some(thread) = thread {
            // It has done its work; only the thread that makes segments may need a moment to notice.
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(LogFailed::Poisoned("the committer panicked".into()));
            }
        }
        match ended.failed {
            Some(failed @ LogFailed::Poisoned(_)) => Err(failed),
            _ => Ok(()),
        }
    }
}

/// Where entries that were asked for are.
enum Found {
    /// In memory.
    Recent(Vec<Bytes>),
    /// On the disk.
    Stored(Located, Gathered),
}

impl Shared {
    /// Puts a record at the end of the log; its entries may be copies of some that are in segment `moved_from`.
    fn push(
        &self,
        ledger: LedgerId,
        record: Record,
        permit: Permit,
        moved_from: Option<u32>,
    ) -> Result<Lsn, LogFailed> {
        let bytes = format::record_bytes(&record);
        if bytes > MAX_BODY_BYTES {
            return Err(LogFailed::TooLarge { bytes, limit: MAX_BODY_BYTES });
        }
        let head = format::encode_record(ledger, &record, self.seed);
        let fits = "a record fits in a frame";
        let (item, entries) = match record {
            Record::Entries { first, entries, lac, .. } if !entries.is_empty() => {
                let count = u32::try_from(entries.len()).expect(fits);
                let length = u32::try_from(bytes).expect(fits);
                (Item::Extent(Extent { ledger, first, count, lac, offset: 0, length }), entries)
            }
            record => (Item::Record(ledger, record), Vec::new()),
        };
        let lsn = self.queue.push(Queued { item, moved_from, head, entries, bytes, permit })?;
        metrics::appended(bytes);
        Ok(lsn)
    }

    /// [`Log::read`], whatever must be read for it. Blocks.
    fn read(
        &self,
        ledger: LedgerId,
        wanted: Wanted,
        full_below: u64,
    ) -> Result<Vec<Bytes>, ReadError> {
        let located = self.locate(ledger, wanted).map_err(|error| ReadError::Index { error })?;
        self.gather(ledger, self.found(located, wanted.max_bytes)?, full_below)
    }

    fn locate(&self, ledger: LedgerId, wanted: Wanted) -> io::Result<Located> {
        if self.config.mutations.is(Mutation::ForgetSpilled) {
            return Ok(self.index.find_in_memory(ledger, wanted).unwrap_or_default());
        }
        self.index.find(ledger, wanted)
    }

    /// Reads what is not in memory. Blocks.
    fn gather(
        &self,
        ledger: LedgerId,
        found: Found,
        full_below: u64,
    ) -> Result<Vec<Bytes>, ReadError> {
        match found {
            Found::Recent(entries) => Ok(entries),
            Found::Stored(Located { pieces, pins }, mut gathered) => {
                let read = self.reader.gather(ledger, &pieces, full_below, &mut gathered);
                // The files are not removed before.
                drop(pins);
                match read {
                    Ok(()) => Ok(gathered.entries),
                    Err(error @ ReadError::Io { .. }) => Err(self.refused(&pieces, error)),
                    Err(error) => Err(error),
                }
            }
        }
    }

    /// What a refusal of the disk means to a reader: nothing is known, unless it has refused one of these for long.
    fn refused(&self, pieces: &[Piece], error: ReadError) -> ReadError {
        match self.suspects.lock().damaged(pieces) {
            Some(Piece { place, .. }) => ReadError::Corrupt {
                segment: u64::from(place.segment),
                offset: u64::from(place.offset),
                why: "the disk goes on refusing to read it",
            },
            None => error,
        }
    }

    fn found(&self, located: Located, max_bytes: usize) -> Result<Found, ReadError> {
        if located.pieces.is_empty() {
            // Absence is certain only while everything appended is on its way (K1).
            return Err(match self.durable.borrow().failed.clone() {
                Some(failed @ LogFailed::Poisoned(_)) => ReadError::Failed(failed),
                _ => ReadError::Absent,
            });
        }
        let mut gathered = Gathered::new(max_bytes);
        reader::gather_recent(&self.window.lock(), &located.pieces, &mut gathered);
        if gathered.entries.is_empty() {
            return Ok(Found::Stored(located, gathered));
        }
        Ok(Found::Recent(gathered.entries))
    }
}

/// A log whose past is read and repaired, with a segment to go on in.
struct Replayed {
    shared: Arc<Shared>,
    /// Makes the segments that follow.
    maker: Maker,
    at: Position,
    /// What was found.
    ledgers: Ledgers,
}

impl Replayed {
    fn open(disk: Arc<dyn Disk>, identity: Identity, config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let seed = Seed::of(&identity);
        let index = Index::new(Arc::clone(&disk), seed, config.index_bytes);
        let found = replay::scan(&*disk, &identity, index, config.mutations)?;
        let (last, known) = (found.next_frame - 1, config.known_frame);
        if last < known {
            return Err(OpenError::RolledBack { found: last, known });
        }
        found.repair.run(&*disk, config.mutations)?;

        let seq = found.next_segment;
        let Rebuilt { ledgers, index } = found.rebuilt;
        let Config { segment_bytes, reserve_segments, mutations, .. } = config;
        let spares =
            Spares::found(Arc::clone(&disk), segment_bytes, reserve_segments, found.spares)
                .map_err(io_error("remove spare files of", "the log"))?;
        let spares = Arc::new(spares);
        let maker =
            Maker { disk: Arc::clone(&disk), identity, spares: Arc::clone(&spares), mutations };
        let segment = maker
            .make_filled(seq, config.prefill_bytes, || Ok(true))
            .map_err(io_error("create", &segment::file_name(seq)))?;
        metrics::segments_added(found.catalogue.len() + 1);
        let shared = Arc::new(Shared {
            seed,
            queue: Queue::new(config.queue_bytes),
            durable: watch::Sender::default(),
            index,
            window: Mutex::new(Window::new(config.window_bytes)),
            reader: Reader::new(Arc::clone(&disk), seed, config.read_ahead_bytes),
            turns: Turns::new(MAX_READS),
            catalogue: Mutex::new(found.catalogue),
            spares,
            scrubbing: Mutex::default(),
            suspects: Mutex::default(),
            damaged: Mutex::default(),
            disk,
            config,
        });
        let at = Position { segment, offset: HEADER_BYTES as u64, next_frame: found.next_frame };
        Ok(Self { shared, maker, at, ledgers })
    }
}

impl Ledgers {
    fn opened(self, log: Log) -> Opened {
        Opened { log, ledgers: self.ledgers, tombstones: self.tombstones }
    }
}

fn corrupt(segment: u64, offset: usize, why: &'static str) -> OpenError {
    OpenError::Corrupt { segment, offset: offset as u64, why }
}

/// An [`OpenError`] that names what was tried with which file.
fn io_error(what: &'static str, name: &str) -> impl FnOnce(io::Error) -> OpenError {
    let what = format!("{what} {name}");
    move |error| OpenError::Io { what, error }
}

#[cfg(test)]
pub(crate) mod tests;
