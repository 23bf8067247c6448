//! What the metadata says of a store without a marker: whether it names objects there, and whether one of them is there. A mount point
//! whose directory is missing lacks all of them, and so does a bucket of the same name at another endpoint.
//!
//! A sample is asked for, spread evenly over all that is named: of a store that is the cluster's old objects may be gone since a backup
//! of the metadata, and new ones may be in a mount point that somebody wrote to by mistake. Ledgers that are being deleted are no witnesses.

use geminga_metastore::record::{LedgerMeta, LedgerState, Manifest};
use geminga_metastore::{Error, KeyValue, MetaStore, keys};
use geminga_proto::ids::ClusterUuid;

use crate::claim::ClaimError;
use crate::store::Store;

/// Keys of one page of a listing.
const PAGE: usize = 500;
/// So many objects are asked for at most.
const MAX_ASKED: usize = 32;

/// What is known of a store by objects that the metadata names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// None is named there.
    Unused,
    /// One of them is there.
    There,
    /// None of those that were asked for is there.
    Missing,
}

/// Asks the metadata, and then the store.
pub(crate) async fn evidence(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Result<Evidence, ClaimError> {
    let mut sample = Sample::new();
    for prefix in [keys::LEDGERS, keys::MANIFESTS] {
        gather(metadata, prefix, &mut |(bucket, key)| {
            if objects.covers(cluster, bucket, key) {
                sample.push(key);
            }
        })
        .await?;
    }
    if sample.kept.is_empty() {
        return Ok(Evidence::Unused);
    }
    for key in &sample.kept {
        if objects.head(key).await?.is_some() {
            return Ok(Evidence::There);
        }
    }
    Ok(Evidence::Missing)
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

/// Some of many keys, in bounded memory: every one, then every second, every fourth and so on.
struct Sample {
    kept: Vec<String>,
    seen: usize,
    every: usize,
}

impl Sample {
    fn new() -> Self {
        Self { kept: Vec::new(), seen: 0, every: 1 }
    }

    fn push(&mut self, key: &str) {
        if self.seen.is_multiple_of(self.every) && self.kept.len() == MAX_ASKED {
            let mut number = 0..;
            self.kept.retain(|_| number.next().is_some_and(|at: usize| at.is_multiple_of(2)));
            self.every *= 2;
        }
        if self.seen.is_multiple_of(self.every) {
            self.kept.push(key.to_owned());
        }
        self.seen += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_spread_over_all() {
        for all in [0, 1, MAX_ASKED, MAX_ASKED + 1, 1_000, 4_096] {
            let mut sample = Sample::new();
            (0..all).for_each(|at| sample.push(&at.to_string()));
            let kept: Vec<usize> = sample.kept.iter().map(|key| key.parse().unwrap()).collect();
            let least = all.min(MAX_ASKED / 2);
            assert!((least..=MAX_ASKED).contains(&kept.len()), "{} of {all}", kept.len());
            assert!(kept.windows(2).all(|pair| pair[1] - pair[0] == sample.every), "{kept:?}");
            assert!(kept.last().is_none_or(|last| all - last <= sample.every), "{kept:?}");
        }
    }
}
