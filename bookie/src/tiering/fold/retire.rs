//! Carries out what [`super::shrink`] says, for all manifests: objects of what was given up go, so many in one round. A round begins
//! where the one before it had used that up, so that each partition comes to its turn.

use std::collections::HashMap;

use geminga_metastore::record::{LogStart, Manifest};
use geminga_metastore::{Error, KeyValue, Version, keys};
use geminga_proto::ids::Offset;

use super::pass::Pass;
use super::shrink::{Effect, Event, Over, Shrink};
use super::wanted::Wanted;
use super::{Folder, Of, PAGE, one_of_many};
use crate::metrics;

/// Most objects that are removed of one partition in one look.
const MAX_OF_ONE: usize = 500;
/// And of all in one round.
const MAX_OF_ALL: usize = 2_000;

/// What whoever is elected remembers of manifests from one round to the next. Lost with the election, which costs work and no more.
#[derive(Debug, Default)]
pub(in crate::tiering) struct Memory {
    of: HashMap<Of, Remembered>,
    /// The key of the last manifest that the round before had as much room for as for any; the next one begins behind it.
    served: Option<String>,
    /// There is more to remove than a round does.
    pub(in crate::tiering) more: bool,
}

#[derive(Debug, Clone)]
struct Remembered {
    /// The manifest as it was when there was nothing to take out of it, and where its log began then.
    settled: Option<(Version, Offset)>,
    pass: Pass,
}

impl Folder {
    /// One look at all manifests; how many objects of segments were removed.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(in crate::tiering) async fn retire(&self, memory: &mut Memory) -> Result<usize, Error> {
        let (mut removed, mut now) = (0, Memory::default());
        let (mut segments, mut parts) = (0, 0);
        let begun_after = memory.served.clone();
        // From there to the end, and then from the first to there.
        let (mut after, mut wraps) = (begun_after.clone(), begun_after.is_some());
        let (mut served, mut over) = (begun_after.clone(), false);
        while !over {
            let page = self.store.range(keys::MANIFESTS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                over = !wraps && begun_after.as_ref().is_some_and(|begun| item.key > *begun);
                if over {
                    break;
                }
                let Some(of) = keys::parse_manifest(&item.key) else { continue };
                let manifest = match Manifest::decode(&item.value.value) {
                    Ok(manifest) => manifest,
                    Err(error) => {
                        tracing::error!(key = item.key, %error, "a manifest is invalid; what it lists is kept");
                        continue;
                    }
                };
                parts += manifest.parts.len();
                segments += manifest.live().map(|p| p.segments as usize).sum::<usize>();
                let before = memory.of.get(&of).cloned();
                let left = MAX_OF_ALL - removed.min(MAX_OF_ALL);
                if left >= MAX_OF_ONE {
                    served = Some(item.key.clone());
                } else {
                    now.served.clone_from(&served);
                }
                if left == 0 {
                    now.more = true;
                    now.of.extend(before.map(|before| (of, before)));
                    continue;
                }
                let looked = self.look_at(of, manifest, item, before, left).await;
                let Some((done, remembered)) = one_of_many(of, looked)? else { continue };
                now.of.insert(of, remembered);
                now.more |= done.more;
                removed += done.removed;
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                (after, over, wraps) = (None, over || !wraps, false);
            }
        }
        *memory = now;
        metrics::folded_now(segments, parts);
        Ok(removed)
    }

    async fn look_at(
        &self,
        of: Of,
        manifest: Manifest,
        item: &KeyValue,
        before: Option<Remembered>,
        left: usize,
    ) -> Result<(Over, Remembered), Error> {
        let (wanted, version) = (self.wanted(of).await?, item.value.version);
        let pass = before.as_ref().map(|before| before.pass.clone()).unwrap_or_default();
        let now = match wanted {
            Wanted::From(start) => Some((version, start)),
            Wanted::Nothing => None,
        };
        let done = manifest.dropped_before == manifest.removed_before;
        if let (true, Some(now), Some(before)) = (done, now, before)
            && before.settled == Some(now)
        {
            let over = Over { removed: 0, settled: true, pass, more: false };
            return Ok((over, before));
        }
        let most = left.min(MAX_OF_ONE);
        let (now_ms, found) = (self.clock.now_ms(), (manifest, version));
        let begun = Shrink::begin(of, found, wanted, now_ms, (pass, most), self.mutations);
        let over = self.shrink(of, begun).await?;
        // Where it was changed, the next look finds another version, and looks once more.
        let settled = now.filter(|_| over.settled);
        let remembered = Remembered { settled, pass: over.pass.clone() };
        Ok((over, remembered))
    }

    async fn shrink(&self, of: Of, begun: (Shrink, Effect)) -> Result<Over, Error> {
        let (mut shrink, mut effect) = begun;
        loop {
            let event = match effect {
                Effect::ReadPart(part) => Event::Part(self.list(of, &part).await),
                Effect::Remove(object) if object.bucket != self.objects.bucket() => {
                    tracing::warn!(
                        key = object.key,
                        bucket = object.bucket,
                        own = self.objects.bucket(),
                        "the object of a segment that was given up is in another store than this bookie was given; it stays"
                    );
                    Event::Kept
                }
                Effect::Remove(object) => self.remove(&object.key).await,
                Effect::RemoveList(attempt) => {
                    let key = self.objects.manifest_key(self.cluster, of.0, of.1, attempt);
                    self.remove(&key).await
                }
                Effect::Commit(txn) => match self.commit(txn).await? {
                    Some(version) => Event::Committed(version),
                    None => Event::Doubt,
                },
                Effect::Over(over) => return Ok(over),
            };
            effect = shrink.step(event);
        }
    }

    /// What is wanted of a partition, by its topic's own key and its own.
    async fn wanted(&self, of: Of) -> Result<Wanted, Error> {
        if self.is_deleted(of.0).await? {
            return Ok(Wanted::Nothing);
        }
        let key = keys::log_start(of.0, of.1);
        let Some(found) = self.store.get(&key).await? else { return Ok(Wanted::From(Offset(0))) };
        match LogStart::decode(&found.value) {
            Ok(start) => Ok(Wanted::From(start.offset)),
            Err(error) => {
                tracing::error!(key, %error, "where a log starts is invalid; nothing of it is given up");
                Ok(Wanted::From(Offset(0)))
            }
        }
    }

    async fn remove(&self, key: &str) -> Event {
        match self.objects.delete(key).await {
            Ok(()) => Event::Removed,
            Err(error) => {
                metrics::tiering_failed();
                tracing::warn!(key, %error, "an object that is wanted no more could not be removed; trying again later");
                Event::Kept
            }
        }
    }
}
