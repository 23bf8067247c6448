//! What goes wrong: one fault at a time is drawn, but many last, so that they overlap. Each is counted.

use geminga_metastore::record::LedgerState;

use crate::bookie::FAST;
use crate::context::{Errand, note};
use crate::disk::DiskFault;
use crate::event::{Event, Host};
use crate::schedule::{MS, Time};
use crate::world::World;

/// The end of a fault that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heal {
    Path(Host, Host),
    Host(Host),
    Speed(Host),
    Loss,
    Store,
    Disk(usize),
    Writable(usize),
    /// The coordinator looks whether somebody owns the chain.
    Elect,
}

/// What can go wrong, and how often in relation to the rest.
const FAULTS: &[(Fault, u64)] = &[
    (Fault::Kill, 10),
    (Fault::Power, 10),
    (Fault::PowerInside, 10),
    (Fault::IoError, 4),
    (Fault::DiskFull, 2),
    (Fault::ReadError, 2),
    (Fault::DiskSlow, 5),
    (Fault::ReadOnly, 3),
    (Fault::Wipe, 6),
    (Fault::Rot, 12),
    (Fault::Partition, 6),
    (Fault::OneWay, 6),
    (Fault::CutOff, 5),
    (Fault::NetworkSlow, 5),
    (Fault::Loss, 4),
    (Fault::Break, 8),
    (Fault::StoreOut, 4),
    (Fault::StoreSlow, 4),
    (Fault::BrokerCrash, 4),
    (Fault::BrokerPause, 4),
    (Fault::Move, 6),
    (Fault::StrayRecovery, 4),
    (Fault::RecovererKill, 3),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Power,
    PowerInside,
    IoError,
    DiskFull,
    ReadError,
    DiskSlow,
    ReadOnly,
    Wipe,
    Rot,
    Partition,
    OneWay,
    CutOff,
    NetworkSlow,
    Loss,
    Break,
    StoreOut,
    StoreSlow,
    BrokerCrash,
    BrokerPause,
    Move,
    StrayRecovery,
    RecovererKill,
}

/// How many brokers there are.
pub(crate) const BROKERS: usize = 3;

impl World {
    /// Lets something go wrong, and plans the next.
    pub(crate) fn fault(&mut self) {
        let gap = self.context.settings.fault_gap;
        let pause = self.context.dice.range(0, 2 * gap);
        self.context.schedule.after(pause, Event::Fault);
        let total: u64 = FAULTS.iter().map(|(_, weight)| weight).sum();
        let mut lot = self.context.dice.range(1, total);
        for (fault, weight) in FAULTS {
            if lot <= *weight {
                return self.inject(*fault);
            }
            lot -= weight;
        }
    }

    fn inject(&mut self, fault: Fault) {
        let bookie = self.context.dice.below(self.bookies.len());
        let name = match fault {
            Fault::Kill | Fault::Power | Fault::PowerInside => self.stop_bookie(fault, bookie),
            Fault::IoError
            | Fault::DiskFull
            | Fault::ReadError
            | Fault::DiskSlow
            | Fault::ReadOnly => self.trouble_disk(fault, bookie),
            Fault::Wipe | Fault::Rot => self.destroy(fault, bookie),
            Fault::Partition | Fault::OneWay | Fault::CutOff | Fault::NetworkSlow | Fault::Loss => {
                self.trouble_network(fault)
            }
            Fault::Break => self.break_connection(),
            Fault::StoreOut | Fault::StoreSlow => self.trouble_store(fault),
            Fault::BrokerCrash | Fault::BrokerPause | Fault::Move => self.trouble_broker(fault),
            Fault::StrayRecovery | Fault::RecovererKill => self.trouble_recovery(fault),
        };
        if let Some(name) = name {
            self.context.coverage.hit(name);
            self.faults += 1;
            note!(self.context, "{name}");
        }
    }

    /// A short or a long time.
    fn while_(&self, longest: Time) -> Time {
        let longest = if self.context.dice.chance(700) { longest / 5 } else { longest };
        self.context.dice.range(5 * MS, longest)
    }

    fn heal_after(&mut self, after: Time, heal: Heal) {
        self.context.schedule.after(after, Event::Heal(heal));
    }

