//! Brokers probe each other, so that one that dies is replaced long before its lease ends (DESIGN 6). One task owns the
//! rules ([`core`]) and acts on them; each peer has a stream of probes of its own ([`link`]), whose end is noticed at once.
//! The registration of one that is dead is ended by a transaction ([`revocation`]).
//!
//! ```text
//!   tick, members, answers ─► core ─► probes ─► link ─► peer ─┐
//!                               ▲                             │ each also tells what it sees
//!                               └──────── told ◄──────────────┘
//!                               └─► end the registration: the coordinator sees the key go, and decides
//! ```
//!
//! What two brokers see is agreed on between them alone; the metadata store hears of it by the revocation.

mod core;
mod link;
mod revocation;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, OptionFuture};
use geminga_metastore::{LeaseId, MetaStore};
use geminga_proto::ids::BrokerId;
use geminga_proto::internal::{ProbeRequest, ProbeResponse, SeenDead};
use geminga_runtime::Tasks;
use geminga_tls::Dial;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::core::{Core, Effect, Event, Evidence, Member, Seen};
use super::metrics;
use super::registration::{Registration, Standing};
use super::topology::Topology;
use link::{Link, Probe};
use revocation::Revocation;

/// Most brokers that one broker probes; in a larger cluster the next ones by number, so that everybody is probed by so many.
const MAX_PEERS: usize = 64;
/// Reports that wait for the task; a lost one is repeated by the next probe.
const REPORTS: usize = 1_024;

/// What probes say now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Who answers probes of this broker, and by which registration.
    pub reached: BTreeMap<BrokerId, LeaseId>,
    /// Who is dead as seen by two.
    pub dead: BTreeSet<BrokerId>,
    seen: Vec<Seen>,
    /// Registered brokers that are not probed from here, since there are too many.
    unprobed: BTreeSet<BrokerId>,
}

impl View {
    /// Whether a broker may be given partitions: it answers probes under this registration, or is not probed from here.
    pub fn reaches(&self, broker: BrokerId, lease: LeaseId) -> bool {
        self.unprobed.contains(&broker) || self.reached.get(&broker) == Some(&lease)
    }
}

/// A handle on the prober; cheap to clone.
#[derive(Debug, Clone)]
pub struct Probes {
    me: BrokerId,
    view: watch::Receiver<View>,
    reports: mpsc::Sender<Event>,
}

impl Probes {
    /// Probes the others, reached as `dial` says, until `tasks` stops.
    pub fn start(
        store: Arc<dyn MetaStore>,
        topology: Topology,
        registration: Registration,
        dial: Dial,
        tasks: &Tasks,
    ) -> Self {
        let me = registration.id();
        let (view, seen) = watch::channel(View::default());
        let (reports, inbox) = mpsc::channel(REPORTS);
        let probes = Self { me, view: seen, reports: reports.clone() };
        let prober = Prober {
            store,
            topology,
            registration,
            dial,
            tasks: tasks.clone(),
            core: Core::new(me),
            known: BTreeMap::new(),
            unprobed: BTreeSet::new(),
            ticks: 0,
            links: HashMap::new(),
            view,
            reports,
            revocation: None,
        };
        let cancelled = tasks.cancelled();
        tasks.spawn("peer probes", async move {
            tokio::select! {
                () = cancelled => {}
                () = prober.run(inbox) => {}
            }
        });
        probes
    }

    /// Follows what probes say.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }

    /// Answers a probe of another broker, and hears what that one sees.
    pub(crate) fn answer(&self, request: ProbeRequest) -> ProbeResponse {
        let told = Event::Told { peer: BrokerId(request.from), seen: from_wire(&request.seen) };
        // When the task does not keep up, the next probe says the same.
        let _full = self.reports.try_send(told).is_err();
        ProbeResponse { broker: self.me.0, seen: to_wire(&self.view.borrow().seen) }
    }
}

/// A registered broker, or one that was and to whom partitions are still assigned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    address: String,
    member: Member,
}

struct Prober {
    store: Arc<dyn MetaStore>,
    topology: Topology,
    registration: Registration,
    dial: Dial,
    tasks: Tasks,
    core: Core,
    known: BTreeMap<BrokerId, Known>,
    unprobed: BTreeSet<BrokerId>,
    ticks: u64,
    links: HashMap<BrokerId, Link>,
    view: watch::Sender<View>,
    reports: mpsc::Sender<Event>,
    revocation: Option<BoxFuture<'static, ()>>,
}

