//! What is in the object store, by its listing: one that was deleted since the backup is not in it. What is named and not listed is asked
//! for before it counts as gone. Of segments that were folded, the lists that manifests name say where they are. Where logs begin that the
//! listing lacks something of, a few objects say that were uploaded first of what is left of them.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use geminga_ledger::core::audit::{self, Log, Uploads, View};
use geminga_metastore::record::{Manifest, ManifestPart};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId, PartitionIndex, TopicId};
use geminga_tier::{
    FoldedSegment, Listed, Marker, ObjectError, ObjectName, SegmentList, Store, Surveyed,
};

use super::AT_ONCE;
use super::places::{Places, Stretch};
use crate::exit::{Exit, Failure};

/// Objects of a log that are looked at to find where it begins: the first one uploaded is the oldest, but for some that were repeated.
const FIRST_OF_LOG: usize = 4;

/// Objects of a log, by when they were written, and by their key where they were at once.
type Written = BTreeMap<(i64, String), (ObjectName, Listed)>;

/// A store that was listed.
pub(super) struct Objects {
    store: Store,
    cluster: ClusterUuid,
    /// The [`FIRST_OF_LOG`] objects of each log that were written first.
    first: BTreeMap<Log, Written>,
}

/// What manifests list.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// Segments at which nobody could look.
    pub(super) unlooked: u64,
    /// Objects that are not there: a list of segments, or a segment.
    pub(super) gone: Vec<String>,
}

impl Objects {
    /// Lists a store: and the uploads of ledgers that are in it.
    pub(super) async fn list(
        store: Store,
        cluster: ClusterUuid,
    ) -> Result<(Self, Uploads), Failure> {
        let bucket = store.bucket().to_owned();
        let root = store.root_key(cluster);
        let mut uploads = Uploads { bucket, root, ..Uploads::default() };
        let mut first: BTreeMap<Log, Written> = BTreeMap::new();
        let mut listing = store.list(cluster);
        while let Some(listed) = listing.try_next().await.map_err(unreachable)? {
            let Some(name) = store.parse_key(cluster, &listed.key) else { continue };
            uploads.add(name.ledger, name.attempt);
            let of = first.entry((name.topic, name.partition)).or_default();
            of.insert((listed.modified_ms, listed.key.clone()), (name, listed));
            if of.len() > FIRST_OF_LOG {
                of.pop_last();
            }
        }
        Ok((Self { store, cluster, first }, uploads))
    }

