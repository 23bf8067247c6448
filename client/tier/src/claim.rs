//! Whether an object store is the cluster's. It carries a marker that names the cluster and, by a number, itself ([`Marker`]), and the
//! metadata says which number the cluster uses under that name: `object-stores/<bucket>/<prefix>`.
//!
//! ```text
//!   no key ─► key, pending, by one of several ─► that one writes the marker ─► key, settled ─► every one goes by both
//! ```
//!
//! * A store whose marker says otherwise is never written to, and nothing of it is believed to be missing.
//! * A store without a marker becomes the cluster's, or is marked again, only if the metadata names no object there, or most of those that it
//!   names are there; nearly all of them where it was marked before ([`evidence`]): a mount point whose directory is missing looks like a
//!   store that is new, or has an object or two that a bookie left there.
//! * Whoever put a key that is pending writes the marker; others wait, and take its place when nothing comes of it. What the marker says
//!   is what the key says then. So a store that ignores *where there is none* is written to by one at a time.
//! * Metadata from a backup of before may lack the key: it follows the marker again.
//!
//! A store in memory is gone with its process, and nobody else's: it has none.

use std::time::Duration;

use futures::StreamExt;
use geminga_metastore::record::UsedStore;
use geminga_metastore::{Error as MetaError, MetaStore, Version, keys};
use geminga_proto::ids::ClusterUuid;

use crate::error::ObjectError;
use crate::marker::Marker;
use crate::named::{Evidence, Needed, evidence};
use crate::store::Store;

/// Changes that others come before, or of which nobody hears, before whoever tries gives up for now.
const ATTEMPTS: usize = 8;
/// How long another is waited for that is about to write the marker.
const WAIT: Duration = Duration::from_secs(10);

/// Why a store is not to be used, now or at all.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another cluster was there first.
    #[error(
        "{place} belongs to cluster {found}, and this is cluster {own}: correct --object-store; a cluster that has uploaded to this one already is not to get another prefix, see docs/tiering.md"
    )]
    OtherCluster {
        /// Bucket and prefix.
        place: String,
        /// Whose it is.
        found: ClusterUuid,
        /// Who asks.
        own: ClusterUuid,
    },
    /// It is the cluster's, and another one of the same name than the one in use.
    #[error(
        "{place} is another store of that name than the one that this cluster uses: give all bookies and brokers the same endpoint, or the same shared directory"
    )]
    OtherStore {
        /// Bucket and prefix.
        place: String,
    },
    /// There is no marker, nor most of the objects that the metadata names, and the cluster has used a store of that name.
    #[error(
        "{place} has no marker, nor the objects of this cluster, which uses a store of that name: correct --object-store-endpoint, or mount the shared directory. A new store needs another bucket or prefix"
    )]
    Nothing {
        /// Bucket and prefix.
        place: String,
    },
    /// What others did at the same time is not known.
    #[error("whose {place} is could not be settled: trying again")]
    Undecided {
        /// Bucket and prefix.
        place: String,
    },
    /// It did not say, or its marker makes no sense.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The metadata store did not do it.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

impl ClaimError {
    /// Whether nothing but an operator can help.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::OtherCluster { .. } | Self::OtherStore { .. } | Self::Nothing { .. } => true,
            Self::Objects(error) => error.is_permanent(),
            Self::Metadata(error) => matches!(error, MetaError::Corrupt { .. }),
            Self::Undecided { .. } => false,
        }
    }
}

/// What stands in both.
struct Found {
    marker: Option<Marker>,
    known: Option<(UsedStore, Version)>,
}

impl Found {
    /// Whether the store is the cluster's, and nothing is left to do.
    fn is_settled(&self) -> bool {
        self.marker.is_some() && self.known.is_some_and(|(used, _)| !used.pending)
    }
}

