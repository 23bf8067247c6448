//! Blocks of objects on a disk of the broker's own: what memory has let go of is read again from there, and not from the object store.
//! Owned by [`super::Cold`], which asks it before the store and gives it what the store said.
//!
//! * A cache and nothing else: no file is synced, and one that is not the block its object's index tells of is removed and
//!   fetched anew. A disk that fails costs requests to the store, and one that does not answer a moment more: it is left alone then.
//! * Its files take the bytes it was given at most, but for those that are being written; the one that was used least lately goes.
//!   A file system that has less room holds what fits.
//! * A directory is one process's at a time. What an earlier one left is used again: an upload never changes.
//! * Everything that touches the disk runs where it may block; few blocks are read and written at a time. Who comes then asks the store,
//!   and its block is not kept.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use geminga_runtime::Tasks;
use geminga_tier::Object;
use geminga_tier::format::Block;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::{BlockId, metrics};

/// Blocks that are read at a time, and written.
const READING: usize = 32;
const WRITING: usize = 8;
/// A read that takes longer is none: the store is asked, and the disk left alone for so long.
const PATIENCE: Duration = Duration::from_millis(500);
const LEFT_ALONE: Duration = Duration::from_secs(60);
/// How often it is told at most that the disk fails.
const TOLD: Duration = Duration::from_secs(60);
/// What a file takes is a multiple of this.
const UNIT_BYTES: u32 = 4096;
/// Of the file that is locked while a process uses the directory.
const LOCK: &str = "lock";
/// What the name of a file ends with until it is whole.
const PART: &str = ".part";

/// See the module. Cloning shares it.
#[derive(Debug, Clone)]
pub struct DiskCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// How long each file is. Changed where it may block, since the file of one that goes is removed then and there.
    files: Cache<BlockId, u32>,
    reading: Arc<Semaphore>,
    writing: Arc<Semaphore>,
    /// Numbers files that are being written.
    parts: AtomicU64,
    trouble: Mutex<Trouble>,
    _lock: File,
}

#[derive(Debug, Default)]
struct Trouble {
    /// When it was told last that the disk fails.
    told: Option<Instant>,
    /// When the disk last did not answer.
    hung: Option<Instant>,
}

impl DiskCache {
    /// Keeps up to `bytes` in `directory`, which is made when it is not there. Blocks.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it ([`io::ErrorKind::ResourceBusy`]).
    pub fn open(directory: &Path, bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let lock = File::create(directory.join(LOCK))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::Error(error) => error,
            TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::ResourceBusy, "another process uses it")
            }
        })?;
        let of = directory.to_owned();
        let files = Cache::builder()
            .max_capacity(bytes)
            .eviction_policy(EvictionPolicy::lru())
            .weigher(|_, length: &u32| length.next_multiple_of(UNIT_BYTES))
            .eviction_listener(move |id: Arc<BlockId>, _, cause| {
                // One that took its place has the same name.
                if cause != RemovalCause::Replaced {
                    remove(&of.join(name(*id)));
                }
            })
            .build();
        for (id, length) in found(directory)? {
            files.insert(id, length);
        }
        files.run_pending_tasks();
        // It removes as many files as it can in a moment.
        while files.weighted_size() > bytes {
            files.run_pending_tasks();
        }
        metrics::disk(files.weighted_size());
        Ok(Self(Arc::new(Shared {
            directory: directory.to_owned(),
            files,
            reading: Arc::new(Semaphore::new(READING)),
            writing: Arc::new(Semaphore::new(WRITING)),
            parts: AtomicU64::new(0),
            trouble: Mutex::default(),
            _lock: lock,
        })))
    }

    /// A block that is here, whole. Cancel-safe.
    pub(super) async fn block(&self, object: &Object, number: usize) -> Option<Block> {
        let id = (object.attempt(), number);
        let bytes = self.bytes(id, object.index().blocks().get(number)?.length).await?;
        match object.decode(number, &bytes) {
            Ok(block) => Some(block),
            Err(error) => {
                self.0.failed(&error);
                let shared = Arc::clone(&self.0);
                // What the store says is kept in its place.
                drop(tokio::task::spawn_blocking(move || shared.forget(id)));
                None
            }
        }
    }

    /// What a file has, in time.
    async fn bytes(&self, id: BlockId, length: u32) -> Option<Bytes> {
        if !self.0.files.contains_key(&id) || self.0.is_left_alone() {
            return None;
        }
        // Its thread has it, however long that takes.
        let reading = Arc::clone(&self.0.reading).try_acquire_owned().ok()?;
        let shared = Arc::clone(&self.0);
        let read = tokio::task::spawn_blocking(move || {
            let read = shared.read(id, length);
            drop(reading);
            read
        });
        let Ok(read) = tokio::time::timeout(PATIENCE, read).await else {
            self.0.hangs();
            return None;
        };
        read.ok()?
    }

    /// Keeps a block, unless many are being kept; `tasks` wait for it.
    pub(super) fn keep(&self, id: BlockId, bytes: Bytes, tasks: &Tasks) {
        let Ok(writing) = Arc::clone(&self.0.writing).try_acquire_owned() else { return };
        if self.0.is_left_alone() {
            return;
        }
        let shared = Arc::clone(&self.0);
        tasks.spawn("cold block to disk", async move {
            let written = tokio::task::spawn_blocking(move || {
                shared.write(id, &bytes);
                drop(writing);
            });
            written.await.ok();
        });
    }

    /// How many blocks are here, once all that are being written are.
    #[cfg(test)]
    pub(crate) async fn settled(&self) -> usize {
        let all = u32::try_from(WRITING).expect("few");
        drop(self.0.writing.acquire_many(all).await.expect("it is never closed"));
        self.0.files.iter().count()
    }

    /// What all files take.
    #[cfg(test)]
    pub(crate) fn size(&self) -> u64 {
        self.0.files.run_pending_tasks();
        self.0.files.weighted_size()
    }
}

