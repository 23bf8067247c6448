//! What can go wrong with a log, by what the caller can do about it.

use std::io;
use std::sync::Arc;

/// Why nothing can be appended, or become durable, any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogFailed {
    /// It was shut down.
    #[error("the log is shut down")]
    Closed,
    /// A write or sync failed (K6). What was not durable before never will be.
    #[error("the log failed and the bookie must restart: {0}")]
    Poisoned(Arc<str>),
    /// This record is larger than a frame may be; the log itself is well.
    #[error("a record of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// [`Log::MAX_RECORD_BYTES`](super::Log::MAX_RECORD_BYTES).
        limit: usize,
    },
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Something that had been durable is gone or damaged: what was acknowledged from it cannot be vouched for (K8).
    /// Nothing was changed.
    #[error(
        "segment {segment:016x} is damaged at byte {offset}: {why}; acknowledged data may be missing here, and the other bookies serve theirs; start with --auto-heal to serve what is whole and have the rest restored from them"
    )]
    Corrupt {
        /// The segment.
        segment: u64,
        /// Where in it, bytes.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The log ends before what it is known to have had on stable storage (5.7). Nothing was changed.
    #[error(
        "it ends at frame {found}, but had come to frame {known}: the disk was restored from an older copy and lost what was acknowledged since; bring back the disk itself, or start with --auto-heal to serve what is left and have the rest restored from other bookies"
    )]
    RolledBack {
        /// Its last frame.
        found: u64,
        /// The frame that it had.
        known: u64,
    },
    /// The log belongs to another cluster, bookie, disk or life.
    #[error(
        "segment {segment:016x} belongs to another {what}: point --data-dir at this bookie's own directory"
    )]
    Foreign {
        /// The segment.
        segment: u64,
        /// What differs.
        what: &'static str,
    },
    /// Written by a newer release.
    #[error("segment {segment:016x} has format {version}: start a release that knows it")]
    Version {
        /// The segment.
        segment: u64,
        /// Its format.
        version: u16,
    },
    /// A setting is out of its range.
    #[error("{0}")]
    Config(&'static str),
    /// The disk does not answer.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// What came of it.
        #[source]
        error: io::Error,
    },
}

impl OpenError {
    /// Whether the disk lost what it had acknowledged, so that it may go on as another life only (5.7).
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::RolledBack { .. })
    }
}

/// Why entries cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log does not hold the first entry asked for: certain, since its index is whole, in memory and on the disk (K1).
    #[error("no such entry")]
    Absent,
    /// It is not in the index, and the log failed: nothing is known (K1).
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// Too many reads wait for the disk; try again, or another replica. It says nothing about absence.
    #[error("too many reads wait for the disk")]
    Crowded,
    /// What the disk returned is not what was written. It says nothing about absence.
    #[error("segment {segment:016x} is damaged at byte {offset}: {why}")]
    Corrupt {
        /// The segment.
        segment: u64,
        /// Where in it, bytes.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// Where it is could not be read back from the disk. It says nothing about absence.
    #[error(
        "cannot read a part of the index: {error}; should it go on, restart the bookie, which builds the index anew"
    )]
    Index {
        /// What came of it.
        #[source]
        error: io::Error,
    },
    /// The disk refused to read.
    #[error("cannot read segment {segment:016x}: {error}")]
    Io {
        /// The segment.
        segment: u64,
        /// What came of it.
        #[source]
        error: io::Error,
    },
}

/// Why the log's files were not put in order. Nothing is lost by that; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// The log failed.
    #[error(transparent)]
    Failed(#[from] LogFailed),
    /// The disk refused.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        #[source]
        error: io::Error,
    },
}
