//! Metadata folding (protocol 7.9): ten thousand tiered segments of a partition are a few objects, not ten thousand keys.
//!
//! * [`core`]: moves the oldest run of a partition's segments from their keys to a manifest; pure. [`gather`]: finds partitions to fold.
//!   Not every version reads a manifest: none is written before all do ([`Feature::Manifests`]).
//! * [`shrink`]: takes out of manifests what retention or the deletion of a topic gave up; pure. [`retire`]: carries that out. [`wanted`]:
//!   what that is. [`pass`]: how far it has come.
//!
//! Done by the janitor, which is elected among the bookies that have an object store; the auditor may have none. The election saves
//! work and decides nothing: two at once are told apart by the versions that guard every transaction.

mod core;
mod gather;
mod pass;
mod retire;
mod shrink;
mod wanted;

use std::sync::Arc;

use geminga_metastore::record::{Feature, LedgerMeta, Manifest, ManifestPart};
use geminga_metastore::{Error, MetaStore, Txn, TxnOutcome, Version, gate, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId, PartitionIndex, TopicId};
use geminga_runtime::{Random, WallClock};
use geminga_tier::{FormatError, ObjectError, SegmentList, Store};

use self::core::{Effect, Event, Fold, Listed, Look, Policy};
use self::gather::Gather;
pub(super) use self::retire::Memory;
use super::mark::Mark;
use super::{Config, Mutations};
use crate::metrics;

/// Keys of one page of a listing.
const PAGE: usize = 500;
/// So many ledgers' keys are read in one round, each on its own, but for the partition that it ends with.
const MAX_READ: usize = 2_000;
/// And so many segments are listed.
const MAX_LISTED: usize = 50_000;

/// One partition.
type Of = (TopicId, PartitionIndex);

/// Why a list was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unread {
    /// It is gone, or damaged.
    Lost,
    /// It may be read another time, or by another process.
    NotNow,
}

/// Where a round ended. Lost with the election: then the next begins from the first partition.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// Above every key of the last partition that was looked at.
    after: Option<String>,
    /// There is more to look at than a round does.
    pub(super) more: bool,
}

/// What was done with one partition.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    /// Segments that were folded.
    folded: usize,
    /// Ledgers whose keys were read.
    read: usize,
}

/// Folds.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) cluster: ClusterUuid,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) objects: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) config: Config,
    pub(super) mark: Mark,
    pub(super) mutations: Mutations,
}

impl Folder {
    /// One round, which goes on where the one before it ended; how many segments were folded. What cannot be done now holds up no other
    /// partition.
    ///
    /// # Errors
    /// [`Error`] of the metadata store. The next round goes on behind the partition that met it.
    pub(super) async fn fold(&self, cursor: &mut Cursor) -> Result<usize, Error> {
        cursor.more = false;
        let (mut after, mut gather) = (cursor.after.clone(), Gather::default());
        let (mut folded, mut read, mut listed) = (0, 0, 0);
        loop {
            let page = self.store.range(keys::SEGMENTS, after.as_deref(), PAGE).await?;
            let mut found: Vec<_> = page.items.iter().filter_map(|key| gather.push(key)).collect();
            found.extend(if page.more { None } else { gather.finish() });
            for (of, segments) in found {
                if read >= MAX_READ || listed >= MAX_LISTED {
                    cursor.more = true;
                    return Ok(folded);
                }
                let before = cursor.after.replace(keys::segment(of.0, of.1, u32::MAX));
                listed += segments.len();
                if self.policy().foldable(&segments) == 0 || self.is_deleted(of.0).await? {
                    continue;
                }
                // Asked when there is something to fold, so that a cluster that has not is not marked; and of each partition anew, since
                // a round takes its time.
                if !gate::is_open(&*self.store, self.cluster, Feature::Manifests).await? {
                    cursor.after = before;
                    return Ok(folded);
                }
                let done = one_of_many(of, self.fold_one(of, segments).await)?.unwrap_or_default();
                folded += done.folded;
                read += done.read;
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                cursor.after = None;
                return Ok(folded);
            }
        }
    }

    fn policy(&self) -> Policy {
        Policy { keep: self.config.fold_keep, at_least: self.config.fold_at }
    }

