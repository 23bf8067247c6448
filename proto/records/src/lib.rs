//! Kafka record batches, format v2: the bytes that clients send, that ledgers store and that readers get, passed
//! through as the client compressed them (P6).
//!
//! * [`Batch`]: exactly one batch; [`split`] walks batches that are laid end to end.
//! * [`Header`]: its 61 fixed bytes. Base offset, length and leader epoch lie outside the checksum, so the broker
//!   stamps them without touching, or copying, the rest.
//! * [`Builder`] and [`encode`]: records to a batch. [`decode`]: a batch to records, within a limit; [`Records`]: one
//!   after the other; [`look_through`] sees what they are and leaves them where they are.
//! * [`Compression`]: Kafka's five codecs. [`Sequence`]: the numbers of idempotent producers.
//!
//! Nothing here trusts a length: every one is checked before it is used, and decompression stops at a limit.

mod batch;
mod builder;
mod compression;
mod error;
mod header;
mod lz4;
mod producer;
mod record;
mod varint;

pub use batch::{Batch, Split, split};
pub use builder::{Builder, encode};
pub use compression::Compression;
pub use error::{BatchError, Kind};
pub use header::{HEADER_BYTES, Header, LOG_OVERHEAD_BYTES, STAMPED_BYTES};
pub use producer::{Sequence, sequence_after, sequence_distance};
pub use record::{Glance, Record, Records, decode, find_since, look_through};

#[cfg(test)]
mod tests;
