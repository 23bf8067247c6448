//! Whether segments may leave the metadata at all. To a version that does not read manifests a folded segment looks lost, and its object left
//! over. So nothing is folded
//!
//! * while a broker or a bookie is registered that does not say that it reads them;
//! * before the cluster's own record says that segments may be folded, in a format that such a version refuses: none starts any more,
//!   and of those that run none removes what it does not know, since that needs this record.
//!
//! Both are asked before each partition, and a round that sets the mark folds nothing: who was about to register meanwhile is seen by the
//! next.

use geminga_metastore::record::{Broker, Cluster, LiveBookie};
use geminga_metastore::{Error, cluster, keys};

use super::{Folder, PAGE};

impl Folder {
    /// Whether segments may be folded now.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(super) async fn may_fold(&self) -> Result<bool, Error> {
        let found = cluster::read(&*self.store).await?;
        let Some((cluster, version)) = found.filter(|(found, _)| found.uuid == self.cluster) else {
            tracing::error!("the metadata store holds another cluster; nothing is folded");
            return Ok(false);
        };
        let all_read = self.all_read(keys::BROKERS, Broker::reads_manifests).await?
            && self.all_read(keys::BOOKIES_LIVE, LiveBookie::reads_manifests).await?;
        if cluster.folds || !all_read {
            return Ok(all_read);
        }
        let marked = Cluster { folds: true, ..cluster }.encode();
        if self.store.put_if(keys::CLUSTER, Some(version), marked).await?.is_some() {
            tracing::info!(
                "segments are folded from now on: versions that do not read manifests do not start in this cluster any more"
            );
        }
        Ok(false)
    }

    async fn all_read(&self, prefix: &str, reads: fn(&[u8]) -> bool) -> Result<bool, Error> {
        let mut after = None::<String>;
        loop {
            let page = self.store.range(prefix, after.as_deref(), PAGE).await?;
            if let Some(old) = page.items.iter().find(|item| !reads(&item.value.value)) {
                tracing::warn!(
                    key = old.key,
                    "a server is of a version that does not read manifests: nothing is folded before it is upgraded"
                );
                return Ok(false);
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(true);
            }
        }
    }
}
