//! Making and removing topics. `topics/<ns>/<name>` is the one commit point of a topic: whoever puts it first has created
//! it, whoever removes it has deleted it, each in one guarded transaction (DESIGN 4). Caches only say how large the
//! cluster is; the transaction decides.

use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{Error, MetaStore, Versioned, record};
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::{Random, WallClock};

use super::quorum::Quorum;
use crate::ownership::topology::Topology;
use crate::rpc::metadata::api_error;

/// Attempts at one transaction whose outcome stays unknown.
pub(super) const ATTEMPTS: usize = 3;
/// How long this broker's view may take to show what was done.
pub(super) const CATCH_UP: Duration = Duration::from_secs(5);

/// Creates and deletes topics; see `create` and `delete`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TopicAdmin {
    /// The metadata store.
    pub store: Arc<dyn MetaStore>,
    /// This broker's view.
    pub topology: Topology,
    /// Topic ids.
    pub random: Arc<dyn Random>,
    /// Dates topics; decides nothing.
    pub clock: Arc<dyn WallClock>,
    /// What a request that names no quorum gets.
    pub default_quorum: Quorum,
    /// Whether a single copy needs no consent: standalone, which has one bookie.
    pub single_copy_allowed: bool,
    /// Whether this broker was given an object store.
    pub tiered: bool,
}

pub(super) fn unknown_topic(name: &str) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    let why = format!("topic {shown:?} does not exist: create it first");
    ApiError::new(Reason::UnknownTopic, why)
}

/// A stored topic.
pub(super) fn decode(key: &str, found: &Versioned) -> Result<record::Topic, ApiError> {
    record::Topic::decode(&found.value)
        .map_err(|e| api_error(&Error::Corrupt { key: key.to_owned(), why: e.to_string() }))
}
