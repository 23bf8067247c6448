//! Several etcd members that are one store, each on a host of its own. Each can be killed, paused and started again on its data.

use std::path::Path;

use crate::etcd::{args, tls_flags, wait_healthy};
use crate::{Authority, Host, Pair, Process, http};

/// See the [module](self).
#[derive(Debug)]
pub struct EtcdMembers(Vec<Member>);

#[derive(Debug)]
struct Member {
    process: Process,
    /// Where clients connect, `HOST:PORT`.
    endpoint: String,
    /// Where it says in plain text how it is, `HOST:PORT`.
    health: String,
}

impl EtcdMembers {
    /// Starts one on each host, `etcd-1` and so on, with their files in `dir`, and waits until all are healthy.
    ///
    /// # Panics
    /// When one cannot be started.
    pub fn start(hosts: &[Host], dir: &Path) -> Self {
        Self::launch(hosts, dir, None)
    }

    /// [`Self::start`] with TLS between members and with clients, who have to show certificates of that authority, too.
    ///
    /// # Panics
    /// When one cannot be started.
    pub fn start_tls(hosts: &[Host], dir: &Path, authority: &Authority) -> Self {
        Self::launch(hosts, dir, Some(authority))
    }

    fn launch(hosts: &[Host], dir: &Path, authority: Option<&Authority>) -> Self {
        let names: Vec<String> = (1..=hosts.len()).map(|n| format!("etcd-{n}")).collect();
        let peers: Vec<String> = hosts.iter().map(Host::address).collect();
        let all: Vec<(&str, &str)> =
            names.iter().zip(&peers).map(|(name, peer)| (name.as_str(), peer.as_str())).collect();
        let start = |(host, &(name, peer)): (&Host, &(&str, &str))| {
            let endpoint = host.address();
            let scheme = if authority.is_some() { "https" } else { "http" };
            let urls = (&*format!("{scheme}://{endpoint}"), scheme);
            let mut args = args(name, &dir.join(name), urls, peer, &all);
            let mut health = endpoint.clone();
            if let Some(authority) = authority {
                let (ca, pair): (_, Pair) = (authority.ca(), authority.issue());
                args.extend(["", "peer-"].iter().flat_map(|of| tls_flags(of, &ca, &pair)));
                health = host.address();
                args.push(format!("--listen-metrics-urls=http://{health}"));
            }
            let (program, before) = host.command(Path::new("etcd"));
            let args = before.into_iter().chain(args.into_iter().map(Into::into));
            Member { process: Process::start(name, &program, args, dir), endpoint, health }
        };
        let mut members = Self(hosts.iter().zip(&all).map(start).collect());
        members.wait_healthy();
        members
    }

    /// Where clients connect, `HOST:PORT` of each.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|member| member.endpoint.as_str())
    }

    /// The member that leads, as it says itself; `None` when none does. One that is paused keeps this waiting for some seconds.
    pub fn leader(&self) -> Option<usize> {
        self.0.iter().position(|member| {
            let metrics = http::get(&member.health, "/metrics");
            let leads = |line: &str| line == "etcd_server_is_leader 1";
            metrics.is_some_and(|(status, body)| status == 200 && body.lines().any(leads))
        })
    }

    /// The processes, in the order of the hosts.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.0.iter_mut().map(|member| &mut member.process)
    }

    /// The process of one.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn process(&mut self, index: usize) -> &mut Process {
        &mut self.0[index].process
    }

    /// Waits until all can take writes.
    ///
    /// # Panics
    /// When one ends, or does not get healthy in time.
    pub fn wait_healthy(&mut self) {
        for Member { process, health, .. } in &mut self.0 {
            wait_healthy(process, health);
        }
    }
}
