//! Objects of imported topics that are not there: whoever cleans up in a cluster that lives may have removed one before the metadata named
//! it again. Asked for once the topic is there, and of what the metadata names then: a topic that stood already has other segments than were
//! surveyed, and what a first run found to be gone a second one finds again.
//!
//! A removal reads the metadata before, and is not one step with that: a request that was on its way then, and takes as long as one may,
//! comes after this. A run a minute later finds out.

use futures::{StreamExt, TryStreamExt, stream};
use geminga_metastore::record::{LedgerMeta, LedgerState, Segment};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId, TopicId};
use geminga_tier::Store;

use crate::exit::{Exit, Failure};

/// Objects that are asked for at a time.
const AT_ONCE: usize = 8;

/// Keys of one page of a listing.
const PAGE: usize = 500;

/// The keys of those of a topic that the metadata names in this store, and that are not there.
pub(super) async fn find(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    topic: TopicId,
) -> Result<Vec<String>, Failure> {
    let unreachable = |error| {
        let what = format!(
            "topics were imported, and their objects could not be asked for: {error}; run it again"
        );
        Failure::with(Exit::Unreachable, what).because("OBJECT_STORE_UNAVAILABLE")
    };
    let (mut gone, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = metadata.range(&keys::all_segments_of(topic), after.as_deref(), PAGE).await?;
        let mut named = Vec::new();
        for item in &page.items {
            let Ok(segment) = Segment::decode(&item.value.value) else { continue };
            let key = object_of(metadata, objects, cluster, segment.ledger).await?;
            named.extend(key.map(|key| (segment.ledger, key)));
        }
        for (ledger, key) in missing(objects, named).await.map_err(unreachable)? {
            // Deleted with its segment, or folded, since.
            if object_of(metadata, objects, cluster, ledger).await?.as_ref() == Some(&key) {
                gone.push(key);
            }
        }
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            return Ok(gone);
        }
    }
}

/// The object that a ledger names in this store, and that readers need.
async fn object_of(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    ledger: LedgerId,
) -> Result<Option<String>, Failure> {
    let Some(found) = metadata.get(&keys::ledger(ledger)).await? else { return Ok(None) };
    let Ok(meta) = LedgerMeta::decode(ledger, &found.value) else { return Ok(None) };
    let named = meta.tier.object().filter(|_| meta.state != LedgerState::Deleting);
    let here = named.filter(|named| objects.covers(cluster, &named.bucket, &named.key));
    Ok(here.map(|named| named.key.clone()))
}

async fn missing(
    objects: &Store,
    named: Vec<(LedgerId, String)>,
) -> Result<Vec<(LedgerId, String)>, geminga_tier::ObjectError> {
    let asked = stream::iter(named).map(|(ledger, key)| async move {
        let found = objects.head(&key).await?;
        Ok(found.is_none().then_some((ledger, key)))
    });
    asked.buffered(AT_ONCE).try_filter_map(|gone| async { Ok(gone) }).try_collect().await
}

/// What it comes to: nothing of them is read before they are back.
pub(super) fn refuse(gone: &[String]) -> Result<(), Failure> {
    if gone.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{} objects of these topics are not there, and their records cannot be read: bring them back under their names, from the bucket's versions or a backup",
        gone.len()
    );
    Err(Failure::with(Exit::Incomplete, what).because("OBJECTS_GONE"))
}
