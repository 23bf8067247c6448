//! Gives the space of segments back (K9), and moves the little that still lives in one elsewhere (protocol 5.6).
//!
//! A segment that no run of the index points into is *retired*: the snapshots that follow do not list it. Once every snapshot that
//! is kept is such a one, nothing that could open the log needs the segment: its entries are dead, and its seals and
//! tombstones are in those snapshots. Only then, and when nobody reads it any more, its file goes.
//!
//! A segment that the disk refuses to read is neither emptied nor given back for that: what lives in it keeps it until the disk
//! answers, or until it was sent again.
//!
//! What is moved is appended like any record, so it is durable, then the index points at it, then the source is retired: a crash in
//! between leaves two copies of the same, of which the later one counts.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::{EntryId, LedgerId};

use super::catalogue::Full;
use super::error::{ReadError, UpkeepError};
use super::footer::{Extent, Footer, Item};
use super::format::HEADER_BYTES;
use super::index::{Piece, Pin};
use super::load::{self, Loaded};
use super::mutation::Mutation;
use super::reader::Gathered;
use super::upkeep::blocking;
use super::{Log, Lsn, Shared, metrics, segment};
use crate::ledger::Record;

/// A segment of whose frames less than so many percent live is emptied.
const SPARSE_PERCENT: u64 = 30;

/// What was given back, and what will be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reclaimed {
    /// Segments whose files went.
    pub removed: usize,
    /// Segments that wait for snapshots that do without them.
    pub waiting: usize,
}

/// Entries on their way from one segment to the log's end.
#[derive(Debug)]
pub(super) struct Moving {
    ledger: LedgerId,
    first: EntryId,
    entries: Vec<Bytes>,
}

impl Moving {
    /// What is appended.
    pub(super) fn record(self) -> (LedgerId, Record) {
        let Self { ledger, first, entries } = self;
        let lac = EntryId::NONE;
        (ledger, Record::Entries { fragment_first: first, first, entries, lac })
    }
}

/// What is to be moved out of a segment, which stays for as long as this.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) from: u32,
    pub(super) moving: Vec<Moving>,
    pub(super) pin: Pin,
}

impl Log {
    /// Retires segments without a live run, removes those that no kept snapshot needs, and makes the reserve whole again. One
    /// caller at a time; not cancel-safe, in that it goes on.
    ///
    /// # Errors
    /// [`UpkeepError`]; it is to be tried again.
    pub async fn reclaim(&self) -> Result<Reclaimed, UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.reclaim()).await
    }

    /// Gives the space of files that the next segments could be made of back to the disk, but for the reserve. What they take
    /// is used in the eyes of the file system, and would keep a small disk from taking new data for ever (K10).
    ///
    /// # Errors
    /// [`UpkeepError`]; it is to be tried again.
    pub async fn trim_spares(&self) -> Result<(), UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        blocking(move || shared.spares.trim().map_err(failed("remove a spare file"))).await
    }

    /// Whether the disk is so full that segments come out of the reserve: only seals and tombstones should be appended
    /// (5.8).
    pub fn is_scarce(&self) -> bool {
        self.0.shared.spares.is_scarce()
    }

    /// Moves up to `max_bytes`, one record at least, out of the segment with the smallest share of live data below 30 %; how
    /// many bytes. `sound` judges an entry: what is not is given up, as it is when rot is found otherwise. Durable on return. One caller at a time; not cancel-safe, in that a part may be moved.
    ///
    /// # Errors
    /// [`UpkeepError`]; what was not moved is where it was.
    pub async fn relocate(
        &self,
        max_bytes: usize,
        sound: impl Fn(LedgerId, EntryId, &Bytes) -> bool + Send + 'static,
    ) -> Result<usize, UpkeepError> {
        let shared = Arc::clone(&self.0.shared);
        match blocking(move || shared.load_sparse(max_bytes, &sound)).await? {
            Some(load) => self.carry(load).await,
            None => Ok(0),
        }
    }

    pub(super) async fn carry(&self, load: Load) -> Result<usize, UpkeepError> {
        let Load { from, moving, pin } = load;
        let (mut moved, mut last) = (0, Lsn::default());
        for moving in moving {
            let (ledger, record) = moving.record();
            let permit = self.reserve(Self::cost(&record)).await?;
            moved += Self::cost(&record);
            last = self.0.shared.push(ledger, record, permit, Some(from))?;
        }
        self.wait_durable(last).await?;
        drop(pin);
        metrics::relocated(moved);
        Ok(moved)
    }
}

impl Shared {
    pub(super) fn reclaim(&self) -> Result<Reclaimed, UpkeepError> {
        // What was put off there may be all that a segment is needed for.
        self.index.tidy();
        let full = self.catalogue.lock().full();
        let dead: Vec<u64> = {
            let index = self.index.read();
            let dead = |seq: &u64| index.live(segment::short(*seq)).runs == 0;
            full.into_iter().map(|(seq, _)| seq).filter(dead).collect()
        };
        let removable = {
            let mut catalogue = self.catalogue.lock();
            catalogue.retire(&dead);
            catalogue.removable(self.config.mutations.is(Mutation::DropUncovered))
        };
        let (mut removed, mut given) = (0, Ok(()));
        for seq in removable {
            // Readers that found an entry here are waited for: another time.
            if self.index.write().release(segment::short(seq)) {
                self.reader.forget(seq);
                self.suspects.lock().forget(segment::short(seq));
                // One that cannot be given back is tried again, and keeps no other.
                if let Err(error) = self.spares.give(seq) {
                    given = given.and(Err(failed("remove a segment")(error)));
                    continue;
                }
                self.catalogue.lock().removed(seq);
                metrics::segments_removed(1);
                removed += 1;
            }
        }
        let refilled = self.spares.refill().map_err(failed("set a segment aside"));
        given.and(refilled)?;
        Ok(Reclaimed { removed, waiting: self.catalogue.lock().waiting() })
    }

