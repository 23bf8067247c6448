//! The production connection: gRPC with the settings that measured best (large frames, wide windows, no Nagle).

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_proto::bookie::{QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::caps;
use geminga_proto::ids::BookieId;
use geminga_proto::internal as wire;
use geminga_proto::internal::bookie_client::BookieClient;
use geminga_proto::messages::sent::{self, Sent};
use geminga_runtime::requests::{self, RequestId};
use geminga_runtime::{Seldom, Tasks};
use geminga_tls::{Dial, status_cause};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::lane::{Lane, Limits, Wire};
use crate::connection::{BookieConnection, ConnectionLost};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Most bytes of entries in one message; a single larger entry goes alone.
const MESSAGE_BYTES: usize = 1024 * 1024;

/// A request, and what a client asked that it is made for.
struct Caused<R> {
    request: R,
    cause: Option<RequestId>,
}

impl<R> Caused<R> {
    /// For the request that is served now.
    fn now(request: R) -> Self {
        Self { request, cause: requests::current() }
    }
}

struct Writes;

impl Wire for Writes {
    type Request = Caused<WriteRequest>;
    type Reply = WriteReply;
    type Outgoing = wire::WriteRequests;
    type Incoming = wire::WriteReplies;

    fn size(request: &Caused<WriteRequest>) -> usize {
        request.request.payload_bytes()
    }

    fn pack(requests: Vec<(u64, Caused<WriteRequest>)>) -> wire::WriteRequests {
        let wired = |(id, Caused { request, cause }): (u64, Caused<WriteRequest>)| {
            let mut request = request.to_wire(id);
            request.cause = cause.map(|cause| cause.to_string()).unwrap_or_default();
            request
        };
        wire::WriteRequests { requests: requests.into_iter().map(wired).collect() }
    }

    fn unpack(message: wire::WriteReplies) -> Vec<(u64, WriteReply)> {
        message.replies.into_iter().map(WriteReply::from_wire).collect()
    }
}

struct Queries;

impl Wire for Queries {
    type Request = Caused<QueryRequest>;
    type Reply = QueryReply;
    type Outgoing = wire::QueryRequests;
    type Incoming = wire::QueryReplies;

    fn size(_: &Caused<QueryRequest>) -> usize {
        0
    }

    fn pack(requests: Vec<(u64, Caused<QueryRequest>)>) -> wire::QueryRequests {
        let wired = |(id, Caused { request, cause }): (u64, Caused<QueryRequest>)| {
            let mut request = request.to_wire(id);
            request.cause = cause.map(|cause| cause.to_string()).unwrap_or_default();
            request
        };
        wire::QueryRequests { requests: requests.into_iter().map(wired).collect() }
    }

    fn unpack(message: wire::QueryReplies) -> Vec<(u64, QueryReply)> {
        message.replies.into_iter().map(QueryReply::from_wire).collect()
    }
}

/// A gRPC connection to one bookie at one address.
pub(crate) struct GrpcConnection {
    peer: Peer,
    writes: Lane<Writes>,
    queries: Lane<Queries>,
}

impl fmt::Debug for GrpcConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GrpcConnection({} at {})", self.peer.bookie, self.peer.address)
    }
}

/// Which bookie is where, and who was lately said not to be reached.
#[derive(Clone)]
struct Peer {
    bookie: BookieId,
    address: String,
    told: Arc<Seldom<BookieId>>,
}

impl Peer {
    /// Says why there is no stream to it.
    fn opened<S>(&self, opened: Result<S, tonic::Status>) -> Result<S, tonic::Status> {
        if let Err(status) = &opened
            && self.told.is_due(&self.bookie)
        {
            let (bookie, address, why) = (&self.bookie, &self.address, status_cause(status));
            tracing::warn!(%bookie, address, why, "bookie cannot be reached");
        }
        opened
    }

    /// What a call ends with that gets no answer.
    fn lost(&self, broke: &OnceLock<String>) -> ConnectionLost {
        let address = &self.address;
        let why = match broke.get() {
            Some(why) => format!("the connection to {address} broke: {why}"),
            None => format!("the connection to {address} broke"),
        };
        ConnectionLost { bookie: self.bookie.clone(), why }
    }
}

fn client(dial: &Dial, address: &str) -> Result<BookieClient<Sent<Channel>>, tonic::Status> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| tonic::Status::invalid_argument(format!("bookie address {address}: {e}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_frame_size(caps::H2_MAX_FRAME_BYTES)
        .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES);
    Ok(BookieClient::new(Sent::new(dial.lazily(&endpoint)))
        .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
        .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES))
}

impl GrpcConnection {
    /// Starts both lanes, in each of which at most `lane_bytes` wait; they connect in the background, and calls wait for
    /// them. `told`: of whom it was lately said that they cannot be reached.
    pub(crate) fn start(
        tasks: &Tasks,
        bookie: BookieId,
        address: String,
        lane_bytes: usize,
        dial: Dial,
        told: Arc<Seldom<BookieId>>,
    ) -> Self {
        let limits = Limits { message: MESSAGE_BYTES, queue: lane_bytes };
        let peer = Peer { bookie, address, told };
        let (to, by) = (peer.clone(), dial.clone());
        let writes = Lane::start(tasks, "bookie writes", limits, move |requests| {
            async move {
                let mut client = client(&by, &to.address)?;
                let opened = client.write(sent::request(ReceiverStream::new(requests))).await;
                Ok(to.opened(opened)?.into_inner())
            }
            .boxed()
        });
        let to = peer.clone();
        let queries = Lane::start(tasks, "bookie queries", limits, move |requests| {
            async move {
                let mut client = client(&dial, &to.address)?;
                let opened = client.query(ReceiverStream::new(requests)).await;
                Ok(to.opened(opened)?.into_inner())
            }
            .boxed()
        });
        Self { peer, writes, queries }
    }

    /// Bytes of entries that wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        self.writes.waiting()
    }

    /// Whether it still works, and for this address.
    pub(crate) fn serves(&self, address: &str) -> bool {
        self.peer.address == address && !self.writes.is_closed() && !self.queries.is_closed()
    }
}

impl BookieConnection for GrpcConnection {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        let (peer, broke) = (self.peer.clone(), self.writes.broke());
        self.writes
            .call(Caused::now(request))
            .map(move |reply| reply.ok_or_else(|| peer.lost(&broke)))
            .boxed()
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let (peer, broke) = (self.peer.clone(), self.queries.broke());
        self.queries
            .call(Caused::now(request))
            .map(move |reply| reply.ok_or_else(|| peer.lost(&broke)))
            .boxed()
    }
}
