//! One validated type per kind of key. A value that does not convert is refused where it is read; nothing behind
//! this module meets a half-valid record.

mod assign;
mod bookie;
mod broker;
mod cluster;
mod cookie;
mod deleting;
mod feature;
mod ledger;
mod manifest;
mod object_store;
mod partition;
mod presence;
mod quota;
mod topic;
mod under;
mod watermark;

pub use assign::{Assign, Assignment};
pub use bookie::{LiveBookie, LiveDisk};
pub use broker::{Broker, BrokerLoad, Coordinator, Drain, KafkaListener, Revoking};
pub use cluster::{Cluster, QUARANTINE_MS, Restored};
pub use cookie::{Cookie, CookieDisk};
pub use deleting::Deleting;
pub use feature::{Feature, Features};
use geminga_proto::ids::TopicId;
pub use ledger::{CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier, TierObject};
pub use manifest::{FormerManifest, MAX_FORMER, MAX_PARTS, Manifest, ManifestPart};
pub use object_store::UsedStore;
pub use partition::{LogStart, Move, PartitionTerm, Segment};
pub use presence::{AbsentBookie, DrainingBookie, Holder};
pub use quota::Quota;
pub use topic::{DeletedTopic, Topic};
pub use under::{Under, UnderReason};
pub use watermark::{DiskWatermark, Watermark};

/// The format number that every value starts with today.
pub const FORMAT: u32 = 1;

/// Why a value is not a valid record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not the protobuf message it should be.
    #[error("a value that does not decode: {0}")]
    Encoding(String),
    /// Written by a newer version.
    #[error("format {0}, newer than this version reads: upgrade this process")]
    Format(u32),
    /// Of a cluster that uses what only newer versions know.
    #[error("feature {0} is in use, which this version does not know: upgrade this process")]
    Feature(u32),
    /// A field that breaks a rule.
    #[error("an invalid {field}: {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl Invalid {
    /// A field that breaks a rule.
    pub fn field(field: &'static str, why: impl Into<String>) -> Self {
        Self::Field { field, why: why.into() }
    }

    /// As it is counted.
    fn kind(&self) -> &'static str {
        match self {
            Self::Encoding(_) => "encoding",
            Self::Format(_) => "format",
            Self::Feature(_) => "feature",
            Self::Field { .. } => "field",
        }
    }
}

/// What is read of the store passes here: each time that it is no record is counted. `why` is one of encoding, format, feature, field.
pub(crate) fn counted<T>(read: Result<T, Invalid>) -> Result<T, Invalid> {
    read.inspect_err(|invalid| {
        metrics::counter!("geminga_metadata_invalid_total", "why" => invalid.kind()).increment(1);
    })
}

/// Refuses formats from the future.
pub(crate) fn check_format(format: u32) -> Result<(), Invalid> {
    if format == FORMAT { Ok(()) } else { Err(Invalid::Format(format)) }
}

/// What a registration says that its version reads. Manifests had a field of their own before there were numbers.
fn announced(reads_manifests: bool, numbers: &[u32]) -> Features {
    let features = Features::known(numbers);
    if reads_manifests { features.with(Feature::Manifests) } else { features }
}

/// A topic id of sixteen bytes.
fn topic_id(field: &'static str, bytes: &[u8]) -> Result<TopicId, Invalid> {
    TopicId::from_slice(bytes).ok_or_else(|| Invalid::field(field, "not 16 bytes"))
}

#[cfg(test)]
pub(crate) mod tests;
