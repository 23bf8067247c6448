//! Where a ledger ends whose last entry nobody delivers, once an operator has given that up (4.8): at the last entry that somebody does.
//! One that was deleted in a life that the metadata has lost ends where it did: its tombstones say why nothing is there (6.8).

use std::sync::Arc;

use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::EntryId;

use crate::attempts::Attempts;
use crate::client::LedgerClient;
use crate::core::recovery::Event;
use crate::read::Reader;

/// How often an entry is asked for before it counts as one that nobody delivers.
const TRIES: u32 = 3;

/// Looks below `last` in growing steps, then between the last that failed and the first that did not: copies are contiguous, so that one
/// boundary is what there is.
pub(super) async fn find(client: &LedgerClient, meta: LedgerMeta, last: EntryId) -> Event {
    if !client.tombstones(&meta, last).await.is_empty() {
        return Event::EndFound { end: last, length: 0 };
    }
    let reader = client.reader(Arc::new(meta));
    let (mut missing, mut step) = (last, 1);
    let (mut end, mut length) = loop {
        let entry = EntryId(missing.0 - step).max(EntryId::NONE);
        match length_up_to(client, &reader, entry).await {
            Some(length) => break (entry, length),
            None => (missing, step) = (entry, step * 2),
        }
    };
    while missing > end.next() {
        let middle = EntryId(end.0 + (missing.0 - end.0) / 2);
        match length_up_to(client, &reader, middle).await {
            Some(up_to) => (end, length) = (middle, up_to),
            None => missing = middle,
        }
    }
    tracing::warn!(ledger = %reader.meta().id, %last, %end, "nobody delivers the last entry of a ledger that is closed by force: it ends before");
    Event::EndFound { end, length }
}

/// The payload length up to `entry`; `None` when nobody delivers it. Before the first entry there is nothing.
async fn length_up_to(client: &LedgerClient, reader: &Reader, entry: EntryId) -> Option<u64> {
    if entry == EntryId::NONE {
        return Some(0);
    }
    let mut attempts = Attempts::of(&client.parts.config, TRIES);
    loop {
        if let Ok(entries) = reader.read(entry, entry, 0, Some(0)).await
            && let Some(entry) = entries.first()
        {
            return Some(entry.position.cumulative_length);
        }
        if !attempts.again().await {
            return None;
        }
    }
}
