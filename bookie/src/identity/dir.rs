//! One data directory, locked for this process. Its cookie is replaced whole: written beside, synced, renamed, and the
//! directory synced (K4, K7).
//!
//! ```text
//!   lock       held while a process uses the directory
//!   cookie     who the disk is
//!   log/       its log
//!   lost-<incarnation>/  what is left of the log of a life that was lost
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use geminga_proto::ids::Incarnation;

use super::cookie::{DiskCookie, InvalidCookie, MAX_BYTES};
use crate::io::RealDisk;
use crate::log::Log;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Another process holds its lock.
    #[error("{} is in use by another process: stop it, or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// Its cookie cannot be believed.
    #[error("the cookie of {} cannot be read, {why}: restore the file `cookie`, or start with an empty directory and let the copies be restored", .dir.display())]
    Cookie {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        why: InvalidCookie,
    },
    /// The file system does not do it.
    #[error("{} cannot be used: {source}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Begins the name of a lost life's log.
const ASIDE: &str = "lost-";

/// A locked data directory; the lock ends with it.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is not there, and locks it. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn open(path: &Path) -> Result<Self, DirError> {
        let io = |source| DirError::Io { dir: path.to_owned(), source };
        create_durably(path).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DirError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of its log, made if it is not there. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn make_log(&self) -> Result<PathBuf, DirError> {
        let log = self.log();
        create_durably(&log).map_err(|e| self.io(e))?;
        Ok(log)
    }

    /// Sets its log aside as that of a lost life; durable on return. Nothing happens when there is none. Blocking.
    ///
    /// # Errors
    /// [`DirError`]; the log is where it was, or there.
    pub(crate) fn set_log_aside(&self, lost: Incarnation) -> Result<(), DirError> {
        let aside = self.path.join(format!("{ASIDE}{:016x}", lost.0));
        match fs::rename(self.log(), aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.io(error)),
            Ok(()) => sync_dir(&self.path).map_err(|e| self.io(e)),
        }
    }

    /// The logs of lost lives, and where they are. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn aside(&self) -> Result<Vec<(Incarnation, PathBuf)>, DirError> {
        let mut aside = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| self.io(e))? {
            let entry = entry.map_err(|e| self.io(e))?;
            let name = entry.file_name();
            let hex = name.to_str().and_then(|name| name.strip_prefix(ASIDE));
            if let Some(lost) = hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()) {
                aside.push((Incarnation(lost), entry.path()));
            }
        }
        Ok(aside)
    }

    fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Its cookie, if it has one. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn read_cookie(&self) -> Result<Option<DiskCookie>, DirError> {
        let file = match File::open(self.path.join("cookie")) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io(error)),
        };
        let mut content = Vec::new();
        file.take(MAX_BYTES as u64 + 1).read_to_end(&mut content).map_err(|e| self.io(e))?;
        match DiskCookie::decode(&content) {
            Ok(cookie) => Ok(Some(cookie)),
            Err(why) => Err(DirError::Cookie { dir: self.path.clone(), why }),
        }
    }

    /// Replaces the cookie; durable on return. Blocking.
    ///
    /// # Errors
    /// [`DirError`]; the former cookie stands then, or the new one.
    pub(crate) fn write_cookie(&self, cookie: &DiskCookie) -> Result<(), DirError> {
        let write = || {
            let beside = self.path.join("cookie.new");
            let mut file = File::create(&beside)?;
            file.write_all(&cookie.encode())?;
            file.sync_all()?;
            fs::rename(&beside, self.path.join("cookie"))?;
            sync_dir(&self.path)
        };
        write().map_err(|e| self.io(e))
    }

    /// Whether it holds a log, of whatever identity; files of others are none. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn has_data(&self) -> Result<bool, DirError> {
        match RealDisk::open(self.log()) {
            Ok(disk) => Log::exists(&disk).map_err(|e| self.io(e)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.io(error)),
        }
    }

    fn io(&self, source: io::Error) -> DirError {
        DirError::Io { dir: self.path.clone(), source }
    }
}

/// Creates a directory, its parents too, so that it survives a power cut.
fn create_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    create_durably(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(parent),
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_used_by_one_process() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        assert!(matches!(DataDir::open(&path), Err(DirError::InUse(_))));
        drop(first);
        assert!(DataDir::open(&path).is_ok());
    }

    #[test]
    fn a_damaged_cookie_is_not_taken_for_none() {
        let root = tempfile::tempdir().unwrap();
        let dir = DataDir::open(root.path()).unwrap();
        assert_eq!(dir.read_cookie().unwrap(), None);
        fs::write(root.path().join("cookie"), b"").unwrap();
        assert!(matches!(dir.read_cookie(), Err(DirError::Cookie { .. })));
    }
}
