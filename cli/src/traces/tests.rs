//! Spans on their way to a collector: one in this process that keeps what it gets, one that is not there, and one that never
//! answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use geminga_harness::Authority;
use geminga_runtime::requests::{RequestId, Requests, RequestsConfig};
use geminga_runtime::{SystemRandom, Tasks};
use geminga_tls::{ClientAuth, Credentials, Files, Incoming, Protocol, Security};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use tokio::net::TcpListener;
use tonic::{Request, Response, Status};
use tracing_subscriber::layer::SubscriberExt;

use super::*;

const SERVICE: Service<'_> = Service { name: "geminga-test", instance: "here" };

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start(security: Security, tasks: &Tasks) -> (Self, SocketAddr) {
        let (collector, tcp) = (Self::default(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = tcp.local_addr().unwrap();
        let incoming = Incoming::new(tcp, security, 8, tasks).of_http2();
        let service = TraceServiceServer::new(collector.clone());
        let (serve, stop) =
            (tonic::transport::Server::builder().add_service(service), tasks.cancelled());
        tasks.spawn("collector", async move {
            serve.serve_with_incoming_shutdown(incoming, stop).await.unwrap();
        });
        (collector, address)
    }

    fn spans(&self) -> Vec<Sent> {
        let requests = self.0.lock().unwrap();
        let scopes = requests.iter().flat_map(|r| &r.resource_spans).flat_map(|r| &r.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn all_traced() -> Requests {
    let config = RequestsConfig { traced: 1.0, adopt: Some(adopt), ..RequestsConfig::default() };
    Requests::new(config, &SystemRandom)
}

/// As brokers and bookies make them.
fn span(requests: &Requests, id: &RequestId, name: &'static str) -> Span {
    requests.span(
        id,
        || tracing::info_span!(target: requests::TARGET, "some", otel.name = name, request = %id),
    )
}

fn text<'a>(span: &'a Sent, key: &str) -> Option<&'a str> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_spans_of_a_request_arrive_in_one_trace_and_nothing_else_does() {
    let tasks = Tasks::new("test");
    let (collector, address) = Collector::start(Security::plain("collector"), &tasks).await;
    let (traces, layer) = Traces::to(&format!("http://{address}"), &Dial::Plain, &SERVICE).unwrap();
    let (requests, elsewhere) = (all_traced(), all_traced());
    let (first, second) = (requests.make(), RequestId::parse("order-17").unwrap());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        drop(span(&requests, &first, "Produce"));
        // At a bookie, which knows the id only.
        let there = RequestId::parse(&first.to_string()).unwrap();
        drop(span(&elsewhere, &there, "add"));
        drop(span(&requests, &second, "Topics/ListTopics"));
        let _other = tracing::info_span!("not of a request").entered();
        tracing::error!("no span at all");
    });
    traces.end().await;

    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.name.clone());
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["Produce", "Topics/ListTopics", "add"]);
    assert_eq!(text(&spans[1], "request"), Some("order-17"));
    assert_eq!(text(&spans[0], "request"), Some(first.to_string().as_str()));
    assert_eq!(spans[0].trace_id, spans[2].trace_id);
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    assert_eq!(spans[0].parent_span_id, spans[2].parent_span_id);
    let who = collector.0.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    let said: Vec<_> = who.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    for key in ["service.name", "service.instance.id", "service.version"] {
        assert!(said.contains(&key), "{said:?}");
    }
    tasks.cancel();
}

/// Many more than fit anywhere: those who make them are not held up, and the end is not either.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_hangs_holds_nobody_up() {
    // Connections are taken by the system, and nobody ever answers.
    let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [hung.local_addr().unwrap(), away] {
        let (traces, layer) =
            Traces::to(&format!("http://{address}"), &Dial::Plain, &SERVICE).unwrap();
        let (requests, begun) = (all_traced(), tokio::time::Instant::now());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            for _ in 0..10 * QUEUE {
                drop(span(&requests, &requests.make(), "Produce"));
            }
        });
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        let ended = tokio::time::timeout(PATIENCE + LAST, traces.end()).await;
        assert!(ended.is_ok(), "a server that stops waits for its collector");
    }
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_the_start() {
    assert!(
        Traces::to::<tracing_subscriber::Registry>("http://a b", &Dial::Plain, &SERVICE).is_err()
    );
}

/// Spans go to a collector that shows a certificate of an authority that was named, and to no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_known_by_its_certificate() {
    let tasks = Tasks::new("test");
    let authority = Authority::new();
    let shown = authority.issue();
    let files = Files { cert: Some(shown.cert), key: Some(shown.key), ca: Some(authority.ca()) };
    let credentials = Credentials::load(files).unwrap();
    let security = Security::tls("collector", credentials, Protocol::Grpc, ClientAuth::None);
    let (collector, address) = Collector::start(security, &tasks).await;
    for (authority, expected) in [(Authority::new(), 0), (authority, 1)] {
        let files = Files { ca: Some(authority.ca()), ..Files::default() };
        let dial = Dial::Tls(Credentials::of_client(files).unwrap());
        let (traces, layer) = Traces::to(&format!("http://{address}"), &dial, &SERVICE).unwrap();
        let requests = all_traced();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            drop(span(&requests, &requests.make(), "Produce"));
        });
        traces.end().await;
        assert_eq!(collector.spans().len(), expected);
    }
    tasks.cancel();
}
