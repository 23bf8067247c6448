//! A disk that refuses to read, as one whose cable, controller or sectors fail: with the error of the system, for as long as it
//! is told to. What is stored stays.

use std::io::IoSlice;
use std::ops::Range;

use crate::io::{DiskFile, Space};

use super::*;

/// `EIO`.
fn refusal() -> io::Error {
    io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())
}

/// The disk; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct RefusingDisk {
    disk: MemoryDisk,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    places: Vec<(String, Range<u64>)>,
    /// So many files are found, and no more.
    found: Option<usize>,
    opened: usize,
}

impl RefusingDisk {
    pub(super) fn new(disk: MemoryDisk) -> Self {
        Self { disk, faults: Arc::default() }
    }

    /// Refuses to read these bytes of a file.
    pub(super) fn refuse(&self, name: &str, bytes: Range<u64>) {
        self.faults.lock().places.push((name.to_owned(), bytes));
    }

    /// Refuses to read the frames of all segments, but not what is behind them.
    pub(super) fn refuse_frames(&self) {
        for seq in segments(&self.disk) {
            for (_, offset, bytes) in frames(&self.disk, seq) {
                let (from, to) = (offset as u64, (offset + bytes) as u64);
                self.refuse(&segment::file_name(seq), from..to);
            }
        }
    }

    /// After so many more files, none is found.
    pub(super) fn go_away_after(&self, files: usize) {
        self.faults.lock().found = Some(files);
    }

    /// Reads all again.
    pub(super) fn recover(&self) {
        let mut faults = self.faults.lock();
        (faults.places, faults.found) = (Vec::new(), None);
    }

    /// How many files were opened to read from.
    pub(super) fn opened(&self) -> usize {
        self.faults.lock().opened
    }
}

impl Disk for RefusingDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut faults = self.faults.lock();
        faults.opened += 1;
        if let Some(left) = &mut faults.found {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::NotFound)?;
        }
        drop(faults);
        let (file, faults) = (self.disk.open(name)?, Arc::clone(&self.faults));
        Ok(Arc::new(RefusingFile { file, name: name.to_owned(), faults }))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(name)
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

#[derive(Debug)]
struct RefusingFile {
    file: Arc<dyn DiskFile>,
    name: String,
    faults: Arc<Mutex<Faults>>,
}

impl DiskFile for RefusingFile {
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.file.write_all_at(offset, parts)
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let end = offset + buffer.len() as u64;
        let refuses = |(name, bytes): &(String, Range<u64>)| {
            *name == self.name && bytes.start < end && offset < bytes.end
        };
        if self.faults.lock().places.iter().any(refuses) {
            return Err(refusal());
        }
        self.file.read_at(offset, buffer)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}
