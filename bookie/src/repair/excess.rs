//! Copies that no place names any more, because their bookie came back after others had taken its places, a copy moved, or a repair died
//! half-way (A4): they are given up (protocol 5.6), so that they take no space until their ledger is deleted.
//!
//! A ledger's copy goes when its metadata, read linearizably, is `CLOSED` and names this disk's life nowhere, nobody marked it, and every
//! member of every fragment said just now that it holds all of it. It stays where metadata may end too early: this disk knows of entries
//! behind that end, the end was forced, or the metadata was restored from a backup and nobody may yet take its word (6.8). And it stays for
//! a while after it was seen to be unnamed, so that a backup of before finds it.
//!
//! That nobody was promised the copy meanwhile rests on three things:
//!
//! * The ledger's repair lock is taken first. A swap of a repair is guarded by the lock it holds, so that whoever repaired before this names
//!   nobody any more.
//! * The copy is announced to the ledger's owner *then*. Whoever sends entries of it afterwards, under whatever lock, ends that.
//! * Everything is read after the announcement, the lock included. Whoever had taken it before the announcement is seen.
//!
//! A bookie that still has places in other fragments of the ledger keeps all that it has of it.
//!
//! That a copy was given up is a record in the log that not every version opens: none is written before all versions read it
//! ([`Feature::GivenUp`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_metastore::record::{CloseKind, Cluster, Feature, LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error, LeaseId, MetaStore, Version, cluster, gate, keys};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, Member};
use geminga_runtime::{Tasks, WallClock};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::{metrics, office};
use crate::handle::BookieHandle;
use crate::ledger::{DiskLedgers, Mutation, Mutations};

/// Keys of one page of a listing.
const PAGE: usize = 500;

/// Gives copies up at one bookie.
#[derive(Debug)]
pub(super) struct Excess {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) client: LedgerClient,
    pub(super) handle: BookieHandle,
    pub(super) cluster: ClusterUuid,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) interval: Duration,
    /// How long a copy stays after it was first seen that nobody names it, by this process.
    pub(super) grace: Duration,
}

/// Since when copies of a disk's life are seen to be unnamed.
type Unnamed = BTreeMap<(Incarnation, LedgerId), Instant>;

/// Whether metadata may name `member` nowhere and need nothing of it.
fn is_unnamed(meta: &LedgerMeta, member: &Member) -> bool {
    // Of trimmed ones whoever tiers drops the entries, after a look at the object.
    meta.state == LedgerState::Closed
        && !matches!(meta.tier, Tier::Trimmed(_))
        && meta.fragments.iter().all(|fragment| !fragment.ensemble.contains(member))
}

/// How far a member of a fragment that ends at the second said that it holds it.
type Held = (Option<EntryId>, EntryId);

/// Whether a member has its part.
fn is_whole((tail, end): &Held) -> bool {
    tail.is_some_and(|tail| tail >= *end)
}

/// Whether others have everything, and that is all there is. `reach`: the last entry that is known of here.
fn is_excess(
    meta: &LedgerMeta,
    member: &Member,
    reach: EntryId,
    marked: bool,
    held: &[Held],
    mutations: Mutations,
) -> bool {
    let whole = held.iter().all(is_whole);
    let ends = meta.last_entry.is_some_and(|last| reach <= last)
        && !matches!(meta.close_kind, Some(CloseKind::ForcedWithRisk { .. }));
    is_unnamed(meta, member) && ends && (!marked && whole || mutations.is(Mutation::GiveUpNeeded))
}

impl Excess {
    /// Runs until `tasks` stops.
    pub(super) async fn run(self, ttl: Duration, tasks: Tasks) {
        let store = Arc::clone(&self.store);
        office::hold(&store, ttl, &tasks, |lease| self.rounds(lease)).await;
    }

    async fn rounds(&self, lease: LeaseId) {
        let mut round = interval_at(Instant::now() + self.interval, self.interval);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unnamed = Unnamed::new();
        loop {
            round.tick().await;
            for disk in self.handle.disks() {
                if let Err(error) = self.round(disk, lease, &mut unnamed).await {
                    tracing::debug!(%error, "copies that nobody names are looked for later");
                }
            }
        }
    }

