//! The bookie's server: the two bidirectional streams of `bookie.proto`.
//!
//! * [`intake`]: what arrives on a stream, in order, within the stream's budget.
//! * [`gather`]: what leaves it, many replies in one message.

mod gather;
mod intake;

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use geminga_proto::bookie::{QueryReply, WriteReply};
use geminga_proto::caps;
use geminga_proto::internal as wire;
use geminga_proto::internal::bookie_server::{Bookie as BookieRpc, BookieServer};
use geminga_proto::messages::{Messages, Uncopied};
use geminga_runtime::Tasks;
use geminga_tls::{Incoming, Security};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::handle::BookieHandle;

/// The method that entries come in by.
const WRITE: &str = "/geminga.internal.v1.Bookie/Write";
/// Streams of one connection; a ledger client opens one on each.
const MAX_STREAMS: u32 = 16;
/// A peer that does not answer a ping for so long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Serves until `tasks` stops and the streams have ended.
///
/// # Errors
/// When the server cannot go on.
pub(crate) async fn serve(
    listener: TcpListener,
    security: Security,
    handle: BookieHandle,
    tasks: Tasks,
) -> Result<(), tonic::transport::Error> {
    let cancelled = tasks.cancelled();
    let incoming = Incoming::new(listener, security, caps::MAX_CONNECTIONS, &tasks).of_http2();
    let service = BookieServer::new(Service { handle, tasks })
        .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
        .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
    Server::builder()
        .max_frame_size(caps::H2_MAX_FRAME_BYTES)
        .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .add_service(Uncopied::new(service, WRITE))
        .serve_with_incoming_shutdown(incoming, cancelled)
        .await
}

struct Service {
    handle: BookieHandle,
    tasks: Tasks,
}

type Replies<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

#[tonic::async_trait]
impl BookieRpc for Service {
    type WriteStream = Replies<wire::WriteReplies>;
    type QueryStream = Replies<wire::QueryReplies>;

    async fn write(
        &self,
        request: Request<Streaming<wire::WriteRequests>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (replies, outgoing) = gather::queue::<WriteReply>();
        let (handle, cancelled) = (self.handle.clone(), self.tasks.cancelled());
        let requests = Messages::of(request, caps::MAX_INTERNAL_MESSAGE_BYTES);
        self.tasks
            .spawn("bookie write stream", intake::writes(requests, handle, replies, cancelled));
        Ok(Response::new(Box::pin(gather::messages(outgoing))))
    }

    async fn query(
        &self,
        request: Request<Streaming<wire::QueryRequests>>,
    ) -> Result<Response<Self::QueryStream>, Status> {
        let (replies, outgoing) = gather::queue::<QueryReply>();
        let (handle, cancelled) = (self.handle.clone(), self.tasks.cancelled());
        let requests = request.into_inner();
        self.tasks
            .spawn("bookie query stream", intake::queries(requests, handle, replies, cancelled));
        Ok(Response::new(Box::pin(gather::messages(outgoing))))
    }
}

#[cfg(test)]
mod tests;
