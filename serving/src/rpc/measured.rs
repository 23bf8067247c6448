//! Around all gRPC services: every call gets an id, is counted by its method and how it ended, and timed. A call of a client that
//! sends an id in `x-request-id` keeps that one; every answer says it.
//!
//! * A call has ended when its trailers have been handed over, or when whoever asked has gone.
//! * Streams are counted when they end, and neither timed nor slow: they last for as long as their client wants.
//! * Methods are those of the table; whatever else somebody asks for is one of `other`.

mod methods;

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_runtime::requests::{self, RequestId, Requests};
use geminga_tls::{Caller, Peer};
use http_body::{Body, Frame, SizeHint};
use metrics::{counter, histogram};
use tokio::time::Instant;
use tonic::codegen::http::header::HeaderMap;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use self::methods::{Kind, Method};
use super::outgoing::{self, Taker};

/// Puts it around services.
#[derive(Debug, Clone)]
pub(crate) struct Measure(pub(crate) Requests);

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, service: S) -> Measured<S> {
        Measured { service, requests: self.0.clone() }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Measured<S> {
    service: S,
    requests: Requests,
}

impl<S, B, R> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<Counted<R>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Goes with this future where whoever asked gives up before there is an answer.
        let mut call = Call::begin(&self.requests, &request);
        // One that was made here says nothing to anybody else where nobody is told of requests.
        let id = (call.given || self.requests.are_told()).then(|| call.id.clone());
        let span = call.span.clone();
        let serving = requests::scope(id, self.service.call(request)).instrument(span);
        async move {
            let mut response = serving.await?;
            call.answered(response.headers_mut());
            let stream = outgoing::Body::of(&mut response);
            Ok(response.map(|body| Counted { body, call, stream }))
        }
        .boxed()
    }
}

/// A call under way, which ends where this is dropped.
#[derive(Debug)]
struct Call {
    requests: Requests,
    id: RequestId,
    /// By whoever asked.
    given: bool,
    method: &'static Method,
    peer: Option<Peer>,
    begun: Instant,
    /// How long until its answer began, if it did.
    served: Option<Duration>,
    /// Bytes of the answer.
    bytes: usize,
    /// What it ended with, where that is known by now.
    status: Option<&'static str>,
    /// None but of those that are traced.
    span: Span,
}

impl Call {
    fn begin<B>(requests: &Requests, request: &Request<B>) -> Self {
        let given = request.headers().get(requests::HEADER).and_then(|id| id.to_str().ok());
        let given = given.and_then(RequestId::parse);
        let (is_given, id) = (given.is_some(), given.unwrap_or_else(|| requests.make()));
        let method = methods::find(request.uri().path());
        let span = requests.span(&id, || {
            tracing::info_span!(
                target: requests::TARGET,
                "grpc",
                otel.name = method.name,
                otel.kind = "server",
                request = %id,
                status = tracing::field::Empty,
            )
        });
        Self {
            requests: requests.clone(),
            id,
            given: is_given,
            method,
            peer: request.extensions().get::<Caller>().map(|caller| caller.peer),
            begun: Instant::now(),
            served: None,
            bytes: 0,
            status: None,
            span,
        }
    }

    fn answered(&mut self, headers: &mut HeaderMap) {
        self.served = Some(self.begun.elapsed());
        self.status = status_in(headers);
        if let Ok(id) = HeaderValue::try_from(self.id.to_string()) {
            headers.insert(requests::HEADER, id);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (method, took) = (self.method, self.begun.elapsed());
        let status = self.status.unwrap_or("cancelled");
        self.span.record("status", status);
        counter!("geminga_grpc_requests_total", "method" => method.name, "status" => status)
            .increment(1);
        if method.kind == Kind::Stream {
            return;
        }
        let seconds = took.as_secs_f64();
        histogram!("geminga_grpc_request_seconds", "method" => method.name).record(seconds);
        if method.kind == Kind::Unary
            && let Some(left_out) = self.requests.slow(took)
        {
            let peer = self.peer.and_then(|peer| peer.address);
            let served = self.served.unwrap_or(took);
            tracing::warn!(
                request = %self.id,
                method = method.name,
                peer = peer.map(tracing::field::display),
                status,
                reply_bytes = self.bytes,
                took_ms = took.as_millis(),
                serve_ms = served.as_millis(),
                send_ms = took.saturating_sub(served).as_millis(),
                left_out,
                "slow request"
            );
        }
    }
}

fn status_in(headers: &HeaderMap) -> Option<&'static str> {
    Some(methods::status(headers.get("grpc-status")?.as_bytes()))
}

/// An answer on its way, whose end ends the call.
#[derive(Debug)]
pub(crate) struct Counted<R> {
    body: R,
    call: Call,
    /// What is written instead of the body.
    stream: Option<Taker>,
}

impl<R: Body<Data = Bytes> + Unpin> Body for Counted<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, R::Error>>> {
        let frame = match &mut self.stream {
            Some(stream) => ready!(stream.poll_frame(cx)).map(Ok),
            None => ready!(Pin::new(&mut self.body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            let call = &mut self.call;
            call.bytes += frame.data_ref().map_or(0, Buf::remaining);
            call.status = call.status.or_else(|| status_in(frame.trailers_ref()?));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().map_or_else(|| self.body.is_end_stream(), Taker::is_over)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stream {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use geminga_runtime::SeededRandom;
    use geminga_runtime::lines::{Lines, field};
    use geminga_runtime::requests::RequestsConfig;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// What never answers.
    #[derive(Debug, Clone)]
    struct Hangs;

    impl Service<Request<()>> for Hangs {
        type Response = Response<String>;
        type Error = ();
        type Future = futures::future::Pending<Result<Response<String>, ()>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<()>) -> Self::Future {
            futures::future::pending()
        }
    }

    fn request() -> Request<()> {
        Request::builder().uri("/geminga.v1.Topics/ListTopics").body(()).unwrap()
    }

    /// Its deadline has passed, or its client took it back: of all calls these are the slowest.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_before_its_answer_is_counted_timed_and_told() {
        let metrics = PrometheusBuilder::new().build_recorder();
        let _counting = ::metrics::set_default_local_recorder(&metrics);
        let slow = Duration::from_secs(1);
        let config = RequestsConfig { slow, ..RequestsConfig::default() };
        let measure = Measure(Requests::new(config, &SeededRandom::new(1)));
        let lines = Lines::capture();
        let serving = measure.layer(Hangs).call(request());
        assert!(tokio::time::timeout(2 * slow, serving).await.is_err());
        let page = metrics.handle().render();
        let of = "{method=\"Topics/ListTopics\",status=\"cancelled\"} 1";
        assert!(page.contains(&format!("geminga_grpc_requests_total{of}")), "{page}");
        let of = "{method=\"Topics/ListTopics\"} 1";
        assert!(page.contains(&format!("geminga_grpc_request_seconds_count{of}")), "{page}");
        let [line] = &lines.with(&["slow request"])[..] else { panic!("{lines:?}") };
        assert_eq!((field(line, "serve_ms"), field(line, "send_ms")), (Some("2000"), Some("0")));
    }
}
