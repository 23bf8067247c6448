//! Who is where: in a network of the run's own where there is one, else all on this machine.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use anyhow::Result;
use geminga_harness::Host;

use crate::fault::{Sizes, Target};
use crate::network::{Network, Way};
use crate::schedule::Means;

/// Where a server is.
#[derive(Debug)]
pub(crate) struct Spot {
    pub(crate) host: Host,
    /// Where the proxies in front of it are, which everybody connects to.
    pub(crate) front: Ipv4Addr,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) network: Option<Network>,
    pub(crate) brokers: Vec<Spot>,
    pub(crate) bookies: Vec<Spot>,
    pub(crate) etcds: Vec<Spot>,
    pub(crate) clients: Vec<Host>,
}

impl Layout {
    /// Gives everybody a place. Blocks.
    ///
    /// # Errors
    /// When a network was asked for and cannot be made.
    pub(crate) fn new(sizes: Sizes) -> Result<Self> {
        let mut network = Network::new()?;
        let mut spots = |name: &str, count: usize| {
            let spot = |number| match &mut network {
                Some(network) => {
                    let host = network.host(&format!("{name}-{number}"))?;
                    Ok(Spot { host, front: network.front()? })
                }
                None => Ok(Spot { host: Host::here(), front: Host::here().ip() }),
            };
            (1..=count).map(spot).collect::<Result<Vec<Spot>>>()
        };
        let brokers = spots("broker", sizes.brokers)?;
        let bookies = spots("bookie", sizes.bookies)?;
        let etcds = spots("etcd", sizes.etcds)?;
        let client = |number| match &mut network {
            Some(network) => network.host(&format!("client-{number}")),
            None => Ok(Host::here()),
        };
        let clients = (1..=sizes.clients).map(client).collect::<Result<_>>()?;
        Ok(Self { network, brokers, bookies, etcds, clients })
    }

    /// What can be done to packets here.
    pub(crate) fn means(&self) -> Means {
        match &self.network {
            Some(network) => Means { packets: true, netem: network.netem },
            None => Means { packets: false, netem: false },
        }
    }

    /// The index of the member of etcd that this is, when that one leads.
    pub(crate) fn etcd(&self, target: Target, leader: usize) -> Option<usize> {
        match target {
            Target::Leader => Some(leader),
            Target::Follower(number) => Some((leader + 1 + number) % self.etcds.len()),
            _ => None,
        }
    }

    /// The host of one of the servers.
    pub(crate) fn host(&self, target: Target, leader: usize) -> Option<&Host> {
        let spot = match target {
            Target::Broker(index) => self.brokers.get(index),
            Target::Bookie(index) => self.bookies.get(index),
            other => self.etcd(other, leader).and_then(|index| self.etcds.get(index)),
        };
        spot.map(|spot| &spot.host)
    }

    /// All ways that packets go from one to the other: straight, or with a proxy between that stands in front of either, whichever of
    /// them connected.
    pub(crate) fn ways(&self, from: Target, to: Target, leader: usize) -> Vec<Way> {
        let mut ways = BTreeSet::new();
        for (host, front) in self.ends(from, leader) {
            for (other_host, other_front) in self.ends(to, leader) {
                ways.insert((host, other_host));
                ways.extend(other_front.map(|other_front| (host, other_front)));
                ways.extend(front.map(|front| (front, other_host)));
            }
        }
        ways.into_iter().collect()
    }

    fn ends(&self, target: Target, leader: usize) -> Vec<(Ipv4Addr, Option<Ipv4Addr>)> {
        let of_spot = |spot: &Spot| (spot.host.ip(), Some(spot.front));
        match target {
            Target::Broker(index) => self.brokers.get(index).map(of_spot).into_iter().collect(),
            Target::Bookie(index) => self.bookies.get(index).map(of_spot).into_iter().collect(),
            Target::Store => self.etcds.iter().map(of_spot).collect(),
            Target::Clients => self.clients.iter().map(|host| (host.ip(), None)).collect(),
            Target::Leader | Target::Follower(_) => {
                let index = self.etcd(target, leader);
                index.and_then(|index| self.etcds.get(index)).map(of_spot).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let ip = |kind, number| Ipv4Addr::new(10, 0, kind, number);
        let spots = |kind, count| {
            let spot = |n| Spot { host: Host::within("x", ip(kind, n)), front: ip(kind + 100, n) };
            (1..=count).map(spot).collect()
        };
        Layout {
            network: None,
            brokers: spots(1, 2),
            bookies: spots(2, 1),
            etcds: spots(3, 3),
            clients: vec![Host::within("c", ip(4, 1))],
        }
    }

    #[test]
    fn nothing_passes_between_two_whoever_connected() {
        let layout = layout();
        let ip = |kind, number| Ipv4Addr::new(10, 0, kind, number);
        // To the other, to what stands before it, and what answers it in one's own name.
        let ways = layout.ways(Target::Broker(0), Target::Broker(1), 0);
        assert_eq!(ways, [(ip(1, 1), ip(1, 2)), (ip(1, 1), ip(101, 2)), (ip(101, 1), ip(1, 2))]);
        // A client has nothing before it.
        let ways = layout.ways(Target::Clients, Target::Broker(0), 0);
        assert_eq!(ways, [(ip(4, 1), ip(1, 1)), (ip(4, 1), ip(101, 1))]);
        assert_eq!(layout.ways(Target::Bookie(0), Target::Store, 0).len(), 9);
    }

    #[test]
    fn followers_are_counted_from_the_leader() {
        let layout = layout();
        assert_eq!(layout.etcd(Target::Leader, 2), Some(2));
        assert_eq!([0, 1].map(|n| layout.etcd(Target::Follower(n), 2)), [Some(0), Some(1)]);
        assert_eq!(layout.etcd(Target::Store, 2), None);
        assert_eq!(layout.host(Target::Leader, 1), Some(&layout.etcds[1].host));
    }
}