    fn stop_bookie(&mut self, fault: Fault, index: usize) -> Option<&'static str> {
        let away = self.while_(2_000 * MS);
        let (bookie, context) = (&mut self.bookies[index], &mut self.context);
        if bookie.has_refused() {
            return None;
        }
        match fault {
            Fault::Kill => bookie.kill(context),
            Fault::Power => bookie.lose_power(context),
            _ => {
                let changes = context.dice.range(0, 30);
                let seed = context.dice.next_u64();
                bookie.disk().plan(changes, DiskFault::PowerCut(seed));
                if context.dice.chance(500) {
                    // Let it happen while the log is being opened.
                    bookie.kill(context);
                    bookie.start_after(away, context);
                }
                return Some("fault: power cut inside a disk operation");
            }
        }
        bookie.start_after(away, context);
        self.stop_keepers(index);
        Some(if fault == Fault::Kill { "fault: bookie killed" } else { "fault: bookie lost power" })
    }

    fn trouble_disk(&mut self, fault: Fault, index: usize) -> Option<&'static str> {
        let lasts = self.while_(3_000 * MS);
        let (bookie, context) = (&mut self.bookies[index], &mut self.context);
        let changes = context.dice.range(0, 40);
        match fault {
            Fault::IoError => {
                bookie.disk().plan(changes, DiskFault::Error);
                Some("fault: I/O error")
            }
            Fault::DiskFull => {
                bookie.disk().plan(changes, DiskFault::Full);
                Some("fault: disk full")
            }
            Fault::ReadError => {
                bookie.disk().plan_read_error(changes / 4);
                Some("fault: read error")
            }
            Fault::DiskSlow => {
                let slowest = context.dice.range(20, 300) * MS;
                bookie.flush = (slowest / 4, slowest);
                self.heal_after(lasts, Heal::Disk(index));
                Some("fault: disk slow")
            }
            _ => {
                bookie.set_writable(false, context);
                self.heal_after(lasts, Heal::Writable(index));
                Some("fault: disk read-only")
            }
        }
    }

    /// Only what the ack quorum allows to be lost is lost.
    fn destroy(&mut self, fault: Fault, index: usize) -> Option<&'static str> {
        let away = self.while_(1_000 * MS);
        let (bookie, context) = (&mut self.bookies[index], &mut self.context);
        if bookie.has_refused() {
            // Whoever looks after it puts a new disk in.
            bookie.wipe(context);
            bookie.start_after(away, context);
            return Some("fault: disk wiped");
        }
        if !context.truth.may_lose(&bookie.member()) {
            return None;
        }
        if fault == Fault::Rot {
            return bookie.rot(context).then_some("fault: rot");
        }
        bookie.wipe(context);
        bookie.start_after(away, context);
        self.stop_keepers(index);
        Some("fault: disk wiped")
    }

    /// Those die with their bookie who keep its ledgers.
    fn stop_keepers(&mut self, index: usize) {
        if let Some(uploader) = self.uploaders.get_mut(index) {
            uploader.stop(&mut self.context);
        }
        if let Some(giver) = self.givers.get_mut(index) {
            giver.stop(&mut self.context);
        }
    }

    fn hosts(&self) -> Vec<Host> {
        let mut hosts = vec![Host::Store, Host::Auditor];
        hosts.extend((0..BROKERS).map(Host::Broker));
        hosts.extend((0..self.bookies.len()).map(Host::Bookie));
        hosts
    }

    fn trouble_network(&mut self, fault: Fault) -> Option<&'static str> {
        let lasts = self.while_(2_000 * MS);
        let hosts = self.hosts();
        let (a, b) = (*self.context.dice.pick(&hosts), *self.context.dice.pick(&hosts));
        let network = &mut self.context.network;
        match fault {
            Fault::Partition | Fault::OneWay if a == b => None,
            Fault::Partition => {
                network.block(a, b);
                network.block(b, a);
                self.heal_after(lasts, Heal::Path(a, b));
                self.heal_after(lasts, Heal::Path(b, a));
                Some("fault: partition")
            }
            Fault::OneWay => {
                network.block(a, b);
                self.heal_after(lasts, Heal::Path(a, b));
                Some("fault: one-way partition")
            }
            Fault::CutOff => {
                for other in &hosts {
                    network.block(a, *other);
                    network.block(*other, a);
                }
                self.heal_after(lasts, Heal::Host(a));
                Some("fault: host cut off")
            }
            Fault::NetworkSlow => {
                let by = self.context.dice.range(10, 200) * MS;
                self.context.network.slow_down(a, by);
                self.heal_after(lasts, Heal::Speed(a));
                Some("fault: network slow")
            }
            _ => {
                network.loss = self.context.dice.range(20, 200);
                network.doubling = self.context.dice.range(20, 200);
                self.heal_after(lasts, Heal::Loss);
                Some("fault: lossy network")
            }
        }
    }

    fn break_connection(&mut self) -> Option<&'static str> {
        let broker = self.context.dice.below(BROKERS);
        let connections = self.brokers[broker].connections();
        let (writer, bookie, connection) = self.context.dice.pick_any(connections.into_iter())?;
        self.context.schedule.after(0, Event::Broken { broker, writer, bookie, connection });
        Some("fault: connection broken")
    }

    fn trouble_store(&mut self, fault: Fault) -> Option<&'static str> {
        let lasts = self.while_(2_500 * MS);
        if fault == Fault::StoreOut {
            self.context.network.store_out = true;
            self.heal_after(lasts, Heal::Store);
            return Some("fault: store out");
        }
        let by = self.context.dice.range(100, 900) * MS;
        self.context.network.slow_down(Host::Store, by);
        self.heal_after(lasts, Heal::Speed(Host::Store));
        Some("fault: store slow")
    }

    fn trouble_broker(&mut self, fault: Fault) -> Option<&'static str> {
        let lasts = self.while_(2_500 * MS);
        let active = (0..BROKERS).filter(|index| self.brokers[*index].is_active());
        let broker = self.context.dice.pick_any(active)?;
        match fault {
            Fault::BrokerCrash => {
                self.brokers[broker].crash(&mut self.context);
                self.brokers[broker].start_after(lasts, &mut self.context);
                let host = Host::Broker(broker);
                self.recoverers.retain(|_, recoverer| recoverer.host != host);
                Some("fault: broker crashed")
            }
            Fault::BrokerPause => {
                let until = self.context.now() + lasts;
                self.paused.insert(Host::Broker(broker), until);
                Some("fault: broker paused")
            }
            _ => {
                let other = (broker + 1 + self.context.dice.below(BROKERS - 1)) % BROKERS;
                if self.brokers[other].is_active() || !self.brokers[other].is_running() {
                    return None;
                }
                self.brokers[other].take_over(&mut self.context);
                Some("fault: ownership moved")
            }
        }
    }

    fn trouble_recovery(&mut self, fault: Fault) -> Option<&'static str> {
        if fault == Fault::RecovererKill {
            let ids = self.recoverers.keys().copied();
            let id = self.context.dice.pick_any(ids)?;
            let killed = self.recoverers.remove(&id)?;
            // Whoever waits for it looks again.
            self.context.to_recover.extend(killed.handed_back());
            return Some("fault: recoverer killed");
        }
        let open = self.context.truth.ledgers.iter().filter(|(_, ledger)| {
            ledger.live().is_some_and(|meta| meta.state != LedgerState::Closed)
        });
        let ledger = self.context.dice.pick_any(open.map(|(id, _)| *id))?;
        self.context.to_recover.push(Errand { host: Host::Auditor, ledger, owner: None });
        Some("fault: stray recovery")
    }

    /// A fault that lasted is over.
    pub(crate) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::Path(from, to) => self.context.network.unblock(from, to),
            Heal::Host(host) => {
                for other in self.hosts() {
                    self.context.network.unblock(host, other);
                    self.context.network.unblock(other, host);
                }
            }
            Heal::Speed(host) => self.context.network.speed_up(host),
            Heal::Loss if self.context.healing => {}
            Heal::Loss => (self.context.network.loss, self.context.network.doubling) = (2, 5),
            Heal::Store => self.context.network.store_out = false,
            Heal::Disk(index) => self.bookies[index].flush = FAST,
            Heal::Writable(index) => {
                self.bookies[index].set_writable(true, &mut self.context);
            }
            Heal::Elect => self.elect(),
        }
    }

    /// The coordinator gives the chain to somebody when nobody has it.
    fn elect(&mut self) {
        self.heal_after(300 * MS, Heal::Elect);
        if self.brokers.iter().any(crate::broker::Broker::is_active) {
            return;
        }
        let running = (0..BROKERS).filter(|index| self.brokers[*index].is_running());
        if let Some(broker) = self.context.dice.pick_any(running)
            && (!self.context.healing || self.has_open_ledger())
        {
            self.brokers[broker].take_over(&mut self.context);
        }
    }
}