    async fn round(
        &self,
        disk: &DiskLedgers,
        lease: LeaseId,
        unnamed: &mut Unnamed,
    ) -> Result<(), Error> {
        let found = cluster::read(&*self.store).await?.map(|(cluster, _)| cluster);
        let trusted = |found: &Cluster| {
            found.uuid == self.cluster && !found.is_in_quarantine(self.clock.now_ms())
        };
        if !found.as_ref().is_some_and(trusted) {
            return Ok(());
        }
        // Before the listing: what comes later is no candidate (G1).
        let held = disk.held();
        let candidates = self.candidates(&held, disk.member()).await?;
        let life = disk.member().incarnation;
        unnamed.retain(|(of, ledger), _| *of != life || candidates.contains(ledger));
        let mut due = Vec::new();
        for ledger in candidates {
            let since = *unnamed.entry((life, ledger)).or_insert_with(Instant::now);
            if since.elapsed() >= self.grace {
                due.push(ledger);
            }
        }
        // Asked when there is something to give up, so that a cluster that has not is not marked.
        if due.is_empty() || !gate::is_open(&*self.store, self.cluster, Feature::GivenUp).await? {
            return Ok(());
        }
        for ledger in due {
            let key = keys::under_lock(ledger);
            let bookie = &disk.member().bookie;
            let Some(lock) = office::try_take(&*self.store, &key, bookie, lease).await? else {
                continue;
            };
            let given_up = self.give_up(disk, ledger, &key, lock).await;
            office::give_back(&*self.store, &key, lock).await;
            if given_up? {
                metrics::given_up(held.get(&ledger).copied().unwrap_or(0));
            }
        }
        Ok(())
    }

    /// Those that a listing shows as somebody else's.
    async fn candidates(
        &self,
        held: &BTreeMap<LedgerId, u64>,
        member: &Member,
    ) -> Result<BTreeSet<LedgerId>, Error> {
        let (mut found, mut after) = (BTreeSet::new(), None::<String>);
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let ledger = keys::parse_ledger(&item.key).filter(|l| held.contains_key(l));
                let Some(ledger) = ledger else { continue };
                let meta = LedgerMeta::decode(ledger, &item.value.value);
                found.extend(meta.is_ok_and(|meta| is_unnamed(&meta, member)).then_some(ledger));
            }
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Under its lock. Whether the copy was dropped.
    async fn give_up(
        &self,
        disk: &DiskLedgers,
        ledger: LedgerId,
        key: &str,
        lock: Version,
    ) -> Result<bool, Error> {
        let failed = |failed: crate::log::LogFailed| Error::Unavailable(failed.to_string());
        if !disk.begin_to_give_up(ledger).await.map_err(failed)? {
            return Ok(false);
        }
        if !office::holds(&*self.store, key, lock).await? {
            return Ok(false);
        }
        let marked = self.store.get(&keys::under(ledger)).await?.is_some();
        let Some((meta, _)) = self.client.metadata(ledger).await? else { return Ok(false) };
        let held = self.ask(&meta).await;
        let reach = disk.reach(ledger);
        match is_excess(&meta, disk.member(), reach, marked, &held, Mutations::default()) {
            true => disk.give_up(ledger).await.map_err(failed),
            false => Ok(false),
        }
    }

    /// What each member of each fragment says, up to the first who has not everything: others wait for the lock.
    async fn ask(&self, meta: &LedgerMeta) -> Vec<Held> {
        let mut held = Vec::new();
        for (index, fragment) in meta.fragments.iter().enumerate() {
            let first = fragment.first_entry;
            let Some(end) = meta.fragment_end(index).filter(|end| *end >= first) else { continue };
            for member in &fragment.ensemble {
                let said = (self.client.durable_tail(meta.id, member, first).await, end);
                held.push(said);
                if !is_whole(&said) {
                    return held;
                }
            }
        }
        held
    }
}

#[cfg(test)]
mod tests;
