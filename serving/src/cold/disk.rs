//! Blocks of objects on a disk of the broker's own: what memory has let go of is read again from there, and not from the object store.
//! Owned by [`super::Cold`], which asks it before the store and gives it what the store said.
//!
//! * A cache and nothing else: no file is synced, and one that is not the block its object's index tells of is removed and
//!   fetched anew. A disk that fails costs requests to the store; no reader hears of it.
//! * Its files take the bytes it was given at most, but for those that are being written; the one that was used least lately goes.
//! * A directory is one process's at a time. What an earlier one left is used again: an upload never changes.
//! * Everything that touches the disk runs where it may block; few blocks are written at a time, and the others are not kept.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use geminga_runtime::Tasks;
use geminga_tier::Object;
use geminga_tier::format::Block;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::{BlockId, metrics};

/// Blocks that are written at a time.
const WRITING: usize = 8;
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
    writing: Arc<Semaphore>,
    /// It was told that the disk fails.
    told: AtomicBool,
    _lock: File,
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
        metrics::disk(files.weighted_size());
        Ok(Self(Arc::new(Shared {
            directory: directory.to_owned(),
            files,
            writing: Arc::new(Semaphore::new(WRITING)),
            told: AtomicBool::new(false),
            _lock: lock,
        })))
    }

    /// A block that is here, whole. Cancel-safe.
    pub(super) async fn block(&self, object: &Object, number: usize) -> Option<Block> {
        let id = (object.attempt(), number);
        if !self.0.files.contains_key(&id) {
            return None;
        }
        let length = object.index().blocks().get(number)?.length;
        let shared = Arc::clone(&self.0);
        let bytes = tokio::task::spawn_blocking(move || shared.read(id, length)).await.ok()??;
        match object.decode(number, &bytes) {
            Ok(block) => Some(block),
            Err(error) => {
                self.0.failed(&error);
                let shared = Arc::clone(&self.0);
                // The store is asked meanwhile; what it says is kept after this.
                tokio::task::spawn_blocking(move || shared.forget(id)).await.ok();
                None
            }
        }
    }

    /// Keeps a block, unless many are being kept; `tasks` wait for it.
    pub(super) fn keep(&self, id: BlockId, bytes: Bytes, tasks: &Tasks) {
        let Ok(writing) = Arc::clone(&self.0.writing).try_acquire_owned() else { return };
        let shared = Arc::clone(&self.0);
        tasks.spawn("cold block to disk", async move {
            let written = tokio::task::spawn_blocking(move || shared.write(id, &bytes));
            written.await.ok();
            drop(writing);
        });
    }

    /// How many blocks are here, once all that are being written are.
    #[cfg(test)]
    pub(crate) async fn settled(&self) -> usize {
        let all = u32::try_from(WRITING).expect("few");
        drop(self.0.writing.acquire_many(all).await.expect("it is never closed"));
        self.0.files.iter().count()
    }

    /// Bytes of all files.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
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
            Ok(bytes) => {
                self.told.store(false, Ordering::Relaxed);
                Some(Bytes::from(bytes))
            }
            Err(error) => {
                self.failed(&error);
                self.forget(id);
                None
            }
        }
    }

    fn write(&self, id: BlockId, bytes: &[u8]) {
        let Ok(length) = u32::try_from(bytes.len()) else { return };
        let (name, file) = (name(id), |name: &str| self.directory.join(name));
        let part = file(&format!("{name}{PART}"));
        let written = File::create(&part)
            .and_then(|mut file| file.write_all(bytes))
            .and_then(|()| fs::rename(&part, file(&name)));
        match written {
            Ok(()) => self.files.insert(id, length),
            Err(error) => {
                remove(&part);
                self.failed(&error);
            }
        }
        metrics::disk(self.files.weighted_size());
    }

    fn forget(&self, id: BlockId) {
        self.files.invalidate(&id);
    }

    fn failed(&self, error: &dyn std::fmt::Display) {
        metrics::disk_failed();
        if !self.told.swap(true, Ordering::Relaxed) {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "the cache of cold blocks fails; the object store is asked instead");
        }
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

/// What an earlier process left, longest unused first. What is none of ours stays, and is not counted.
fn found(directory: &Path) -> io::Result<Vec<(BlockId, u32)>> {
    let mut found = Vec::new();
    for entry in directory.read_dir()? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.strip_suffix(PART).and_then(id).is_some() {
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
        assert_eq!(cache.bytes(), 3 * 8192);
        assert!(read(&cache, 0, 5000).is_some());
        write(&cache, 3, 5000);
        assert_eq!(cache.bytes(), 3 * 8192);
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
        let part = format!("{}{PART}", name((7, 3)));
        for foreign in ["notes.txt", "7-1", &part] {
            fs::write(dir.path().join(foreign), "x").unwrap();
        }
        let cache = DiskCache::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(read(&cache, 1, 10).unwrap(), vec![1; 10]);
        assert_eq!(read(&cache, 2, 20).unwrap(), vec![2; 20]);
        assert_eq!(cache.bytes(), 8192);
        assert_eq!(names(dir.path()), [&name((7, 1)), &name((7, 2)), "7-1", "lock", "notes.txt"]);
        drop(cache);
        // With less room than there was.
        let cache = DiskCache::open(dir.path(), 4096).unwrap();
        assert_eq!(cache.bytes(), 4096);
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
        assert_eq!(cache.bytes(), 0);
        assert_eq!(names(dir.path()), ["lock"]);
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_nobody_anything() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        let cache = DiskCache::open(&at, 1 << 20).unwrap();
        fs::remove_dir_all(&at).unwrap();
        write(&cache, 1, 100);
        assert_eq!(read(&cache, 1, 100), None);
        assert_eq!(cache.bytes(), 0);
    }
}
