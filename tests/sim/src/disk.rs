//! A bookie's disk: the production disk in memory, with faults planned at the n-th change from now. A power cut in the
//! middle of an operation leaves any subset of the unsynced sectors, as its seed decides; from then on nothing works, and
//! the image waits for the next start.

use std::io::{self, IoSlice};
use std::sync::Arc;

use geminga_bookie::io::{Disk, DiskFile, MemoryDisk, Space};
use parking_lot::Mutex;

use crate::dice::Dice;

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFault {
    /// Power goes; the seed decides what survives.
    PowerCut(u64),
    /// The operation fails. Of a write, a part may have taken place; of a sync, nothing is made durable, now or later (K6).
    Error,
    /// There is no room: only writes to new places and new files fail.
    Full,
}

#[derive(Debug, Default)]
struct Plan {
    /// Changes until the fault.
    fault: Option<(u64, DiskFault)>,
    /// Reads until one fails.
    read_error: Option<u64>,
    /// After a power cut: what is left.
    image: Option<MemoryDisk>,
}

/// A disk; clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct SimDisk {
    disk: MemoryDisk,
    plan: Arc<Mutex<Plan>>,
}

/// What an operation has to do.
enum Fate {
    Good,
    Fail(io::ErrorKind),
    /// Take place, then lose power.
    Cut(u64),
}

impl SimDisk {
    pub(crate) fn new(disk: MemoryDisk) -> Self {
        Self { disk, plan: Arc::default() }
    }

    /// The disk in memory below.
    pub(crate) fn memory(&self) -> &MemoryDisk {
        &self.disk
    }

    /// Plans a fault `changes` changes from now; replaces an earlier plan.
    pub(crate) fn plan(&self, changes: u64, fault: DiskFault) {
        self.plan.lock().fault = Some((changes, fault));
    }

    /// Plans a read that fails.
    pub(crate) fn plan_read_error(&self, reads: u64) {
        self.plan.lock().read_error = Some(reads);
    }

    /// Nothing planned happens any more.
    pub(crate) fn calm(&self) {
        let mut plan = self.plan.lock();
        (plan.fault, plan.read_error) = (None, None);
    }

    /// Power was lost inside an operation.
    pub(crate) fn is_off(&self) -> bool {
        self.plan.lock().image.is_some()
    }

    /// The disk after a power cut that took place inside an operation, if one did.
    pub(crate) fn after_cut(&self) -> Option<Self> {
        self.plan.lock().image.take().map(Self::new)
    }

    /// The disk after a power cut now.
    pub(crate) fn cut(&self, seed: u64) -> Self {
        Self::new(cut(&self.disk, seed))
    }

    fn fate(&self) -> io::Result<Fate> {
        let mut plan = self.plan.lock();
        if plan.image.is_some() {
            return Err(io::Error::other("power is off"));
        }
        Ok(match plan.fault {
            Some((0, fault)) => {
                plan.fault = None;
                match fault {
                    DiskFault::PowerCut(seed) => Fate::Cut(seed),
                    DiskFault::Error => Fate::Fail(io::ErrorKind::Other),
                    DiskFault::Full => Fate::Fail(io::ErrorKind::StorageFull),
                }
            }
            Some((left, fault)) => {
                plan.fault = Some((left - 1, fault));
                Fate::Good
            }
            None => Fate::Good,
        })
    }

    fn change<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self.fate()? {
            Fate::Good => act(),
            Fate::Fail(kind) => Err(kind.into()),
            Fate::Cut(seed) => {
                act()?;
                Err(self.lose_power(seed))
            }
        }
    }

    fn lose_power(&self, seed: u64) -> io::Error {
        self.plan.lock().image = Some(cut(&self.disk, seed));
        io::Error::other("power was lost")
    }

    fn read<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut plan = self.plan.lock();
        if plan.image.is_some() {
            return Err(io::Error::other("power is off"));
        }
        match plan.read_error {
            Some(0) => {
                plan.read_error = None;
                return Err(io::Error::other("injected"));
            }
            Some(left) => plan.read_error = Some(left - 1),
            None => {}
        }
        drop(plan);
        act()
    }

    fn wrap(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file })
    }
}

/// What a power cut leaves of a disk: few of the unsynced sectors, many, or about half.
fn cut(disk: &MemoryDisk, seed: u64) -> MemoryDisk {
    let dice = Dice::new(seed);
    let kept = *dice.pick(&[0, 100, 500, 900, 1000]);
    disk.crash_keeping(|| dice.chance(kept))
}

impl Disk for SimDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.read(|| self.disk.open(name)).map(|file| self.wrap(file))
    }

    fn reopen(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.read(|| self.disk.reopen(name)).map(|file| self.wrap(file))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.change(|| self.disk.create(name)).map(|file| self.wrap(file))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.read(|| self.disk.list())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|| self.disk.rename(from, to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change(|| self.disk.remove(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        match self.fate()? {
            Fate::Good => self.disk.sync_dir(),
            Fate::Fail(kind) => Err(kind.into()),
            Fate::Cut(seed) => Err(self.lose_power(seed)),
        }
    }

    fn space(&self) -> io::Result<Space> {
        self.read(|| self.disk.space())
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: Arc<dyn DiskFile>,
}

impl DiskFile for SimFile {
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self.disk.fate()? {
            Fate::Good => self.file.write_all_at(offset, parts),
            Fate::Fail(kind) => {
                // A short write.
                self.file.write_all_at(offset, &parts[..parts.len() / 2])?;
                Err(kind.into())
            }
            Fate::Cut(seed) => {
                self.file.write_all_at(offset, parts)?;
                Err(self.disk.lose_power(seed))
            }
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read(|| self.file.read_at(offset, buffer))
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.disk.fate()? {
            Fate::Good => self.file.sync_data(),
            Fate::Fail(kind) => {
                self.disk.disk.fail_writeback();
                Err(kind.into())
            }
            Fate::Cut(seed) => Err(self.disk.lose_power(seed)),
        }
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.change(|| self.file.set_len(bytes))
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.disk.change(|| self.file.allocate(bytes))
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.read(|| self.file.size())
    }
}
