//! Topic partitions and statelogs at the broker that owns them. A partition is a log of ledgers ([`log`]) with one
//! writer; everything above it (produce, fetch, groups) is built on what that log acknowledges.
//!
//! * [`manager`]: which partitions are open here, and the way in for every request. [`task`]: the one owner of an open
//!   partition. [`produce`]: batches on their way into the log. [`fetch`], [`offsets`]: what readers get. [`retention`]: what is
//!   given up. [`size`]: what is held. [`looks`]: the memory that batches are looked into with.
//! * [`producers`]: what is known of idempotent producers; [`snapshot`] and [`index`] are how it is kept in the log (P4).

#[cfg(feature = "decoders")]
pub mod decoders;
mod fetch;
mod index;
pub mod log;
mod looks;
mod manager;
mod metrics;
mod mutation;
mod offsets;
mod produce;
mod producers;
mod retention;
#[cfg(test)]
mod samples;
mod size;
mod snapshot;
pub mod statelog;
mod task;
#[cfg(test)]
pub(crate) mod testing;

pub use manager::{Config, Partitions, PartitionsParts};
