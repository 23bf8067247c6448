//! Whether a ledger without a key was folded (protocol 7.9): then a manifest lists it, and it counts as existing for all who would remove
//! what is left of it.
//!
//! Whoever asks has read the ledger's own key before, linearizably, and found none. A fold moves a ledger from its key to the manifest in
//! one transaction and never back, so a manifest that is read after that lists it, or no manifest does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

use geminga_metastore::record::{LedgerMeta, Manifest, ManifestPart};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId, PartitionIndex, TopicId};
use geminga_tier::{SegmentList, Store};
use parking_lot::Mutex;

/// Keys of one page of a listing.
const PAGE: usize = 100;
/// Lists that are kept in memory.
const RECENT: usize = 3;

/// What manifests say of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Listing {
    /// This is its metadata.
    Folded(Box<LedgerMeta>),
    /// Some manifest may list it, and cannot be read.
    Unknown,
}

/// Looks ledgers up in manifests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Folded {
    cluster: ClusterUuid,
    store: Arc<dyn MetaStore>,
    /// Where manifests are, once this bookie was told. Without it nothing that a manifest may list is certain.
    objects: Arc<OnceLock<Store>>,
    /// What was read last, newest first: who asks for one ledger after the other mostly asks the same list. A list never changes.
    recent: Arc<Mutex<VecDeque<Arc<SegmentList>>>>,
}

impl Folded {
    /// One that does not know yet where objects are.
    pub(crate) fn new(cluster: ClusterUuid, store: Arc<dyn MetaStore>) -> Self {
        Self { cluster, store, objects: Arc::default(), recent: Arc::default() }
    }

    /// Objects are there.
    pub(crate) fn objects_are_in(&self, objects: &Store) {
        // Whoever was first has said the same: a bookie has one store.
        let _same = self.objects.set(objects.clone());
    }

    /// Where objects are; `None` while this bookie was not told.
    pub(crate) fn objects(&self) -> Option<&Store> {
        self.objects.get()
    }

    /// What manifests say of these ledgers; those that no manifest lists are left out. Reads only manifests whose ranges say that
    /// they may list one.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(crate) async fn find(
        &self,
        ledgers: &BTreeSet<LedgerId>,
    ) -> Result<BTreeMap<LedgerId, Listing>, Error> {
        let (mut found, mut after) = (BTreeMap::new(), None::<String>);
        if ledgers.is_empty() {
            return Ok(found);
        }
        loop {
            let page = self.store.range(keys::MANIFESTS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(of) = keys::parse_manifest(&item.key) else { continue };
                match Manifest::decode(&item.value.value) {
                    Ok(manifest) => {
                        for part in &manifest.parts {
                            self.look(of, &manifest, part, ledgers, &mut found).await;
                        }
                    }
                    Err(error) => {
                        tracing::error!(key = item.key, %error, "a manifest is invalid; no ledger without metadata is dropped");
                        let unknown = ledgers.iter().map(|ledger| (*ledger, Listing::Unknown));
                        unknown.for_each(|(l, listing)| _ = found.entry(l).or_insert(listing));
                    }
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok(found);
            }
        }
    }

    /// What the manifest of one partition says of a ledger; `None` when it does not list it.
    ///
    /// # Errors
    /// [`Error`] of the metadata store.
    pub(crate) async fn find_in(
        &self,
        topic: TopicId,
        partition: PartitionIndex,
        ledger: LedgerId,
    ) -> Result<Option<Listing>, Error> {
        let Some(found) = self.store.get(&keys::manifest(topic, partition)).await? else {
            return Ok(None);
        };
        let Ok(manifest) = Manifest::decode(&found.value) else {
            return Ok(Some(Listing::Unknown));
        };
        let (wanted, mut found) = ([ledger].into(), BTreeMap::new());
        for part in &manifest.parts {
            self.look((topic, partition), &manifest, part, &wanted, &mut found).await;
        }
        Ok(found.remove(&ledger))
    }

    async fn look(
        &self,
        of: (TopicId, PartitionIndex),
        manifest: &Manifest,
        part: &ManifestPart,
        ledgers: &BTreeSet<LedgerId>,
        found: &mut BTreeMap<LedgerId, Listing>,
    ) {
        // One that was found is in no other list.
        let is_open = |ledger: &LedgerId| !matches!(found.get(ledger), Some(Listing::Folded(_)));
        let within = ledgers.range(part.lowest_ledger..=part.highest_ledger).copied();
        let within: Vec<LedgerId> = within.filter(is_open).collect();
        if within.is_empty() {
            return;
        }
        let Some(list) = self.read(of, part).await else {
            within.into_iter().for_each(|l| _ = found.entry(l).or_insert(Listing::Unknown));
            return;
        };
        // Of those that retention gave up the objects are gone.
        let there =
            list.of(part).iter().filter(|one| u64::from(one.seq) >= manifest.removed_before);
        for one in there.filter(|one| ledgers.contains(&one.segment.ledger)) {
            let listing =
                one.ledger().map_or(Listing::Unknown, |meta| Listing::Folded(meta.into()));
            found.insert(one.segment.ledger, listing);
        }
    }

    async fn read(
        &self,
        of: (TopicId, PartitionIndex),
        part: &ManifestPart,
    ) -> Option<Arc<SegmentList>> {
        let objects = self.objects.get()?;
        let known = self.recent.lock().iter().find(|list| list.attempt == part.attempt).cloned();
        if known.is_some() {
            return known;
        }
        let read = SegmentList::read(objects, self.cluster, of, part).await;
        let list = read.inspect_err(|error| {
            tracing::warn!(topic = %of.0, partition = %of.1, %error, "a manifest cannot be read; what it may list is kept");
        });
        let list = Arc::new(list.ok()?);
        let mut recent = self.recent.lock();
        recent.truncate(RECENT - 1);
        recent.push_front(Arc::clone(&list));
        Some(list)
    }
}
