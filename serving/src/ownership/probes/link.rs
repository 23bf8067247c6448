//! The stream of probes to one peer, on a connection of its own: nothing else waits in it, and its end tells at once that
//! the process at the other end is gone. One task; it ends with its handle.
//!
//! A probe that waits for the connection gives way to the next one, and one that waited for long says nothing of others: so
//! a peer hears what is seen now, not what was seen before the connection broke.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use geminga_proto::caps;
use geminga_proto::ids::BrokerId;
use geminga_proto::internal::probes_client::ProbesClient;
use geminga_proto::internal::{ProbeRequest, ProbeResponse};
use geminga_runtime::{Seldom, Tasks};
use geminga_tls::{Dial, cause, status_cause};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::core::{Event, INTERVAL};
use super::from_wire;

/// Probes that wait in a stuck connection; further ones are dropped: they are missed in any case.
const PROBES: usize = 4;
/// How long a connection, and then a stream, may take to open: much longer than a probe, or a machine with much to do would
/// never have one.
const CONNECT: Duration = Duration::from_secs(2);
/// How often another connection is tried at once after one broke, and the pause between: a next probe may be long to come.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(20);
/// After so many ticks without an answer another connection is made: one that lost packets for long takes as long again to
/// find out that they arrive. (Not after so many probes: many may be sent within one tick.)
const UNANSWERED: u64 = 8;

/// A probe that is to be sent.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) request: ProbeRequest,
    /// The tick of the prober that it belongs to.
    pub(super) tick: u64,
    /// When its words were true.
    pub(super) made: Instant,
}

impl Probe {
    /// What is sent at `now`.
    fn into_request(mut self, now: Instant) -> ProbeRequest {
        if now.saturating_duration_since(self.made) > INTERVAL {
            self.request.seen.clear();
        }
        self.request
    }
}

/// A handle on one peer's stream.
#[derive(Debug)]
pub(super) struct Link {
    address: String,
    newest: watch::Sender<Option<Probe>>,
}

impl Link {
    pub(super) fn start(
        peer: BrokerId,
        address: String,
        dial: Dial,
        reports: mpsc::Sender<Event>,
        tasks: &Tasks,
    ) -> Self {
        let (newest, probes) = watch::channel(None);
        let told = Seldom::default();
        let task = Task { peer, address: address.clone(), dial, probes, reports, told };
        let cancelled = tasks.cancelled();
        tasks.spawn("probes of one peer", async move {
            tokio::select! {
                () = cancelled => {}
                () = task.run() => {}
            }
        });
        Self { address, newest }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Sends one probe, in the place of one that still waits.
    pub(super) fn probe(&self, probe: Probe) {
        self.newest.send_replace(Some(probe));
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
    dial: Dial,
    probes: watch::Receiver<Option<Probe>>,
    reports: mpsc::Sender<Event>,
    /// When it was last said that the peer cannot be reached.
    told: Seldom<BrokerId>,
}

impl Task {
    async fn run(mut self) {
        let Ok(endpoint) = Endpoint::from_shared(format!("http://{}", self.address)) else {
            tracing::warn!(peer = %self.peer, address = self.address, "broker cannot be probed: its address is none");
            return;
        };
        let endpoint = endpoint.connect_timeout(CONNECT).tcp_nodelay(true);
        let mut attempts = 0;
        if next(&mut self.probes).await.is_none() {
            return;
        }
        loop {
            let end = match self.dial.connect(&endpoint).await {
                Ok(channel) => self.stream(channel).await,
                Err(error) if is_refusal(&error) => End::Refused,
                Err(error) => {
                    self.tell(|| cause(&error));
                    End::Silent
                }
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
            if next(&mut self.probes).await.is_none() {
                return;
            }
        }
    }

    /// That nobody listens any more is not told: whoever ends does so.
    fn tell(&self, why: impl FnOnce() -> String) {
        if self.told.is_due(&self.peer) {
            tracing::warn!(peer = %self.peer, address = self.address, why = why(), "broker cannot be probed");
        }
    }

    /// One stream to its end. It begins with the newest probe.
    async fn stream(&mut self, channel: Channel) -> End {
        let (requests, stream) = mpsc::channel(PROBES);
        let Some(first) = self.probes.borrow_and_update().clone() else { return End::Dropped };
        let mut tick = first.tick;
        let _room = requests.try_send(first.into_request(Instant::now()));
        let mut client =
            ProbesClient::new(channel).max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
        let opened = client.probe(ReceiverStream::new(stream));
        let mut answers = match tokio::time::timeout(CONNECT, opened).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                self.tell(|| status_cause(&status));
                return End::Silent;
            }
            Err(_) => return End::Silent,
        };
        let mut answered = false;
        loop {
            tokio::select! {
                biased;
                answer = answers.message() => match answer {
                    Ok(Some(answer)) if answer.broker == self.peer.0 => {
                        answered = true;
                        tick = self.probes.borrow().as_ref().map_or(tick, |probe| probe.tick);
                        self.answered(&answer).await;
                    }
                    Ok(Some(_)) => return End::Refused,
                    Ok(None) | Err(_) if answered => return End::Broken,
                    Ok(None) | Err(_) => return End::Silent,
                },
                probe = next(&mut self.probes) => {
                    let Some(probe) = probe else { return End::Dropped };
                    if probe.tick.saturating_sub(tick) > UNANSWERED {
                        return End::Silent;
                    }
                    let _stuck = requests.try_send(probe.into_request(Instant::now())).is_err();
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

/// The next probe, the newest of those that were not taken; `None` when nobody probes any more. Cancel-safe.
async fn next(probes: &mut watch::Receiver<Option<Probe>>) -> Option<Probe> {
    probes.changed().await.ok()?;
    probes.borrow_and_update().clone()
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

#[cfg(test)]
mod tests {
    use geminga_proto::internal::SeenDead;

    use super::*;

    fn probe(tick: u64) -> Probe {
        let seen = vec![SeenDead { broker: 3, lease_id: 7, refused: false }];
        Probe { request: ProbeRequest { from: 1, seen }, tick, made: Instant::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_waited_gives_way_to_the_next() {
        let (newest, mut probes) = watch::channel(None);
        for tick in 1..=3 {
            newest.send_replace(Some(probe(tick)));
        }
        assert_eq!(next(&mut probes).await.map(|probe| probe.tick), Some(3));
        drop(newest);
        assert!(next(&mut probes).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_waited_for_long_says_nothing_of_others() {
        let fresh = probe(1).into_request(Instant::now() + INTERVAL);
        assert_eq!((fresh.from, fresh.seen.len()), (1, 1));
        let old = probe(1).into_request(Instant::now() + 2 * INTERVAL);
        assert_eq!((old.from, old.seen.len()), (1, 0));
    }
}
