//! One request under way: what is asked, by whom, and the answer to come.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::Kafka;
use super::codec::messages::{KafkaMessage, KafkaResponse};
use super::codec::{self, Header, Malformed};
use super::journey::Notes;
use super::lanes::{Key, Lanes};
use super::said::{self, Says};
use super::throttle;
use crate::quotas::Kind;
use crate::room::Held;

/// A client that owes bytes of records is made to wait no longer than this at one time, and told no more.
pub(super) const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// One that asked too often no longer than this, as Kafka has it: it may be a member of a group, which must be heard.
pub(super) const WAIT_OF_REQUESTS: Duration = Duration::from_secs(1);

/// The client at the other end of a connection.
#[derive(Debug)]
pub(super) struct Peer {
    /// The listener that it came by: it is told addresses of the same.
    pub(super) listener: String,
    /// Where it is.
    pub(super) address: SocketAddr,
    /// The order of its batches.
    pub(super) lanes: Lanes,
}

/// A request that is served.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) kafka: Kafka,
    pub(super) peer: Arc<Peer>,
    pub(super) header: Header,
    /// The place where it begins in what its connection sends ([`super::pace`]): requests are in this order.
    pub(super) place: u64,
    /// How long the client is not served for how often it asks.
    pub(super) owed: Duration,
    /// What is told of it where it is slow.
    pub(super) notes: Arc<Notes>,
    /// Names of topics that this broker does not know and was asked to look up.
    pub(super) lookups: Arc<AtomicUsize>,
    /// Until when it waits for owners of partitions that this broker has not heard of.
    pub(super) patience: Arc<OnceLock<Instant>>,
}

impl Call {
    pub(super) fn new(
        kafka: Kafka,
        peer: Arc<Peer>,
        header: Header,
        (place, owed): (u64, Duration),
    ) -> Self {
        let (notes, lookups, patience) = (Arc::default(), Arc::default(), Arc::default());
        Self { kafka, peer, header, place, owed, notes, lookups, patience }
    }

    /// The request's body.
    ///
    /// # Errors
    /// [`Hangup::Malformed`].
    pub(super) fn decode<M: KafkaMessage>(&self, body: Bytes) -> Result<M, Hangup> {
        Ok(codec::decode(body, self.header.version)?)
    }

    /// The answer, at once.
    ///
    /// # Errors
    /// [`Hangup::Unsayable`], which a test of each API excludes.
    pub(super) fn answer<M: KafkaResponse + Says>(&self, message: &M) -> Served {
        Ok(Answer::Ready(self.reply(message)?))
    }

    /// The answer, at once, which keeps its room until it is written.
    ///
    /// # Errors
    /// As [`Call::answer`].
    pub(super) fn answer_in<M: KafkaResponse + Says>(&self, room: Held, message: &M) -> Served {
        let mut reply = self.reply(message)?;
        reply.rooms = vec![room];
        Ok(Answer::Ready(reply))
    }

    /// The answer's bytes.
    ///
    /// # Errors
    /// As [`Call::answer`].
    pub(super) fn reply<M: KafkaResponse + Says>(&self, message: &M) -> Result<Reply, Hangup> {
        let Header { key, correlation, version, .. } = self.header;
        said::count(key, message);
        let mut bytes = codec::encode(correlation, version, message).map_err(|error| {
            tracing::error!(key, version, %error, "an answer cannot be said in the version asked for");
            Hangup::Unsayable
        })?;
        throttle::tell(&mut bytes, (key, version), codec::is_flexible::<M>(version), self.owed);
        Ok(vec![bytes.freeze()].into())
    }

    /// What the client calls itself; empty when it does not say.
    pub(super) fn client_id(&self) -> &str {
        self.header.client_id.as_str()
    }

    /// Counts bytes of the client, and says how long it is not served for these and all else, milliseconds. No more is told than a
    /// moment: the client mutes itself for as long as it was told, also when an operator frees it meanwhile.
    pub(super) fn charge(&self, kind: Kind, bytes: usize) -> i32 {
        let wait = self.kafka.ctx.quotas.charge(kind, self.client_id(), bytes as u64);
        let wait = wait.min(LONGEST_WAIT).max(self.owed.min(WAIT_OF_REQUESTS));
        i32::try_from(wait.as_millis()).unwrap_or(i32::MAX)
    }

    /// Which version was asked for.
    pub(super) fn version(&self) -> i16 {
        self.header.version
    }
}

/// The bytes of an answer, to be written end to end.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) pieces: Vec<Bytes>,
    /// What they take of the rooms for answers, until they are written.
    pub(super) rooms: Vec<Held>,
    /// Partitions whose failure it tells.
    pub(super) failed: Vec<Key>,
    /// When it was made, where that was after its request had its place.
    pub(super) made: Option<Instant>,
    /// Resolves when nothing of what was sent is needed any more, where that is later than the answer.
    pub(super) settled: Option<BoxFuture<'static, ()>>,
}

impl Reply {
    /// How many bytes it has.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }
}

impl From<Vec<Bytes>> for Reply {
    fn from(pieces: Vec<Bytes>) -> Self {
        Self { pieces, ..Self::default() }
    }
}

/// What comes back for a request.
pub(super) enum Answer {
    /// It is there.
    Ready(Reply),
    /// The request has its place in the order of things, so that the next one may be served; the answer comes later.
    Later(BoxFuture<'static, Result<Reply, Hangup>>),
    /// The client wants none.
    Quiet {
        /// Resolves when nothing of what was sent is needed any more.
        settled: BoxFuture<'static, ()>,
        /// Something was not taken, which only the end of the connection can tell.
        end: Option<Hangup>,
    },
}

/// How serving a request ends.
pub(super) type Served = Result<Answer, Hangup>;

/// Why the broker closes a connection: where Kafka has no answer for what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hangup {
    /// No API of that key, or not in that version.
    Unsupported,
    /// Bytes that are not the request that they claim to be.
    Malformed,
    /// A frame above the limits, or of a length that none has.
    FrameSize,
    /// A client that speaks TLS, where nothing is encrypted.
    Tls,
    /// A request that does not arrive, or an answer that is not read.
    Slow,
    /// Nothing came for a long time.
    Idle,
    /// Nothing came at all, or not before others wanted its place.
    Stranger,
    /// Records that were sent without asking for an answer were not written; only this tells.
    Unwritten,
    /// An answer that cannot be said: a defect of ours.
    Unsayable,
}

impl Hangup {
    /// As metrics name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unsupported => "unsupported",
            Self::Malformed => "malformed",
            Self::FrameSize => "frame_size",
            Self::Tls => "tls",
            Self::Slow => "slow",
            Self::Idle => "idle",
            Self::Stranger => "stranger",
            Self::Unwritten => "unwritten",
            Self::Unsayable => "unsayable",
        }
    }
}

impl From<Malformed> for Hangup {
    fn from(error: Malformed) -> Self {
        tracing::debug!(%error, "a Kafka client sent what is no request");
        Self::Malformed
    }
}
