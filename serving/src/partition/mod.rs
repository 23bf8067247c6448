//! Topic partitions and statelogs at the broker that owns them. A partition is a log of ledgers ([`log`]) with one
//! writer; everything above it (produce, fetch, groups) is built on what that log acknowledges.

pub mod log;
#[cfg(test)]
pub(crate) mod testing;
