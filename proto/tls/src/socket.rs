//! A connection that was taken: plain or encrypted, read and written alike. A plain one is written by vectors as the socket
//! itself is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::accept::Security;
use crate::peer::Peer;
use crate::trouble::Trouble;

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
}

macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain($io) => {
                let $io = Pin::new($io);
                $call
            }
            Self::Tls($io) => {
                let $io = Pin::new($io.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_shutdown(cx))
    }
}

/// Looks at the first bytes of a plain connection: those of a TLS handshake are told of, and then go where all go.
#[derive(Debug)]
pub(crate) struct Watched {
    socket: Socket,
    /// Until something was read.
    fresh: Option<Security>,
}

impl Watched {
    pub(crate) fn new(socket: Socket, security: &Security) -> Self {
        let fresh = matches!(socket, Socket::Plain(_)).then(|| security.clone());
        Self { socket, fresh }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut Socket> {
        Pin::new(&mut self.get_mut().socket)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        if let Some(security) = self.fresh.take()
            && is_handshake(&buffer.filled()[before..])
        {
            let address = self.socket.peer().address;
            security.refuse(address, &Trouble::TlsOnPlain);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

/// Whether a connection begins as TLS does: a handshake record of version 3.x.
pub(crate) fn is_handshake(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x16, 0x03])
}
