//! The old part of an index, on the disk: chunks of a ledger's runs, in a file without a name. It is no part of the log and survives
//! no process: opening a log builds the index anew. So it needs no sync, and its format no version. Big-endian:
//!
//! ```text
//! chunk  u64 id | u32 number of runs | runs | u32 crc32c | free up to the next 512
//! run    i64 first | u32 count | u32 segment | u32 offset | u32 length
//! ```
//!
//! A chunk is written once, at a place of its own; the place is used again for one of the same size once the chunk is given up.
//! The id says whether what is read is still the chunk that was looked for.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use parking_lot::Mutex;

use super::run::{Place, Run};
use crate::io::{Disk, DiskFile};
use crate::log::format::Seed;

/// Its name, for a moment.
const NAME: &str = "index.spill";
/// Chunks begin at multiples of it.
const UNIT: usize = 512;
const HEAD_BYTES: usize = 12;
const CRC_BYTES: usize = 4;
const RUN_BYTES: usize = 24;
/// Most runs of a chunk: 12 units.
pub(super) const MAX_RUNS: usize = 255;
const MAX_UNITS: usize = units(MAX_RUNS);

const fn bytes(runs: usize) -> usize {
    HEAD_BYTES + runs * RUN_BYTES + CRC_BYTES
}

const fn units(runs: usize) -> usize {
    bytes(runs).div_ceil(UNIT)
}

/// Whether a file is what a process left behind that was killed in the moment in which its spill file had a name.
pub(in crate::log) fn is_left_over(name: &str) -> bool {
    name == NAME
}

/// A chunk that is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    /// Of all chunks of one index, stored or not, no two have the same.
    pub(super) id: u64,
    /// Where it begins, units.
    at: u32,
    /// How many runs are in it.
    pub(super) runs: u32,
}

/// The file. Calls block.
#[derive(Debug)]
pub(super) struct Spill {
    disk: Arc<dyn Disk>,
    seed: Seed,
    room: Mutex<Room>,
}

#[derive(Debug, Default)]
struct Room {
    file: Option<Arc<dyn DiskFile>>,
    /// Where the file ends, units.
    end: u32,
    /// Places that were given up, by their units.
    free: [Vec<u32>; MAX_UNITS + 1],
}

impl Spill {
    /// Nothing yet; the file is made when the first chunk is written.
    pub(super) fn new(disk: Arc<dyn Disk>, seed: Seed) -> Self {
        Self { disk, seed, room: Mutex::default() }
    }

    /// Writes a chunk of at most [`MAX_RUNS`].
    ///
    /// # Errors
    /// What the disk says; nothing is taken then.
    pub(super) fn write(&self, id: u64, runs: &[Run]) -> io::Result<Stored> {
        let bytes = encode(id, runs, self.seed);
        let (file, at) = self.take(units(runs.len()))?;
        let stored = Stored { id, at, runs: u32::try_from(runs.len()).map_err(io::Error::other)? };
        match file.write_all_at(offset(at), &[IoSlice::new(&bytes)]) {
            Ok(()) => Ok(stored),
            Err(error) => {
                self.free(stored);
                Err(error)
            }
        }
    }

    /// Reads a chunk back.
    ///
    /// # Errors
    /// What the disk says; `InvalidData` when it is not what was written, which may be because it was given up meanwhile.
    pub(super) fn read(&self, stored: Stored) -> io::Result<Vec<Run>> {
        let file = self.room.lock().file.clone().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = vec![0; bytes(stored.runs as usize)];
        file.read_exact_at(offset(stored.at), &mut bytes)?;
        decode(&bytes, stored.id, self.seed).ok_or_else(|| {
            let why = "a part of the index is not what was set down; a restart builds it anew";
            io::Error::new(io::ErrorKind::InvalidData, why)
        })
    }

    /// Gives a chunk up.
    pub(super) fn free(&self, stored: Stored) {
        self.room.lock().free[units(stored.runs as usize)].push(stored.at);
    }

    /// Where the file ends.
    #[cfg(test)]
    pub(super) fn end(&self) -> u32 {
        self.room.lock().end
    }

    fn take(&self, units: usize) -> io::Result<(Arc<dyn DiskFile>, u32)> {
        let mut room = self.room.lock();
        let file = match &room.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(room.file.insert(self.create()?)),
        };
        let at = match room.free[units].pop() {
            Some(at) => at,
            None => {
                let end = room.end.checked_add(units as u32).ok_or(io::ErrorKind::FileTooLarge)?;
                std::mem::replace(&mut room.end, end)
            }
        };
        Ok((file, at))
    }

    fn create(&self) -> io::Result<Arc<dyn DiskFile>> {
        match self.disk.remove(NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.disk.create(NAME)?;
        // Opened, not as created: through the page cache, which serves most of what is read back.
        let file = self.disk.open(NAME);
        self.disk.remove(NAME)?;
        file
    }
}

fn offset(at: u32) -> u64 {
    u64::from(at) * UNIT as u64
}

fn encode(id: u64, runs: &[Run], seed: Seed) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(bytes(runs.len()));
    chunk.put_u64(id);
    chunk.put_u32(u32::try_from(runs.len()).expect("a chunk is small"));
    for Run { first, count, place } in runs {
        chunk.put_i64(*first);
        chunk.put_u32(*count);
        chunk.put_u32(place.segment);
        chunk.put_u32(place.offset);
        chunk.put_u32(place.length);
    }
    let crc = seed.crc(&chunk);
    chunk.put_u32(crc);
    chunk
}

fn decode(chunk: &[u8], id: u64, seed: Seed) -> Option<Vec<Run>> {
    let (covered, mut crc) = chunk.split_at_checked(chunk.len().checked_sub(CRC_BYTES)?)?;
    let (mut head, runs) = covered.split_at_checked(HEAD_BYTES)?;
    let (found, count) = (head.get_u64(), head.get_u32());
    if crc.get_u32() != seed.crc(covered) || found != id || bytes(count as usize) != chunk.len() {
        return None;
    }
    let run = |mut bytes: &[u8]| {
        let (first, count) = (bytes.get_i64(), bytes.get_u32());
        let (segment, offset, length) = (bytes.get_u32(), bytes.get_u32(), bytes.get_u32());
        Run { first, count, place: Place { segment, offset, length } }
    };
    Some(runs.chunks_exact(RUN_BYTES).map(run).collect())
}
