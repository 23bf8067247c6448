//! The cluster under test: processes, and a proxy on each way between them.
//!
//! ```text
//! clients, brokers ── front of a broker ──▶ broker ── its own way ──▶ etcd
//! brokers ─────────── front of a bookie ──▶ bookie ── its own way ──▶ etcd
//! ```
//!
//! One thread owns it. A process that ends by itself is noted and started again, as a supervisor would.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use geminga_harness::{Etcd, Node, Process, port};
use geminga_runtime::Tasks;

use crate::proxy::{Link, Proxy};
use crate::schedule::{Fault, Sizes, Target};

/// The longest that a slow way holds bytes up.
const SLOW: Duration = Duration::from_millis(150);

/// A node behind its proxies.
#[derive(Debug)]
struct Member {
    node: Node,
    /// What others connect to.
    front: Proxy,
    /// What it reaches the metadata store through.
    store: Proxy,
    /// It was asked to stop, so that its end is no surprise.
    stopping: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cluster {
    brokers: Vec<Member>,
    bookies: Vec<Member>,
    etcd: Etcd,
    /// Processes that ended by themselves.
    pub(crate) ended: u64,
}

impl Cluster {
    /// Starts all processes, with their files in `dir`; does not wait for them.
    pub(crate) async fn start(sizes: Sizes, seed: u64, dir: &Path, tasks: &Tasks) -> Result<Self> {
        let etcd = tokio::task::spawn_blocking(Etcd::start).await?;
        let mut cluster = Self { brokers: Vec::new(), bookies: Vec::new(), etcd, ended: 0 };
        for number in 0..sizes.bookies {
            let name = Target::Bookie(number).to_string();
            let more = ["--auto-heal=false".to_owned()];
            let member = cluster.member(Node::bookie, &name, &more, dir, seed, tasks).await?;
            cluster.bookies.push(member);
        }
        for number in 0..sizes.brokers {
            let name = Target::Broker(number).to_string();
            let more = ["--drain-timeout=3".to_owned()];
            let member = cluster.member(Node::broker, &name, &more, dir, seed, tasks).await?;
            cluster.brokers.push(member);
        }
        Ok(cluster)
    }

    async fn member(
        &self,
        start: impl FnOnce(&str, &str, &str, &Path, &[String]) -> Node,
        name: &str,
        more: &[String],
        dir: &Path,
        seed: u64,
        tasks: &Tasks,
    ) -> Result<Member> {
        let address = port::free_address();
        let front = Proxy::start(&address, seed, tasks).await?;
        let store = Proxy::start(self.etcd.endpoint(), !seed, tasks).await?;
        let metastore = format!("etcd://{}/chaos", store.address());
        let more = [more, &[format!("--advertise={}", front.address())]].concat();
        let node = start(name, &address, &metastore, dir, &more);
        Ok(Member { node, front, store, stopping: false })
    }

    /// Where clients connect: all brokers, through their proxies.
    pub(crate) fn servers(&self) -> String {
        let addresses: Vec<&str> = self.brokers.iter().map(|b| b.front.address()).collect();
        addresses.join(",")
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.brokers.iter_mut().chain(&mut self.bookies)
    }

    fn find(&mut self, target: Target) -> Option<&mut Member> {
        match target {
            Target::Broker(index) => self.brokers.get_mut(index),
            Target::Bookie(index) => self.bookies.get_mut(index),
            Target::Etcd => None,
        }
    }

    /// Waits until all are ready. Blocks.
    ///
    /// # Errors
    /// When one does not get ready.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        for member in self.all() {
            let process = &mut member.node.process;
            ensure!(process.is_running(), "{} ended instead of getting ready", process.name());
            member.node.wait_ready();
        }
        Ok(())
    }

    /// Starts again what ended by itself; says who.
    pub(crate) fn revive(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for member in self.all() {
            let process = &mut member.node.process;
            if !member.stopping && !process.is_stopped() && !process.is_running() {
                // Takes its exit status.
                process.kill();
                process.restart();
                ended.push(process.name().to_owned());
            }
        }
        self.ended += ended.len() as u64;
        ended
    }

    /// Lets something go wrong. May block for as long as a signal takes.
    pub(crate) fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::Outage => {
                self.all().for_each(|member| member.node.process.kill());
                self.etcd.kill();
            }
            Fault::Kill(Target::Etcd) => self.etcd.kill(),
            Fault::Pause(Target::Etcd) => self.etcd.pause(),
            _ => {
                let Some(member) = fault.target().and_then(|target| self.find(target)) else {
                    return;
                };
                match fault {
                    Fault::Kill(_) => member.node.process.kill(),
                    Fault::Stop(_) => {
                        member.stopping = true;
                        member.node.process.ask_to_stop();
                    }
                    Fault::Pause(_) => member.node.process.pause(),
                    Fault::Cut(_) => member.front.set(Link::Cut),
                    Fault::Silence(_) => member.front.set(Link::Silent),
                    Fault::Slow(_) => member.front.set(Link::Slow(SLOW)),
                    Fault::NoStore(_) => member.store.set(Link::Silent),
                    Fault::Outage => {}
                }
            }
        }
    }

    /// Ends what [`Cluster::begin`] began. Blocks until etcd is healthy, when that was gone, or until a process that was asked
    /// to stop has.
    pub(crate) fn end(&mut self, fault: Fault) {
        match fault {
            Fault::Outage => {
                self.etcd.restart();
                self.all().for_each(|member| start_again(&mut member.node.process));
            }
            Fault::Kill(Target::Etcd) => self.etcd.restart(),
            Fault::Pause(Target::Etcd) => self.etcd.resume(),
            _ => {
                let Some(member) = fault.target().and_then(|target| self.find(target)) else {
                    return;
                };
                match fault {
                    Fault::Kill(_) => start_again(&mut member.node.process),
                    Fault::Stop(_) => {
                        member.node.process.wait();
                        member.stopping = false;
                        start_again(&mut member.node.process);
                    }
                    Fault::Pause(_) => member.node.process.resume(),
                    Fault::Cut(_) | Fault::Silence(_) | Fault::Slow(_) => {
                        member.front.set(Link::Open);
                    }
                    Fault::NoStore(_) => member.store.set(Link::Open),
                    Fault::Outage => {}
                }
            }
        }
    }
}

fn start_again(process: &mut Process) {
    if process.is_stopped() {
        process.restart();
    }
}
