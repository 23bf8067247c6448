//! The elected coordinator: one of the brokers gives every partition an owner (DESIGN 6). Every broker runs this task; it
//! campaigns while nobody is elected, and decides while it is.
//!
//! * The election key lives by the broker's own lease: who loses its registration loses the office in the same revision.
//!   A lease may outlive the registration whose end was decided, so who is not registered is not elected either.
//! * Every decision is one transaction, guarded by the creation of the election key, by the version of each chunk
//!   that it changes, by the life of the topic, and by the absence of the brokers that it takes for dead. So a
//!   stale coordinator changes nothing, and a stale view at worst costs another try.
//! * The view that triggers a decision has seen all earlier ones: until then nothing is decided.
//! * Drains and moves that operators ask for are keys of their own; what is done or cannot be done is removed (`asked`).

mod asked;
mod decision;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::OptionFuture;
use geminga_metastore::record::BrokerLoad;
use geminga_metastore::{
    Change, Error, Guard, LeaseId, MetaStore, Revision, Txn, TxnOutcome, WatchEvent, WatchStream,
    keys, record,
};
use geminga_proto::ids::{BrokerId, TopicId};
use geminga_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::Instant;

use super::assignment::{self, Cause, Ownership};
use super::liveness::Liveness;
use super::load;
use super::metrics;
use super::probes::View as Probed;
use super::registration::{Registration, Standing};
use super::topology::Topology;
use decision::{Decision, decisions};

/// Between attempts after the store failed or a guard did not hold, when nothing changes before.
const RETRY: Duration = Duration::from_millis(250);

/// What a coordinator is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The metadata store.
    pub store: Arc<dyn MetaStore>,
    /// The view that triggers decisions.
    pub topology: Topology,
    /// This broker.
    pub registration: Registration,
    /// What this broker's probes say of the others; `None`: everybody counts as reached.
    pub probed: Option<watch::Receiver<Probed>>,
    /// Time to live of all brokers' leases.
    pub ttl: Duration,
    /// No other broker can exist: standalone, where the store belongs to this process alone.
    pub sole: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Office {
    created: Revision,
    lease: LeaseId,
    /// Whether the view has shown it; after that its absence means that it is lost.
    seen: bool,
}

struct Coordinator {
    parts: Parts,
    liveness: Liveness,
    brokers: WatchStream,
    office: Option<Office>,
    /// Revision of the newest decision; the view must have seen it before the next.
    decided: Revision,
    /// When that was: reports from soon after it tell what was carried before.
    decided_at: Instant,
}

/// Starts the task.
///
/// # Errors
/// When the brokers cannot be watched.
pub async fn start(parts: Parts, tasks: &Tasks) -> Result<(), Error> {
    let mut brokers = parts.store.watch(keys::BROKERS, None).await?;
    let mut coordinator = Coordinator {
        liveness: Liveness::new(parts.ttl, parts.sole),
        parts,
        // A watch without a revision begins with everything there is.
        office: None,
        decided: Revision(0),
        decided_at: Instant::now(),
        brokers: futures::stream::pending().boxed(),
    };
    if let Some(first) = brokers.next().await {
        coordinator.on_brokers(first);
    }
    coordinator.brokers = brokers;
    let cancelled = tasks.cancelled();
    tasks.spawn("coordinator", async move {
        tokio::select! {
            () = cancelled => {}
            () = coordinator.run() => {}
        }
    });
    Ok(())
}

impl Coordinator {
    async fn run(mut self) {
        let mut changed = self.parts.topology.changed();
        let mut standing = self.parts.registration.watch();
        let mut probed = self.parts.probed.clone();
        loop {
            changed.mark_unchanged();
            standing.mark_unchanged();
            if let Some(probed) = &mut probed {
                probed.mark_unchanged();
            }
            let wake = self.step().await;
            self.wait(&mut changed, &mut standing, probed.as_mut(), wake).await;
        }
    }

