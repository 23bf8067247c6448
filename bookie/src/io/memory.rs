//! A disk in memory, for tests, that knows what was synced. [`MemoryDisk::crash`] gives the disk that a power cut
//! would leave: synced bytes and synced names only. [`MemoryDisk::crash_keeping`] lets unsynced sectors and name
//! changes survive as the caller decides, as a real disk may: a write can be torn at every 512 bytes, and sectors
//! survive in any combination; name changes survive in order, as in a file system's journal.
//!
//! One lock covers the whole disk, so that a crash is one instant.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use geminga_runtime::Random;
use parking_lot::Mutex;

use super::{Disk, DiskFile, Space};

const SECTOR: usize = 512;
const TOTAL_BYTES: u64 = 1 << 40;

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Debug)]
struct Contents {
    capacity: u64,
    files: BTreeMap<u64, Data>,
    created: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Name changes since the last sync of the directory: the file, or none when the name went.
    pending: Vec<Vec<(String, Option<u64>)>>,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            capacity: TOTAL_BYTES,
            files: BTreeMap::new(),
            created: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
        }
    }
}

#[derive(Debug, Default)]
struct Data {
    now: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Data {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(bytes);
        if !bytes.is_empty() {
            self.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
        }
    }

    fn set_len(&mut self, bytes: usize) {
        let (from, to) = (self.now.len().min(bytes), self.now.len().max(bytes));
        self.now.resize(bytes, 0);
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
    }

