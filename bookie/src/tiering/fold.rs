//! Metadata folding (protocol 7.9): ten thousand tiered segments of a partition are a few objects, not ten thousand keys.
//!
//! * [`core`]: moves the oldest run of a partition's segments from their keys to a manifest. [`shrink`]: takes out of manifests what
//!   retention or the deletion of a topic gave up. Both pure; here they are carried out, for one partition after the other.
//!
//! Done by the janitor, which is elected among the bookies that have an object store; the auditor may have none. The election saves
//! work and decides nothing: two at once are told apart by the versions that guard every transaction.

mod core;
mod shrink;

use std::collections::HashMap;
use std::sync::Arc;

use geminga_metastore::record::{LedgerMeta, LogStart, Manifest, Segment};
use geminga_metastore::{Error, KeyValue, MetaStore, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId, Offset, PartitionIndex, TopicId};
use geminga_runtime::{Random, WallClock};
use geminga_tier::{ObjectError, SegmentList, Store};

use self::core::{Effect, Event, Fold, Listed, Look, Policy};
use self::shrink::{Shrink, Unread, Wanted};
use super::Config;
use crate::metrics;

/// Keys of one page of a listing.
const PAGE: usize = 500;
/// Most segments of a partition that are looked at: those behind them are folded later.
const MAX_LISTED: usize = 20_000;

/// One partition.
type Of = (TopicId, PartitionIndex);

/// Folds.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) cluster: ClusterUuid,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) objects: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) config: Config,
}

/// Manifests as they were when there was nothing to take out of them, and where their logs began then.
pub(super) type Seen = HashMap<Of, (Version, Offset)>;

