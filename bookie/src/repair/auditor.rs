//! The auditor: one bookie of the cluster, elected. It finds what is to be repaired and marks it; it moves no data (protocol 6.1).
//!
//! * Every second it looks who is registered. Who was away for too long, lost a disk, or is being decommissioned is judged by
//!   [`judge`], with the storm brake (A1).
//! * [`pass`]: goes through all ledgers for members that were judged: when somebody was judged anew, every hour, and again soon while
//!   open ledgers still name somebody. [`open`]: what becomes of those (6.4).
//! * [`sweep`]: keeps the marks themselves current: a writer's mark of a member that is gone for good, a member that came back.
//! * [`tails`]: asks members whether they have everything (6.3). [`spread`]: ledgers whose copies could be spread better.
//! * [`leave`]: the end of a decommission (6.6). [`vouch`]: of a bookie that cannot say what it has.

mod judge;
mod leave;
mod open;
mod pass;
mod spread;
mod sweep;
mod tails;
mod vouch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::LedgerClient;
use geminga_metastore::record::{AbsentBookie, Cookie, LiveBookie};
use geminga_metastore::{Error, KeyValue, LeaseId, MetaStore, Version, keys};
use geminga_proto::ids::{BookieId, ClusterUuid, LedgerId};
use geminga_runtime::{Tasks, WallClock};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{RepairConfig, metrics, office};
use crate::folded::Folded;
use crate::ledger::Mutations;
use judge::{Bookie, Judgement, View, judge};

/// How often it is looked who is there.
const LOOK: Duration = Duration::from_secs(1);
/// Looks from one sweep of the marks to the next.
const SWEEP_EVERY: u32 = 3;
/// Keys of one page of a listing.
const PAGE: usize = 500;
/// A pass is repeated no sooner than after so many times what it took.
const REST: u32 = 20;
/// Pause behind a pass that failed.
const FAILED: Duration = Duration::from_secs(5);
/// The first tail pass comes so soon after an election.
const FIRST_TAILS: Duration = Duration::from_secs(600);

/// The auditor of one bookie, elected or not.
#[derive(Debug)]
pub(super) struct Auditor {
    store: Arc<dyn MetaStore>,
    cluster: ClusterUuid,
    client: LedgerClient,
    bookie: BookieId,
    /// Knows where objects are, once this bookie was told.
    folded: Folded,
    clock: Arc<dyn WallClock>,
    config: RepairConfig,
}

/// What an elected auditor remembers.
#[derive(Debug)]
struct Term {
    /// What was judged when the last pass began.
    judged: Option<Judgement>,
    next_pass: Instant,
    /// No pass before this: the last one failed.
    failed_until: Instant,
    next_tails: Instant,
    looks: u32,
    /// Where bookies were when they were last seen.
    zones: BTreeMap<BookieId, String>,
    /// Open ledgers with a member that is gone, and since when that is known.
    open: HashMap<LedgerId, Instant>,
    unnamed: BTreeMap<BookieId, leave::Unnamed>,
    vouched: BTreeMap<BookieId, vouch::Vouched>,
    topology: spread::Topology,
    next_spread: Instant,
    /// Ledgers that are marked only since their copies could be spread better, as the last sweep found them, and new ones.
    moves: usize,
}

impl Term {
    fn new(now: Instant, config: &RepairConfig) -> Self {
        Self {
            judged: None,
            next_pass: now,
            failed_until: now,
            next_tails: now + FIRST_TAILS.min(config.tail_interval),
            looks: 0,
            zones: BTreeMap::new(),
            open: HashMap::new(),
            unnamed: BTreeMap::new(),
            vouched: BTreeMap::new(),
            topology: spread::Topology::new(now),
            next_spread: now,
            moves: 0,
        }
    }
}

impl Auditor {
    /// An auditor that has not begun.
    pub(super) fn new(
        store: Arc<dyn MetaStore>,
        cluster: ClusterUuid,
        client: LedgerClient,
        bookie: BookieId,
        folded: Folded,
        clock: Arc<dyn WallClock>,
        config: RepairConfig,
    ) -> Self {
        Self { store, cluster, client, bookie, folded, clock, config }
    }

