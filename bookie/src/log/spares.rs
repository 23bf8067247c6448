//! Files that the next segments are made of: segments that are not needed any more, and a few that are set aside so that a
//! full disk never stops seals, tombstones and relocation (protocol 5.8, K10). What an earlier use left in them is
//! rejected by the segment's number in every crc.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::segment;
use crate::io::{Disk, DiskFile};

/// Spare files beyond the reserve, at most; further ones give their space back.
const MAX_EXTRA: usize = 4;
/// A file up to so many times the size of a segment becomes a spare.
const MAX_TIMES: u64 = 2;

/// The spare files of one log.
#[derive(Debug)]
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    /// Of a segment.
    bytes: u64,
    /// So many are kept for when the disk is full.
    reserve: usize,
    names: Mutex<Vec<String>>,
    scarce: AtomicBool,
}

/// Whether an error says that the disk is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Spares {
    /// Those that are there already; more than are of use are removed. Blocks.
    pub(super) fn found(
        disk: Arc<dyn Disk>,
        bytes: u64,
        reserve: usize,
        mut names: Vec<String>,
    ) -> io::Result<Self> {
        for name in names.drain(names.len().min(reserve + MAX_EXTRA)..) {
            disk.remove(&name)?;
        }
        Ok(Self { disk, bytes, reserve, names: Mutex::new(names), scarce: AtomicBool::new(false) })
    }

    /// Size of each, bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a segment had to come out of the reserve, and the reserve is not whole again: nothing but seals and
    /// tombstones should be appended.
    pub(super) fn is_scarce(&self) -> bool {
        self.scarce.load(Ordering::Relaxed)
    }

    /// Opens one under the name of unfinished segment `seq`; `None` when there is none that may be used. Blocks.
    pub(super) fn take(&self, seq: u64, reserved: bool) -> io::Result<Option<Arc<dyn DiskFile>>> {
        loop {
            let name = {
                let mut names = self.names.lock();
                let may = if reserved { !names.is_empty() } else { names.len() > self.reserve };
                if !may {
                    return Ok(None);
                }
                names.pop()
            };
            let Some(name) = name else { return Ok(None) };
            let file = self.disk.reopen(&name)?;
            if file.size()? < self.bytes {
                // Made for smaller segments, or never finished.
                self.disk.remove(&name)?;
                continue;
            }
            if reserved {
                tracing::error!(
                    "the disk is full: a log segment comes out of the reserve; free space, or add bookies"
                );
                self.scarce.store(true, Ordering::Relaxed);
            }
            self.disk.rename(&name, &segment::unfinished_name(seq))?;
            return Ok(Some(file));
        }
    }

    /// Takes over the file of a segment that is not needed any more, or removes it. Blocks.
    pub(super) fn give(&self, seq: u64) -> io::Result<()> {
        let old = segment::file_name(seq);
        let size = self.disk.open(&old)?.size()?;
        let mut names = self.names.lock();
        let fits = (self.bytes..=self.bytes * MAX_TIMES).contains(&size);
        if !fits || names.len() >= self.reserve + MAX_EXTRA {
            drop(names);
            self.disk.remove(&old)?;
            return self.disk.sync_dir();
        }
        let name = unused(&names);
        self.disk.rename(&old, &name)?;
        self.disk.sync_dir()?;
        names.push(name);
        Ok(())
    }

    /// Makes the reserve whole, as far as the disk has room. Blocks.
    pub(super) fn refill(&self) -> io::Result<()> {
        loop {
            let name = {
                let names = self.names.lock();
                if names.len() >= self.reserve {
                    self.scarce.store(false, Ordering::Relaxed);
                    return Ok(());
                }
                unused(&names)
            };
            if let Err(error) = self.set_aside(&name) {
                // What was begun must not take the room that is missing.
                return match self.disk.remove(&name) {
                    Ok(()) if is_full(&error) => Ok(()),
                    _ => Err(error),
                };
            }
            self.names.lock().push(name);
        }
    }

    fn set_aside(&self, name: &str) -> io::Result<()> {
        let file = self.disk.create(name)?;
        file.allocate(self.bytes)?;
        // Never a header of a segment.
        file.write_all_at(0, &[IoSlice::new(&[0; 512])])?;
        file.sync_data()?;
        self.disk.sync_dir()
    }

    /// Gives the space of one back to the disk, for something that needs it more; false when there is none. Blocks.
    pub(super) fn release(&self) -> io::Result<bool> {
        let Some(name) = self.names.lock().pop() else { return Ok(false) };
        self.scarce.store(true, Ordering::Relaxed);
        self.disk.remove(&name)?;
        self.disk.sync_dir()?;
        Ok(true)
    }
}

/// A name that no spare file has.
fn unused(names: &[String]) -> String {
    let mut number = 0;
    loop {
        let name = segment::spare_name(number);
        if !names.contains(&name) {
            return name;
        }
        number += 1;
    }
}
