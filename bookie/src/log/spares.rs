//! Files that the next segments are made of: segments that are not needed any more, and a few that are set aside so that a
//! full disk never stops seals, tombstones and relocation (protocol 5.8, K10). What an earlier use left in them is
//! rejected by the segment's number in every crc.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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
    /// Number of the next one. Never one twice: a file whose name was taken from the list still has it until it is renamed.
    next: AtomicU64,
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
        let next = names.iter().filter_map(|name| segment::parse_spare(name)).max();
        let next = AtomicU64::new(next.map_or(0, |last| last + 1));
        for name in names.drain(names.len().min(reserve + MAX_EXTRA)..) {
            disk.remove(&name)?;
        }
        let (names, scarce) = (Mutex::new(names), AtomicBool::new(false));
        Ok(Self { disk, bytes, reserve, names, next, scarce })
    }

    /// A name that no file has, or had since the log was opened.
    fn unused(&self) -> String {
        segment::spare_name(self.next.fetch_add(1, Ordering::Relaxed))
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
            let opened = self.disk.reopen(&name).and_then(|file| Ok((file.size()?, file)));
            let (size, file) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // It is there all the same.
                    self.names.lock().push(name);
                    return Err(error);
                }
            };
            if size < self.bytes {
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

    /// Takes over the file of a segment that is not needed any more, or removes it. After an error it is to be called again:
    /// what was done stays done. Blocks.
    pub(super) fn give(&self, seq: u64) -> io::Result<()> {
        let old = segment::file_name(seq);
        let size = match self.disk.open(&old).and_then(|file| file.size()) {
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.disk.sync_dir(),
            Err(error) => return Err(error),
        };
        let mut names = self.names.lock();
        let fits = (self.bytes..=self.bytes * MAX_TIMES).contains(&size);
        if !fits || names.len() >= self.reserve + MAX_EXTRA {
            drop(names);
            self.disk.remove(&old)?;
            return self.disk.sync_dir();
        }
        let name = self.unused();
        self.disk.rename(&old, &name)?;
        // Whether or not this is synced: whoever takes it syncs the directory before anything depends on its name.
        names.push(name);
        self.disk.sync_dir()
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
                self.unused()
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

    /// Gives the space of those beyond the reserve back to the disk: one that fills up counts them as used. Blocks.
    pub(super) fn trim(&self) -> io::Result<()> {
        let mut removed = false;
        loop {
            let name = {
                let mut names = self.names.lock();
                if names.len() <= self.reserve {
                    break;
                }
                names.pop()
            };
            let Some(name) = name else { break };
            if let Err(error) = self.disk.remove(&name) {
                // It is there all the same.
                self.names.lock().push(name);
                return Err(error);
            }
            removed = true;
        }
        if removed { self.disk.sync_dir() } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;
    use crate::io::{FaultyDisk, MemoryDisk, Op, Space};

    const BYTES: u64 = 1024;

    /// A disk on which something else is done, once, while a spare file is being opened.
    struct Meanwhile {
        disk: MemoryDisk,
        other: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl fmt::Debug for Meanwhile {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.disk.fmt(f)
        }
    }

    impl Disk for Meanwhile {
        fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            self.disk.open(name)
        }
        fn reopen(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
            let file = self.disk.open(name);
            let other = self.other.lock().take();
            other.into_iter().for_each(|other| other());
            file
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

    fn file(disk: &dyn Disk, name: &str, content: &[u8]) {
        let file = disk.create(name).unwrap();
        file.allocate(BYTES).unwrap();
        file.write_all_at(0, &[IoSlice::new(content)]).unwrap();
    }

    #[test]
    fn those_beyond_the_reserve_give_their_space_back() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let names: Vec<String> = (0..5).map(segment::spare_name).collect();
        names.iter().for_each(|name| file(&disk, name, b"spare"));
        let spares = Spares::found(Arc::new(disk.clone()), BYTES, 2, names).unwrap();
        disk.fail(Op::Names, 1, io::ErrorKind::Other);
        assert!(spares.trim().is_err());
        spares.trim().unwrap();
        assert_eq!(disk.list().unwrap().len(), 2, "one that could not be removed was forgotten");
        assert!(!spares.is_scarce());
    }

    /// K3: one thread makes a segment of a spare file while another sets files aside. What goes into the segment is in the
    /// file that has its name.
    #[test]
    fn a_file_that_is_being_taken_keeps_its_name() {
        for refills in [false, true] {
            let disk = Arc::new(Meanwhile { disk: MemoryDisk::new(), other: Mutex::default() });
            let names = vec![segment::spare_name(0)];
            file(&*disk, &names[0], b"spare");
            file(&*disk, &segment::file_name(1), b"old segment");
            let shared: Arc<dyn Disk> = Arc::clone(&disk) as _;
            let spares =
                Arc::new(Spares::found(shared, BYTES, usize::from(refills), names).unwrap());
            let other = Arc::clone(&spares);
            *disk.other.lock() = Some(Box::new(move || {
                let done = if refills { other.refill() } else { other.give(1) };
                done.unwrap();
            }));
            let taken = spares.take(2, refills).unwrap().unwrap();
            taken.write_all_at(0, &[IoSlice::new(b"new segment")]).unwrap();
            let mut read = [0; 11];
            disk.open(&segment::unfinished_name(2)).unwrap().read_exact_at(0, &mut read).unwrap();
            assert_eq!(&read, b"new segment");
            assert!(spares.take(3, true).unwrap().is_some(), "what was set aside is there");
        }
    }
}
