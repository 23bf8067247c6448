//! Metrics of the Kafka face. `api` has one value per row of the table of APIs, `error` one per code of [`Code`](super::error::Code),
//! `why` those of [`Hangup`](super::call::Hangup).

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct Connected;

impl Connected {
    /// A connection was accepted.
    pub(super) fn accepted() -> Self {
        counter!("geminga_kafka_connections_total").increment(1);
        gauge!("geminga_kafka_connections").increment(1.0);
        Self
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!("geminga_kafka_connections").decrement(1.0);
    }
}

/// A connection was refused, since there are too many.
pub(super) fn count_refused() {
    counter!("geminga_kafka_connections_refused_total").increment(1);
}

/// A request was answered.
pub(super) fn observe_request(api: &'static str, took: Duration) {
    counter!("geminga_kafka_requests_total", "api" => api).increment(1);
    histogram!("geminga_kafka_request_seconds", "api" => api).record(took.as_secs_f64());
}

/// An answer was made that says this error, or `NONE`.
pub(super) fn count_reply(api: &'static str, error: &'static str) {
    counter!("geminga_kafka_replies_total", "api" => api, "error" => error).increment(1);
}

/// A connection was closed by this broker.
pub(super) fn count_hangup(why: &'static str) {
    counter!("geminga_kafka_hangups_total", "why" => why).increment(1);
}