    /// Finds where logs begin of which something is not listed, by objects of ledgers that the metadata does not know. One that cannot be
    /// read says nothing.
    pub(super) async fn find_begins(&self, view: &mut View) -> Result<(), Failure> {
        let logs: BTreeSet<Log> = audit::unplaced(view);
        let first = logs.iter().filter_map(|log| self.first.get(log)).flat_map(BTreeMap::values);
        let unknown = first.filter(|(name, _)| !view.ledgers.contains_key(&name.ledger));
        let read: Vec<Option<(Log, i64)>> = stream::iter(unknown)
            .map(|(name, listed)| async move {
                match Surveyed::read(&self.store, self.cluster, name, listed).await {
                    Ok(object) => {
                        let log = (name.topic, name.partition);
                        Ok(Some((log, object.header.custom.first_offset)))
                    }
                    Err(error) if error.is_permanent() => Ok(None),
                    Err(error) => Err(unreachable(error)),
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        if let Some(uploads) = &mut view.uploads {
            for (log, offset) in read.into_iter().flatten() {
                let begin = uploads.begins.entry(log).or_insert(offset);
                *begin = (*begin).min(offset);
            }
        }
        Ok(())
    }

    /// Asks for each upload that is named and was not listed: the metadata was read later, and nothing is gone that only came late.
    pub(super) async fn find_unlisted(&self, view: &mut View) -> Result<(), Failure> {
        let unlisted = audit::unlisted(view);
        let known = unlisted.iter().filter_map(|(ledger, attempt)| {
            let meta = view.ledgers.get(ledger)?;
            let named = meta.tier.object().filter(|object| object.attempt == *attempt);
            let key = match named {
                // Perhaps below another prefix of the bucket.
                Some(object) => object.key.clone(),
                None => self.store.key(self.cluster, &meta.custom, *ledger, *attempt),
            };
            Some((*ledger, *attempt, key))
        });
        let found: Vec<(LedgerId, u128)> = stream::iter(known)
            .map(|(ledger, attempt, key)| async move {
                Ok((self.is_there(&key).await?).then_some((ledger, attempt)))
            })
            .buffer_unordered(AT_ONCE)
            .try_filter_map(|found| async move { Ok::<_, Failure>(found) })
            .try_collect()
            .await?;
        if let Some(uploads) = &mut view.uploads {
            found.into_iter().for_each(|(ledger, attempt)| uploads.add(ledger, attempt));
        }
        Ok(())
    }

    /// Whether the metadata names another store, too, or another prefix or directory of this one.
    pub(super) async fn are_some_elsewhere(
        &self,
        metadata: &dyn MetaStore,
        view: &View,
    ) -> Result<bool, Failure> {
        let Some(uploads) = &view.uploads else { return Ok(true) };
        let other = |bucket: &str, key: &str| !uploads.covers(bucket, key);
        let mut objects = view.ledgers.values().filter_map(|meta| meta.tier.object());
        if objects.any(|object| other(&object.bucket, &object.key)) {
            return Ok(true);
        }
        // What was uploaded there may be known to bookies only.
        let used = metadata.range(keys::OBJECT_STORES, None, usize::MAX).await?.items;
        let own = keys::object_store(&self.store.place());
        if used.iter().any(|item| item.key != own) {
            return Ok(true);
        }
        let manifests = metadata.range(keys::MANIFESTS, None, usize::MAX).await?.items;
        let mut manifests =
            manifests.iter().filter_map(|item| Manifest::decode(&item.value.value).ok());
        Ok(manifests.any(|manifest| manifest.live().any(|part| other(&part.bucket, &part.key))))
    }

    /// Whether the store itself says that it is one of a cluster.
    pub(super) async fn is_marked(&self) -> Result<bool, Failure> {
        Ok(Marker::read(&self.store).await.map_err(unreachable)?.is_some())
    }

    async fn is_there(&self, key: &str) -> Result<bool, Failure> {
        Ok(self.store.head(key).await.map_err(unreachable)?.is_some())
    }

    /// Where they are.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The segments of one part of a manifest, as far as they are there.
    async fn look(
        &self,
        of: (TopicId, PartitionIndex),
        manifest: &Manifest,
        part: &ManifestPart,
        uploads: &Uploads,
        (places, found): (&mut Places, &mut Folded),
    ) -> Result<(), Failure> {
        if part.bucket != self.store.bucket() {
            found.unlooked += u64::from(part.segments);
            return Ok(());
        }
        let mut lost = |key: &str| {
            let whole = Stretch { from: part.base_offset, to: part.end_offset, is_there: false };
            places.add(of, whole);
            found.gone.push(key.to_owned());
        };
        let list = match SegmentList::read(&self.store, self.cluster, of, part).await {
            Ok(list) => list,
            Err(error) if error.is_permanent() => {
                match uploads.covers(&part.bucket, &part.key) {
                    true => lost(&part.key),
                    false => found.unlooked += u64::from(part.segments),
                }
                return Ok(());
            }
            Err(error) => return Err(unreachable(error)),
        };
        let given_up = |one: &&FoldedSegment| u64::from(one.seq) < manifest.dropped_before;
        for one in list.of(part).iter().filter(|one| !given_up(one)) {
            let object = one.ledger().ok().and_then(|meta| meta.tier.object().cloned());
            let mut there = object.as_ref().and_then(|at| uploads.has(one.segment.ledger, at));
            if there != Some(true)
                && let Some(at) = object.as_ref().filter(|at| at.bucket == self.store.bucket())
                && self.is_there(&at.key).await?
            {
                there = Some(true);
            }
            match there {
                None => found.unlooked += 1,
                Some(true) => {}
                Some(false) => found.gone.extend(object.map(|at| at.key)),
            }
            let is_there = there != Some(false);
            places.add(of, Stretch { from: one.segment.base_offset, to: one.end(), is_there });
        }
        Ok(())
    }
}

/// Looks at what manifests list, and adds where it is in the logs.
pub(super) async fn folded(
    metadata: &dyn MetaStore,
    objects: Option<(&Objects, &Uploads)>,
    places: &mut Places,
) -> Result<Folded, Failure> {
    let mut found = Folded::default();
    for item in metadata.range(keys::MANIFESTS, None, usize::MAX).await?.items {
        let manifest = Manifest::decode(&item.value.value);
        let (Some(of), Ok(manifest)) = (keys::parse_manifest(&item.key), manifest) else {
            continue;
        };
        for part in manifest.live() {
            match objects {
                None => found.unlooked += u64::from(part.segments),
                Some((objects, uploads)) => {
                    let to = (&mut *places, &mut found);
                    objects.look(of, &manifest, part, uploads, to).await?;
                }
            }
        }
    }
    Ok(found)
}

fn unreachable(error: ObjectError) -> Failure {
    Failure::with(Exit::Unreachable, error).because("OBJECT_STORE_UNAVAILABLE")
}

#[cfg(test)]
mod tests;
