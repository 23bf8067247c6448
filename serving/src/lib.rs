//! The serving broker. It keeps nothing durable of its own: partitions are segments on ledgers, groups are state
//! machines on internal partitions (DESIGN 6 and 7).

pub mod broker;
pub mod cold;
pub mod groups;
pub mod kafka;
pub mod ownership;
pub mod partition;
mod quotas;
mod room;
pub mod router;
pub mod rpc;
pub mod statelog;
pub mod topics;
