//! What is in the object store, by its listing: one that was deleted since the backup is not in it. Of segments that were folded, the
//! lists that manifests name say where they are.

use std::collections::BTreeSet;

use futures::TryStreamExt;
use geminga_ledger::core::audit::Uploads;
use geminga_metastore::record::{Manifest, ManifestPart};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::ids::{ClusterUuid, PartitionIndex, TopicId};
use geminga_tier::{FoldedSegment, ManifestName, ObjectError, SegmentList, Store};

use super::places::{Places, Stretch};
use crate::exit::{Exit, Failure};

/// A store that was listed.
pub(super) struct Objects {
    store: Store,
    cluster: ClusterUuid,
    lists: BTreeSet<(TopicId, PartitionIndex, u128)>,
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
        let mut uploads = Uploads { bucket, ..Uploads::default() };
        let mut lists = BTreeSet::new();
        let mut listing = store.list(cluster);
        while let Some(listed) = listing.try_next().await.map_err(unreachable)? {
            if let Some(name) = store.parse_key(cluster, &listed.key) {
                uploads.of.entry(name.ledger).or_default().insert(name.attempt);
            } else if let Some(name) = store.parse_manifest_key(cluster, &listed.key) {
                let ManifestName { topic, partition, attempt } = name;
                lists.insert((topic, partition, attempt));
            }
        }
        Ok((Self { store, cluster, lists }, uploads))
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
        if !self.lists.contains(&(of.0, of.1, part.attempt)) {
            lost(&part.key);
            return Ok(());
        }
        let list = match SegmentList::read(&self.store, self.cluster, of, part).await {
            Ok(list) => list,
            Err(error) if error.is_permanent() => {
                lost(&part.key);
                return Ok(());
            }
            Err(error) => return Err(unreachable(error)),
        };
        let given_up = |one: &&FoldedSegment| u64::from(one.seq) < manifest.dropped_before;
        for one in list.of(part).iter().filter(|one| !given_up(one)) {
            let object = one.ledger().ok().and_then(|meta| meta.tier.object().cloned());
            let there = object.as_ref().and_then(|at| uploads.has(one.segment.ledger, at));
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
