//! A disk that fails or waits on demand, around any other. For tests.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Disk, DiskFile, Space};

/// What can be made to fail or wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Creating a file, renaming or removing one.
    Names,
    /// Syncing the directory.
    SyncDir,
    /// A write, or a change of length.
    Write,
    /// Syncing a file.
    Sync,
    /// A read.
    Read,
}

/// A disk around another; clones share their faults.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    disk: Arc<dyn Disk>,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    plans: Mutex<BTreeMap<Op, Plan>>,
    changed: Condvar,
    /// Bytes that reads returned.
    read: AtomicU64,
}

#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    hold: bool,
    delay: Duration,
    waiting: usize,
    calls: u64,
}

#[derive(Debug)]
struct Fault {
    /// This many calls from now one fails.
    good: u64,
    kind: io::ErrorKind,
    /// Only calls on a file that got this name first count.
    file: Option<String>,
}

impl Faults {
    /// `file`: the name it got first; empty for the directory.
    fn pass(&self, op: Op, file: &str) -> io::Result<()> {
        let mut plans = self.plans.lock();
        plans.entry(op).or_default().calls += 1;
        self.changed.notify_all();
        while plans.entry(op).or_default().hold {
            plans.entry(op).or_default().waiting += 1;
            self.changed.notify_all();
            self.changed.wait(&mut plans);
            plans.entry(op).or_default().waiting -= 1;
        }
        let delay = plans.entry(op).or_default().delay;
        if !delay.is_zero() {
            // Nobody has to hear of it: this only takes time, and holds up no other call.
            drop(plans);
            let nobody = Mutex::new(());
            Condvar::new().wait_for(&mut nobody.lock(), delay);
            plans = self.plans.lock();
        }
        let plan = plans.entry(op).or_default();
        match &mut plan.fault {
            Some(fault) if fault.file.as_ref().is_some_and(|only| only != file) => Ok(()),
            Some(fault) if fault.good > 0 => {
                fault.good -= 1;
                Ok(())
            }
            Some(fault) => {
                let kind = fault.kind;
                plan.fault = None;
                self.changed.notify_all();
                Err(io::Error::new(kind, "injected"))
            }
            None => Ok(()),
        }
    }
}

impl FaultyDisk {
    /// A disk that does what `disk` does, until told otherwise.
    pub fn new(disk: impl Disk) -> Self {
        Self { disk: Arc::new(disk), faults: Arc::default() }
    }

    /// After `good` more calls of this kind, one fails.
    pub fn fail(&self, op: Op, good: u64, kind: io::ErrorKind) {
        let fault = Fault { good, kind, file: None };
        self.faults.plans.lock().entry(op).or_default().fault = Some(fault);
    }

    /// [`FaultyDisk::fail`] of which only calls on one file count: on the one that is created or opened with this name, which
    /// keeps its faults when it is renamed.
    pub fn fail_on(&self, file: &str, op: Op, good: u64, kind: io::ErrorKind) {
        let fault = Fault { good, kind, file: Some(file.to_owned()) };
        self.faults.plans.lock().entry(op).or_default().fault = Some(fault);
    }

    /// Blocks until the call of this kind that was to fail has failed.
    pub fn wait_failed(&self, op: Op) {
        let mut plans = self.faults.plans.lock();
        while plans.entry(op).or_default().fault.is_some() {
            self.faults.changed.wait(&mut plans);
        }
    }

    /// Calls of this kind take so long from now on.
    pub fn slow(&self, op: Op, delay: Duration) {
        self.faults.plans.lock().entry(op).or_default().delay = delay;
    }

    /// Calls of this kind wait until [`FaultyDisk::release`].
    pub fn hold(&self, op: Op) {
        self.faults.plans.lock().entry(op).or_default().hold = true;
    }

    /// Blocks until a call of this kind is being held.
    pub fn wait_held(&self, op: Op) {
        let mut plans = self.faults.plans.lock();
        while plans.entry(op).or_default().waiting == 0 {
            self.faults.changed.wait(&mut plans);
        }
    }

    /// Lets calls of this kind go on.
    pub fn release(&self, op: Op) {
        self.faults.plans.lock().entry(op).or_default().hold = false;
        self.faults.changed.notify_all();
    }

    /// Blocks until there were `calls` calls of this kind, good or not, the one under way included.
    pub fn wait_calls(&self, op: Op, calls: u64) {
        let mut plans = self.faults.plans.lock();
        while plans.entry(op).or_default().calls < calls {
            self.faults.changed.wait(&mut plans);
        }
    }

    /// Bytes that were read so far.
    pub fn read_bytes(&self) -> u64 {
        self.faults.read.load(Ordering::Relaxed)
    }

    fn wrap(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { name: name.to_owned(), file, faults: Arc::clone(&self.faults) })
    }
}

impl Disk for FaultyDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }

    fn reopen(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.wrap(name, self.disk.reopen(name)?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.pass(Op::Names, name)?;
        Ok(self.wrap(name, self.disk.create(name)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.pass(Op::Names, from)?;
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.faults.pass(Op::Names, name)?;
        self.disk.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.faults.pass(Op::SyncDir, "")?;
        self.disk.sync_dir()
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn is_there(&self) -> io::Result<bool> {
        self.disk.is_there()
    }
}

#[derive(Debug)]
struct FaultyFile {
    name: String,
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.faults.pass(Op::Write, &self.name)?;
        self.file.write_all_at(offset, parts)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.faults.pass(Op::Read, &self.name)?;
        let read = self.file.read_at(offset, buffer)?;
        self.faults.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.faults.pass(Op::Sync, &self.name)?;
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.faults.pass(Op::Write, &self.name)?;
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.faults.pass(Op::Write, &self.name)?;
        self.file.allocate(bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::super::MemoryDisk;
    use super::*;

    #[test]
    fn a_slow_disk_takes_its_time() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let file = disk.create("a").unwrap();
        disk.slow(Op::Sync, Duration::from_millis(20));
        let begun = Instant::now();
        file.sync_data().unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(20));
        assert_eq!(disk.open("a").unwrap().size().unwrap(), 0);
    }
}