impl Folder {
    /// One look at all partitions: how many segments were folded, and how many taken out. What cannot be done now holds up no other
    /// partition.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(super) async fn round(&self, seen: &mut Seen) -> Result<(usize, usize), Error> {
        let removed = self.shrink_all(seen).await?;
        let folded = self.fold_all().await?;
        Ok((folded, removed))
    }

    async fn shrink_all(&self, seen: &mut Seen) -> Result<usize, Error> {
        let (mut removed, mut after, mut there) = (0, None::<String>, Seen::new());
        let (mut segments, mut parts) = (0, 0);
        loop {
            let page = self.store.range(keys::MANIFESTS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(of) = keys::parse_manifest(&item.key) else { continue };
                match Manifest::decode(&item.value.value) {
                    Ok(manifest) => {
                        parts += manifest.parts.len();
                        segments += manifest.live().map(|p| p.segments as usize).sum::<usize>();
                        removed += self.shrink(of, manifest, item, seen, &mut there).await?;
                    }
                    Err(error) => {
                        tracing::error!(key = item.key, %error, "a manifest is invalid; what it lists is kept");
                    }
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                *seen = there;
                metrics::folded_now(segments, parts);
                return Ok(removed);
            }
        }
    }

    async fn shrink(
        &self,
        of: Of,
        manifest: Manifest,
        item: &KeyValue,
        seen: &Seen,
        there: &mut Seen,
    ) -> Result<usize, Error> {
        let wanted = self.wanted(of).await?;
        let version = item.value.version;
        if let Wanted::From(start) = wanted {
            there.insert(of, (version, start));
            let done = manifest.dropped_before == manifest.removed_before;
            if done && seen.get(&of) == Some(&(version, start)) {
                return Ok(0);
            }
        }
        let (mut shrink, mut effect) =
            Shrink::begin(of, (manifest, version), wanted, self.clock.now_ms());
        loop {
            let event = match effect {
                shrink::Effect::ReadPart(part) => {
                    let read = SegmentList::read(&self.objects, self.cluster, of, &part).await;
                    shrink::Event::Part(read.map_err(|error| unread(of, &error)))
                }
                shrink::Effect::Remove(object) if object.bucket != self.objects.bucket() => {
                    tracing::warn!(
                        key = object.key,
                        bucket = object.bucket,
                        own = self.objects.bucket(),
                        "the object of a segment that was given up is in another store than this bookie was given; it stays"
                    );
                    shrink::Event::Doubt
                }
                shrink::Effect::Remove(object) => self.remove(&object.key).await,
                shrink::Effect::RemoveList(attempt) => {
                    let key = self.objects.manifest_key(self.cluster, of.0, of.1, attempt);
                    self.remove(&key).await
                }
                shrink::Effect::Commit(txn) => match self.commit(txn).await? {
                    Some(version) => shrink::Event::Committed(version),
                    None => shrink::Event::Doubt,
                },
                shrink::Effect::Over(removed) => return Ok(removed),
            };
            if matches!(event, shrink::Event::Doubt) {
                there.remove(&of);
            }
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

    async fn is_deleted(&self, topic: TopicId) -> Result<bool, Error> {
        Ok(self.store.get(&keys::deleted_topic(topic)).await?.is_some())
    }

    async fn remove(&self, key: &str) -> shrink::Event {
        match self.objects.delete(key).await {
            Ok(()) => shrink::Event::Removed,
            Err(error) => {
                metrics::tiering_failed();
                tracing::warn!(key, %error, "an object that is wanted no more could not be removed; trying again later");
                shrink::Event::Doubt
            }
        }
    }

    async fn fold_all(&self) -> Result<usize, Error> {
        let (mut folded, mut after) = (0, None::<String>);
        let mut current: Option<(Of, Vec<Listed>)> = None;
        loop {
            let page = self.store.range(keys::SEGMENTS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(of) = keys::parse_segment_partition(&item.key) else { continue };
                if current.as_ref().is_none_or(|(now, _)| *now != of) {
                    let before = current.replace((of, Vec::new()));
                    folded += self.fold_one(before).await?;
                }
                let listed = current.as_mut().map(|(_, listed)| listed);
                if let (Some(listed), Some(one)) = (listed, listed_of(item))
                    && listed.len() < MAX_LISTED
                {
                    listed.push(one);
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(folded + self.fold_one(current).await?);
            }
        }
    }

    async fn fold_one(&self, partition: Option<(Of, Vec<Listed>)>) -> Result<usize, Error> {
        let Some((of, listed)) = partition else { return Ok(0) };
        let policy = Policy { keep: self.config.fold_keep, at_least: self.config.fold_at };
        if policy.foldable(&listed) == 0 || self.is_deleted(of.0).await? {
            return Ok(0);
        }
        let look = Look {
            cluster: self.cluster,
            of,
            bucket: self.objects.bucket().to_owned(),
            policy,
            attempt: self.random.next_u128(),
            now_ms: self.clock.now_ms(),
        };
        let (mut fold, mut effect) = Fold::begin(look, listed);
        loop {
            let event = match effect {
                Effect::ReadManifest => Event::Manifest(self.manifest(of).await?),
                Effect::ReadLedger(ledger) => Event::Ledger(self.ledger(ledger).await?),
                Effect::ReadPart(part) => {
                    let read = SegmentList::read(&self.objects, self.cluster, of, &part).await;
                    Event::Part(read.inspect_err(|error| _ = unread(of, error)).ok())
                }
                Effect::Write(list) => Event::Written(self.write(of, &list).await),
                Effect::Commit(txn) => match self.commit(txn).await? {
                    Some(version) => Event::Committed(version),
                    None => Event::Doubt,
                },
                Effect::Over(folded) => {
                    if folded > 0 {
                        metrics::folded(folded);
                        tracing::info!(topic = %of.0, partition = %of.1, folded, "segments folded into a manifest");
                    }
                    return Ok(folded);
                }
            };
            effect = fold.step(event);
        }
    }

    async fn manifest(&self, of: Of) -> Result<Option<(Manifest, Version)>, Error> {
        let key = keys::manifest(of.0, of.1);
        let Some(found) = self.store.get(&key).await? else { return Ok(None) };
        let manifest = Manifest::decode(&found.value)
            .map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })?;
        Ok(Some((manifest, found.version)))
    }

    /// One that cannot be read is not folded.
    async fn ledger(&self, ledger: LedgerId) -> Result<Option<(LedgerMeta, Version)>, Error> {
        let found = self.store.get(&keys::ledger(ledger)).await?;
        Ok(found.and_then(|found| {
            Some((LedgerMeta::decode(ledger, &found.value).ok()?, found.version))
        }))
    }

    async fn write(
        &self,
        of: Of,
        list: &SegmentList,
    ) -> Option<geminga_metastore::record::ManifestPart> {
        let written = list.write(&self.objects).await;
        written
            .inspect_err(|error| {
                metrics::tiering_failed();
                tracing::warn!(topic = %of.0, partition = %of.1, %error, "a manifest could not be written; its segments keep their keys until it is tried again");
            })
            .ok()
    }

    /// `None`: not done, or nobody knows. The next look begins from what stands then (M9).
    async fn commit(&self, txn: Txn) -> Result<Option<Version>, Error> {
        match self.store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => Ok(Some(Version(revision.0))),
            Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A segment's key; one that cannot be read ends the run.
fn listed_of(item: &KeyValue) -> Option<Listed> {
    let seq = keys::parse_segment_seq(&item.key)?;
    let segment = Segment::decode(&item.value.value).ok()?;
    Some(Listed { seq, segment, version: item.value.version })
}

fn unread(of: Of, error: &ObjectError) -> Unread {
    match error {
        ObjectError::NotFound { .. }
        | ObjectError::Format(
            geminga_tier::FormatError::Truncated { .. }
            | geminga_tier::FormatError::Damaged { .. }
            | geminga_tier::FormatError::Entry(_),
        ) => {
            tracing::error!(topic = %of.0, partition = %of.1, %error, "the object that lists a partition's folded segments is lost or damaged: restore it from the bucket's versions or a backup");
            Unread::Lost
        }
        ObjectError::Format(geminga_tier::FormatError::Version(_))
        | ObjectError::OtherStore { .. }
        | ObjectError::Store(_) => {
            metrics::tiering_failed();
            tracing::warn!(topic = %of.0, partition = %of.1, %error, "a manifest cannot be read now");
            Unread::NotNow
        }
    }
}

#[cfg(test)]
mod tests;
