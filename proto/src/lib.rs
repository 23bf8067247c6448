//! What all Geminga processes agree on. Imports nothing of ours.
//!
//! * [`ids`]: newtypes for everything that has a name or a number.
//! * [`bookie`]: the bookie protocol as validated types.
//! * [`caps`]: every hard limit that nobody should have to tune.
//! * [`codec`]: how messages become bytes.
//! * [`checksum`] and [`payload`]: checksums that follow from those of parts, and bytes in parts.
//! * [`entry`]: the immutable byte string that a ledger stores (protocol 1.5).
//! * [`messages`]: messages of a stream as a server reads them, not copied.
//! * [`murmur`]: the hash that places keys and groups.
//! * [`reason`]: the stable reasons that the public API's errors carry.
//! * [`v1`] and [`internal`]: generated gRPC messages, public and between our own processes.

pub mod bookie;
pub mod caps;
pub mod checksum;
pub mod codec;
pub mod entry;
pub mod ids;
pub mod messages;
pub mod murmur;
pub mod payload;
pub mod reason;

/// Generated code refers to its packages by their place, so the modules mirror them.
#[allow(missing_docs, unreachable_pub, rust_2018_idioms, clippy::all, clippy::str_to_string)]
mod generated {
    pub mod v1 {
        tonic::include_proto!("geminga.v1");
    }
    pub mod internal {
        pub mod v1 {
            tonic::include_proto!("geminga.internal.v1");
        }
    }
}

pub use generated::internal::v1 as internal;
pub use generated::v1;

/// The encoded descriptor set of every proto file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("geminga");
