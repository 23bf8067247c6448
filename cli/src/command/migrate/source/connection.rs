//! One connection to a broker that speaks Kafka's protocol: one request at a time, in the newest version that both know.
//!
//! Nothing that the other end claims is believed before the bytes are there: frames and collections have limits. A call that is
//! dropped in the middle leaves the connection useless, so whoever drops one drops both.

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use geminga_tls::{Dial, Protocol, Stream};
use kafka_wire::{
    ApiVersionsRequest, KafkaRequest, OutboundFrameLimits, RequestResponsePair, encode_request,
    response_header_version_for,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long a connection, and any answer, may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer: what is asked for of records, and the largest batch that fits in here.
const MOST_BYTES: usize = 64 * 1024 * 1024;
const UNSUPPORTED_VERSION: i16 = 35;
/// What a server that speaks TLS says to a client that does not begins with this.
const TLS_ALERT: i32 = 0x1503;
const WANTS_TLS: &str = "it closed the connection: a listener that speaks TLS needs --from-tls or --from-tls-ca, and one that wants SASL cannot be used yet: give the bridge a listener without it";

/// What is wrong with the other cluster, or the way to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    /// Nobody answers, or what answers speaks something else.
    #[error("no answer from the source at {address}: {why}")]
    Unreachable {
        /// Whom.
        address: String,
        /// What the network says.
        why: String,
    },
    /// It does not speak what this needs.
    #[error(
        "the source at {address} does not serve {api} in versions {least} to {most}: Kafka 0.11 or later does"
    )]
    Version {
        /// Whom.
        address: String,
        /// Which API.
        api: &'static str,
        /// From here on.
        least: i16,
        /// To here.
        most: i16,
    },
    /// It refuses.
    #[error("the source says error {code} ({name}) to {what}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Kafka's number.
        code: i16,
        /// Kafka's name for it, where it is one of the usual ones.
        name: &'static str,
    },
}

impl SourceError {
    /// A refusal by its number.
    pub(super) fn refused(what: impl Into<String>, code: i16) -> Self {
        Self::Refused { what: what.into(), code, name: name(code) }
    }
}

/// Kafka's names of what is met here.
fn name(code: i16) -> &'static str {
    match code {
        1 => "OFFSET_OUT_OF_RANGE",
        2 => "CORRUPT_MESSAGE",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        5 => "LEADER_NOT_AVAILABLE",
        6 => "NOT_LEADER_OR_FOLLOWER",
        7 => "REQUEST_TIMED_OUT",
        14 => "COORDINATOR_LOAD_IN_PROGRESS",
        15 => "COORDINATOR_NOT_AVAILABLE",
        16 => "NOT_COORDINATOR",
        29 => "TOPIC_AUTHORIZATION_FAILED",
        30 => "GROUP_AUTHORIZATION_FAILED",
        31 => "CLUSTER_AUTHORIZATION_FAILED",
        35 => "UNSUPPORTED_VERSION",
        56 => "KAFKA_STORAGE_ERROR",
        69 => "GROUP_ID_NOT_FOUND",
        _ => "see the list of Kafka's protocol",
    }
}

/// See the module.
pub(super) struct Connection {
    address: String,
    stream: Box<dyn Stream>,
    correlation: i32,
    /// By API, the versions that are served.
    versions: HashMap<i16, (i16, i16)>,
}

impl Connection {
    /// Connects, and asks what is spoken there.
    pub(super) async fn open(address: &str, dial: &Dial) -> Result<Self, SourceError> {
        let unreachable =
            |why: String| SourceError::Unreachable { address: address.to_owned(), why };
        let opening = timeout(PATIENCE, dial.open(address, Protocol::Kafka)).await;
        let opening =
            opening.map_err(|_| unreachable(format!("no connection within {PATIENCE:?}")))?;
        let stream = opening.map_err(|error| unreachable(error.to_string()))?;
        let mut connection =
            Self { address: address.to_owned(), stream, correlation: 0, versions: HashMap::new() };
        // Version 0 of this is what everybody serves, and says all that is needed.
        connection.versions.insert(ApiVersionsRequest::API_KEY.value(), (0, 0));
        let answer = connection.call(0, 0, &ApiVersionsRequest::default()).await?;
        if answer.error_code != 0 && answer.error_code != UNSUPPORTED_VERSION {
            return Err(SourceError::refused("the versions that it serves", answer.error_code));
        }
        let versions = answer.api_keys.iter();
        connection.versions =
            versions.map(|v| (v.api_key, (v.min_version, v.max_version))).collect();
        Ok(connection)
    }

    /// Asks in the newest version from `least` to `most` that is served there.
    pub(super) async fn call<R: RequestResponsePair>(
        &mut self,
        least: i16,
        most: i16,
        request: &R,
    ) -> Result<R::Response, SourceError> {
        let (from, to) = self.versions.get(&R::API_KEY.value()).copied().unwrap_or((1, 0));
        let version = most.min(to);
        if version < least.max(from) {
            let address = self.address.clone();
            return Err(SourceError::Version { address, api: R::NAME, least, most });
        }
        let answer = timeout(PATIENCE, self.exchange(ApiVersion::new(version), request)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")));
        answer.map_err(|why| SourceError::Unreachable { address: self.address.clone(), why })
    }

    async fn exchange<R: RequestResponsePair>(
        &mut self,
        version: ApiVersion,
        request: &R,
    ) -> Result<R::Response, String> {
        self.correlation = self.correlation.wrapping_add(1) & i32::MAX;
        let mut frame = BytesMut::new();
        let (name, limits) = (Some("geminga-migrate".into()), OutboundFrameLimits::new(MOST_BYTES));
        encode_request(&mut frame, self.correlation, name, request, version, limits).map_err(
            |error| format!("{} cannot be said in version {version:?}: {error}", R::NAME),
        )?;
        self.stream.write_all(&frame).await.map_err(|error| ended(&error))?;
        self.stream.flush().await.map_err(|error| ended(&error))?;
        let length = self.stream.read_i32().await.map_err(|error| ended(&error))?;
        if length >> 16 == TLS_ALERT {
            return Err(WANTS_TLS.to_owned());
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MOST_BYTES {
            return Err(format!("an answer of {length} bytes, where {MOST_BYTES} are the most"));
        }
        // It grows as bytes come, not as they are announced.
        let mut answer = Vec::new();
        let read = (&mut self.stream).take(length as u64).read_to_end(&mut answer).await;
        if read.map_err(|error| ended(&error))? < length {
            return Err("it closed the connection in the middle of an answer".to_owned());
        }
        let garbage = |error: &dyn std::fmt::Display| format!("no answer to {}: {error}", R::NAME);
        let mut decoder =
            Decoder::new(answer.into(), DecodeLimits::default()).map_err(|e| garbage(&e))?;
        if decoder.read_i32().map_err(|e| garbage(&e))? != self.correlation {
            return Err(garbage(&"it belongs to another request"));
        }
        if response_header_version_for::<R>(version).map_err(|e| garbage(&e))? > 0 {
            decoder.read_tagged_fields().map_err(|e| garbage(&e))?;
        }
        R::Response::decode(&mut decoder, version).map_err(|e| garbage(&e))
    }
}

fn ended(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
            WANTS_TLS.to_owned()
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
