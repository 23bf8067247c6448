//! Copies that no place names any more, because their bookie came back after others had taken its places, a copy moved, or a repair died
//! half-way (A4): they are given up (protocol 5.6), so that they take no space until their ledger is deleted.
//!
//! A ledger's copy goes when its metadata, read linearizably, is `CLOSED` and names this disk's life nowhere, nobody marked it, and every
//! member of every fragment said just now that it holds all of it. It stays where metadata may end too early: this disk knows of entries
//! behind that end, the end was forced, or the metadata was restored from a backup and nobody may yet take its word (6.8). And it stays for
//! a while after it was seen to be unnamed, so that a backup of before finds it. [`give_up`] decides.
//!
//! That nobody was promised the copy meanwhile rests on three things:
//!
//! * The ledger's repair lock is taken first. A swap of a repair is guarded by the lock it holds, so that whoever repaired before this names
//!   nobody any more.
//! * The copy is announced to the ledger's owner *then*. Whoever sends entries of it afterwards, under whatever lock, ends that.
//! * Everything is read after the announcement, the lock included. Whoever had taken it before the announcement is seen.
//!
//! Where nobody knows whether a lock was taken, or given back, it goes with the lease: others wait no longer than that lives.
//!
//! A bookie that still has places in other fragments of the ledger keeps all that it has of it.
//!
//! That a copy was given up is a record in the log that not every version opens: none is written before all versions read it
//! ([`Feature::GivenUp`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_metastore::record::{Cluster, Feature, LedgerMeta};
use geminga_metastore::{Error, LeaseId, MetaStore, Version, cluster, gate, keys};
use geminga_proto::ids::{ClusterUuid, Incarnation, LedgerId, Member};
use geminga_runtime::{Tasks, WallClock};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::give_up::{Effect, Event, GiveUp, is_unnamed};
use super::{metrics, office};
use crate::handle::BookieHandle;
use crate::ledger::{DiskLedgers, Mutations};

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
    pub(super) unnamed: Unnamed,
}

/// Since when copies of a disk's life are seen to be unnamed.
#[derive(Debug, Default)]
pub(super) struct Unnamed(Mutex<BTreeMap<(Incarnation, LedgerId), Instant>>);

impl Unnamed {
    /// Forgets those of a life that are none any more.
    fn keep(&self, life: Incarnation, candidates: &BTreeSet<LedgerId>) {
        self.0.lock().retain(|(of, ledger), _| *of != life || candidates.contains(ledger));
    }

    fn since(&self, life: Incarnation, ledger: LedgerId) -> Instant {
        *self.0.lock().entry((life, ledger)).or_insert_with(Instant::now)
    }
}

/// What became of the lease under which locks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lease {
    Clean,
    /// A lock may stand under it that nobody gives back.
    Stranded,
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
                match self.round(disk, lease).await {
                    Ok(Lease::Clean) => {}
                    Ok(Lease::Stranded) => return,
                    Err(error) => {
                        tracing::debug!(%error, "copies that nobody names are looked for later");
                    }
                }
            }
        }
    }

    async fn round(&self, disk: &DiskLedgers, lease: LeaseId) -> Result<Lease, Error> {
        let found = cluster::read(&*self.store).await?.map(|(cluster, _)| cluster);
        let trusted = |found: &Cluster| {
            found.uuid == self.cluster && !found.is_in_quarantine(self.clock.now_ms())
        };
        if !found.as_ref().is_some_and(trusted) {
            return Ok(Lease::Clean);
        }
        // Before the listing: what comes later is no candidate (G1).
        let held = disk.held();
        let candidates = self.candidates(&held, disk.member()).await?;
        let life = disk.member().incarnation;
        self.unnamed.keep(life, &candidates);
        let mut due = Vec::new();
        for ledger in candidates {
            if self.unnamed.since(life, ledger).elapsed() >= self.grace {
                due.push(ledger);
            }
        }
        // Asked when there is something to give up, so that a cluster that has not is not marked.
        if due.is_empty() || !gate::is_open(&*self.store, self.cluster, Feature::GivenUp).await? {
            return Ok(Lease::Clean);
        }
        for ledger in due {
            let key = keys::under_lock(ledger);
            let bookie = &disk.member().bookie;
            let lock = match office::try_take(&*self.store, &key, bookie, lease).await {
                Ok(Some(lock)) => lock,
                Ok(None) => continue,
                Err(Error::Unknown(_)) => return Ok(Lease::Stranded),
                Err(error) => return Err(error),
            };
            let given_up = self.give_up(disk, ledger, &key, lock).await;
            let given_back = office::give_back(&*self.store, &key, lock).await;
            if given_up.as_ref().is_ok_and(|given_up| *given_up) {
                metrics::given_up(held.get(&ledger).copied().unwrap_or(0));
            }
            if !given_back {
                return Ok(Lease::Stranded);
            }
            given_up?;
        }
        Ok(Lease::Clean)
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
        let (mut core, mut effect) = GiveUp::new(disk.member().clone(), Mutations::default());
        loop {
            let event = match effect {
                Effect::Announce => {
                    Event::Announced(disk.begin_to_give_up(ledger).await.map_err(failed)?)
                }
                Effect::Read => {
                    let locked = office::holds(&*self.store, key, lock).await?;
                    let marked = self.store.get(&keys::under(ledger)).await?.is_some();
                    let meta = self.client.metadata(ledger).await?.map(|(meta, _)| meta);
                    Event::Read { locked, marked, meta }
                }
                Effect::Ask { member, first } => {
                    Event::Tail(self.client.durable_tail(ledger, &member, first).await)
                }
                Effect::Reach => Event::Reach(disk.reach(ledger)),
                Effect::Drop => Event::Dropped(disk.give_up(ledger).await.map_err(failed)?),
                Effect::Finish(given_up) => return Ok(given_up),
            };
            effect = core.step(event);
        }
    }
}

#[cfg(test)]
mod tests;