impl Shared {
    fn read(&self, id: BlockId, length: u32) -> Option<Bytes> {
        if self.files.get(&id) != Some(length) {
            self.forget(id);
            return None;
        }
        let read = File::open(self.directory.join(name(id))).and_then(|mut file| {
            let mut bytes = vec![0; length as usize];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => Some(Bytes::from(bytes)),
            Err(error) => {
                // One that is gone was let go of in this moment.
                if error.kind() != io::ErrorKind::NotFound {
                    self.failed(&error);
                }
                self.forget(id);
                None
            }
        }
    }

    fn write(&self, id: BlockId, bytes: &[u8]) {
        let Ok(length) = u32::try_from(bytes.len()) else { return };
        let (name, file) = (name(id), |name: &str| self.directory.join(name));
        let part = self.parts.fetch_add(1, Ordering::Relaxed);
        let part = file(&format!("{name}.{part}{PART}"));
        let written = File::create(&part)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&part, file(&name)));
        match written {
            Ok(()) => self.files.insert(id, length),
            Err(error) => {
                remove(&part);
                self.failed(&error);
                if error.kind() == io::ErrorKind::StorageFull {
                    self.make_room();
                }
            }
        }
        // What is too much now goes here, and not while somebody reads.
        self.files.run_pending_tasks();
        metrics::disk(self.files.weighted_size());
    }

    /// The file system is full before the cache is: some blocks go, so that the next find room.
    fn make_room(&self) {
        let some: Vec<BlockId> = self.files.iter().take(WRITING).map(|(id, _)| *id).collect();
        for id in some {
            self.forget(id);
        }
    }

    fn forget(&self, id: BlockId) {
        self.files.invalidate(&id);
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        metrics::disk_failed();
        let mut trouble = self.trouble.lock();
        if trouble.told.is_none_or(|told| told.elapsed() >= TOLD) {
            trouble.told = Some(Instant::now());
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "the cache of cold blocks fails; the object store is asked instead");
        }
    }

    fn hangs(&self) {
        self.trouble.lock().hung = Some(Instant::now());
        self.failed(&format!("no answer within {PATIENCE:?}; it is left alone for {LEFT_ALONE:?}"));
    }

    fn is_left_alone(&self) -> bool {
        self.trouble.lock().hung.is_some_and(|hung| hung.elapsed() < LEFT_ALONE)
    }
}

fn name((attempt, number): BlockId) -> String {
    format!("{attempt:032x}-{number}")
}

fn id(name: &str) -> Option<BlockId> {
    let (attempt, number) = name.split_once('-')?;
    let id = (u128::from_str_radix(attempt, 16).ok()?, number.parse().ok()?);
    (self::name(id) == name).then_some(id)
}

