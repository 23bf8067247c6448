//! `Stream`: produce, ids of producers, fetch and consume, each in a file of its own.

use std::fmt;
use std::sync::Arc;

use futures::stream::Empty;
use geminga_proto::caps;
use geminga_proto::messages::{Messages, Uncopied};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::stream_server::{Stream, StreamServer};
use tonic::{Request, Response, Status, Streaming};

use super::context::Context;
use super::outgoing::Client;
use super::{consume, fetch, init_producer, produce};

/// The method that megabytes come in by.
const PRODUCE: &str = "/geminga.v1.Stream/Produce";

/// The service.
pub(crate) struct StreamService {
    ctx: Arc<Context>,
}

impl fmt::Debug for StreamService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamService").finish_non_exhaustive()
    }
}

impl StreamService {
    pub(crate) fn server(ctx: Arc<Context>) -> Uncopied<StreamServer<Self>> {
        let service = StreamServer::new(Self { ctx })
            .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
            .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
        Uncopied::new(service, PRODUCE)
    }

    fn check_intake(&self) -> Result<(), ApiError> {
        if self.ctx.intake.is_cancelled() {
            let why = "the broker is shutting down: ask another one";
            return Err(ApiError::new(Reason::ShuttingDown, why));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Stream for StreamService {
    type ProduceStream = produce::Answers;
    type FetchStream = Empty<Result<v1::FetchResponse, Status>>;
    type ConsumeStream = Empty<Result<v1::ConsumeResponse, Status>>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        self.check_intake()?;
        Ok(Response::new(produce::produce(
            Arc::clone(&self.ctx),
            Messages::of(request, caps::MAX_CLIENT_MESSAGE_BYTES),
        )))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        self.check_intake()?;
        let answer = init_producer::init(&self.ctx.producer_ids, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        self.check_intake()?;
        let asked = request.get_ref();
        let is_hop = asked.forwarded
            && asked.direct
            && asked.once
            && asked.partitions.len() == 1
            && asked.format() == v1::Format::Batches;
        let client = Client::of(&request, &self.ctx.streams, is_hop);
        let answers = fetch::fetch(Arc::clone(&self.ctx), request.into_inner(), client).await?;
        Ok(answers.into_response())
    }

    async fn consume(
        &self,
        request: Request<Streaming<v1::ConsumeRequest>>,
    ) -> Result<Response<Self::ConsumeStream>, Status> {
        self.check_intake()?;
        let context = consume::ConsumeContext {
            client: Client::of(&request, &self.ctx.streams, false),
            topology: self.ctx.router.topology().clone(),
            groups: self.ctx.groups.clone(),
            source: Arc::clone(&self.ctx.source),
            quotas: self.ctx.quotas.clone(),
            random: Arc::clone(&self.ctx.random),
            tasks: self.ctx.intake.clone(),
        };
        Ok(consume::consume(context, request.into_inner()).into_response())
    }
}
