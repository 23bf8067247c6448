//! Repairs marked ledgers: takes the most urgent that nobody else repairs, under a lock that lives by this worker's lease.
//!
//! Owned by one task, which follows the marks and runs a few repairs at a time. A lock only saves work: two repairs of one ledger cost a copy, and the swap
//! of one is lost (scenario 49).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_ledger::core::repair::{Finish, Wait};
use geminga_ledger::{LedgerClient, Throttle};
use geminga_metastore::record::{LiveBookie, Under};
use geminga_metastore::{
    Change, Error, KeyValue, LeaseId, MetaStore, WatchEvent, WatchStream, keys,
};
use geminga_proto::ids::{BookieId, EntryId, Incarnation, LedgerId};
use geminga_runtime::Tasks;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::named::Named;
use super::queue::{Marked, Queue};
use super::{metrics, office};

/// How often it is looked what may begin, at the latest.
const LOOK: Duration = Duration::from_secs(1);
/// Most repairs that begin from one look to the next: those that can only wait end at once, and cost the metadata store some reads each.
const BEGIN_PER_LOOK: u32 = 32;
/// Most marks that are followed. What is beyond them is followed once half of these are done.
const MAX_FOLLOWED: usize = 100_000;
/// Pause before a ledger that somebody else repairs is tried, and before marks that could not be followed are.
const OTHERS: Duration = Duration::from_secs(5);
/// First pause before a ledger whose turn has not come is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// How one repair ended, and how long it took.
type Ended = (LedgerId, Result<Finish, Error>, Duration);

/// The worker of one bookie.
#[derive(Debug)]
pub(super) struct Worker {
    store: Arc<dyn MetaStore>,
    client: LedgerClient,
    bookie: BookieId,
    slots: usize,
    throttle: Arc<Throttle>,
}

/// What a worker does while its lease stands.
struct Shift<'a> {
    worker: &'a Worker,
    lease: LeaseId,
    queue: Queue,
    /// As far as is known from following them: a hint, since a repair reads the mark itself.
    marks: BTreeMap<LedgerId, Marked>,
    /// Whether more are marked than are followed.
    more: bool,
    /// Repairs that may begin before the next look.
    begins: u32,
    running: FuturesUnordered<BoxFuture<'a, Ended>>,
    /// Ledgers that a metric names as lost.
    named: Named,
}

impl Worker {
    /// A worker that has not begun.
    pub(super) fn new(
        store: Arc<dyn MetaStore>,
        client: LedgerClient,
        bookie: BookieId,
        slots: usize,
        throttle: Arc<Throttle>,
    ) -> Self {
        Self { store, client, bookie, slots, throttle }
    }

    /// Runs until `tasks` stops.
    pub(super) async fn run(self, ttl: Duration, tasks: Tasks) {
        let store = Arc::clone(&self.store);
        office::hold(&store, ttl, &tasks, |lease| self.shift(lease)).await;
    }

    async fn shift(&self, lease: LeaseId) {
        let mut shift = Shift {
            worker: self,
            lease,
            queue: Queue::new(self.slots),
            marks: BTreeMap::new(),
            more: false,
            begins: BEGIN_PER_LOOK,
            running: FuturesUnordered::new(),
            named: Named::default(),
        };
        let mut changed = self.client.bookies().changed();
        let mut who = self.who();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = self.follow().await;
        loop {
            tokio::select! {
                biased;
                Some(ended) = shift.running.next() => shift.on_ended(ended).await,
                Ok(()) = changed.changed() => {
                    let now = self.who();
                    // How much is free changes all the time, and makes nothing possible.
                    if now != who {
                        who = now;
                        shift.queue.forget_pauses(Instant::now());
                    }
                }
                _ = look.tick() => {
                    shift.begins = BEGIN_PER_LOOK;
                    if shift.more && shift.marks.len() < MAX_FOLLOWED / 2 {
                        events = self.follow().await;
                    }
                }
                Some(event) = events.next() => {
                    shift.hear(event);
                    // Not for each of many: the next look begins it.
                    continue;
                }
            }
            if let Err(error) = shift.begin().await {
                tracing::debug!(%error, "repairs could not begin; trying again");
            }
            metrics::running(shift.queue.running());
        }
    }

    /// The marks, all of them first.
    async fn follow(&self) -> WatchStream {
        loop {
            match self.store.watch(keys::UNDER, None).await {
                Ok(events) => return events,
                Err(error) => tracing::debug!(%error, "marks could not be followed; trying again"),
            }
            tokio::time::sleep(OTHERS).await;
        }
    }

    /// Who is there, and takes data.
    fn who(&self) -> Vec<(BookieId, Incarnation, bool)> {
        let live = self.client.bookies().live();
        let disks = |bookie: LiveBookie| {
            let id = bookie.id;
            bookie.disks.into_iter().map(move |disk| (id.clone(), disk.incarnation, disk.writable))
        };
        live.into_iter().flat_map(disks).collect()
    }

    async fn repair(
        &self,
        ledger: LedgerId,
        key: String,
        lock: geminga_metastore::Version,
    ) -> Ended {
        let begun = Instant::now();
        let result = self.client.repair(ledger, lock, &self.throttle).await;
        office::give_back(&*self.store, &key, lock).await;
        (ledger, result, begun.elapsed())
    }

