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

use bytes::Buf;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_runtime::requests::{self, RequestId, Requests};
use geminga_tls::Peer;
use http_body::{Body, Frame, SizeHint};
use metrics::{counter, histogram};
use tokio::time::Instant;
use tonic::codegen::http::header::HeaderMap;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use self::methods::{Kind, Method};

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
        let mut call = Call::begin(&self.requests, &request);
        let (id, span) = (call.id.clone(), call.span.clone());
        let serving = requests::scope(id, self.service.call(request)).instrument(span);
        async move {
            let mut response = serving.await?;
            call.answered(response.headers_mut());
            Ok(response.map(|body| Counted { body, call: Some(call) }))
        }
        .boxed()
    }
}

/// A call under way.
#[derive(Debug)]
struct Call {
    requests: Requests,
    id: RequestId,
    method: &'static Method,
    peer: Option<Peer>,
    begun: Instant,
    /// How long until its answer began.
    served: Duration,
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
        let id = given.and_then(RequestId::parse).unwrap_or_else(|| requests.make());
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
            method,
            peer: request.extensions().get::<Peer>().copied(),
            begun: Instant::now(),
            served: Duration::ZERO,
            bytes: 0,
            status: None,
            span,
        }
    }

    fn answered(&mut self, headers: &mut HeaderMap) {
        self.served = self.begun.elapsed();
        self.status = status_in(headers);
        if let Ok(id) = HeaderValue::try_from(self.id.to_string()) {
            headers.insert(requests::HEADER, id);
        }
    }

    fn end(self) {
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
            tracing::warn!(
                request = %self.id,
                method = method.name,
                peer = peer.map(tracing::field::display),
                status,
                reply_bytes = self.bytes,
                took_ms = took.as_millis(),
                serve_ms = self.served.as_millis(),
                send_ms = took.saturating_sub(self.served).as_millis(),
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
    call: Option<Call>,
}

impl<R: Body + Unpin> Body for Counted<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(call)) = (&frame, &mut self.call) {
            call.bytes += frame.data_ref().map_or(0, Buf::remaining);
            call.status = call.status.or_else(|| status_in(frame.trailers_ref()?));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<R> Drop for Counted<R> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end();
        }
    }
}
