//! The cluster under test: processes, and a proxy on each way between them.
//!
//! ```text
//! clients, brokers ── front of a broker ──▶ broker ── its own ways ──▶ members of etcd
//! brokers ─────────── front of a bookie ──▶ bookie ── its own ways ──▶ members of etcd
//! ```
//!
//! One thread owns it. A process that ends by itself is noted and started again, as a supervisor would.

mod damage;

use std::path::Path;

use anyhow::Result;
use geminga_harness::{EtcdMembers, Host, Node, http, wait};
use geminga_runtime::Tasks;

use crate::fault::Target;
use crate::layout::{Layout, Spot};
use crate::proxy::Proxy;

pub(crate) use damage::{Damage, Felt};

/// A node behind its proxies.
#[derive(Debug)]
struct Member {
    node: Node,
    /// What others connect to.
    front: Proxy,
    /// What it reaches each member of the metadata store through.
    stores: Vec<Proxy>,
    /// It was asked to stop, so that its end is no surprise.
    stopping: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cluster {
    layout: Layout,
    brokers: Vec<Member>,
    bookies: Vec<Member>,
    etcd: EtcdMembers,
    /// Processes that ended by themselves.
    pub(crate) ended: u64,
}

/// What every node is started among.
struct Setting<'a> {
    layout: &'a Layout,
    etcd: &'a EtcdMembers,
    seed: u64,
    dir: &'a Path,
    tasks: &'a Tasks,
}

impl Setting<'_> {
    async fn member(
        &self,
        start: fn(&Host, &str, &str, &str, &Path, &[String]) -> Node,
        target: Target,
        spot: &Spot,
        flag: &str,
    ) -> Result<Member> {
        let address = spot.host.address();
        let front = Proxy::start(spot.front, &address, self.seed, self.tasks).await?;
        let mut stores = Vec::new();
        for (etcd, endpoint) in self.layout.etcds.iter().zip(self.etcd.endpoints()) {
            stores.push(Proxy::start(etcd.front, endpoint, !self.seed, self.tasks).await?);
        }
        let endpoints: Vec<&str> = stores.iter().map(Proxy::address).collect();
        let metastore = format!("etcd://{}/chaos", endpoints.join(","));
        let more = [flag.to_owned(), format!("--advertise={}", front.address())];
        let name = target.to_string();
        let node = start(&spot.host, &name, &address, &metastore, self.dir, &more);
        Ok(Member { node, front, stores, stopping: false })
    }
}

impl Cluster {
    /// Starts all processes, with their files in `dir`; waits for etcd only.
    pub(crate) async fn start(
        layout: Layout,
        seed: u64,
        dir: &Path,
        tasks: &Tasks,
    ) -> Result<Self> {
        let hosts: Vec<Host> = layout.etcds.iter().map(|spot| spot.host.clone()).collect();
        let files = dir.to_owned();
        let etcd = tokio::task::spawn_blocking(move || EtcdMembers::start(&hosts, &files)).await?;
        let setting = Setting { layout: &layout, etcd: &etcd, seed, dir, tasks };
        let (mut brokers, mut bookies) = (Vec::new(), Vec::new());
        for (number, spot) in layout.bookies.iter().enumerate() {
            let (target, flag) = (Target::Bookie(number), "--auto-heal=false");
            bookies.push(setting.member(Node::bookie, target, spot, flag).await?);
        }
        for (number, spot) in layout.brokers.iter().enumerate() {
            let (target, flag) = (Target::Broker(number), "--drain-timeout=3");
            brokers.push(setting.member(Node::broker, target, spot, flag).await?);
        }
        Ok(Self { layout, brokers, bookies, etcd, ended: 0 })
    }

    /// Where clients connect: all brokers, through their proxies.
    pub(crate) fn servers(&self) -> String {
        let addresses: Vec<&str> = self.brokers.iter().map(|b| b.front.address()).collect();
        addresses.join(",")
    }

    /// Where Kafka clients connect: all brokers, without a proxy between.
    pub(crate) fn kafka_servers(&self) -> String {
        let addresses = self.brokers.iter().filter_map(|broker| broker.node.kafka.as_deref());
        addresses.collect::<Vec<_>>().join(",")
    }

    fn nodes(&self) -> impl Iterator<Item = &Member> {
        self.brokers.iter().chain(&self.bookies)
    }

    fn find(&mut self, target: Target) -> Option<&mut Member> {
        match target {
            Target::Broker(index) => self.brokers.get_mut(index),
            Target::Bookie(index) => self.bookies.get_mut(index),
            Target::Leader | Target::Follower(_) | Target::Store | Target::Clients => None,
        }
    }

    /// Waits until all are ready, and starts again what ends meanwhile: one may have been on its start when etcd was away. Blocks.
    ///
    /// # Panics
    /// When one does not get ready in time.
    pub(crate) fn wait_ready(&mut self) {
        wait::until("all to be ready", || {
            self.revive();
            self.nodes().all(|member| http::is_ready(&member.node.http)).then_some(())
        });
    }

    /// Starts again what ended by itself; says who.
    pub(crate) fn revive(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        let nodes = self.brokers.iter_mut().chain(&mut self.bookies);
        let nodes = nodes.filter(|member| !member.stopping).map(|m| &mut m.node.process);
        for process in nodes.chain(self.etcd.processes()) {
            if !process.is_stopped() && !process.is_running() {
                // Takes its exit status.
                process.kill();
                process.restart();
                ended.push(process.name().to_owned());
            }
        }
        self.ended += ended.len() as u64;
        ended
    }
}