    /// What is durable once the sectors that `keep` chooses are.
    fn settle(&self, mut keep: impl FnMut() -> bool) -> Vec<u8> {
        let mut settled = self.durable.clone();
        for &sector in &self.dirty {
            let from = sector * SECTOR;
            if from >= self.now.len() || !keep() {
                continue;
            }
            let to = self.now.len().min(from + SECTOR);
            if settled.len() < to {
                settled.resize(to, 0);
            }
            settled[from..to].copy_from_slice(&self.now[from..to]);
        }
        if settled.len() > self.now.len() && keep() {
            settled.truncate(self.now.len());
        }
        settled
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk that is full at so many bytes.
    #[must_use]
    pub fn with_capacity(bytes: u64) -> Self {
        let disk = Self::new();
        disk.0.lock().capacity = bytes;
        disk
    }

    /// The disk after a power cut at this instant: nothing survives that was not synced. This one goes on as it was.
    #[must_use]
    pub fn crash(&self) -> Self {
        self.crash_keeping(|| false)
    }

    /// The disk after a power cut at this instant; `keep` is asked about each unsynced sector and name change.
    #[must_use]
    pub fn crash_keeping(&self, mut keep: impl FnMut() -> bool) -> Self {
        let contents = self.0.lock();
        let mut names = contents.durable_names.clone();
        for change in contents.pending.iter().take_while(|_| keep()) {
            apply(&mut names, change);
        }
        let files = names.values().map(|id| {
            let settled = contents.files[id].settle(&mut keep);
            (*id, Data { now: settled.clone(), durable: settled, dirty: BTreeSet::new() })
        });
        Self(Arc::new(Mutex::new(Contents {
            capacity: contents.capacity,
            files: files.collect(),
            created: contents.created,
            durable_names: names.clone(),
            names,
            pending: Vec::new(),
        })))
    }

    /// What a failed sync leaves behind: written bytes stay readable, are taken for clean, and no later sync of them
    /// makes them durable, unless they are written again (K6).
    pub fn fail_writeback(&self) {
        for data in self.0.lock().files.values_mut() {
            data.dirty.clear();
        }
    }

    /// The disk after a power cut at this instant, with each unsynced sector and name change kept or lost at random.
    #[must_use]
    pub fn crash_torn(&self, random: &dyn Random) -> Self {
        self.crash_keeping(|| random.below(2) == 0)
    }

    /// Inverts one bit of a file, synced: rot.
    pub fn flip(&self, name: &str, offset: usize, bit: u8) {
        let mut contents = self.0.lock();
        let id = contents.names[name];
        let data = contents.files.get_mut(&id).expect("a name has a file");
        let flipped = data.now[offset] ^ (1 << (bit % 8));
        data.write(offset, &[flipped]);
        data.durable = data.settle(|| true);
        data.dirty.clear();
    }

    /// Inverts the bits of a file's bytes, synced: rot.
    pub fn damage(&self, name: &str, offset: usize, bytes: usize) {
        let mut contents = self.0.lock();
        let id = contents.names[name];
        let data = contents.files.get_mut(&id).expect("a name has a file");
        let flipped: Vec<u8> = data.now[offset..offset + bytes].iter().map(|byte| !byte).collect();
        data.write(offset, &flipped);
        data.durable = data.settle(|| true);
        data.dirty.clear();
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &[(String, Option<u64>)]) {
    for (name, file) in change {
        match file {
            Some(id) => names.insert(name.clone(), *id),
            None => names.remove(name),
        };
    }
}

impl Contents {
    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Bytes of the files that have a name, or had one when the names were last synced.
    fn used(&self) -> u64 {
        let pending = self.pending.iter().flatten().filter_map(|(_, file)| file.as_ref());
        let named: BTreeSet<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .chain(pending)
            .copied()
            .collect();
        named.iter().map(|id| self.files[id].now.len() as u64).sum()
    }

    /// Whether a file may grow to so many bytes.
    fn room_for(&self, id: u64, bytes: u64) -> io::Result<()> {
        let more = bytes.saturating_sub(self.files[&id].now.len() as u64);
        match more > 0 && self.used() + more > self.capacity {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn change(&mut self, change: Vec<(String, Option<u64>)>) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }
}

impl Disk for MemoryDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let id = self.0.lock().find(name)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut contents = self.0.lock();
        if contents.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        contents.created += 1;
        let id = contents.created;
        contents.files.insert(id, Data::default());
        contents.change(vec![(name.to_owned(), Some(id))]);
        Ok(Arc::new(MemoryFile { disk: self.clone(), id }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut contents = self.0.lock();
        let id = contents.find(from)?;
        contents.change(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut contents = self.0.lock();
        contents.find(name)?;
        contents.change(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut contents = self.0.lock();
        contents.durable_names = contents.names.clone();
        contents.pending.clear();
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let contents = self.0.lock();
        Ok(Space {
            free: contents.capacity.saturating_sub(contents.used()),
            total: contents.capacity,
        })
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    id: u64,
}

impl MemoryFile {
    fn with<R>(&self, act: impl FnOnce(&mut Data) -> R) -> R {
        act(self.disk.0.lock().files.get_mut(&self.id).expect("a handle keeps its file"))
    }
}

impl DiskFile for MemoryFile {
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        self.disk.0.lock().room_for(self.id, offset + bytes as u64)?;
        self.with(|data| {
            let mut at = offset as usize;
            for part in parts {
                data.write(at, part);
                at += part.len();
            }
        });
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.with(|data| {
            let from = data.now.len().min(offset as usize);
            let bytes = buffer.len().min(data.now.len() - from);
            buffer[..bytes].copy_from_slice(&data.now[from..from + bytes]);
            bytes
        }))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|data| {
            data.durable = data.settle(|| true);
            data.dirty.clear();
        });
        Ok(())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.disk.0.lock().room_for(self.id, bytes)?;
        self.with(|data| data.set_len(bytes as usize));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.with(|data| data.now.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(disk: &MemoryDisk, name: &str) -> Vec<u8> {
        let file = disk.open(name).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_exact_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_crash_keeps_what_was_synced() {
        let disk = MemoryDisk::new();
        let file = disk.create("a").unwrap();
        file.write_all_at(0, &[IoSlice::new(b"one"), IoSlice::new(b"two")]).unwrap();
        file.sync_data().unwrap();
        assert!(disk.crash().list().unwrap().is_empty(), "its name was not synced");
        disk.sync_dir().unwrap();
        file.write_all_at(3, &[IoSlice::new(b"six and more")]).unwrap();
        assert_eq!(contents(&disk, "a"), b"onesix and more");
        assert_eq!(contents(&disk.crash(), "a"), b"onetwo");
        assert_eq!(contents(&disk.crash_keeping(|| true), "a"), b"onesix and more");
        file.set_len(2).unwrap();
        assert_eq!(contents(&disk.crash(), "a"), b"onetwo");
        file.sync_data().unwrap();
        assert_eq!(contents(&disk.crash(), "a"), b"on");
    }

    #[test]
    fn a_failed_writeback_is_not_made_up_for() {
        let disk = MemoryDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_all_at(0, &[IoSlice::new(b"lost")]).unwrap();
        disk.fail_writeback();
        file.sync_data().unwrap();
        assert_eq!(contents(&disk, "a"), b"lost");
        assert_eq!(contents(&disk.crash(), "a"), b"");
        file.write_all_at(0, &[IoSlice::new(b"here")]).unwrap();
        file.sync_data().unwrap();
        assert_eq!(contents(&disk.crash(), "a"), b"here");
    }

    #[test]
    fn a_crash_tears_at_sectors() {
        let disk = MemoryDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        file.write_all_at(0, &[IoSlice::new(&[7; 1536])]).unwrap();
        let mut asked = 0;
        let torn = disk.crash_keeping(|| {
            asked += 1;
            asked != 2
        });
        let bytes = contents(&torn, "a");
        assert_eq!(asked, 3);
        assert_eq!((bytes[511], bytes[512], bytes[1023], bytes[1024]), (7, 0, 0, 7));
    }

    #[test]
    fn one_bit_rots() {
        let disk = MemoryDisk::new();
        disk.create("a").unwrap().write_all_at(0, &[IoSlice::new(b"abc")]).unwrap();
        disk.sync_dir().unwrap();
        disk.flip("a", 1, 0);
        assert_eq!(contents(&disk.crash(), "a"), b"acc");
    }

    #[test]
    fn a_full_disk_refuses_to_grow() {
        let disk = MemoryDisk::with_capacity(1000);
        let file = disk.create("a").unwrap();
        file.allocate(900).unwrap();
        file.write_all_at(800, &[IoSlice::new(&[1; 100])]).unwrap();
        let full = file.write_all_at(950, &[IoSlice::new(&[1; 100])]).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.space().unwrap(), Space { free: 100, total: 1000 });
        disk.sync_dir().unwrap();
        disk.remove("a").unwrap();
        assert_eq!(disk.space().unwrap().free, 100, "a crash would bring it back");
        disk.sync_dir().unwrap();
        assert_eq!(disk.space().unwrap().free, 1000);
    }

    #[test]
    fn names_survive_in_order() {
        let disk = MemoryDisk::new();
        disk.create("a").unwrap();
        disk.sync_dir().unwrap();
        disk.rename("a", "b").unwrap();
        disk.create("a").unwrap();
        let mut asked = 0;
        let one = disk.crash_keeping(|| {
            asked += 1;
            asked == 1
        });
        assert_eq!(one.list().unwrap(), ["b"]);
        assert_eq!(disk.crash().list().unwrap(), ["a"]);
        disk.remove("b").unwrap();
        assert_eq!(disk.crash_keeping(|| true).list().unwrap(), ["a"]);
    }
}
