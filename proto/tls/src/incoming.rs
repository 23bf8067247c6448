//! The connections of a listener, as servers take them: so many at a time, without Nagle's delay, each after its handshake, or
//! its first bytes where nothing is encrypted. These beginnings go on beside each other and beside the listener. They take no
//! connection's place, and have a bound of their own: when it is reached the oldest is given up for the newest once it had its turn,
//! so that clients which say nothing keep out nobody who does. Where HTTP/2 is spoken, a connection that has a place loses it unless the
//! client's preface comes in time, too: until then nothing else looks after it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use geminga_runtime::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

use crate::accept::Security;
use crate::delegate::Bytes;
use crate::peer::{Caller, Cut, Peer};
use crate::socket::Socket;
use crate::trouble::Trouble;

/// Pause after a failed accept: what fails (no file descriptors) needs time to get better.
const PAUSE: Duration = Duration::from_millis(50);
/// Most connections of a listener that have only begun, where it has more places than that.
const MAX_BEGUN: usize = 512;
/// How long a beginning is left alone however many there are: when very many clients come back at once, each has time for its handshake.
const ITS_TURN: Duration = Duration::from_secs(1);

/// What a client of HTTP/2 says first, before any frame.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// How long it may take, from the end of the handshake on.
const PREFACE_TIME: Duration = Duration::from_secs(10);

/// A connection that has begun.
struct Begun {
    task: AbortHandle,
    client: SocketAddr,
    since: Instant,
}

/// A client that got no connection, of which it and the log know why.
struct SentAway;

/// An endless stream of connections. Dropping it gives up those that have only begun.
pub struct Incoming {
    listener: TcpListener,
    security: Security,
    places: Arc<Semaphore>,
    most: usize,
    /// Whether clients are to begin with the preface of HTTP/2.
    http2: bool,
    tasks: Tasks,
    begun: FuturesUnordered<JoinHandle<Option<Result<Socket, SentAway>>>>,
    /// The same, oldest first; some may be done.
    by_age: VecDeque<Begun>,
    /// One that was accepted and has no room to begin yet.
    waits: Option<(TcpStream, SocketAddr)>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Incoming {
    /// At most `most` connections at a time: more are closed at once. Handshakes run in `tasks`.
    pub fn new(listener: TcpListener, security: Security, most: usize, tasks: &Tasks) -> Self {
        Self {
            listener,
            security,
            places: Arc::new(Semaphore::new(most)),
            most,
            http2: false,
            tasks: tasks.clone(),
            begun: FuturesUnordered::new(),
            by_age: VecDeque::new(),
            waits: None,
            pause: None,
        }
    }

    /// The same, of a listener that speaks HTTP/2 and nothing else.
    #[must_use]
    pub fn of_http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not know.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// A connection came.
    fn begin(&mut self, stream: TcpStream, client: SocketAddr) {
        // Without it an answer may wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let (security, cancelled) = (self.security.clone(), self.tasks.cancelled());
        let task = self.tasks.spawn("handshake", async move {
            // What a client says must not stop the listener, whatever it makes of a library.
            let accept = AssertUnwindSafe(security.accept(stream)).catch_unwind();
            tokio::select! {
                biased;
                () = cancelled => Err(SentAway),
                taken = accept => {
                    let taken = taken.unwrap_or_else(|_| {
                        let why = Trouble::Other("the handshake panicked".to_owned());
                        security.refuse(Some(client), &why);
                        None
                    });
                    taken.ok_or(SentAway)
                }
            }
        });
        self.by_age.push_back(Begun { task: task.abort_handle(), client, since: Instant::now() });
        self.begun.push(task);
    }

    /// Whether one more may begin; gives up the oldest for it if it had its turn.
    fn make_room(&mut self) -> bool {
        let most = self.most.min(MAX_BEGUN);
        if self.by_age.len() < most {
            return true;
        }
        self.by_age.retain(|begun| !begun.task.is_finished());
        if self.by_age.len() < most {
            return true;
        }
        let Some(oldest) = self.by_age.pop_front_if(|oldest| oldest.since.elapsed() >= ITS_TURN)
        else {
            return false;
        };
        oldest.task.abort();
        self.security.refuse(Some(oldest.client), &Trouble::Crowded);
        true
    }

    /// A place for a connection that is more than begun.
    fn admit(&self, socket: Socket) -> Option<Connection> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!(limit = self.most, "too many connections; one is refused");
            return None;
        };
        let preface =
            self.http2.then(|| Preface { left: PREFACE, time: Box::pin(sleep(PREFACE_TIME)) });
        let cut = Cut::default();
        Some(Connection { peer: socket.peer(), socket, preface, cut, _place: place })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        for begun in &self.by_age {
            begun.task.abort();
        }
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            while let Poll::Ready(Some(done)) = self.begun.poll_next_unpin(cx) {
                if let Ok(Some(Ok(socket))) = done
                    && let Some(connection) = self.admit(socket)
                {
                    return Poll::Ready(Some(Ok(connection)));
                }
            }
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let came = match self.waits.take() {
                Some(came) => Ok(came),
                None => std::task::ready!(self.listener.poll_accept(cx)),
            };
            match came {
                Ok((stream, client)) if self.make_room() => self.begin(stream, client),
                Ok(came) => {
                    self.waits = Some(came);
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}

/// What is still to come of a preface.
#[derive(Debug)]
struct Preface {
    /// Bytes.
    left: usize,
    time: Pin<Box<Sleep>>,
}

/// A connection that takes one of the places.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    peer: Peer,
    preface: Option<Preface>,
    cut: Cut,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        Pin::new(&mut self.get_mut().socket)
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        Caller { peer: self.peer, cut: self.cut.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        connection.cut.wakes(cx);
        connection.cut.check()?;
        let Some(preface) = &mut connection.preface else {
            return Pin::new(&mut connection.socket).poll_read(cx, buffer);
        };
        if preface.time.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)));
        }
        let before = buffer.filled().len();
        let read = std::task::ready!(Pin::new(&mut connection.socket).poll_read(cx, buffer));
        preface.left = preface.left.saturating_sub(buffer.filled().len() - before);
        if preface.left == 0 {
            connection.preface = None;
        }
        Poll::Ready(read)
    }
}

/// All of it fails once the connection was cut: a client that reads nothing keeps writes waiting, and what is read is not looked at then.
impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.cut.check()?;
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check()?;
        self.io().poll_shutdown(cx)
    }
}
