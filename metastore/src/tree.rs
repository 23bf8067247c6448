//! Keys, revisions, leases and recent history as plain state: what the memory and the embedded store share. Synchronous;
//! whoever holds it decides when a change is durable: [`Tree::prepare`] judges, [`Tree::apply`] makes it visible.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use geminga_proto::caps;
use tokio::time::Instant;

use crate::store::{
    Change, Error, Guard, KeyValue, LeaseId, Op, Range, Revision, Txn, Version, Versioned,
    WatchEvent,
};

/// Revisions kept for watches that lag.
const HISTORY: usize = 10_000;
/// Keys and values of one transaction. etcd refuses requests above 1.5 MiB, so no store takes what etcd would not.
const MAX_TXN_BYTES: usize = 1024 * 1024;

#[derive(Debug)]
struct Item {
    value: Versioned,
    lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<String>,
}

/// A key's new state.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) key: String,
    /// `None` = removed.
    pub(crate) value: Option<Versioned>,
    pub(crate) lease: Option<LeaseId>,
}

/// A judged transaction, not yet visible.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    /// Its own when it writes something, else the last one there was.
    pub(crate) revision: Revision,
    pub(crate) writes: Vec<Write>,
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct Tree {
    items: BTreeMap<String, Item>,
    revision: Revision,
    history: VecDeque<(Revision, Vec<Change>)>,
    /// Changes up to here are no longer in `history`.
    compacted: Revision,
    leases: BTreeMap<LeaseId, Lease>,
}

