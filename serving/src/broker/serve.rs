//! The listener: one port for all services. Connections are counted, bounded, and told to keep alive, so that a client that
//! vanished is noticed.

use std::sync::Arc;
use std::time::Duration;

use geminga_proto::v1::cluster_server::ClusterServer;
use geminga_proto::v1::groups_server::GroupsServer;
use geminga_proto::v1::stream_server::StreamServer;
use geminga_proto::v1::topics_server::TopicsServer;
use geminga_proto::{FILE_DESCRIPTOR_SET, caps};
use geminga_runtime::Tasks;
use geminga_tls::{Incoming, Security, component_only};
use tokio::net::TcpListener;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use crate::groups::coordinator::Shards;
use crate::ownership::probes::Probes;
use crate::partition::Partitions;
use crate::rpc::cluster::ClusterService;
use crate::rpc::context::Context;
use crate::rpc::groups::GroupsService;
use crate::rpc::measured::Measure;
use crate::rpc::peer::PeerService;
use crate::rpc::probe::ProbeService;
use crate::rpc::stream::StreamService;
use crate::rpc::topics::TopicsService;

/// Pings on a connection that is silent, and how long their answer may take. A consumer's stream ends with its connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Most streams of one connection: other brokers forward all their clients' streams over one.
const MAX_STREAMS: u32 = 10_000;
/// How long connections may take to end their streams when the broker stops.
const GRACE: Duration = Duration::from_secs(2);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is served.
pub(super) struct Services {
    pub(super) ctx: Arc<Context>,
    pub(super) shards: Shards,
    pub(super) partitions: Partitions,
    pub(super) probes: Probes,
    /// Cancelled when connections are to be closed.
    pub(super) stop: Tasks,
}

impl Services {
    /// Serves until told to stop. What brokers ask of each other is answered to components only.
    pub(super) async fn serve(
        self,
        listener: TcpListener,
        security: Security,
    ) -> Result<(), BoxError> {
        let Self { ctx, shards, partitions, probes, stop } = self;
        let (health, health_server) = tonic_health::server::health_reporter();
        set_serving(&health).await;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let topology = ctx.router.topology().clone();
        let source = Arc::clone(&ctx.source);
        let measure = Measure(ctx.requests.clone());
        let router = Server::builder()
            .layer(measure)
            .max_frame_size(caps::H2_MAX_FRAME_BYTES)
            .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            // A reader that stops waiting resets its streams; other brokers do so many at a time.
            .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(health_server)
            .add_service(StreamService::server(Arc::clone(&ctx)))
            .add_service(TopicsService::server(Arc::clone(&ctx)))
            .add_service(ClusterService::server(Arc::clone(&ctx)))
            .add_service(GroupsService::server(ctx.groups.clone(), source, topology))
            .add_service(InterceptedService::new(
                PeerService::server(shards, Some(partitions)),
                component_only,
            ))
            .add_service(InterceptedService::new(
                ProbeService::server(probes, &stop),
                component_only,
            ));
        let intake = ctx.intake.cancelled();
        let unhealthy = async move {
            intake.await;
            set_not_serving(&health).await;
            std::future::pending::<()>().await;
        };
        let incoming = Incoming::new(listener, security, caps::MAX_CONNECTIONS, &stop).of_http2();
        let serve = router.serve_with_incoming_shutdown(incoming, stop.cancelled());
        let ended = async {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            served = serve => Ok(served?),
            // Clients that keep their streams open do not keep the broker.
            () = ended => Ok(()),
            () = unhealthy => Ok(()),
        }
    }
}

async fn set_serving(health: &HealthReporter) {
    health.set_serving::<StreamServer<StreamService>>().await;
    health.set_serving::<TopicsServer<TopicsService>>().await;
    health.set_serving::<GroupsServer<GroupsService>>().await;
    health.set_serving::<ClusterServer<ClusterService>>().await;
}

/// For the whole server, and for each service, since clients watch either.
async fn set_not_serving(health: &HealthReporter) {
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    health.set_not_serving::<StreamServer<StreamService>>().await;
    health.set_not_serving::<TopicsServer<TopicsService>>().await;
    health.set_not_serving::<GroupsServer<GroupsService>>().await;
    health.set_not_serving::<ClusterServer<ClusterService>>().await;
}
