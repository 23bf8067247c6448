//! Reads entries back: recent ones from memory, older ones from their segments. What the disk returns must be the
//! record that the index promises, or it is corruption: never absence (K1).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::LedgerId;
use parking_lot::Mutex;

use super::blocks::{BLOCK_BYTES, Blocks};
use super::error::ReadError;
use super::format::{self, EntriesHead, Seed};
use super::index::{Piece, Place};
use super::segment;
use super::window::Window;
use crate::io::{Disk, DiskFile};

/// A record up to this size is read in one piece, whatever is wanted of it.
const WHOLE_BYTES: u32 = 256 * 1024;

/// Entries gathered for one answer.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) entries: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
}

impl Gathered {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { entries: Vec::new(), bytes: 0, max_bytes }
    }

    /// Whether another entry of `bytes` belongs to the answer: the first always does.
    fn fits(&self, bytes: usize) -> bool {
        self.entries.is_empty() || self.bytes + bytes <= self.max_bytes
    }

    /// Adds an entry; false when the answer is full without it.
    fn push(&mut self, entry: Bytes) -> bool {
        let fits = self.fits(entry.len());
        if fits {
            self.bytes += entry.len();
            self.entries.push(entry);
        }
        fits
    }
}

/// Takes the leading pieces that the window holds.
pub(super) fn gather_recent(window: &Window, pieces: &[Piece], gathered: &mut Gathered) {
    for piece in pieces {
        let Some((first, entries)) = window.get(&piece.place) else { return };
        let skip = usize::try_from(piece.from.0 - first.0).expect("a piece is inside one record");
        for entry in entries.iter().skip(skip).take(count(piece)) {
            if !gathered.push(entry.clone()) {
                return;
            }
        }
    }
}

fn count(piece: &Piece) -> usize {
    usize::try_from(piece.to.0 - piece.from.0 + 1).expect("a piece is inside one record")
}

/// Open segment files, a bounded number.
#[derive(Debug)]
pub(super) struct Reader {
    disk: Arc<dyn Disk>,
    seed: Seed,
    files: Mutex<Files>,
    blocks: Blocks,
}

#[derive(Debug, Default)]
struct Files {
    open: HashMap<u64, Arc<dyn DiskFile>>,
    order: VecDeque<u64>,
}

impl Reader {
    /// Most files held open for reading.
    const MAX_OPEN: usize = 128;

    pub(super) fn new(disk: Arc<dyn Disk>, seed: Seed, read_ahead_bytes: usize) -> Self {
        Self { disk, seed, files: Mutex::default(), blocks: Blocks::new(read_ahead_bytes) }
    }

    /// Reads pieces in order until the answer is full; those of segments below `full_below` by large blocks, since these
    /// do not change any more. Blocks.
    pub(super) fn gather(
        &self,
        ledger: LedgerId,
        pieces: &[Piece],
        full_below: u64,
        gathered: &mut Gathered,
    ) -> Result<(), ReadError> {
        let block =
            |piece: &Piece| (piece.place.segment, u64::from(piece.place.offset) / BLOCK_BYTES);
        let mut last = None;
        for (at, piece) in pieces.iter().enumerate() {
            let here = block(piece);
            if u64::from(here.0) >= full_below && last.replace(here) != Some(here) {
                let next = pieces[at..].iter().map(block).find(|next| *next != here);
                if next == Some((here.0, here.1 + 1)) {
                    self.fetch_next(here);
                }
            }
            let full = !self.piece(ledger, piece, full_below, gathered)?;
            if full {
                break;
            }
        }
        Ok(())
    }

    /// The system fetches what is behind a block, and wanted, while that is read piece by piece. A file that cannot be opened is told of by who
    /// reads.
    fn fetch_next(&self, (segment, block): (u32, u64)) {
        if let Ok(file) = self.file(u64::from(segment)) {
            file.will_read((block + 1) * BLOCK_BYTES, BLOCK_BYTES);
        }
    }