    /// Waits for anything that may ask for a step.
    async fn wait(
        &mut self,
        changed: &mut watch::Receiver<u64>,
        standing: &mut watch::Receiver<Standing>,
        probed: Option<&mut watch::Receiver<Probed>>,
        wake: Option<Instant>,
    ) {
        let alarm = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            event = self.brokers.next() => {
                if let Some(event) = event {
                    self.on_brokers(event);
                }
            }
            _ = changed.changed() => {}
            _ = standing.changed() => {}
            Some(Ok(())) = OptionFuture::from(probed.map(watch::Receiver::changed)) => {}
            () = alarm => {}
        }
    }

    fn on_brokers(&mut self, event: WatchEvent) {
        let now = Instant::now();
        match event {
            WatchEvent::Snapshot(range) => {
                let ids = range.items.iter().filter_map(|item| keys::parse_broker(&item.key));
                self.liveness.on_snapshot(now, ids.collect());
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(item) => {
                            if let Some(broker) = keys::parse_broker(&item.key) {
                                self.liveness.on_registered(broker);
                            }
                        }
                        Change::Delete { key } => {
                            if let Some(broker) = keys::parse_broker(&key) {
                                let certain =
                                    self.parts.registration.contact().proves_no_pause(now);
                                tracing::info!(%broker, certain, "registration of a broker ended");
                                self.liveness.on_deleted(now, broker, certain);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Does what the present state asks for; returns when to look again at the latest.
    async fn step(&mut self) -> Option<Instant> {
        let retry = || Some(Instant::now() + RETRY);
        let Standing::Registered { lease } = self.parts.registration.standing() else {
            self.resign();
            return None;
        };
        self.check_office(lease);
        if self.office.is_none() {
            if let Some(elected) = self.parts.topology.coordinator() {
                if elected.broker != self.parts.registration.id() {
                    return None;
                }
                // A campaign of unknown outcome was won. (Or it is the office of an earlier registration, which the
                // next event ends.)
                self.office = Some(Office { created: elected.created, lease, seen: true });
                return retry();
            }
            match self.campaign(lease).await {
                Ok(true) => {}
                // Somebody else won, or this broker's registration has ended or is not in the view yet: that will show it.
                Ok(false) => return retry(),
                Err(error) => {
                    tracing::warn!(%error, "campaign for coordinator failed; trying on");
                    return retry();
                }
            }
        }
        let office = self.office?;
        match self.decide(office).await {
            Ok(true) => self.next_look(Instant::now()),
            Ok(false) => retry(),
            Err(error) => {
                metrics::count_failed_decision();
                tracing::warn!(%error, "assignment could not be written; trying on");
                retry()
            }
        }
    }

    /// When a suspect counts as dead, or reports of loads count.
    fn next_look(&self, now: Instant) -> Option<Instant> {
        let loads = Some(self.decided_at + load::SETTLED).filter(|at| *at > now);
        loads.into_iter().chain(self.liveness.next_deadline(now)).min()
    }

    /// What brokers carry, once that is no more what they carried before the newest decision.
    fn loads(&self, now: Instant) -> HashMap<BrokerId, BrokerLoad> {
        if now < self.decided_at + load::SETTLED {
            return HashMap::new();
        }
        let reports = self.parts.topology.brokers().into_iter();
        reports.filter_map(|broker| Some((broker.id, broker.load.clone()?))).collect()
    }

    fn resign(&mut self) {
        if self.office.take().is_some() {
            tracing::info!("no longer the coordinator");
        }
        metrics::observe_elected(false);
        metrics::observe_partitions(0, 0);
    }

    /// Gives up the office when the view shows that it ended, or when it lived by an earlier registration.
    fn check_office(&mut self, lease: LeaseId) {
        let Some(office) = &mut self.office else { return };
        let lost = match self.parts.topology.coordinator() {
            Some(elected) if elected.created == office.created => {
                office.seen = true;
                false
            }
            Some(elected) => elected.created > office.created,
            None => office.seen,
        };
        if lost || office.lease != lease {
            self.resign();
        }
    }

    /// Whether this broker was elected: nobody else is, and it is registered by this lease.
    async fn campaign(&mut self, lease: LeaseId) -> Result<bool, Error> {
        let Parts { store, registration, topology, .. } = &self.parts;
        let mine = topology.broker(registration.id()).filter(|mine| mine.lease == lease);
        let Some(mine) = mine else { return Ok(false) };
        let record = record::Coordinator { broker: registration.id() };
        let txn = Txn::new()
            .guard(Guard::Absent(keys::COORDINATOR.to_owned()))
            .guard(Guard::Created(keys::broker(mine.id), mine.created))
            .put_leased(keys::COORDINATOR, record.encode(), lease);
        let TxnOutcome::Committed(created) = store.txn(txn).await? else { return Ok(false) };
        self.office = Some(Office { created, lease, seen: false });
        self.decided_at = Instant::now();
        metrics::observe_elected(true);
        tracing::info!(broker = %self.parts.registration.id(), "elected coordinator");
        Ok(true)
    }

    /// Writes what the present view asks for. False: something was in the way; look again soon.
    async fn decide(&mut self, office: Office) -> Result<bool, Error> {
        if self.parts.topology.assign_revision() < self.decided {
            // The watch will bring it, and with it the next step.
            return Ok(true);
        }
        let now = Instant::now();
        let view = View::of(&self.parts.topology);
        let probed = self.parts.probed.as_ref().map(|probed| probed.borrow().clone());
        self.liveness.on_owners(now, &view.owners());
        if let Some(probed) = &probed {
            self.liveness.on_probed_dead(now, &probed.dead);
        }
        metrics::observe_partitions(view.partitions(), view.unserved(self.liveness.live()));
        let (mut live, mut suspect) = (self.liveness.live().clone(), self.liveness.suspects(now));
        if let Some(probed) = probed {
            // A broker that no probe reaches is given nothing, and keeps what it has.
            let unreached = live.extract_if(.., |broker| !self.is_reached(*broker, &probed));
            suspect.extend(unreached);
        }
        let draining: BTreeSet<BrokerId> = self.parts.topology.drains().into_keys().collect();
        self.liveness.on_draining(now, &draining);
        let input = assignment::Input {
            topics: &view.topics,
            current: &view.current,
            live: &live,
            suspect: &suspect,
            draining: &draining,
            loads: &self.loads(now),
        };
        let changes = assignment::plan(&input);
        // Whatever nobody serves comes first.
        let urgent = changes.iter().any(|change| matches!(change.cause, Cause::Death | Cause::New));
        if !urgent && let Some(done) = self.carry_out_asked(office, &live).await? {
            return Ok(done);
        }
        for decision in decisions(&changes, &self.parts.topology) {
            if !self.commit(office, decision).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether probes reach a broker under its present registration. This one needs none.
    fn is_reached(&self, broker: BrokerId, probed: &Probed) -> bool {
        let registered = self.parts.topology.broker(broker);
        broker == self.parts.registration.id()
            || registered.is_some_and(|found| probed.reaches(broker, found.lease))
    }

    /// Whether it was committed.
    async fn commit(&mut self, office: Office, decision: Decision) -> Result<bool, Error> {
        let guard = Guard::Created(keys::COORDINATOR.to_owned(), office.created);
        let txn = Txn::new().guard(guard).and(decision.txn);
        match self.parts.store.txn(txn).await? {
            TxnOutcome::Committed(revision) => {
                self.decided = self.decided.max(revision);
                self.decided_at = Instant::now();
                for (cause, partitions) in &decision.moves {
                    metrics::count_moves(cause, *partitions);
                }
                tracing::info!(moves = ?decision.moves, "partitions assigned");
                Ok(true)
            }
            TxnOutcome::GuardFailed => {
                metrics::count_failed_decision();
                self.check_in(office).await?;
                Ok(false)
            }
        }
    }

    /// After a guard failed: whether the office is still ours is read, not guessed.
    async fn check_in(&mut self, office: Office) -> Result<(), Error> {
        let found = self.parts.store.get(keys::COORDINATOR).await?;
        if found.is_none_or(|f| f.created != office.created) {
            self.resign();
        }
        Ok(())
    }
}

/// The part of the view that a decision is made from.
struct View {
    topics: Vec<(TopicId, u32)>,
    current: HashMap<TopicId, Vec<Ownership>>,
}

impl View {
    fn of(topology: &Topology) -> Self {
        let named = topology.topics();
        let topics: Vec<_> = named.iter().map(|t| (t.id, t.partitions)).collect();
        let current = named.iter().map(|t| (t.id, topology.owners(t))).collect();
        Self { topics, current }
    }

    fn owners(&self) -> BTreeSet<BrokerId> {
        self.current.values().flatten().filter_map(|o| o.broker).collect()
    }

    fn partitions(&self) -> usize {
        self.topics.iter().map(|(_, partitions)| *partitions as usize).sum()
    }

    /// How many partitions have no owner among `live`.
    fn unserved(&self, live: &BTreeSet<BrokerId>) -> usize {
        let owners = self.current.values().flatten().filter_map(|o| o.broker);
        self.partitions().saturating_sub(owners.filter(|owner| live.contains(owner)).count())
    }
}

#[cfg(test)]
mod tests;
