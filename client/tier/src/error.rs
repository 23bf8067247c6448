//! Why an object, or a part of one, cannot be used.

use geminga_proto::entry;

/// Bytes that are not what they should be. Never absence: whoever asked knows no more than before (K1).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Fewer bytes than there should be.
    #[error("{what} is truncated: {have} bytes, expected {want}")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Bytes there.
        have: u64,
        /// Bytes needed.
        want: u64,
    },
    /// A checksum that does not match, or numbers that contradict each other.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Written by a later version.
    #[error("the object is of version {0}, newer than this process reads: upgrade it")]
    Version(u16),
    /// An entry of it is no entry, or another one (D1).
    #[error("an entry of the object is damaged: {0}")]
    Entry(#[from] entry::Error),
}

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// There is no such object.
    #[error("there is no object {key} in {bucket}")]
    NotFound {
        /// Where.
        bucket: String,
        /// Its name.
        key: String,
    },
    /// It is in a store that this process does not know.
    #[error(
        "the object is in {named}, and this process is configured with {own}: start it with --object-store of that store"
    )]
    OtherStore {
        /// What metadata names.
        named: String,
        /// What was configured.
        own: String,
    },
    /// It is there, and is not what it should be.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The store did not do it, or did not say so in time. Worth another try.
    #[error("the object store did not answer well: {0}")]
    Store(String),
}

impl ObjectError {
    /// Whether nothing but an operator can help.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}