/// What an earlier process left, what was written first at the front. What is none of ours stays, and is not counted.
fn found(directory: &Path) -> io::Result<Vec<(BlockId, u32)>> {
    let mut found = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let part = name.strip_suffix(PART).and_then(|rest| rest.rsplit_once('.'));
        if part.and_then(|(name, _)| id(name)).is_some() {
            remove(&entry.path());
        }
        let Some(id) = id(&name) else { continue };
        let about = entry.metadata()?;
        let Ok(length) = u32::try_from(about.len()) else { continue };
        found.push((about.modified()?, id, length));
    }
    found.sort_unstable();
    Ok(found.into_iter().map(|(_, id, length)| (id, length)).collect())
}

/// It is found and counted again by the next process where this fails.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path = %path.display(), %error, "a cached block was not removed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(cache: &DiskCache, number: usize, bytes: usize) {
        cache.0.write((7, number), &vec![number as u8; bytes]);
    }

    fn read(cache: &DiskCache, number: usize, bytes: u32) -> Option<Bytes> {
        cache.0.read((7, number), bytes)
    }

    fn names(directory: &Path) -> Vec<String> {
        let names = directory.read_dir().unwrap().map(|e| e.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_is_used_least_lately_goes_and_its_file_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 3 * 8192).unwrap();
        for number in 0..3 {
            write(&cache, number, 5000);
        }
        assert_eq!(cache.size(), 3 * 8192);
        assert!(read(&cache, 0, 5000).is_some());
        write(&cache, 3, 5000);
        assert_eq!(cache.size(), 3 * 8192);
        let kept: Vec<usize> = (0..4).filter(|n| read(&cache, *n, 5000).is_some()).collect();
        assert_eq!(kept, [0, 2, 3]);
        assert_eq!(names(dir.path()).len(), 4, "three blocks and the lock");
    }

    #[test]
    fn another_process_goes_on_with_what_one_left() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        write(&cache, 1, 10);
        write(&cache, 2, 20);
        let busy = DiskCache::open(dir.path(), 1 << 20).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        drop(cache);
        let part = format!("{}.0{PART}", name((7, 3)));
        for foreign in ["notes.txt", "7-1", &part] {
            fs::write(dir.path().join(foreign), "x").unwrap();
        }
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(read(&cache, 1, 10).unwrap(), vec![1; 10]);
        assert_eq!(read(&cache, 2, 20).unwrap(), vec![2; 20]);
        assert_eq!(cache.size(), 8192);
        assert_eq!(names(dir.path()), [&name((7, 1)), &name((7, 2)), "7-1", "lock", "notes.txt"]);
        drop(cache);
        // With less room than there was.
        let cache = DiskCache::open(dir.path(), 4096).unwrap();
        assert_eq!(cache.size(), 4096);
        assert_eq!(names(dir.path()).len(), 4);
    }

    #[test]
    fn a_file_that_is_gone_or_cut_off_is_no_block() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        for number in 0..3 {
            write(&cache, number, 100);
        }
        fs::remove_file(dir.path().join(name((7, 0)))).unwrap();
        fs::write(dir.path().join(name((7, 1))), "short").unwrap();
        assert_eq!(read(&cache, 0, 100), None);
        assert_eq!(read(&cache, 1, 100), None);
        assert_eq!(read(&cache, 2, 101), None, "it is of another length than the index says");
        assert_eq!(cache.size(), 0);
        assert_eq!(names(dir.path()), ["lock"]);
    }

    /// A file system that has less room than the cache may take: what is new is kept in the place of what is old.
    #[test]
    fn a_full_disk_lets_old_blocks_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        for number in 0..2 * WRITING {
            write(&cache, number, 100);
        }
        cache.0.make_room();
        assert_eq!(cache.size(), WRITING as u64 * 4096);
        assert_eq!(names(dir.path()).len(), WRITING + 1);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        // A pipe that nobody writes to: whoever opens it waits.
        let pipe = dir.path().join(name((7, 1)));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        cache.0.files.insert((7, 1), 100);
        write(&cache, 2, 100);
        assert_eq!(cache.bytes((7, 1), 100).await, None, "in time");
        assert_eq!(cache.bytes((7, 2), 100).await, None, "it is left alone");
        drop(File::options().write(true).open(&pipe).unwrap());
        tokio::time::pause();
        tokio::time::advance(LEFT_ALONE).await;
        tokio::time::resume();
        assert_eq!(cache.bytes((7, 2), 100).await.unwrap(), vec![2; 100]);
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_nobody_anything() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        let cache = DiskCache::open(&at, 1 << 20).unwrap();
        fs::remove_dir_all(&at).unwrap();
        write(&cache, 1, 100);
        assert_eq!(read(&cache, 1, 100), None);
        assert_eq!(cache.size(), 0);
    }
}
