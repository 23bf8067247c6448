//! A connection that was taken: plain or encrypted, read and written alike. A plain one is written by vectors as the socket
//! itself is.

use std::pin::Pin;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::delegate::{Bytes, delegate_reads, delegate_writes};
use crate::peer::Peer;

/// See the module.
#[derive(Debug)]
pub enum Socket {
    /// Nothing is encrypted.
    Plain(TcpStream),
    /// The handshake is done.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        match self {
            Self::Plain(tcp) => {
                Peer { address: tcp.peer_addr().ok(), encrypted: false, certified: false }
            }
            Self::Tls(tls) => {
                let (tcp, session) = tls.get_ref();
                let certified = session.peer_certificates().is_some_and(|shown| !shown.is_empty());
                Peer { address: tcp.peer_addr().ok(), encrypted: true, certified }
            }
        }
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp),
            Self::Tls(tls) => Pin::new(tls.as_mut()),
        }
    }
}

delegate_reads!(Socket);
delegate_writes!(Socket);
