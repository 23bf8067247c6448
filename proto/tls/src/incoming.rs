//! The connections of a listener, as servers take them: so many at a time, without Nagle's delay, each after its handshake.
//! Handshakes go on beside each other and beside the listener; each holds the place that its connection will have.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use geminga_runtime::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::accept::Security;
use crate::peer::Peer;
use crate::socket::Watched;

/// Pause after a failed accept: what fails (no file descriptors) needs time to get better.
const PAUSE: Duration = Duration::from_millis(50);

/// A client that got no connection, of which it and the log know why.
struct SentAway;

/// An endless stream of connections.
pub struct Incoming {
    listener: TcpListener,
    security: Security,
    places: Arc<Semaphore>,
    most: usize,
    tasks: Tasks,
    handshakes: FuturesUnordered<JoinHandle<Option<Result<Connection, SentAway>>>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Incoming {
    /// At most `most` connections and handshakes at a time: more are closed at once. Handshakes run in `tasks`.
    pub fn new(listener: TcpListener, security: Security, most: usize, tasks: &Tasks) -> Self {
        Self {
            listener,
            security,
            places: Arc::new(Semaphore::new(most)),
            most,
            tasks: tasks.clone(),
            handshakes: FuturesUnordered::new(),
            pause: None,
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// A connection that came: at once when there is no handshake.
    fn came(&mut self, stream: TcpStream) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(limit = self.most, "too many connections; one is refused");
            return None;
        };
        // Without it an answer may wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let security = self.security.clone();
        if !security.is_tls() {
            let socket = crate::Socket::Plain(stream);
            return Some(Connection::new(Watched::new(socket, &security), place));
        }
        let cancelled = self.tasks.cancelled();
        let handshake = self.tasks.spawn("handshake", async move {
            let socket = tokio::select! {
                biased;
                () = cancelled => return Err(SentAway),
                socket = security.accept(stream) => socket.ok_or(SentAway)?,
            };
            Ok(Connection::new(Watched::new(socket, &security), place))
        });
        self.handshakes.push(handshake);
        None
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Poll::Ready(Some(done)) = self.handshakes.poll_next_unpin(cx) {
                if let Ok(Some(Ok(connection))) = done {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match std::task::ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _)) => {
                    if let Some(connection) = self.came(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// A connection that takes one of the places.
#[derive(Debug)]
pub struct Connection {
    io: Watched,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(io: Watched, place: OwnedSemaphorePermit) -> Self {
        let peer = io.socket().peer();
        Self { io, peer, _place: place }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut Watched> {
        Pin::new(&mut self.get_mut().io)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
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
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
