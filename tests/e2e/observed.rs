//! What an operator sees of requests and of groups: lines of logs, traces and metrics, of real processes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, mpsc};

use geminga_harness::{Cluster, Node, Running, http, wait};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// A collector that keeps what it gets, for as long as the test runs.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Seen>>>);

/// A span.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    trace: Vec<u8>,
    request: String,
    instance: String,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for process in request.into_inner().resource_spans {
            let Resource { attributes, .. } = process.resource.unwrap_or_default();
            let instance = text(&attributes, "service.instance.id");
            let spans = process.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().expect("no panic").extend(spans.map(|span| Seen {
                request: text(&span.attributes, "request"),
                name: span.name,
                trace: span.trace_id,
                instance: instance.clone(),
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|found| found.value.as_ref()?.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

impl Collector {
    fn start() -> (Self, SocketAddr) {
        let (collector, (told, address)) = (Self::default(), mpsc::sync_channel(1));
        let service = TraceServiceServer::new(collector.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told.send(listener.local_addr().expect("its address")).expect("the test waits");
                let server = tonic::transport::Server::builder().add_service(service);
                server.serve_with_incoming(TcpIncoming::from(listener)).await.expect("served");
            });
        });
        (collector, address.recv().expect("it starts"))
    }

    fn named(&self, name: &str) -> Vec<Seen> {
        let all = self.0.lock().expect("no panic");
        all.iter().filter(|span| span.name == name).cloned().collect()
    }
}

#[test]
fn a_request_is_the_same_one_in_traces_and_logs_of_brokers_and_bookies() {
    let (collector, address) = Collector::start();
    let endpoint = format!("--otlp-endpoint=http://{address}");
    let all = [endpoint.as_str(), "--otlp-sampling=1", "--slow-request-log=1ns"];
    let cluster = Cluster::start_with(3, 1, &all, &all);
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"hello\n").ok();

    // The stream's span ends with the stream, and an entry's at each of its three bookies. Its trace is its own, so that a
    // share of a long stream can be traced.
    let (stream, entries) = wait::until("the spans of a produced record", || {
        let stream = collector.named("Stream/Produce").pop()?;
        let mut entries = collector.named("add");
        entries.retain(|add| add.request.starts_with(&format!("{}.", stream.request)));
        (entries.len() >= 3).then_some((stream, entries))
    });
    assert!(entries.iter().all(|add| add.trace == entries[0].trace), "{entries:?}");
    assert_ne!(entries[0].trace, stream.trace);
    let mut bookies: Vec<_> = entries.iter().map(|add| add.instance.as_str()).collect();
    bookies.sort_unstable();
    bookies.dedup();
    assert_eq!(bookies.len(), 3, "{entries:?}");
    let put = collector.named("Topics/CreateTopic").pop().expect("sent before");
    assert_ne!((&put.trace, &put.request), (&stream.trace, &stream.request));

    let line = |log: &str, words: &[&str]| -> Option<()> {
        log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    };
    let id = format!("request={}", stream.request);
    let append = cluster.brokers[0].process.log();
    line(&append, &["slow append", &id]).unwrap_or_else(|| panic!("{id} is not in {append}"));
    let told = cluster
        .bookies
        .iter()
        .filter(|bookie| line(&bookie.process.log(), &["slow request of a bookie", &id]).is_some());
    assert_eq!(told.count(), 3);
}

/// Whatever protocol a client speaks.
#[test]
fn a_kafka_request_is_the_same_one_at_bookies() {
    let (collector, address) = Collector::start();
    let endpoint = format!("--otlp-endpoint=http://{address}");
    let all = [endpoint.as_str(), "--otlp-sampling=1", "--slow-request-log=1ns"];
    let cluster = Cluster::start_with(3, 1, &all, &all);
    cluster.client(0).run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let bootstrap = cluster.brokers[0].kafka.as_deref().expect("it serves Kafka clients");
    let mut kcat =
        Running::program("kcat", &["-b", bootstrap, "-P", "-t", "t", "-p", "0"], cluster.dir());
    kcat.feed(b"hello\n");
    assert_eq!(kcat.finish().code, Some(0));
    let request = wait::until("the spans of a produced record", || {
        let produce = collector.named("Produce").pop()?;
        let adds = collector.named("add");
        let adds = adds.iter().filter(|add| add.request == produce.request).count();
        (adds >= 3).then_some(produce.request)
    });
    let id = format!("request={request}");
    let says = |node: &Node, what: &str| {
        node.process.log().lines().any(|line| line.contains(what) && line.contains(&id))
    };
    assert!(says(&cluster.brokers[0], "slow"), "{id}");
    let told = cluster.bookies.iter().filter(|bookie| says(bookie, "slow request of a bookie"));
    assert_eq!(told.count(), 3);
}

/// What a page of metrics says of a group.
fn lag(cluster: &Cluster, group: &str) -> Option<u64> {
    let series = format!("geminga_group_lag_records{{group=\"{group}\",topic=\"t\"}} ");
    cluster.brokers.iter().find_map(|broker| {
        let (_, page) = http::get(&broker.http, "/metrics")?;
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok())
    })
}

#[test]
fn the_lag_of_a_group_is_a_metric_for_as_long_as_the_group_is_there() {
    let cluster = Cluster::start(3, 2);
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    client.run_with(&["produce", "t"], b"1\n2\n3\n").ok();
    let read = ["consume", "t", "--group", "g", "--from-beginning", "--until-end"];
    client.run(&read).ok();
    wait::until("a group that has read all to lag by nothing", || {
        (lag(&cluster, "g") == Some(0)).then_some(())
    });
    client.run_with(&["produce", "t"], b"4\n5\n6\n7\n8\n").ok();
    wait::until("what it has not read to be its lag", || {
        (lag(&cluster, "g") == Some(5)).then_some(())
    });
    client.run(&["group", "delete", "g"]).ok();
    wait::until("its series to go with it", || lag(&cluster, "g").is_none().then_some(()));
}
