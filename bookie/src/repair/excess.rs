//! Copies that no place names any more, because their bookie came back after others had taken its places, a copy moved, or a repair died
//! half-way (A4): they are given up (protocol 5.6), so that they take no space until their ledger is deleted.
//!
//! A ledger's copy goes when its metadata, read linearizably, is `CLOSED` and names this disk's life nowhere, nobody marked it, and every
//! member of every fragment said just now that it holds all of it. That nobody was promised the copy meanwhile rests on three things:
//!
//! * The ledger's repair lock is taken first. A swap of a repair is guarded by the lock it holds, so that whoever repaired before this names
//!   nobody any more.
//! * The copy is announced to the ledger's owner *then*. Whoever sends entries of it afterwards, under whatever lock, ends that.
//! * Everything is read after the announcement, the lock included. Whoever had taken it before the announcement is seen.
//!
//! A bookie that still has places in other fragments of the ledger keeps all that it has of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error, LeaseId, MetaStore, Version, keys};
use geminga_proto::ids::{EntryId, LedgerId, Member};
use geminga_runtime::Tasks;
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
    pub(super) interval: Duration,
}

/// Whether metadata may name `member` nowhere and need nothing of it.
fn is_unnamed(meta: &LedgerMeta, member: &Member) -> bool {
    // Of trimmed ones whoever tiers drops the entries, after a look at the object.
    meta.state == LedgerState::Closed
        && !matches!(meta.tier, Tier::Trimmed(_))
        && meta.fragments.iter().all(|fragment| !fragment.ensemble.contains(member))
}

/// How far a member of a fragment that ends at the second said that it holds it.
type Held = (Option<EntryId>, EntryId);

/// Whether others have everything.
fn is_excess(
    meta: &LedgerMeta,
    member: &Member,
    marked: bool,
    held: &[Held],
    mutations: Mutations,
) -> bool {
    let whole = held.iter().all(|(tail, end)| tail.is_some_and(|tail| tail >= *end));
    is_unnamed(meta, member) && (!marked && whole || mutations.is(Mutation::GiveUpNeeded))
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
        loop {
            round.tick().await;
            for disk in self.handle.disks() {
                if let Err(error) = self.round(disk, lease).await {
                    tracing::debug!(%error, "copies that nobody names are looked for later");
                }
            }
        }
    }

    async fn round(&self, disk: &DiskLedgers, lease: LeaseId) -> Result<(), Error> {
        // Before the listing: what comes later is no candidate (G1).
        let held = disk.held();
        for ledger in self.candidates(&held, disk.member()).await? {
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
    ) -> Result<Vec<LedgerId>, Error> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
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
        match is_excess(&meta, disk.member(), marked, &held, Mutations::default()) {
            true => disk.give_up(ledger).await.map_err(failed),
            false => Ok(false),
        }
    }

    /// What each member of each fragment says.
    async fn ask(&self, meta: &LedgerMeta) -> Vec<Held> {
        let mut held = Vec::new();
        for (index, fragment) in meta.fragments.iter().enumerate() {
            let first = fragment.first_entry;
            let Some(end) = meta.fragment_end(index).filter(|end| *end >= first) else { continue };
            for member in &fragment.ensemble {
                held.push((self.client.durable_tail(meta.id, member, first).await, end));
            }
        }
        held
    }
}

#[cfg(test)]
mod tests;
