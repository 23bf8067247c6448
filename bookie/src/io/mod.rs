//! The disk seam: everything that a bookie does to a data directory goes through [`Disk`] and [`DiskFile`], so that
//! tests can lose unsynced bytes, refuse a write, or hold a sync.
//!
//! * [`RealDisk`]: a directory of the operating system.
//! * [`MemoryDisk`]: bytes in memory that know what was synced; a crash gives a new disk without the rest.
//! * [`FaultyDisk`]: wraps another, fails and holds calls on demand.
//!
//! Calls block: they belong on a thread of their own or on the blocking pool, never on a task.

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

mod direct;
mod faulty;
mod memory;
mod real;

pub use faulty::{FaultyDisk, Op};
pub use memory::MemoryDisk;
pub use real::RealDisk;

/// A directory without sub-directories. File names are plain: no separators.
///
/// # Contract
///
/// What [`Disk::create`], [`Disk::rename`] and [`Disk::remove`] did to names is durable after [`Disk::sync_dir`] only
/// (K7); a rename replaces its target in one step.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Opens a file for reading and writing; `NotFound` when it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file to be written anew, as a created one is.
    fn reopen(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    /// Creates an empty file; `AlreadyExists` when it is there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a name. Handles stay usable.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How full the disk is.
    fn space(&self) -> io::Result<Space>;

    /// Whether the directory is still where it was found. Once it is not, what its files take is gone with this process.
    fn is_there(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// One open file.
///
/// # Contract
///
/// Written bytes are readable at once and durable after [`DiskFile::sync_data`] returned `Ok`. After any error of a
/// write or a sync nothing is known about the bytes written since the last good sync, and no later sync makes up for
/// it (K6).
pub trait DiskFile: fmt::Debug + Send + Sync + 'static {
    /// Writes all parts, end to end, from `offset` on. A short write is an error (K6).
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Writes zeros, in steps that may fail on their own.
    fn write_zeros_at(&self, offset: u64, bytes: u64) -> io::Result<()> {
        write_zeros(self, offset, bytes)
    }

    /// Reads up to `buffer.len()` bytes; 0 at or behind the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Says what will be read soon, so that it may be fetched meanwhile. Changes nothing else, and never fails.
    fn will_read(&self, _offset: u64, _bytes: u64) {}

    /// Makes written bytes, and the length, durable.
    fn sync_data(&self) -> io::Result<()>;

    /// Cuts or extends with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;

    /// Extends to `bytes`, with space set aside: writing there does not run out of it.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }

    /// Length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer`; `UnexpectedEof` when the file ends before.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(offset + done as u64, &mut buffer[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}

fn write_zeros(file: &(impl DiskFile + ?Sized), offset: u64, bytes: u64) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 1 << 20];
    let mut done = 0;
    while done < bytes {
        let step = (bytes - done).min(ZEROS.len() as u64);
        file.write_all_at(offset + done, &[IoSlice::new(&ZEROS[..step as usize])])?;
        done += step;
    }
    Ok(())
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// What this process may still write.
    pub free: u64,
    /// That and what is used.
    pub total: u64,
}
