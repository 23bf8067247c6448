//! Answers the probes of other brokers, on a stream that stays open until this one closes its connections.

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use geminga_proto::internal::probes_server::{self, ProbesServer};
use geminga_proto::internal::{ProbeRequest, ProbeResponse};
use geminga_runtime::Tasks;
use tonic::{Request, Response, Status, Streaming};

use crate::ownership::probes::Probes;

/// Most bytes of a probe: what it sees of some other brokers.
const MAX_PROBE_BYTES: usize = 64 * 1024;

/// Serves this broker's side of probes.
#[derive(Debug)]
pub(crate) struct ProbeService {
    probes: Probes,
    /// Cancelled when connections are to be closed.
    stop: Tasks,
}

impl ProbeService {
    /// The service with its limit.
    pub(crate) fn server(probes: Probes, stop: &Tasks) -> ProbesServer<Self> {
        ProbesServer::new(Self { probes, stop: stop.clone() })
            .max_decoding_message_size(MAX_PROBE_BYTES)
    }
}

#[tonic::async_trait]
impl probes_server::Probes for ProbeService {
    type ProbeStream = BoxStream<'static, Result<ProbeResponse, Status>>;

    async fn probe(
        &self,
        request: Request<Streaming<ProbeRequest>>,
    ) -> Result<Response<Self::ProbeStream>, Status> {
        let probes = self.probes.clone();
        let answers = request.into_inner().map_ok(move |probe| probes.answer(probe));
        Ok(Response::new(answers.take_until(self.stop.cancelled()).boxed()))
    }
}
