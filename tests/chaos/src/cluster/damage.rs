//! Faults as they are done to the cluster, and what shows that each was felt and not only done.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use geminga_harness::{Host, Process, is_held};

use super::{Cluster, Member};
use crate::fault::{Fault, Target};
use crate::network::{Network, Way};
use crate::proxy::Link;

/// The longest that a slow way holds bytes up.
const SLOW: Duration = Duration::from_millis(150);

/// A fault that lasts.
#[derive(Debug)]
pub(crate) struct Damage {
    fault: Fault,
    /// Who led the metadata store when it began.
    leader: usize,
    /// What had been counted by then.
    before: u64,
}

/// What shows that a fault was felt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Felt {
    /// How often; 0: nobody noticed.
    pub(crate) times: u64,
    /// What was counted.
    pub(crate) what: &'static str,
}

impl Cluster {
    /// Lets something go wrong. May block for as long as a signal takes, or the question who leads.
    ///
    /// # Errors
    /// When it cannot be done here.
    pub(crate) fn begin(&mut self, fault: Fault) -> Result<Damage> {
        let one = |target: &Target| matches!(target, Target::Leader | Target::Follower(_));
        let leads = fault.targets().iter().any(one);
        let leader = if leads { self.etcd.leader().unwrap_or(0) } else { 0 };
        let mut damage = Damage { fault, leader, before: 0 };
        damage.before = match fault {
            Fault::Kill(_) | Fault::Outage => {
                let kill = |process: &mut Process| {
                    let ran = process.is_running();
                    process.kill();
                    u64::from(ran)
                };
                self.processes(&damage).into_iter().map(kill).sum()
            }
            Fault::Stop(target) => {
                let member = self.member_of(target)?;
                member.stopping = true;
                member.node.process.ask_to_stop();
                0
            }
            Fault::Pause(_) => {
                self.processes(&damage).iter().for_each(|process| process.pause());
                0
            }
            Fault::Cut(_) | Fault::Silence(_) | Fault::Slow(_) | Fault::NoStore(_) => {
                let before = self.felt_by_proxies(&damage)?;
                self.set_links(&damage, damage.link())?;
                before
            }
            Fault::Apart(..) | Fault::OneWay(..) => {
                self.network()?.part(&self.ways(&damage))?;
                0
            }
            Fault::Alone(target) => {
                self.network()?.vanish(self.host(target, &damage)?)?;
                0
            }
            Fault::Lossy(target) => {
                let lost = self.network()?.lost()?;
                self.network()?.lose(self.host(target, &damage)?)?;
                lost
            }
            Fault::Narrow(target) => {
                self.network()?.narrow(self.host(target, &damage)?)?;
                0
            }
            Fault::Late(target) => {
                self.network()?.delay(self.host(target, &damage)?)?;
                0
            }
        };
        Ok(damage)
    }

    /// Ends what [`Cluster::begin`] began. Blocks until etcd is healthy, when all of that was gone, or until a process that was asked
    /// to stop has.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub(crate) fn end(&mut self, damage: &Damage) -> Result<Felt> {
        let (times, what) = match damage.fault {
            Fault::Kill(Target::Store) | Fault::Outage => {
                self.etcd.processes().for_each(start_again);
                self.etcd.wait_healthy();
                self.processes(damage).into_iter().for_each(start_again);
                (damage.before, "killed")
            }
            Fault::Kill(_) => {
                self.processes(damage).into_iter().for_each(start_again);
                (damage.before, "killed")
            }
            Fault::Stop(target) => {
                let member = self.member_of(target)?;
                let ended = member.node.process.wait();
                member.stopping = false;
                start_again(&mut member.node.process);
                (u64::from(ended.success()), "ended when asked")
            }
            Fault::Pause(_) => {
                let resume = |process: &mut Process| {
                    let held = is_held(process.id());
                    process.resume();
                    u64::from(held)
                };
                (self.processes(damage).into_iter().map(resume).sum(), "held")
            }
            Fault::Cut(_) | Fault::Silence(_) | Fault::Slow(_) | Fault::NoStore(_) => {
                let felt = self.felt_by_proxies(damage)? - damage.before;
                self.set_links(damage, Link::Open)?;
                (felt, "connections and chunks")
            }
            Fault::Apart(..) | Fault::OneWay(..) => {
                (self.network()?.join(&self.ways(damage))?, "packets dropped")
            }
            Fault::Alone(target) => {
                (self.network()?.appear(self.host(target, damage)?)?, "packets dropped")
            }
            Fault::Lossy(target) => {
                self.network()?.keep(self.host(target, damage)?)?;
                (self.network()?.lost()? - damage.before, "packets lost")
            }
            Fault::Narrow(target) | Fault::Late(target) => {
                (self.network()?.widen(self.host(target, damage)?)?, "packets held up")
            }
        };
        Ok(Felt { times, what })
    }

    fn network(&self) -> Result<&Network> {
        self.layout.network.as_ref().context("this run has no network of its own")
    }

    fn host(&self, target: Target, damage: &Damage) -> Result<&Host> {
        self.layout.host(target, damage.leader).with_context(|| format!("{target} has no host"))
    }

    fn member_of(&mut self, target: Target) -> Result<&mut Member> {
        self.find(target).with_context(|| format!("{target} is no node"))
    }

    /// The processes that signals of this fault go to.
    fn processes(&mut self, damage: &Damage) -> Vec<&mut Process> {
        let Some(target) = damage.fault.targets().first().copied() else {
            let nodes = self.brokers.iter_mut().chain(&mut self.bookies);
            return nodes.map(|m| &mut m.node.process).chain(self.etcd.processes()).collect();
        };
        match target {
            Target::Store => self.etcd.processes().collect(),
            _ => match self.layout.etcd(target, damage.leader) {
                Some(index) => vec![self.etcd.process(index)],
                None => self.find(target).map(|m| &mut m.node.process).into_iter().collect(),
            },
        }
    }

    /// The proxies that this fault is done with.
    fn set_links(&mut self, damage: &Damage, link: Link) -> Result<()> {
        let member = self.faulted(damage)?;
        match damage.fault {
            Fault::NoStore(_) => member.stores.iter().for_each(|store| store.set(link)),
            _ => member.front.set(link),
        }
        Ok(())
    }

    fn felt_by_proxies(&mut self, damage: &Damage) -> Result<u64> {
        let member = self.faulted(damage)?;
        Ok(match damage.fault {
            Fault::NoStore(_) => member.stores.iter().map(crate::proxy::Proxy::felt).sum(),
            _ => member.front.felt(),
        })
    }

    fn faulted(&mut self, damage: &Damage) -> Result<&mut Member> {
        match damage.fault.targets().first() {
            Some(target) => self.member_of(*target),
            None => bail!("{} is done to nobody in particular", damage.fault),
        }
    }

    fn ways(&self, damage: &Damage) -> Vec<Way> {
        let ways = |from, to| self.layout.ways(from, to, damage.leader);
        match damage.fault {
            Fault::OneWay(from, to) => ways(from, to),
            Fault::Apart(one, other) => [ways(one, other), ways(other, one)].concat(),
            _ => Vec::new(),
        }
    }
}

impl Damage {
    fn link(&self) -> Link {
        match self.fault {
            Fault::Cut(_) => Link::Cut,
            Fault::Slow(_) => Link::Slow(SLOW),
            _ => Link::Silent,
        }
    }
}

fn start_again(process: &mut Process) {
    if process.is_stopped() {
        process.restart();
    }
}