    /// False when the answer is full.
    fn piece(
        &self,
        ledger: LedgerId,
        piece: &Piece,
        full_below: u64,
        gathered: &mut Gathered,
    ) -> Result<bool, ReadError> {
        let place = &piece.place;
        let whole = place.length <= WHOLE_BYTES;
        let read = if whole {
            self.bytes(place, full_below, 0, place.length as usize)?
        } else {
            self.head(place, full_below)?
        };
        let head = EntriesHead::decode(&read, self.seed)
            .map_err(|malformed| corrupt(place, malformed.0))?;
        let head_bytes = format::entries_head_bytes(head.lengths.len());
        let skip = usize::try_from(piece.from.0 - head.first.0)
            .map_err(|_| corrupt(place, "not the record that the index knows"))?;
        let total: u64 = head.lengths.iter().map(|length| u64::from(*length)).sum();
        if head.ledger != ledger
            || head_bytes as u64 + total != u64::from(place.length)
            || skip + count(piece) > head.lengths.len()
        {
            return Err(corrupt(place, "not the record that the index knows"));
        }
        let before: usize = head.lengths[..skip].iter().map(|length| *length as usize).sum();
        let lengths = &head.lengths[skip..skip + count(piece)];
        let (wanted, bytes) = take(lengths, gathered);
        let start = head_bytes + before;
        let mut body = if whole {
            read.slice(start..start + bytes)
        } else {
            self.bytes(place, full_below, start, bytes)?
        };
        for length in &lengths[..wanted] {
            gathered.push(body.split_to(*length as usize));
        }
        Ok(wanted == lengths.len())
    }

    /// The part of a large record before its entries.
    fn head(&self, place: &Place, full_below: u64) -> Result<Bytes, ReadError> {
        let fixed = self.bytes(place, full_below, 0, format::ENTRIES_HEAD_BYTES)?;
        let bytes = format::entries_head_bytes(format::entries_count(&fixed));
        if bytes > place.length as usize {
            return Err(corrupt(place, "the number of entries"));
        }
        self.bytes(place, full_below, 0, bytes)
    }

    fn bytes(
        &self,
        place: &Place,
        full_below: u64,
        from: usize,
        bytes: usize,
    ) -> Result<Bytes, ReadError> {
        let segment = u64::from(place.segment);
        let offset = u64::from(place.offset) + from as u64;
        let read = || {
            let file = self.file(segment)?;
            if segment < full_below && self.blocks.is_in_use() {
                return self.blocks.read(segment, &*file, offset, bytes);
            }
            let mut buffer = BytesMut::zeroed(bytes);
            file.read_exact_at(offset, &mut buffer)?;
            Ok(buffer.freeze())
        };
        read().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => corrupt(place, "the file ends before"),
            io::ErrorKind::NotFound => corrupt(place, "the file is gone"),
            _ => ReadError::Io { segment, error },
        })
    }

    /// Closes a segment's file, which goes.
    pub(super) fn forget(&self, segment: u64) {
        let mut files = self.files.lock();
        files.open.remove(&segment);
        files.order.retain(|one| *one != segment);
        drop(files);
        self.blocks.forget(segment);
    }

    fn file(&self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.files.lock().open.get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&segment::file_name(segment))?;
        let mut files = self.files.lock();
        if files.open.insert(segment, Arc::clone(&file)).is_none() {
            files.order.push_back(segment);
        }
        if files.order.len() > Self::MAX_OPEN
            && let Some(oldest) = files.order.pop_front()
        {
            files.open.remove(&oldest);
        }
        Ok(file)
    }
}

/// How many of these entries still belong to the answer, and their bytes.
fn take(lengths: &[u32], gathered: &Gathered) -> (usize, usize) {
    let mut bytes = 0;
    for (taken, length) in lengths.iter().enumerate() {
        let first = taken == 0 && gathered.entries.is_empty();
        if !first && gathered.bytes + bytes + *length as usize > gathered.max_bytes {
            return (taken, bytes);
        }
        bytes += *length as usize;
    }
    (lengths.len(), bytes)
}

fn corrupt(place: &Place, why: &'static str) -> ReadError {
    ReadError::Corrupt { segment: u64::from(place.segment), offset: u64::from(place.offset), why }
}
