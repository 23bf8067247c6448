//! The stream of probes to one peer, on a connection of its own: nothing else waits in it, and its end tells at once that
//! the process at the other end is gone. One task; it ends with its handle.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use geminga_proto::caps;
use geminga_proto::ids::BrokerId;
use geminga_proto::internal::probes_client::ProbesClient;
use geminga_proto::internal::{ProbeRequest, ProbeResponse};
use geminga_runtime::Tasks;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::core::Event;
use super::from_wire;

/// Probes that wait for the connection. While it is stuck, further ones are dropped: they are missed in any case.
const PROBES: usize = 4;
/// How long a connection, and then a stream, may take to open: much longer than a probe, or a machine with much to do would
/// never have one.
const CONNECT: Duration = Duration::from_secs(2);
/// How often another connection is tried at once after one broke, and the pause between: a next probe may be long to come.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(20);
/// After so many probes without an answer another connection is made: one that lost packets for long takes as long again to
/// find out that they arrive.
const UNANSWERED: u32 = 8;

/// A handle on one peer's stream.
#[derive(Debug)]
pub(super) struct Link {
    address: String,
    probes: mpsc::Sender<ProbeRequest>,
}

impl Link {
    pub(super) fn start(
        peer: BrokerId,
        address: String,
        reports: mpsc::Sender<Event>,
        tasks: &Tasks,
    ) -> Self {
        let (probes, queue) = mpsc::channel(PROBES);
        let task = Task { peer, address: address.clone(), queue, reports };
        let cancelled = tasks.cancelled();
        tasks.spawn("probes of one peer", async move {
            tokio::select! {
                () = cancelled => {}
                () = task.run() => {}
            }
        });
        Self { address, probes }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends one probe, if there is room.
    pub(super) fn probe(&self, request: ProbeRequest) {
        let _full = self.probes.try_send(request).is_err();
    }
}

/// Why a stream, or an attempt at one, is over.
enum End {
    /// Nobody probes any more.
    Dropped,
    /// A stream that had answers broke: only another connection tells why.
    Broken,
    /// Nobody listens there, or another process does.
    Refused,
    /// No connection in time, or one without answers.
    Silent,
}

struct Task {
    peer: BrokerId,
    address: String,
    queue: mpsc::Receiver<ProbeRequest>,
    reports: mpsc::Sender<Event>,
}

impl Task {
    async fn run(mut self) {
        let Ok(endpoint) = Endpoint::from_shared(format!("http://{}", self.address)) else {
            tracing::warn!(peer = %self.peer, address = self.address, "broker cannot be probed: its address is none");
            return;
        };
        let endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        let Some(mut first) = self.queue.recv().await else { return };
        let mut attempts = 0;
        loop {
            let end = match endpoint.connect().await {
                Ok(channel) => self.stream(channel, first.clone()).await,
                Err(error) if is_refusal(&error) => End::Refused,
                Err(_) => End::Silent,
            };
            match end {
                End::Dropped => return,
                End::Broken => {
                    attempts = ATTEMPTS;
                    continue;
                }
                End::Refused => {
                    if self.reports.send(Event::Refused(self.peer)).await.is_err() {
                        return;
                    }
                }
                // A process that is just ending may still have taken the connection.
                End::Silent if attempts > 0 => {
                    attempts -= 1;
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                End::Silent => {}
            }
            let Some(next) = self.queue.recv().await else { return };
            first = next;
        }
    }

    /// One stream to its end.
    async fn stream(&mut self, channel: Channel, first: ProbeRequest) -> End {
        let (requests, stream) = mpsc::channel(PROBES);
        let _room = requests.try_send(first);
        let mut client =
            ProbesClient::new(channel).max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
        let opened = client.probe(ReceiverStream::new(stream));
        let mut answers = match tokio::time::timeout(CONNECT, opened).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(peer = %self.peer, %status, "broker answers no probes");
                return End::Silent;
            }
            Err(_) => return End::Silent,
        };
        let (mut answered, mut unanswered) = (false, 0);
        loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) if answer.broker == self.peer.0 => {
                        (answered, unanswered) = (true, 0);
                        self.answered(&answer).await;
                    }
                    Ok(Some(_)) => return End::Refused,
                    Ok(None) | Err(_) if answered => return End::Broken,
                    Ok(None) | Err(_) => return End::Silent,
                },
                probe = self.queue.recv() => {
                    let Some(probe) = probe else { return End::Dropped };
                    unanswered += 1;
                    if unanswered > UNANSWERED {
                        return End::Silent;
                    }
                    let _stuck = requests.try_send(probe).is_err();
                }
            }
        }
    }

    async fn answered(&self, answer: &ProbeResponse) {
        let seen = from_wire(&answer.seen);
        // The prober holds a receiver for as long as it lives.
        let _gone = self.reports.send(Event::Answered(self.peer)).await.is_err();
        let _gone = self.reports.send(Event::Told { peer: self.peer, seen }).await.is_err();
    }
}

/// Whether the address answered that nobody listens. A connection that was reset says less: its owner may have too many.
fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        next = error.source();
    }
    false
}
