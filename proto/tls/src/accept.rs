//! How a listener takes connections: plain, or by a handshake; who says nothing is not waited for long. Who does not speak TLS, or shows a
//! certificate that is no good, is told so in words that it can read, as far as its protocol has any.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use crate::credentials::Credentials;
use crate::files::{ClientAuth, Protocol};
use crate::metrics;
use crate::socket::Socket;
use crate::trouble::{Side, Trouble};

/// How long a handshake may take, or a plain client to say something.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long who is sent away may take to read why, and what is read of it meanwhile: closing with bytes unread would take
/// the words back.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 64 * 1024;
/// Clients that are sent away are warned of once in so long for each listener; all are counted.
const QUIET: Duration = Duration::from_secs(10);
/// What HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2";
/// What TLS begins with.
const HANDSHAKE_RECORD: u8 = 0x16;
/// What a plain client is told.
const SPEAKS_TLS: &str = "this port speaks TLS: connect with --tls-ca or https://";

/// How one listener takes connections; cheap to clone.
#[derive(Debug, Clone)]
pub struct Security(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    listener: &'static str,
    tls: Option<Terms>,
    /// When a client was last warned of, and how many were sent away since.
    warned: Mutex<(Option<Instant>, u64)>,
}

#[derive(Debug)]
struct Terms {
    credentials: Credentials,
    protocol: Protocol,
    clients: ClientAuth,
}

impl Security {
    /// Nothing is encrypted. `listener` is for log and metrics.
    pub fn plain(listener: &'static str) -> Self {
        Self::new(listener, None)
    }

    /// Everything is encrypted.
    pub fn tls(
        listener: &'static str,
        credentials: Credentials,
        protocol: Protocol,
        clients: ClientAuth,
    ) -> Self {
        Self::new(listener, Some(Terms { credentials, protocol, clients }))
    }

    fn new(listener: &'static str, tls: Option<Terms>) -> Self {
        Self(Arc::new(Inner { listener, tls, warned: Mutex::default() }))
    }

    /// Whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// Takes a connection, after its first bytes came, or its handshake is done where there is one; `None` when the client was
    /// sent away, of which log and metrics tell. Takes no longer than a handshake may. Protocols whose servers speak first would
    /// wait here.
    pub async fn accept(&self, stream: TcpStream) -> Option<Socket> {
        let address = stream.peer_addr().ok();
        let Ok(taken) = timeout(HANDSHAKE, self.take(stream)).await else {
            self.refuse(address, &Trouble::Slow);
            return None;
        };
        match taken {
            Ok(socket) => Some(socket),
            // Whoever only looks whether the port is open.
            Err((Trouble::Ended, _)) if !self.is_tls() => None,
            Err((trouble, stream)) => {
                self.refuse(address, &trouble);
                // It was sent away already; this only lets it read why.
                let _late = timeout(LINGER, linger(stream)).await;
                None
            }
        }
    }

    async fn take(&self, stream: TcpStream) -> Result<Socket, (Trouble, TcpStream)> {
        let mut first = [0; PREFACE.len()];
        let read = match stream.peek(&mut first).await {
            Ok(read) => read,
            Err(error) => return Err((Trouble::of(&error), stream)),
        };
        let first = &first[..read];
        match &self.0.tls {
            _ if first.is_empty() => Err((Trouble::Ended, stream)),
            Some(terms) => terms.shake(stream, first).await,
            None => {
                // What it cannot read, the protocol refuses in its own words.
                if is_handshake(first) {
                    self.refuse(stream.peer_addr().ok(), &Trouble::TlsOnPlain);
                }
                Ok(Socket::Plain(stream))
            }
        }
    }

    /// Counts a client that is sent away, and tells of it, though not of each. For listeners whose protocol finds out itself, too.
    pub fn refuse(&self, client: Option<SocketAddr>, trouble: &Trouble) {
        let listener = self.0.listener;
        metrics::count_refused(listener, trouble.label());
        let now = Instant::now();
        let mut warned = self.0.warned.lock();
        let (last, silent) = *warned;
        if last.is_some_and(|last| now - last < QUIET) {
            warned.1 += 1;
            drop(warned);
            tracing::debug!(listener, ?client, why = %trouble.told_by(Side::Server), "a connection was refused");
            return;
        }
        *warned = (Some(now), 0);
        drop(warned);
        tracing::warn!(
            listener,
            ?client,
            others_before = silent,
            "a connection was refused: {}",
            trouble.told_by(Side::Server)
        );
    }
}

impl Terms {
    /// The handshake with a client whose first bytes these are.
    async fn shake(
        &self,
        mut stream: TcpStream,
        first: &[u8],
    ) -> Result<Socket, (Trouble, TcpStream)> {
        if first[0] != HANDSHAKE_RECORD || (first.len() > 1 && !is_handshake(first)) {
            answer_plainly(&mut stream, first).await;
            return Err((Trouble::PlainText, stream));
        }
        let Some(config) = self.credentials.now().server(self.protocol, self.clients) else {
            let why = "this server has no certificate, or no authority to check clients by";
            return Err((Trouble::Other(why.to_owned()), stream));
        };
        match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(tls) => Ok(Socket::Tls(Box::new(tls))),
            Err((error, stream)) => Err((Trouble::of(&error), stream)),
        }
    }
}

/// Whether a connection begins as TLS does: a handshake record of version 3.x.
fn is_handshake(bytes: &[u8]) -> bool {
    bytes.starts_with(&[HANDSHAKE_RECORD, 3])
}

/// Tells a client that speaks HTTP, of either version, what is wrong; others see the connection end.
async fn answer_plainly(stream: &mut TcpStream, first: &[u8]) {
    let answer = if first.starts_with(PREFACE) {
        goaway(SPEAKS_TLS)
    } else if first.first().is_some_and(u8::is_ascii_uppercase) {
        let length = SPEAKS_TLS.len() + 1;
        format!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
             connection: close\r\n\r\n{SPEAKS_TLS}\n"
        )
        .into_bytes()
    } else {
        return;
    };
    // Who does not read it learns less.
    let _ = stream.write_all(&answer).await;
}

/// An HTTP/2 connection that begins and ends at once: empty settings, then GOAWAY with a text. Clients of gRPC would take the code
/// INADEQUATE_SECURITY for a refusal of the call; PROTOCOL_ERROR is the connection's.
fn goaway(text: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    const PROTOCOL_ERROR: u8 = 1;
    let length = u8::try_from(8 + text.len()).expect("a short text");
    let mut bytes = SETTINGS.to_vec();
    bytes.extend([0, 0, length, GOAWAY, 0, 0, 0, 0, 0]);
    bytes.extend([0, 0, 0, 0, 0, 0, 0, PROTOCOL_ERROR]);
    bytes.extend(text.as_bytes());
    bytes
}

/// Ends a connection so that what was written reaches the other end.
async fn linger(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut buffer, mut left) = ([0; 4096], LINGER_BYTES);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        left = left.saturating_sub(read);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_in_ten_seconds_is_told() {
        let security = Security::plain("kafka");
        let start = Instant::now();
        // When the last line was, and how many got none since, at each of these times.
        for (at, last, silent) in [(0, 0, 0), (9, 0, 1), (9, 0, 2), (10, 10, 0), (19, 10, 1)] {
            tokio::time::advance(Duration::from_secs(at) - start.elapsed()).await;
            security.refuse(None, &Trouble::TlsOnPlain);
            let told = start + Duration::from_secs(last);
            assert_eq!(*security.0.warned.lock(), (Some(told), silent), "{at}");
        }
    }
}
