//! The cluster's own record: made once, only where nothing else is, and the counter that gives each starting broker a
//! number that nobody had before.

use geminga_proto::ids::{BrokerId, ClusterUuid, TopicId};
use geminga_runtime::{Random, WallClock};

use crate::record::{Cluster, Features};
use crate::{Error, MetaStore, Version, keys};

/// Partitions of the internal topic that holds the consumer groups, when a cluster is made.
pub const DEFAULT_GROUP_SHARDS: u32 = 8;

/// Why there is no cluster to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// Keys stand under the prefix, but not the one that names the cluster: somebody else's data, or a damaged cluster.
    #[error(
        "the metadata prefix is not empty and holds no cluster (found key {0}): choose another cluster name, or restore its `cluster` key from a backup"
    )]
    NotEmpty(String),
    /// `init` found one.
    #[error("the cluster exists already, as {0}: nothing was changed")]
    Exists(ClusterUuid),
    /// A broker asks for a number where there is no cluster.
    #[error("there is no cluster in the metadata store: run `geminga cluster init`")]
    Missing,
    /// The metadata is from a backup, and bookies may know better (6.8).
    #[error(
        "the metadata was restored from a backup, and bookies were not compared with it yet: start all bookies, then run `geminga cluster audit`"
    )]
    NotAudited,
    /// Servers would go on with what they knew before.
    #[error("{} registered: stop all brokers and bookies, and wait until their leases end, within half a minute", .0.join(", "))]
    InUse(Vec<String>),
    /// Twelve bits.
    #[error("this cluster has used up its epochs: move its topics to a new cluster")]
    NoEpochs,
    /// No broker number is left.
    #[error("all broker numbers of this cluster are used")]
    NoBrokerIds,
    /// The store did not answer.
    #[error(transparent)]
    Metadata(#[from] Error),
}

/// Reads the cluster; `None` when there is none.
///
/// # Errors
/// When the store does not answer or the value is invalid.
pub async fn read(store: &dyn MetaStore) -> Result<Option<(Cluster, Version)>, Error> {
    let Some(found) = store.get(keys::CLUSTER).await? else { return Ok(None) };
    let cluster = Cluster::decode(&found.value)
        .map_err(|e| Error::Corrupt { key: keys::CLUSTER.to_owned(), why: e.to_string() })?;
    Ok(Some((cluster, found.version)))
}

/// Makes the cluster where nothing is.
///
/// # Errors
/// [`ClusterError::Exists`], [`ClusterError::NotEmpty`], or that the store does not answer.
pub async fn init(
    store: &dyn MetaStore,
    random: &dyn Random,
    clock: &dyn WallClock,
) -> Result<Cluster, ClusterError> {
    if let Some((found, _)) = read(store).await? {
        return Err(ClusterError::Exists(found.uuid));
    }
    let any = store.range("", None, 1).await?;
    if let Some(stranger) = any.items.first() {
        // It may be the cluster, or a key of it, that another process made since the first look.
        return Err(match read(store).await? {
            Some((found, _)) => ClusterError::Exists(found.uuid),
            None => ClusterError::NotEmpty(stranger.key.clone()),
        });
    }
    let cluster = Cluster {
        uuid: ClusterUuid::from_random(random.next_u128()),
        epoch: 0,
        group_shards: DEFAULT_GROUP_SHARDS,
        next_broker: BrokerId(1),
        groups_topic: TopicId::from_random(random.next_u128()),
        created_ms: clock.now_ms(),
        restored: None,
        features: Features::NONE,
    };
    let put = store.put_if(keys::CLUSTER, None, cluster.encode()).await;
    // Lost to another process, or unknown: what is there now tells (M9).
    match (put, read(store).await?) {
        (_, Some((found, _))) if found.uuid == cluster.uuid => {
            tracing::info!(cluster = %cluster.uuid, "cluster created");
            Ok(cluster)
        }
        (_, Some((found, _))) => Err(ClusterError::Exists(found.uuid)),
        (Err(error), None) => Err(error.into()),
        (Ok(_), None) => Err(Error::Unknown("creating the cluster".to_owned()).into()),
    }
}

/// The cluster, made if nothing at all is under the prefix.
///
/// # Errors
/// As [`init`], but for [`ClusterError::Exists`].
pub async fn open_or_init(
    store: &dyn MetaStore,
    random: &dyn Random,
    clock: &dyn WallClock,
) -> Result<Cluster, ClusterError> {
    loop {
        if let Some((found, _)) = read(store).await? {
            return Ok(found);
        }
        match init(store, random, clock).await {
            // Another process was first: theirs is ours.
            Err(ClusterError::Exists(_)) => {}
            other => return other,
        }
    }
}

/// A broker number that nobody has or had. A number of unknown outcome is skipped.
///
/// # Errors
/// [`ClusterError`].
pub async fn next_broker_id(store: &dyn MetaStore) -> Result<BrokerId, ClusterError> {
    loop {
        let Some((cluster, version)) = read(store).await? else {
            return Err(ClusterError::Missing);
        };
        if cluster.restored.is_some_and(|restored| !restored.audited) {
            return Err(ClusterError::NotAudited);
        }
        let id = cluster.next_broker;
        let next = BrokerId(id.0.checked_add(1).ok_or(ClusterError::NoBrokerIds)?);
        let raised = Cluster { next_broker: next, ..cluster };
        if store.put_if(keys::CLUSTER, Some(version), raised.encode()).await?.is_some() {
            return Ok(id);
        }
    }
}

#[cfg(test)]
mod tests;
