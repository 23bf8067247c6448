//! Objects that speak for a bookie that cannot say what it has (6.6): where each object is there of which it may have a copy, that copy is
//! not the last. A bookie that runs drops its own by the same answer (T5), so what is lost with this one is what it would have dropped.
//!
//! Asked for are the objects of trimmed ledgers that name it, by their keys first and then by the lists of folded ones. That order misses
//! none: what is trimmed behind this was looked at by whoever trimmed it, and what is folded meanwhile is in a list that is read later. A
//! part of them is asked for in each pass, and the next one goes on there; one that is missing holds up the rest, until it is back or
//! retention gave it up.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use geminga_metastore::record::{
    LedgerMeta, LedgerState, Manifest, ManifestPart, Tier, TierObject,
};
use geminga_metastore::{Error, KeyValue, keys};
use geminga_proto::ids::{BookieId, LedgerId, PartitionIndex, TopicId};
use geminga_tier::{SegmentList, Store};

use super::Auditor;

/// Keys or segments looked at together: what was asked for of them is known once all of them were there.
const PAGE: usize = 100;
/// Objects asked for in one pass, about, and at a time.
const PER_PASS: usize = 2_000;
const AT_ONCE: usize = 16;
/// How long they may hold up the audit.
const PATIENCE: Duration = Duration::from_secs(40);

/// Objects that may have had a copy beside them at the bookie, and how far they were asked for once these were there.
type Part = (Vec<(LedgerId, TierObject)>, Vouched);

/// How far the objects were asked for of which one bookie may have copies; all before were there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Vouched {
    /// Of ledgers, up to this key.
    Ledgers(Option<String>),
    /// Of folded ones, up to a manifest's key, and of one behind it up to a segment: its key is told, since manifests may go meanwhile.
    Folded { done: Option<String>, within: Option<(String, u32)> },
    /// Of all.
    All,
}

impl Default for Vouched {
    fn default() -> Self {
        Self::Ledgers(None)
    }
}

impl Auditor {
    /// Whether all objects were there of which the bookie may have copies; asks for some more of them. Without an object store nobody
    /// knows.
    pub(super) async fn vouches(
        &self,
        bookie: &BookieId,
        vouched: &mut Vouched,
    ) -> Result<bool, Error> {
        let Some(objects) = self.folded.objects() else { return Ok(false) };
        // What was found out by then stays so.
        match tokio::time::timeout(PATIENCE, self.ask(objects, bookie, vouched)).await {
            Ok(asked) => asked?,
            Err(_) => {
                tracing::info!(%bookie, "the object store is slow; objects are asked for later")
            }
        }
        Ok(*vouched == Vouched::All)
    }

    async fn ask(
        &self,
        objects: &Store,
        bookie: &BookieId,
        vouched: &mut Vouched,
    ) -> Result<(), Error> {
        let mut left = PER_PASS;
        while left > 0 {
            let (wanted, next) = match &*vouched {
                Vouched::All => return Ok(()),
                Vouched::Ledgers(after) => self.of_ledgers(bookie, after.as_deref()).await?,
                Vouched::Folded { done, within } => {
                    let found = self.of_folded(objects, bookie, done, within.as_ref()).await?;
                    let Some(found) = found else { return Ok(()) };
                    found
                }
            };
            left = left.saturating_sub(wanted.len());
            if !self.are_there(objects, bookie, wanted).await {
                return Ok(());
            }
            *vouched = next;
        }
        Ok(())
    }

    /// Of the next page of ledgers, and what comes then.
    async fn of_ledgers(&self, bookie: &BookieId, after: Option<&str>) -> Result<Part, Error> {
        let page = self.store.range(keys::LEDGERS, after, PAGE).await?;
        // What cannot be read keeps the bookie, whatever becomes of this.
        let meta = |item: &KeyValue| {
            LedgerMeta::decode(keys::parse_ledger(&item.key)?, &item.value.value).ok()
        };
        let metas = page.items.iter().filter_map(meta);
        let wanted = metas.filter_map(|meta| object_beside(&meta, bookie)).collect();
        let last = page.items.last().map(|item| item.key.clone());
        let next = match last {
            Some(last) if page.more => Vouched::Ledgers(Some(last)),
            _ => Vouched::Folded { done: None, within: None },
        };
        Ok((wanted, next))
    }

