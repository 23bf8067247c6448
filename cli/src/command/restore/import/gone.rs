//! Imported objects that are not there any more: whoever cleans up in a cluster that lives may have removed one before the metadata named it
//! again. Asked for once the topic is there: from then on nobody removes it, for the metadata is read right before each removal.

use futures::{StreamExt, TryStreamExt, stream};
use geminga_tier::{Store, Surveyed};

use crate::exit::{Exit, Failure};

/// Objects that are asked for at a time.
const AT_ONCE: usize = 8;

/// The keys of those that are not there.
pub(super) async fn find(store: &Store, segments: &[&Surveyed]) -> Result<Vec<String>, Failure> {
    let unreachable = |error| {
        let what = format!(
            "topics were imported, and their objects could not be asked for: {error}; run it again"
        );
        Failure::with(Exit::Unreachable, what).because("OBJECT_STORE_UNAVAILABLE")
    };
    let missing = stream::iter(segments).map(|segment| async move {
        let key = &segment.at.key;
        Ok::<_, geminga_tier::ObjectError>(match store.head(key).await? {
            Some(_) => None,
            None => Some(key.clone()),
        })
    });
    let missing = missing.buffered(AT_ONCE).try_filter_map(|key| async { Ok(key) });
    missing.try_collect().await.map_err(unreachable)
}

/// What it comes to: nothing of them is read before they are back.
pub(super) fn refuse(gone: &[String]) -> Result<(), Failure> {
    if gone.is_empty() {
        return Ok(());
    }
    let what = format!(
        "{} imported objects were removed meanwhile, and their records cannot be read: bring them back under their names, from the bucket's versions or a backup",
        gone.len()
    );
    Err(Failure::with(Exit::Incomplete, what).because("OBJECTS_GONE"))
}