    async fn topic(&self, ledger: LedgerId) -> String {
        match self.client.metadata(ledger).await {
            Ok(Some((meta, _))) => format!("{}/{}", meta.custom.namespace, meta.custom.name),
            Ok(None) | Err(_) => String::new(),
        }
    }

    /// Names what is lost in the mark, so that whoever asks for the state of the cluster hears of it.
    async fn tell_lost(&self, ledger: LedgerId, entry: EntryId) -> Result<(), Error> {
        let key = keys::under(ledger);
        let Some(found) = self.store.get(&key).await? else { return Ok(()) };
        let Ok(mut mark) = Under::decode(ledger, &found.value) else { return Ok(()) };
        if mark.lost_entry == Some(entry) {
            return Ok(());
        }
        mark.lost_entry = Some(entry);
        mark.copies = Some(0);
        self.store.put_if(&key, Some(found.version), mark.encode()).await.map(|_| ())
    }
}

impl Shift<'_> {
    fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot(range) => {
                self.marks.clear();
                self.more = false;
                range.items.iter().for_each(|item| self.marked(item));
                // Where there are more than are followed, some of those that are named may be among them.
                if !self.more {
                    self.named.keep(|ledger| self.marks.contains_key(&ledger));
                }
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(item) => self.marked(&item),
                        Change::Delete { key } => {
                            if let Some(ledger) = keys::parse_under(&key) {
                                self.marks.remove(&ledger);
                                self.queue.unmarked(ledger);
                                self.named.forget(ledger);
                            }
                        }
                    }
                }
            }
        }
    }

    fn marked(&mut self, item: &KeyValue) {
        let Some(ledger) = keys::parse_under(&item.key) else { return };
        match Under::decode(ledger, &item.value.value) {
            Ok(_) if self.marks.len() >= MAX_FOLLOWED && !self.marks.contains_key(&ledger) => {
                self.more = true;
            }
            Ok(mark) => {
                self.marks.insert(ledger, Marked::of(&mark));
            }
            Err(error) => tracing::warn!(key = item.key, %error, "an invalid mark is ignored"),
        }
    }

    /// Begins what there are places for.
    async fn begin(&mut self) -> Result<(), Error> {
        if self.queue.is_full() || self.begins == 0 {
            return Ok(());
        }
        let Worker { store, bookie, .. } = self.worker;
        let now = Instant::now();
        for mark in self.queue.order(self.marks.values().copied(), now) {
            if self.queue.is_full() || self.begins == 0 {
                break;
            }
            if !self.queue.may_begin(mark) {
                continue;
            }
            self.begins -= 1;
            let key = keys::under_lock(mark.ledger);
            let Some(lock) = office::take(&**store, &key, bookie, self.lease).await? else {
                self.queue.taken(mark.ledger, OTHERS, now);
                continue;
            };
            self.queue.began(mark);
            self.running.push(self.worker.repair(mark.ledger, key, lock).boxed());
        }
        Ok(())
    }

    async fn on_ended(&mut self, (ledger, result, took): Ended) {
        let now = Instant::now();
        let outcome = match &result {
            Ok(Finish::Clean) => "clean",
            Ok(Finish::Gone) => "gone",
            Ok(Finish::Unmarked) => "unmarked",
            Ok(Finish::Waits(_)) => "waits",
            Ok(Finish::Lost { .. }) => "lost",
            Err(_) => "failed",
        };
        metrics::repaired(outcome, took.as_secs_f64());
        match result {
            Ok(Finish::Clean | Finish::Gone | Finish::Unmarked) => {
                tracing::info!(%ledger, outcome, ?took, "repaired");
                self.queue.done(ledger);
                if self.marks.contains_key(&ledger) {
                    // That the mark went is heard in a moment; or it is another already.
                    self.queue.taken(ledger, LOOK, now);
                }
                self.named.forget(ledger);
            }
            Ok(Finish::Waits(wait)) => {
                tracing::info!(%ledger, ?wait, "the repair of a ledger goes on later");
                let pause = if wait == Wait::Turn { Duration::ZERO } else { PAUSE };
                self.queue.again(ledger, pause, now);
            }
            Ok(Finish::Lost { fragment_first, entry }) => {
                self.queue.again(ledger, PAUSE, now);
                self.lost(ledger, fragment_first, entry).await;
            }
            Err(error) => {
                tracing::warn!(%ledger, %error, "the repair of a ledger failed; trying again");
                self.queue.again(ledger, PAUSE, now);
            }
        }
    }

    async fn lost(&mut self, ledger: LedgerId, fragment: EntryId, entry: EntryId) {
        let topic = self.worker.topic(ledger).await;
        tracing::error!(%ledger, topic, fragment = fragment.0, entry = entry.0, "no copy of an entry is known: bring back a bookie that has it, or its disk");
        if let Err(error) = self.worker.tell_lost(ledger, entry).await {
            tracing::warn!(%ledger, %error, "a loss could not be written down; trying again");
        }
        self.named.add(ledger, topic);
    }
}
