//! Where a broker keeps blocks of objects that it has read, beside its memory.

use std::path::PathBuf;

use geminga_serving::cold::DiskCache;
use serde::{Deserialize, Serialize};

use super::Size;
use crate::exit::Failure;

/// What is kept without `--cold-cache-bytes`.
const DEFAULT_BYTES: Size = Size(10 << 30);

/// A directory for blocks from the object store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct ColdCacheOptions {
    /// A directory, on a local disk that need not last, for what was read from the object store: what is not in memory any more is read
    /// from there again [default: nowhere].
    #[arg(
        id = "cold_cache_dir",
        long = "cold-cache-dir",
        value_name = "DIR",
        env = "GEMINGA_COLD_CACHE_DIR",
        help_heading = "Object store"
    )]
    pub(crate) dir: Option<PathBuf>,
    /// What the files in --cold-cache-dir take together; what is used least lately goes [default: 10GiB].
    #[arg(
        id = "cold_cache_bytes",
        long = "cold-cache-bytes",
        value_name = "SIZE",
        env = "GEMINGA_COLD_CACHE_BYTES",
        help_heading = "Object store"
    )]
    pub(crate) bytes: Option<Size>,
}

impl ColdCacheOptions {
    /// These options where they are set, those of `file` elsewhere; checked. `objects`: there is an object store.
    pub(crate) fn over(self, file: Self, objects: bool) -> Result<Self, Failure> {
        let (dir, bytes) = (self.dir.or(file.dir), self.bytes.or(file.bytes));
        match (&dir, bytes) {
            (None, Some(_)) => Err(Failure::usage(
                "--cold-cache-bytes is what --cold-cache-dir takes: give that, too",
            )),
            (Some(_), _) if !objects => Err(Failure::usage(
                "--cold-cache-dir keeps what was read from --object-store: give that, too",
            )),
            (None, None) => Ok(Self::default()),
            (Some(_), bytes) => Ok(Self { dir, bytes: Some(bytes.unwrap_or(DEFAULT_BYTES)) }),
        }
    }

    /// Opens it, if there is to be one. Blocks while it looks what is there.
    pub(crate) fn open(&self) -> Result<Option<DiskCache>, Failure> {
        let Some(dir) = &self.dir else { return Ok(None) };
        let bytes = self.bytes.unwrap_or(DEFAULT_BYTES).0 as u64;
        let opened = DiskCache::open(dir, bytes).map_err(|error| {
            let why = format!(
                "--cold-cache-dir {}: {error}: name a directory of this process's own, or leave it away",
                dir.display()
            );
            Failure::new(why).because("COLD_CACHE_DIR_UNUSABLE")
        })?;
        Ok(Some(opened))
    }
}