impl Prober {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut changed = self.topology.changed();
        self.on_topology();
        loop {
            let due = self.core.due();
            tokio::select! {
                biased;
                // First of all: after a pause, nothing that came meanwhile may be believed.
                Some(()) = OptionFuture::from(due.map(tokio::time::sleep_until)) => {
                    self.ticks += 1;
                    self.step(Event::Tick);
                }
                Some(()) = OptionFuture::from(self.revocation.as_mut()) => {
                    self.revocation = None;
                    self.step(Event::RevocationOver);
                }
                Ok(()) = changed.changed() => self.on_topology(),
                // This task holds a sender.
                Some(event) = inbox.recv() => self.step(event),
            }
        }
    }

    fn on_topology(&mut self) {
        let mut known = self.registered();
        let gone: Vec<_> = self.known.iter().filter(|(id, _)| !known.contains_key(id)).collect();
        if !gone.is_empty() {
            let owners = self.topology.loads();
            for (id, last) in gone.into_iter().filter(|(id, _)| owners.contains_key(id)) {
                let member = Member { registered: false, ..last.member };
                known.insert(*id, Known { address: last.address.clone(), member });
            }
        }
        // Topics change far more often than brokers.
        if known != self.known {
            self.links
                .retain(|id, link| known.get(id).is_some_and(|k| k.address == link.address()));
            self.known = known;
        }
        let peers = self.known.iter().map(|(id, known)| (*id, known.member)).collect();
        let coordinator = self.topology.coordinator().map(|elected| elected.broker);
        self.step(Event::Members { peers, coordinator });
    }

    /// The registered brokers that are to be probed.
    fn registered(&mut self) -> BTreeMap<BrokerId, Known> {
        let brokers = self.topology.brokers();
        let (probed, unprobed) = choose(self.registration.id(), brokers.iter().map(|b| b.id));
        let known = brokers.into_iter().filter(|broker| probed.contains(&broker.id));
        self.unprobed = unprobed;
        known
            .map(|broker| {
                let member = Member { lease: broker.lease, registered: true };
                (broker.id, Known { address: broker.grpc_address.clone(), member })
            })
            .collect()
    }

    fn step(&mut self, event: Event) {
        let now = Instant::now();
        let effects = self.core.step(now, event);
        let seen = self.core.seen();
        for effect in effects {
            match effect {
                Effect::Probe(broker) => self.probe(broker, &seen),
                Effect::Revoke { broker, lease } => self.revoke(broker, lease, &seen),
                Effect::Distrusted => {
                    metrics::count_distrusted_probes();
                    tracing::info!(
                        "this process stood still, or was cut off: what its probes had shown does not count"
                    );
                }
            }
        }
        let (reached, dead) = (self.core.reached(), self.core.dead(now));
        let view = View { reached, dead, seen, unprobed: self.unprobed.clone() };
        metrics::observe_reached(view.reached.len());
        self.view.send_if_modified(|now| {
            let changed = *now != view;
            *now = view;
            changed
        });
    }

    fn probe(&mut self, broker: BrokerId, seen: &[Seen]) {
        let Some(known) = self.known.get(&broker) else { return };
        let link = self.links.entry(broker).or_insert_with(|| {
            let (address, dial) = (known.address.clone(), self.dial.clone());
            Link::start(broker, address, dial, self.reports.clone(), &self.tasks)
        });
        let request = ProbeRequest { from: self.registration.id().0, seen: to_wire(seen) };
        link.probe(Probe { request, tick: self.ticks, made: Instant::now() });
    }

    fn revoke(&mut self, broker: BrokerId, lease: LeaseId, seen: &[Seen]) {
        let evidence = seen.iter().find(|seen| seen.broker == broker).map(|seen| seen.evidence);
        // Who is not registered itself has no say.
        let Standing::Registered { lease: mine } = self.registration.standing() else {
            self.revocation = Some(tokio::time::sleep(core::INTERVAL).boxed());
            return;
        };
        let revocation = Revocation {
            store: Arc::clone(&self.store),
            topology: self.topology.clone(),
            view: self.view.subscribe(),
            me: (self.registration.id(), mine),
            dead: (broker, lease),
            refused: evidence == Some(Evidence::Refused),
        };
        self.revocation = Some(revocation.run().boxed());
    }
}

/// Which of the registered brokers are probed from here, and which are too many: the next ones by number are.
fn choose(
    me: BrokerId,
    registered: impl Iterator<Item = BrokerId>,
) -> (BTreeSet<BrokerId>, BTreeSet<BrokerId>) {
    let (before, after): (Vec<_>, Vec<_>) =
        registered.filter(|broker| *broker != me).partition(|broker| *broker < me);
    let mut next = after.into_iter().chain(before);
    (next.by_ref().take(MAX_PEERS).collect(), next.collect())
}

fn to_wire(seen: &[Seen]) -> Vec<SeenDead> {
    let seen = seen.iter().map(|seen| SeenDead {
        broker: seen.broker.0,
        lease_id: seen.lease.0,
        refused: seen.evidence == Evidence::Refused,
    });
    seen.collect()
}

/// At most as many as there can be peers: whoever sends more says nothing useful.
fn from_wire(seen: &[SeenDead]) -> Vec<Seen> {
    let seen = seen.iter().take(2 * MAX_PEERS).map(|seen| Seen {
        broker: BrokerId(seen.broker),
        lease: LeaseId(seen.lease_id),
        evidence: if seen.refused { Evidence::Refused } else { Evidence::Missed },
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of many brokers some are not probed: those count as reached, and only those.
    #[test]
    fn who_is_probed_and_does_not_answer_is_not_reached_in_a_large_cluster_either() {
        let all = || (0..100).map(BrokerId);
        let (probed, unprobed) = choose(BrokerId(50), all());
        assert_eq!((probed.len(), unprobed.len()), (MAX_PEERS, 100 - 1 - MAX_PEERS));
        assert!(probed.contains(&BrokerId(51)) && probed.contains(&BrokerId(0)));
        assert!(unprobed.contains(&BrokerId(49)) && !unprobed.contains(&BrokerId(50)));
        let view = View { unprobed, ..View::default() };
        assert!(view.reaches(BrokerId(49), LeaseId(1)));
        assert!(!view.reaches(BrokerId(51), LeaseId(1)));
        let (probed, unprobed) = choose(BrokerId(1), (0..3).map(BrokerId));
        assert_eq!((probed.len(), unprobed.len()), (2, 0));
    }
}
