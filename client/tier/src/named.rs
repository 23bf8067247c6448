//! What the metadata says of a store without a marker: whether it names objects there, and whether they are there. A mount point
//! whose directory is missing lacks all of them, but for some that a bookie may have left there, and so does a bucket of the same name at
//! another endpoint.
//!
//! A sample is asked for, chosen at random from all that is named, and the same each time: of a store that is the cluster's old objects may be gone since a backup
//! of the metadata, and new ones may be in a mount point that somebody wrote to by mistake. So one that is there proves nothing: most of
//! them must be. Ledgers that are being deleted are no witnesses.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{StreamExt, stream};
use geminga_metastore::record::{LedgerMeta, LedgerState, Manifest};
use geminga_metastore::{Error, KeyValue, MetaStore, keys};
use geminga_proto::ids::ClusterUuid;

use crate::claim::ClaimError;
use crate::store::Store;

/// Keys of one page of a listing.
const PAGE: usize = 500;
/// So many objects are asked for at most.
const MAX_ASKED: usize = 32;
/// So many at a time.
const AT_ONCE: usize = 4;
/// Of a store that was marked once, one in so many may be missing.
const FEW: usize = 10;

/// How many of those that are asked for have to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needed {
    /// Three in four: of two stores that share what is named neither has so many, nor seems to by the choice of a sample.
    Most,
    /// All but a few: the store was the cluster's, and what was in it is there.
    NearlyAll,
}

impl Needed {
    /// How many may be missing.
    fn spares(self, asked: usize) -> usize {
        match self {
            Self::Most => asked / 4,
            Self::NearlyAll => asked / FEW,
        }
    }
}

/// What is known of a store by objects that the metadata names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// None is named there.
    Unused,
    /// So many as are needed are there.
    There,
    /// Too many of those that were asked for are not.
    Missing,
}

/// Asks the metadata, and then the store.
pub(crate) async fn evidence(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    needed: Needed,
) -> Result<Evidence, ClaimError> {
    let mut sample = Sample(BTreeMap::new());
    for prefix in [keys::LEDGERS, keys::MANIFESTS] {
        gather(metadata, prefix, &mut |(bucket, key)| {
            if objects.covers(cluster, bucket, key) {
                sample.push(key);
            }
        })
        .await?;
    }
    if sample.0.is_empty() {
        return Ok(Evidence::Unused);
    }
    // An empty directory, which is asked again and again, is known by the first few.
    let mut spares = needed.spares(sample.0.len());
    let head = |key: String| {
        let objects = objects.clone();
        async move { objects.head(&key).await }
    };
    let heads: Vec<_> = sample.0.into_values().map(head).collect();
    let mut asked = stream::iter(heads).buffered(AT_ONCE);
    while let Some(found) = asked.next().await {
        if found?.is_none() {
            match spares.checked_sub(1) {
                Some(left) => spares = left,
                None => return Ok(Evidence::Missing),
            }
        }
    }
    Ok(Evidence::There)
}

/// Goes through buckets and keys of all objects that are named below a prefix of the metadata. A value that cannot be read names none.
async fn gather(
    metadata: &dyn MetaStore,
    prefix: &str,
    found: &mut (dyn FnMut((&str, &str)) + Send),
) -> Result<(), Error> {
    let mut after = None::<String>;
    loop {
        let page = metadata.range(prefix, after.as_deref(), PAGE).await?;
        for item in &page.items {
            of_ledger(item, found);
            of_manifest(item, found);
        }
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            return Ok(());
        }
    }
}

fn of_ledger(item: &KeyValue, found: &mut (dyn FnMut((&str, &str)) + Send)) {
    let Some(ledger) = keys::parse_ledger(&item.key) else { return };
    let Ok(meta) = LedgerMeta::decode(ledger, &item.value.value) else { return };
    if let Some(object) = meta.tier.object().filter(|_| meta.state != LedgerState::Deleting) {
        found((&object.bucket, &object.key));
    }
}

fn of_manifest(item: &KeyValue, found: &mut (dyn FnMut((&str, &str)) + Send)) {
    if keys::parse_manifest(&item.key).is_none() {
        return;
    }
    let Ok(manifest) = Manifest::decode(&item.value.value) else { return };
    manifest.live().for_each(|part| found((&part.bucket, &part.key)));
}

/// Some of many keys, in bounded memory: those whose hashes are the lowest. No pattern in what is named, such as of uploads that took turns
/// between two stores, shows in it.
struct Sample(BTreeMap<u64, String>);

impl Sample {
    fn push(&mut self, key: &str) {
        let mut hash = DefaultHasher::new();
        key.hash(&mut hash);
        self.0.insert(hash.finish(), key.to_owned());
        if self.0.len() > MAX_ASKED {
            self.0.pop_last();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_many_is_not_enough() {
        let spares = |needed: Needed| [1, 2, 3, 9, 10, 31, 32].map(|asked| needed.spares(asked));
        assert_eq!(spares(Needed::Most), [0, 0, 0, 2, 2, 7, 8]);
        assert_eq!(spares(Needed::NearlyAll), [0, 0, 0, 0, 1, 3, 3]);
    }

    #[test]
    fn a_sample_is_spread_over_all() {
        for all in [0, 1, MAX_ASKED, MAX_ASKED + 1, 1_000, 4_096] {
            let mut sample = Sample(BTreeMap::new());
            (0..all).for_each(|at| sample.push(&at.to_string()));
            let kept: Vec<usize> = sample.0.values().map(|key| key.parse().unwrap()).collect();
            assert_eq!(kept.len(), all.min(MAX_ASKED), "of {all}");
            // Neither the first, nor the last, nor every second: of each a fair part.
            if all > MAX_ASKED * 2 {
                let first = kept.iter().filter(|at| **at < all / 2).count();
                let odd = kept.iter().filter(|at| **at % 2 == 1).count();
                for part in [first, odd] {
                    assert!((MAX_ASKED / 5..=MAX_ASKED * 4 / 5).contains(&part), "{kept:?}");
                }
            }
        }
    }
}
