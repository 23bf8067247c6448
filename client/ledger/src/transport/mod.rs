//! Bookie connections over gRPC: two bidirectional streams, so that a large read never delays an acknowledgement, many
//! requests in one message.
//!
//! * [`lane`]: one stream: requests in, replies matched by id.
//! * [`GrpcConnection`]: the two lanes of one bookie.

mod grpc;
mod lane;

pub(crate) use grpc::GrpcConnection;