/// Looks at both, and holds them against each other.
async fn look(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<Found, ClaimError> {
    let key = keys::object_store(&objects.place());
    let known = match metadata.get(&key).await? {
        None => None,
        Some(found) => match UsedStore::decode(&found.value) {
            Ok(used) => Some((used, found.version)),
            Err(invalid) => {
                return Err(MetaError::Corrupt { key, why: invalid.to_string() }.into());
            }
        },
    };
    let marker = Marker::read(objects).await?;
    let place = || objects.place();
    match (marker, known) {
        (Some(marker), _) if marker.cluster != cluster => {
            Err(ClaimError::OtherCluster { place: place(), found: marker.cluster, own: cluster })
        }
        (Some(marker), Some((used, _))) if marker.store != used.id && !used.pending => {
            Err(ClaimError::OtherStore { place: place() })
        }
        (marker, known) => Ok(Found { marker, known }),
    }
}

/// The same of a store that may lack its marker: it is the cluster's, or nobody's.
async fn look_closely(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<Found, ClaimError> {
    let found = look(metadata, objects, cluster).await?;
    if found.marker.is_some() {
        return Ok(found);
    }
    let was_used = found.known.is_some_and(|(used, _)| !used.pending);
    let needed = if was_used { Needed::NearlyAll } else { Needed::Most };
    match evidence(metadata, objects, cluster, needed).await? {
        Evidence::There => Ok(found),
        Evidence::Unused if !was_used => Ok(found),
        Evidence::Unused | Evidence::Missing => Err(ClaimError::Nothing { place: objects.place() }),
    }
}

/// Whether a store is, or may become, the cluster's; changes nothing. For whoever only reads.
///
/// # Errors
/// [`ClaimError`].
pub async fn check(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<(), ClaimError> {
    match objects.is_memory() {
        true => Ok(()),
        false => look_closely(metadata, objects, cluster).await.map(|_| ()),
    }
}

/// Makes sure that a store is the cluster's, and says so in both where nobody has yet; `fresh` is a random number, the same for each call of
/// one process. To be called before anything is written there, or removed. Cancel-safe: it is repeated from whatever stands.
///
/// # Errors
/// [`ClaimError`].
pub async fn claim(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    fresh: u128,
) -> Result<(), ClaimError> {
    if objects.is_memory() {
        return Ok(());
    }
    let key = keys::object_store(&objects.place());
    let mark = |store| Marker { cluster, store }.write(objects);
    for _ in 0..ATTEMPTS {
        let found = look_closely(metadata, objects, cluster).await?;
        if found.is_settled() {
            return Ok(());
        }
        let (own, version) = (UsedStore { id: fresh, pending: true }, found.known.map(|(_, v)| v));
        match (found.marker, found.known) {
            (Some(marker), _) => {
                put(metadata, &key, version, UsedStore { id: marker.store, pending: false })
                    .await?;
            }
            (None, None) => put(metadata, &key, None, own).await?,
            (None, Some((used, _))) if used.id == fresh => mark(fresh).await?,
            (None, Some((UsedStore { pending: true, .. }, version))) => {
                if !has_changed(metadata, &key, version).await? {
                    put(metadata, &key, Some(version), own).await?;
                }
            }
            (None, Some((used, _))) => {
                tracing::warn!(
                    place = objects.place(),
                    "the marker of the object store is gone, and objects are there: it is written again"
                );
                mark(used.id).await?;
            }
        }
    }
    Err(ClaimError::Undecided { place: objects.place() })
}

/// Puts the key where it is as expected. What came of it the next look tells (M9).
async fn put(
    metadata: &dyn MetaStore,
    key: &str,
    expected: Option<Version>,
    used: UsedStore,
) -> Result<(), MetaError> {
    match metadata.put_if(key, expected, used.encode()).await {
        Ok(_) | Err(MetaError::Unknown(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Waits until the key is another than this; false when it stays so.
async fn has_changed(
    metadata: &dyn MetaStore,
    key: &str,
    version: Version,
) -> Result<bool, MetaError> {
    let changing = async {
        let mut news = metadata.watch(key, None).await?;
        while metadata.get(key).await?.is_some_and(|found| found.version == version) {
            if news.next().await.is_none() {
                break;
            }
        }
        Ok(())
    };
    match tokio::time::timeout(WAIT, changing).await {
        Ok(changed) => changed.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// The same for whoever runs already: a marker that was there and is gone is not written again, since a directory that is not mounted any more
/// looks like that, with what was uploaded there since. Costs one request of each.
///
/// Where nobody has marked it yet all that the metadata names is gone through, unless `in_brief`: for whoever did so just now.
///
/// # Errors
/// [`ClaimError`].
pub async fn hold(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    fresh: u128,
    in_brief: bool,
) -> Result<(), ClaimError> {
    if objects.is_memory() {
        return Ok(());
    }
    let found = look(metadata, objects, cluster).await?;
    match found.known {
        _ if found.is_settled() => Ok(()),
        Some((UsedStore { pending: false, .. }, _)) => {
            Err(ClaimError::Nothing { place: objects.place() })
        }
        _ if in_brief && found.marker.is_none() => {
            Err(ClaimError::Nothing { place: objects.place() })
        }
        Some(_) | None => claim(metadata, objects, cluster, fresh).await,
    }
}

#[cfg(test)]
mod tests;
