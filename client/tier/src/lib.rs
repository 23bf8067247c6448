//! Closed ledgers as objects of an object store (protocol 7): what bookies upload and brokers read.
//!
//! * [`format`]: the bytes of an object. [`SegmentWriter`]: makes them from a ledger's entries, in bounded memory.
//! * [`Store`]: where objects are: S3, Google, Azure, a directory, memory. Keys carry the attempt's id (T1).
//! * [`Marker`]: says whose a store is. [`claim`]: whether it is the cluster's, before anything is written there.
//! * [`SegmentList`]: what is known of segments whose keys are gone from the metadata.
//! * [`Surveyed`]: what an object says of itself where no metadata does.
//! * [`Object`]: an object's index in memory, and its blocks by ranged reads.

mod claim;
mod error;
#[cfg(any(test, feature = "faults"))]
pub mod faulty;
pub mod format;
mod manifest;
mod marker;
mod metrics;
mod named;
mod object;
mod store;
mod survey;
#[cfg(test)]
mod testing;
mod writer;

pub use claim::{ClaimError, check, claim, hold};
pub use error::{FormatError, ObjectError};
pub use manifest::{FoldedSegment, MAX_MANIFEST_BYTES, MAX_SEGMENTS, SegmentList};
pub use marker::Marker;
pub use object::Object;
pub use store::{
    Invalid, Listed, ManifestName, Names, ObjectName, Options, PART_BYTES, Store, Upload,
};
pub use survey::Surveyed;
pub use writer::{Mismatch, SegmentWriter, Summary};
