//! What a ledger's topic asks of tiering, under Kafka's names: whether and when it is uploaded, and how long bookies keep it.

use std::collections::BTreeSet;

use geminga_metastore::record::{LedgerMeta, Segment, Topic};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{PartitionIndex, TopicId};

use super::core::{KeepLocal, Wanted};

/// Keys of one page of a listing.
const PAGE: usize = 500;

/// What one topic says; numbers below zero as Kafka has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Settings {
    /// Whether it is tiered at all.
    enabled: bool,
    /// Whether closed segments are uploaded. What was uploaded before is kept here for as long as otherwise, where Kafka's brokers keep what
    /// they have of it until retention (KIP-950).
    copies: bool,
    lag_ms: i64,
    lag_bytes: i64,
    local_ms: i64,
    local_bytes: i64,
}

/// `local.retention.*`: what the operator says, or what `retention.*` says, holds.
const UNSET: i64 = -2;

impl Settings {
    fn of(topic: &Topic) -> Self {
        let is = |name: &str| topic.configs.get(name).is_some_and(|value| value == "true");
        let number = |name: &str, unset: i64| {
            topic.configs.get(name).and_then(|value| value.parse().ok()).unwrap_or(unset)
        };
        Self {
            enabled: is("remote.storage.enable"),
            copies: is("remote.storage.enable") && !is("remote.log.copy.disable"),
            lag_ms: number("remote.copy.lag.ms", 0),
            lag_bytes: number("remote.copy.lag.bytes", 0),
            local_ms: number("local.retention.ms", UNSET),
            local_bytes: number("local.retention.bytes", UNSET),
        }
    }

    fn needs_bytes(&self) -> bool {
        self.lag_bytes > 0 || self.local_bytes >= 0
    }

    /// `newer`: bytes of closed segments of the partition behind this one.
    fn wanted(&self, created_ms: i64, newer: u64, keep_ms: i64) -> Wanted {
        let at_least = |bytes: i64| u64::try_from(bytes).is_ok_and(|bytes| newer >= bytes);
        let is_time = self.lag_bytes <= 0 || at_least(self.lag_bytes);
        let upload_from_ms =
            (self.copies && is_time).then(|| created_ms.saturating_add(self.lag_ms.max(0)));
        let keep_local = match self.local_ms {
            _ if !self.enabled => KeepLocal::Always,
            _ if self.local_bytes >= 0 && at_least(self.local_bytes) => KeepLocal::No,
            UNSET => KeepLocal::Ms(keep_ms),
            ms if ms < 0 => KeepLocal::Always,
            ms => KeepLocal::Ms(ms),
        };
        Wanted { upload_from_ms, keep_local, ..Wanted::default() }
    }
}

/// The topics whose closed segments are uploaded now.
pub(super) async fn tiered(store: &dyn MetaStore) -> Result<BTreeSet<TopicId>, Error> {
    let (mut found, mut after) = (BTreeSet::new(), None::<String>);
    loop {
        let page = store.range(keys::TOPICS, after.as_deref(), PAGE).await?;
        let topics = page.items.iter().filter_map(|item| Topic::decode(&item.value.value).ok());
        found.extend(topics.filter(|topic| Settings::of(topic).copies).map(|topic| topic.id));
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            return Ok(found);
        }
    }
}

/// What is wanted of a closed ledger; nothing when its topic is gone, or internal.
pub(super) async fn of(
    store: &dyn MetaStore,
    meta: &LedgerMeta,
    keep_ms: i64,
) -> Result<Wanted, Error> {
    let custom = &meta.custom;
    let found = store.get(&keys::topic(&custom.namespace, &custom.name)).await?;
    let topic = found.and_then(|found| Topic::decode(&found.value).ok());
    // Another topic of the same name says nothing about this ledger.
    let Some(topic) = topic.filter(|topic| topic.id == custom.topic) else {
        return Ok(Wanted::default());
    };
    let settings = Settings::of(&topic);
    let newer = if settings.needs_bytes() { newer_bytes(store, meta).await? } else { 0 };
    Ok(settings.wanted(meta.created_ms, newer, keep_ms))
}

/// Bytes of the partition's closed segments behind the one of this ledger, as far as their owner has written them down.
async fn newer_bytes(store: &dyn MetaStore, meta: &LedgerMeta) -> Result<u64, Error> {
    let prefix = keys::segments_of(meta.custom.topic, PartitionIndex(meta.custom.partition));
    let (mut after, mut seen, mut bytes) = (None::<String>, false, 0_u64);
    loop {
        let page = store.range(&prefix, after.as_deref(), PAGE).await?;
        for item in &page.items {
            let Ok(segment) = Segment::decode(&item.value.value) else { continue };
            if seen {
                bytes = bytes.saturating_add(segment.bytes.unwrap_or(0));
            }
            seen = seen || segment.ledger == meta.id;
        }
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            return Ok(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Settings = Settings {
        enabled: true,
        copies: true,
        lag_ms: 0,
        lag_bytes: 0,
        local_ms: UNSET,
        local_bytes: UNSET,
    };

    #[test]
    fn policies_are_what_kafka_calls_them() {
        let wanted = |settings: Settings, newer| settings.wanted(100, newer, 7);
        let never = Settings { enabled: false, copies: false, ..ON };
        assert_eq!(wanted(never, 9), Wanted::default(), "never");
        let closed =
            Wanted { upload_from_ms: Some(100), keep_local: KeepLocal::Ms(7), ..Wanted::default() };
        assert_eq!(wanted(ON, 0), closed, "after close");
        let aged = Wanted { upload_from_ms: Some(150), ..closed };
        assert_eq!(wanted(Settings { lag_ms: 50, ..ON }, 0), aged, "after age");
        let bytes = Settings { lag_bytes: 10, ..ON };
        assert_eq!(wanted(bytes, 9).upload_from_ms, None, "after local bytes");
        assert_eq!(wanted(bytes, 10), closed);
        let local = Settings { local_bytes: 10, local_ms: 3, ..ON };
        assert_eq!(wanted(local, 9).keep_local, KeepLocal::Ms(3));
        assert_eq!(wanted(local, 10).keep_local, KeepLocal::No);
        assert_eq!(wanted(Settings { local_ms: -1, ..ON }, 0).keep_local, KeepLocal::Always);
    }

    /// `remote.log.copy.disable`: what was uploaded before does not stay at bookies for ever.
    #[test]
    fn what_is_uploaded_goes_though_nothing_more_is() {
        let ended = Settings { copies: false, local_ms: 3, local_bytes: 10, ..ON };
        assert_eq!(
            ended.wanted(100, 9, 7),
            Wanted { keep_local: KeepLocal::Ms(3), ..Wanted::default() }
        );
        assert_eq!(ended.wanted(100, 10, 7).keep_local, KeepLocal::No);
        assert_eq!(Settings { copies: false, ..ON }.wanted(100, 9, 7).keep_local, KeepLocal::Ms(7));
        // As in Kafka.
        let kept = Settings { local_ms: -1, local_bytes: UNSET, ..ended };
        assert_eq!(kept.wanted(100, u64::MAX, 7), Wanted::default());
    }
}
