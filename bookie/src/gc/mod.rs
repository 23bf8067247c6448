//! Drops the data of ledgers that were deleted (protocol 5.6): a task that goes through the local ledgers every few minutes.
//!
//! * The local ledgers are taken *before* the metadata is listed, so that one created later is no candidate.
//! * A listing only finds candidates. What counts is a linearizable read of each ledger's own key (G1, M8).
//! * A ledger that was folded has no key, and is neither lost nor deleted (protocol 7.9): a manifest lists it. Of one whose entries were
//!   dropped or given up, folded or not, only [`pointers`] are here, which stay for a week; then one that no manifest lists counts as absent (G2), among
//!   its like: after a restart the week begins anew, so that many come at once.
//! * Breakers stop it when metadata looks lost rather than deleted (G2): that is for a human.
//! * What is dropped leaves a tombstone, durable before its space is given back (F4, G3).
//!
//! * After a restore of the metadata, ledgers that it does not know are kept for a week (6.8). A store that went back and does not say so
//!   is known by ledgers that it never handed out (M1), and by a revision that is below one that it showed before.
//!
//! A closed ledger that does not name this bookie any more stays here: dropping it needs the repair lock (`repair::excess`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_metastore::{Error, Horizon, MetaStore, Revision, keys};
use geminga_proto::ids::{ClusterUuid, LedgerId};
use geminga_runtime::{Tasks, WallClock};
use parking_lot::Mutex;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::folded::{Folded, Listing};
use crate::handle::BookieHandle;
use crate::ledger::{Mutation, Mutations};
use crate::metrics;
use judge::{Breaker, Fate, Read, Survey, judge};
use pointers::Pointers;

pub mod judge;
mod pointers;

/// Keys of one page of a listing.
const PAGE: usize = 500;

/// The collector of one bookie.
#[derive(Debug)]
pub(crate) struct Gc {
    store: Arc<dyn MetaStore>,
    cluster: ClusterUuid,
    folded: Folded,
    handle: BookieHandle,
    interval: Duration,
    clock: Arc<dyn WallClock>,
    seen: Mutex<Option<Seen>>,
    pointers: Pointers,
    mutations: Mutations,
}

/// The latest that the store has shown.
#[derive(Debug, Clone, Copy)]
struct Seen {
    epoch: u16,
    revision: Revision,
    /// Whether it showed something earlier later on. For as long as the epoch stands, however far it comes again.
    went_back: bool,
}

impl Gc {
    /// A collector that has not begun.
    pub(crate) fn new(
        store: Arc<dyn MetaStore>,
        folded: Folded,
        handle: BookieHandle,
        interval: Duration,
        clock: Arc<dyn WallClock>,
    ) -> Self {
        let (cluster, mutations) = (handle.cluster(), Mutations::default());
        let (seen, pointers) = (Mutex::new(None), Pointers::default());
        Self { store, cluster, folded, handle, interval, clock, seen, pointers, mutations }
    }

