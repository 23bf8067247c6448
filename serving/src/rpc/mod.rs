//! The gRPC services, one file each. They translate at the edge: nothing below them knows messages of the wire.

mod chunks;
pub(crate) mod cluster;
pub(crate) mod consume;
pub(crate) mod context;
#[cfg(test)]
pub(crate) mod fakes;
mod fetch;
pub(crate) mod groups;
pub(crate) mod init_producer;
pub(crate) mod measured;
pub(crate) mod metadata;
mod outgoing;
pub(crate) mod peer;
pub(crate) mod probe;
pub(crate) mod produce;
pub(crate) mod stream;
pub(crate) mod topics;
mod way;
