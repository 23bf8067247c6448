//! Replicated state machines on internal partitions (DESIGN 7). A statelog writes commands to a partition and lets
//! nobody see their effects before they are durable.

pub mod log;
