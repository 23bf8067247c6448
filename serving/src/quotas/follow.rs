//! The task that follows `quotas/`. A record that cannot be read counts as none: a broker that is older than what set it
//! serves everybody rather than nobody.

use futures::StreamExt;
use geminga_metastore::record::Quota;
use geminga_metastore::{Change, Error, KeyValue, MetaStore, WatchEvent, keys};
use geminga_runtime::Tasks;

use super::core::Limits;
use super::handle::Quotas;
use super::metrics;

impl Quotas {
    /// Reads what is set and follows it until `tasks` stops.
    ///
    /// # Errors
    /// When the metadata store cannot be read.
    pub(crate) async fn start(store: &dyn MetaStore, tasks: &Tasks) -> Result<Self, Error> {
        let quotas = Self::new();
        let mut events = store.watch(keys::QUOTAS, None).await?;
        // A watch without a revision begins with everything there is.
        if let Some(first) = events.next().await {
            quotas.apply(first);
        }
        let (follower, cancelled) = (quotas.clone(), tasks.cancelled());
        tasks.spawn("quotas", async move {
            let follow = async {
                while let Some(event) = events.next().await {
                    follower.apply(event);
                }
            };
            tokio::select! {
                () = cancelled => {}
                () = follow => {}
            }
        });
        Ok(quotas)
    }

    fn apply(&self, event: WatchEvent) {
        self.set_limits(|limits| {
            match event {
                WatchEvent::Snapshot(range) => {
                    *limits = Limits::default();
                    range.items.iter().for_each(|item| put(limits, item));
                }
                WatchEvent::Changes { changes, .. } => {
                    for change in changes {
                        match change {
                            Change::Put(item) => put(limits, &item),
                            Change::Delete { key } => set(limits, &key, Quota::default()),
                        }
                    }
                }
            }
            metrics::observe(limits.clients.len());
        });
    }
}

fn put(limits: &mut Limits, item: &KeyValue) {
    let quota = Quota::decode(&item.value.value).unwrap_or_else(|error| {
        tracing::warn!(key = item.key, %error, "a quota is ignored");
        Quota::default()
    });
    set(limits, &item.key, quota);
}

fn set(limits: &mut Limits, key: &str, quota: Quota) {
    match keys::parse_quota(key) {
        Some(client) if quota.is_empty() => {
            limits.clients.remove(client);
        }
        Some(client) => {
            limits.clients.insert(client.to_owned(), quota);
        }
        None if key == keys::DEFAULT_QUOTA => limits.default = quota,
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use geminga_metastore::{MemoryStore, Txn};

    use super::super::core::Kind;
    use super::*;

    /// What is there at the start counts, and every change does, without a word to anybody.
    #[tokio::test]
    async fn quotas_follow_the_metadata() {
        let (store, tasks) = (MemoryStore::new(), Tasks::new("test"));
        let limit = |rate| Quota { request_rate: Some(rate), ..Quota::default() }.encode();
        let put = |key: String, value| store.txn(Txn::new().put(key, value));
        put(keys::quota(Some("a")), limit(1)).await.unwrap();
        let quotas = Quotas::start(&store, &tasks).await.unwrap();
        assert_eq!(quotas.limits().clients["a"].request_rate, Some(1));

        let seen = async |wanted: fn(&Limits) -> bool| {
            let mut changed = quotas.changed();
            while !wanted(&quotas.limits()) {
                let change = tokio::time::timeout(Duration::from_secs(30), changed.changed());
                change.await.expect("it comes in time").unwrap();
            }
        };
        put(keys::quota(None), limit(7)).await.unwrap();
        seen(|limits| limits.default.request_rate == Some(7)).await;
        store.txn(Txn::new().delete(keys::quota(Some("a")))).await.unwrap();
        seen(|limits| limits.clients.is_empty()).await;
        // From a newer version: it serves everybody.
        put(keys::quota(None), vec![8, 99].into()).await.unwrap();
        seen(Limits::is_empty).await;
        assert_eq!(quotas.charge(Kind::Request, "a", 1_000), Duration::ZERO);
    }
}
