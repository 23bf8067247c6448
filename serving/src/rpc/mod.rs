//! The gRPC services, one file each. They translate at the edge: nothing below them knows messages of the wire.

pub(crate) mod consume;
pub(crate) mod groups;
pub(crate) mod context;
pub(crate) mod metadata;
pub(crate) mod peer;
pub(crate) mod produce;
