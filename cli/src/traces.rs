//! Traces of requests, sent by OTLP to a collector. Whoever serves a request makes a span of it, if it is one that is traced; here
//! spans become what the collector takes.
//!
//! * A queue of spans is sent by a thread of its own. What does not fit in it, or cannot be sent, is dropped: a collector that is
//!   slow or away costs traces and nothing else.
//! * All spans of a request, in whichever process, belong to one trace: its id follows from the request's.

use std::time::Duration;

use geminga_runtime::requests;
use geminga_tls::Dial;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider,
};
use tonic::transport::Endpoint;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::exit::Failure;

/// Most spans that wait to be sent.
const QUEUE: usize = 4_096;
/// Most spans that are sent at one time.
const BATCH: usize = 512;
/// Spans wait no longer than this for others.
const DELAY: Duration = Duration::from_secs(2);
/// How long the collector may take for a batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server that stops waits for its last spans to be sent.
const LAST: Duration = Duration::from_secs(1);

/// Who says that it sends traces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service<'a> {
    /// What it is.
    pub(crate) name: &'static str,
    /// Which one: where it is reached.
    pub(crate) instance: &'a str,
}

/// What sends traces, if anything does.
#[derive(Debug)]
pub(crate) struct Traces(Option<SdkTracerProvider>);

impl Traces {
    /// None are made.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Sends them to the collector at `endpoint`, `http://HOST:PORT` however it is dialled, and the layer that spans come by. Must run
    /// inside the runtime.
    ///
    /// # Errors
    /// For an address that is none.
    pub(crate) fn to<S>(
        endpoint: &str,
        dial: &Dial,
        service: &Service<'_>,
    ) -> Result<(Self, impl Layer<S> + Send + Sync + use<S>), Failure>
    where
        S: tracing::Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let wrong = |error: &dyn std::fmt::Display| {
            Failure::usage(format!("--otlp-endpoint: {endpoint}: {error}"))
        };
        let to = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| wrong(&error))?;
        let channel = dial.lazily(&to.connect_timeout(PATIENCE).timeout(PATIENCE));
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(channel)
            .with_timeout(PATIENCE)
            .build()
            .map_err(|error| wrong(&error))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let resource = Resource::builder_empty().with_service_name(service.name).with_attributes([
            KeyValue::new("service.instance.id", service.instance.to_owned()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ]);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(
                BatchSpanProcessor::builder(exporter).with_batch_config(batches).build(),
            )
            // Spans are made of requests that are traced only.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.build())
            .build();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("geminga"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target() == requests::TARGET
            }));
        Ok((Self(Some(provider)), spans))
    }

    /// Sends what is left, for a moment at most.
    pub(crate) async fn end(self) {
        let Some(provider) = self.0 else { return };
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(LAST));
        if let Ok(Err(error)) = ended.await {
            tracing::debug!(%error, "the last traces were not sent");
        }
    }
}

/// Puts a span into the trace of its request.
pub(crate) fn adopt(span: &Span, trace: u128) {
    let request = SpanContext::new(
        TraceId::from_bytes(trace.to_be_bytes()),
        // Of no span that is sent: the request itself, as its client sees it.
        SpanId::from_bytes(((trace as u64) | 1).to_be_bytes()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    let context = Context::new().with_remote_span_context(request);
    // Refused of spans that have begun, which this one has not.
    let _adopted = span.set_parent(context);
}

#[cfg(test)]
mod tests;
