//! What can go wrong, and with whom.

use std::fmt;

/// How many of each there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Storage nodes.
    pub bookies: usize,
    /// Serving nodes.
    pub brokers: usize,
    /// Members of the metadata store.
    pub etcds: usize,
    /// Hosts that clients run on.
    pub clients: usize,
}

/// Who something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The broker with this index.
    Broker(usize),
    /// The bookie with this index.
    Bookie(usize),
    /// The member of the metadata store that leads when it happens.
    Leader,
    /// One that does not lead then: so many after the leader.
    Follower(usize),
    /// All members of the metadata store.
    Store,
    /// All clients, wherever they run.
    Clients,
}

impl Target {
    /// What it is, whichever of them.
    fn class(self) -> &'static str {
        match self {
            Self::Broker(_) => "broker",
            Self::Bookie(_) => "bookie",
            Self::Leader => "etcd leader",
            Self::Follower(_) => "follower",
            Self::Store => "store",
            Self::Clients => "clients",
        }
    }

    /// How far it is from those who use the cluster. Who is nearer needs who is farther.
    fn rank(self) -> u8 {
        match self {
            Self::Clients => 0,
            Self::Broker(_) => 1,
            Self::Bookie(_) => 2,
            Self::Leader | Self::Follower(_) | Self::Store => 3,
        }
    }

    /// Whether it is of the metadata store.
    pub(crate) fn is_etcd(self) -> bool {
        matches!(self, Self::Leader | Self::Follower(_) | Self::Store)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broker(n) | Self::Bookie(n) | Self::Follower(n) => {
                write!(f, "{}-{}", self.class(), n + 1)
            }
            Self::Leader | Self::Store | Self::Clients => f.write_str(self.class()),
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and started again at the end.
    Kill(Target),
    /// SIGTERM, and started again at the end.
    Stop(Target),
    /// SIGSTOP, and SIGCONT at the end.
    Pause(Target),
    /// Connections to it break, and no new one is accepted.
    Cut(Target),
    /// Nothing comes through to it or from it, and connections stay.
    Silence(Target),
    /// Bytes to it and from it are held up, each connection's by itself.
    Slow(Target),
    /// It is cut off from the metadata store, and from nothing else.
    NoStore(Target),
    /// Packets between both are dropped, in both directions.
    Apart(Target, Target),
    /// Packets from the one to the other are dropped; those back arrive.
    OneWay(Target, Target),
    /// All packets from and to it are dropped: its machine vanishes.
    Alone(Target),
    /// Some packets from and to it are dropped.
    Lossy(Target),
    /// What it sends has little bandwidth: packets wait, then are dropped.
    Narrow(Target),
    /// What it sends takes longer, each packet as long as it likes, so that some are overtaken.
    Late(Target),
    /// Everything is killed with -9, at once.
    Outage,
}

impl Fault {
    fn verb(self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Stop(_) => "stop",
            Self::Pause(_) => "pause",
            Self::Cut(_) => "cut",
            Self::Silence(_) => "silence",
            Self::Slow(_) => "slow",
            Self::NoStore(_) => "no store",
            Self::Apart(..) => "partition",
            Self::OneWay(..) => "one way",
            Self::Alone(_) => "alone",
            Self::Lossy(_) => "lossy",
            Self::Narrow(_) => "narrow",
            Self::Late(_) => "late",
            Self::Outage => "outage",
        }
    }

    /// What it is whoever it happens to: faults of one kind are counted together.
    pub fn kind(self) -> String {
        let verb = self.verb();
        match self {
            Self::Kill(target) | Self::Stop(target) | Self::Pause(target) | Self::Alone(target) => {
                format!("{verb} {}", target.class())
            }
            Self::Apart(one, other) | Self::OneWay(one, other) => {
                // Whichever way.
                let mut both = [one, other];
                both.sort_by_key(|target| (target.rank(), target.class()));
                let [one, other] = both.map(Target::class);
                format!("{verb} {one}, {other}")
            }
            _ => verb.to_owned(),
        }
    }

    /// Whom it is about; nobody in particular: everybody.
    pub fn targets(self) -> Vec<Target> {
        match self {
            Self::Kill(target)
            | Self::Stop(target)
            | Self::Pause(target)
            | Self::Cut(target)
            | Self::Silence(target)
            | Self::Slow(target)
            | Self::NoStore(target)
            | Self::Alone(target)
            | Self::Lossy(target)
            | Self::Narrow(target)
            | Self::Late(target) => vec![target],
            Self::Apart(one, other) | Self::OneWay(one, other) => vec![one, other],
            Self::Outage => Vec::new(),
        }
    }

    /// Who is worse off while it lasts: of two that are cut off from each other, those that need the other. Nobody in
    /// particular: everybody.
    pub fn weakens(self) -> Vec<Target> {
        let targets = self.targets();
        let least = targets.iter().map(|target| target.rank()).min();
        targets.into_iter().filter(|target| Some(target.rank()) == least).collect()
    }

    /// Whether whoever it is about serves on, if badly.
    pub(crate) fn is_mild(self) -> bool {
        matches!(self, Self::Slow(_) | Self::Lossy(_) | Self::Narrow(_) | Self::Late(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.verb();
        match self {
            Self::NoStore(target) => write!(f, "{verb} for {target}"),
            Self::Apart(one, other) => write!(f, "{verb} {one} from {other}"),
            Self::OneWay(from, to) => write!(f, "{verb}: nothing from {from} to {to}"),
            Self::Outage => f.write_str(verb),
            other => match other.targets().first() {
                Some(target) => write!(f, "{verb} {target}"),
                None => f.write_str(verb),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_says_what_and_whom_in_general() {
        use Target::{Bookie, Broker, Clients, Leader, Store};
        assert_eq!(Fault::Kill(Leader).kind(), "kill etcd leader");
        assert_eq!(Fault::Cut(Bookie(1)).kind(), "cut");
        // Both directions are of one kind.
        let both = [Fault::OneWay(Broker(0), Bookie(1)), Fault::OneWay(Bookie(2), Broker(1))];
        assert_eq!(both.map(Fault::kind), ["one way broker, bookie", "one way broker, bookie"]);
        assert_eq!(Fault::OneWay(Store, Broker(0)).kind(), "one way broker, store");
        assert_eq!(Fault::Apart(Broker(0), Clients).kind(), "partition clients, broker");
        let text = Fault::OneWay(Clients, Broker(1)).to_string();
        assert_eq!(text, "one way: nothing from clients to broker-2");
    }
}
