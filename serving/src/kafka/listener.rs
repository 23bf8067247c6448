//! One listener for Kafka clients. Connections are counted and bounded over all listeners; a panic ends the one that it
//! happens in. A handshake is the beginning of a connection, and has its place; those of whom nothing is known are fewer, and are not
//! waited for long ([`super::strangers`]).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use geminga_runtime::Tasks;
use geminga_tls::{Security, Socket, Trouble};
use tokio::net::{TcpListener, TcpStream};

use super::call::{Hangup, Peer};
use super::lanes::Lanes;
use super::strangers::Stranger;
use super::{Kafka, connection, metrics};

/// A pause after the process ran out of something that accepting takes, such as file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections under a name that tells clients which addresses they are told.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    tcp: TcpListener,
    security: Security,
    kafka: Kafka,
}

impl Listener {
    pub(crate) fn new(name: String, tcp: TcpListener, security: Security, kafka: Kafka) -> Self {
        Self { name, tcp, security, kafka }
    }

    /// Serves until `tasks` stops. Its connections then answer what they have read, and end; those that take too long end with
    /// `cut`.
    pub(crate) async fn serve(self, tasks: Tasks, cut: Tasks) {
        let stop = tasks.cancelled();
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.connected(&tasks, &cut, stream, address),
                Err(error) if is_of_client(&error) => {}
                Err(error) => {
                    tracing::warn!(listener = self.name, %error, "no connection can be accepted; trying again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn connected(&self, tasks: &Tasks, cut: &Tasks, stream: TcpStream, address: SocketAddr) {
        let Ok(place) = Arc::clone(&self.kafka.places).try_acquire_owned() else {
            metrics::count_refused();
            return;
        };
        let Some((stranger, over)) = self.kafka.strangers.admit() else {
            metrics::count_refused();
            return;
        };
        // Without it an answer may wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let peer = Arc::new(Peer { listener: self.name.clone(), address, lanes: Lanes::default() });
        let (kafka, own) = (self.kafka.clone(), cut.child("kafka connection"));
        let security = self.security.clone();
        let stop = tasks.cancelled();
        tasks.spawn("kafka connections", async move {
            let connected = metrics::Connected::accepted();
            let cut = own.cancelled();
            let serve = own.spawn("serve", async move {
                let served = taken(security.clone(), (kafka, peer, stranger), stream, stop);
                tokio::select! {
                    biased;
                    () = cut => {}
                    () = over => closed(&security, address, Hangup::Stranger),
                    end = Box::pin(served) => if let Err(why) = end {
                        closed(&security, address, why);
                    }
                }
            });
            // A panic was logged where it was caught.
            let _ = serve.await;
            drop((connected, place));
        });
    }
}

/// Tells of a connection that the broker closed.
fn closed(security: &Security, client: SocketAddr, why: Hangup) {
    tracing::debug!(%client, why = why.as_str(), "a Kafka connection was closed");
    metrics::count_hangup(why.as_str());
    // Inside TLS such bytes are what a client makes of Kafka's protocol.
    if why == Hangup::Tls && !security.is_tls() {
        security.refuse(Some(client), &Trouble::TlsOnPlain);
    }
}

/// Serves a connection after its handshake, where there is one; who fails in that was told there.
async fn taken(
    security: Security,
    (kafka, peer, stranger): (Kafka, Arc<Peer>, Stranger),
    stream: TcpStream,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Hangup> {
    let stop = stop.shared();
    let socket = if security.is_tls() {
        tokio::select! {
            biased;
            () = stop.clone() => None,
            socket = security.accept(stream) => socket,
        }
    } else {
        // Idle plain connections have a limit of their own.
        Some(Socket::Plain(stream))
    };
    match socket {
        None => Ok(()),
        Some(Socket::Plain(tcp)) => {
            connection::serve(kafka, (peer, Some(stranger)), tcp.into_split(), stop).await
        }
        Some(Socket::Tls(tls)) => {
            let socket = tokio::io::split(tls);
            Box::pin(connection::serve(kafka, (peer, Some(stranger)), socket, stop)).await
        }
    }
}

/// Whether only the connection that was to be accepted is gone.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
