//! What a service is told of who asks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures::task::AtomicWaker;
use tonic::{Request, Status};

/// The other end of a connection.
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

/// Who sent a request, and by what connection: in the extensions of each.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The other end.
    pub peer: Peer,
    /// Ends the connection.
    pub cut: Cut,
}

/// Ends a connection from within what was asked by it; one that belongs to none does nothing. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    cut: AtomicBool,
    reader: AtomicWaker,
}

impl Cut {
    /// All that is read and written from now on fails, also what waits.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.reader.wake();
    }

    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }

    /// # Errors
    /// When it was cut.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.is_cut() {
            true => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            false => Ok(()),
        }
    }

    /// Wakes `reader` when it is cut.
    pub(crate) fn wakes(&self, reader: &Context<'_>) {
        self.0.reader.register(reader.waker());
    }
}

/// An interceptor for services between components, on a listener that clients without a certificate use, too.
///
/// # Errors
/// `Unauthenticated` for who is none.
pub fn component_only(request: Request<()>) -> Result<Request<()>, Status> {
    match request.extensions().get::<Caller>() {
        Some(caller) if caller.peer.is_component() => Ok(request),
        _ => Err(Status::unauthenticated(
            "this service is between components: show a certificate of the cluster's authority, with --tls-cert and --tls-key",
        )),
    }
}
