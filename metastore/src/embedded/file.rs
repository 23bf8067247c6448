//! The file below the embedded store: one redb database with the keys and two numbers. It is written under another name
//! and takes its own when it is complete, so that a crash leaves either none or a whole one. A lock file beside it
//! says who has it.
//!
//! Each commit is one redb transaction of immediate durability: it returns after fdatasync, and a crash within it leaves
//! the state before or after.

use std::fs::TryLockError;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::store::{KeyValue, Revision, Version, Versioned};
use crate::tree::Prepared;

/// Key → created, version, leased, value.
const ITEMS: TableDefinition<'_, &str, (i64, i64, bool, &[u8])> = TableDefinition::new("items");
/// `revision` and `format`.
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("numbers");
const FORMAT: i64 = 1;
/// Reads are served from the tree; the file's own cache serves commits only.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// Why the file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{0} is in use by another process: stop it, or choose another --data-dir")]
    InUse(String),
    /// Not written by this version.
    #[error("{path} has format {format}, not {FORMAT}: use the version that wrote it")]
    Format {
        /// The file.
        path: String,
        /// What it says.
        format: i64,
    },
    /// What it holds is not what was written.
    #[error("{path} is damaged ({why}): restore it from a backup")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Anything else.
    #[error("{path} cannot be opened: {why}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        why: String,
    },
}

impl OpenError {
    fn io(path: &Path, why: &dyn std::fmt::Display) -> Self {
        Self::Io { path: path.display().to_string(), why: why.to_string() }
    }

    fn redb(path: &Path, error: redb::Error) -> Self {
        let name = path.display().to_string();
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse(name),
            redb::Error::Corrupted(why) => Self::Corrupt { path: name, why },
            // What redb says of a file that is none of its own.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Self::Corrupt { path: name, why: error.to_string() }
            }
            other => Self::Io { path: name, why: other.to_string() },
        }
    }
}

/// What a file held when it was opened.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) revision: Revision,
    /// In key order.
    pub(super) items: Vec<KeyValue>,
    /// The keys among them that lived by a lease of the process that wrote them.
    pub(super) leased: Vec<String>,
}

/// An open file.
pub(super) struct File {
    database: Database,
    /// Held as long as the database is open.
    _lock: std::fs::File,
}

impl File {
    /// Opens the file; makes it when it is not there.
    pub(super) fn open(path: &Path) -> Result<(Self, Loaded), OpenError> {
        let lock = lock(path)?;
        if !path.try_exists().map_err(|error| OpenError::io(path, &error))? {
            create(path)?;
        }
        Self::open_locked(path, lock)
    }

    /// Opens a file that is there.
    pub(super) fn open_existing(path: &Path) -> Result<(Self, Loaded), OpenError> {
        if !path.is_file() {
            return Err(OpenError::io(path, &"there is no such file"));
        }
        Self::open_locked(path, lock(path)?)
    }

    fn open_locked(path: &Path, lock: std::fs::File) -> Result<(Self, Loaded), OpenError> {
        // Checked whole, since redb may panic over a file that was altered by somebody else.
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .open(path)
            .map_err(|error| OpenError::redb(path, error.into()))?;
        let loaded = load(&database).map_err(|error| OpenError::redb(path, error))?;
        let path = path.display().to_string();
        let loaded = loaded.map_err(|format| OpenError::Format { path, format })?;
        Ok((Self { database, _lock: lock }, loaded))
    }

    /// Writes a change; durable when it returns.
    pub(super) fn commit(&mut self, prepared: &Prepared) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut items = write.open_table(ITEMS)?;
            for change in &prepared.writes {
                let key = change.key.as_str();
                match &change.value {
                    Some(Versioned { value, version, created }) => {
                        let leased = change.lease.is_some();
                        items.insert(key, (created.0, version.0, leased, value.as_ref()))?;
                    }
                    None => {
                        items.remove(key)?;
                    }
                }
            }
            write.open_table(NUMBERS)?.insert("revision", prepared.revision.0)?;
        }
        write.commit()?;
        Ok(())
    }
}

/// The path with more at its end.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<std::fs::File, OpenError> {
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(beside(path, ".lock"))
        .map_err(|error| OpenError::io(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse(path.display().to_string())),
        Err(TryLockError::Error(error)) => Err(OpenError::io(path, &error)),
    }
}

/// Makes an empty file: complete, then durable, then by its name.
fn create(path: &Path) -> Result<(), OpenError> {
    let io = |error: io::Error| OpenError::io(path, &error);
    let unfinished = beside(path, ".new");
    match std::fs::remove_file(&unfinished) {
        // What a process left that died in here.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let made = || -> Result<(), redb::Error> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&unfinished)?;
        let write = database.begin_write()?;
        write.open_table(ITEMS)?;
        write.open_table(NUMBERS)?.insert("format", FORMAT)?;
        write.commit()?;
        Ok(())
    };
    made().map_err(|error| OpenError::redb(path, error))?;
    std::fs::File::open(&unfinished).and_then(|file| file.sync_all()).map_err(io)?;
    std::fs::rename(&unfinished, path).map_err(io)?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

/// Everything in the file, or the format that it has instead of ours.
fn load(database: &Database) -> Result<Result<Loaded, i64>, redb::Error> {
    let read = database.begin_read()?;
    let numbers = read.open_table(NUMBERS)?;
    let number = |name| -> Result<i64, redb::Error> {
        Ok(numbers.get(name)?.map_or(0, |number| number.value()))
    };
    let format = number("format")?;
    if format != FORMAT {
        return Ok(Err(format));
    }
    let mut items = Vec::new();
    let mut leased = Vec::new();
    for item in read.open_table(ITEMS)?.iter()? {
        let (key, value) = item?;
        let (created, version, has_lease, value) = value.value();
        let key = key.value().to_owned();
        if has_lease {
            leased.push(key.clone());
        }
        let value = Versioned {
            value: Bytes::copy_from_slice(value),
            version: Version(version),
            created: Revision(created),
        };
        items.push(KeyValue { key, value });
    }
    Ok(Ok(Loaded { revision: Revision(number("revision")?), items, leased }))
}