    pub(super) fn load_sparse(
        &self,
        max_bytes: usize,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Option<Load>, UpkeepError> {
        let full = self.catalogue.lock().movable();
        let sparsest = {
            let index = self.index.read();
            let live =
                full.into_iter().map(|(seq, full)| (index.live(segment::short(seq)), seq, full));
            let sparse = live.filter(|(live, _, full)| {
                let bytes = u64::from(full.end) - HEADER_BYTES as u64;
                live.runs > 0 && live.bytes * 100 < bytes * SPARSE_PERCENT
            });
            let sparsest = sparse.min_by_key(|(live, ..)| live.bytes);
            sparsest.and_then(|(_, seq, full)| {
                index.pin_of(segment::short(seq)).map(|pin| (seq, full, pin))
            })
        };
        let Some((seq, full, pin)) = sparsest else {
            self.catalogue.lock().take_up();
            return Ok(None);
        };
        let moving =
            self.footer(seq, full).and_then(|footer| self.moving(seq, &footer, max_bytes, sound));
        if moving.is_err() {
            self.catalogue.lock().put_off(seq);
        }
        Ok(Some(Load { from: segment::short(seq), moving: moving?, pin }))
    }

    /// What a full segment holds.
    fn footer(&self, seq: u64, full: Full) -> Result<Footer, UpkeepError> {
        if let Some(footer) = load::footer(&*self.disk, seq, self.seed) {
            return Ok(footer);
        }
        let loaded = Loaded::read_known(&*self.disk, seq).map_err(failed("read a segment"))?;
        let footer = loaded.footer(full.first_frame, full.last_frame, self.seed);
        footer.map_err(|error| failed("read a segment")(io::Error::other(error)))
    }

    fn moving(
        &self,
        seq: u64,
        footer: &Footer,
        max_bytes: usize,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Result<Vec<Moving>, UpkeepError> {
        let (mut moving, mut bytes) = (Vec::new(), 0);
        for item in &footer.items {
            let Item::Extent(extent) = item else { continue };
            // Not under the index's lock: a damaged record is taken out of it.
            let pieces = self.index.pieces_in(segment::short(seq), extent);
            let pieces = pieces.map_err(failed("read a part of the index"))?;
            for piece in pieces {
                if bytes >= max_bytes && bytes > 0 {
                    return Ok(moving);
                }
                let mut gathered = Gathered::new(usize::MAX);
                let Extent { ledger, .. } = *extent;
                match self.reader.gather(ledger, &[piece], 0, &mut gathered) {
                    Ok(()) => {
                        bytes += piece.place.length as usize;
                        moving.extend(self.sound_runs(ledger, piece, gathered.entries, sound));
                    }
                    Err(ReadError::Io { error, .. } | ReadError::Index { error }) => {
                        return Err(failed("read a segment")(error));
                    }
                    Err(error) => {
                        // A file that is away with its directory was not read.
                        let file = self.disk.open(&segment::file_name(seq));
                        file.map_err(failed("open a segment"))?;
                        self.give_up(ledger, piece, &error);
                    }
                }
            }
        }
        Ok(moving)
    }

    /// What is sound of a piece. The rest is given up: of two copies the one that is later in the log counts, so rot that is moved
    /// would stand before the entries that were sent again in its place (D3).
    fn sound_runs(
        &self,
        ledger: LedgerId,
        piece: Piece,
        entries: Vec<Bytes>,
        sound: &dyn Fn(LedgerId, EntryId, &Bytes) -> bool,
    ) -> Vec<Moving> {
        let mut runs: Vec<Moving> = Vec::new();
        let mut follows = None;
        for (id, entry) in (piece.from.0..).map(EntryId).zip(entries) {
            if !sound(ledger, id, &entry) {
                let (segment, offset) =
                    (u64::from(piece.place.segment), u64::from(piece.place.offset));
                let why = "an entry fails its digest";
                let error = ReadError::Corrupt { segment, offset, why };
                self.give_up(ledger, Piece { from: id, to: id, ..piece }, &error);
                continue;
            }
            match runs.last_mut().filter(|_| follows == Some(id)) {
                Some(run) => run.entries.push(entry),
                None => runs.push(Moving { ledger, first: id, entries: vec![entry] }),
            }
            follows = Some(id.next());
        }
        runs
    }
}

impl Shared {
    /// K1: entries that rotted are unknown from now on; that they were held is not forgotten.
    pub(super) fn give_up(&self, ledger: LedgerId, piece: Piece, error: &ReadError) {
        let Piece { from, to, place } = piece;
        tracing::error!(%ledger, from = from.0, to = to.0, %error, "stored entries are damaged; they are unknown here until they are restored from other bookies");
        crate::metrics::damaged();
        self.index.forget(ledger, from, to, place.segment);
        self.note_damaged(ledger);
    }
}

/// An [`UpkeepError`] that names what was tried.
pub(super) fn failed(what: &'static str) -> impl FnOnce(io::Error) -> UpkeepError {
    move |error| UpkeepError::Io { what, error }
}
