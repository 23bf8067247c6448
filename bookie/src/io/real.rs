//! A directory of the operating system. Positioned writes, `fdatasync`; the page cache serves reads.
//!
//! Files that it creates are written around the page cache where the file system lets it and the write is made of whole
//! blocks: what was just written is served from memory by the log's window and read from the disk by nobody, and the copy
//! into the cache and its write-back cost more than all that the bookie itself does with the bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};
use rustix::io::{pwritev, retry_on_intr};

use super::direct::{Buffers, Direct};
use super::{Disk, DiskFile, Space};

/// Most parts of one vectored write (`IOV_MAX`).
const MAX_PARTS: usize = 1024;

/// A directory.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    directory: File,
    buffers: Buffers,
}

impl RealDisk {
    /// The directory at `path`, which must be there.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref().to_owned();
        let directory = File::open(&path)?;
        if !directory.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { path, directory, buffers: Buffers::default() })
    }

    /// The way around the page cache to the file at `path`, where there is one.
    fn direct(&self, path: &Path) -> io::Result<Option<Direct>> {
        let file = open_direct(path)?;
        Ok(file.map(|file| Direct::new(file, self.buffers.clone())))
    }
}

impl Disk for RealDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name))?;
        Ok(Arc::new(RealFile { file, direct: Mutex::new(None) }))
    }

    fn reopen(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let direct = self.direct(&path)?;
        Ok(Arc::new(RealFile { file, direct: Mutex::new(direct) }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.path.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        let direct = self.direct(&path)?;
        Ok(Arc::new(RealFile { file, direct: Mutex::new(direct) }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.path.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is no text is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.directory)?;
        // What is kept back for others (root, a quota) is neither free nor used: as `df` counts.
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let (free, total) = (stat.f_bavail, used.saturating_add(stat.f_bavail));
        Ok(Space { free: free * stat.f_frsize, total: total * stat.f_frsize })
    }

    fn is_there(&self) -> io::Result<bool> {
        let here = match std::fs::metadata(&self.path) {
            Ok(here) => here,
            Err(error) if is_no_directory(&error) => return Ok(false),
            Err(error) => return Err(error),
        };
        let found = self.directory.metadata()?;
        Ok((here.dev(), here.ino()) == (found.dev(), found.ino()))
    }
}

/// Whether an error says that nothing is at a path: it, or what it is in, was removed.
fn is_no_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A second handle that writes around the page cache; `None` where the file system has no such thing.
fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECT.bits().cast_signed();
    match OpenOptions::new().write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_not_offered(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether an error says that direct writes, or ones of this alignment, are not to be had. Nothing was written then.
fn is_not_offered(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Locked for the time of a write.
    direct: Mutex<Option<Direct>>,
}

impl RealFile {
    /// Whether `bytes` at `offset` were written around the page cache, by `write`.
    fn direct(
        &self,
        offset: u64,
        bytes: usize,
        write: impl FnOnce(&Direct) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut direct = self.direct.lock();
        let Some(way) = direct.as_ref().filter(|_| Direct::takes(offset, bytes)) else {
            return Ok(false);
        };
        match write(way) {
            Ok(()) => Ok(true),
            Err(error) if is_not_offered(&error) => {
                tracing::info!(%error, "this disk takes no direct writes of 512 bytes; the page cache is used");
                *direct = None;
                Ok(false)
            }
            // There was no memory for a buffer, and nothing was written: the page cache finds some, or waits.
            Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl DiskFile for RealFile {
    fn write_all_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        if self.direct(offset, bytes, |direct| direct.write(offset, parts))? {
            return Ok(());
        }
        let mut at = offset;
        for some in parts.chunks(MAX_PARTS) {
            let bytes: usize = some.iter().map(|part| part.len()).sum();
            if retry_on_intr(|| pwritev(&self.file, some, at))? != bytes {
                return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took a part only"));
            }
            at += bytes as u64;
        }
        Ok(())
    }

    fn write_zeros_at(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        if self.direct(offset, length, |direct| direct.write_zeros(offset, length))? {
            return Ok(());
        }
        super::write_zeros(self, offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn will_read(&self, offset: u64, bytes: u64) {
        // Advice: a system that does not take it reads when it is asked.
        let _untaken = fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not retried, even when interrupted: K6.
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::OPNOTSUPP) => self.write_zeros_at(0, bytes),
            Err(error) => Err(error.into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_parts_than_one_call_takes() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let file = disk.create("a").unwrap();
        let bytes: Vec<u8> = (0..2500).map(|i| i as u8).collect();
        let parts: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
        file.write_all_at(10, &parts).unwrap();
        file.sync_data().unwrap();
        let mut read = vec![1; 2510];
        disk.open("a").unwrap().read_exact_at(0, &mut read).unwrap();
        assert_eq!(read[..10], [0; 10]);
        assert_eq!(read[10..], bytes);
        assert_eq!(
            file.read_exact_at(1, &mut read).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    /// Writes of whole blocks, in every size and cut, are read back through the page cache, also where it held what was
    /// there before.
    #[test]
    fn what_goes_around_the_page_cache_is_seen_in_it() {
        let directory = tempfile::tempdir_in(".").unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let file = disk.create("a").unwrap();
        let reader = disk.open("a").unwrap();
        let mut expected = vec![0; 9 << 20];
        file.write_zeros_at(0, expected.len() as u64).unwrap();
        for (number, (blocks, offset)) in
            [(1, 0), (3, 512), (8, 4096), (9000, 7168)].into_iter().enumerate()
        {
            let mut read = vec![1; expected.len()];
            reader.read_exact_at(0, &mut read).unwrap();
            assert!(read == expected, "before write {number}");
            let bytes: Vec<u8> = (0..blocks * 512).map(|i| (i % 251 + number) as u8).collect();
            let parts: Vec<_> = bytes.chunks(1000).map(IoSlice::new).collect();
            file.write_all_at(offset as u64, &parts).unwrap();
            file.sync_data().unwrap();
            expected[offset..offset + bytes.len()].copy_from_slice(&bytes);
            reader.read_exact_at(0, &mut read).unwrap();
            assert!(read == expected, "after write {number}");
        }
        disk.sync_dir().unwrap();
    }

    #[test]
    fn names() {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        assert_eq!(disk.open("a").unwrap_err().kind(), io::ErrorKind::NotFound);
        disk.create("a").unwrap();
        assert_eq!(disk.create("a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        disk.create("b").unwrap().set_len(3).unwrap();
        disk.rename("b", "a").unwrap();
        disk.sync_dir().unwrap();
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert_eq!(disk.open("a").unwrap().size().unwrap(), 3);
        disk.open("a").unwrap().allocate(9000).unwrap();
        assert_eq!(disk.open("a").unwrap().size().unwrap(), 9000);
        disk.remove("a").unwrap();
        assert!(disk.list().unwrap().is_empty());
        let space = disk.space().unwrap();
        assert!(space.free <= space.total && space.total > 0);
    }

    #[test]
    fn a_directory_that_is_removed_or_replaced_is_not_there() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data/log");
        std::fs::create_dir_all(&path).unwrap();
        let disk = RealDisk::open(&path).unwrap();
        assert!(disk.is_there().unwrap());
        std::fs::rename(root.path().join("data"), root.path().join("old")).unwrap();
        assert!(!disk.is_there().unwrap());
        std::fs::write(root.path().join("data"), b"").unwrap();
        assert!(!disk.is_there().unwrap());
        std::fs::remove_file(root.path().join("data")).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        assert!(!disk.is_there().unwrap(), "another");
    }
}