impl Tree {
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            items: BTreeMap::new(),
            revision,
            history: VecDeque::new(),
            compacted: revision,
            leases: BTreeMap::new(),
        }
    }

    /// Puts back a key that was stored before a restart.
    pub(crate) fn restore(&mut self, key: String, value: Versioned) {
        self.items.insert(key, Item { value, lease: None });
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn get(&self, key: &str) -> Option<Versioned> {
        self.items.get(key).map(|item| item.value.clone())
    }

    pub(crate) fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Range {
        let limit = limit.max(1);
        let from = after.filter(|after| *after >= prefix);
        let start = match from {
            Some(after) => std::ops::Bound::Excluded(after.to_owned()),
            None => std::ops::Bound::Included(prefix.to_owned()),
        };
        let mut rest = self.items.range((start, std::ops::Bound::Unbounded));
        let mut items = Vec::new();
        let mut more = false;
        for (key, item) in rest.by_ref().take_while(|(key, _)| key.starts_with(prefix)) {
            if items.len() == limit {
                more = true;
                break;
            }
            items.push(KeyValue { key: key.clone(), value: item.value.clone() });
        }
        Range { items, revision: self.revision, more }
    }

    /// Judges a transaction against what is visible. `None` = a guard failed.
    pub(crate) fn prepare(&self, txn: &Txn) -> Result<Option<Prepared>, Error> {
        check(txn)?;
        if !txn.guards.iter().all(|guard| self.holds(guard)) {
            return Ok(None);
        }
        let next = Revision(self.revision.0 + 1);
        let mut writes = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    if let Some(lease) = lease
                        && !self.leases.contains_key(lease)
                    {
                        return Err(Error::LeaseGone(*lease));
                    }
                    let created = self.items.get(key).map_or(next, |item| item.value.created);
                    let value =
                        Versioned { value: value.clone(), version: Version(next.0), created };
                    writes.push(Write { key: key.clone(), value: Some(value), lease: *lease });
                }
                Op::Delete { key } if self.items.contains_key(key) => {
                    writes.push(Write { key: key.clone(), value: None, lease: None });
                }
                Op::Delete { .. } => {}
            }
        }
        let revision = if writes.is_empty() { self.revision } else { next };
        Ok(Some(Prepared { revision, writes }))
    }

    fn holds(&self, guard: &Guard) -> bool {
        match guard {
            Guard::Absent(key) => !self.items.contains_key(key),
            Guard::Version(key, version) => {
                self.items.get(key).is_some_and(|item| item.value.version == *version)
            }
            Guard::Created(key, created) => {
                self.items.get(key).is_some_and(|item| item.value.created == *created)
            }
        }
    }

    /// Makes a prepared change visible; nothing may have been applied since it was prepared.
    pub(crate) fn apply(&mut self, prepared: Prepared) {
        if prepared.writes.is_empty() {
            return;
        }
        debug_assert_eq!(prepared.revision.0, self.revision.0 + 1, "one writer, in order");
        self.revision = prepared.revision;
        let mut changes = Vec::with_capacity(prepared.writes.len());
        for Write { key, value, lease } in prepared.writes {
            if let Some(Item { lease: Some(old), .. }) = self.items.get(&key)
                && let Some(old) = self.leases.get_mut(old)
            {
                old.keys.remove(&key);
            }
            match value {
                Some(value) => {
                    if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                        lease.keys.insert(key.clone());
                    }
                    changes.push(Change::Put(KeyValue { key: key.clone(), value: value.clone() }));
                    self.items.insert(key, Item { value, lease });
                }
                None => {
                    self.items.remove(&key);
                    changes.push(Change::Delete { key });
                }
            }
        }
        self.history.push_back((self.revision, changes));
        while self.history.len() > HISTORY {
            self.compacted =
                self.history.pop_front().map_or(self.compacted, |(revision, _)| revision);
        }
    }

    /// Forgets history, as a compaction does: watches that lag get a snapshot.
    #[cfg(test)]
    pub(crate) fn compact(&mut self) {
        self.history.clear();
        self.compacted = self.revision;
    }

    /// The next event of a watch that has seen everything up to `seen`, and what it has seen then.
    pub(crate) fn next_event(
        &self,
        prefix: &str,
        seen: Option<Revision>,
    ) -> Option<(WatchEvent, Revision)> {
        let Some(seen) = seen.filter(|seen| *seen >= self.compacted) else {
            return Some((
                WatchEvent::Snapshot(self.range(prefix, None, usize::MAX)),
                self.revision,
            ));
        };
        let skip = self.history.partition_point(|(revision, _)| *revision <= seen);
        self.history.iter().skip(skip).find_map(|(revision, changes)| {
            let under = |change: &&Change| match change {
                Change::Put(item) => item.key.starts_with(prefix),
                Change::Delete { key } => key.starts_with(prefix),
            };
            let changes: Vec<Change> = changes.iter().filter(under).cloned().collect();
            let event = WatchEvent::Changes { revision: *revision, changes };
            match &event {
                WatchEvent::Changes { changes, .. } if changes.is_empty() => None,
                _ => Some((event, *revision)),
            }
        })
    }

    pub(crate) fn grant(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        self.leases.insert(lease, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
    }

    pub(crate) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<(), Error> {
        let entry = self.leases.get_mut(&lease).filter(|entry| entry.ends > now);
        let entry = entry.ok_or(Error::LeaseGone(lease))?;
        entry.ends = now + entry.ttl;
        Ok(())
    }

    /// When the next lease ends.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).min()
    }

    /// The leases that have ended by `now`.
    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
    }

    /// The removal of a lease's keys, in one revision; `None` when it has none. Call [`Tree::forget`] with it.
    pub(crate) fn prepare_end(&self, lease: LeaseId) -> Option<Prepared> {
        let keys = &self.leases.get(&lease)?.keys;
        let gone = |key: &String| Write { key: key.clone(), value: None, lease: None };
        let writes: Vec<Write> = keys.iter().map(gone).collect();
        (!writes.is_empty()).then(|| Prepared { revision: Revision(self.revision.0 + 1), writes })
    }

    pub(crate) fn forget(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
    }
}

/// What no store accepts.
pub(crate) fn check(txn: &Txn) -> Result<(), Error> {
    let operations = txn.guards.len() + txn.ops.len();
    if operations > caps::MAX_METADATA_TXN_OPS {
        let limit = caps::MAX_METADATA_TXN_OPS;
        return Err(Error::Invalid(format!(
            "{operations} operations in one transaction, the limit is {limit}"
        )));
    }
    let mut keys = BTreeSet::new();
    let mut bytes = 0;
    for op in &txn.ops {
        let (key, size) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
        };
        if size > caps::MAX_METADATA_VALUE_BYTES {
            return Err(Error::Invalid(format!("{size} bytes under {key}")));
        }
        if key.is_empty() || key.starts_with('/') {
            return Err(Error::Invalid(format!("{key:?} is not a key")));
        }
        bytes += key.len() + size;
        if bytes > MAX_TXN_BYTES {
            return Err(Error::Invalid(format!("more than {MAX_TXN_BYTES} bytes at once")));
        }
        if !keys.insert(key) {
            return Err(Error::Invalid(format!("{key} is changed twice in one transaction")));
        }
    }
    Ok(())
}