    async fn fold_one(&self, of: Of, listed: Vec<Listed>) -> Result<Done, Error> {
        let mut read = 0;
        let look = Look {
            cluster: self.cluster,
            of,
            bucket: self.objects.bucket().to_owned(),
            policy: self.policy(),
            attempt: self.random.next_u128(),
            now_ms: self.clock.now_ms(),
            mutations: self.mutations,
        };
        let (mut fold, mut effect) = Fold::begin(look, listed);
        loop {
            let event = match effect {
                Effect::ReadManifest => Event::Manifest(self.manifest(of).await?),
                Effect::ReadLedger(ledger) => {
                    read += 1;
                    Event::Ledger(self.ledger(ledger).await?)
                }
                Effect::ReadPart(part) => Event::Part(self.list(of, &part).await),
                Effect::Write(list) => Event::Written(self.write(of, &list).await),
                Effect::ReadBack(part) => {
                    let read = SegmentList::read(&self.objects, self.cluster, of, &part).await;
                    // Keys go for it: it must be where readers look.
                    Event::ReadBack(kept(of, read).is_some() && self.mark.holds_in_the_end().await)
                }
                Effect::Commit(txn) => match self.commit(txn).await? {
                    Some(version) => Event::Committed(version),
                    None => Event::Doubt,
                },
                Effect::Over(folded) => {
                    if folded > 0 {
                        metrics::folded(folded);
                        tracing::info!(topic = %of.0, partition = %of.1, folded, "segments folded into a manifest");
                    }
                    return Ok(Done { folded, read });
                }
            };
            effect = fold.step(event);
        }
    }

    async fn is_deleted(&self, topic: TopicId) -> Result<bool, Error> {
        Ok(self.store.get(&keys::deleted_topic(topic)).await?.is_some())
    }

    async fn manifest(&self, of: Of) -> Result<Option<(Manifest, Version)>, Error> {
        let key = keys::manifest(of.0, of.1);
        let Some(found) = self.store.get(&key).await? else { return Ok(None) };
        let manifest = Manifest::decode(&found.value)
            .map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })?;
        Ok(Some((manifest, found.version)))
    }

    /// One that cannot be read is not folded, and neither is what follows it.
    async fn ledger(&self, ledger: LedgerId) -> Result<Option<(LedgerMeta, Version)>, Error> {
        let key = keys::ledger(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(None) };
        let meta = LedgerMeta::decode(ledger, &found.value).inspect_err(|error| {
            tracing::error!(key, %error, "a ledger's key cannot be read: nothing from its segment on is folded; restore its value from a backup of the metadata");
        });
        Ok(meta.ok().map(|meta| (meta, found.version)))
    }

    /// What a part lists. One that seems damaged is read twice: it may have been on its way only.
    async fn list(&self, of: Of, part: &ManifestPart) -> Result<SegmentList, Unread> {
        let read = SegmentList::read(&self.objects, self.cluster, of, part).await;
        let read = match read {
            Err(ObjectError::Format(_)) => {
                SegmentList::read(&self.objects, self.cluster, of, part).await
            }
            read => read,
        };
        read.map_err(|error| unread(of, &error))
    }

    async fn write(&self, of: Of, list: &SegmentList) -> Option<ManifestPart> {
        kept(of, list.write(&self.objects).await)
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

/// Of a partition whose metadata cannot be used nothing is done, and others go on.
///
/// # Errors
/// [`Error`] that concerns all of them.
fn one_of_many<T>(of: Of, done: Result<T, Error>) -> Result<Option<T>, Error> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error @ (Error::Corrupt { .. } | Error::Invalid(_))) => {
            tracing::error!(topic = %of.0, partition = %of.1, %error, "a partition's metadata cannot be used; none of its segments is folded or given up");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What was done with a list that is to be; where it was not, its segments keep their keys.
fn kept<T>(of: Of, done: Result<T, ObjectError>) -> Option<T> {
    let done = done.inspect_err(|error| {
        metrics::tiering_failed();
        tracing::warn!(topic = %of.0, partition = %of.1, %error, "a manifest could not be written and read back; its segments keep their keys until it is tried again");
    });
    done.ok()
}

fn unread(of: Of, error: &ObjectError) -> Unread {
    match error {
        ObjectError::NotFound { .. }
        | ObjectError::Format(
            FormatError::Truncated { .. } | FormatError::Damaged { .. } | FormatError::Entry(_),
        ) => {
            tracing::error!(topic = %of.0, partition = %of.1, %error, "the object that lists a partition's folded segments is lost or damaged: restore it from the bucket's versions or a backup");
            Unread::Lost
        }
        ObjectError::Format(FormatError::Version(_))
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