    /// Of the next segments of the manifest after this one, and what comes then; `None` when it cannot be read.
    async fn of_folded(
        &self,
        objects: &Store,
        bookie: &BookieId,
        done: &Option<String>,
        within: Option<&(String, u32)>,
    ) -> Result<Option<Part>, Error> {
        let page = self.store.range(keys::MANIFESTS, done.as_deref(), 1).await?;
        let Some(item) = page.items.first() else { return Ok(Some((Vec::new(), Vouched::All))) };
        let behind = Vouched::Folded { done: Some(item.key.clone()), within: None };
        let of = keys::parse_manifest(&item.key);
        let (Some(of), Ok(manifest)) = (of, Manifest::decode(&item.value.value)) else {
            tracing::error!(
                key = item.key,
                "a manifest is invalid; whoever is to leave, and cannot say what it has, stays"
            );
            return Ok(None);
        };
        // Of this one only: what was asked for of another says nothing of it.
        let through = within.filter(|(key, _)| *key == item.key).map(|(_, through)| *through);
        let is_ahead = |seq: u32| through.is_none_or(|through| seq > through);
        let Some(part) = manifest.live().find(|part| is_ahead(part.last_seq)) else {
            return Ok(Some((Vec::new(), behind)));
        };
        let Some(list) = self.list_of(objects, of, part).await else { return Ok(None) };
        let segments: Vec<_> =
            list.of(part).iter().filter(|one| is_ahead(one.seq)).take(PAGE).collect();
        let mut wanted = Vec::new();
        // What retention gave up is nobody's.
        for one in segments.iter().filter(|one| u64::from(one.seq) >= manifest.dropped_before) {
            let Ok(meta) = one.ledger() else {
                tracing::error!(ledger = %one.segment.ledger, "a folded ledger is invalid; whoever is to leave, and cannot say what it has, stays");
                return Ok(None);
            };
            wanted.extend(object_beside(&meta, bookie));
        }
        let through = segments.last().map_or(part.last_seq, |last| last.seq);
        let within = Some((item.key.clone(), through));
        Ok(Some((wanted, Vouched::Folded { done: done.clone(), within })))
    }

    async fn list_of(
        &self,
        objects: &Store,
        of: (TopicId, PartitionIndex),
        part: &ManifestPart,
    ) -> Option<SegmentList> {
        let list = SegmentList::read(objects, self.cluster, of, part).await;
        let told = list.inspect_err(|error| {
            tracing::warn!(topic = %of.0, partition = %of.1, %error, "a list of folded segments cannot be read; whoever is to leave, and cannot say what it has, stays");
        });
        told.ok()
    }

    async fn are_there(
        &self,
        objects: &Store,
        bookie: &BookieId,
        wanted: Vec<(LedgerId, TierObject)>,
    ) -> bool {
        let mut asked = stream::iter(wanted)
            .map(|(ledger, object)| async move {
                let covers = objects.covers(self.cluster, &object.bucket, &object.key);
                let found = if covers { objects.head(&object.key).await } else { Ok(None) };
                let there = matches!(&found, Ok(Some(found)) if found.size == object.size && found.etag == object.etag);
                (there, ledger, object.key, found.err())
            })
            .buffer_unordered(AT_ONCE);
        while let Some((there, ledger, key, error)) = asked.next().await {
            if !there {
                if let Some(error) = error {
                    tracing::warn!(%bookie, %ledger, key, %error, "an object store does not answer; a bookie that is to leave and cannot say what it has stays until then");
                    return false;
                }
                tracing::error!(%bookie, %ledger, key, "a bookie that is to leave and cannot say what it has may have the last copy of a ledger, whose object was not found: it stays; bring back the one or the other, or delete the topic");
                return false;
            }
        }
        true
    }
}

/// The object of a ledger that bookies have dropped or may drop, if it names this one.
fn object_beside(meta: &LedgerMeta, bookie: &BookieId) -> Option<(LedgerId, TierObject)> {
    let mut members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
    let Tier::Trimmed(object) = &meta.tier else { return None };
    let counts = meta.state != LedgerState::Deleting && members.any(|m| m.bookie == *bookie);
    counts.then(|| (meta.id, object.clone()))
}