    /// Runs until `tasks` stops.
    pub(super) async fn run(self, ttl: Duration, tasks: Tasks) {
        let store = Arc::clone(&self.store);
        metrics::Office::without();
        office::hold(&store, ttl, &tasks, |lease| self.campaign(lease)).await;
    }

    /// Waits to be elected, and audits then, for as long as the lease stands.
    async fn campaign(&self, lease: LeaseId) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let office = loop {
                look.tick().await;
                match office::take(&*self.store, keys::AUDITOR, &self.bookie, lease).await {
                    Ok(Some(office)) => break office,
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%error, "the election of an auditor failed"),
                }
            };
            tracing::info!(bookie = %self.bookie, "elected as auditor");
            let told = metrics::Office::taken();
            self.audit(office, &mut look).await;
            drop(told);
            tracing::warn!(bookie = %self.bookie, "not the auditor any more");
        }
    }

    /// Until somebody else has the office.
    async fn audit(&self, office: Version, look: &mut Interval) {
        let mut term = Term::new(Instant::now(), &self.config);
        loop {
            match office::holds(&*self.store, keys::AUDITOR, office).await {
                Ok(false) => return,
                Ok(true) => {
                    if let Err(error) = self.look(&mut term).await {
                        tracing::warn!(%error, "the audit is put off");
                    }
                }
                Err(error) => tracing::warn!(%error, "the audit is put off"),
            }
            look.tick().await;
        }
    }

    async fn look(&self, term: &mut Term) -> Result<(), Error> {
        let view = self.view(term).await?;
        let judgement = judge(&view, self.config.lost_bookie_delay, Mutations::default());
        let braked = !judgement.braked.is_empty();
        metrics::braked(braked);
        metrics::without_zone(without_zone(&view));
        let news = term.judged.as_ref().is_none_or(|judged| judged.differs(&judgement));
        if news && braked {
            tracing::error!(bookies = ?judgement.braked, "too many bookies vanished together: nothing is repaired for them; bring them back, or decommission those that are gone for good");
        }
        let settled = self.is_settled(term, &judgement);
        if news || term.looks.is_multiple_of(SWEEP_EVERY) {
            term.moves = self.sweep(&judgement, settled).await?;
        }
        term.looks = term.looks.wrapping_add(1);
        let now = Instant::now();
        if (news || now >= term.next_pass) && now >= term.failed_until {
            let passed = self.full_pass(term, judgement).await;
            if passed.is_err() {
                // Longer the longer it went: it begins from the first ledger again.
                term.failed_until = Instant::now() + FAILED.max(now.elapsed());
            }
            passed?;
        }
        if Instant::now() >= term.next_tails {
            term.next_tails = Instant::now() + self.config.tail_interval;
            if let Some(judgement) = &term.judged {
                self.tails(judgement).await?;
            }
        }
        if !settled {
            // What was taken back is looked for again as soon as it may be.
            term.next_spread = Instant::now();
        } else if Instant::now() >= term.next_spread {
            term.next_spread = Instant::now() + self.config.audit_interval;
            if let Some(judgement) = term.judged.clone() {
                self.spread(term, &judgement, &view.live).await?;
            }
        }
        Ok(())
    }

    async fn full_pass(&self, term: &mut Term, judgement: Judgement) -> Result<(), Error> {
        let begun = Instant::now();
        let found = self.pass(&judgement).await?;
        metrics::unread(found.unread_ledgers + found.unread_others);
        // What an object store takes to answer costs the metadata store nothing.
        let took = begun.elapsed();
        self.leave(term, &judgement, &found, begun).await?;
        let settled = judgement.is_quiet() && found.open.is_empty();
        self.end_open(term, found.open).await;
        let rest = match settled {
            true => self.config.audit_interval,
            // Open ledgers end, and then what they lack can be copied; somebody leaves.
            false => self.config.open_grace.min(self.config.audit_interval),
        };
        term.next_pass = Instant::now() + rest.max(took * REST);
        term.judged = Some(judgement);
        Ok(())
    }

    /// All values under a prefix that can be read.
    async fn list<T: Send>(
        &self,
        prefix: &str,
        mut decode: impl FnMut(&KeyValue) -> Option<T> + Send,
    ) -> Result<Vec<T>, Error> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.store.range(prefix, after.as_deref(), PAGE).await?;
            found.extend(page.items.iter().filter_map(&mut decode));
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    /// Who there is, linearizably (M8), and since when who is not.
    async fn view(&self, term: &mut Term) -> Result<View, Error> {
        let cookies =
            self.list(keys::BOOKIE_COOKIES, |item| Cookie::decode(&item.value.value).ok()).await?;
        // One that cannot be read is there all the same.
        let live = |item: &KeyValue| {
            Some((keys::parse_bookie_live(&item.key)?, LiveBookie::decode(&item.value.value).ok()))
        };
        let live = self.list(keys::BOOKIES_LIVE, live).await?;
        let draining =
            self.list(keys::BOOKIES_DRAINING, |i| keys::parse_bookie_draining(&i.key)).await?;
        let absent = |item: &KeyValue| {
            let bookie = keys::parse_bookie_absent(&item.key)?;
            let record = AbsentBookie::decode(&item.value.value).ok()?;
            Some((bookie, (record, item.value.version)))
        };
        let absent = self.list(keys::BOOKIES_ABSENT, absent).await?;
        let mut absent: BTreeMap<BookieId, (AbsentBookie, Version)> = absent.into_iter().collect();
        let now_ms = self.clock.now_ms();
        let readable: Vec<LiveBookie> = live.iter().filter_map(|(_, live)| live.clone()).collect();
        term.topology.see(&readable, Instant::now());
        let mut bookies = BTreeMap::new();
        for cookie in cookies {
            let id = cookie.bookie.clone();
            let registered = live.iter().find(|(registered, _)| *registered == id);
            if let Some((_, Some(live))) = registered {
                term.zones.insert(id.clone(), live.zone.clone());
            }
            let away = match (registered.is_some(), absent.remove(&id)) {
                (true, None) => None,
                (true, Some((_, version))) => {
                    self.forget_absence(&id, version).await?;
                    None
                }
                (false, Some((record, _))) => Some(record),
                (false, None) => {
                    let zone = term.zones.get(&id).cloned().unwrap_or_default();
                    let record = AbsentBookie { since_ms: now_ms, zone };
                    let key = keys::bookie_absent(&id);
                    self.store.put_if(&key, None, record.encode()).await?;
                    tracing::warn!(bookie = %id, delay = ?self.config.lost_bookie_delay, "a bookie is not registered any more; its copies are made anew unless it is back in time");
                    Some(record)
                }
            };
            bookies.insert(
                id.clone(),
                Bookie { draining: draining.contains(&id), away, lives: lives(&cookie) },
            );
        }
        // Of bookies that were decommissioned.
        for (id, (_, version)) in absent {
            self.forget_absence(&id, version).await?;
        }
        Ok(View { now_ms, bookies, live: readable })
    }

    async fn forget_absence(&self, bookie: &BookieId, version: Version) -> Result<(), Error> {
        let key = keys::bookie_absent(bookie);
        let guard = geminga_metastore::Guard::Version(key.clone(), version);
        self.store.txn(geminga_metastore::Txn::new().guard(guard).delete(key)).await.map(|_| ())
    }
}

/// How many name no zone, where others do; who leaves takes nothing anyhow.
fn without_zone(view: &View) -> usize {
    let stays = |live: &&LiveBookie| !view.bookies.get(&live.id).is_some_and(|b| b.draining);
    geminga_ledger::without_zone(&view.live).filter(stays).count()
}

fn lives(cookie: &Cookie) -> Vec<geminga_proto::ids::Incarnation> {
    cookie.disks.iter().map(|disk| disk.incarnation).collect()
}

#[cfg(test)]
mod tests;
