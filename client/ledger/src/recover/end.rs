//! Where a ledger ends whose last entry nobody delivers, once an operator has given that up (4.8): at the last entry that somebody does, if
//! whoever had more is gone for good. What a bookie may have that is only away is not cut off: the ledger stays as it is.
//! One that was deleted in a life that the metadata has lost ends where it did: its tombstones say why nothing is there (6.8).

use std::sync::Arc;

use geminga_metastore::keys;
use geminga_metastore::record::{Cookie, LedgerMeta};
use geminga_proto::bookie::QueryOp;
use geminga_proto::ids::{EntryId, Member};

use crate::attempts::Attempts;
use crate::client::LedgerClient;
use crate::core::recovery::Event;
use crate::read::{Answer, ReadError, Reader};

/// How often an entry is asked for before it counts as one that nobody delivers.
const TRIES: u32 = 3;

/// What became of asking for an entry.
enum Asked {
    /// It is there; the payload length up to it.
    Delivered(u64),
    /// Nobody has it, or whoever had it does not come back.
    Gone,
    /// A bookie that may have it did not say.
    Unknown,
}

/// Looks below `last` in growing steps, then between the last that is gone and the first that is not: copies are contiguous, so that one
/// boundary is what there is. Ends at the first entry of which nobody knows: what a bookie has that is only away is not given up.
pub(super) async fn find(client: &LedgerClient, meta: LedgerMeta, last: EntryId) -> Event {
    if !client.tombstones(&meta, last).await.is_empty() {
        return Event::EndFound { end: last, length: 0 };
    }
    let reader = client.reader(Arc::new(meta));
    if !matches!(ask(client, &reader, last).await, Asked::Gone) {
        return Event::EndUnknown;
    }
    let (mut missing, mut step) = (last, 1);
    let (mut end, mut length) = loop {
        let entry = EntryId(missing.0 - step).max(EntryId::NONE);
        match ask(client, &reader, entry).await {
            Asked::Delivered(length) => break (entry, length),
            Asked::Gone => (missing, step) = (entry, step * 2),
            Asked::Unknown => return Event::EndUnknown,
        }
    };
    while missing > end.next() {
        let middle = EntryId(end.0 + (missing.0 - end.0) / 2);
        match ask(client, &reader, middle).await {
            Asked::Delivered(up_to) => (end, length) = (middle, up_to),
            Asked::Gone => missing = middle,
            Asked::Unknown => return Event::EndUnknown,
        }
    }
    tracing::warn!(ledger = %reader.meta().id, %last, %end, "nobody delivers the last entry of a ledger that is closed by force: it ends before");
    Event::EndFound { end, length }
}

/// Asks for an entry. Before the first there is nothing.
async fn ask(client: &LedgerClient, reader: &Reader, entry: EntryId) -> Asked {
    if entry == EntryId::NONE {
        return Asked::Delivered(0);
    }
    let mut attempts = Attempts::of(&client.parts.config, TRIES);
    loop {
        match reader.read(entry, entry, 0, Some(0)).await {
            Ok(entries) if !entries.is_empty() => {
                return Asked::Delivered(entries[0].position.cumulative_length);
            }
            Err(ReadError::DataLoss { .. } | ReadError::ObjectLost { .. }) => return Asked::Gone,
            Ok(_) | Err(ReadError::Unavailable { .. }) => {}
        }
        if !attempts.again().await {
            return if nobody_has(client, reader, entry).await {
                Asked::Gone
            } else {
                Asked::Unknown
            };
        }
    }
}

/// Whether each member says that it has not the entry, or does not come back.
async fn nobody_has(client: &LedgerClient, reader: &Reader, entry: EntryId) -> bool {
    let fragment = reader.meta().fragment_of(entry);
    for member in &fragment.ensemble {
        let op = QueryOp::Read { from: entry, to: entry, max_bytes: 0, prefix_bytes: Some(0) };
        let has_not = is_gone(client, member).await
            || matches!(reader.ask(member, fragment.first_entry, op).await, Answer::Absent);
        if !has_not {
            return false;
        }
    }
    true
}

/// Whether a member does not come back: it was decommissioned, or another life took its disk.
async fn is_gone(client: &LedgerClient, member: &Member) -> bool {
    let key = keys::bookie_cookie(&member.bookie);
    let Ok(found) = client.parts.store.get(&key).await else { return false };
    match found.map(|found| Cookie::decode(&found.value)) {
        None => true,
        Some(Ok(cookie)) => !cookie.disks.iter().any(|disk| disk.incarnation == member.incarnation),
        // What cannot be read may name it.
        Some(Err(_)) => false,
    }
}

#[cfg(test)]
mod tests;
