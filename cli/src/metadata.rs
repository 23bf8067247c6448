//! The way to the metadata store, and what a person is told when there is none.

use std::sync::Arc;

use geminga_metastore::cluster::{self, ClusterError};
use geminga_metastore::record::Cluster;
use geminga_metastore::{EmbeddedStore, Error, EtcdStore, EtcdUrl, MetaStore, OpenError, Range};
use geminga_proto::reason::Reason;
use geminga_runtime::{SystemClock, SystemRandom};
use geminga_tls::{Credentials, Dial, Files};

use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::{Exit, Failure};

/// Connects to the etcd of a cluster, and reads once to see that it answers. `tls`: what is shown and believed where that is
/// reached by TLS; without, what the system believes.
pub(crate) async fn connect(
    url: &MetastoreUrl,
    tls: Option<&Credentials>,
) -> Result<Arc<dyn MetaStore>, Failure> {
    let dial = match (url.is_tls(), tls) {
        (false, _) => Dial::Plain,
        (true, Some(credentials)) => Dial::Tls(credentials.clone()),
        (true, None) => Dial::Tls(Credentials::load(Files::default()).map_err(Failure::new)?),
    };
    let (endpoints, cluster) = url.require_etcd()?;
    let url = EtcdUrl { endpoints: endpoints.to_vec(), cluster: cluster.to_owned() };
    Ok(Arc::new(EtcdStore::connect_by(&url, &dial).await?))
}

/// The cluster of a store; the first server of an empty store makes it.
pub(crate) async fn open(store: &dyn MetaStore) -> Result<Cluster, Failure> {
    Ok(cluster::open_or_init(store, &SystemRandom, &SystemClock).await?)
}

/// All keys under a prefix, of one revision; changes nothing.
pub(crate) async fn list(
    url: &MetastoreUrl,
    tls: &EtcdTlsArgs,
    prefix: &str,
) -> Result<Range, Failure> {
    list_by(url, tls.load(url)?.as_ref(), prefix).await
}

/// The same, by what was read of files already.
pub(crate) async fn list_by(
    url: &MetastoreUrl,
    tls: Option<&Credentials>,
    prefix: &str,
) -> Result<Range, Failure> {
    match url {
        MetastoreUrl::Etcd { .. } => {
            Ok(connect(url, tls).await?.range(prefix, None, usize::MAX).await?)
        }
        MetastoreUrl::File(path) => {
            let mut range = EmbeddedStore::read_file(path)?;
            range.items.retain(|item| item.key.starts_with(prefix));
            Ok(range)
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (exit, reason) = match error {
            Error::Unknown(_) | Error::Unavailable(_) => {
                (Exit::Unreachable, Reason::MetadataUnavailable.as_str())
            }
            Error::NoSpace => (Exit::Failed, Reason::MetadataNoSpace.as_str()),
            Error::LeaseGone(_) | Error::Invalid(_) => (Exit::Failed, Reason::Internal.as_str()),
            Error::Corrupt { .. } => (Exit::Failed, "METADATA_CORRUPT"),
        };
        Self::with(exit, error).because(reason)
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let reason = match error {
            ClusterError::Metadata(error) => return error.into(),
            ClusterError::NotEmpty(_) => "METADATA_NOT_EMPTY",
            ClusterError::Exists(_) => "CLUSTER_EXISTS",
            ClusterError::Missing => "NO_CLUSTER",
            ClusterError::NoBrokerIds => "NO_BROKER_IDS",
            ClusterError::NotAudited => "NOT_AUDITED",
            ClusterError::InUse(_) => "CLUSTER_IN_USE",
            ClusterError::NoEpochs => "NO_EPOCHS",
        };
        Self::new(error).because(reason)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let reason = match error {
            OpenError::InUse(_) => "DATA_DIR_IN_USE",
            OpenError::Corrupt { .. } => "METADATA_CORRUPT",
            OpenError::Format { .. } => "METADATA_FORMAT",
            OpenError::Io { .. } => return Self::new(error),
        };
        Self::new(error).because(reason)
    }
}
