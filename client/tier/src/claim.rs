//! Whether an object store is the cluster's. It carries a marker that names the cluster and, by a number, itself ([`Marker`]), and the
//! metadata says which number the cluster uses under that name: `object-stores/<bucket>/<prefix>`.
//!
//! Whoever uses a store first writes both, the marker where there is none and then the key where there is none; of several at once one does
//! each, and all go by what stands then. A store whose marker says otherwise is never written to, and nothing of it is believed to be missing.
//! Metadata from a backup of before may lack the key: it follows the marker again. A marker that is gone while objects of the cluster are
//! there, such as one that was not copied with them, is written again.
//!
//! A store in memory is gone with its process, and nobody else's: it has none.

use futures::TryStreamExt;
use geminga_metastore::record::UsedStore;
use geminga_metastore::{Error as MetaError, MetaStore, keys};
use geminga_proto::ids::ClusterUuid;

use crate::error::ObjectError;
use crate::marker::Marker;
use crate::store::Store;

/// Changes that others come before, or of which nobody hears, before whoever tries gives up for now.
const ATTEMPTS: usize = 5;

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
    /// There is no marker, nor anything else of the cluster, which has used a store of that name.
    #[error(
        "{place} holds nothing of this cluster, which uses a store of that name: correct --object-store-endpoint, or mount the shared directory. A new store needs another bucket or prefix"
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
    known: Option<u128>,
}

async fn look(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<Found, ClaimError> {
    let key = keys::object_store(&objects.place());
    let known = match metadata.get(&key).await? {
        None => None,
        Some(found) => match UsedStore::decode(&found.value) {
            Ok(used) => Some(used.id),
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
        (Some(marker), Some(known)) if marker.store != known => {
            Err(ClaimError::OtherStore { place: place() })
        }
        (None, Some(known)) => match objects.list(cluster).try_next().await? {
            Some(_) => Ok(Found { marker, known: Some(known) }),
            None => Err(ClaimError::Nothing { place: place() }),
        },
        (marker, known) => Ok(Found { marker, known }),
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
        false => look(metadata, objects, cluster).await.map(|_| ()),
    }
}

/// Makes sure that a store is the cluster's, and says so in both where nobody has yet; `fresh` is a random number. To be called before
/// anything is written there, or removed. Cancel-safe: it is repeated from whatever stands.
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
    for _ in 0..ATTEMPTS {
        match look(metadata, objects, cluster).await? {
            Found { marker: Some(_), known: Some(_) } => return Ok(()),
            Found { marker: None, known } => {
                if known.is_some() {
                    tracing::warn!(
                        place = objects.place(),
                        "the marker of the object store is gone, and objects are there: it is written again"
                    );
                }
                Marker { cluster, store: known.unwrap_or(fresh) }.write(objects).await?;
            }
            Found { marker: Some(marker), known: None } => {
                let key = keys::object_store(&objects.place());
                let used = UsedStore { id: marker.store };
                match metadata.put_if(&key, None, used.encode()).await {
                    // The next look tells (M9).
                    Ok(_) | Err(MetaError::Unknown(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Err(ClaimError::Undecided { place: objects.place() })
}

/// The same for whoever runs already: a marker that was there and is gone is not written again, since a directory that is not mounted any more
/// looks like that, with what was uploaded there since.
///
/// # Errors
/// [`ClaimError`].
pub async fn hold(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    fresh: u128,
) -> Result<(), ClaimError> {
    if objects.is_memory() {
        return Ok(());
    }
    match look(metadata, objects, cluster).await? {
        Found { marker: None, known: Some(_) } => {
            Err(ClaimError::Nothing { place: objects.place() })
        }
        Found { marker: Some(_), known: Some(_) } => Ok(()),
        Found { known: None, .. } => claim(metadata, objects, cluster, fresh).await,
    }
}

#[cfg(test)]
mod tests;