    /// Runs until `tasks` stops.
    pub(crate) async fn run(self, tasks: Tasks) {
        let mut cycle = interval_at(Instant::now() + self.interval, self.interval);
        cycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                _ = cycle.tick() => {}
            }
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                done = self.cycle() => if let Err(error) = done {
                    tracing::warn!(%error, "deleted ledgers could not be told from others; trying again later");
                }
            }
        }
    }

    /// One cycle; how many ledgers were dropped. Cancel-safe, in that what is dropped is dropped.
    ///
    /// # Errors
    /// [`Error`] of the metadata store; nothing was dropped.
    pub(crate) async fn cycle(&self) -> Result<usize, Error> {
        let local = self.handle.local_ledgers();
        let survey = self.survey(&local).await?;
        let (dropped, breaker) = judge(&survey, self.mutations);
        let quarantined = survey.read.iter().filter(|read| read.fate == Fate::Quarantined);
        metrics::quarantined(quarantined.count());
        let leftovers = matches!(breaker, Some(Breaker::TooManyPointers { .. }));
        metrics::gc_stopped(breaker.is_some() && !leftovers, leftovers);
        match breaker {
            Some(breaker) if leftovers => {
                tracing::warn!(%breaker, "what is left of them is kept, some bytes each; nothing else is held up");
            }
            Some(breaker) => {
                tracing::error!(%breaker, "ledgers are not deleted: find out whether metadata was lost before anything else");
            }
            None => {}
        }
        let mut done = 0;
        for ledger in dropped {
            for disk in self.handle.disks() {
                match disk.drop_ledger(ledger).await {
                    Ok(true) => done += 1,
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(%ledger, %error, "a deleted ledger could not be dropped");
                    }
                }
            }
        }
        metrics::dropped(done);
        Ok(done)
    }

    async fn survey(&self, local: &BTreeMap<LedgerId, u64>) -> Result<Survey, Error> {
        let horizon = Horizon::read(&*self.store).await?;
        let same_cluster = horizon.as_ref().is_some_and(|found| found.cluster.uuid == self.cluster);
        let (alive, listed, revision) = self.list(local).await?;
        let epoch = horizon.as_ref().map_or(0, |found| found.cluster.epoch);
        let (went_back, now_ms) = (self.note(epoch, revision), self.clock.now_ms());
        self.pointers.keep(|ledger| local.contains_key(&ledger) && !alive.contains(&ledger));
        let candidates = local.iter().filter(|(ledger, _)| {
            !alive.contains(ledger) && !self.pointers.is_kept(**ledger, now_ms)
        });
        let mut read = Vec::new();
        for (ledger, bytes) in candidates {
            let fate = match (self.fate(*ledger).await?, &horizon) {
                (Fate::Absent, Some(horizon)) => self.of_absent(*ledger, horizon),
                (fate, _) => fate,
            };
            let is_pointer = self.handle.is_pointer(*ledger);
            read.push(Read { ledger: *ledger, fate, bytes: *bytes, is_pointer });
        }
        self.tell_folded(&mut read, now_ms).await?;
        let (count, local_bytes) = (local.len() as u64, local.values().sum());
        Ok(Survey { same_cluster, went_back, listed, local: count, local_bytes, read })
    }

    /// Of a ledger without a key: whether the metadata may have lost it.
    fn of_absent(&self, ledger: LedgerId, horizon: &Horizon) -> Fate {
        if horizon.is_beyond(ledger) && !self.mutations.is(Mutation::ForgetHorizon) {
            return Fate::Beyond;
        }
        let quarantined = horizon.cluster.quarantines(ledger, self.clock.now_ms());
        match quarantined && !self.mutations.is(Mutation::ForgetQuarantine) {
            true => Fate::Quarantined,
            false => Fate::Absent,
        }
    }

    /// Remembers how far the store is; whether it was further before. Revisions only rise, but for a store that was restored, and whoever
    /// restores one raises the epoch.
    fn note(&self, epoch: u16, revision: Revision) -> bool {
        let mut seen = self.seen.lock();
        let last = seen.filter(|last| last.epoch == epoch);
        let went_back = last.is_some_and(|last| last.went_back || revision.0 < last.revision.0);
        *seen = Some(Seen { epoch, revision, went_back });
        went_back
    }

    /// The local ledgers that a listing shows as alive, how many it shows at all, and of when it is.
    async fn list(
        &self,
        local: &BTreeMap<LedgerId, u64>,
    ) -> Result<(BTreeSet<LedgerId>, u64, Revision), Error> {
        let (mut alive, mut listed, mut after) = (BTreeSet::new(), 0, None::<String>);
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            listed += page.items.len() as u64;
            for item in &page.items {
                let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
                if !local.contains_key(&ledger) {
                    continue;
                }
                let meta = LedgerMeta::decode(ledger, &item.value.value);
                if meta.is_ok_and(|meta| meta.state != LedgerState::Deleting) {
                    alive.insert(ledger);
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                return Ok((alive, listed, page.revision));
            }
        }
    }

    /// Which of those without a key were folded, or have no entries here: manifests are read after the keys, and not for those that one
    /// was seen to list before. Of these the time is over.
    async fn tell_folded(&self, read: &mut [Read], now_ms: i64) -> Result<(), Error> {
        for read in read.iter_mut().filter(|read| read.fate == Fate::Absent) {
            if self.pointers.was_listed(read.ledger) {
                read.fate = Fate::Spent;
            }
        }
        let absent = read.iter().filter(|read| read.fate == Fate::Absent);
        let found = self.folded.find(&absent.map(|read| read.ledger).collect()).await?;
        for read in read.iter_mut().filter(|read| read.fate == Fate::Absent) {
            let listing = found.get(&read.ledger);
            read.fate = match (listing, read.is_pointer) {
                (Some(Listing::Unknown), _) => Fate::Kept,
                (Some(Listing::Folded(meta)), true) => {
                    self.pointers.found(read.ledger, Some(meta), now_ms)
                }
                (None, true) => self.pointers.found(read.ledger, None, now_ms),
                // What is here of it is dropped by whoever tiers, after a look at the object (7.4 step 8).
                (Some(Listing::Folded(_)), false) => Fate::Kept,
                (None, false) => Fate::Absent,
            };
        }
        Ok(())
    }

    /// What the ledger's own key says. What cannot be understood is kept.
    async fn fate(&self, ledger: LedgerId) -> Result<Fate, Error> {
        let Some(found) = self.store.get(&keys::ledger(ledger)).await? else {
            return Ok(Fate::of(None));
        };
        Ok(match LedgerMeta::decode(ledger, &found.value) {
            Ok(meta) => Fate::of(Some(&meta)),
            Err(error) => {
                tracing::error!(%ledger, %error, "metadata of a ledger is invalid; its data is kept");
                Fate::Kept
            }
        })
    }
}

#[cfg(test)]
mod tests;
