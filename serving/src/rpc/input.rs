//! How a client's stream of requests may end before its time: the client has gone, or it sent what is no request. The
//! second is told, since a client that lives and hears nothing would wait for ever; the first is no wish of the client's.

use std::error::Error;

use tonic::Status;

/// Whether the client, which may well live, sent what cannot be read. A status of the connection's has a source; one that
/// says what is wrong with a message has none.
pub(super) fn is_unreadable(status: &Status) -> bool {
    status.source().is_none()
}
