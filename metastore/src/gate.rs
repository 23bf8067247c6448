//! Whether something may be written that not every version reads ([`Feature`]). To a version that does not know it, it looks damaged, lost
//! or left over. So nothing of it is written
//!
//! * while a broker or a bookie is registered that does not say that it reads it;
//! * before the cluster's own record says that it is in use, in a format that such a version refuses: none starts any more, and of those
//!   that run none removes what it does not know, since that needs this record.
//!
//! Whoever is about to write asks, again and again, and only when there is something to write: until then the cluster can go back to an
//! earlier version. The question that puts a feature into use is answered with no: who was about to register meanwhile is seen by the next.

use geminga_proto::ids::ClusterUuid;

use crate::record::{Broker, Cluster, Feature, Features, LiveBookie};
use crate::{Error, MetaStore, cluster, keys};

/// Keys of one page of a listing.
const PAGE: usize = 500;

/// Whether the feature may be written now, in the cluster that the caller belongs to.
///
/// # Errors
/// [`Error`] of the metadata store.
pub async fn is_open(
    store: &dyn MetaStore,
    own: ClusterUuid,
    feature: Feature,
) -> Result<bool, Error> {
    let found = cluster::read(store).await?;
    let Some((cluster, version)) = found.filter(|(found, _)| found.uuid == own) else {
        tracing::error!(%feature, "the metadata store holds another cluster; nothing of the feature is written");
        return Ok(false);
    };
    let broker = |value: &[u8]| Broker::decode(value).map_or(Features::NONE, |b| b.features);
    let bookie = |value: &[u8]| LiveBookie::decode(value).map_or(Features::NONE, |b| b.features);
    let all_read = all_read(store, keys::BROKERS, feature, broker).await?
        && all_read(store, keys::BOOKIES_LIVE, feature, bookie).await?;
    if cluster.features.contains(feature) || !all_read {
        return Ok(all_read);
    }
    let features = cluster.features.with(feature);
    let marked = Cluster { features, ..cluster }.encode();
    if store.put_if(keys::CLUSTER, Some(version), marked).await?.is_some() {
        tracing::info!(%feature, "in use from now on: versions that do not know it do not start in this cluster any more");
    }
    Ok(false)
}

/// Whether all that are registered under a prefix read it. What cannot be decoded reads nothing.
async fn all_read(
    store: &dyn MetaStore,
    prefix: &str,
    feature: Feature,
    reads: fn(&[u8]) -> Features,
) -> Result<bool, Error> {
    let mut after = None::<String>;
    loop {
        let page = store.range(prefix, after.as_deref(), PAGE).await?;
        let old = page.items.iter().find(|item| !reads(&item.value.value).contains(feature));
        if let Some(old) = old {
            tracing::warn!(%feature, key = old.key, "a server is of a version that does not read this: it is not used before that server is upgraded");
            return Ok(false);
        }
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
