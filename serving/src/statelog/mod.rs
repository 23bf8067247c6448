//! Replicated state machines on internal partitions (DESIGN 7). A statelog writes commands to a partition and lets
//! nobody see their effects before they are durable.
//!
//! * [`log`]: what it asks of the partition below. [`machine`]: what it runs.
//! * [`gate`]: which output may leave when (S2, S3). [`clock`]: the time that a machine lives in. [`shard`]: the task that
//!   owns one shard.

pub mod clock;
pub mod gate;
pub mod log;
pub mod machine;
#[cfg(test)]
pub(crate) mod memory;
pub mod shard;
