//! What a service is told of who asks.

use std::net::SocketAddr;

use tonic::{Request, Status};

/// The other end of a connection, in the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Where it is, if the system still knew.
    pub address: Option<SocketAddr>,
    /// Whether what it says is encrypted.
    pub encrypted: bool,
    /// Whether it showed a certificate of the authority.
    pub certified: bool,
}

impl Peer {
    /// Whether it is a component of this cluster: it has a certificate of the authority, or the operator said that the
    /// network is trusted.
    pub fn is_component(&self) -> bool {
        !self.encrypted || self.certified
    }

    /// Whether it may change something where users are not known by name: it has a certificate, or is on this machine.
    pub fn is_trusted(&self) -> bool {
        let local = self.address.is_some_and(|address| address.ip().to_canonical().is_loopback());
        self.certified || local
    }
}

/// An interceptor for services between components, on a listener that clients without a certificate use, too.
///
/// # Errors
/// `Unauthenticated` for who is none.
pub fn component_only(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Peer>() {
        Some(peer) if peer.is_component() => Ok(request),
        _ => Err(Status::unauthenticated(
            "this service is between components: show a certificate of the cluster's authority, with --tls-cert and --tls-key",
        )),
    }
}
